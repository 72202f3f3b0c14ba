/* The core of the CUDA backend: memory, the order of copies and kernels, readbacks, captures, and
 * errors on lack of memory and on timeout. Device-to-device copies take the place of kernels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <cuda_runtime.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/thread.h"
#include "engine/backend/backend.h"
#include "engine/program/program.h"
#include "tests/gpu/support_gpu.h"

static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static void check(cudaError_t code) {
  if (code != cudaSuccess) fail_msg("%s", cudaGetErrorString(code));
}

static Backend *open_backend(bool no_graphs, double timeout) {
  const CudaOptions options = {.deterministic = true, .no_graphs = no_graphs, .timeout = timeout};
  Backend *backend = NULL;
  must(backend_cuda_new(&options, &backend, &error));
  return backend;
}

static int set_up(void **state) {
  *state = open_backend(false, 60);
  return 0;
}

static int tear_down(void **state) {
  Backend *backend = *state;
  if (backend) backend->free(backend);
  return 0;
}

static void *device_memory(Backend *backend, size_t bytes) {
  void *memory = NULL;
  must(backend->allocate(backend, bytes, "a test", &memory, &error));
  return memory;
}

/* Takes the place of a kernel: a copy in stream order. */
static void copy_on_device(Backend *backend, void *to, const void *from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, backend->stream));
}

static void fill(unsigned char *bytes, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; i++) bytes[i] = (unsigned char)((i * 31 + i / 251 + seed) & 255);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static void check_round_trip(Backend *backend, size_t bytes) {
  unsigned char *sent = mem_new(bytes + 1, 1), *back = mem_new(bytes + 1, 1);
  unsigned char *memory = device_memory(backend, bytes + 3);
  fill(sent, bytes, 7);
  must(backend->upload(backend, memory + 3, sent, bytes, &error));
  must(backend->download(backend, back, memory + 3, bytes, &error));
  assert_memory_equal(sent, back, bytes);
  assert_int_equal(back[bytes], 0);
  backend->release(backend, memory);
  free(sent);
  free(back);
}

static void test_upload_and_download_of_every_size(void **state) {
  Backend *backend = *state;
  const size_t mib = 1 << 20;
  const size_t sizes[] = {0, 1, 63, 4096, 8 * mib - 1, 8 * mib, 8 * mib + 1, 25 * mib + 5};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_round_trip(backend, sizes[i]);
}

/* More uploads than staging slots, each read by a copy on the device before the next overwrites it,
 * from one host buffer that changes right after each upload. */
static void test_uploads_run_in_stream_order(void **state) {
  enum { ROUNDS = 40, BYTES = 1000 };
  Backend *backend = *state;
  unsigned char *input = device_memory(backend, BYTES);
  unsigned char *kept = device_memory(backend, (size_t)ROUNDS * BYTES);
  unsigned char sent[BYTES], wanted[BYTES], back[BYTES];
  for (unsigned i = 0; i < ROUNDS; i++) {
    fill(sent, BYTES, i);
    must(backend->upload(backend, input, sent, BYTES, &error));
    memset(sent, 0xee, BYTES);
    copy_on_device(backend, kept + (size_t)i * BYTES, input, BYTES);
  }
  for (unsigned i = 0; i < ROUNDS; i++) {
    fill(wanted, BYTES, i);
    must(backend->download(backend, back, kept + (size_t)i * BYTES, BYTES, &error));
    assert_memory_equal(back, wanted, BYTES);
  }
  backend->release(backend, input);
  backend->release(backend, kept);
}

static void test_out_of_memory_reports_requested_and_free_bytes(void **state) {
  Backend *backend = *state;
  void *memory = NULL;
  Error refused = {0};
  assert_int_equal(backend->allocate(backend, (size_t)1 << 50, "the arena", &memory, &refused),
                   ERROR_INTERNAL);
  assert_null(memory);
  assert_non_null(strstr(refused.message, "the arena"));
  assert_non_null(strstr(refused.message, "GiB"));
  assert_non_null(strstr(refused.message, "free"));
  check_round_trip(backend, 100);
}

/* --- Readbacks -------------------------------------------------------------------------------- */

static void check_readback(Backend *backend, Readback *readback, float wanted) {
  const void *data = NULL;
  float value = 0;
  must(backend->readback_wait(backend, readback, &data, &error));
  memcpy(&value, data, sizeof value);
  assert_true(value == wanted);
}

static void test_readback_returns_the_value_at_its_start(void **state) {
  enum { COUNT = 3 };
  Backend *backend = *state;
  float *memory = device_memory(backend, sizeof *memory);
  Readback *readbacks[COUNT];
  for (int i = 0; i < COUNT; i++) {
    must(backend->readback_new(backend, sizeof *memory, &readbacks[i], &error));
    check_readback(backend, readbacks[i], 0);
  }
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < COUNT; i++) {
      const float value = (float)(10 * round + i + 1);
      must(backend->upload(backend, memory, &value, sizeof value, &error));
      must(backend->readback_start(backend, readbacks[i], memory, &error));
    }
    for (int i = 0; i < COUNT; i++)
      check_readback(backend, readbacks[i], (float)(10 * round + i + 1));
  }
  for (int i = 0; i < COUNT; i++) backend->readback_free(backend, readbacks[i]);
  backend->release(backend, memory);
}

