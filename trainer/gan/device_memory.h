/* The device memory that a GAN's training needs, computed from the plan before anything is
 * allocated. Rank 0 additionally needs memory for sample sheets, one frame at a time. */
#ifndef CELFORGE_TRAINER_GAN_DEVICE_MEMORY_H
#define CELFORGE_TRAINER_GAN_DEVICE_MEMORY_H

#include "trainer/gan/gan.h"

/* In bytes. */
typedef struct DeviceMemoryNeeds {
  size_t arena;        /* activations, gradients of activations, workspaces */
  size_t parameters;   /* master, gradient, moments, EMA, compute copies, counters */
  size_t accumulation; /* partial sums of gradient accumulation */
  size_t batches;      /* frames, noise, controls, metrics */
  size_t staging;      /* copy buffers that the backend has not allocated yet */
  size_t total;
} DeviceMemoryNeeds;

/* Computes what gan_allocate allocates, plus the backend's own staging buffers. */
Status device_memory_needs(const Gan *gan, DeviceMemoryNeeds *out, Error *error);

/* Appends the needs as text; for a device with its own memory also its free memory, and whether the
 * GAN fits. */
Status device_memory_print(const Gan *gan, Text *out, Error *error);

/* Calls gan_allocate. If the device runs out of memory the GAN is freed, `*gan` becomes NULL, and
 * the error also names the total need and the values of train.micro_batch and train.recompute that
 * would fit, found by planning with them. */
Status device_memory_allocate(Gan **gan, Error *error);

#endif
