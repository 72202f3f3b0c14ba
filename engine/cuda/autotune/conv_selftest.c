/* The self-test of the convolutions: small shapes of every kind and pass, compared in full with
 * reference loops on the device. It runs before training, since a wrong engine is a property of the
 * device and the library, not of a run, and so that a failure ends the start with one clear error.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/autotune/conv_kernel.h"
#include "engine/cuda/convolution/reference.h"

typedef struct SelfTestCase {
  DType dtype;
  int64_t x[RANK], outputs, taps[3];
  int stride[3], before[3], after[3];
  bool bias; /* bias and leaky ReLU in the forward pass */
} SelfTestCase;

/* The kinds of convolution in our networks: per frame, causal in time, with few input or output
 * channels, strided. */
static const SelfTestCase cases[] = {
    {DTYPE_BF16, {2, 2, 32, 32, 64}, 64, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, false},
    {DTYPE_BF16, {1, 4, 18, 18, 64}, 64, {3, 3, 3}, {1, 1, 1}, {2, 0, 0}, {0, 0, 0}, false},
    {DTYPE_BF16, {1, 6, 16, 24, 128}, 64, {3, 3, 3}, {1, 1, 1}, {2, 1, 1}, {0, 1, 1}, false},
    {DTYPE_BF16, {1, 2, 38, 38, 3}, 32, {1, 7, 7}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, false},
    {DTYPE_BF16, {2, 1, 33, 33, 6}, 64, {1, 4, 4}, {1, 2, 2}, {0, 2, 2}, {0, 2, 2}, true},
    {DTYPE_BF16, {1, 5, 24, 24, 32}, 64, {3, 5, 5}, {1, 2, 2}, {1, 2, 2}, {1, 2, 2}, true},
    {DTYPE_BF16, {1, 2, 30, 30, 32}, 3, {1, 7, 7}, {1, 1, 1}, {0, 3, 3}, {0, 3, 3}, false},
    {DTYPE_F32, {1, 3, 15, 17, 20}, 12, {3, 3, 3}, {1, 1, 1}, {2, 1, 1}, {0, 1, 1}, false},
};
enum { CASES = sizeof cases / sizeof *cases };

static const float SLOPE = 0.2f;

/* --- Tensors ---------------------------------------------------------------------------------- */
typedef struct SelfTestTensors {
  Tensor x, w, y, bias; /* random operands */
  Tensor result;        /* of the kernel */
  float *reference;     /* the expected result */
  void *workspace;
} SelfTestTensors;

/* Fills the memory with NaN. Waits for the default stream, since the backend's does not. */
static Status allocate(size_t bytes, void **out, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaMalloc(out, bytes));
  CUDA_TRY(cudaMemset(*out, 0xff, bytes));
  CUDA_TRY(cudaStreamSynchronize(NULL));
done:
  return status;
}

static Status random_tensor(Shape shape, DType dtype, double scale, Random *random, Tensor *out,
                            Error *error) {
  Status status = OK;
  const size_t count = (size_t)shape_count(shape), bytes = count * dtype_size(dtype);
  void *host = mem_new(count, sizeof(float));
  *out = (Tensor){.shape = shape, .dtype = dtype};
  for (size_t i = 0; i < count; i++) {
    const float value = (float)scale * random_normal(random);
    if (dtype == DTYPE_BF16)
      ((uint16_t *)host)[i] = bf16_from_f32(value);
    else
      ((float *)host)[i] = value;
  }
  TRY(allocate(bytes, &out->data, error));
  CUDA_TRY(cudaMemcpy(out->data, host, bytes, cudaMemcpyHostToDevice));
  CUDA_TRY(cudaStreamSynchronize(NULL));
done:
  free(host);
  return status;
}

static void free_tensors(SelfTestTensors *tensors) {
  void *const all[] = {tensors->x.data,    tensors->w.data,      tensors->y.data,
                       tensors->bias.data, tensors->result.data, tensors->reference,
                       tensors->workspace};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i]) cudaFree(all[i]);
}

