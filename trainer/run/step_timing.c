#include "trainer/run/step_timing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum { HOST_SIZE = 64 };
static const double JUDGED_SECONDS = 10, SILENT_SECONDS = 600, STRAGGLES_FROM = 1.5;

struct Timing {
  Comm *comm;
  int size;
  char (*hosts)[HOST_SIZE];
  double since; /* clock_seconds of the last gathering */
  StepSeconds own;
  StepSeconds *ranks; /* [size] */
  double *busy;       /* [size] since a straggler was last looked for */
  double judged;      /* clock_seconds of that */
  double *warned;     /* [size] clock_seconds of the last warning; 0: none */
};

static double busy_of(const StepSeconds *seconds) {
  return seconds->computing + seconds->data;
}

TimeShares timing_shares(const StepSeconds *ranks, int size) {
  TimeShares shares = {0};
  for (int r = 0; r < size; r++) {
    double all = fmax(ranks[r].all, 1e-12) * size;
    shares.computing += ranks[r].computing / all;
    shares.data += ranks[r].data / all;
    shares.exposed += ranks[r].exposed / all;
    if (busy_of(&ranks[r]) > busy_of(&ranks[shares.slowest])) shares.slowest = r;
  }
  shares.straggler_seconds = busy_of(&ranks[shares.slowest]);
  return shares;
}

static int compare(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

int timing_straggler(const double *busy, int size, double *times) {
  int slowest = 0;
  double *sorted = mem_new((size_t)size, sizeof *sorted);
  memcpy(sorted, busy, (size_t)size * sizeof *sorted);
  qsort(sorted, (size_t)size, sizeof *sorted, compare);
  double median = sorted[(size - 1) / 2];
  free(sorted);
  for (int r = 1; r < size; r++)
    if (busy[r] > busy[slowest]) slowest = r;
  *times = busy[slowest] / fmax(median, 1e-12);
  return *times > STRAGGLES_FROM ? slowest : -1;
}

Status timing_new(Comm *comm, Timing **out, Error *error) {
  Timing *timing = mem_new(1, sizeof *timing);
  size_t size = (size_t)comm_size(comm);
  char host[HOST_SIZE] = "";
  *timing = (Timing){.comm = comm, .size = (int)size};
  timing->hosts = mem_new(size, sizeof *timing->hosts);
  timing->ranks = mem_new(size, sizeof *timing->ranks);
  timing->busy = mem_new(size, sizeof *timing->busy);
  timing->warned = mem_new(size, sizeof *timing->warned);
  timing->since = timing->judged = clock_seconds();
  if (gethostname(host, sizeof host - 1) != 0) strcpy(host, "unknown host");
  Status status = comm_all_gather(comm, host, sizeof host, timing->hosts, error);
  if (status == OK)
    *out = timing;
  else
    timing_free(timing);
  return status;
}

void timing_free(Timing *timing) {
  if (!timing) return;
  free(timing->hosts);
  free(timing->ranks);
  free(timing->busy);
  free(timing->warned);
  free(timing);
}

void timing_add(Timing *timing, double computing, double data, double exposed) {
  timing->own.computing += computing;
  timing->own.data += data;
  timing->own.exposed += exposed;
}

static void warn_of_straggler(Timing *timing, double now) {
  double times;
  int rank = timing_straggler(timing->busy, timing->size, &times);
  bool again = rank >= 0 && timing->warned[rank] > 0 && now - timing->warned[rank] < SILENT_SECONDS;
  if (rank >= 0 && !again) {
    if (comm_rank(timing->comm) == 0)
      log_warning("rank %d on %s holds the others up: in the last %.0f s it computed and waited "
                  "for data for %.1f s, %.1f times the median rank's",
                  rank, timing->hosts[rank], now - timing->judged, timing->busy[rank], times);
    timing->warned[rank] = now;
  }
  memset(timing->busy, 0, (size_t)timing->size * sizeof *timing->busy);
  timing->judged = now;
}

Status timing_gather(Timing *timing, TimeShares *out, double *seconds, Error *error) {
  double now = clock_seconds();
  timing->own.all = *seconds = now - timing->since;
  Status status =
      comm_all_gather(timing->comm, &timing->own, sizeof timing->own, timing->ranks, error);
  if (status != OK) return status;
  *out = timing_shares(timing->ranks, timing->size);
  for (int r = 0; r < timing->size; r++) timing->busy[r] += busy_of(&timing->ranks[r]);
  if (timing->size > 1 && now - timing->judged >= JUDGED_SECONDS) warn_of_straggler(timing, now);
  timing->own = (StepSeconds){0};
  timing->since = now;
  return OK;
}

void timing_restart(Timing *timing) {
  timing->own = (StepSeconds){0};
  timing->since = clock_seconds();
}

const char *timing_host(const Timing *timing, int rank) {
  return timing->hosts[rank];
}
