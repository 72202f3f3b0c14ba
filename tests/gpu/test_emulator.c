/* The emulator detects common mistakes in kernels and in the use of streams, captures and NCCL.
 * Each mistake runs in a process of its own. Skipped on a real device, where most go unnoticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <cuda_runtime.h>
#include <nccl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/cuda/nvrtc/nvrtc.h"

enum { BYTES = 4096, OUTPUT_SIZE = 4000 };

typedef int Mistake(void); /* returns the exit code of its process */

typedef struct Outcome {
  int code; /* exit code; -1: ended by a signal */
  char output[OUTPUT_SIZE];
} Outcome;

/* Runs it in a child process; `seed` determines the order of streams. */
static Outcome run_alone(Mistake *mistake, int seed) {
  Outcome outcome = {.code = -1};
  int pipes[2], state = 0;
  size_t got = 0;
  ssize_t part = 0;
  assert_int_equal(pipe(pipes), 0);
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    char text[16];
    dup2(pipes[1], STDERR_FILENO);
    close(pipes[0]);
    snprintf(text, sizeof text, "%d", seed);
    signal(SIGSEGV, SIG_DFL); /* cmocka's handlers would continue with the next test */
    signal(SIGABRT, SIG_DFL);
    setenv("EMULATOR_SEED", text, 1);
    _exit(mistake());
  }
  close(pipes[1]);
  while (got < OUTPUT_SIZE - 1 &&
         (part = read(pipes[0], outcome.output + got, OUTPUT_SIZE - 1 - got)) > 0)
    got += (size_t)part;
  close(pipes[0]);
  assert_int_equal(waitpid(child, &state, 0), child);
  if (WIFEXITED(state)) outcome.code = WEXITSTATUS(state);
  return outcome;
}

static void skip_on_a_device(void) {
  struct cudaDeviceProp info;
  if (cudaGetDeviceProperties(&info, 0) == cudaSuccess && strcmp(info.name, "emulated GPU") == 0)
    return;
  print_message("SKIP: for the emulator only\n");
  skip();
}

static void *device_memory(size_t bytes) {
  void *memory = NULL;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) abort();
  return memory;
}

/* --- Kernels ---------------------------------------------------------------------------------- */

static int launch(const char *source) {
  Error error = {0};
  Nvrtc *nvrtc = NULL;
  NvrtcKernel *kernel = NULL;
  float *memory = device_memory(BYTES);
  Status status = nvrtc_new(9, 0, NULL, &nvrtc, &error);
  if (status == OK) status = nvrtc_kernel(nvrtc, "tested", source, &kernel, &error);
  if (status == OK)
    status = nvrtc_launch(kernel, (dim3){2, 1, 1}, 64, 0, (const void *)&memory, NULL, &error);
  if (status != OK) fprintf(stderr, "%s\n", error.message);
  const cudaError_t code = cudaDeviceSynchronize();
  nvrtc_free(nvrtc);
  return status != OK || code != cudaSuccess;
}

#define KERNEL(...)                                                                                \
  "struct P { float *x; };\n"                                                                      \
  "extern \"C\" __global__ void tested(const struct P p) {\n" #__VA_ARGS__ "\n}\n"

static int correct_kernel(void) {
  return launch(KERNEL(__shared__ float sum[64]; sum[threadIdx.x] = 1; __syncthreads();
                       float v = __shfl_xor_sync(~0u, sum[63 - threadIdx.x], 1);
                       p.x[blockIdx.x * blockDim.x + threadIdx.x] = v;));
}

static int missed_barrier(void) {
  return launch(KERNEL(if (threadIdx.x == 7) return; __syncthreads(); p.x[threadIdx.x] = 1;));
}

static int missing_lane(void) {
  return launch(KERNEL(if (threadIdx.x < 40) p.x[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);));
}

static void test_correct_kernel_runs(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(correct_kernel, 1);
  print_message("%s", outcome.output);
  assert_int_equal(outcome.code, 0);
}

static void test_thread_missing_at_a_barrier_is_reported(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(missed_barrier, 1);
  assert_int_not_equal(outcome.code, 0);
  assert_non_null(strstr(outcome.output, "kernel tested"));
  assert_non_null(strstr(outcome.output, "thread 7 has ended"));
}

static void test_lane_missing_in_a_shuffle_is_reported(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(missing_lane, 1);
  assert_int_not_equal(outcome.code, 0);
  assert_non_null(strstr(outcome.output, "waits for its warp's values"));
}

/* --- Memory ----------------------------------------------------------------------------------- */

static int host_reads_device_memory(void) {
  const volatile float *memory = device_memory(BYTES);
  return memory[3] == 0; /* exit code 0 if the access is not detected: the memory holds NaN */
}

static int copy_past_the_end(void) {
  void *from = device_memory(BYTES), *to = device_memory(BYTES);
  return cudaMemcpyAsync(to, from, BYTES + 1, cudaMemcpyDeviceToDevice, NULL) ==
         cudaErrorInvalidValue;
}

static int pageable_asynchronous_copy(void) {
  static char host[BYTES];
  return cudaMemcpyAsync(device_memory(BYTES), host, BYTES, cudaMemcpyHostToDevice, NULL) ==
         cudaErrorInvalidValue;
}

