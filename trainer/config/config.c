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
    STRING("run.dir", run.dir, "runs/default", "folder that everything a run writes lies in"),
    INT("run.seed", run.seed, 0, 9007199254740992.0, "1",
        "seed of weights, order, augmentation, noise"),
    STRING("run.init", run.init, "",
           "checkpoint, or folder of a run, whose weights the networks begin with; tensors that it "
           "does not hold are drawn; empty: all are"),

    STRING("data.path", data.path, "data/demo", "dataset folder (celforge synth, celforge pack)"),
    INT("data.frames", data.frames, 0, 1024, "0",
        "frames of a sample, a random run of the clip's; 0: all"),
    INT("data.crop_height", data.crop_height, 0, 8192, "0",
        "random crop of the target, pixels; 0: whole frames"),
    INT("data.crop_width", data.crop_width, 0, 8192, "0", "as crop_height"),
    BOOL("data.flip", data.flip, "true", "mirror half of the samples left to right"),
    INT("data.threads", data.threads, 1, 64, "1", "threads that read ahead, per rank"),
    INT("data.prefetch", data.prefetch, 1, 256, "4", "micro-batches read ahead, per rank"),
    CHOICE("data.on_corrupt", data.on_corrupt, "stop|substitute", "stop",
           "what a clip with a bad checksum does to the run"),

    CHOICE("model.generator", model.generator, "celnet|pix2pixhd", "celnet",
           "network that turns film into cartoon"),
    INT("model.channels", model.channels, 4, 1024, "32",
        "channels of its first layer; doubled at each halving"),
    INT("model.blocks", model.blocks, 0, 64, "4", "residual blocks at the lowest resolution"),
    INT("model.downsamplings", model.downsamplings, 1, 6, "4",
        "halvings of pix2pixhd; celnet has two"),
    INT("model.local_enhancers", model.local_enhancers, 0, 1, "0",
        "1: pix2pixhd at half the size, with its local enhancer at the full one"),
    CHOICE("model.temporal", model.temporal, "none|conv3d|convgru", "conv3d",
           "how time enters celnet: not at all, by causal 3-tap convolutions, or by a recurrent "
           "layer"),
    CHOICE("model.norm", model.norm, "none|rms|instance|group", "rms", "the generator's norm"),
    INT("model.noise_channels", model.noise_channels, 0, 64, "0",
        "channels of Gaussian noise beside the source"),
    INT("model.image_scales", model.image_scales, 0, 4, "2",
        "scales of the discriminator on single frames; 0: none"),
    INT("model.image_channels", model.image_channels, 4, 1024, "32",
        "its channels in the first layer"),
    INT("model.image_layers", model.image_layers, 1, 6, "3", "its stride-2 layers"),
    BOOL("model.video", model.video, "true", "a discriminator on whole clips"),
    INT("model.video_channels", model.video_channels, 4, 1024, "32",
        "its channels in the first layer"),
    INT("model.video_layers", model.video_layers, 1, 6, "3", "its stride-2 layers"),
    CHOICE("model.discriminator_norm", model.discriminator_norm, "none|rms|instance|group",
           "instance", "norm in the discriminators' inner layers"),
    BOOL("model.spectral_norm", model.spectral_norm, "false",
         "the discriminators' convolutions are divided by their largest singular value"),

    CHOICE("loss.adversarial", loss.adversarial, "bce|lsgan|hinge|wgan-gp", "lsgan",
           "the game: cross-entropy (Goodfellow 2014, non-saturating), least squares, hinge, "
           "Wasserstein with a gradient penalty"),
    REAL("loss.adversarial_weight", loss.adversarial_weight, 0, 1e6, "1",
         "weight of the discriminators' verdict; 0: no discriminators"),
    REAL("loss.l1", loss.l1, 0, 1e6, "10", "weight of mean |output - target|"),
    REAL("loss.feature_matching", loss.feature_matching, 0, 1e6, "0",
         "weight of mean |D's features of output - of target|"),
    REAL("loss.perceptual", loss.perceptual, 0, 1e6, "0",
         "weight of mean |VGG19's features of output - of target| (docs/perceptual.md)"),
    STRING("loss.perceptual_weights", loss.perceptual_weights, "",
           "safetensors file with VGG19's weights, named as torchvision's"),
    REAL("loss.temporal", loss.temporal, 0, 1e6, "10",
         "weight of mean |change of output - change of target| between frames"),
    REAL("loss.total_variation", loss.total_variation, 0, 1e6, "0",
         "weight of mean |differences of neighbouring pixels|"),
    REAL("loss.gradient_penalty", loss.gradient_penalty, 0, 1e6, "10",
         "weight of the gradient penalty, which wgan-gp alone has: the mean over clips of (|D's "
         "gradient| - 1)^2 at a random point between output and target"),
    REAL("loss.r1", loss.r1, 0, 1e6, "0",
         "weight of R1, which keeps the discriminators flat where they see the real: half the mean "
         "over clips of |D's gradient by the target|^2"),
    INT("loss.r1_interval", loss.r1_interval, 1, 1000000, "16",
        "steps from one with R1 to the next, which weighs as much as all of them; optim.clip "
        "bounds that step like any other"),

    REAL("optim.generator_lr", optim.generator_lr, 0, 1, "2e-4",
         "Adam's learning rate of the generator"),
    REAL("optim.discriminator_lr", optim.discriminator_lr, 0, 1, "2e-4",
         "Adam's learning rate of the discriminators"),
    REAL("optim.beta1", optim.beta1, 0, 0.999999, "0.5", "Adam's decay of the first moment"),
    REAL("optim.beta2", optim.beta2, 0, 0.999999, "0.999", "Adam's decay of the second moment"),
    REAL("optim.epsilon", optim.epsilon, 1e-16, 1, "1e-8", "Adam's epsilon"),
    REAL("optim.weight_decay", optim.weight_decay, 0, 1, "0", "decoupled weight decay"),
    REAL("optim.clip", optim.clip, 0, 1e9, "0",
         "largest global gradient norm of a network; 0: no clipping"),
    REAL("optim.ema", optim.ema, 0, 0.999999999, "0.999",
         "decay of the averaged generator weights used for samples and inference"),
    CHOICE("optim.lr_schedule", optim.lr_schedule, "constant|linear|cosine", "linear",
           "how both rates fall from lr_decay_start on"),
    REAL("optim.lr_decay_start", optim.lr_decay_start, 0, 1, "0.5",
         "share of the steps after which rates fall"),
    REAL("optim.lr_min", optim.lr_min, 0, 1, "0", "share of the rate that is left at the end"),
    INT("optim.lr_warmup_steps", optim.lr_warmup_steps, 0, 1e12, "0",
        "steps over which rates rise from 0"),
    INT("optim.pretrain_steps", optim.pretrain_steps, 0, 1e12, "0",
        "first steps, on L1 alone, without discriminators"),
    INT("optim.adversarial_ramp_steps", optim.adversarial_ramp_steps, 0, 1e12, "0",
        "steps behind pretrain_steps over which the adversarial weight rises from 0"),

    INT("train.steps", train.steps, 1, 1e12, "1000", "steps of the whole run"),
    INT("train.global_batch", train.global_batch, 1, 1048576, "4", "clips a step, over all ranks"),
    INT("train.micro_batch", train.micro_batch, 1, 65536, "1", "clips a rank computes at once"),
    INT("train.threads", train.threads, 0, 1024, "0",
        "compute threads per rank; 0: OMP_NUM_THREADS, or the host's cores shared by its ranks; "
        "with "
        "comm.reduce: reproducible 1, since a kernel's sums depend on it"),
    CHOICE("train.precision", train.precision, "f32|bf16", "f32",
           "what convolutions compute in; master weights and losses are f32"),
    CHOICE("train.device", train.device, "auto|cpu|cuda", "auto",
           "auto: cuda where there is a GPU, else cpu"),

    BOOL("train.recompute", train.recompute, "false",
         "norms and activations are computed again in the backward pass instead of kept: less "
         "memory, more time"),

    BOOL("cuda.deterministic", cuda.deterministic, "false",
         "equal runs leave equal bytes; some convolutions are slower"),
    BOOL("cuda.tf32", cuda.tf32, "false", "f32 convolutions on tensor cores, 10 bits of mantissa"),
    BOOL("cuda.graphs", cuda.graphs, "true", "a step is launched as one CUDA graph"),
    BOOL("cuda.autotune", cuda.autotune, "true",
         "measure the convolution engines at the first start instead of trusting cuDNN's "
         "heuristics, "
         "whose choice may be many times slower; never in deterministic runs"),
    REAL("cuda.workspace_mib", cuda.workspace_mib, 0, 65536, "256",
         "largest workspace of one convolution, MiB"),
    INT("cuda.build_threads", cuda.build_threads, 0, 16, "0",
        "threads that prepare convolutions at the start; 0: one for each processor but one, at "
        "most 16"),
    STRING("cuda.cache", cuda.cache, "",
           "folder of convolution plans and compiled kernels; ranks that share it share the work "
           "of making them; empty: $XDG_CACHE_HOME/celforge, or ~/.cache/celforge"),

    INT("guard.max_skips", guard.max_skips, 1, 1e9, "20",
        "steps skipped in a row before the run goes back to its last checkpoint"),
    INT("guard.max_rollbacks", guard.max_rollbacks, 0, 1e6, "3",
        "times a run goes back and leaves out the samples at fault before it stops"),
    INT("guard.window", guard.window, 0, 4096, "128",
        "good steps whose gradient norms say what is usual; 0: only non-finite ones are skipped"),
    REAL("guard.max_deviations", guard.max_deviations, 1, 1e6, "8",
         "robust deviations above the window's median that make a gradient norm an outlier"),

    INT("checkpoint.every", checkpoint.every, 0, 1e12, "500",
        "steps between checkpoints; 0: only at the end"),
    INT("checkpoint.keep", checkpoint.keep, 2, 1e6, "3", "newest checkpoints kept"),
    INT("metrics.every", metrics.every, 1, 1e12, "10", "steps between lines of metrics.jsonl"),
    BOOL("metrics.tensorboard", metrics.tensorboard, "true",
         "the same numbers, and sample sheets, as TensorBoard event files (run.dir/tensorboard)"),
    INT("samples.every", samples.every, 0, 1e12, "500", "steps between sample sheets; 0: none"),
    INT("samples.clips", samples.clips, 1, 16, "4", "clips on a sample sheet"),
    CHOICE("comm.backend", comm.backend, "auto|mpi|nccl", "auto",
           "what carries gradients; auto: nccl between GPUs, mpi otherwise"),
    CHOICE("comm.reduce", comm.reduce, "fast|reproducible", "fast",
           "reproducible: 1, 2, 4, ... ranks of as many train.threads (0: 1) leave the same bytes"),
    CHOICE("comm.gradients", comm.gradients, "f32|bf16", "f32",
           "what gradients travel as between ranks"),
    BOOL("comm.overlap", comm.overlap, "true",
         "gradients travel while others are computed; false only to see what that is worth"),
    REAL("comm.timeout", comm.timeout, 1, 1e6, "600",
         "seconds a step may take before the run ends with a diagnosis"),
    REAL("comm.start_timeout", comm.start_timeout, 1, 1e6, "1800",
         "the same for the start: planning, tuning, resuming"),
    REAL("comm.evaluation_timeout", comm.evaluation_timeout, 1, 1e6, "1800",
         "the same for sample sheets"),
    REAL("comm.checkpoint_timeout", comm.checkpoint_timeout, 1, 1e6, "1800",
         "the same for checkpoints"),
    REAL("comm.heartbeat", comm.heartbeat, 0.05, 3600, "5",
         "seconds between two signs of life of a rank (run.dir/ranks/RANK.json)"),
    REAL("comm.bucket_mib", comm.bucket_mib, 0.001, 1024, "4",
         "gradients all-reduced at once, MiB"),
};

