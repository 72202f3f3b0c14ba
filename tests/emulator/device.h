/* Internals of the emulator.
 *
 * One lock guards all state. One thread, the device, runs all work: as late as possible, that is
 * when a host thread waits or polls, or when the host has not used the device for a while (it may
 * wait for another process that waits for this one). The next stream is a seeded random choice
 * among those that are ready, so that runs can be repeated. The host cannot access device memory:
 * its pages are accessible only while device work runs. */
#ifndef CELFORGE_TESTS_EMULATOR_DEVICE_H
#define CELFORGE_TESTS_EMULATOR_DEVICE_H

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace emulator {

using Run = std::function<bool()>; /* returns true when done; else it is called again */

/* One recording of an event in a stream. */
struct EventRecord {
  bool done = false;
  double time = 0;
};

struct Node {
  Run run;
  std::vector<int> needs; /* nodes that it depends on */
};
using Nodes = std::vector<Node>;

/* A launched graph. */
struct GraphRun {
  std::shared_ptr<const Nodes> nodes;
  std::vector<bool> done;
  size_t left;
};

struct Item {
  enum Kind { WORK, RECORD, WAIT, GRAPH } kind;
  Run run;                                   /* WORK */
  std::shared_ptr<EventRecord> event_record; /* RECORD, WAIT */
  std::shared_ptr<GraphRun> graph;           /* GRAPH */
};

struct Capture {
  std::vector<std::shared_ptr<void>> held; /* released with the last graph made from it */
  CUstream_st *origin;
  std::vector<CUstream_st *> streams; /* origin and forked streams */
  Nodes nodes;
  bool invalidated = false;
};

} // namespace emulator

struct CUstream_st {
  std::deque<emulator::Item> items;
  std::shared_ptr<emulator::Capture> capture; /* NULL: not being captured */
  std::vector<int> tail;                      /* capture: nodes that the next node depends on */
};

struct CUevent_st {
  bool timed = true;
  std::shared_ptr<emulator::EventRecord> event_record; /* NULL: never recorded */
  std::shared_ptr<emulator::Capture> capture;          /* in which it was last recorded */
  std::vector<int> tail;
};

struct CUgraph_st {
  std::shared_ptr<const emulator::Nodes> nodes;
  std::vector<std::shared_ptr<void>> held;
};

struct CUgraphExec_st {
  std::shared_ptr<const emulator::Nodes> nodes;
  std::vector<std::shared_ptr<void>> held;
};

namespace emulator {

std::mutex &lock();
using Guard = std::unique_lock<std::mutex>;

/* The stream of a handle; NULL is the default stream, which does not synchronize with others. */
CUstream_st *stream_of(cudaStream_t stream);

/* Prints "emulator: ..." and returns `error`, which also becomes the last error. */
cudaError_t fail(cudaError_t error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Enqueues work on the stream, or adds it to the stream's capture. */
cudaError_t append(cudaStream_t stream, Run run);
cudaError_t append_copy(cudaStream_t stream, const void *parameters, size_t bytes,
                        std::function<bool(void *parameters)> run);

/* With the lock held. */
void push(CUstream_st *stream, Item item);
void add_node(CUstream_st *stream, Run run);
void wait_until(Guard &guard, const std::function<bool()> &reached);
void make_progress(Guard &guard); /* lets the device run a random number of items, perhaps none */
void wait_for_all(Guard &guard);
uint64_t random_number();

double seconds(); /* a monotonic clock */

/* Counts a call for emulator_calls. Call without the lock. */
void count(const char *call);

/* Counts the call; fails if this thread is capturing, and invalidates the capture. */
cudaError_t refuse_in_capture(const char *call);

/* Fails for a kernel's first launch in a capture: it would load the module, which is not allowed.
 */
cudaError_t refuse_first_launch(cudaStream_t stream, void (*kernel)(), const char *name);

/* Memory, with the lock held. */
void memory_open();
void memory_close();

/* Runs a whole kernel; on the device's thread. */
void run_kernel(const EmulatorLaunch &launch, const void *parameters);

} // namespace emulator

#endif
