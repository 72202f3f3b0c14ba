/* eval, translate, export, info: what a trained model is for. */
#include <stddef.h>
#include <string.h>

#include "trainer/cli/info.h"
#include "trainer/cli/options.h"
#include "trainer/eval/evaluate.h"
#include "trainer/export/export.h"
#include "trainer/infer/translate.h"

/* A run's folder or a checkpoint's, and which of its weights. */
#define CHECKPOINT_OPTIONS(Values)                                                                 \
  {"checkpoint",                                                                                   \
   OPTION_TEXT,                                                                                    \
   offsetof(Values, checkpoint),                                                                   \
   true,                                                                                           \
   .value = "PATH",                                                                                \
   .help = "a run's folder (its newest good checkpoint) or one checkpoint's"},                     \
  {                                                                                                \
    "plain-weights", OPTION_FLAG, offsetof(Values, plain),                                         \
        .help = "use the weights themselves, not their running average"                            \
  }

/* The same, and where to compute. */
#define MODEL_OPTIONS(Values)                                                                      \
  CHECKPOINT_OPTIONS(Values)                                                                       \
  ,                                                                                                \
      {"device",                                                                                   \
       OPTION_TEXT,                                                                                \
       offsetof(Values, device),                                                                   \
       .value = "DEVICE",                                                                          \
       .default_text = "auto",                                                                     \
       .help = "auto, cpu or cuda"},                                                               \
  {                                                                                                \
    "threads", OPTION_NUMBER, offsetof(Values, threads),                                           \
        .maximum = 1024, .value = "N", .default_text = "0",                                        \
        .help = "compute threads; 0: OMP_NUM_THREADS, or every core"                               \
  }

Status command_parse_device(const char *text, Device *out, Error *error) {
  static const char *const NAMES[] = {
      [DEVICE_AUTO] = "auto", [DEVICE_CPU] = "cpu", [DEVICE_CUDA] = "cuda"};
  for (Device device = DEVICE_AUTO; device <= DEVICE_CUDA; device++) {
    *out = device;
    if (strcmp(text, NAMES[device]) == 0) return OK;
  }
  return error_set(error, ERROR_USAGE, "--device: %s; allowed: auto, cpu, cuda", text);
}

