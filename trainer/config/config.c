#include "trainer/config/config.h"

#include <string.h>

#include "data/loader/loader.h"

#define INT(key, field, low, high, text, help)                                                     \
  { key, CONFIG_INT, offsetof(Config, field), low, high, text, NULL, help }
#define REAL(key, field, low, high, text, help)                                                    \
  { key, CONFIG_REAL, offsetof(Config, field), low, high, text, NULL, help }
#define BOOL(key, field, text, help)                                                               \
  { key, CONFIG_BOOL, offsetof(Config, field), 0, 0, text, NULL, help }
#define STRING(key, field, text, help)                                                             \
  { key, CONFIG_STRING, offsetof(Config, field), 0, 0, text, NULL, help }
#define CHOICE(key, field, choices, text, help)                                                    \
  { key, CONFIG_CHOICE, offsetof(Config, field), 0, 0, text, choices, help }

static const ConfigKey KEYS[] = {
    STRING("run.dir", run.dir, "runs/default", "folder that receives everything the run writes"),
    INT("run.seed", run.seed, 0, 9007199254740992.0, "1",
        "seed of initial weights, shuffling, augmentation and noise"),
    STRING("run.init", run.init, "",
           "checkpoint or run folder to initialise weights from; missing tensors are initialised "
           "randomly"),

    STRING("data.path", data.path, "datasets/demo",
           "dataset folder, made by celforge synth or celforge pack"),
    STRING("data.target_path", data.target_path, "",
           "dataset of unrelated targets (cartoons); data.path then gives the sources alone"),
    INT("data.frames", data.frames, 0, 1024, "0",
        "frames per sample, a random window of the clip; 0: the whole clip"),
    INT("data.crop_height", data.crop_height, 0, 8192, "0",
        "height of a random crop of the target, pixels; 0: no cropping"),
    INT("data.crop_width", data.crop_width, 0, 8192, "0",
        "width of a random crop of the target, pixels; 0: no cropping"),
    BOOL("data.flip", data.flip, "true", "flip samples horizontally with probability 1/2"),
    INT("data.threads", data.threads, 1, 64, "1", "loader threads per rank"),
    INT("data.prefetch", data.prefetch, 1, 256, "4", "micro-batches to prefetch per rank"),
    CHOICE("data.on_corrupt", data.on_corrupt, "stop|substitute", "stop",
           "action on a clip with a wrong checksum: stop the run, or substitute another clip"),

    CHOICE("model.generator", model.generator, "celnet|pix2pixhd", "celnet",
           "generator architecture; pix2pixhd is the published baseline (Wang et al. 2018)"),
    INT("model.channels", model.channels, 4, 1024, "32",
        "channels of the first layer; every downsampling doubles them"),
    INT("model.blocks", model.blocks, 0, 64, "4", "residual blocks at the lowest resolution"),
    INT("model.refinements", model.refinements, 0, 16, "0",
        "celnet: residual blocks at full resolution behind the decoder, for lines and flat areas"),
    BOOL("model.smooth_base", model.smooth_base, "false",
         "celnet: add its output to the source without its texture (a guided filter): flat areas"),
    INT("model.downsamplings", model.downsamplings, 1, 6, "4",
        "stride-2 convolutions of pix2pixhd; celnet always has two"),
    INT("model.local_enhancers", model.local_enhancers, 0, 1, "0",
        "1: run pix2pixhd at half resolution inside its local enhancer"),
    CHOICE("model.temporal", model.temporal, "none|conv3d|convgru", "conv3d",
           "temporal layers of celnet: none, causal 3-tap convolutions, or a convolutional GRU"),
    CHOICE("model.norm", model.norm, "none|rms|instance|group", "rms", "norm in the generator"),
    INT("model.noise_channels", model.noise_channels, 0, 64, "0",
        "channels of Gaussian noise concatenated to the source"),
    INT("model.image_scales", model.image_scales, 0, 4, "2",
        "scales of the discriminator on single frames; 0: no image discriminator"),
    INT("model.image_channels", model.image_channels, 4, 1024, "32",
        "channels of the image discriminator's first layer"),
    INT("model.image_layers", model.image_layers, 1, 6, "3",
        "stride-2 layers of the image discriminator"),
    BOOL("model.video", model.video, "true", "train a discriminator on whole clips"),
    INT("model.video_channels", model.video_channels, 4, 1024, "32",
        "channels of the video discriminator's first layer"),
    INT("model.video_layers", model.video_layers, 1, 6, "3",
        "stride-2 layers of the video discriminator"),
    CHOICE("model.discriminator_norm", model.discriminator_norm, "none|rms|instance|group",
           "instance", "norm in the inner layers of the discriminators"),
    BOOL(
        "model.conditional", model.conditional, "true",
        "show the discriminators the source beside each target or output; false for unpaired data"),
    BOOL("model.grey_view", model.grey_view, "false",
         "add an image discriminator on randomly weighted grey frames: texture (White-box, 2020)"),
    BOOL("model.smooth_view", model.smooth_view, "false",
         "add an image discriminator on guided-filtered frames: flat areas (White-box, 2020)"),
    BOOL("model.spectral_norm", model.spectral_norm, "false",
         "apply spectral norm to the convolutions of the discriminators"),

    CHOICE("loss.adversarial", loss.adversarial, "bce|lsgan|hinge|wgan-gp", "lsgan",
           "adversarial loss; bce is the non-saturating cross-entropy (Goodfellow et al. 2014)"),
    REAL("loss.adversarial_weight", loss.adversarial_weight, 0, 1e6, "1",
         "weight of the generator's adversarial loss; 0: no discriminators"),
    REAL("loss.l1", loss.l1, 0, 1e6, "10", "weight of mean |output - target|"),
    REAL("loss.feature_matching", loss.feature_matching, 0, 1e6, "0",
         "weight of mean |difference of discriminator features of output and target|"),
    REAL("loss.perceptual", loss.perceptual, 0, 1e6, "0",
         "weight of mean |difference of VGG19 features of output and target|"),
    STRING("loss.perceptual_weights", loss.perceptual_weights, "",
           "safetensors file of VGG19 weights with torchvision's names (docs/perceptual.md)"),
    REAL("loss.temporal", loss.temporal, 0, 1e6, "10",
         "weight of mean |output's change between frames - target's change between frames|"),
    REAL("loss.total_variation", loss.total_variation, 0, 1e6, "0",
         "weight of mean |differences of neighbouring pixels|"),
    REAL("loss.patch_nce", loss.patch_nce, 0, 1e6, "0",
         "weight of PatchNCE between source and output (Park et al. 2020): keeps the content"),
    REAL("loss.patch_nce_temperature", loss.patch_nce_temperature, 0.01, 10, "0.07",
         "temperature of PatchNCE's softmax"),
    REAL("loss.color", loss.color, 0, 1e6, "0",
         "weight of the colour difference between source and output: keeps the colours"),
    REAL("loss.identity", loss.identity, 0, 1e6, "0",
         "weight of mean |generator's output for a target - target|"),
    REAL("loss.edge_negatives", loss.edge_negatives, 0, 1e6, "0",
         "weight of edge-smoothed targets as fakes in the discriminators' loss: sharp lines"),
    REAL("loss.motion_consistency", loss.motion_consistency, 0, 1e6, "0",
         "weight of mean |warped output - output for the warped, noisy source|; random motion"),
    REAL("loss.flow_consistency", loss.flow_consistency, 0, 1e6, "0",
         "weight of mean |output - previous output warped along the source's optical flow|"),
    REAL("loss.content", loss.content, 0, 1e6, "0",
         "weight of mean |difference of VGG19 conv4_4 of output and source|"),
    REAL("loss.style", loss.style, 0, 1e6, "0",
         "weight of mean |difference of Gram matrices of VGG19 conv4_4 of grey output and target|"),
    REAL("loss.gradient_penalty", loss.gradient_penalty, 0, 1e6, "10",
         "weight of the gradient penalty (Gulrajani et al. 2017); only with wgan-gp"),
    REAL("loss.r1", loss.r1, 0, 1e6, "0",
         "weight (gamma) of the R1 penalty gamma/2 |gradient|^2 (Mescheder et al. 2018)"),
    INT("loss.r1_interval", loss.r1_interval, 1, 1000000, "16",
        "apply R1 every N steps, scaled by N (lazy regularisation)"),

    CHOICE(
        "augment.mode", augment.mode, "none|fixed|adaptive", "none",
        "DiffAugment of the discriminators' input: with a fixed or an adapted probability (ADA)"),
    REAL("augment.probability", augment.probability, 0, 1, "1",
         "probability that a clip is augmented; adaptive: its value at the first step"),
    REAL("augment.max_probability", augment.max_probability, 0, 1, "0.8",
         "upper bound of the adapted probability"),
    REAL("augment.target", augment.target, -1, 1, "0.6",
         "adaptive: aim for the mean sign of the discriminators' output on targets"),
    INT("augment.ramp_clips", augment.ramp_clips, 1, 1e12, "500000",
        "adaptive: clips after which the probability can have moved by 1"),

    REAL("optim.generator_lr", optim.generator_lr, 0, 1, "2e-4",
         "Adam learning rate of the generator"),
    REAL("optim.discriminator_lr", optim.discriminator_lr, 0, 1, "2e-4",
         "Adam learning rate of the discriminators"),
    REAL("optim.beta1", optim.beta1, 0, 0.999999, "0.5", "Adam's decay of the first moment"),
    REAL("optim.beta2", optim.beta2, 0, 0.999999, "0.999", "Adam's decay of the second moment"),
    REAL("optim.epsilon", optim.epsilon, 1e-16, 1, "1e-8", "Adam's epsilon"),
    REAL("optim.weight_decay", optim.weight_decay, 0, 1, "0", "decoupled weight decay (AdamW)"),
    REAL("optim.clip", optim.clip, 0, 1e9, "0",
         "clip the global gradient norm of each network to this value; 0: no clipping"),
    REAL("optim.ema", optim.ema, 0, 0.999999999, "0.999",
         "decay of the EMA of the generator weights, used for samples and inference"),
    CHOICE("optim.lr_schedule", optim.lr_schedule, "constant|linear|cosine", "linear",
           "shape of the learning rate decay after lr_decay_start"),
    REAL("optim.lr_decay_start", optim.lr_decay_start, 0, 1, "0.5",
         "start of the learning rate decay, as a fraction of train.steps"),
    REAL("optim.lr_min", optim.lr_min, 0, 1, "0",
         "learning rate at the last step, as a fraction of the full rate"),
    INT("optim.lr_warmup_steps", optim.lr_warmup_steps, 0, 1e12, "0",
        "linear learning rate warm-up, steps"),
    INT("optim.pretrain_steps", optim.pretrain_steps, 0, 1e12, "0",
        "pretraining of the generator on L1 without discriminators, steps"),
    INT("optim.adversarial_ramp_steps", optim.adversarial_ramp_steps, 0, 1e12, "0",
        "linear ramp of the adversarial weight from 0 after pretraining, steps"),

    INT("train.steps", train.steps, 1, 1e12, "1000", "training steps of the whole run"),
    INT("train.global_batch", train.global_batch, 1, 1048576, "4", "clips per step over all ranks"),
    INT("train.micro_batch", train.micro_batch, 1, 65536, "1",
        "clips per forward and backward pass of a rank; gradients are accumulated"),
    INT("train.threads", train.threads, 0, 1024, "0",
        "CPU threads per rank; 0: OMP_NUM_THREADS, or the cores shared among the ranks"),
    CHOICE("train.precision", train.precision, "f32|bf16", "f32",
           "compute precision of the convolutions; master weights and losses stay f32"),
    CHOICE("train.device", train.device, "auto|cpu|cuda", "auto",
           "compute device; auto: cuda if there is a GPU, else cpu"),
    BOOL("train.recompute", train.recompute, "false",
         "recompute norms and activations in the backward pass: less memory, more time"),

    BOOL("cuda.deterministic", cuda.deterministic, "false",
         "make runs bit-for-bit reproducible; some convolutions become slower"),
    BOOL("cuda.tf32", cuda.tf32, "false",
         "run f32 convolutions on tensor cores with a 10-bit mantissa"),
    BOOL("cuda.graphs", cuda.graphs, "true", "launch each step as one CUDA graph"),
    BOOL("cuda.autotune", cuda.autotune, "true",
         "benchmark the cuDNN engines at the first start; ignored in deterministic runs"),
    REAL("cuda.workspace_mib", cuda.workspace_mib, 0, 65536, "256",
         "maximum workspace of one convolution, MiB"),
    INT("cuda.build_threads", cuda.build_threads, 0, 16, "0",
        "threads that build convolution plans at the start; 0: processors - 1, at most 16"),
    STRING("cuda.cache", cuda.cache, "",
           "folder for plans and compiled kernels; empty: $XDG_CACHE_HOME/celforge or "
           "~/.cache/celforge"),

    INT("guard.max_skips", guard.max_skips, 1, 1e9, "20",
        "consecutive skipped steps before the run rolls back to its last checkpoint"),
    INT("guard.max_rollbacks", guard.max_rollbacks, 0, 1e6, "3",
        "rollbacks, each skipping the batches at fault, before the run stops"),
    INT("guard.window", guard.window, 0, 4096, "128",
        "recent good steps used to compute the gradient-norm limit; 0: skip only non-finite steps"),
    REAL("guard.max_deviations", guard.max_deviations, 1, 1000, "8",
         "gradient-norm limit, in robust standard deviations above the median of the window"),

    INT("checkpoint.every", checkpoint.every, 0, 1e12, "500",
        "write a checkpoint every N steps; 0: only at the end"),
    INT("checkpoint.keep", checkpoint.keep, 2, 1e6, "3", "newest checkpoints to keep"),

    INT("metrics.every", metrics.every, 1, 1e12, "10",
        "write a line of metrics.jsonl every N steps"),
    BOOL("metrics.tensorboard", metrics.tensorboard, "true",
         "write metrics and sample sheets as TensorBoard events too (run.dir/tensorboard)"),

    INT("samples.every", samples.every, 0, 1e12, "500",
        "write a sample sheet every N steps; 0: none"),
    INT("samples.clips", samples.clips, 1, 16, "4", "clips on a sample sheet"),

    CHOICE("comm.backend", comm.backend, "auto|mpi|nccl", "auto",
           "transport of the gradient all-reduce; auto: nccl between GPUs, else mpi"),
    CHOICE("comm.reduce", comm.reduce, "fast|reproducible", "fast",
           "reproducible: 1, 2, 4, ... ranks with equal train.threads (0: 1) give the same bytes"),
    CHOICE("comm.gradients", comm.gradients, "f32|bf16", "f32",
           "data type of the gradient all-reduce"),
    BOOL("comm.overlap", comm.overlap, "true",
         "overlap the gradient all-reduce with the backward pass"),
    REAL("comm.timeout", comm.timeout, 1, 1e6, "600",
         "maximum time of a step before the run stops with a diagnosis, seconds"),
    REAL("comm.start_timeout", comm.start_timeout, 1, 1e6, "1800",
         "maximum time of the start: planning, autotuning, resuming; seconds"),
    REAL("comm.evaluation_timeout", comm.evaluation_timeout, 1, 1e6, "1800",
         "maximum time of a sample sheet, seconds"),
    REAL("comm.checkpoint_timeout", comm.checkpoint_timeout, 1, 1e6, "1800",
         "maximum time of a checkpoint, seconds"),
    REAL("comm.heartbeat", comm.heartbeat, 0.05, 3600, "5",
         "interval between a rank's heartbeats (run.dir/ranks/RANK.json), seconds"),
    REAL("comm.bucket_mib", comm.bucket_mib, 0.001, 1024, "4",
         "gradient bucket of one all-reduce, MiB"),
};

