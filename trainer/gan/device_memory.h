/* How much memory a model takes on its device, told before anything is allocated. What rank 0 needs
 * to draw samples, a frame at a time, comes on top. */
#ifndef CELFORGE_TRAINER_GAN_DEVICE_MEMORY_H
#define CELFORGE_TRAINER_GAN_DEVICE_MEMORY_H

#include "trainer/gan/gan.h"

typedef struct ModelMemory {
  size_t arena;      /* values and workspaces */
  size_t parameters; /* networks': master, gradient, moments, EMA, compute, counters ... */
  size_t carries;    /* sums of micro-batches' gradients */
  size_t batches;    /* frames, noise, controls, metrics */
  size_t staging;    /* what the backend will still take for copies */
  size_t total;
} ModelMemory;

/* What model_allocate will take (or took), and the backend's own staging. */
Status model_memory(const Model *model, ModelMemory *out, Error *error);

/* The same as lines of text; on a device with memory of its own also what is free there, and
 * whether the model fits. */
Status memory_print(const Model *model, Text *out, Error *error);

/* model_allocate. Where the device's memory does not suffice the model is freed, `*model` is NULL,
 * and the error also says what the model needs in all and which changes of train.micro_batch and
 * train.recompute would fit, found by planning with them. */
Status memory_allocate(Model **model, Error *error);

#endif