static Shape output_shape(const SelfTestCase *c) {
  int64_t length[3];
  for (int i = 0; i < 3; i++)
    length[i] = (c->x[1 + i] + c->before[i] + c->after[i] - c->taps[i]) / c->stride[i] + 1;
  return shape_make(c->x[0], length[0], length[1], length[2], c->outputs);
}

static Status make_tensors(const SelfTestCase *c, ConvolutionPass pass, SelfTestTensors *m,
                           Error *error) {
  Status status = OK;
  const Shape x = shape_make(c->x[0], c->x[1], c->x[2], c->x[3], c->x[4]), y = output_shape(c);
  const Shape w = shape_make(c->outputs, c->taps[0], c->taps[1], c->taps[2], c->x[4]);
  const double fan_in = (double)shape_count(w) / (double)c->outputs;
  Random random = random_stream(1, RANDOM_TEST, (uint64_t)(c - cases), (uint32_t)pass);
  const Shape results[] = {y, x, w};
  const DType dtype = pass == CONVOLUTION_BACKWARD_WEIGHTS ? DTYPE_F32 : c->dtype;
  const size_t count = (size_t)shape_count(results[pass]);
  TRY(random_tensor(x, c->dtype, 1, &random, &m->x, error));
  TRY(random_tensor(w, c->dtype, 1 / sqrt(fan_in), &random, &m->w, error));
  TRY(random_tensor(y, c->dtype, 1, &random, &m->y, error));
  TRY(random_tensor(shape_vector(c->outputs), DTYPE_F32, 1, &random, &m->bias, error));
  m->result = (Tensor){.shape = results[pass], .dtype = dtype};
  TRY(allocate(count * dtype_size(dtype), &m->result.data, error));
  void *reference = NULL;
  TRY(allocate(count * sizeof(float), &reference, error));
  m->reference = reference;
done:
  return status;
}

/* --- Running ---------------------------------------------------------------------------------- */
static Status run_reference(const SelfTestCase *c, ConvolutionPass pass, const SelfTestTensors *m,
                            cudaStream_t stream, Error *error) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  ReferenceConvolutionLaunch launch = {.result = results[pass],
                                       .x = m->x.data,
                                       .w = m->w.data,
                                       .y = m->y.data,
                                       .out = m->reference,
                                       .x_shape = m->x.shape,
                                       .w_shape = m->w.shape,
                                       .y_shape = m->y.shape,
                                       .operands = c->dtype};
  memcpy(launch.stride, c->stride, sizeof launch.stride);
  memcpy(launch.before, c->before, sizeof launch.before);
  return launch_reference_convolution(&launch, stream, error);
}

static Op op_of(const SelfTestCase *c, ConvolutionPass pass) {
  static const OpKind kinds[] = {OP_CONV3D, OP_CONV3D_BACKWARD_DATA, OP_CONV3D_BACKWARD_WEIGHTS};
  static char name[] = "self-test";
  Op op = {.kind = kinds[pass], .name = name, .input_count = 2, .output_count = 1};
  ConvAttributes *attributes = &op.attributes.conv;
  memcpy(attributes->stride, c->stride, sizeof attributes->stride);
  memcpy(attributes->before, c->before, sizeof attributes->before);
  memcpy(attributes->after, c->after, sizeof attributes->after);
  if (pass == CONVOLUTION_FORWARD && c->bias) {
    op.input_count = 3;
    attributes->activation = ACTIVATION_LEAKY_RELU;
    attributes->slope = SLOPE;
  }
  return op;
}

static Status run_kernel(CudaBackend *backend, const SelfTestCase *c, ConvolutionPass pass,
                         SelfTestTensors *m, Error *error) {
  Status status = OK;
  Kernel *kernel = NULL;
  const Op op = op_of(c, pass);
  const Tensor inputs[][3] = {{m->x, m->w, m->bias}, {m->y, m->w}, {m->x, m->y}};
  TRY(conv_kernel_new(&backend->base, &op, pass, NULL, inputs[pass], &m->result, &kernel, error));
  if (kernel->workspace > 0) TRY(allocate(kernel->workspace, &m->workspace, error));
  TRY(kernel->run(kernel, inputs[pass], &m->result, m->workspace, error));
done:
  if (kernel) kernel->free(kernel);
  return status;
}

