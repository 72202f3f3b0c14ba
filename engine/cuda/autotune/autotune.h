/* What the CUDA backend holds of cuDNN: its handle, and for each convolution met so far the form
 * and the plan that were chosen, in memory and on disk.
 *
 * Choosing: the forms of a convolution (convolution_form.h) come in tiers. Within the first tier
 * that has a plan at all it is the first form and engine on tensor cores, or else the first of any
 * kind; or, with options.tune, the fastest of the first few of each form, measured with all that
 * stands around cuDNN, those without tensor cores only while they may yet be faster. Deterministic
 * runs are never tuned: clocks would choose their bits. Tuning ends after a minute in all: engines
 * that are compiled at run time take up to seconds each, though several side by side
 * (cudnn_workers.h).
 *
 * On a device every plan is tried before it is chosen (ConvolutionTrial): one that fails or
 * computes wrong numbers is said and the next one taken. A trial also loads what no capture may.
 *
 * A choice is kept in `cache`/cudnn/, a JSON file each, under everything it depends on: the
 * convolution, the device, cuDNN's version, the rules. A file that is damaged, of another key, or
 * refused by cuDNN is replaced. Processes that share the folder share the work: the ranks of a run,
 * which start with the same convolutions, each choose a part and find the others' choices on disk
 * (cudnn_claims.h), so a start is as many times shorter, and all run the same engines. One that is
 * stopped meanwhile holds the others up for two minutes in all; they then choose its part too. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_AUTOTUNE_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_AUTOTUNE_H

#include "engine/cuda/cudnn/cudnn_plan.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct Cudnn Cudnn;

/* Opens cuDNN on backend->stream and tests its convolutions (convolution_self_test), for which
 * backend->cudnn is set meanwhile. Needs the backend's options, stream, info and cache. The test
 * stands here, before anything is trained, since a wrong engine is a property of the device and the
 * library, not of a run: on small shapes all results can be compared, and a failure ends the start
 * with one clear line. */
Status cudnn_new(CudaBackend *backend, struct Cudnn **out, Error *error);
void cudnn_free(struct Cudnn *cudnn);

/* --- For the convolutions --------------------------------------------------------------------- */
typedef struct CudnnChoice {
  ConvolutionForm form;
  const CudnnPlan *plan; /* lives as long as the Cudnn */
} CudnnChoice;

/* Chooses for all of them that are not known yet, with plans made side by side in threads: much
 * sooner than one by one. What fails is left for cudnn_choose to tell. */
void cudnn_prepare(Cudnn *cudnn, const Convolution *convolutions, int count);
/* `only`: this form or none, chosen anew and not kept on disk. ERROR_INTERNAL with the convolution
 * and the last refusal where no form has a plan. */
Status cudnn_choose(Cudnn *cudnn, const Convolution *convolution, const ConvolutionForm *only,
                    CudnnChoice *out, Error *error);
cudnnHandle_t cudnn_handle(const Cudnn *cudnn);
/* Device and library in one line: "NVIDIA H200 sm_90 cuDNN 9.19.0". */
const char *cudnn_device(const Cudnn *cudnn);

/* --- For tests without a device --------------------------------------------------------------- */
/* Chooses plans for `target` without running any. `folder` NULL: nothing on disk. `threads`: of
 * cudnn_workers_new. `patience`: of cudnn_claims_open. */
Cudnn *cudnn_open(const CudnnTarget *target, const char *device, const CudnnRules *rules,
                  const char *folder, int threads, double patience);
int cudnn_made(const Cudnn *cudnn); /* choices so far, without those found on disk */

#endif
