/* What the files of the emulator share.
 *
 * One lock guards everything. Work is run by one thread, the device: never while the host goes
 * about its business, but when a thread of the host waits or asks whether something is done, or
 * when the host has done nothing with the device for a while (it may wait for another process that
 * waits for this one). Which of the streams that may go on does so is a seeded random choice, so
 * that a run can be repeated. Device memory cannot be touched but while work runs. */
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

using Run = std::function<bool()>; /* whether it is done; called again where not */

/* A point in a stream that an event stands for. */
struct Mark {
  bool done = false;
  double time = 0;
};

struct Node {
  Run run;
  std::vector<int> needs; /* nodes before it */
};
using Nodes = std::vector<Node>;

/* A graph that is under way. */
struct GraphRun {
  std::shared_ptr<const Nodes> nodes;
  std::vector<bool> done;
  size_t left;
};

struct Item {
  enum Kind { WORK, RECORD, WAIT, GRAPH } kind;
  Run run;                         /* WORK */
  std::shared_ptr<Mark> mark;      /* RECORD, WAIT */
  std::shared_ptr<GraphRun> graph; /* GRAPH */
};

struct Capture {
  std::vector<std::shared_ptr<void>> held; /* until the graph and all made of it are gone */
  CUstream_st *origin;
  std::vector<CUstream_st *> streams; /* origin and those that joined */
  Nodes nodes;
  bool broken = false;
};

} // namespace emulator

struct CUstream_st {
  std::deque<emulator::Item> items;
  std::shared_ptr<emulator::Capture> capture; /* NULL where it is not being captured */
  std::vector<int> tail;                      /* of the capture: what comes next needs these */
};

struct CUevent_st {
  bool timed = true;
  std::shared_ptr<emulator::Mark> mark;       /* NULL: never recorded */
  std::shared_ptr<emulator::Capture> capture; /* recorded there last */
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

/* The stream behind a handle: the default one for NULL. It orders nothing but itself. */
CUstream_st *stream_of(cudaStream_t stream);

/* Prints "emulator: ..." and gives the error back, which cudaGetLastError then has. */
cudaError_t fail(cudaError_t error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts work behind the stream's, or into its capture. */
cudaError_t append(cudaStream_t stream, Run run);
cudaError_t append_copy(cudaStream_t stream, const void *parameters, size_t bytes,
                        std::function<bool(void *parameters)> run);

/* With the lock held. */
void push(CUstream_st *stream, Item item);
void add_node(CUstream_st *stream, Run run);
void wait_until(Guard &guard, const std::function<bool()> &reached);
void go_on_a_little(Guard &guard); /* the device may do some of its work, or none */
void wait_for_all(Guard &guard);
uint64_t random_number();

/* Notes a call for emulator_calls; without the lock. */
void count(const char *call);

/* Counts the call; fails where this thread is capturing and it is not allowed then. */
cudaError_t refuse_in_capture(const char *call);

/* A kernel's first launch loads its code, which no capture may hold. */
cudaError_t refuse_first_launch(cudaStream_t stream, void (*kernel)(), const char *name);

/* Memory, with the lock held. */
void memory_open();
void memory_close();

/* Runs a whole kernel; on the device's thread. */
void run_kernel(const EmulatorLaunch &launch, const void *parameters);

} // namespace emulator

#endif
