/* bench comm: all-reduces by size, as in training. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/statistics.h"
#include "base/thread.h"
#include "comm/comm.h"
#include "trainer/bench/bench.h"

enum {
  SMALLEST = 1 << 10,
  LARGEST = 1 << 26, /* bytes */
  SIZES = 9,         /* each four times the one before */
  WARMUP = 3,
  FEWEST = 5,
  MOST = 200,
};
static const double SECONDS_A_SIZE = 0.4, TIMEOUT = 120, COPY_SECONDS = 0.5;

typedef struct Measurement {
  int64_t bytes;
  int calls;
  double seconds; /* median over the calls, of the slowest rank */
} Measurement;

/* seconds = latency + bytes / rate */
typedef struct Line {
  double latency, rate;
} Line;

typedef struct Bench {
  Comm *comm;
  float *data; /* [LARGEST / 4] */
  Measurement sizes[SIZES];
  Line line;
  double copy_rate; /* bytes per second while all ranks of this host copy at once */
} Bench;

/* --- All-reduces ------------------------------------------------------------------------------ */

static Status reduce_once(Bench *bench, int64_t bytes, double *seconds, Error *error) {
  Status status = OK;
  TRY(comm_barrier(bench->comm, error));
  double begin = clock_seconds();
  TRY(comm_all_reduce_mean_start(bench->comm, bench->data, bytes / (int64_t)sizeof(float), COMM_F32,
                                 error));
  TRY(comm_all_reduce_mean_wait(bench->comm, error));
  *seconds = clock_seconds() - begin;
done:
  return status;
}

/* Times all-reduces of one size. Rank 0's last warm-up call decides how many calls fit in the time.
 */
static Status measure_size(Bench *bench, int64_t bytes, Measurement *out, Error *error) {
  Status status = OK;
  double seconds[MOST] = {0};
  for (int i = 0; i < WARMUP; i++) TRY(reduce_once(bench, bytes, &seconds[0], error));
  int calls = (int)fmin(MOST, fmax(FEWEST, SECONDS_A_SIZE / fmax(seconds[0], 1e-9)));
  TRY(comm_broadcast(bench->comm, &calls, sizeof calls, 0, error));
  for (int i = 0; i < calls; i++) TRY(reduce_once(bench, bytes, &seconds[i], error));
  double slowest = median(seconds, calls);
  TRY(comm_all_reduce(bench->comm, &slowest, 1, COMM_F64, COMM_MAX, error));
  *out = (Measurement){bytes, calls, slowest};
done:
  return status;
}

/* Fits seconds = latency + bytes / rate by least squares of relative deviations, so that small
 * sizes count as much as large ones. A negative latency becomes 0. */
