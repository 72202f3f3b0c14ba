#include "trainer/scaling/simulate.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "trainer/scaling/goodput.h"

/* --- The trace as work between events --------------------------------------------------------- */

typedef enum Event { EVENT_REDUCE, EVENT_WAIT, EVENT_END } Event;

/* Computing, then an event. */
typedef struct Stretch {
  double work; /* seconds of a rank with factor 1 and nothing under way */
  Event event;
} Stretch;

typedef struct Plot {
  int count, capacity;
  Stretch *stretches;
  int reduces, reduce_capacity;
  double *reduce_seconds; /* of each all-reduce */
} Plot;

static void add_stretch(Plot *plot, double *work, Event event) {
  MEM_PUSH_SLOT(plot->stretches, plot->count, plot->capacity);
  plot->stretches[plot->count++] = (Stretch){*work, event};
  *work = 0;
}

static void free_plot(Plot *plot) {
  free(plot->stretches);
  free(plot->reduce_seconds);
}

static Plot make_plot(const Cluster *cluster, const StepTrace *trace, int ranks) {
  Plot plot = {0};
  double work = cluster->step.host_ms * 1e-3;
  for (int i = 0; i < trace->count; i++) {
    const TraceOp *op = &trace->ops[i];
    if (ranks > 1 && op->waits) add_stretch(&plot, &work, EVENT_WAIT);
    work += cluster_op_seconds(cluster, trace, op, ranks);
    if (ranks == 1 || op->reduces <= 0) continue;
    add_stretch(&plot, &work, EVENT_REDUCE);
    MEM_PUSH_SLOT(plot.reduce_seconds, plot.reduces, plot.reduce_capacity);
    plot.reduce_seconds[plot.reduces++] = cluster_all_reduce_seconds(cluster, ranks, op->reduces);
    if (!trace->overlap) add_stretch(&plot, &work, EVENT_WAIT);
  }
  add_stretch(&plot, &work, EVENT_WAIT);
  add_stretch(&plot, &work, EVENT_END);
  return plot;
}

/* --- Ranks ------------------------------------------------------------------------------------ */

typedef struct RankState {
  double factor;           /* of this step's computing */
  int stretch;             /* that it is in */
  int started;             /* all-reduces it has reached */
  double began;            /* its stretch or its wait, in seconds of the step */
  double computed, waited; /* seconds */
} RankState;

/* A heap of the ranks that compute, by where their stretch ends on the clock of work, which runs
 * slower than time while an all-reduce is under way; equal ends by rank. */
typedef struct Waking {
  double work;
  int rank;
} Waking;

typedef struct Play {
  const Plot *plot;
  int count;
  RankState *ranks;
  int heap_count;
  Waking *heap;
  int waiting_count;
  int *waiting;        /* ranks at an EVENT_WAIT */
  int *arrived;        /* by all-reduce: ranks that have reached it */
  int done;            /* all-reduces ended */
  bool busy;           /* all-reduce number `done` is under way */
  double channel_ends; /* when */
  double now, work;    /* both clocks */
  double slow;         /* work a second while the channel is busy */
  double busy_seconds;
} Play;

static bool earlier(Waking a, Waking b) {
  return a.work < b.work || (a.work == b.work && a.rank < b.rank);
}

static void heap_push(Play *play, Waking item) {
  int place = play->heap_count++;
  while (place > 0 && earlier(item, play->heap[(place - 1) / 2])) {
    play->heap[place] = play->heap[(place - 1) / 2];
    place = (place - 1) / 2;
  }
  play->heap[place] = item;
}

static Waking heap_pop(Play *play) {
  Waking top = play->heap[0], last = play->heap[--play->heap_count];
  int place = 0;
  for (int child = 1; child < play->heap_count; child = 2 * place + 1) {
    if (child + 1 < play->heap_count && earlier(play->heap[child + 1], play->heap[child])) child++;
    if (!earlier(play->heap[child], last)) break;
    play->heap[place] = play->heap[child];
    place = child;
  }
  play->heap[place] = last;
  return top;
}