/* --- Captures --------------------------------------------------------------------------------- */

/* x -> y on the backend's stream, y -> z on another that is forked and joined by events. */
typedef struct Forked {
  cudaStream_t side;
  cudaEvent_t fork, join;
  float *x, *y, *z;
} Forked;

static Forked forked_new(Backend *backend) {
  Forked made = {.x = device_memory(backend, sizeof(float)),
                 .y = device_memory(backend, sizeof(float)),
                 .z = device_memory(backend, sizeof(float))};
  check(cudaStreamCreateWithFlags(&made.side, cudaStreamNonBlocking));
  check(cudaEventCreateWithFlags(&made.fork, cudaEventDisableTiming));
  check(cudaEventCreateWithFlags(&made.join, cudaEventDisableTiming));
  return made;
}

static void forked_free(Backend *backend, Forked *forked) {
  backend->release(backend, forked->x);
  backend->release(backend, forked->y);
  backend->release(backend, forked->z);
  check(cudaStreamDestroy(forked->side));
  check(cudaEventDestroy(forked->fork));
  check(cudaEventDestroy(forked->join));
}

static void enqueue_forked(Backend *backend, const Forked *forked, bool joined) {
  const cudaStream_t stream = backend->stream;
  copy_on_device(backend, forked->y, forked->x, sizeof(float));
  check(cudaEventRecord(forked->fork, stream));
  check(cudaStreamWaitEvent(forked->side, forked->fork, 0));
  check(
      cudaMemcpyAsync(forked->z, forked->y, sizeof(float), cudaMemcpyDeviceToDevice, forked->side));
  check(cudaEventRecord(forked->join, forked->side));
  if (joined) check(cudaStreamWaitEvent(stream, forked->join, 0));
}

static void send(Backend *backend, float *to, float value) {
  must(backend->upload(backend, to, &value, sizeof value, &error));
}

static float fetch(Backend *backend, const float *from) {
  float value = 0;
  must(backend->download(backend, &value, from, sizeof value, &error));
  return value;
}

static void *capture_forked(Backend *backend, const Forked *forked) {
  void *captured = NULL;
  must(backend->capture_begin(backend, &error));
  enqueue_forked(backend, forked, true);
  must(backend->capture_end(backend, &captured, &error));
  return captured;
}

static void test_capture_runs_only_when_launched(void **state) {
  Backend *backend = *state;
  Forked forked = forked_new(backend);
  send(backend, forked.x, 1);
  send(backend, forked.z, -1);
  void *captured = capture_forked(backend, &forked);
  assert_true(fetch(backend, forked.z) == -1);
  for (int i = 2; i < 8; i++) {
    send(backend, forked.x, (float)i);
    must(backend->capture_run(backend, captured, &error));
    send(backend, forked.x, 100);
    assert_true(fetch(backend, forked.z) == (float)i);
  }
  backend->capture_free(backend, captured);
  forked_free(backend, &forked);
}

static void test_capture_works_after_a_failed_capture(void **state) {
  Backend *backend = *state;
  Forked forked = forked_new(backend);
  Error refused = {0};
  void *captured = NULL;
  must(backend->capture_begin(backend, &error));
  enqueue_forked(backend, &forked, false);
  assert_int_equal(backend->capture_end(backend, &captured, &refused), ERROR_INTERNAL);
  assert_null(captured);
  assert_non_null(strstr(refused.message, "cudaStreamEndCapture"));
  assert_non_null(strstr(refused.message, "cuda.graphs=false"));
  send(backend, forked.x, 5);
  captured = capture_forked(backend, &forked);
  must(backend->capture_run(backend, captured, &error));
  assert_true(fetch(backend, forked.z) == 5);
  backend->capture_free(backend, captured);
  forked_free(backend, &forked);
}

/* Runs total += 2 x + 1 and the mean of x, for five values of x. sums[2 * i] is the mean, sums[2 *
 * i + 1] an element of total. */
static void run_program(Backend *backend, float *sums) {
  enum { COUNT = 1000 };
  Buffer x = buffer_describe("x", DTYPE_F32, COUNT),
         total = buffer_describe("total", DTYPE_F32, COUNT);
  Buffer sum = buffer_describe("sum", DTYPE_F32, 1);
  Arena *arena = arena_new();
  Graph *graph = graph_new();
  Program *program = NULL;
  float values[COUNT], result[COUNT];
  must(buffer_allocate(&x, backend, &error));
  must(buffer_allocate(&total, backend, &error));
  must(buffer_allocate(&sum, backend, &error));
  const Value read = graph_view(graph, &x, 0, shape_vector(COUNT));
  graph_accumulate(graph, graph_affine(graph, read, 2, 1),
                   graph_view(graph, &total, 0, shape_vector(COUNT)));
  graph_store(graph, graph_mean(graph, read), graph_view(graph, &sum, 0, shape_scalar()));
  must(program_plan(graph, backend, &(ProgramOptions){.name = "test", .arena = arena}, &program,
                    &error));
  for (int i = 0; i < 5; i++) {
    for (int j = 0; j < COUNT; j++) values[j] = (float)((j * 37 + i * 11) % 101) / 8;
    must(buffer_upload(&x, 0, values, COUNT, &error));
    must(program_run(program, &error));
    must(buffer_download(&sum, 0, &sums[2 * i], 1, &error));
    must(buffer_download(&total, 0, result, COUNT, &error));
    sums[2 * i + 1] = result[COUNT - 1];
  }
  program_free(program);
  graph_free(graph);
  arena_free(arena);
  buffer_free(&x);
  buffer_free(&total);
  buffer_free(&sum);
}

