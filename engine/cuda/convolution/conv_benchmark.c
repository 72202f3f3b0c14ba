#include "engine/cuda/convolution/conv_benchmark.h"

#include <math.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "engine/cuda/convolution/reference.h"

/* --- Scratch ---------------------------------------------------------------------------------- */
enum { NAN_BYTE = 0xff, MAX_SAMPLES = 64, MAX_SUMS = MAX_SAMPLES * REFERENCE_MAX_SLICES };

struct ConvBenchmark {
  Convolution convolution;
  cudnnHandle_t handle;
  cudaStream_t stream;
  bool tf32;
  int output;   /* conv_output_tensor */
  char *memory; /* one allocation for all tensors */
  ConvPointers pointers;
  double *sums;          /* [MAX_SUMS], on the device */
  char *workspace;       /* grows to the largest so far */
  size_t workspace_size; /* bytes */
  int samples;
  double expected[MAX_SAMPLES]; /* with bias and activation */
};

static Shape tensor_shape(const Convolution *c, int tensor) {
  const Shape shapes[CONV_TENSORS] = {c->x, c->w, c->y};
  return shapes[tensor];
}

static DType tensor_dtype(const ConvBenchmark *benchmark, int tensor) {
  return tensor == benchmark->output ? benchmark->convolution.result
                                     : benchmark->convolution.operands;
}

static size_t tensor_bytes(const ConvBenchmark *benchmark, int tensor) {
  return (size_t)shape_count(tensor_shape(&benchmark->convolution, tensor)) *
         dtype_size(tensor_dtype(benchmark, tensor));
}

/* On an error `*out` is NULL. */
static Status allocate(size_t bytes, char **out, bool *out_of_memory, Error *error) {
  Status status = OK;
  *out_of_memory = false;
  const cudaError_t code = cudaMalloc((void **)out, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError(); /* clears it for later calls */
    *out = NULL;
    *out_of_memory = true;
    return error_set(error, ERROR_INTERNAL, "no %zu bytes of device memory free for validation",
                     bytes);
  }
  CUDA_TRY(code);
done:
  return status;
}

static Status allocate_tensors(ConvBenchmark *benchmark, bool *out_of_memory, Error *error) {
  Status status = OK;
  size_t offsets[CONV_TENSORS], bytes = 0;
  for (int i = 0; i < CONV_TENSORS; i++) {
    offsets[i] = bytes;
    bytes += memory_align(tensor_bytes(benchmark, i));
  }
  const size_t bias_offset = bytes;
  bytes += memory_align((size_t)benchmark->convolution.y.dim[AXIS_C] * sizeof(float));
  const size_t sums_offset = bytes;
  bytes += memory_align(MAX_SUMS * sizeof(double));
  TRY(allocate(bytes, &benchmark->memory, out_of_memory, error));
  for (int i = 0; i < CONV_TENSORS; i++)
    benchmark->pointers.tensor[i] = benchmark->memory + offsets[i];
  benchmark->pointers.bias = benchmark->memory + bias_offset;
  benchmark->sums = (double *)(void *)(benchmark->memory + sums_offset);
done:
  return status;
}

static Status fill_random(const ConvBenchmark *benchmark, void *out, DType dtype, int64_t count,
                          int seed, double scale, Error *error) {
  const ReferenceRandomLaunch random = {
      .out = out, .dtype = dtype, .count = count, .seed = (uint64_t)seed, .scale = (float)scale};
  return launch_reference_random(&random, benchmark->stream, error);
}

/* Scaled so that results of the forward pass have a magnitude of about 1. */
static Status fill_operands(const ConvBenchmark *benchmark, Error *error) {
  Status status = OK;
  const Convolution *c = &benchmark->convolution;
  const double fan_in = (double)shape_count(c->w) / (double)c->w.dim[0];
  const double scales[CONV_TENSORS] = {1, 3 / sqrt(fan_in), 1};
  for (int i = 0; i < CONV_TENSORS; i++)
    if (i != benchmark->output)
      TRY(fill_random(benchmark, benchmark->pointers.tensor[i], c->operands,
                      shape_count(tensor_shape(c, i)), i + 1, scales[i], error));
  if (c->pass == CONVOLUTION_FORWARD && c->bias)
    TRY(fill_random(benchmark, benchmark->pointers.bias, DTYPE_F32, c->y.dim[AXIS_C],
                    CONV_TENSORS + 1, 1, error));
done:
  return status;
}

