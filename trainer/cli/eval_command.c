/* The command eval. */
#include <stddef.h>

#include "trainer/cli/model_options.h"
#include "trainer/eval/evaluate.h"

typedef struct Eval {
  const char *checkpoint, *data, *json, *device;
  bool plain, no_flow;
  int64_t threads, clips;
} Eval;

static const Option EVAL_OPTIONS[] = {
    MODEL_OPTIONS(Eval),
    {"data", OPTION_TEXT, offsetof(Eval, data), true, .value = "DATASET",
     .help = "dataset of held-out clips to score on"},
    {"clips", OPTION_NUMBER, offsetof(Eval, clips), .maximum = INT64_MAX, .value = "N",
     .default_text = "0", .help = "score only the first N clips; 0: all"},
    {"no-flow", OPTION_FLAG, offsetof(Eval, no_flow),
     .help =
         "skip tOF and warp error, whose optical flow takes about 0.2 s of a core for each frame "
         "of 640x272"},
    {"json", OPTION_TEXT, offsetof(Eval, json), .value = "FILE",
     .help = "write the scores to FILE"},
};

static void explain_scores(Text *out) {
  text_append(
      out,
      "\nEach score is computed for the source as it is (input), for the clip translated as a\n"
      "stream (output) and for every frame translated alone (frame); see docs/scores.md:\n"
      "  psnr, ssim    similarity of frames to the target; higher is better\n"
      "  temporal      difference to the target of luma changes between frames; lower is better\n"
      "  tof           difference to the target of optical flow, in pixels; lower is better\n"
      "  warp_error    change along the source's motion; best near the target's own value\n"
      "Read the last three beside PSNR: a still or blank output has a warp error of 0.\n");
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
                              .summary = "score a model on a dataset",
                              .options = EVAL_OPTIONS,
                              .option_count = sizeof EVAL_OPTIONS / sizeof *EVAL_OPTIONS,
                              .values_size = sizeof(Eval),
                              .more_help = explain_scores,
                              .run = run_eval};
