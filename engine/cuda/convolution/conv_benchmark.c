/* Trying and measuring the steps of a form on scratch memory, before they are chosen. */
#include <math.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/cuda/convolution/convolution.h"
#include "engine/cuda/convolution/reference.h"

/* --- Scratch ---------------------------------------------------------------------------------- */
enum { NANS = 0xff, MOST_SAMPLES = 64, MOST_SUMS = MOST_SAMPLES * REFERENCE_MOST_SLICES };

/* What all forms of a convolution are tried on. */
struct ConvolutionTrial {
  Convolution convolution;
  cudnnHandle_t handle;
  cudaStream_t stream;
  bool tf32;
  int written;  /* the part */
  char *memory; /* one piece for the tensors; NULL: the device has not that much */
  ConvolutionTensors tensors;
  double *sums;          /* [MOST_SUMS], on the device */
  char *workspace;       /* grows with what forms want */
  size_t workspace_size; /* bytes */
  int samples;
  double expected[MOST_SAMPLES]; /* with bias and activation */
};

static Shape part_shape(const Convolution *c, int part) {
  const Shape shapes[PARTS] = {c->x, c->w, c->y};
  return shapes[part];
}

static DType part_dtype(const ConvolutionTrial *trial, int part) {
  return part == trial->written ? trial->convolution.result : trial->convolution.operands;
}

static size_t part_bytes(const ConvolutionTrial *trial, int part) {
  return (size_t)shape_count(part_shape(&trial->convolution, part)) *
         dtype_size(part_dtype(trial, part));
}

/* `*out` is NULL where there is not that much: that is said, and no error. */
static Status take_memory(size_t bytes, char **out, Error *error) {
  Status status = OK;
  const cudaError_t code = cudaMalloc((void **)out, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError(); /* it is no error of the device: later calls must not see it */
    *out = NULL;
    log_info("cuDNN: no %zu bytes of device memory to try a convolution in; it is used untried",
             bytes);
    return OK;
  }
  CUDA_TRY(code);
done:
  return status;
}

static Status take_tensors(ConvolutionTrial *trial, Error *error) {
  Status status = OK;
  size_t at[PARTS], bytes = 0;
  for (int i = 0; i < PARTS; i++) {
    at[i] = bytes;
    bytes += memory_align(part_bytes(trial, i));
  }
  const size_t bias_at = bytes;
  bytes += memory_align((size_t)trial->convolution.y.dim[AXIS_C] * sizeof(float));
  const size_t sums_at = bytes;
  bytes += memory_align(MOST_SUMS * sizeof(double));
  TRY(take_memory(bytes, &trial->memory, error));
  if (!trial->memory) goto done;
  for (int i = 0; i < PARTS; i++) trial->tensors.part[i] = trial->memory + at[i];
  trial->tensors.bias = trial->memory + bias_at;
  trial->sums = (double *)(void *)(trial->memory + sums_at);
done:
  return status;
}

static Status fill_numbers(const ConvolutionTrial *trial, void *out, DType dtype, int64_t count,
                           int seed, double scale, Error *error) {
  const ReferenceNumbersLaunch numbers = {
      .out = out, .dtype = dtype, .count = count, .seed = (uint64_t)seed, .scale = (float)scale};
  return launch_reference_numbers(&numbers, trial->stream, error);
}

/* Operands and bias: sums of products are about 1 in the forward pass. */
static Status fill_operands(const ConvolutionTrial *trial, Error *error) {
  Status status = OK;
  const Convolution *c = &trial->convolution;
  const double fan_in = (double)shape_count(c->w) / (double)c->w.dim[0];
  const double scales[PARTS] = {1, 3 / sqrt(fan_in), 1};
  for (int i = 0; i < PARTS; i++)
    if (i != trial->written)
      TRY(fill_numbers(trial, trial->tensors.part[i], c->operands, shape_count(part_shape(c, i)),
                       i + 1, scales[i], error));
  if (c->pass == CONVOLUTION_FORWARD && c->bias)
    TRY(fill_numbers(trial, trial->tensors.bias, DTYPE_F32, c->y.dim[AXIS_C], PARTS + 1, 1, error));
done:
  return status;
}

