/* Losses in the feature space of VGG19. The perceptual loss (Johnson, Alahi, Fei-Fei 2016): the
 * distance of two frames in the feature space of VGG19 (Simonyan, Zisserman 2015, configuration E),
 * up to its 13th convolution, with frozen weights. Layers and weights are those of pix2pixHD (Wang
 * et al. 2018):
 *
 *   1/32 relu1_1 + 1/16 relu2_1 + 1/8 relu3_1 + 1/4 relu4_1 + 1 relu5_1, each mean |difference|
 *
 * The weights come from a safetensors file with the names and layouts of torchvision's vgg19:
 * features.0.weight [64,3,3,3] (out, in, height, width), features.0.bias [64], and so on to
 * features.28. Frames are normalised as torchvision documents: from [-1, 1] to [0, 1], minus
 * ImageNet's mean (0.485, 0.456, 0.406), divided by its standard deviation (0.229, 0.224, 0.225),
 * for red, green, blue. */
#ifndef CELFORGE_TRAINER_GAN_PERCEPTUAL_LOSS_H
#define CELFORGE_TRAINER_GAN_PERCEPTUAL_LOSS_H

#include "trainer/gan/networks.h"

enum { PERCEPTUAL_MIN_SIDE = 16 }; /* pixels: four poolings leave one */

/* Appends the loss between `output` and `target`, [N,T,H,W,3] in [-1, 1] in the network's compute
 * dtype, frame by frame; returns an f32 scalar. Declares the network's parameters on first use. */
Value loss_perceptual(Graph *graph, Parameters *network, Value output, Value target);

/* The distance of `output` and `source` in the layer of CartoonGAN and AnimeGAN, conv4_4 before its
 * ReLU (features.25 of torchvision): mean |difference|. Keeps the content. */
Value loss_content(Graph *graph, Parameters *network, Value output, Value source);
/* The distance of textures (Gatys, Ecker, Bethge 2016) between `output` and `target`, both in grey
 * so that colours do not count (AnimeGAN: Chen, Liu, Chen 2020): mean |difference| of the Gram
 * matrices of conv4_4, each F^T F / (positions * channels) of a frame. */
Value loss_style(Graph *graph, Parameters *network, Value output, Value target);

/* Reads the weights of a network that a graph has declared: `*out` receives network->total numbers
 * in the layout of its master array; the caller frees it. Tensors may be F32, F16 or BF16; tensors
 * that the network does not use are ignored. ERROR_IO if the file cannot be read; ERROR_DATA, with
 * the tensor's name, if one is missing, has another shape or type, or is not finite. */
Status perceptual_read(const char *path, const Parameters *network, float **out, Error *error);

#endif
