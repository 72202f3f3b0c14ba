/* Captures a program as one CUDA graph. Work on other streams (collectives) joins the capture
 * through the events that order those streams with the backend's stream. */
#include "engine/cuda/runtime/cuda.h"

Status cuda_capture_begin(Backend *backend, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaStreamBeginCapture(cuda_backend(backend)->stream, cudaStreamCaptureModeThreadLocal));
done:
  return status;
}

/* UseNodePriority keeps the priority of the stream that each node was captured from. Without it all
 * nodes run at the priority of the launching stream, and collectives queue behind kernels. */
Status cuda_capture_end(Backend *backend, void **out, Error *error) {
  Status status = OK;
  cudaStream_t stream = cuda_backend(backend)->stream;
  cudaGraph_t graph = NULL;
  cudaGraphExec_t executable = NULL;
  *out = NULL;
  CUDA_TRY(cudaStreamEndCapture(stream, &graph));
  CUDA_TRY(cudaGraphInstantiate(&executable, graph, cudaGraphInstantiateFlagUseNodePriority));
  CUDA_TRY(cudaGraphUpload(executable, stream));
  *out = executable;
  executable = NULL;
done:
  if (executable) cudaGraphExecDestroy(executable);
  if (graph) cudaGraphDestroy(graph);
  if (status != OK)
    error_context(error, "capturing a CUDA graph (cuda.graphs=false runs without graphs)");
  return status;
}

Status cuda_capture_run(Backend *backend, void *captured, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaGraphLaunch(captured, cuda_backend(backend)->stream));
done:
  return status;
}

/* Waits first: the graph may still be running. */
void cuda_capture_free(Backend *backend, void *captured) {
  CudaBackend *self = cuda_backend(backend);
  if (captured && cuda_wait_stream(self, self->stream, "freeing a CUDA graph", NULL) == OK)
    cudaGraphExecDestroy(captured);
}
