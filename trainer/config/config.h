/* The configuration of a run: one struct, filled from one table of keys (trainer/config/config.c).
 */
#ifndef CELFORGE_TRAINER_CONFIG_CONFIG_H
#define CELFORGE_TRAINER_CONFIG_CONFIG_H

#include "base/config/config.h"

typedef enum GeneratorKind { GENERATOR_CELNET, GENERATOR_PIX2PIXHD } GeneratorKind;
typedef enum Temporal { TEMPORAL_NONE, TEMPORAL_CONV3D, TEMPORAL_CONVGRU } Temporal;
typedef enum NormChoice {
  NORM_CHOICE_NONE,
  NORM_CHOICE_RMS,
  NORM_CHOICE_INSTANCE,
  NORM_CHOICE_GROUP
} NormChoice;
typedef enum Adversarial {
  ADVERSARIAL_BCE,
  ADVERSARIAL_LSGAN,
  ADVERSARIAL_HINGE,
  ADVERSARIAL_WGAN_GP
} Adversarial;
typedef enum AugmentMode { AUGMENT_NONE, AUGMENT_FIXED, AUGMENT_ADAPTIVE } AugmentMode;
typedef enum Schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } Schedule;
typedef enum Precision { PRECISION_F32, PRECISION_BF16 } Precision;
typedef enum Device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } Device;
typedef enum CommBackend { COMM_BACKEND_AUTO, COMM_BACKEND_MPI, COMM_BACKEND_NCCL } CommBackend;
typedef enum CommReduce { COMM_REDUCE_FAST, COMM_REDUCE_REPRODUCIBLE } CommReduce;

/* Fields of CHOICE keys are ints that hold a value of one of the enums above. */
typedef struct ModelConfig {
  int generator; /* a GeneratorKind */
  int64_t channels, blocks, refinements, tones, downsamplings, local_enhancers;
  int temporal, norm;
  int64_t noise_channels;
  int64_t image_scales, image_channels, image_layers;
  int64_t video_channels, video_layers;
  bool smooth_base, video, spectral_norm, conditional, grey_view, smooth_view;
  int discriminator_norm;
} ModelConfig;

typedef struct LossConfig {
  int adversarial;
  double adversarial_weight, l1, gradient, feature_matching, perceptual, temporal, total_variation;
  double gradient_penalty, r1;
  int64_t r1_interval;
  ConfigString perceptual_weights;
  double patch_nce, patch_nce_temperature, color, identity, edge_negatives;
  bool patch_nce_flip;
  double motion_consistency, flow_consistency, content, style;
} LossConfig;

typedef struct AugmentConfig {
  int mode; /* an AugmentMode */
  double probability, max_probability, target;
  int64_t ramp_clips;
} AugmentConfig;

typedef struct OptimConfig {
  double generator_lr, discriminator_lr, beta1, beta2, epsilon, weight_decay, clip, ema;
  int lr_schedule;
  double lr_decay_start, lr_min;
  int64_t lr_warmup_steps, pretrain_steps, adversarial_ramp_steps;
} OptimConfig;

typedef struct Config {
  struct {
    ConfigString dir, init;
    int64_t seed;
  } run;
  struct {
    ConfigString path, target_path;
    int64_t frames, crop_height, crop_width, threads, prefetch;
    bool flip;
    int on_corrupt;
  } data;
  ModelConfig model;
  LossConfig loss;
  AugmentConfig augment;
  OptimConfig optim;
  struct {
    int64_t steps, global_batch, micro_batch, threads;
    int precision, device;
    bool recompute;
  } train;
  struct {
    bool deterministic, tf32, graphs, autotune;
    double workspace_mib;
    int64_t build_threads;
    ConfigString cache;
  } cuda;
  struct {
    int64_t max_skips, window, max_rollbacks;
    double max_deviations;
  } guard;
  struct {
    int64_t every, keep;
  } checkpoint;
  struct {
    int64_t every;
    bool tensorboard;
  } metrics;
  struct {
    int64_t every, clips;
  } samples;
  struct {
    int backend, reduce, gradients; /* gradients: a Precision */
    bool overlap;
    double timeout, start_timeout, evaluation_timeout, checkpoint_timeout, heartbeat, bucket_mib;
  } comm;
} Config;

extern const ConfigSchema config_schema;

/* True if sources and targets come from two datasets and do not belong together. */
bool config_is_unpaired(const Config *config);

/* Checks combinations of keys. ERROR_USAGE with the location where the key at fault was set, as
 * `sources` (or NULL) records it. */
Status config_check(const Config *config, const ConfigSources *sources, int world_size,
                    Error *error);

#endif
