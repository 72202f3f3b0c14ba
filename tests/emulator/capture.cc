/* Capturing streams as graphs: forks and joins by events, and what is not allowed meanwhile. */
#include "tests/emulator/device.h"

#include <algorithm>
#include <set>

#include "tests/emulator/include/emulator.h"

namespace emulator {
namespace {

/* The capture that this thread began, in the thread-local or global mode. */
thread_local std::shared_ptr<Capture> of_this_thread;

void add_needs(std::vector<int> &needs, const std::vector<int> &more) {
  for (int need : more) {
    if (std::find(needs.begin(), needs.end(), need) == needs.end()) needs.push_back(need);
  }
}

/* Everything that the nodes in `tail` come behind, and themselves. */
std::vector<bool> before(const Nodes &nodes, const std::vector<int> &tail) {
  std::vector<bool> found(nodes.size());
  for (int node : tail) found[static_cast<size_t>(node)] = true;
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!found[i]) continue;
    for (int need : nodes[i].needs) found[static_cast<size_t>(need)] = true;
  }
  return found;
}

void leave(const std::shared_ptr<Capture> &capture) {
  for (CUstream_st *stream : capture->streams) {
    stream->capture.reset();
    stream->tail.clear();
  }
  capture->streams.clear();
}

} // namespace

void add_node(CUstream_st *stream, Run run) {
  Nodes &nodes = stream->capture->nodes;
  nodes.push_back(Node{std::move(run), stream->tail});
  stream->tail.assign(1, static_cast<int>(nodes.size()) - 1);
}

cudaError_t refuse_in_capture(const char *call) {
  count(call);
  if (!of_this_thread) return cudaSuccess;
  of_this_thread->broken = true;
  return fail(cudaErrorStreamCaptureUnsupported, "%s: not while a stream is being captured", call);
}

cudaError_t refuse_first_launch(cudaStream_t handle, void (*kernel)(), const char *name) {
  static std::set<void (*)()> *const loaded = new std::set<void (*)()>;
  Guard guard(lock());
  CUstream_st *stream = stream_of(handle);
  if (loaded->count(kernel)) return cudaSuccess;
  if (!stream->capture) {
    loaded->insert(kernel);
    return cudaSuccess;
  }
  stream->capture->broken = true;
  return fail(cudaErrorStreamCaptureUnsupported,
              "kernel %s: its first launch, which loads it, is in a capture", name);
}

} // namespace emulator

using namespace emulator;

int emulator_hold_by_graph(cudaStream_t handle, void (*release)(void *), void *context) {
  Guard guard(lock());
  const CUstream_st *stream = stream_of(handle);
  if (!stream->capture) return 0;
  stream->capture->held.push_back(std::shared_ptr<void>(context, release));
  return 1;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  Guard guard(lock());
  CUstream_st *stream = stream_of(handle);
  if (event->capture) {
    if (event->capture->streams.empty())
      return fail(cudaErrorCapturedEvent, "cudaStreamWaitEvent: the event's capture has ended");
    if (stream->capture && stream->capture != event->capture)
      return fail(cudaErrorStreamCaptureIsolation,
                  "cudaStreamWaitEvent: an event of another capture");
    if (!stream->capture) {
      stream->capture = event->capture;
      stream->capture->streams.push_back(stream);
      stream->tail.clear();
    }
    add_needs(stream->tail, event->tail);
    return cudaSuccess;
  }
  if (!event->mark) return cudaSuccess;
  if (stream->capture) {
    stream->capture->broken = true;
    return fail(
        cudaErrorStreamCaptureIsolation,
        "cudaStreamWaitEvent: a captured stream waits for an event from before its capture");
  }
  push(stream, Item{Item::WAIT, nullptr, event->mark, nullptr});
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  Guard guard(lock());
  if (!stream)
    return fail(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
  if (stream->capture || of_this_thread)
    return fail(cudaErrorStreamCaptureUnsupported,
                "cudaStreamBeginCapture: a capture is under way");
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->streams.push_back(stream);
  stream->tail.clear();
  if (mode != cudaStreamCaptureModeRelaxed) of_this_thread = stream->capture;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  Guard guard(lock());
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream ? stream->capture : nullptr;
  if (!capture || capture->origin != stream)
    return fail(cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture: no capture began here");
  const std::vector<bool> joined = before(capture->nodes, stream->tail);
  leave(capture);
  if (of_this_thread == capture) of_this_thread.reset();
  if (capture->broken)
    return fail(cudaErrorStreamCaptureInvalidated, "cudaStreamEndCapture: the capture was broken");
  if (std::find(joined.begin(), joined.end(), false) != joined.end())
    return fail(cudaErrorStreamCaptureUnjoined,
                "cudaStreamEndCapture: work of a forked stream was not joined");
  *graph = new CUgraph_st{std::make_shared<const Nodes>(std::move(capture->nodes)),
                          std::move(capture->held)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  Guard guard(lock());
  const auto &capture = stream_of(stream)->capture;
  *status = !capture          ? cudaStreamCaptureStatusNone
            : capture->broken ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
  static thread_local enum cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (cudaError_t error = refuse_in_capture("cudaGraphInstantiate")) return error;
  if (flags & ~static_cast<unsigned long long>(cudaGraphInstantiateFlagUseNodePriority))
    return fail(cudaErrorInvalidValue, "cudaGraphInstantiate: flags %llu", flags);
  *executable = new CUgraphExec_st{graph->nodes, graph->held};
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  count("cudaGraphLaunch");
  Guard guard(lock());
  CUstream_st *stream = stream_of(handle);
  if (stream->capture) {
    stream->capture->broken = true;
    return fail(cudaErrorStreamCaptureUnsupported, "cudaGraphLaunch: a graph within a capture");
  }
  const size_t count = executable->nodes->size();
  auto run =
      std::make_shared<GraphRun>(GraphRun{executable->nodes, std::vector<bool>(count), count});
  push(stream, Item{Item::GRAPH, nullptr, nullptr, std::move(run)});
  return cudaSuccess;
}

/* What is under way keeps its nodes. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
