/* Chooses a variant and a cuDNN plan for each convolution, and keeps the choice in memory and on
 * disk.
 *
 * Order of preference: the variants of a convolution (conv_variant.h) come in tiers. Within the
 * first tier that has a plan, the heuristics' choice is the first variant and engine on tensor
 * cores, or else the first of any kind. With options.autotune it is the fastest of the first few
 * engines of each variant, timed together with the kernels before and after cuDNN; engines without
 * tensor cores are timed only while they may still be faster. Deterministic runs always use the
 * heuristics, since timings would decide which bits a run computes. Autotuning stops after a minute
 * in all: engines that are compiled at run time take up to seconds each, though several are built
 * in parallel (build_threads.h).
 *
 * On a device every plan is validated before it is chosen (conv_benchmark.h): one that fails or
 * computes wrong results is logged and the next one is taken. A plan that cannot be validated, for
 * lack of device memory, is used only where no other can be, with a warning, and not kept on disk.
 * Validation also loads modules, which must not happen while a graph is captured.
 *
 * Choices are kept in CACHE/cudnn/, a JSON file for each key: the convolution, the device, cuDNN's
 * version and the constraints. A file that is damaged, has another key or is rejected by cuDNN is
 * replaced. Ranks that share the folder build each plan once and read the others' (cache_lock.h):
 * a first start is as many times shorter, and all ranks use the same engines. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_AUTOTUNE_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_AUTOTUNE_H

#include "engine/cuda/convolution/conv_variant.h"
#include "engine/cuda/cudnn/cudnn_plan.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct Autotuner Autotuner; /* autotuner_new and autotuner_free: runtime/cuda.h */

/* --- For the convolutions --------------------------------------------------------------------- */
typedef struct ConvChoice {
  ConvVariant variant;
  const CudnnPlan *plan; /* owned by the autotuner */
} ConvChoice;

/* Chooses for all convolutions that are not known yet, building their plans in parallel, which is
 * much faster than one by one. Errors are reported by autotuner_choose. */
void autotuner_prepare(Autotuner *autotuner, const Convolution *convolutions, int count);
/* `only`: consider this variant alone, and keep nothing on disk; NULL: all. ERROR_INTERNAL with the
 * convolution and the last refusal where no variant has a plan. */
Status autotuner_choose(Autotuner *autotuner, const Convolution *convolution,
                        const ConvVariant *only, ConvChoice *out, Error *error);
cudnnHandle_t autotuner_handle(const Autotuner *autotuner);
/* Device and library in one line: "NVIDIA H200 sm_90 cuDNN 9.19.0". */
const char *autotuner_device(const Autotuner *autotuner);
/* CACHE/cudnn; NULL where nothing is kept on disk. */
const char *autotuner_folder(const Autotuner *autotuner);

/* --- For tests without a device --------------------------------------------------------------- */
/* Chooses plans for `target` by the heuristics, without running any. `folder` NULL: nothing on
 * disk. `threads`: of build_threads_new. `lock_timeout`: seconds, of shared_build_run. */
Autotuner *autotuner_open(const CudnnTarget *target, const char *device,
                          const CudnnConstraints *constraints, const char *folder, int threads,
                          double lock_timeout);
int autotuner_built(const Autotuner *autotuner); /* choices so far, without those read from disk */

#endif
