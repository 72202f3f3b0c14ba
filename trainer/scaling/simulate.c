#include "trainer/scaling/simulate.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "trainer/scaling/goodput.h"

/* --- The trace as segments of computation ----------------------------------------------------- */

typedef enum SegmentEnd { END_ALL_REDUCE, END_WAIT, END_STEP } SegmentEnd;

/* Computation up to the next event of a rank. */
typedef struct Segment {
  double work; /* seconds of a rank with factor 1, without interference */
  SegmentEnd end;
} Segment;

typedef struct SegmentList {
  int count, capacity;
  Segment *segments;
  int reduces, reduce_capacity;
  double *reduce_seconds; /* of each all-reduce */
} SegmentList;

static void add_segment(SegmentList *list, double *work, SegmentEnd end) {
  MEM_PUSH_SLOT(list->segments, list->count, list->capacity);
  list->segments[list->count++] = (Segment){*work, end};
  *work = 0;
}

static void free_segments(SegmentList *list) {
  free(list->segments);
  free(list->reduce_seconds);
}

static SegmentList make_segments(const Cluster *cluster, const StepTrace *trace, int ranks) {
  SegmentList list = {0};
  double work = cluster->step.host_ms * 1e-3;
  for (int i = 0; i < trace->count; i++) {
    const TraceOp *op = &trace->ops[i];
    if (ranks > 1 && op->waits) add_segment(&list, &work, END_WAIT);
    work += cluster_op_seconds(cluster, trace, op, ranks);
    if (ranks == 1 || op->reduces <= 0) continue;
    add_segment(&list, &work, END_ALL_REDUCE);
    MEM_PUSH_SLOT(list.reduce_seconds, list.reduces, list.reduce_capacity);
    list.reduce_seconds[list.reduces++] = cluster_all_reduce_seconds(cluster, ranks, op->reduces);
    if (!trace->overlap) add_segment(&list, &work, END_WAIT);
  }
  add_segment(&list, &work, END_WAIT);
  add_segment(&list, &work, END_STEP);
  return list;
}

/* --- Ranks ------------------------------------------------------------------------------------ */

typedef struct RankState {
  double factor;           /* of this step's computation times */
  int segment;             /* index of the current one */
  int started;             /* all-reduces it has reached */
  double began;            /* start of its segment or wait, seconds into the step */
  double computed, waited; /* seconds */
} RankState;

/* An entry in the heap of computing ranks: when the rank's segment ends on the clock of work, which
 * runs slower than time during an all-reduce. Ties are broken by rank. */
typedef struct WakeUp {
  double work;
  int rank;
} WakeUp;

typedef struct Simulator {
  const SegmentList *list;
  int count;
  RankState *ranks;
  int heap_count;
  WakeUp *heap;
  int waiting_count;
  int *waiting;        /* ranks that wait for all-reduces */
  int *arrived;        /* ranks that have reached each all-reduce */
  int done;            /* completed all-reduces */
  bool busy;           /* all-reduce number `done` is running */
  double channel_ends; /* when it completes */
  double now, work;    /* both clocks */
  double slow;         /* work a second while the channel is busy */
  double busy_seconds;
} Simulator;

static bool earlier(WakeUp a, WakeUp b) {
  return a.work < b.work || (a.work == b.work && a.rank < b.rank);
}

static void heap_push(Simulator *simulator, WakeUp item) {
  int place = simulator->heap_count++;
  while (place > 0 && earlier(item, simulator->heap[(place - 1) / 2])) {
    simulator->heap[place] = simulator->heap[(place - 1) / 2];
    place = (place - 1) / 2;
  }
  simulator->heap[place] = item;
}

static WakeUp heap_pop(Simulator *simulator) {
  WakeUp top = simulator->heap[0], last = simulator->heap[--simulator->heap_count];
  int place = 0;
  for (int child = 1; child < simulator->heap_count; child = 2 * place + 1) {
    if (child + 1 < simulator->heap_count &&
        earlier(simulator->heap[child + 1], simulator->heap[child]))
      child++;
    if (!earlier(simulator->heap[child], last)) break;
    simulator->heap[place] = simulator->heap[child];
    place = child;
  }
  simulator->heap[place] = last;
  return top;
}

static void begin_segment(Simulator *simulator, int rank) {
  RankState *state = &simulator->ranks[rank];
  state->began = simulator->now;
  double work = simulator->list->segments[state->segment].work * state->factor;
  heap_push(simulator, (WakeUp){simulator->work + work, rank});
}

/* Starts the next all-reduce in order if every rank has reached it. */
static void start_reduce(Simulator *simulator) {
  if (simulator->busy || simulator->done == simulator->list->reduces) return;
  if (simulator->arrived[simulator->done] < simulator->count) return;
  double seconds = simulator->list->reduce_seconds[simulator->done];
  simulator->busy = true;
  simulator->channel_ends = simulator->now + seconds;
  simulator->busy_seconds += seconds;
}