static bool has_room(const ConvolutionTrial *trial, const ConvolutionSteps *steps) {
  return trial->memory && steps->workspace <= trial->workspace_size;
}

/* What a form may not leave as it is, is NaN. Not done where there is no room for its workspace. */
static Status poison(ConvolutionTrial *trial, const ConvolutionSteps *steps, Error *error) {
  Status status = OK;
  if (steps->workspace > trial->workspace_size) {
    if (trial->workspace) CUDA_TRY(cudaFree(trial->workspace));
    trial->workspace = NULL;
    trial->workspace_size = 0;
    TRY(take_memory(steps->workspace, &trial->workspace, error));
    if (!trial->workspace) goto done;
    trial->workspace_size = steps->workspace;
  }
  if (steps->workspace > 0)
    CUDA_TRY(cudaMemsetAsync(trial->workspace, NANS, steps->workspace, trial->stream));
  CUDA_TRY(cudaMemsetAsync(trial->tensors.part[trial->written], NANS,
                           part_bytes(trial, trial->written), trial->stream));
done:
  return status;
}

/* --- What is right ---------------------------------------------------------------------------- */
static Status sum_samples(ConvolutionTrial *trial, Error *error) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  Status status = OK;
  double sums[MOST_SUMS];
  const Convolution *c = &trial->convolution;
  ReferenceSamplesLaunch launch = {.convolution = {.result = results[c->pass],
                                                   .x = trial->tensors.part[PART_X],
                                                   .w = trial->tensors.part[PART_W],
                                                   .y = trial->tensors.part[PART_Y],
                                                   .x_shape = c->x,
                                                   .w_shape = c->w,
                                                   .y_shape = c->y,
                                                   .operands = c->operands},
                                   .samples = trial->samples,
                                   .out = trial->sums};
  for (int i = 0; i < 3; i++) {
    launch.convolution.stride[i] = c->stride[i];
    launch.convolution.before[i] = c->before[i];
  }
  launch.slices = reference_sample_slices(&launch.convolution);
  TRY(launch_reference_samples(&launch, trial->stream, error));
  CUDA_TRY(cudaStreamSynchronize(trial->stream));
  CUDA_TRY(cudaMemcpy(sums, trial->sums, (size_t)(trial->samples * launch.slices) * sizeof *sums,
                      cudaMemcpyDeviceToHost));
  for (int i = 0; i < trial->samples; i++) {
    trial->expected[i] = 0;
    for (int64_t k = 0; k < launch.slices; k++) trial->expected[i] += sums[i * launch.slices + k];
  }
done:
  return status;
}

static int64_t written_count(const ConvolutionTrial *trial) {
  return shape_count(part_shape(&trial->convolution, trial->written));
}

