/* bench scaling: a training step simulated on a cluster, by number of ranks. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "trainer/bench/bench.h"
#include "trainer/scaling/simulate.h"

typedef struct RankList {
  int count, capacity;
  int *items;
} RankList;

static void push(RankList *list, int ranks) {
  MEM_PUSH_SLOT(list->items, list->count, list->capacity);
  list->items[list->count++] = ranks;
}

/* --- Numbers of ranks ------------------------------------------------------------------------- */

static Status parse_ranks(const Cluster *cluster, const char *text, RankList *list, Error *error) {
  Status status = OK;
  for (const char *at = text;; at++) {
    char *end = NULL;
    errno = 0;
    long ranks = strtol(at, &end, 10);
    if (end == at || (*end != ',' && *end != '\0') || errno != 0 || ranks < 1 || ranks > 1 << 24)
      FAIL(error, ERROR_USAGE, "--ranks: \"%s\" is not a list of positive numbers; write 1,2,4",
           text);
    status = cluster_check_ranks(cluster, (int)ranks, error);
    if (status != OK) return error_context(error, "--ranks");
    push(list, (int)ranks);
    if (*end == '\0') break;
    at = end;
  }
done:
  return status;
}

static Status choose_ranks(const Cluster *cluster, const char *text, RankList *list, Error *error) {
  int64_t all = cluster->node.count * cluster->node.ranks;
  if (text) return parse_ranks(cluster, text, list, error);
  for (int ranks = 1; ranks <= all; ranks *= 2)
    if (cluster_check_ranks(cluster, ranks, NULL) == OK) push(list, ranks);
  return OK;
}

/* --- The table -------------------------------------------------------------------------------- */

typedef struct Study {
  const BenchScalingOptions *options;
  const StepTrace *trace;
  Cluster cluster;
  RankList ranks;
  double alone; /* one rank's step, seconds */
  SimulationResult *results;
} Study;

static double efficiency(const Study *study, const SimulationResult *result) {
  return study->alone / result->step;
}

static void print_head(const Study *study) {
  const StepTrace *trace = study->trace;
  const Cluster *cluster = &study->cluster;
  double bytes = 0, flops = 0;
  int reduces = 0;
  Text text = {0};
  for (int i = 0; i < trace->count; i++) {
    bytes += trace->ops[i].reduces;
    flops += trace->ops[i].flops;
    reduces += trace->ops[i].reduces > 0;
  }
  text_append(&text, "cluster  %s: %lld node%s of %lld ranks, all-reduce: %s\n",
              study->options->cluster, (long long)cluster->node.count,
              cluster->node.count == 1 ? "" : "s", (long long)cluster->node.ranks,
              reduction_name((Reduction)cluster->reduce.algorithm));
  for (int i = 0; i < study->options->change_count; i++)
    text_append(&text, "         with %s\n", study->options->changes[i]);
  text_append(&text, "step     %s, %s: %lld clip%s of a rank, ", trace->name,
              trace->bf16 ? "bf16" : "f32", (long long)trace->clips, trace->clips == 1 ? "" : "s");
  text_append_count(&text, flops);
  text_append(&text, "FLOP, op times %s\n",
              cluster->device.times == OP_TIMES_MEASURED ? "measured" : "from FLOPs and bytes");
  text_append(&text, "         %d all-reduce%s, ", reduces, reduces == 1 ? "" : "s");
  text_append_size(&text, bytes);
  text_append(&text, ", %s\n", trace->overlap ? "overlapped" : "not overlapped");
  text_append(
      &text,
      "weak scaling: every rank computes this many clips; efficiency: step time of one rank / this "
      "step time\n%lld simulated steps, seed %llu\n\n",
      (long long)study->options->simulated_steps, (unsigned long long)study->options->seed);
  fputs(text.data, stdout);
  text_free(&text);
}