static const char *section_help(const char *section) {
  static const struct {
    const char *name, *help;
  } SECTIONS[] = {
      {"run", "Run folder, seed and initial weights."},
      {"data", "Dataset, sampling and augmentation."},
      {"model", "Generator and discriminators."},
      {"loss", "Losses and their weights; a weight of 0 switches a term off."},
      {"augment",
       "Augmentation of what the discriminators see (Zhao et al. 2020, Karras et al. 2020)."},
      {"optim", "Adam, learning rates and schedules."},
      {"train", "Length of the run, batch sizes, precision and device."},
      {"cuda", "GPU execution."},
      {"guard", "Skipping of bad steps, and rollback."},
      {"checkpoint", "Checkpoints."},
      {"metrics", "Metrics log."},
      {"samples", "Sample sheets: source, output and target side by side."},
      {"comm", "Communication between ranks: gradient all-reduce, timeouts, heartbeats."},
  };
  for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
    if (strcmp(SECTIONS[i].name, section) == 0) return SECTIONS[i].help;
  return NULL;
}

/* Keys of older config files. */
static const ConfigRenamed RENAMED[] = {
    {"optim.generator_rate", "optim.generator_lr"},
    {"optim.discriminator_rate", "optim.discriminator_lr"},
    {"optim.schedule", "optim.lr_schedule"},
    {"optim.decay_from", "optim.lr_decay_start"},
    {"optim.rate_floor", "optim.lr_min"},
    {"optim.rate_warmup", "optim.lr_warmup_steps"},
    {"optim.l1_warmup", "optim.pretrain_steps"},
    {"optim.fade_in", "optim.adversarial_ramp_steps"},
    {"loss.r1_every", "loss.r1_interval"},
    {"data.ahead", "data.prefetch"},
    {"model.downs", "model.downsamplings"},
    {"model.enhancers", "model.local_enhancers"},
    {"cuda.tune", "cuda.autotune"},
    {"cuda.plan_threads", "cuda.build_threads"},
    {"guard.outlier", "guard.max_deviations"},
};