Status command_parse_precision(const char *text, DType *out, Error *error) {
  *out = strcmp(text, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  if (*out == DTYPE_BF16 || strcmp(text, "f32") == 0) return OK;
  return error_set(error, ERROR_USAGE, "--precision: %s; allowed: f32, bf16", text);
}

/* --- eval ------------------------------------------------------------------------------------- */

typedef struct Eval {
  const char *checkpoint, *data, *json, *device;
  bool plain, no_flow;
  int64_t threads, clips;
} Eval;

static const Option EVAL_OPTIONS[] = {
    MODEL_OPTIONS(Eval),
    {"data", OPTION_TEXT, offsetof(Eval, data), true, .value = "DATASET",
     .help = "the clips to be judged on"},
    {"clips", OPTION_NUMBER, offsetof(Eval, clips), .maximum = INT64_MAX, .value = "N",
     .default_text = "0", .help = "only the first N; 0: all"},
    {"no-flow", OPTION_FLAG, offsetof(Eval, no_flow),
     .help = "leave out tOF and the warp error; their optical flow makes eval about a third slower "
             "on CPUs (0.2 s of a core for a frame of 640x272)"},
    {"json", OPTION_TEXT, offsetof(Eval, json), .value = "FILE", .help = "write the scores here"},
};

static void explain_scores(Text *out) {
  text_append(
      out,
      "\nScores of the untouched input, of the output (a clip as a stream), of each frame\n"
      "translated alone; more in docs/scores.md:\n"
      "  psnr, ssim    how near frames are to the target's; higher is better\n"
      "  temporal      how far changes of luma from frame to frame are from the target's\n"
      "  tof           how far motion (optical flow) is from the target's, in pixels\n"
      "  warp_error    how much changes along the input's motion; also of the target itself,\n"
      "                whose value is the one to come near to\n"
      "The last three are lower for what moves better, and read beside PSNR: a still or blank\n"
      "picture has no warp error at all.\n");
}

static Status run_eval(const void *values, const Invocation *invocation, Error *error) {
  const Eval *eval = values;
  (void)invocation;
  EvalOptions options = {.checkpoint = eval->checkpoint,
                         .data = eval->data,
                         .json = eval->json,
                         .ema = !eval->plain,
                         .threads = (int)eval->threads,
                         .clips = eval->clips,
                         .flow = !eval->no_flow};
  Status status = command_parse_device(eval->device, &options.device, error);
  if (status != OK) return status;
  return eval_run(&options, error);
}

const Command command_eval = {.name = "eval",
                              .summary = "scores a model's output on a dataset",
                              .options = EVAL_OPTIONS,
                              .option_count = sizeof EVAL_OPTIONS / sizeof *EVAL_OPTIONS,
                              .values_size = sizeof(Eval),
                              .more_help = explain_scores,
                              .run = run_eval};

/* --- translate -------------------------------------------------------------------------------- */

typedef struct Translate {
  const char *checkpoint, *input, *output, *codec, *device, *precision;
  TextList further;
  bool plain;
  int64_t threads, quality;
} Translate;

static const Option TRANSLATE_OPTIONS[] = {
    {"IN", OPTION_ARGUMENT, offsetof(Translate, input), true,
     .help = "a video, a PNG picture, or a folder of PNG frames"},
    {"OUT", OPTION_ARGUMENT, offsetof(Translate, output), true, .help = "the same, translated"},
    {"also", OPTION_LIST, offsetof(Translate, further), .value = "PATH",
     .help = "a further input, where the model reads several (pack's --source, in that order); as "
             "large and as long as IN"},
    MODEL_OPTIONS(Translate),
    {"precision", OPTION_TEXT, offsetof(Translate, precision), .value = "PRECISION",
     .default_text = "f32",
     .help = "f32, or bf16: faster where the device has it, colours within about one level of 255"},
    {"codec", OPTION_TEXT, offsetof(Translate, codec), .value = "NAME",
     .help = "FFmpeg's name of a video encoder; without it libx264 (H.264)"},
    {"quality", OPTION_NUMBER, offsetof(Translate, quality), .maximum = 63, .value = "N",
     .default_text = "18", .help = "constant rate factor; 0: best"},
};

static Status run_translate(const void *values, const Invocation *invocation, Error *error) {
  const Translate *translate = values;
  (void)invocation;
  TranslateOptions options = {.checkpoint = translate->checkpoint,
                              .input = translate->input,
                              .output = translate->output,
                              .further = translate->further.items,
                              .further_count = translate->further.count,
                              .ema = !translate->plain,
                              .threads = (int)translate->threads,
                              .codec = translate->codec,
                              .quality = (int)translate->quality};
  Status status = command_parse_device(translate->device, &options.device, error);
  if (status == OK)
    status = command_parse_precision(translate->precision, &options.precision, error);
  if (status != OK) return status;
  return translate_run(&options, error);
}

const Command command_translate = {.name = "translate",
                                   .summary = "turns video into cartoon video with a model",
                                   .options = TRANSLATE_OPTIONS,
                                   .option_count =
                                       sizeof TRANSLATE_OPTIONS / sizeof *TRANSLATE_OPTIONS,
                                   .values_size = sizeof(Translate),
                                   .run = run_translate};

/* --- export ----------------------------------------------------------------------------------- */

typedef struct Export {
  const char *checkpoint, *output, *format;
  bool plain, stream;
} Export;

static const Option EXPORT_OPTIONS[] = {
    {"OUT", OPTION_ARGUMENT, offsetof(Export, output), true, .help = "the file to write"},
    CHECKPOINT_OPTIONS(Export),
    {"format", OPTION_TEXT, offsetof(Export, format), true, .value = "FORMAT",
     .help = "onnx (a graph that takes clips of any size), or safetensors (PyTorch's names and "
             "layout)"},
    {"stream", OPTION_FLAG, offsetof(Export, stream),
     .help = "ONNX that takes one frame and the state of the frames before"},
};

static Status run_export(const void *values, const Invocation *invocation, Error *error) {
  const Export *export = values;
  (void)invocation;
  ExportOptions options = {.checkpoint = export->checkpoint,
                           .output = export->output,
                           .stream = export->stream,
                           .ema = !export->plain};
  if (strcmp(export->format, "onnx") == 0)
    options.format = EXPORT_ONNX;
  else if (strcmp(export->format, "safetensors") == 0)
    options.format = EXPORT_SAFETENSORS;
  else
    return error_set(error, ERROR_USAGE, "--format: %s; allowed: onnx, safetensors",
                     export->format);
  if (options.stream && options.format != EXPORT_ONNX)
    return error_set(error, ERROR_USAGE,
                     "--stream: weights are the same for clips and frames; it goes with --format "
                     "onnx");
  return export_run(&options, error);
}

const Command command_export = {.name = "export",
                                .summary = "writes a model's generator as ONNX, or for PyTorch",
                                .options = EXPORT_OPTIONS,
                                .option_count = sizeof EXPORT_OPTIONS / sizeof *EXPORT_OPTIONS,
                                .values_size = sizeof(Export),
                                .run = run_export};

/* --- info ------------------------------------------------------------------------------------- */

typedef struct Info {
  const char *path;
} Info;

static const Option INFO_OPTIONS[] = {{"PATH", OPTION_ARGUMENT, offsetof(Info, path), true,
                                       .help = "a shard, a dataset, a checkpoint or a run"}};

static Status run_info(const void *values, const Invocation *invocation, Error *error) {
  const Info *info = values;
  (void)invocation;
  return info_run(info->path, error);
}

const Command command_info = {.name = "info",
                              .summary =
                                  "says what a shard, a dataset, a checkpoint or a run holds",
                              .options = INFO_OPTIONS,
                              .option_count = sizeof INFO_OPTIONS / sizeof *INFO_OPTIONS,
                              .values_size = sizeof(Info),
                              .run = run_info};
