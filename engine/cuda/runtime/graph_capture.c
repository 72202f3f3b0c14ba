/* A program as one CUDA graph. What other streams add to it (collectives on theirs) is captured
 * through the events that order them with the backend's stream. */
#include "engine/cuda/runtime/cuda.h"

Status cuda_capture_begin(Backend *backend, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaStreamBeginCapture(cuda_backend(backend)->stream, cudaStreamCaptureModeThreadLocal));
done:
  return status;
}

/* Nodes keep the priorities of the streams they were captured from: without the flag all would have
 * that of the stream the graph is started in, and collectives wait behind kernels. */
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
    error_context(error, "capturing a CUDA graph, which cuda.graphs=false does without");
  return status;
}

Status cuda_capture_run(Backend *backend, void *captured, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaGraphLaunch(captured, cuda_backend(backend)->stream));
done:
  return status;
}

/* It may be under way. */
void cuda_capture_free(Backend *backend, void *captured) {
  CudaBackend *self = cuda_backend(backend);
  if (captured && cuda_wait_stream(self, self->stream, "freeing a graph", NULL) == OK)
    cudaGraphExecDestroy(captured);
}
