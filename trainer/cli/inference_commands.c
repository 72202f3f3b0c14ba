/* The commands translate, export and info. */
#include <stddef.h>
#include <string.h>

#include "trainer/cli/info.h"
#include "trainer/cli/model_options.h"
#include "trainer/cli/options.h"
#include "trainer/export/export.h"
#include "trainer/infer/translate.h"

Status command_parse_device(const char *text, Device *out, Error *error) {
  static const char *const NAMES[] = {
      [DEVICE_AUTO] = "auto", [DEVICE_CPU] = "cpu", [DEVICE_CUDA] = "cuda"};
  for (Device device = DEVICE_AUTO; device <= DEVICE_CUDA; device++) {
    *out = device;
    if (strcmp(text, NAMES[device]) == 0) return OK;
  }
  return error_set(error, ERROR_USAGE, "--device: unknown device \"%s\"; allowed: auto, cpu, cuda",
                   text);
}

Status command_parse_precision(const char *text, DType *out, Error *error) {
  *out = strcmp(text, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  if (*out == DTYPE_BF16 || strcmp(text, "f32") == 0) return OK;
  return error_set(error, ERROR_USAGE, "--precision: unknown precision \"%s\"; allowed: f32, bf16",
                   text);
}

/* --- translate -------------------------------------------------------------------------------- */

typedef struct Translate {
  const char *model, *checkpoint, *input, *output, *codec, *device, *precision;
  TextList further;
  bool plain, allow_older;
  int64_t threads, quality;
} Translate;

static const Option TRANSLATE_OPTIONS[] = {
    {"IN", OPTION_ARGUMENT, offsetof(Translate, input), true,
     .help = "video, PNG picture or folder of PNG frames"},
    {"OUT", OPTION_ARGUMENT, offsetof(Translate, output), true, .help = "output of the same kind"},
    {"also", OPTION_LIST, offsetof(Translate, further), .value = "PATH",
     .help =
         "further input of a model with several (in the order of pack's --source); same size and "
         "length as IN"},
    MODEL_CHOICE_OPTIONS(Translate),
    DEVICE_OPTIONS(Translate),
    {"precision", OPTION_TEXT, offsetof(Translate, precision), .value = "PRECISION",
     .default_text = "f32",
     .help = "f32 or bf16; bf16 is faster on devices that have it, and changes colours by about 1 "
             "of 255"},
    {"codec", OPTION_TEXT, offsetof(Translate, codec), .value = "NAME",
     .help = "FFmpeg video encoder; default: libx264 (H.264)"},
    {"quality", OPTION_NUMBER, offsetof(Translate, quality), .maximum = 63, .value = "N",
     .default_text = "18", .help = "constant rate factor (CRF); 0: best"},
};

static Status run_translate(const void *values, const Invocation *invocation, Error *error) {
  const Translate *translate = values;
  (void)invocation;
  TranslateOptions options = {.model = {.checkpoint = translate->checkpoint,
                                        .model = translate->model,
                                        .allow_older = translate->allow_older,
                                        .ema = !translate->plain},
                              .device = {.threads = (int)translate->threads},
                              .input = translate->input,
                              .output = translate->output,
                              .further = translate->further.items,
                              .further_count = translate->further.count,
                              .codec = translate->codec,
                              .quality = (int)translate->quality};
  Status status = command_parse_device(translate->device, &options.device.device, error);
  if (status == OK)
    status = command_parse_precision(translate->precision, &options.device.precision, error);
  if (status != OK) return status;
  return translate_run(&options, error);
}

const Command command_translate = {.name = "translate",
                                   .summary = "translate a video with a model",
                                   .options = TRANSLATE_OPTIONS,
                                   .option_count =
                                       sizeof TRANSLATE_OPTIONS / sizeof *TRANSLATE_OPTIONS,
                                   .values_size = sizeof(Translate),
                                   .run = run_translate};

/* --- export ----------------------------------------------------------------------------------- */

typedef struct Export {
  const char *model, *checkpoint, *output, *format;
  const char *name, *look, *licence, *trained_on, *height, *date;
  bool plain, allow_older, stream;
} Export;

static const Option EXPORT_OPTIONS[] = {
    {"OUT", OPTION_ARGUMENT, offsetof(Export, output), true, .help = "file to write"},
    MODEL_CHOICE_OPTIONS(Export),
    {"format", OPTION_TEXT, offsetof(Export, format), true, .value = "FORMAT",
     .help = "onnx (graph for clips of any size), safetensors (weights in PyTorch's names and "
             "layout) or model (one file for translate --model)"},
    {"stream", OPTION_FLAG, offsetof(Export, stream),
     .help = "onnx: a graph of one frame, with the state of previous frames as input and output"},
    {"name", OPTION_TEXT, offsetof(Export, name), .value = "NAME",
     .help = "model: its name; default: that of OUT"},
    {"look", OPTION_TEXT, offsetof(Export, look), .value = "TEXT",
     .help = "model: what its output looks like, in one line"},
    {"licence", OPTION_TEXT, offsetof(Export, licence), .value = "TEXT",
     .help = "model: licence of the weights"},
    {"trained-on", OPTION_TEXT, offsetof(Export, trained_on), .value = "TEXT",
     .help = "model: the training data, with their licences"},
    {"height", OPTION_TEXT, offsetof(Export, height), .value = "RANGE",
     .help = "model: recommended frame height, such as 270 or 180-360, pixels"},
    {"date", OPTION_TEXT, offsetof(Export, date), .value = "YYYY-MM-DD",
     .help = "model: date of the training; default: today"},
};

static Status parse_format(const char *text, ExportFormat *out, Error *error) {
  static const char *const NAMES[] = {
      [EXPORT_ONNX] = "onnx", [EXPORT_SAFETENSORS] = "safetensors", [EXPORT_MODEL] = "model"};
  for (ExportFormat format = EXPORT_ONNX; format <= EXPORT_MODEL; format++) {
    *out = format;
    if (strcmp(text, NAMES[format]) == 0) return OK;
  }
  return error_set(error, ERROR_USAGE,
                   "--format: unknown format \"%s\"; allowed: onnx, safetensors, model", text);
}

/* Refuses options that another format would ignore. */
static Status check_export(const Export *export, ExportFormat format, Error *error) {
  const char *texts[] = {export->name,       export->look,   export->licence,
                         export->trained_on, export->height, export->date};
  static const char *const NAMES[] = {"name", "look", "licence", "trained-on", "height", "date"};
  if (export->stream && format != EXPORT_ONNX)
    return error_set(error, ERROR_USAGE,
                     "--stream: has no effect on --format %s; use it with --format onnx",
                     export->format);
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES && format != EXPORT_MODEL; i++)
    if (texts[i])
      return error_set(error, ERROR_USAGE,
                       "--%s: has no effect on --format %s; use it with --format model", NAMES[i],
                       export->format);
  return OK;
}

