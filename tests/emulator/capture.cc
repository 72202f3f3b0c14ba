/* Capturing streams as graphs: forks and joins by events, and calls that a capture forbids. */
#include "tests/emulator/device.h"

#include <algorithm>
#include <set>

#include "tests/emulator/include/emulator.h"

namespace emulator {
namespace {

/* The capture that this thread began in thread-local or global mode. */
thread_local std::shared_ptr<Capture> thread_capture;

void add_needs(std::vector<int> &needs, const std::vector<int> &more) {
  for (int need : more) {
    if (std::find(needs.begin(), needs.end(), need) == needs.end()) needs.push_back(need);
  }
}

/* Marks the nodes in `tail` and all that they depend on. */
std::vector<bool> ancestors(const Nodes &nodes, const std::vector<int> &tail) {
  std::vector<bool> found(nodes.size());
  for (int node : tail) found[static_cast<size_t>(node)] = true;
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!found[i]) continue;
    for (int need : nodes[i].needs) found[static_cast<size_t>(need)] = true;
  }
  return found;
}

void detach_streams(const std::shared_ptr<Capture> &capture) {
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
  if (!thread_capture) return cudaSuccess;
  thread_capture->invalidated = true;
  return fail(cudaErrorStreamCaptureUnsupported, "%s: not allowed during stream capture", call);
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
  stream->capture->invalidated = true;
  return fail(cudaErrorStreamCaptureUnsupported,
              "kernel %s: first launch is in a capture; launch it once before, to load it", name);
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
      return fail(cudaErrorCapturedEvent,
                  "cudaStreamWaitEvent: the capture of the event has ended");
    if (stream->capture && stream->capture != event->capture)
      return fail(cudaErrorStreamCaptureIsolation,
                  "cudaStreamWaitEvent: the event belongs to another capture");
    if (!stream->capture) {
      stream->capture = event->capture;
      stream->capture->streams.push_back(stream);
      stream->tail.clear();
    }
    add_needs(stream->tail, event->tail);
    return cudaSuccess;
  }
  if (!event->event_record) return cudaSuccess;
  if (stream->capture) {
    stream->capture->invalidated = true;
    return fail(
        cudaErrorStreamCaptureIsolation,
        "cudaStreamWaitEvent: a captured stream waits for an event recorded before its capture");
  }
  push(stream, Item{Item::WAIT, nullptr, event->event_record, nullptr});
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  Guard guard(lock());
  if (!stream)
    return fail(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
  if (stream->capture || thread_capture)
    return fail(cudaErrorStreamCaptureUnsupported,
                "cudaStreamBeginCapture: a capture is already active");
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->streams.push_back(stream);
  stream->tail.clear();
  if (mode != cudaStreamCaptureModeRelaxed) thread_capture = stream->capture;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  Guard guard(lock());
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream ? stream->capture : nullptr;
  if (!capture || capture->origin != stream)
    return fail(cudaErrorStreamCaptureUnmatched,
                "cudaStreamEndCapture: no capture began on this stream");
  const std::vector<bool> joined = ancestors(capture->nodes, stream->tail);
  detach_streams(capture);
  if (thread_capture == capture) thread_capture.reset();
  if (capture->invalidated)
    return fail(cudaErrorStreamCaptureInvalidated,
                "cudaStreamEndCapture: the capture was invalidated");
  if (std::find(joined.begin(), joined.end(), false) != joined.end())
    return fail(cudaErrorStreamCaptureUnjoined,
                "cudaStreamEndCapture: a forked stream was not joined");
  *graph = new CUgraph_st{std::make_shared<const Nodes>(std::move(capture->nodes)),
                          std::move(capture->held)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  Guard guard(lock());
  const auto &capture = stream_of(stream)->capture;
  *status = !capture               ? cudaStreamCaptureStatusNone
            : capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
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
    stream->capture->invalidated = true;
    return fail(cudaErrorStreamCaptureUnsupported, "cudaGraphLaunch: not supported in a capture");
  }
  const size_t count = executable->nodes->size();
  auto run =
      std::make_shared<GraphRun>(GraphRun{executable->nodes, std::vector<bool>(count), count});
  push(stream, Item{Item::GRAPH, nullptr, nullptr, std::move(run)});
  return cudaSuccess;
}

/* Launched graphs share ownership of their nodes. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
