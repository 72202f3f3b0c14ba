/* A classifier two-sample score (Lopez-Paz, Oquab: "Revisiting Classifier Two-Sample Tests", ICLR
 * 2017): a small convolutional network learns to tell patches of the source videos from patches of
 * cartoons; then it says for patches of other videos what it takes them for.
 *
 *   network   four 3 x 3 convolutions (strides 1, 2, 2, 1; 12, 24, 32, 48 channels), mean over all
 *             positions, layers to 32 values and to one logit; leaky ReLU of slope 0.2. It sees 17
 *             pixels at once: lines, flat areas and texture, but no things.
 *   training  binary cross-entropy, AdamW, STYLE_STEPS steps of STYLE_BATCH patches, each changed
 *             by style_patch_jitter; fixed seeds. STYLE_BATCH_SOURCES of a batch are
 *             sources, more than half: a patch is taken for cartoon on clear evidence only.
 *
 * Every number is keyed by seed and sample. The result depends on the number of threads only as far
 * as the engine's sums of weight gradients do. */
#ifndef CELFORGE_TRAINER_EVAL_STYLE_CLASSIFIER_H
#define CELFORGE_TRAINER_EVAL_STYLE_CLASSIFIER_H

#include "engine/backend/backend.h"
#include "trainer/eval/style_patches.h"

enum { STYLE_STEPS = 600, STYLE_BATCH = 64, STYLE_BATCH_SOURCES = 43 };
/* Accuracy on held-out patches below which the score says nothing. */
static const double STYLE_MIN_ACCURACY = 0.9;

typedef struct StyleClassifier StyleClassifier;
/* Plans and initialises the network for patches of `side` pixels. */
Status style_classifier_new(Backend *backend, int side, StyleClassifier **out, Error *error);
void style_classifier_free(StyleClassifier *classifier); /* NULL is allowed */
/* Trains on both classes, at least one patch each. Batches are prepared by `threads` threads (0:
 * OMP_NUM_THREADS, or every core), whose number changes nothing. */
Status style_classifier_train(StyleClassifier *classifier, const StylePatches *sources,
                              const StylePatches *cartoons, int steps, int threads, Error *error);
/* Computes the logit of each patch, out[patches->count]: above 0 if the network takes it for
 * cartoon.
 */
Status style_classifier_logits(StyleClassifier *classifier, const StylePatches *patches, float *out,
                               Error *error);

#endif
