/* Streams, and the device thread that runs their work. */
#include "tests/emulator/device.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>

#include "tests/emulator/include/emulator.h"

namespace emulator {
namespace {

/* After this time without a call of the host, the device runs on its own: the host may be waiting
 * for another process. */
const std::chrono::milliseconds IDLE(20);
/* The longest time that a polling host (cudaEventQuery) waits for the device. */
const std::chrono::milliseconds POLL(2);

/* Never freed: the device's thread runs to the end of the process. */
struct State {
  std::mutex lock;
  std::condition_variable changed;
  std::vector<CUstream_st *> streams;
  CUstream_st default_stream;
  std::vector<const std::function<bool()> *> waits; /* of host threads */
  int credit = 0;                                   /* items that may run though no host waits */
  bool idle = false;                                /* the host has made no call for IDLE */
  bool started = false;
  uint64_t calls = 0;
  uint64_t random = 0x9e3779b97f4a7c15u;

  State() { streams.push_back(&default_stream); }
};

State &state() {
  static State *const made = new State;
  return *made;
}

bool is_pending() {
  const State &s = state();
  return std::any_of(s.streams.begin(), s.streams.end(),
                     [](const CUstream_st *stream) { return !stream->items.empty(); });
}

bool may_run() {
  const State &s = state();
  return s.idle || s.credit > 0 ||
         std::any_of(s.waits.begin(), s.waits.end(),
                     [](const std::function<bool()> *reached) { return !(*reached)(); });
}

/* True if a waiting host thread should wake up. */
bool host_can_continue() {
  const State &s = state();
  return s.credit == 0 ||
         std::any_of(s.waits.begin(), s.waits.end(),
                     [](const std::function<bool()> *reached) { return (*reached)(); });
}

bool is_ready(const CUstream_st *stream) {
  if (stream->items.empty()) return false;
  const Item &item = stream->items.front();
  return item.kind != Item::WAIT || item.event_record->done;
}

/* Runs `run` without the lock: the host may add to the queues meanwhile. */
bool run_unlocked(Guard &guard, const Run &run) {
  const Run copy = run;
  guard.unlock();
  const bool done = copy();
  guard.lock();
  return done;
}

/* Runs one node whose dependencies are done, a random one; false if none made progress. */
bool run_graph(Guard &guard, GraphRun &graph) {
  const Nodes &nodes = *graph.nodes;
  const size_t count = nodes.size(), first = count ? random_number() % count : 0;
  for (size_t i = 0; i < count; i++) {
    const size_t at = (first + i) % count;
    const Node &node = nodes[at];
    const bool ready = std::all_of(node.needs.begin(), node.needs.end(),
                                   [&](int need) { return graph.done[static_cast<size_t>(need)]; });
    if (graph.done[at] || !ready) continue;
    if (run_unlocked(guard, node.run)) {
      graph.done[at] = true;
      graph.left--;
      return true;
    }
  }
  return count == 0;
}

/* Runs the first item of a stream; false if it made no progress. */
bool run_head(Guard &guard, CUstream_st *stream) {
  const Item item = stream->items.front();
  switch (item.kind) {
  case Item::WORK:
    if (!run_unlocked(guard, item.run)) return false;
    break;
  case Item::RECORD:
    item.event_record->done = true;
    item.event_record->time = seconds();
    break;
  case Item::WAIT:
    break;
  case Item::GRAPH:
    if (item.graph->left > 0 && !run_graph(guard, *item.graph)) return false;
    if (item.graph->left > 0) return true;
    break;
  }
  stream->items.pop_front();
  return true;
}

bool run_some(Guard &guard) {
  State &s = state();
  std::vector<CUstream_st *> ready;
  for (CUstream_st *stream : s.streams) {
    if (is_ready(stream)) ready.push_back(stream);
  }
  while (!ready.empty()) {
    const size_t at = random_number() % ready.size();
    if (run_head(guard, ready[at])) {
      if (s.credit > 0) s.credit--;
      return true;
    }
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return false;
}

void wait_for_work(Guard &guard) {
  State &s = state();
  s.idle = false;
  s.credit = 0;
  if (!is_pending()) {
    s.changed.wait(guard);
    return;
  }
  const uint64_t calls = s.calls;
  s.idle = s.changed.wait_for(guard, IDLE) == std::cv_status::timeout && calls == s.calls;
}

void device() {
  State &s = state();
  Guard guard(s.lock);
  for (;;) {
    if (!is_pending() || !may_run()) {
      wait_for_work(guard);
      continue;
    }
    memory_open();
    while (is_pending() && may_run()) {
      const bool going = run_some(guard);
      if (may_run() && host_can_continue()) s.changed.notify_all();
      if (!going) s.changed.wait_for(guard, std::chrono::microseconds(100));
    }
    memory_close();
    s.credit = 0;
    s.changed.notify_all();
  }
}

void start_device() {
  State &s = state();
  if (s.started) return;
  s.started = true;
  if (const char *seed = getenv("EMULATOR_SEED")) s.random ^= strtoull(seed, nullptr, 0) << 1;
  std::thread(device).detach();
}

thread_local cudaError_t last_error = cudaSuccess;

bool is_empty(const CUstream_st *stream) {
  return stream->items.empty();
}

} // namespace

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::mutex &lock() {
  return state().lock;
}

CUstream_st *stream_of(cudaStream_t stream) {
  return stream ? stream : &state().default_stream;
}

/* Marsaglia's xorshift64*. */
uint64_t random_number() {
  uint64_t &x = state().random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  return (x * 0x2545f4914f6cdd1du) >> 16;
}

cudaError_t fail(cudaError_t error, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("emulator: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  last_error = error;
  return error;
}

void push(CUstream_st *stream, Item item) {
  State &s = state();
  start_device();
  s.calls++;
  s.idle = false;
  stream->items.push_back(std::move(item));
  s.changed.notify_all();
}

cudaError_t append(cudaStream_t handle, Run run) {
  Guard guard(lock());
  CUstream_st *stream = stream_of(handle);
  if (stream->capture) {
    add_node(stream, std::move(run));
  } else {
    push(stream, Item{Item::WORK, std::move(run), nullptr, nullptr});
  }
  return cudaSuccess;
}

cudaError_t append_copy(cudaStream_t stream, const void *parameters, size_t bytes,
                        std::function<bool(void *)> run) {
  struct alignas(16) Unit {
    char bytes[16];
  };
  auto copy = std::make_shared<std::vector<Unit>>(bytes / sizeof(Unit) + 1);
  memcpy(copy->data(), parameters, bytes);
  return append(stream, [copy, run] { return run(copy->data()); });
}

void wait_until(Guard &guard, const std::function<bool()> &reached) {
  State &s = state();
  s.calls++;
  s.waits.push_back(&reached);
  s.changed.notify_all();
  s.changed.wait(guard, reached);
  s.waits.erase(std::find(s.waits.begin(), s.waits.end(), &reached));
}

void make_progress(Guard &guard) {
  State &s = state();
  s.calls++;
  s.credit += static_cast<int>(random_number() % 16);
  s.changed.notify_all();
  s.changed.wait_for(guard, POLL, [&] { return s.credit == 0 || !is_pending(); });
}

void wait_for_all(Guard &guard) {
  wait_until(guard, [] { return !is_pending(); });
}

} // namespace emulator

using namespace emulator;

namespace {

struct Counts {
  std::mutex lock;
  std::map<std::string, uint64_t> of;
};

Counts &counts() {
  static Counts *const made = new Counts;
  return *made;
}

} // namespace

void emulator::count(const char *call) {
  std::lock_guard<std::mutex> guard(counts().lock);
  counts().of[call]++;
}

uint64_t emulator_calls(const char *name) {
  std::lock_guard<std::mutex> guard(counts().lock);
  const auto found = counts().of.find(name);
  return found == counts().of.end() ? 0 : found->second;
}

cudaError_t cudaGetLastError(void) {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

/* --- Streams ---------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int) {
  Guard guard(lock());
  *stream = new CUstream_st;
  state().streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Guard guard(lock());
  if (!stream)
    return fail(cudaErrorInvalidResourceHandle,
                "cudaStreamDestroy: the default stream cannot be destroyed");
  wait_until(guard, [=] { return is_empty(stream); });
  auto &streams = state().streams;
  streams.erase(std::find(streams.begin(), streams.end(), stream));
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  if (cudaError_t error = refuse_in_capture("cudaStreamSynchronize")) return error;
  Guard guard(lock());
  const CUstream_st *stream = stream_of(handle);
  wait_until(guard, [=] { return is_empty(stream); });
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  if (cudaError_t error = refuse_in_capture("cudaStreamQuery")) return error;
  Guard guard(lock());
  make_progress(guard);
  return is_empty(stream_of(handle)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
  if (cudaError_t error = refuse_in_capture("cudaDeviceSynchronize")) return error;
  Guard guard(lock());
  wait_for_all(guard);
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *context) {
  return append(stream, [=] {
    function(context);
    return true;
  });
}

cudaError_t emulator_enqueue_copy(cudaStream_t stream, EmulatorWork *work, const void *context,
                                  size_t bytes) {
  return append_copy(stream, context, bytes, work);
}