static Status run_export(const void *values, const Invocation *invocation, Error *error) {
  const Export *export = values;
  (void)invocation;
  ExportOptions options = {.model = {.checkpoint = export->checkpoint,
                                     .model = export->model,
                                     .allow_older = export->allow_older,
                                     .ema = !export->plain},
                           .output = export->output,
                           .stream = export->stream,
                           .card = {.name = export->name,
                                    .date = export->date,
                                    .look = export->look,
                                    .licence = export->licence,
                                    .trained_on = export->trained_on,
                                    .height = export->height}};
  Status status = parse_format(export->format, &options.format, error);
  if (status == OK) status = check_export(export, options.format, error);
  return status == OK ? export_run(&options, error) : status;
}

const Command command_export = {.name = "export",
                                .summary =
                                    "export the generator as ONNX, safetensors or a model file",
                                .options = EXPORT_OPTIONS,
                                .option_count = sizeof EXPORT_OPTIONS / sizeof *EXPORT_OPTIONS,
                                .values_size = sizeof(Export),
                                .run = run_export};

/* --- info ------------------------------------------------------------------------------------- */

typedef struct Info {
  const char *path;
  bool allow_older;
} Info;

static const Option INFO_OPTIONS[] = {{"PATH", OPTION_ARGUMENT, offsetof(Info, path), true,
                                       .help = "shard, dataset, checkpoint or run folder"},
                                      {"allow-older", OPTION_FLAG, offsetof(Info, allow_older),
                                       .help = "of a run: if the newest checkpoint is damaged, "
                                               "describe an older one"}};

static Status run_info(const void *values, const Invocation *invocation, Error *error) {
  const Info *info = values;
  (void)invocation;
  return info_run(info->path, info->allow_older, error);
}

const Command command_info = {.name = "info",
                              .summary = "describe a shard, dataset, checkpoint or run",
                              .options = INFO_OPTIONS,
                              .option_count = sizeof INFO_OPTIONS / sizeof *INFO_OPTIONS,
                              .values_size = sizeof(Info),
                              .run = run_info};
