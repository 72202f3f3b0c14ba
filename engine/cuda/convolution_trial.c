/* Trying and measuring the steps of a form on scratch memory, before they are chosen. */
#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "engine/cuda/convolution.h"
#include "engine/cuda/reference_convolution.h"

/* --- Scratch ---------------------------------------------------------------------------------- */
enum { MOST_SAMPLES = 64, MOST_SUMS = MOST_SAMPLES * REFERENCE_MOST_SLICES };

/* One piece of memory for everything; `memory` NULL: the device has not that much. */
typedef struct Scratch {
  char *memory;
  size_t bytes;
  ConvolutionTensors tensors;
  double *sums; /* [MOST_SUMS] */
  void *workspace;
} Scratch;

static int64_t part_count(const ConvolutionSteps *steps, int part) {
  return shape_count(steps->parts[part].outer);
}

static size_t part_bytes(const ConvolutionSteps *steps, int part) {
  return (size_t)part_count(steps, part) * dtype_size(steps->parts[part].outer_dtype);
}

/* All of it is NaN. */
static Status scratch_new(const ConvolutionSteps *steps, cudaStream_t stream, Scratch *out,
                          Error *error) {
  enum { NANS = 0xff };
  Status status = OK;
  size_t at[PARTS], bias_at, sums_at, workspace_at;
  *out = (Scratch){0};
  for (int i = 0; i < PARTS; i++) {
    at[i] = out->bytes;
    out->bytes += memory_align(part_bytes(steps, i));
  }
  bias_at = out->bytes;
  out->bytes += memory_align((size_t)steps->convolution.y.dim[AXIS_C] * sizeof(float));
  sums_at = out->bytes;
  out->bytes += memory_align(MOST_SUMS * sizeof(double));
  workspace_at = out->bytes;
  out->bytes += steps->workspace;
  const cudaError_t code = cudaMalloc((void **)&out->memory, out->bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError(); /* it is no error of the device: later calls must not see it */
    out->memory = NULL;
    return OK;
  }
  CUDA_TRY(code);
  CUDA_TRY(cudaMemsetAsync(out->memory, NANS, out->bytes, stream));
  for (int i = 0; i < PARTS; i++) out->tensors.part[i] = out->memory + at[i];
  out->tensors.bias = out->memory + bias_at;
  out->sums = (double *)(void *)(out->memory + sums_at);
  out->workspace = out->memory + workspace_at;
done:
  return status;
}

/* Operands and bias: sums of products are about 1 in the forward pass. */
static Status fill_operands(const ConvolutionSteps *steps, cudaStream_t stream,
                            const Scratch *scratch, Error *error) {
  Status status = OK;
  const Convolution *c = &steps->convolution;
  const double fan_in = (double)shape_count(c->w) / (double)c->w.dim[0];
  const float scales[PARTS] = {1, (float)(3 / sqrt(fan_in)), 1};
  for (int i = 0; i < PARTS; i++) {
    if (i == steps->written) continue;
    const ReferenceNumbersLaunch numbers = {.out = scratch->tensors.part[i],
                                            .dtype = c->operands,
                                            .count = part_count(steps, i),
                                            .seed = (uint64_t)i + 1,
                                            .scale = scales[i]};
    TRY(launch_reference_numbers(&numbers, stream, error));
  }
  if (c->pass == CONVOLUTION_FORWARD && c->bias) {
    const ReferenceNumbersLaunch bias = {.out = scratch->tensors.bias,
                                         .dtype = DTYPE_F32,
                                         .count = c->y.dim[AXIS_C],
                                         .seed = PARTS + 1,
                                         .scale = 1};
    TRY(launch_reference_numbers(&bias, stream, error));
  }
done:
  return status;
}

/* --- Trying ----------------------------------------------------------------------------------- */
static Status sum_samples(const ConvolutionSteps *steps, cudaStream_t stream,
                          const Scratch *scratch, int samples, double *out, Error *error) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  Status status = OK;
  double sums[MOST_SUMS];
  const Convolution *c = &steps->convolution;
  ReferenceSamplesLaunch launch = {.convolution = {.result = results[c->pass],
                                                   .x = scratch->tensors.part[PART_X],
                                                   .w = scratch->tensors.part[PART_W],
                                                   .y = scratch->tensors.part[PART_Y],
                                                   .x_shape = c->x,
                                                   .w_shape = c->w,
                                                   .y_shape = c->y,
                                                   .operands = c->operands},
                                   .samples = samples,
                                   .out = scratch->sums};
  for (int i = 0; i < 3; i++) {
    launch.convolution.stride[i] = c->stride[i];
    launch.convolution.before[i] = c->before[i];
  }
  launch.slices = reference_sample_slices(&launch.convolution);
  TRY(launch_reference_samples(&launch, stream, error));
  CUDA_TRY(cudaStreamSynchronize(stream));
  CUDA_TRY(cudaMemcpy(sums, scratch->sums, (size_t)(samples * launch.slices) * sizeof *sums,
                      cudaMemcpyDeviceToHost));
  for (int i = 0; i < samples; i++) {
    out[i] = 0;
    for (int64_t k = 0; k < launch.slices; k++) out[i] += sums[i * launch.slices + k];
  }
done:
  return status;
}

