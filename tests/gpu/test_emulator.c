/* The emulator finds what it is there to find: each mistake is made in a process of its own.
 * Skipped on a real device, where most of them go unnoticed. */
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

enum { BYTES = 4096, SAID = 4000 };

typedef int Mistake(void); /* the process's exit code */

typedef struct Outcome {
  int code; /* -1: it did not exit by itself */
  char said[SAID];
} Outcome;

/* `seed` decides which stream goes first. */
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
    signal(SIGSEGV, SIG_DFL); /* cmocka's would go on with the next test */
    signal(SIGABRT, SIG_DFL);
    setenv("EMULATOR_SEED", text, 1);
    _exit(mistake());
  }
  close(pipes[1]);
  while (got < SAID - 1 && (part = read(pipes[0], outcome.said + got, SAID - 1 - got)) > 0)
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
  print_message("SKIP: this is not the emulator\n");
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
  Jit *jit = NULL;
  JitKernel *kernel = NULL;
  float *memory = device_memory(BYTES);
  Status status = jit_new(9, 0, NULL, &jit, &error);
  if (status == OK) status = jit_kernel(jit, "tested", source, &kernel, &error);
  if (status == OK)
    status = jit_launch(kernel, (dim3){2, 1, 1}, 64, 0, (const void *)&memory, NULL, &error);
  if (status != OK) fprintf(stderr, "%s\n", error.message);
  const cudaError_t code = cudaDeviceSynchronize();
  jit_free(jit);
  return status != OK || code != cudaSuccess;
}

#define KERNEL(...)                                                                                \
  "struct P { float *x; };\n"                                                                      \
  "extern \"C\" __global__ void tested(const struct P p) {\n" #__VA_ARGS__ "\n}\n"

static int right_kernel(void) {
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

static void test_a_right_kernel_runs(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(right_kernel, 1);
  print_message("%s", outcome.said);
  assert_int_equal(outcome.code, 0);
}

static void test_a_thread_that_misses_a_barrier(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(missed_barrier, 1);
  assert_int_not_equal(outcome.code, 0);
  assert_non_null(strstr(outcome.said, "kernel tested"));
  assert_non_null(strstr(outcome.said, "thread 7 has ended"));
}

static void test_a_lane_that_misses_a_shuffle(void **state) {
  (void)state;
  skip_on_a_device();
  const Outcome outcome = run_alone(missing_lane, 1);
  assert_int_not_equal(outcome.code, 0);
  assert_non_null(strstr(outcome.said, "waits for its warp's values"));
}

/* --- Memory ----------------------------------------------------------------------------------- */

static int host_reads_device_memory(void) {
  const volatile float *memory = device_memory(BYTES);
  return memory[3] == 0; /* exits with 0 where nobody minds: it holds no number */
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

static void test_memory_that_must_not_be_touched(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_not_equal(run_alone(host_reads_device_memory, 1).code, 0);
  assert_int_equal(run_alone(copy_past_the_end, 1).code, 1);
  assert_int_equal(run_alone(pageable_asynchronous_copy, 1).code, 1);
}

/* --- Order ------------------------------------------------------------------------------------ */

/* Two streams, the second reads what the first writes. 1: it read the wrong thing. */
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

static void test_a_missing_event_shows(void **state) {
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

static void test_waiting_within_a_capture_is_refused(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(wait_in_a_capture, 1).code, 1);
}

static int first_launch_in_a_capture(void) {
  static const char source[] = KERNEL(p.x[threadIdx.x] = 1;);
  Error error = {0};
  Jit *jit = NULL;
  JitKernel *kernel = NULL;
  cudaStream_t stream;
  cudaGraph_t graph = NULL;
  float *memory = device_memory(BYTES);
  if (jit_new(9, 0, NULL, &jit, &error) != OK ||
      jit_kernel(jit, "tested", source, &kernel, &error) != OK)
    return 2;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  const Status launched =
      jit_launch(kernel, (dim3){1, 1, 1}, 32, 0, (const void *)&memory, stream, &error);
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  jit_free(jit);
  return launched != OK && ended != cudaSuccess && !graph;
}

static int external_event_of_no_capture(void) {
  cudaStream_t stream;
  cudaEvent_t event;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&event, cudaEventDefault);
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal) == cudaErrorInvalidValue;
}

static void test_what_a_capture_must_not_hold_is_refused(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(first_launch_in_a_capture, 1).code, 1);
  assert_int_equal(run_alone(external_event_of_no_capture, 1).code, 1);
}

/* --- NCCL ---------------------------------------------------------------------------------------
 */

static ncclComm_t alone(void) {
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

static int ends_before_its_graph(void) {
  cudaStream_t stream;
  cudaGraph_t graph = NULL;
  ncclComm_t comm = alone();
  float *memory = device_memory(BYTES);
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (ncclAllReduce(memory, memory, 4, ncclFloat32, ncclAvg, comm, stream) != ncclSuccess) return 2;
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess) return 3;
  if (ncclCommFinalize(comm) != ncclInvalidUsage) return 4;
  cudaGraphDestroy(graph);
  return ncclCommFinalize(comm) == ncclInProgress;
}

static int ends_behind_its_memory(void) {
  void *handle = NULL, *memory = device_memory(BYTES);
  ncclComm_t comm = alone();
  if (ncclCommRegister(comm, memory, BYTES, &handle) != ncclSuccess) return 2;
  cudaFree(memory);
  return ncclCommDeregister(comm, handle) == ncclInvalidUsage;
}

static void test_a_communicator_outlives_graphs_and_not_memory(void **state) {
  (void)state;
  skip_on_a_device();
  assert_int_equal(run_alone(ends_before_its_graph, 1).code, 1);
  assert_int_equal(run_alone(ends_behind_its_memory, 1).code, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_a_capture_must_not_hold_is_refused),
      cmocka_unit_test(test_a_communicator_outlives_graphs_and_not_memory),
      cmocka_unit_test(test_a_right_kernel_runs),
      cmocka_unit_test(test_a_thread_that_misses_a_barrier),
      cmocka_unit_test(test_a_lane_that_misses_a_shuffle),
      cmocka_unit_test(test_memory_that_must_not_be_touched),
      cmocka_unit_test(test_a_missing_event_shows),
      cmocka_unit_test(test_waiting_within_a_capture_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