static void print_row(const Study *study, const SimulationResult *row) {
  printf("%6d %5d %10.3f %10.3f %9.3f %9.3f %7.2f%% %9.3f %9.3f %8.1f%% %10.1f %8.2f%%", row->ranks,
         row->nodes, 1e3 * row->step, 1e3 * row->compute, 1e3 * row->straggling, 1e3 * row->exposed,
         100 * row->exposed / row->step, 1e3 * row->data, 1e3 * row->checkpoint,
         100 * efficiency(study, row), row->clips_per_second, 100 * row->goodput);
  if (row->best_interval > 0) printf(" %9.0f", row->best_interval);
  printf("\n");
}

static void print_table(const Study *study) {
  bool fails = study->cluster.failure.node_hours > 0;
  print_head(study);
  printf("%6s %5s %10s %10s %9s %9s %8s %9s %9s %9s %10s %9s%s\n", "ranks", "nodes", "step ms",
         "compute", "straggle", "exposed", "share", "data", "ckpt", "effic.", "clips/s", "goodput",
         fails ? " best ckpt" : "");
  for (int i = 0; i < study->ranks.count; i++) print_row(study, &study->results[i]);
  printf(
      "\nmilliseconds: compute (mean of the ranks), straggle (slowest rank above the mean), "
      "exposed "
      "(communication\nnot hidden behind computation), data (waiting for clips), ckpt (waiting for "
      "checkpoints). goodput: share of\nthe time in steps that are not lost, with a checkpoint "
      "every "
      "%.0f steps%s.\n",
      study->trace->checkpoint_every,
      fails ? "; best ckpt: steps between checkpoints with the best goodput" : "");
}

static Status write_json(const Study *study, Error *error) {
  json_t *rows = json_array();
  for (int i = 0; i < study->ranks.count; i++) {
    const SimulationResult *row = &study->results[i];
    json_array_append_new(
        rows,
        json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "ranks",
                  row->ranks, "nodes", row->nodes, "step_seconds", row->step, "compute_seconds",
                  row->compute, "straggling_seconds", row->straggling, "exposed_seconds",
                  row->exposed, "data_seconds", row->data, "checkpoint_seconds", row->checkpoint,
                  "reducing_seconds", row->reducing, "efficiency", efficiency(study, row),
                  "clips_per_second", row->clips_per_second, "goodput", row->goodput,
                  "best_checkpoint_steps", row->best_interval));
  }
  json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "cluster", study->options->cluster,
                           "step", study->trace->name, "clips", (json_int_t)study->trace->clips,
                           "simulated_steps", (json_int_t)study->options->simulated_steps, "seed",
                           (json_int_t)study->options->seed, "rows", rows);
  Status status = json_write_file(study->options->json, json, error);
  json_decref(json);
  return status;
}

static Status load_cluster(const BenchScalingOptions *options, Cluster *cluster, Error *error) {
  return cluster_load(options->cluster, options->changes, options->change_count, cluster, error);
}

/* --- The command ------------------------------------------------------------------------------ */

static Status run_study(Study *study, Error *error) {
  Status status = OK;
  const BenchScalingOptions *options = study->options;
  SimulationOptions how = {
      .ranks = 1, .steps = (int)options->simulated_steps, .seed = options->seed};
  SimulationResult one;
  TRY(choose_ranks(&study->cluster, options->ranks, &study->ranks, error));
  TRY(simulate(&study->cluster, study->trace, &how, &one, error));
  study->alone = one.step;
  study->results = mem_new((size_t)study->ranks.count, sizeof *study->results);
  for (int i = 0; i < study->ranks.count; i++) {
    how.ranks = study->ranks.items[i];
    TRY(simulate(&study->cluster, study->trace, &how, &study->results[i], error));
  }
  print_table(study);
  if (options->json) TRY(write_json(study, error));
done:
  free(study->ranks.items);
  free(study->results);
  return status;
}