static int64_t place_of(const ConvolutionTrial *trial, int sample) {
  return reference_sample_place(sample, trial->samples, written_count(trial));
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
static Status finish_sum(const ConvolutionTrial *trial, int64_t place, double *sum, Error *error) {
  Status status = OK;
  const Convolution *c = &trial->convolution;
  double bias = 0;
  if (c->pass != CONVOLUTION_FORWARD) goto done;
  if (c->bias)
    TRY(read_number(trial->tensors.bias, DTYPE_F32, place % c->y.dim[AXIS_C], &bias, error));
  *sum += bias;
  if (c->activation == ACTIVATION_LEAKY_RELU && *sum < 0) *sum *= (double)c->slope;
  if (c->activation == ACTIVATION_TANH) *sum = tanh(*sum);
done:
  return status;
}

static Status expect(ConvolutionTrial *trial, Error *error) {
  Status status = OK;
  const int64_t count = written_count(trial);
  trial->samples = count < MOST_SAMPLES ? (int)count : MOST_SAMPLES;
  TRY(sum_samples(trial, error));
  for (int i = 0; i < trial->samples; i++)
    TRY(finish_sum(trial, place_of(trial, i), &trial->expected[i], error));
done:
  return status;
}

Status convolution_trial_new(const Convolution *convolution, cudnnHandle_t handle,
                             cudaStream_t stream, bool tf32, ConvolutionTrial **out, Error *error) {
  Status status = OK;
  ConvolutionTrial *trial = mem_new(1, sizeof *trial);
  *out = NULL;
  trial->convolution = *convolution;
  trial->handle = handle;
  trial->stream = stream;
  trial->tf32 = tf32;
  trial->written = convolution_written_part(convolution->pass);
  TRY(take_tensors(trial, error));
  if (trial->memory) {
    TRY(fill_operands(trial, error));
    TRY(expect(trial, error));
  }
  *out = trial;
  trial = NULL;
done:
  convolution_trial_free(trial);
  return status;
}

void convolution_trial_free(ConvolutionTrial *trial) {
  if (!trial) return;
  if (trial->memory) cudaFree(trial->memory);
  if (trial->workspace) cudaFree(trial->workspace);
  free(trial);
}

/* --- Trying ----------------------------------------------------------------------------------- */
/* Far above rounding in sums of any length, far below one wrong element among the samples. */
static double tolerance_of(const ConvolutionTrial *trial) {
  if (trial->convolution.operands == DTYPE_BF16) return 2e-2;
  return trial->tf32 ? 5e-3 : 2e-4;
}

static Status compare(const ConvolutionTrial *trial, Error *error) {
  Status status = OK;
  const double tolerance = tolerance_of(trial);
  double difference = 0, norm = 0, worst = -1, worst_found = 0;
  int worst_sample = 0;
  for (int i = 0; i < trial->samples; i++) {
    const double expected = trial->expected[i];
    double found = NAN;
    TRY(read_number(trial->tensors.part[trial->written], trial->convolution.result,
                    place_of(trial, i), &found, error));
    const double off = fabs(found - expected);
    difference += off * off;
    norm += expected * expected;
    if (off <= worst) continue; /* a NaN is worst, and stays it */
    if (!isnan(worst)) worst = off, worst_found = found, worst_sample = i;
  }
  if (!(sqrt(difference) <= tolerance * sqrt(norm)))
    FAIL(error, ERROR_INTERNAL,
         "it computes wrong numbers: off by %.3g (relative, of %d elements; at most %.3g is "
         "rounding); element %lld of %lld is %.6g, should be %.6g",
         sqrt(difference / norm), trial->samples, tolerance,
         (long long)place_of(trial, worst_sample), (long long)written_count(trial), worst_found,
         trial->expected[worst_sample]);
done:
  return status;
}

static Status run(const ConvolutionTrial *trial, const ConvolutionSteps *steps, Error *error) {
  return convolution_steps_run(steps, trial->handle, trial->stream, &trial->tensors,
                               trial->workspace, error);
}

Status convolution_trial_check(ConvolutionTrial *trial, const ConvolutionSteps *steps,
                               Error *error) {
  Status status = OK;
  if (!trial->memory) goto done;
  TRY(poison(trial, steps, error));
  if (!has_room(trial, steps)) goto done;
  TRY(run(trial, steps, error));
  CUDA_TRY(cudaStreamSynchronize(trial->stream));
  TRY(compare(trial, error));
done:
  return status;
}

/* --- Measuring -------------------------------------------------------------------------------- */
enum { LEAST_RUNS = 3, MOST_RUNS = 7 };
static const double ENOUGH_SECONDS = 20e-3, TOO_SLOW = 1.5;

/* The shortest: what else the device does makes a run longer, never shorter. The first one is not
 * counted, unless it is as slow as to tell all. */
static Status time_runs(const ConvolutionTrial *trial, const ConvolutionSteps *steps, double best,
                        double *seconds, Error *error) {
  Status status = OK;
  cudaEvent_t begin = NULL, end = NULL;
  double sum = 0, least = INFINITY;
  int count = 0;
  CUDA_TRY(cudaEventCreate(&begin));
  CUDA_TRY(cudaEventCreate(&end));
  for (int i = 0; count < MOST_RUNS && (count < LEAST_RUNS || sum < ENOUGH_SECONDS); i++) {
    CUDA_TRY(cudaEventRecord(begin, trial->stream));
    TRY(run(trial, steps, error));
    CUDA_TRY(cudaEventRecord(end, trial->stream));
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

Status convolution_trial_measure(ConvolutionTrial *trial, const ConvolutionSteps *steps,
                                 double best, double *seconds, Error *error) {
  if (!has_room(trial, steps))
    return error_set(error, ERROR_INTERNAL, "no device memory to measure a convolution in");
  return time_runs(trial, steps, best, seconds, error);
}