static void end_reduce(Simulator *simulator) {
  int kept = 0;
  simulator->busy = false;
  simulator->done++;
  for (int i = 0; i < simulator->waiting_count; i++) {
    int rank = simulator->waiting[i];
    RankState *state = &simulator->ranks[rank];
    if (state->started > simulator->done) {
      simulator->waiting[kept++] = rank;
      continue;
    }
    state->waited += simulator->now - state->began;
    state->segment++;
    begin_segment(simulator, rank);
  }
  simulator->waiting_count = kept;
  start_reduce(simulator);
}

static void end_segment(Simulator *simulator, int rank) {
  RankState *state = &simulator->ranks[rank];
  const Segment *segment = &simulator->list->segments[state->segment];
  state->computed += simulator->now - state->began;
  state->began = simulator->now;
  if (segment->end == END_STEP) return;
  if (segment->end == END_WAIT && state->started > simulator->done) {
    simulator->waiting[simulator->waiting_count++] = rank;
    return;
  }
  bool reduces = segment->end == END_ALL_REDUCE;
  state->segment++;
  begin_segment(simulator, rank);
  if (!reduces) return;
  simulator->arrived[state->started++]++;
  start_reduce(simulator);
}

/* Advances both clocks to the next event: the end of an all-reduce or of a rank's segment. */
static void next_event(Simulator *simulator) {
  double rate = simulator->busy ? simulator->slow : 1, at = HUGE_VAL;
  if (simulator->heap_count > 0)
    at = simulator->now + fmax(0, simulator->heap[0].work - simulator->work) / rate;
  if (simulator->busy && simulator->channel_ends <= at) {
    simulator->work += (simulator->channel_ends - simulator->now) * rate;
    simulator->now = simulator->channel_ends;
    end_reduce(simulator);
    return;
  }
  WakeUp wake_up = heap_pop(simulator);
  simulator->now = at;
  simulator->work = wake_up.work;
  end_segment(simulator, wake_up.rank);
}

/* --- Steps ------------------------------------------------------------------------------------ */

static double random_factor(const Cluster *cluster, uint64_t seed, int rank, int step) {
  double spread = cluster->step.spread, share = cluster->step.slow_share;
  if (spread <= 0 && share <= 0) return 1;
  Random random = random_stream(seed, RANDOM_SIMULATION, (uint64_t)rank, (uint32_t)step);
  double usual = exp(spread * (double)random_normal(&random) - spread * spread / 2);
  return random_uniform(&random) < share ? usual * (1 + cluster->step.slow_by) : usual;
}

/* Simulates one step from the common start of all ranks. Adds its times to `sums`, returns its
 * seconds. */
static double simulate_step(Simulator *simulator, const Cluster *cluster, uint64_t seed, int step,
                            SimulationResult *sums) {
  double mean = 0, waited = HUGE_VAL;
  simulator->now = simulator->work = 0;
  simulator->done = 0;
  simulator->busy = false;
  simulator->heap_count = simulator->waiting_count = 0;
  for (int k = 0; k < simulator->list->reduces; k++) simulator->arrived[k] = 0;
  for (int rank = 0; rank < simulator->count; rank++) {
    simulator->ranks[rank] = (RankState){.factor = random_factor(cluster, seed, rank, step)};
    begin_segment(simulator, rank);
  }
  while (simulator->heap_count > 0 || simulator->busy) next_event(simulator);
  for (int rank = 0; rank < simulator->count; rank++) {
    const RankState *state = &simulator->ranks[rank];
    mean += state->computed / simulator->count;
    waited = fmin(waited, state->waited);
  }
  double agreement = cluster_all_gather_seconds(cluster, simulator->count, sizeof(int64_t));
  sums->compute += mean;
  sums->straggling += fmax(0, simulator->now - waited - mean);
  sums->exposed += waited + agreement;
  return simulator->now + agreement;
}

/* Seconds in which the slowest node reads the clips of one step. */
static double read_seconds(const Cluster *cluster, const StepTrace *trace, int ranks) {
  double bytes = (double)trace->clips * trace->clip_bytes, seconds = 0;
  int nodes = cluster_nodes(cluster, ranks);
  if (cluster->storage.node_read > 0)
    seconds = bytes * ranks / nodes / (cluster->storage.node_read * 1e9);
  if (cluster->storage.read > 0)
    seconds = fmax(seconds, bytes * ranks / (cluster->storage.read * 1e9));
  return seconds;
}

/* Returns how long a step waits for its clips. They are prefetched for a fixed number of steps:
 * reading the clips of a step starts when the step that many before it has taken its own. */