const ConfigSchema config_schema = {.keys = KEYS,
                                    .count = sizeof KEYS / sizeof *KEYS,
                                    .section_help = section_help,
                                    .option = "--set",
                                    .renamed = RENAMED,
                                    .renamed_count = sizeof RENAMED / sizeof *RENAMED};

bool config_is_unpaired(const Config *config) {
  return config->data.target_path[0] != '\0';
}

/* Rejects losses that compare an output with its own target where there is none. */
static Status check_unpaired(const Config *config, const ConfigSources *sources, Error *error) {
  const LossConfig *loss = &config->loss;
  const struct {
    const char *key;
    double weight;
  } PAIRED[] = {{"loss.l1", loss->l1},
                {"loss.feature_matching", loss->feature_matching},
                {"loss.perceptual", loss->perceptual},
                {"loss.temporal", loss->temporal}};
  if (!config_is_unpaired(config)) return OK;
  for (size_t i = 0; i < sizeof PAIRED / sizeof *PAIRED; i++)
    if (PAIRED[i].weight > 0)
      return config_error(sources, PAIRED[i].key, error,
                          "%g compares each output with its own target, but the targets of "
                          "data.target_path are unrelated to the sources; set it to 0",
                          PAIRED[i].weight);
  if (config->model.conditional)
    return config_error(sources, "model.conditional", error,
                        "true shows the discriminators sources beside unrelated targets "
                        "(data.target_path); set it to false");
  if (loss->adversarial_weight <= 0)
    return config_error(sources, "loss.adversarial_weight", error,
                        "unpaired training (data.target_path) learns from the discriminators "
                        "alone; set it above 0");
  return OK;
}