/* --- Comparing -------------------------------------------------------------------------------- */
/* Applies bias and activation to the reference result. */
static void apply_epilogue(const SelfTestCase *c, const float *bias, float *values, size_t count) {
  for (size_t i = 0; i < count; i++) {
    values[i] += bias[i % (size_t)c->outputs];
    if (values[i] < 0) values[i] *= SLOPE;
  }
}

/* The largest relative error of the result's norm that rounding explains. */
static double tolerance_of(const CudaBackend *backend, const SelfTestCase *c) {
  if (c->dtype == DTYPE_BF16) return 1e-2;
  return backend->options.tf32 ? 5e-3 : 2e-5;
}

/* ||result - reference|| / ||reference||; NaN where the result contains NaN. */
static Status relative_error(const SelfTestCase *c, ConvolutionPass pass, const SelfTestTensors *m,
                             double *out, Error *error) {
  Status status = OK;
  const size_t count = (size_t)shape_count(m->result.shape);
  float *expected = mem_new(count, sizeof *expected),
        *bias = mem_new((size_t)c->outputs, sizeof *bias);
  char *found = mem_new(count, dtype_size(m->result.dtype));
  CUDA_TRY(cudaMemcpy(expected, m->reference, count * sizeof *expected, cudaMemcpyDeviceToHost));
  CUDA_TRY(
      cudaMemcpy(bias, m->bias.data, (size_t)c->outputs * sizeof *bias, cudaMemcpyDeviceToHost));
  CUDA_TRY(cudaMemcpy(found, m->result.data, count * dtype_size(m->result.dtype),
                      cudaMemcpyDeviceToHost));
  if (pass == CONVOLUTION_FORWARD && c->bias) apply_epilogue(c, bias, expected, count);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < count; i++) {
    const float value = m->result.dtype == DTYPE_BF16
                            ? bf16_to_f32(((const uint16_t *)(const void *)found)[i])
                            : ((const float *)(const void *)found)[i];
    difference += pow((double)value - (double)expected[i], 2);
    norm += pow((double)expected[i], 2);
  }
  *out = sqrt(difference / norm);
done:
  free(expected);
  free(bias);
  free(found);
  return status;
}

/* --- The test --------------------------------------------------------------------------------- */
static Status fail_case(const CudaBackend *backend, const Op *op, ConvolutionPass pass,
                        const SelfTestTensors *m, double error_found, double tolerance,
                        Error *error) {
  const Tensor inputs[][3] = {{m->x, m->w, m->bias}, {m->y, m->w}, {m->x, m->y}};
  Convolution convolution;
  ConvChoice choice;
  Text text = {0};
  char name[64];
  Status status = convolution_from_op(pass, op, inputs[pass], &m->result, &convolution, error);
  if (status == OK)
    status = autotuner_choose(backend->autotuner, &convolution, NULL, &choice, error);
  if (status != OK) return status;
  convolution_text(&convolution, &text);
  status = error_set(
      error, ERROR_INTERNAL,
      "self-test of convolutions failed (%s): %s, variant %s, %s: relative error %.3g, at most "
      "%.3g "
      "expected. Install another version of cuDNN, or train with train.precision=%s or on another "
      "device",
      autotuner_device(backend->autotuner), text.data, conv_variant_name(&choice.variant, name),
      choice.plan->details, error_found, tolerance,
      convolution.operands == DTYPE_BF16 ? "f32" : "bf16");
  text_free(&text);
  return status;
}