/* Fills the result and the workspace, which grows to the run's size, with NaN. */
static Status fill_nan(ConvBenchmark *benchmark, const ConvRun *run, bool *out_of_memory,
                       Error *error) {
  Status status = OK;
  if (run->workspace > benchmark->workspace_size) {
    if (benchmark->workspace) CUDA_TRY(cudaFree(benchmark->workspace));
    benchmark->workspace = NULL;
    benchmark->workspace_size = 0;
    TRY(allocate(run->workspace, &benchmark->workspace, out_of_memory, error));
    benchmark->workspace_size = run->workspace;
  }
  if (run->workspace > 0)
    CUDA_TRY(cudaMemsetAsync(benchmark->workspace, NAN_BYTE, run->workspace, benchmark->stream));
  CUDA_TRY(cudaMemsetAsync(benchmark->pointers.tensor[benchmark->output], NAN_BYTE,
                           tensor_bytes(benchmark, benchmark->output), benchmark->stream));
done:
  return status;
}

/* --- Expected results ------------------------------------------------------------------------- */
static Status sum_samples(ConvBenchmark *benchmark, Error *error) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  Status status = OK;
  double sums[MAX_SUMS];
  const Convolution *c = &benchmark->convolution;
  ReferenceSamplesLaunch launch = {.convolution = {.result = results[c->pass],
                                                   .x = benchmark->pointers.tensor[CONV_X],
                                                   .w = benchmark->pointers.tensor[CONV_W],
                                                   .y = benchmark->pointers.tensor[CONV_Y],
                                                   .x_shape = c->x,
                                                   .w_shape = c->w,
                                                   .y_shape = c->y,
                                                   .operands = c->operands},
                                   .samples = benchmark->samples,
                                   .out = benchmark->sums};
  for (int i = 0; i < 3; i++) {
    launch.convolution.stride[i] = c->stride[i];
    launch.convolution.before[i] = c->before[i];
  }
  launch.slices = reference_sample_slices(&launch.convolution);
  TRY(launch_reference_samples(&launch, benchmark->stream, error));
  CUDA_TRY(cudaStreamSynchronize(benchmark->stream));
  CUDA_TRY(cudaMemcpy(sums, benchmark->sums,
                      (size_t)(benchmark->samples * launch.slices) * sizeof *sums,
                      cudaMemcpyDeviceToHost));
  for (int i = 0; i < benchmark->samples; i++) {
    benchmark->expected[i] = 0;
    for (int64_t k = 0; k < launch.slices; k++)
      benchmark->expected[i] += sums[i * launch.slices + k];
  }
done:
  return status;
}

static int64_t output_count(const ConvBenchmark *benchmark) {
  return shape_count(tensor_shape(&benchmark->convolution, benchmark->output));
}

static int64_t sample_index(const ConvBenchmark *benchmark, int sample) {
  return reference_sample_index(sample, benchmark->samples, output_count(benchmark));
}

/* Reads one element; the stream must be idle. */
static Status read_element(const void *base, DType dtype, int64_t index, double *out,
                           Error *error) {
  Status status = OK;
  float number = 0;
  uint16_t bits = 0;
  const bool narrow = dtype == DTYPE_BF16;
  CUDA_TRY(cudaMemcpy(narrow ? (void *)&bits : &number,
                      (const char *)base + (size_t)index * dtype_size(dtype), dtype_size(dtype),
                      cudaMemcpyDeviceToHost));
  *out = (double)(narrow ? bf16_to_f32(bits) : number);
done:
  return status;
}

/* Applies bias and activation to the sum of one element of the forward pass. */
static Status apply_epilogue(const ConvBenchmark *benchmark, int64_t place, double *sum,
                             Error *error) {
  Status status = OK;
  const Convolution *c = &benchmark->convolution;
  double bias = 0;
  if (c->pass != CONVOLUTION_FORWARD) goto done;
  if (c->bias)
    TRY(read_element(benchmark->pointers.bias, DTYPE_F32, place % c->y.dim[AXIS_C], &bias, error));
  *sum += bias;
  if (c->activation == ACTIVATION_LEAKY_RELU && *sum < 0) *sum *= (double)c->slope;
  if (c->activation == ACTIVATION_TANH) *sum = tanh(*sum);
done:
  return status;
}

static Status compute_expected(ConvBenchmark *benchmark, Error *error) {
  Status status = OK;
  const int64_t count = output_count(benchmark);
  benchmark->samples = count < MAX_SAMPLES ? (int)count : MAX_SAMPLES;
  TRY(sum_samples(benchmark, error));
  for (int i = 0; i < benchmark->samples; i++)
    TRY(apply_epilogue(benchmark, sample_index(benchmark, i), &benchmark->expected[i], error));
done:
  return status;
}

Status conv_benchmark_new(const Convolution *convolution, cudnnHandle_t handle, cudaStream_t stream,
                          bool tf32, ConvBenchmark **out, bool *out_of_memory, Error *error) {
  Status status = OK;
  ConvBenchmark *benchmark = mem_new(1, sizeof *benchmark);
  *out = NULL;
  benchmark->convolution = *convolution;
  benchmark->handle = handle;
  benchmark->stream = stream;
  benchmark->tf32 = tf32;
  benchmark->output = conv_output_tensor(convolution->pass);
  TRY(allocate_tensors(benchmark, out_of_memory, error));
  TRY(fill_operands(benchmark, error));
  TRY(compute_expected(benchmark, error));
  *out = benchmark;
  benchmark = NULL;
done:
  conv_benchmark_free(benchmark);
  return status;
}