Status bench_scaling_config(const Config *config, const char *name, const BenchStepOptions *step,
                            const BenchScalingOptions *options, Error *error) {
  Status status = OK;
  StepTrace trace = {0};
  Study study = {.options = options, .trace = &trace};
  TRY(load_cluster(options, &study.cluster, error));
  bool measured = study.cluster.device.times == OP_TIMES_MEASURED;
  TRY(bench_step_trace(config, step, measured, &trace, error));
  snprintf(trace.name, sizeof trace.name, "%s", name);
  if (options->save_trace) TRY(step_trace_write(&trace, options->save_trace, error));
  TRY(run_study(&study, error));
done:
  step_trace_free(&trace);
  return status;
}

Status bench_scaling_trace(const char *path, const BenchScalingOptions *options, Error *error) {
  Status status = OK;
  StepTrace trace = {0};
  Study study = {.options = options, .trace = &trace};
  TRY(load_cluster(options, &study.cluster, error));
  TRY(step_trace_read(path, &trace, error));
  TRY(run_study(&study, error));
done:
  step_trace_free(&trace);
  return status;
}

/* --- All-reduces alone ------------------------------------------------------------------------ */

enum { SMALLEST = 1 << 10, LARGEST = 1 << 30 }; /* bytes */

static void print_reductions(const Cluster *cluster, int ranks) {
  int nodes = cluster_nodes(cluster, ranks);
  Text text = {0};
  text_append(&text, "\n%d ranks on %d node%s, microseconds\n%10s", ranks, nodes,
              nodes == 1 ? "" : "s", "size");
  for (Reduction each = 0; each < REDUCTION_COUNT; each++)
    text_append(&text, " %13s", reduction_name(each));
  text_append(&text, " %13s %10s\n", "taken", "bus GB/s");
  for (int64_t bytes = SMALLEST; bytes <= LARGEST; bytes *= 2) {
    Text size = {0};
    text_append_size(&size, (double)bytes);
    text_append(&text, "%10s", size.data);
    text_free(&size);
    for (Reduction each = 0; each < REDUCTION_COUNT; each++)
      text_append(&text, " %13.1f",
                  1e6 * cluster_reduce_seconds(cluster, each, ranks, (double)bytes));
    double seconds = cluster_all_reduce_seconds(cluster, ranks, (double)bytes);
    text_append(&text, " %13.1f %10.2f\n", 1e6 * seconds,
                2.0 * (ranks - 1) / ranks * (double)bytes / seconds / 1e9);
  }
  fputs(text.data, stdout);
  text_free(&text);
}

static void collect_reductions(const Cluster *cluster, int ranks, json_t *rows) {
  for (int64_t bytes = SMALLEST; bytes <= LARGEST; bytes *= 2)
    json_array_append_new(
        rows, json_pack("{s:i, s:I, s:f}", "ranks", ranks, "bytes", (json_int_t)bytes, "seconds",
                        cluster_all_reduce_seconds(cluster, ranks, (double)bytes)));
}

Status bench_reductions(const BenchScalingOptions *options, Error *error) {
  Status status = OK;
  Cluster cluster;
  RankList list = {0};
  json_t *json = NULL, *rows = json_array();
  TRY(load_cluster(options, &cluster, error));
  TRY(choose_ranks(&cluster, options->ranks, &list, error));
  printf("cluster  %s; all-reduce: %s\n", options->cluster,
         reduction_name((Reduction)cluster.reduce.algorithm));
  for (int i = 0; i < list.count; i++) {
    if (list.items[i] == 1) continue;
    print_reductions(&cluster, list.items[i]);
    collect_reductions(&cluster, list.items[i], rows);
  }
  json = json_pack("{s:s, s:O}", "cluster", options->cluster, "rows", rows);
  if (options->json) TRY(json_write_file(options->json, json, error));
done:
  json_decref(rows);
  json_decref(json);
  free(list.items);
  return status;
}
