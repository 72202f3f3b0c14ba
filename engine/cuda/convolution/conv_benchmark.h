/* Validates and times candidates for one convolution (variants with a plan each) on scratch tensors
 * of its full shape. An engine may fail or compute wrong results for large shapes alone, whatever
 * cuDNN reports beforehand. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_BENCHMARK_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_BENCHMARK_H

#include "engine/cuda/convolution/conv_run.h"

typedef struct ConvBenchmark ConvBenchmark;

/* Fills operands with pseudo-random numbers and computes the expected values of sampled elements of
 * the result. `tf32` widens the tolerance for f32. On an error `*out` is NULL; `*out_of_memory`
 * tells whether device memory for the tensors is all that is missing. */
Status conv_benchmark_new(const Convolution *convolution, cudnnHandle_t handle, cudaStream_t stream,
                          bool tf32, ConvBenchmark **out, bool *out_of_memory, Error *error);
void conv_benchmark_free(ConvBenchmark *benchmark); /* NULL is allowed */

/* Runs a candidate once, with NaN in its workspace and result beforehand, and compares the first,
 * the last and some other elements with the expected ones. Waits for the stream. ERROR_INTERNAL
 * with the error of the run or the relative error of the result; or, with `*out_of_memory` true,
 * where the device has no memory for the workspace: nothing is known about the candidate then. */
Status conv_benchmark_validate(ConvBenchmark *benchmark, const ConvRun *run, bool *out_of_memory,
                               Error *error);

/* Seconds of the fastest of a few runs of a candidate that passed validation; of a single run where
 * that takes far longer than `best`, the fastest candidate so far (infinity: none). */
Status conv_benchmark_measure(ConvBenchmark *benchmark, const ConvRun *run, double best,
                              double *seconds, Error *error);

#endif
