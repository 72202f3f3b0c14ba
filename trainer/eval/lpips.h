/* LPIPS, version 0.1 (Zhang, Isola, Efros, Shechtman, Wang: "The Unreasonable Effectiveness of Deep
 * Features as a Perceptual Metric", CVPR 2018): the distance of two frames in five layers of a
 * network trained on ImageNet,
 *
 *   sum over layers of the mean over positions of sum_c w_c (u_c - v_c)^2
 *
 * u and v being the activations behind the ReLU, divided by their length over the channels plus
 * 1e-10. Frames are in [-1, 1], then shifted and scaled per colour.
 *
 * Weights come from a safetensors file with the names of the state dict of the package lpips:
 * scaling_layer.shift and .scale [1,3,1,1], lin0.model.1.weight [1,64,1,1] to lin4, and the network
 * net.slice1.0.weight [64,3,11,11] and so on. Its tensors tell AlexNet from VGG16. */
#ifndef CELFORGE_TRAINER_EVAL_LPIPS_H
#define CELFORGE_TRAINER_EVAL_LPIPS_H

#include "engine/backend/backend.h"

enum { LPIPS_MAX_VIDEOS = 4 };

typedef struct Lpips Lpips;
/* For frames of height x width pixels of at most LPIPS_MAX_VIDEOS videos, the last of which is the
 * reference. Plans the network and reads its weights. ERROR_USAGE if frames are smaller than the
 * network needs; ERROR_IO and ERROR_DATA as inception_new. */
Status lpips_new(Backend *backend, const char *path, int height, int width, int videos, Lpips **out,
                 Error *error);
void lpips_free(Lpips *lpips);                 /* NULL is allowed */
const char *lpips_network(const Lpips *lpips); /* "AlexNet", "VGG16" */

typedef struct LpipsDistances {
  double reference; /* to the reference's frame; undefined for the reference itself */
  double previous;  /* to the frame that this video had in the call before */
} LpipsDistances;
/* Takes the next frame of each video, u8 RGB [H,W,3], and computes out[videos]. */
Status lpips_frame(Lpips *lpips, const uint8_t *const *frames, LpipsDistances *out, Error *error);

#endif