static void begin_stretch(Play *play, int rank) {
  RankState *state = &play->ranks[rank];
  state->began = play->now;
  double work = play->plot->stretches[state->stretch].work * state->factor;
  heap_push(play, (Waking){play->work + work, rank});
}

/* Starts the all-reduce whose turn it is once every rank has reached it. */
static void start_reduce(Play *play) {
  if (play->busy || play->done == play->plot->reduces) return;
  if (play->arrived[play->done] < play->count) return;
  double seconds = play->plot->reduce_seconds[play->done];
  play->busy = true;
  play->channel_ends = play->now + seconds;
  play->busy_seconds += seconds;
}

static void end_reduce(Play *play) {
  int kept = 0;
  play->busy = false;
  play->done++;
  for (int i = 0; i < play->waiting_count; i++) {
    int rank = play->waiting[i];
    RankState *state = &play->ranks[rank];
    if (state->started > play->done) {
      play->waiting[kept++] = rank;
      continue;
    }
    state->waited += play->now - state->began;
    state->stretch++;
    begin_stretch(play, rank);
  }
  play->waiting_count = kept;
  start_reduce(play);
}

static void end_stretch(Play *play, int rank) {
  RankState *state = &play->ranks[rank];
  const Stretch *stretch = &play->plot->stretches[state->stretch];
  state->computed += play->now - state->began;
  state->began = play->now;
  if (stretch->event == EVENT_END) return;
  if (stretch->event == EVENT_WAIT && state->started > play->done) {
    play->waiting[play->waiting_count++] = rank;
    return;
  }
  bool reduces = stretch->event == EVENT_REDUCE;
  state->stretch++;
  begin_stretch(play, rank);
  if (!reduces) return;
  play->arrived[state->started++]++;
  start_reduce(play);
}

/* Both clocks to the next event, which is either the channel's or a rank's. */
static void next_event(Play *play) {
  double rate = play->busy ? play->slow : 1, at = HUGE_VAL;
  if (play->heap_count > 0) at = play->now + fmax(0, play->heap[0].work - play->work) / rate;
  if (play->busy && play->channel_ends <= at) {
    play->work += (play->channel_ends - play->now) * rate;
    play->now = play->channel_ends;
    end_reduce(play);
    return;
  }
  Waking waking = heap_pop(play);
  play->now = at;
  play->work = waking.work;
  end_stretch(play, waking.rank);
}

/* --- Steps ------------------------------------------------------------------------------------ */

static double draw_factor(const Cluster *cluster, uint64_t seed, int rank, int step) {
  double spread = cluster->step.spread, share = cluster->step.slow_share;
  if (spread <= 0 && share <= 0) return 1;
  Random random = random_stream(seed, RANDOM_SIMULATION, (uint64_t)rank, (uint32_t)step);
  double usual = exp(spread * (double)random_normal(&random) - spread * spread / 2);
  return random_uniform(&random) < share ? usual * (1 + cluster->step.slow_by) : usual;
}

/* From the moment that all ranks begin; adds to the result's sums. */
static double play_step(Play *play, const Cluster *cluster, uint64_t seed, int step,
                        SimulationResult *sums) {
  double mean = 0, waited = HUGE_VAL;
  play->now = play->work = 0;
  play->done = 0;
  play->busy = false;
  play->heap_count = play->waiting_count = 0;
  for (int k = 0; k < play->plot->reduces; k++) play->arrived[k] = 0;
  for (int rank = 0; rank < play->count; rank++) {
    play->ranks[rank] = (RankState){.factor = draw_factor(cluster, seed, rank, step)};
    begin_stretch(play, rank);
  }
  while (play->heap_count > 0 || play->busy) next_event(play);
  for (int rank = 0; rank < play->count; rank++) {
    const RankState *state = &play->ranks[rank];
    mean += state->computed / play->count;
    waited = fmin(waited, state->waited);
  }
  double agreement = cluster_all_gather_seconds(cluster, play->count, sizeof(int64_t));
  sums->compute += mean;
  sums->straggling += fmax(0, play->now - waited - mean);
  sums->exposed += waited + agreement;
  return play->now + agreement;
}