static void test_invalid_memory_accesses_are_rejected(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_not_equal(run_alone(host_reads_device_memory, 1).code, 0);
  assert_int_equal(run_alone(copy_past_the_end, 1).code, 1);
  assert_int_equal(run_alone(pageable_asynchronous_copy, 1).code, 1);
}

/* --- Order ------------------------------------------------------------------------------------ */

/* The second of two streams reads what the first writes. Returns 1 if it read another value. */
static int read_across_streams(bool with_event) {
  cudaStream_t a, b;
  cudaEvent_t event;
  void *memory = device_memory(4);
  unsigned char *host = NULL;
  if (cudaMallocHost((void **)&host, 4) != cudaSuccess ||
      cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking) != cudaSuccess ||
      cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking) != cudaSuccess ||
      cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess)
    abort();
  cudaMemsetAsync(memory, 5, 4, a);
  cudaEventRecord(event, a);
  if (with_event) cudaStreamWaitEvent(b, event, 0);
  cudaMemcpyAsync(host, memory, 4, cudaMemcpyDeviceToHost, b);
  cudaStreamSynchronize(b);
  return host[0] != 5;
}

static int without_event(void) {
  return read_across_streams(false);
}

static int with_event(void) {
  return read_across_streams(true);
}

static void test_missing_event_between_streams_shows(void **state) {
  (void)state;
  int wrong = 0;
  skip_on_a_device();
  for (int seed = 1; seed <= 8; seed++) {
    assert_int_equal(run_alone(with_event, seed).code, 0);
    wrong += run_alone(without_event, seed).code != 0;
  }
  assert_in_range(wrong, 1, 8);
}

static int wait_in_a_capture(void) {
  cudaStream_t stream;
  cudaGraph_t graph = NULL;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  const cudaError_t waited = cudaStreamSynchronize(stream);
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  return waited == cudaErrorStreamCaptureUnsupported && ended != cudaSuccess && !graph;
}

static void test_waiting_in_a_capture_is_rejected(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(wait_in_a_capture, 1).code, 1);
}

static int first_launch_in_a_capture(void) {
  static const char source[] = KERNEL(p.x[threadIdx.x] = 1;);
  Error error = {0};
  Nvrtc *nvrtc = NULL;
  NvrtcKernel *kernel = NULL;
  cudaStream_t stream;
  cudaGraph_t graph = NULL;
  float *memory = device_memory(BYTES);
  if (nvrtc_new(9, 0, NULL, &nvrtc, &error) != OK ||
      nvrtc_kernel(nvrtc, "tested", source, &kernel, &error) != OK)
    return 2;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  const Status launched =
      nvrtc_launch(kernel, (dim3){1, 1, 1}, 32, 0, (const void *)&memory, stream, &error);
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  nvrtc_free(nvrtc);
  return launched != OK && ended != cudaSuccess && !graph;
}

static int external_event_outside_of_a_capture(void) {
  cudaStream_t stream;
  cudaEvent_t event;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDefault);
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal) == cudaErrorInvalidValue;
}

static void test_first_launch_and_external_event_in_a_capture_are_rejected(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(first_launch_in_a_capture, 1).code, 1);
  assert_int_equal(run_alone(external_event_outside_of_a_capture, 1).code, 1);
}

/* --- NCCL ------------------------------------------------------------------------------------- */

static ncclComm_t single_rank_communicator(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclUniqueId id;
  ncclComm_t comm = NULL;
  ncclResult_t state = ncclInProgress;
  config.blocking = 0;
  if (ncclGetUniqueId(&id) != ncclSuccess) abort();
  ncclCommInitRankConfig(&comm, 1, id, 0, &config);
  while (state == ncclInProgress) ncclCommGetAsyncError(comm, &state);
  if (state != ncclSuccess) abort();
  return comm;
}

static int finalize_before_the_graph_is_destroyed(void) {
  cudaStream_t stream;
  cudaGraph_t graph = NULL;
  ncclComm_t comm = single_rank_communicator();
  float *memory = device_memory(BYTES);
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (ncclAllReduce(memory, memory, 4, ncclFloat32, ncclAvg, comm, stream) != ncclSuccess) return 2;
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess) return 3;
  if (ncclCommFinalize(comm) != ncclInvalidUsage) return 4;
  cudaGraphDestroy(graph);
  return ncclCommFinalize(comm) == ncclInProgress;
}

static int deregister_freed_memory(void) {
  void *handle = NULL, *memory = device_memory(BYTES);
  ncclComm_t comm = single_rank_communicator();
  if (ncclCommRegister(comm, memory, BYTES, &handle) != ncclSuccess) return 2;
  cudaFree(memory);
  return ncclCommDeregister(comm, handle) == ncclInvalidUsage;
}

static void test_nccl_use_after_free_is_rejected(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(finalize_before_the_graph_is_destroyed, 1).code, 1);
  assert_int_equal(run_alone(deregister_freed_memory, 1).code, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_first_launch_and_external_event_in_a_capture_are_rejected),
      cmocka_unit_test(test_nccl_use_after_free_is_rejected),
      cmocka_unit_test(test_correct_kernel_runs),
      cmocka_unit_test(test_thread_missing_at_a_barrier_is_reported),
      cmocka_unit_test(test_lane_missing_in_a_shuffle_is_reported),
      cmocka_unit_test(test_invalid_memory_accesses_are_rejected),
      cmocka_unit_test(test_missing_event_between_streams_shows),
      cmocka_unit_test(test_waiting_in_a_capture_is_rejected),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