static Status test_pass(CudaBackend *backend, const SelfTestCase *c, ConvolutionPass pass,
                        Error *error) {
  Status status = OK;
  SelfTestTensors tensors = {0};
  double found = NAN;
  const double tolerance = tolerance_of(backend, c);
  const Op op = op_of(c, pass);
  TRY(make_tensors(c, pass, &tensors, error));
  TRY(run_reference(c, pass, &tensors, backend->stream, error));
  TRY(run_kernel(backend, c, pass, &tensors, error));
  CUDA_TRY(cudaStreamSynchronize(backend->stream));
  TRY(relative_error(c, pass, &tensors, &found, error));
  if (!(found <= tolerance))
    status = fail_case(backend, &op, pass, &tensors, found, tolerance, error);
done:
  free_tensors(&tensors);
  return status;
}

/* The file that records a passed self-test. Its name depends on the device, the options and the
 * cases. */
static char *stamp_path(const CudaBackend *backend, const char *folder) {
  char *text =
      mem_format("%s workspace %zu deterministic %d tf32 %d", autotuner_device(backend->autotuner),
                 backend->options.convolution_workspace, backend->options.deterministic,
                 backend->options.tf32);
  uint32_t hash = crc32c(0, text, strlen(text));
  hash = crc32c(hash, cases, sizeof cases);
  char *path = mem_format("%s/self-test-%08x", folder, (unsigned)hash);
  free(text);
  return path;
}

static void write_stamp(const char *folder, const char *path) {
  static const char text[] = "passed\n";
  Error error = {0};
  if (folder_create(folder, &error) != OK ||
      atomic_file_replace(path, text, sizeof text - 1, &error) != OK)
    log_warning("the self-test of convolutions will run again at the next start: %s",
                error.message);
}

/* The convolution of a case, without allocating its tensors. */
static Status describe_case(const SelfTestCase *c, ConvolutionPass pass, Convolution *out,
                            Error *error) {
  const Op op = op_of(c, pass);
  const Shape x_shape = shape_make(c->x[0], c->x[1], c->x[2], c->x[3], c->x[4]);
  const Shape w_shape = shape_make(c->outputs, c->taps[0], c->taps[1], c->taps[2], c->x[4]);
  const Tensor x = {.shape = x_shape, .dtype = c->dtype}, w = {.shape = w_shape, .dtype = c->dtype};
  const Tensor y = {.shape = output_shape(c), .dtype = c->dtype};
  const Tensor bias = {.shape = shape_vector(c->outputs), .dtype = DTYPE_F32};
  const Tensor dw = {.shape = w_shape, .dtype = DTYPE_F32};
  const Tensor inputs[][3] = {{x, w, bias}, {y, w}, {x, y}}, outputs[] = {y, x, dw};
  return convolution_from_op(pass, &op, inputs[pass], &outputs[pass], out, error);
}

static Status prepare_cases(CudaBackend *backend, Error *error) {
  Status status = OK;
  Convolution all[CASES * 3];
  for (int i = 0; i < CASES; i++)
    for (int pass = CONVOLUTION_FORWARD; pass <= CONVOLUTION_BACKWARD_WEIGHTS; pass++)
      TRY(describe_case(&cases[i], (ConvolutionPass)pass, &all[3 * i + pass], error));
  autotuner_prepare(backend->autotuner, all, CASES * 3);
done:
  return status;
}

Status conv_self_test(CudaBackend *backend, Error *error) {
  Status status = OK;
  const char *folder = autotuner_folder(backend->autotuner);
  char *path = folder ? stamp_path(backend, folder) : NULL;
  bool is_tested = false;
  Error why;
  if (path && path_exists(path, &is_tested, &why) != OK)
    log_warning("%s; testing the convolutions again", why.message);
  if (is_tested) goto done;
  log_info("self-test of convolutions on %s", autotuner_device(backend->autotuner));
  TRY(prepare_cases(backend, error));
  for (int i = 0; i < CASES; i++)
    for (int pass = CONVOLUTION_FORWARD; pass <= CONVOLUTION_BACKWARD_WEIGHTS; pass++)
      TRY(test_pass(backend, &cases[i], (ConvolutionPass)pass, error));
  if (path) write_stamp(folder, path);
done:
  if (status != OK) error_context(error, "cuDNN (%s)", cudnn_library_path());
  free(path);
  return status;
}