/* What reading a step's clips takes the slowest reader. */
static double read_seconds(const Cluster *cluster, const StepTrace *trace, int ranks) {
  double bytes = (double)trace->clips * trace->clip_bytes, seconds = 0;
  int nodes = cluster_nodes(cluster, ranks);
  if (cluster->storage.node_read > 0)
    seconds = bytes * ranks / nodes / (cluster->storage.node_read * 1e9);
  if (cluster->storage.read > 0)
    seconds = fmax(seconds, bytes * ranks / (cluster->storage.read * 1e9));
  return seconds;
}

/* Clips are read ahead in the background, as many steps' worth as there is room for: the reading of
 * a step's begins when the step that many before it has taken its own. */
static double wait_for_data(const StepTrace *trace, double reading, int step, double now,
                            double *taken, double *ready) {
  int ahead = (int)fmin(fmax(1, trace->batches_ahead), step + 1); /* beyond it nothing was taken */
  double room = step >= ahead ? taken[step - ahead] : 0;
  *ready = fmax(*ready, room) + reading;
  double wait = step > 0 ? fmax(0, *ready - now) : *ready;
  taken[step] = now + wait;
  return wait;
}

static void play_steps(Play *play, const Cluster *cluster, const StepTrace *trace,
                       const SimulationOptions *options, SimulationResult *sums) {
  double reading = read_seconds(cluster, trace, options->ranks), now = 0, ready = 0;
  double *taken = mem_new((size_t)options->steps, sizeof *taken);
  for (int step = 0; step < options->steps; step++) {
    double wait = wait_for_data(trace, reading, step, now, taken, &ready);
    double seconds = play_step(play, cluster, options->seed, step, sums);
    if (step > 0) sums->data += wait; /* the first one's is the start's, not the steps' */
    now += wait + seconds;
  }
  free(taken);
}

/* --- Checkpoints and failures ----------------------------------------------------------------- */

/* A checkpoint is copied aside while all wait, then written in the background; the copy waits for
 * the one before to be written. What is being written when a node fails is lost: the steps since
 * the checkpoint before are computed again, which costs a mean of the writing time per failure
 * more. */
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

static void average(SimulationResult *result, const Play *play, int steps) {
  result->compute /= steps;
  result->straggling /= steps;
  result->exposed /= steps;
  if (steps > 1) result->data /= steps - 1;
  result->reducing = play->busy_seconds / steps;
  result->step = result->compute + result->straggling + result->exposed + result->data;
}

Status simulate(const Cluster *cluster, const StepTrace *trace, const SimulationOptions *options,
                SimulationResult *out, Error *error) {
  Status status = cluster_check_ranks(cluster, options->ranks, error);
  if (status != OK) return status;
  if (cluster->device.times == OP_TIMES_MEASURED && !trace->measured)
    return error_set(error, ERROR_USAGE,
                     "%s: none of its ops has a time, and the cluster asks for measured ones",
                     trace->name);
  size_t count = (size_t)options->ranks;
  SimulationResult result = {
      .ranks = options->ranks, .nodes = cluster_nodes(cluster, options->ranks), .goodput = 1};
  Plot plot = make_plot(cluster, trace, options->ranks);
  Play play = {.plot = &plot,
               .count = options->ranks,
               .ranks = mem_new(count, sizeof *play.ranks),
               .heap = mem_new(count, sizeof *play.heap),
               .waiting = mem_new(count, sizeof *play.waiting),
               .arrived = mem_new((size_t)plot.reduces + 1, sizeof *play.arrived),
               .slow = 1 - cluster->reduce.interference};
  play_steps(&play, cluster, trace, options, &result);
  average(&result, &play, options->steps);
  free(play.ranks);
  free(play.heap);
  free(play.waiting);
  free(play.arrived);
  free_plot(&plot);
  if (!(result.step > 0))
    return error_set(error, ERROR_USAGE, "%s: its ops take no time on this cluster", trace->name);
  add_checkpoints(cluster, trace, &result);
  result.step += result.checkpoint;
  result.clips_per_second = (double)trace->clips * result.ranks / result.step;
  *out = result;
  return OK;
}
