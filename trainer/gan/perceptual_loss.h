/* The perceptual loss (Johnson, Alahi, Fei-Fei 2016): what a network that was trained to name
 * photographs makes of a frame. It is VGG19 (Simonyan, Zisserman 2015, configuration E) up to its
 * 13th convolution, with weights that are read once and never change; layers and their weights are
 * those of pix2pixHD (Wang et al. 2018):
 *
 *   1/32 relu1_1 + 1/16 relu2_1 + 1/8 relu3_1 + 1/4 relu4_1 + 1 relu5_1, each mean |difference|
 *
 * The weights come from a safetensors file with the names and layouts of torchvision's vgg19:
 * features.0.weight [64,3,3,3] (out, in, height, width), features.0.bias [64], and so on to
 * features.28. Frames go in as torchvision documents: from [-1, 1] to [0, 1], minus the mean
 * (0.485, 0.456, 0.406), over the deviation (0.229, 0.224, 0.225) of ImageNet's red, green, blue.
 */
#ifndef CELFORGE_TRAINER_GAN_PERCEPTUAL_LOSS_H
#define CELFORGE_TRAINER_GAN_PERCEPTUAL_LOSS_H

#include "trainer/gan/networks.h"

enum { PERCEPTUAL_LEAST_SIDE = 16 }; /* pixels: four poolings leave one */

/* The loss of `output` beside `target`, [N,T,H,W,3] in [-1, 1] in the network's precision, each
 * frame by itself: an f32 scalar. Declares the network's parameters on first use. */
Value loss_perceptual(Graph *graph, Parameters *network, Value output, Value target);

/* Reads the weights of a network that a graph has declared: `*out` receives network->total numbers
 * as its master array holds them, which the caller frees. Tensors may be F32, F16 or BF16; what the
 * network has no use for is left alone. ERROR_IO where the file cannot be read, ERROR_DATA naming
 * the tensor that is missing, of another shape or type, or not finite. */
Status perceptual_read(const char *path, const Parameters *network, float **out, Error *error);

#endif