static void test_captured_program_equals_uncaptured_program(void **state) {
  Backend *backend = *state, *plain = open_backend(true, 60);
  float captured_sums[10], plain_sums[10];
  assert_null(plain->capture_begin);
  assert_null(plain->capture_run);
  run_program(backend, captured_sums);
  run_program(plain, plain_sums);
  assert_memory_equal(captured_sums, plain_sums, sizeof plain_sums);
  assert_true(plain_sums[0] != plain_sums[2]);
  plain->free(plain);
}

/* --- Time ------------------------------------------------------------------------------------- */

static void CUDART_CB hold(void *flag) {
  while (!atomic_load((atomic_bool *)flag)) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void test_upload_does_not_wait_for_kernels(void **state) {
  enum { BYTES = 20 << 20 };
  Backend *backend = *state;
  atomic_bool go = false;
  unsigned char *sent = mem_new(BYTES, 1), *back = mem_new(BYTES, 1);
  void *memory = device_memory(backend, BYTES);
  fill(sent, BYTES, 3);
  must(backend->upload(backend, memory, sent, BYTES, &error)); /* allocates the staging slots */
  must(backend->synchronize(backend, &error));
  check(cudaLaunchHostFunc(backend->stream, hold, &go));
  must(backend->upload(backend, memory, sent, BYTES, &error));
  atomic_store(&go, true);
  must(backend->download(backend, back, memory, BYTES, &error));
  assert_memory_equal(sent, back, BYTES);
  backend->release(backend, memory);
  free(sent);
  free(back);
}

static void test_hung_device_is_an_error_after_the_timeout(void **state) {
  (void)state;
  Backend *backend = open_backend(false, 0.2);
  atomic_bool go = false;
  Error late = {0};
  const void *data = NULL;
  Readback *readback = NULL;
  float *memory = device_memory(backend, sizeof *memory);
  must(backend->readback_new(backend, sizeof *memory, &readback, &error));
  check(cudaLaunchHostFunc(backend->stream, hold, &go));
  must(backend->readback_start(backend, readback, memory, &error));
  const double begin = clock_seconds();
  assert_int_equal(backend->readback_wait(backend, readback, &data, &late), ERROR_INTERNAL);
  assert_in_range((uintmax_t)(10 * (clock_seconds() - begin)), 2, 600);
  assert_non_null(strstr(late.message, "reading results back"));
  assert_non_null(strstr(late.message, "0.2 s"));
  assert_int_equal(backend->synchronize(backend, &late), ERROR_INTERNAL);
  atomic_store(&go, true);
  check(cudaDeviceSynchronize());
  backend->readback_free(backend, readback);
  backend->release(backend, memory);
  backend->free(backend);
}

/* --- Opening ---------------------------------------------------------------------------------- */

static void test_missing_device_is_a_usage_error(void **state) {
  (void)state;
  const CudaOptions options = {.device = 4096, .timeout = 60};
  Backend *backend = NULL;
  Error refused = {0};
  assert_int_equal(backend_cuda_new(&options, &backend, &refused), ERROR_USAGE);
  assert_null(backend);
  assert_non_null(strstr(refused.message, "4096"));
}

static void test_description_names_the_device(void **state) {
  Backend *backend = *state;
  const char *text = backend->describe(backend);
  print_message("# %s\n", text);
  assert_memory_equal(text, "cuda: ", 6);
  assert_non_null(strstr(text, "GiB, sm_"));
  assert_non_null(strstr(text, "cuDNN"));
  assert_true(backend->supports_bf16(backend));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_upload_and_download_of_every_size),
      cmocka_unit_test(test_uploads_run_in_stream_order),
      cmocka_unit_test(test_out_of_memory_reports_requested_and_free_bytes),
      cmocka_unit_test(test_readback_returns_the_value_at_its_start),
      cmocka_unit_test(test_capture_runs_only_when_launched),
      cmocka_unit_test(test_capture_works_after_a_failed_capture),
      cmocka_unit_test(test_captured_program_equals_uncaptured_program),
      cmocka_unit_test(test_upload_does_not_wait_for_kernels),
      cmocka_unit_test(test_hung_device_is_an_error_after_the_timeout),
      cmocka_unit_test(test_missing_device_is_a_usage_error),
      cmocka_unit_test(test_description_names_the_device),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, set_up, tear_down);
}