static const char *section_help(const char *section) {
  static const struct {
    const char *name, *help;
  } SECTIONS[] = {
      {"run", "Where the run lives."},
      {"data", "What it learns from."},
      {"model", "The networks."},
      {"loss", "What the generator is asked for. A weight of 0 switches a term off."},
      {"optim", "How weights change."},
      {"train", "How long, how much at once, on what."},
      {"cuda", "How the GPU is used."},
      {"guard", "What is not learned from, and when to give up."},
      {"checkpoint", "What survives a kill."},
      {"metrics", "What is written down."},
      {"samples", "Pictures of source, output and target side by side."},
      {"comm", "How ranks talk."},
  };
  for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
    if (strcmp(SECTIONS[i].name, section) == 0) return SECTIONS[i].help;
  return NULL;
}

const ConfigSchema config_schema = {KEYS, sizeof KEYS / sizeof *KEYS, section_help, "--set"};

static Status check_batch(const Config *config, int world_size, Error *error) {
  int64_t global = config->train.global_batch, micro = config->train.micro_batch;
  if (global % micro != 0)
    return config_error("train.global_batch", error,
                        "%lld is not a multiple of train.micro_batch %lld", (long long)global,
                        (long long)micro);
  if ((global / micro) % world_size == 0) return OK;
  Text sizes = {0};
  loader_world_sizes(global, (int)micro, 4096, &sizes);
  Status status = config_error("train.global_batch", error,
                               "%lld clips in micro-batches of %lld cannot be shared by %d ranks; "
                               "world sizes that would do: %s; a smaller train.micro_batch or "
                               "a larger train.global_batch allows more",
                               (long long)global, (long long)micro, world_size, sizes.data);
  text_free(&sizes);
  return status;
}

