/* The command eval. */
#include <stddef.h>

#include "trainer/cli/model_options.h"
#include "trainer/eval/evaluate.h"

typedef struct Eval {
  const char *model, *checkpoint, *data, *cartoons, *json, *inception, *lpips, *device;
  bool plain, allow_older, no_flow, no_classifier;
  int64_t threads, clips;
} Eval;

static const Option EVAL_OPTIONS[] = {
    MODEL_CHOICE_OPTIONS(Eval),
    DEVICE_OPTIONS(Eval),
    {"data", OPTION_TEXT, offsetof(Eval, data), true, .value = "DATASET",
     .help = "dataset of held-out clips to score on; its targets may be missing"},
    {"cartoons", OPTION_TEXT, offsetof(Eval, cartoons), .value = "DATASET",
     .help = "cartoons to compare the style with: a dataset with a target side, not aligned"},
    {"clips", OPTION_NUMBER, offsetof(Eval, clips), .maximum = INT64_MAX, .value = "N",
     .default_text = "0", .help = "score only the first N clips; 0: all"},
    {"no-flow", OPTION_FLAG, offsetof(Eval, no_flow),
     .help = "skip tOF and warp error: 0.2 s of a core for each frame of 640x272"},
    {"no-classifier", OPTION_FLAG, offsetof(Eval, no_classifier),
     .help = "skip the two-sample classifier, which trains for half a minute on two cores"},
    {"inception", OPTION_TEXT, offsetof(Eval, inception), .value = "FILE.safetensors",
     .help = "weights for KID and FID, pytorch-fid's Inception; docs/scores.md says where from"},
    {"lpips", OPTION_TEXT, offsetof(Eval, lpips), .value = "FILE.safetensors",
     .help = "weights for LPIPS and tLP, of the package lpips; docs/scores.md says where from"},
    {"json", OPTION_TEXT, offsetof(Eval, json), .value = "FILE",
     .help = "write the scores to FILE"},
};

static void explain_scores(Text *out) {
  text_append(
      out,
      "\nColumns: the source unchanged, the clip translated as a stream (output), every frame\n"
      "translated alone (per frame), the aligned target, and the cartoons, where there are any.\n"
      "Rows (definitions, references and limits are in docs/scores.md):\n"
      "  taken for cartoon     share of patches that a small network, trained on held-out sources\n"
      "                        and cartoons, takes for cartoon; not reported if it is unreliable\n"
      "  ink lines, flat areas share of the pixels; best near the cartoons' own\n"
      "  ink lines found       F1, precision and recall against the target's lines, within a "
      "pixel\n"
      "  patch distance        sliced Wasserstein distance of patches to the target, by "
      "resolution\n"
      "  KID, FID              distance of Inception features to the cartoons or the target "
      "(--inception)\n"
      "  structure             correlation of luma with the source at half resolution\n"
      "  colour shift          CIELAB difference to the source at low resolution, and its drift\n"
      "  warp error            change along the source's motion; beside the source's own\n"
      "  flicker               changes of brightness from frame to frame; beside the source's own\n"
      "  temporal error, tOF   difference to the target of luma changes, and of motion\n"
      "  PSNR, SSIM            similarity of frames to the target\n"
      "  LPIPS, tLP            distance in a network's features to the target, of frames and of\n"
      "                        changes between frames (--lpips)\n"
      "Read scores of time beside the others: a still or blank output has neither warp error nor\n"
      "flicker.\n");
}

static Status run_eval(const void *values, const Invocation *invocation, Error *error) {
  const Eval *eval = values;
  (void)invocation;
  EvalOptions options = {.model = {.checkpoint = eval->checkpoint,
                                   .model = eval->model,
                                   .allow_older = eval->allow_older,
                                   .ema = !eval->plain},
                         .data = eval->data,
                         .cartoons = eval->cartoons,
                         .json = eval->json,
                         .inception = eval->inception,
                         .lpips = eval->lpips,
                         .threads = (int)eval->threads,
                         .clips = eval->clips,
                         .flow = !eval->no_flow,
                         .classifier = !eval->no_classifier};
  Status status = command_parse_device(eval->device, &options.device, error);
  if (status != OK) return status;
  return eval_run(&options, error);
}

const Command command_eval = {.name = "eval",
                              .summary = "score a model on a dataset",
                              .options = EVAL_OPTIONS,
                              .option_count = sizeof EVAL_OPTIONS / sizeof *EVAL_OPTIONS,
                              .values_size = sizeof(Eval),
                              .more_help = explain_scores,
                              .run = run_eval};
