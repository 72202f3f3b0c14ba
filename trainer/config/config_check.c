/* Checks of keys that have to go together. */
#include "data/loader/loader.h"
#include "trainer/config/config.h"

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
                {"loss.gradient", loss->gradient},
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
  if (pix2pixhd && model->tones > 0)
    return config_error(sources, "model.tones", error,
                        "%lld: pix2pixhd has none; set it to 0 or model.generator to celnet",
                        (long long)model->tones);
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