Status config_check(const Config *config, int world_size, Error *error) {
  const ModelConfig *model = &config->model;
  const LossConfig *loss = &config->loss;
  if ((config->data.crop_height == 0) != (config->data.crop_width == 0))
    return config_error(config->data.crop_height ? "data.crop_height" : "data.crop_width", error,
                        "crop_height and crop_width are both 0 or both not");
  bool published = model->generator == GENERATOR_PIX2PIXHD;
  if (published && model->temporal != TEMPORAL_NONE)
    return config_error("model.generator", error,
                        "it knows no time, and model.temporal is %s; allowed with it: none",
                        model->temporal == TEMPORAL_CONV3D ? "conv3d" : "convgru");
  if (!published && model->local_enhancers > 0)
    return config_error("model.local_enhancers", error, "needs model.generator: pix2pixhd");
  bool judged = model->image_scales > 0 || model->video;
  if (loss->adversarial_weight > 0 && !judged)
    return config_error("loss.adversarial_weight", error,
                        "%g needs a discriminator: model.image_scales above 0 or model.video true",
                        loss->adversarial_weight);
  if (loss->feature_matching > 0 && loss->adversarial_weight <= 0)
    return config_error("loss.feature_matching", error,
                        "%g needs trained discriminators: loss.adversarial_weight above 0",
                        loss->feature_matching);
  if (loss->r1 > 0 && loss->adversarial_weight <= 0)
    return config_error("loss.r1", error,
                        "%g is of discriminators: it needs loss.adversarial_weight above 0",
                        loss->r1);
  if (loss->perceptual > 0 && !loss->perceptual_weights[0])
    return config_error("loss.perceptual", error,
                        "%g needs VGG19's weights: loss.perceptual_weights, a safetensors file",
                        loss->perceptual);
  if (loss->adversarial_weight <= 0 && loss->l1 <= 0 && loss->perceptual <= 0)
    return config_error(
        "loss.l1", error,
        "the generator needs loss.l1, loss.perceptual or loss.adversarial_weight above 0");
  if (config->optim.pretrain_steps > 0 && loss->l1 <= 0)
    return config_error("optim.pretrain_steps", error, "a warm-up on L1 needs loss.l1 above 0");
  return check_batch(config, world_size, error);
}