/* Rejects options of losses and discriminators that do not go together. */
static Status check_losses(const Config *config, const ConfigSources *sources, Error *error) {
  const LossConfig *loss = &config->loss;
  const struct {
    const char *key;
    double weight;
  } VGG[] = {{"loss.perceptual", loss->perceptual},
             {"loss.content", loss->content},
             {"loss.style", loss->style}};
  for (size_t i = 0; i < sizeof VGG / sizeof *VGG; i++)
    if (VGG[i].weight > 0 && !loss->perceptual_weights[0])
      return config_error(sources, VGG[i].key, error,
                          "%g needs VGG19's weights: loss.perceptual_weights, a safetensors file",
                          VGG[i].weight);
  if (loss->patch_nce > 0 && config->model.generator != GENERATOR_CELNET)
    return config_error(sources, "loss.patch_nce", error,
                        "compares features of celnet's encoder; set model.generator to celnet");
  if (loss->edge_negatives > 0 && loss->adversarial_weight <= 0)
    return config_error(sources, "loss.edge_negatives", error,
                        "%g needs trained discriminators: loss.adversarial_weight above 0",
                        loss->edge_negatives);
  if (loss->edge_negatives > 0 && loss->adversarial == ADVERSARIAL_WGAN_GP)
    return config_error(sources, "loss.edge_negatives", error,
                        "does not go with loss.adversarial: wgan-gp, whose critic has no labels");
  if (loss->flow_consistency > 0 && config->data.frames == 1)
    return config_error(sources, "loss.flow_consistency", error,
                        "%g compares consecutive frames, but data.frames is 1; set it to 2 or more",
                        loss->flow_consistency);
  if (config->augment.mode != AUGMENT_NONE && loss->adversarial_weight <= 0)
    return config_error(sources, "augment.mode", error,
                        "needs trained discriminators: loss.adversarial_weight above 0");
  return check_unpaired(config, sources, error);
}

