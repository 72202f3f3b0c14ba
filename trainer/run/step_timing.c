#include "trainer/run/step_timing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "base/thread.h"

/* Seconds between two checks, and between two warnings of the same rank. */
static const double CHECK_INTERVAL = 10, WARNING_INTERVAL = 600;
static const double STRAGGLER_RATIO = 1.5; /* busy seconds over those of the median rank */

struct StepTiming {
  Comm *comm;
  int size;
  char (*hosts)[HOST_NAME_SIZE];
  double gathered_at; /* clock_seconds of the last step_timing_gather */
  StepSeconds own;
  StepSeconds *ranks; /* [size] */
  double *busy;       /* [size] seconds of compute and data since checked_at */
  double checked_at;  /* clock_seconds of the last search for a straggler */
  double *warned_at;  /* [size] clock_seconds of the last warning; 0: none */
};

static double busy_of(const StepSeconds *seconds) {
  return seconds->compute + seconds->data;
}

TimeShares time_shares(const StepSeconds *ranks, int size) {
  TimeShares shares = {0};
  for (int r = 0; r < size; r++) {
    double total = fmax(ranks[r].total, 1e-12) * size;
    shares.compute += ranks[r].compute / total;
    shares.data += ranks[r].data / total;
    shares.comm_exposed += ranks[r].comm_exposed / total;
    if (busy_of(&ranks[r]) > busy_of(&ranks[shares.straggler_rank])) shares.straggler_rank = r;
  }
  shares.straggler_seconds = busy_of(&ranks[shares.straggler_rank]);
  return shares;
}

int find_straggler(const double *busy, int size, double *ratio) {
  int slowest = 0;
  for (int r = 1; r < size; r++)
    if (busy[r] > busy[slowest]) slowest = r;
  double *others = mem_new((size_t)size, sizeof *others);
  int count = 0;
  for (int r = 0; r < size; r++)
    if (size % 2 == 1 || r != slowest) others[count++] = busy[r];
  *ratio = busy[slowest] / fmax(median(others, count), 1e-12);
  free(others);
  return *ratio > STRAGGLER_RATIO ? slowest : -1;
}

Status step_timing_new(Comm *comm, StepTiming **out, Error *error) {
  StepTiming *timing = mem_new(1, sizeof *timing);
  size_t size = (size_t)comm_size(comm);
  char host[HOST_NAME_SIZE];
  *timing = (StepTiming){.comm = comm, .size = (int)size};
  timing->hosts = mem_new(size, sizeof *timing->hosts);
  timing->ranks = mem_new(size, sizeof *timing->ranks);
  timing->busy = mem_new(size, sizeof *timing->busy);
  timing->warned_at = mem_new(size, sizeof *timing->warned_at);
  timing->gathered_at = timing->checked_at = clock_seconds();
  host_name(host);
  Status status = comm_all_gather(comm, host, sizeof host, timing->hosts, error);
  if (status == OK)
    *out = timing;
  else
    step_timing_free(timing);
  return status;
}

void step_timing_free(StepTiming *timing) {
  if (!timing) return;
  free(timing->hosts);
  free(timing->ranks);
  free(timing->busy);
  free(timing->warned_at);
  free(timing);
}

void step_timing_add(StepTiming *timing, double compute, double data, double comm_exposed) {
  timing->own.compute += compute;
  timing->own.data += data;
  timing->own.comm_exposed += comm_exposed;
}

static void warn_of_straggler(StepTiming *timing, double now) {
  double ratio;
  int rank = find_straggler(timing->busy, timing->size, &ratio);
  bool warned =
      rank >= 0 && timing->warned_at[rank] > 0 && now - timing->warned_at[rank] < WARNING_INTERVAL;
  if (rank >= 0 && !warned) {
    if (comm_rank(timing->comm) == 0)
      log_warning("straggler: rank %d on %s: in the last %.0f s it spent %.1f s computing and "
                  "waiting for data, %.1f times as long as the median rank",
                  rank, timing->hosts[rank], now - timing->checked_at, timing->busy[rank], ratio);
    timing->warned_at[rank] = now;
  }
  memset(timing->busy, 0, (size_t)timing->size * sizeof *timing->busy);
  timing->checked_at = now;
}

Status step_timing_gather(StepTiming *timing, TimeShares *out, double *seconds, Error *error) {
  double now = clock_seconds();
  timing->own.total = *seconds = now - timing->gathered_at;
  Status status =
      comm_all_gather(timing->comm, &timing->own, sizeof timing->own, timing->ranks, error);
  if (status != OK) return status;
  *out = time_shares(timing->ranks, timing->size);
  for (int r = 0; r < timing->size; r++) timing->busy[r] += busy_of(&timing->ranks[r]);
  if (timing->size > 1 && now - timing->checked_at >= CHECK_INTERVAL)
    warn_of_straggler(timing, now);
  timing->own = (StepSeconds){0};
  timing->gathered_at = now;
  return OK;
}

void step_timing_restart(StepTiming *timing) {
  timing->own = (StepSeconds){0};
  timing->gathered_at = clock_seconds();
}

const char *step_timing_host(const StepTiming *timing, int rank) {
  return timing->hosts[rank];
}