/* The stream's work is done. */
static Status read_number(const void *base, DType dtype, int64_t index, double *out, Error *error) {
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

/* What bias and activation make of a sum. */
static Status finish_sum(const ConvolutionSteps *steps, const Scratch *scratch, int64_t place,
                         double *sum, Error *error) {
  Status status = OK;
  const Convolution *c = &steps->convolution;
  double bias = 0;
  if (c->pass != CONVOLUTION_FORWARD) goto done;
  if (c->bias)
    TRY(read_number(scratch->tensors.bias, DTYPE_F32, place % c->y.dim[AXIS_C], &bias, error));
  *sum += bias;
  if (c->activation == ACTIVATION_LEAKY_RELU && *sum < 0) *sum *= (double)c->slope;
  if (c->activation == ACTIVATION_TANH) *sum = tanh(*sum);
done:
  return status;
}

/* Far above rounding in sums of any length, far below one wrong element among the samples. */
static double tolerance_of(const Convolution *c, bool tf32) {
  if (c->operands == DTYPE_BF16) return 2e-2;
  return tf32 ? 5e-3 : 2e-4;
}

static Status compare(const ConvolutionSteps *steps, cudaStream_t stream, const Scratch *scratch,
                      bool tf32, Error *error) {
  Status status = OK;
  const ConvolutionPart *written = &steps->parts[steps->written];
  const int64_t count = part_count(steps, steps->written);
  const int samples = count < MOST_SAMPLES ? (int)count : MOST_SAMPLES;
  const double tolerance = tolerance_of(&steps->convolution, tf32);
  double sums[MOST_SAMPLES] = {0}, difference = 0, norm = 0, worst = -1, worst_found = 0;
  int64_t worst_place = 0;
  int worst_sample = 0;
  TRY(sum_samples(steps, stream, scratch, samples, sums, error));
  for (int i = 0; i < samples; i++) {
    const int64_t place = reference_sample_place(i, samples, count);
    double found = NAN;
    TRY(finish_sum(steps, scratch, place, &sums[i], error));
    TRY(read_number(scratch->tensors.part[steps->written], written->outer_dtype, place, &found,
                    error));
    const double off = fabs(found - sums[i]);
    difference += off * off;
    norm += sums[i] * sums[i];
    if (off <= worst) continue; /* a NaN is worst, and stays it */
    if (!isnan(worst)) worst = off, worst_found = found, worst_place = place, worst_sample = i;
  }
  if (!(sqrt(difference) <= tolerance * sqrt(norm)))
    FAIL(error, ERROR_INTERNAL,
         "it computes wrong numbers: off by %.3g (relative, of %d elements; at most %.3g is "
         "rounding); element %lld of %lld is %.6g, should be %.6g",
         sqrt(difference / norm), samples, tolerance, (long long)worst_place, (long long)count,
         worst_found, sums[worst_sample]);
done:
  return status;
}

Status convolution_trial(const ConvolutionSteps *steps, cudnnHandle_t handle, cudaStream_t stream,
                         bool tf32, Error *error) {
  Status status = OK;
  Scratch scratch;
  TRY(scratch_new(steps, stream, &scratch, error));
  if (!scratch.memory) {
    log_info("cuDNN: no %zu bytes of device memory to try a convolution in; it is used untried",
             scratch.bytes);
    return OK;
  }
  TRY(fill_operands(steps, stream, &scratch, error));
  TRY(convolution_steps_run(steps, handle, stream, &scratch.tensors, scratch.workspace, error));
  CUDA_TRY(cudaStreamSynchronize(stream));
  TRY(compare(steps, stream, &scratch, tf32, error));
done:
  if (scratch.memory) cudaFree(scratch.memory);
  return status;
}

/* --- Measuring -------------------------------------------------------------------------------- */
enum { WARM_RUNS = 2, TIMED_RUNS = 7 };

static int ascending(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static Status time_runs(const ConvolutionSteps *steps, cudnnHandle_t handle, cudaStream_t stream,
                        const Scratch *scratch, double *seconds, Error *error) {
  Status status = OK;
  cudaEvent_t begin = NULL, end = NULL;
  float milliseconds[TIMED_RUNS] = {0};
  CUDA_TRY(cudaEventCreate(&begin));
  CUDA_TRY(cudaEventCreate(&end));
  for (int i = -WARM_RUNS; i < TIMED_RUNS; i++) {
    CUDA_TRY(cudaEventRecord(begin, stream));
    TRY(convolution_steps_run(steps, handle, stream, &scratch->tensors, scratch->workspace, error));
    CUDA_TRY(cudaEventRecord(end, stream));
    CUDA_TRY(cudaEventSynchronize(end));
    if (i >= 0) CUDA_TRY(cudaEventElapsedTime(&milliseconds[i], begin, end));
  }
  qsort(milliseconds, TIMED_RUNS, sizeof *milliseconds, ascending);
  *seconds = 1e-3 * (double)milliseconds[TIMED_RUNS / 2];
done:
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  return status;
}

Status convolution_measure(const ConvolutionSteps *steps, cudnnHandle_t handle, cudaStream_t stream,
                           double *seconds, Error *error) {
  Status status = OK;
  Scratch scratch;
  TRY(scratch_new(steps, stream, &scratch, error));
  if (!scratch.memory)
    FAIL(error, ERROR_INTERNAL, "no %zu bytes of device memory to measure a convolution in",
         scratch.bytes);
  TRY(fill_operands(steps, stream, &scratch, error));
  TRY(time_runs(steps, handle, stream, &scratch, seconds, error));
done:
  if (scratch.memory) cudaFree(scratch.memory);
  return status;
}