static Status check_batch(const Config *config, const ConfigSources *sources, int world_size,
                          Error *error) {
  int64_t global = config->train.global_batch, micro = config->train.micro_batch;
  if (global % micro != 0)
    return config_error(sources, "train.global_batch", error,
                        "%lld is not a multiple of train.micro_batch %lld", (long long)global,
                        (long long)micro);
  if ((global / micro) % world_size == 0) return OK;
  Text sizes = {0};
  loader_world_sizes(global, (int)micro, 4096, &sizes);
  Status status = config_error(sources, "train.global_batch", error,
                               "%lld clips in micro-batches of %lld cannot be split over %d ranks; "
                               "possible world sizes: %s; a smaller train.micro_batch or "
                               "a larger train.global_batch allows more",
                               (long long)global, (long long)micro, world_size, sizes.data);
  text_free(&sizes);
  return status;
}

Status config_check(const Config *config, const ConfigSources *sources, int world_size,
                    Error *error) {
  const ModelConfig *model = &config->model;
  const LossConfig *loss = &config->loss;
  if ((config->data.crop_height == 0) != (config->data.crop_width == 0))
    return config_error(sources, config->data.crop_height ? "data.crop_height" : "data.crop_width",
                        error, "set both crop_height and crop_width, or neither");
  bool pix2pixhd = model->generator == GENERATOR_PIX2PIXHD;
  if (pix2pixhd && model->temporal != TEMPORAL_NONE)
    return config_error(
        sources, "model.generator", error,
        "pix2pixhd has no temporal layers, but model.temporal is %s; set it to none",
        model->temporal == TEMPORAL_CONV3D ? "conv3d" : "convgru");
  if (pix2pixhd && model->refinements > 0)
    return config_error(sources, "model.refinements", error,
                        "%lld: pix2pixhd has none; set it to 0 or model.generator to celnet",
                        (long long)model->refinements);
  if (pix2pixhd && model->smooth_base)
    return config_error(sources, "model.smooth_base", error,
                        "true: pix2pixhd has none; set it to false or model.generator to celnet");
  if (!pix2pixhd && model->local_enhancers > 0)
    return config_error(sources, "model.local_enhancers", error,
                        "needs model.generator: pix2pixhd");
  bool has_discriminator =
      model->image_scales > 0 || model->video || model->grey_view || model->smooth_view;
  if (loss->adversarial_weight > 0 && !has_discriminator)
    return config_error(sources, "loss.adversarial_weight", error,
                        "%g needs a discriminator: model.image_scales above 0, or model.video, "
                        "model.grey_view or model.smooth_view true",
                        loss->adversarial_weight);
  if (loss->feature_matching > 0 && loss->adversarial_weight <= 0)
    return config_error(sources, "loss.feature_matching", error,
                        "%g needs trained discriminators: loss.adversarial_weight above 0",
                        loss->feature_matching);
  if (loss->r1 > 0 && loss->adversarial_weight <= 0)
    return config_error(sources, "loss.r1", error,
                        "%g needs trained discriminators: loss.adversarial_weight above 0",
                        loss->r1);
  if (loss->adversarial_weight <= 0 && loss->l1 <= 0 && loss->perceptual <= 0)
    return config_error(
        sources, "loss.l1", error,
        "the generator needs loss.l1, loss.perceptual or loss.adversarial_weight above 0");
  if (config->optim.pretrain_steps > 0 && loss->l1 <= 0)
    return config_error(sources, "optim.pretrain_steps", error,
                        "pretraining on L1 needs loss.l1 above 0");
  Status status = check_losses(config, sources, error);
  if (status != OK) return status;
  return check_batch(config, sources, world_size, error);
}