static Line fit(const Measurement *sizes, int count) {
  double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
  for (int i = 0; i < count; i++) {
    double x = (double)sizes[i].bytes, y = sizes[i].seconds, weight = 1 / (y * y);
    w += weight;
    wx += weight * x;
    wy += weight * y;
    wxx += weight * x * x;
    wxy += weight * x * y;
  }
  double slope = (w * wxy - wx * wy) / (w * wxx - wx * wx);
  double latency = (wy - slope * wx) / w;
  return (Line){.latency = fmax(0, latency), .rate = slope > 0 ? 1 / slope : HUGE_VAL};
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* All ranks copy one half of their buffers to the other at once; each byte counts as one read and
 * one written. */
static Status measure_copies(Bench *bench, Error *error) {
  Status status = OK;
  const size_t half = LARGEST / 2;
  double copied = 0;
  TRY(comm_barrier(bench->comm, error));
  double begin = clock_seconds(), seconds = 0;
  while (seconds < COPY_SECONDS) {
    memcpy(bench->data, (char *)bench->data + half, half);
    copied += (double)half;
    seconds = clock_seconds() - begin;
  }
  double rate = 2 * copied / seconds;
  TRY(comm_all_reduce(bench->comm, &rate, 1, COMM_F64, COMM_SUM, error));
  bench->copy_rate = rate * comm_local_size(bench->comm) / comm_size(bench->comm);
done:
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

/* The factor from algorithm to bus bandwidth, as defined by nccl-tests. */
static double bus_share(const Bench *bench) {
  double ranks = comm_size(bench->comm);
  return 2 * (ranks - 1) / ranks;
}

/* The latency of one message of a ring: see cluster_reduce_seconds. */
static double message_latency(const Bench *bench) {
  return bench->line.latency / (2.0 * (comm_size(bench->comm) - 1));
}

static void print_result(const Bench *bench) {
  printf("all-reduce of f32 over %d ranks, %d on this host\n\n%12s %7s %12s %10s %10s %8s\n",
         comm_size(bench->comm), comm_local_size(bench->comm), "bytes", "calls", "microseconds",
         "GB/s", "bus GB/s", "line");
  for (int i = 0; i < SIZES; i++) {
    const Measurement *size = &bench->sizes[i];
    double rate = (double)size->bytes / size->seconds / 1e9;
    double line = bench->line.latency + (double)size->bytes / bench->line.rate;
    printf("%12lld %7d %12.1f %10.3f %10.3f %+7.0f%%\n", (long long)size->bytes, size->calls,
           1e6 * size->seconds, rate, bus_share(bench) * rate, 100 * (line / size->seconds - 1));
  }
  printf("\nfitted line: %.1f microseconds + bytes / %.3f GB/s\n", 1e6 * bench->line.latency,
         bench->line.rate / 1e9);
  printf("copies, all ranks of this host at once: %.1f GB/s\n\n", bench->copy_rate / 1e9);
  printf("For a cluster file with reduce.algorithm: ring\n"
         "  latency_us: %.2f\n  bandwidth: %.3f\n",
         1e6 * message_latency(bench), bus_share(bench) * bench->line.rate / 1e9);
}

static Status write_json(const Bench *bench, const char *path, Error *error) {
  json_t *sizes = json_array();
  for (int i = 0; i < SIZES; i++) {
    const Measurement *size = &bench->sizes[i];
    double rate = (double)size->bytes / size->seconds / 1e9;
    json_array_append_new(sizes,
                          json_pack("{s:I, s:i, s:f, s:f, s:f}", "bytes", (json_int_t)size->bytes,
                                    "calls", size->calls, "seconds", size->seconds, "gb_per_second",
                                    rate, "bus_gb_per_second", bus_share(bench) * rate));
  }
  json_t *json = json_pack("{s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:o}", "ranks",
                           comm_size(bench->comm), "local_ranks", comm_local_size(bench->comm),
                           "latency_seconds", bench->line.latency, "gb_per_second",
                           bench->line.rate / 1e9, "ring_latency_us", 1e6 * message_latency(bench),
                           "ring_bandwidth", bus_share(bench) * bench->line.rate / 1e9,
                           "copy_gb_per_second", bench->copy_rate / 1e9, "sizes", sizes);
  Status status = json_write_file(path, json, error);
  json_decref(json);
  return status;
}

/* --- The command ------------------------------------------------------------------------------ */

static Status measure(Bench *bench, Error *error) {
  Status status = OK;
  void *data;
  status = mem_bulk(LARGEST, "the all-reduce buffer", &data, error);
  TRY(comm_agree(bench->comm, status, error));
  bench->data = data;
  for (int i = 0; i < SIZES; i++)
    TRY(measure_size(bench, (int64_t)SMALLEST << (2 * i), &bench->sizes[i], error));
  bench->line = fit(bench->sizes, SIZES);
  TRY(measure_copies(bench, error));
done:
  return status;
}

static Status report(const Bench *bench, const char *json, Error *error) {
  if (comm_rank(bench->comm) > 0) return OK;
  print_result(bench);
  return json ? write_json(bench, json, error) : OK;
}

Status bench_comm_run(const char *json, int *argc, char ***argv, Error *error) {
  Bench bench = {0};
  CommOptions options = {.timeout = TIMEOUT, .overlap = true};
  Status status = comm_open(argc, argv, &options, &bench.comm, error);
  if (status != OK) return status;
  log_set_rank(comm_rank(bench.comm), comm_size(bench.comm));
  if (comm_size(bench.comm) == 1)
    FAIL(error, ERROR_USAGE,
         "bench comm: 1 rank, expected at least 2; start it with mpirun -np 2 celforge bench comm");
  TRY(measure(&bench, error));
  status = comm_agree(bench.comm, report(&bench, json, error), error);
done:
  comm_report(bench.comm, status, error);
  comm_close(bench.comm);
  free(bench.data);
  return status;
}