void conv_benchmark_free(ConvBenchmark *benchmark) {
  if (!benchmark) return;
  if (benchmark->memory) cudaFree(benchmark->memory);
  if (benchmark->workspace) cudaFree(benchmark->workspace);
  free(benchmark);
}

/* --- Validation ------------------------------------------------------------------------------- */
/* Far above rounding errors of sums of any length, far below one wrong element among the samples.
 */
static double tolerance_of(const ConvBenchmark *benchmark) {
  if (benchmark->convolution.operands == DTYPE_BF16) return 2e-2;
  return benchmark->tf32 ? 5e-3 : 2e-4;
}

static Status compare(const ConvBenchmark *benchmark, Error *error) {
  Status status = OK;
  const double tolerance = tolerance_of(benchmark);
  double difference = 0, norm = 0, worst = -1, worst_found = 0;
  int worst_sample = 0;
  for (int i = 0; i < benchmark->samples; i++) {
    const double expected = benchmark->expected[i];
    double found = NAN;
    TRY(read_element(benchmark->pointers.tensor[benchmark->output], benchmark->convolution.result,
                     sample_index(benchmark, i), &found, error));
    const double off = fabs(found - expected);
    difference += off * off;
    norm += expected * expected;
    if (off <= worst) continue; /* false for NaN, which counts as the worst */
    if (!isnan(worst)) worst = off, worst_found = found, worst_sample = i;
  }
  if (!(sqrt(difference) <= tolerance * sqrt(norm)))
    FAIL(error, ERROR_INTERNAL,
         "wrong results: relative error %.3g over %d sampled elements, at most %.3g allowed; "
         "element %lld of %lld is %.6g, expected %.6g",
         sqrt(difference / norm), benchmark->samples, tolerance,
         (long long)sample_index(benchmark, worst_sample), (long long)output_count(benchmark),
         worst_found, benchmark->expected[worst_sample]);
done:
  return status;
}

static Status enqueue(const ConvBenchmark *benchmark, const ConvRun *run, Error *error) {
  return conv_run_enqueue(run, benchmark->handle, benchmark->stream, &benchmark->pointers,
                          benchmark->workspace, error);
}

Status conv_benchmark_validate(ConvBenchmark *benchmark, const ConvRun *run, bool *out_of_memory,
                               Error *error) {
  Status status = OK;
  *out_of_memory = false;
  TRY(fill_nan(benchmark, run, out_of_memory, error));
  TRY(enqueue(benchmark, run, error));
  CUDA_TRY(cudaStreamSynchronize(benchmark->stream));
  TRY(compare(benchmark, error));
done:
  return status;
}

/* --- Timing ----------------------------------------------------------------------------------- */
enum { MIN_RUNS = 3, MAX_RUNS = 7 };
static const double ENOUGH_SECONDS = 20e-3, TOO_SLOW = 1.5;

/* The minimum, since other work on the device only makes a run longer. The first run is a warm-up
 * and not counted, unless it is so slow that the candidate cannot win. */
static Status time_runs(const ConvBenchmark *benchmark, const ConvRun *run, double best,
                        double *seconds, Error *error) {
  Status status = OK;
  cudaEvent_t begin = NULL, end = NULL;
  double sum = 0, least = INFINITY;
  int count = 0;
  CUDA_TRY(cudaEventCreate(&begin));
  CUDA_TRY(cudaEventCreate(&end));
  for (int i = 0; count < MAX_RUNS && (count < MIN_RUNS || sum < ENOUGH_SECONDS); i++) {
    CUDA_TRY(cudaEventRecord(begin, benchmark->stream));
    TRY(enqueue(benchmark, run, error));
    CUDA_TRY(cudaEventRecord(end, benchmark->stream));
    CUDA_TRY(cudaEventSynchronize(end));
    float milliseconds = 0;
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, begin, end));
    const double taken = 1e-3 * (double)milliseconds;
    if (i == 0 && taken <= TOO_SLOW * best) continue;
    if (taken < least) least = taken;
    sum += taken;
    count++;
    if (i == 0) break;
  }
  *seconds = least;
done:
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  return status;
}

Status conv_benchmark_measure(ConvBenchmark *benchmark, const ConvRun *run, double best,
                              double *seconds, Error *error) {
  if (run->workspace > benchmark->workspace_size)
    return error_set(error, ERROR_INTERNAL, "convolution timed without validation");
  return time_runs(benchmark, run, best, seconds, error);
}
