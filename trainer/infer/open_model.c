#include "trainer/infer/open_model.h"

#include "trainer/gan/checkpoint_weights.h"
#include "trainer/gan/device.h"
#include "trainer/infer/model_search.h"

Status model_choice_check(const ModelChoice *choice, Error *error) {
  if (choice->checkpoint && choice->model)
    return error_set(error, ERROR_USAGE,
                     "--checkpoint and --model exclude each other; give one of them");
  if (choice->model && !choice->ema)
    return error_set(error, ERROR_USAGE,
                     "--plain-weights: has no effect on --model, whose file holds one set of "
                     "weights; use it with --checkpoint");
  if (choice->model && choice->allow_older)
    return error_set(error, ERROR_USAGE,
                     "--allow-older: has no effect on --model; use it with --checkpoint");
  if (choice->checkpoint || choice->model) return OK;
  ModelList list;
  Text names = {0};
  Status status = model_list_open(&list, error);
  if (status != OK) return status;
  model_list_append_names(&list, &names);
  status = error_set(error, ERROR_USAGE,
                     "no model: give --model NAME (installed models: %s) or --checkpoint RUN",
                     names.data);
  text_free(&names);
  model_list_close(&list);
  return status;
}

Status inference_open_model(const ModelChoice *choice, const ModelDevice *device, Backend **backend,
                            Inference **out, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  ModelFile *file = NULL;
  const CheckpointOptions options = {.allow_older = choice->allow_older,
                                     .advice = "--allow-older takes the newest whole one",
                                     .needed_file = GENERATOR_FILE};
  TRY(model_choice_check(choice, error));
  if (choice->model)
    TRY(model_open(choice->model, &file, error));
  else
    TRY(checkpoint_open_path(choice->checkpoint, &options, &checkpoint, error));
  TRY(device_open_default(device->device, device->threads, backend, error));
  if (choice->model)
    TRY(inference_from_model_file(file, device->precision, *backend, out, error));
  else
    TRY(inference_from_checkpoint(checkpoint, choice->ema, device->precision, *backend, out,
                                  error));
done:
  model_file_close(file);
  checkpoint_close(checkpoint);
  return status;
}