static double wait_for_data(const StepTrace *trace, double reading, int step, double now,
                            double *taken, double *ready) {
  int ahead = (int)fmin(fmax(1, trace->batches_ahead), step + 1); /* beyond it nothing was taken */
  double room = step >= ahead ? taken[step - ahead] : 0;
  *ready = fmax(*ready, room) + reading;
  double wait = step > 0 ? fmax(0, *ready - now) : *ready;
  taken[step] = now + wait;
  return wait;
}

static void simulate_steps(Simulator *simulator, const Cluster *cluster, const StepTrace *trace,
                           const SimulationOptions *options, SimulationResult *sums) {
  double reading = read_seconds(cluster, trace, options->ranks), now = 0, ready = 0;
  double *taken = mem_new((size_t)options->steps, sizeof *taken);
  for (int step = 0; step < options->steps; step++) {
    double wait = wait_for_data(trace, reading, step, now, taken, &ready);
    double seconds = simulate_step(simulator, cluster, options->seed, step, sums);
    if (step > 0) sums->data += wait; /* the wait of the first step belongs to start-up */
    now += wait + seconds;
  }
  free(taken);
}

/* --- Checkpoints and failures ----------------------------------------------------------------- */

/* Adds the cost of checkpoints and failures. All ranks wait while a checkpoint is copied; it is
 * written in the background, and the next copy waits for that. A checkpoint that is being written
 * when a node fails is lost, so a failure costs, on average, the write time more. */
static void add_checkpoints(const Cluster *cluster, const StepTrace *trace,
                            SimulationResult *result) {
  double hours = cluster->failure.node_hours, every = trace->checkpoint_every;
  double copy = 0, write = 0, steps = result->step;
  if (cluster->storage.copy > 0) copy = trace->state_bytes / (cluster->storage.copy * 1e9);
  if (cluster->storage.write > 0) write = trace->state_bytes / (cluster->storage.write * 1e9);
  result->failure_seconds = hours * 3600 / result->nodes;
  if (hours > 0) {
    double best = goodput_best_interval(copy, result->failure_seconds);
    result->best_interval = fmax(1, ceil(fmax(best, write) / steps));
  }
  if (every <= 0) return;
  Failures failures = {.interval = every * steps,
                       .stall = copy + fmax(0, write - every * steps),
                       .mtbf = result->failure_seconds,
                       .restart = cluster->failure.restart + write};
  result->checkpoint = failures.stall / every;
  result->goodput = goodput_of(&failures);
}

static void average(SimulationResult *result, const Simulator *simulator, int steps) {
  result->compute /= steps;
  result->straggling /= steps;
  result->exposed /= steps;
  if (steps > 1) result->data /= steps - 1;
  result->reducing = simulator->busy_seconds / steps;
  result->step = result->compute + result->straggling + result->exposed + result->data;
}

Status simulate(const Cluster *cluster, const StepTrace *trace, const SimulationOptions *options,
                SimulationResult *out, Error *error) {
  Status status = cluster_check_ranks(cluster, options->ranks, error);
  if (status != OK) return status;
  if (cluster->device.times == OP_TIMES_MEASURED && !trace->measured)
    return error_set(error, ERROR_USAGE,
                     "%s: no op has a measured time, but the cluster file has device.times: "
                     "measured; profile the step, or set device.times: roofline",
                     trace->name);
  size_t count = (size_t)options->ranks;
  SimulationResult result = {
      .ranks = options->ranks, .nodes = cluster_nodes(cluster, options->ranks), .goodput = 1};
  SegmentList list = make_segments(cluster, trace, options->ranks);
  Simulator simulator = {.list = &list,
                         .count = options->ranks,
                         .ranks = mem_new(count, sizeof *simulator.ranks),
                         .heap = mem_new(count, sizeof *simulator.heap),
                         .waiting = mem_new(count, sizeof *simulator.waiting),
                         .arrived = mem_new((size_t)list.reduces + 1, sizeof *simulator.arrived),
                         .slow = 1 - cluster->reduce.interference};
  simulate_steps(&simulator, cluster, trace, options, &result);
  average(&result, &simulator, options->steps);
  free(simulator.ranks);
  free(simulator.heap);
  free(simulator.waiting);
  free(simulator.arrived);
  free_segments(&list);
  if (!(result.step > 0))
    return error_set(
        error, ERROR_USAGE,
        "%s: all ops take 0 seconds on this cluster; check device.* in the cluster file",
        trace->name);
  add_checkpoints(cluster, trace, &result);
  result.step += result.checkpoint;
  result.clips_per_second = (double)trace->clips * result.ranks / result.step;
  *out = result;
  return OK;
}
