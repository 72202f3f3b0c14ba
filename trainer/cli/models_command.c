/* The command models: the installed models and their cards. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "trainer/cli/options.h"
#include "trainer/infer/model_search.h"

enum { WIDTH = 100, MIN_NAME = 8, LABEL = 14 };

typedef struct Models {
  const char *name, *json;
} Models;

static const Option MODELS_OPTIONS[] = {
    {"NAME", OPTION_ARGUMENT, offsetof(Models, name), false,
     .help = "print the whole card of this model; default: list all"},
    {"json", OPTION_TEXT, offsetof(Models, json), .value = "FILE",
     .help = "write the cards to FILE"},
};

static void explain_folders(Text *out) {
  text_append(out,
              "\nModels are found in $CELFORGE_MODELS, in models/ of the source tree and in\n"
              "PREFIX/share/celforge/models. `celforge translate --model NAME IN OUT` uses one.\n");
}

/* Appends spaces up to `column`, or a new line up to there. */
static void move_to(Text *out, size_t line_start, int column) {
  int behind = (int)(out->length - line_start);
  if (behind >= column) {
    text_append(out, "\n");
    behind = 0;
  }
  text_append(out, "%*s", column - behind, "");
}

static const char *or_not_stated(const char *text) {
  return text ? text : "not stated";
}

/* --- List ------------------------------------------------------------------------------------- */

/* The look, and below it height, size, licence and path. */
static void append_row(const ModelFile *file, int column, Text *out) {
  const ModelCard *card = &file->card;
  size_t start = out->length;
  Text facts = {0};
  text_append(out, "%s", card->name);
  move_to(out, start, column);
  text_append_wrapped(out, or_not_stated(card->look), column, WIDTH);
  if (card->height) text_append(&facts, "trained at a height of %s pixels, ", card->height);
  text_append_size(&facts, (double)file->bytes);
  text_append(&facts, ", licence: %s", or_not_stated(card->licence));
  text_append(out, "\n%*s", column, "");
  text_append_wrapped(out, facts.data, column, WIDTH);
  text_append(out, "\n%*s%s\n", column, "", file->path);
  text_free(&facts);
}

static void print_list(const ModelList *list) {
  Text out = {0};
  int column = MIN_NAME;
  for (size_t i = 0; i < list->count; i++) {
    int length = (int)strlen(list->files[i]->card.name) + 2;
    column = length > column && length < WIDTH / 4 ? length : column;
  }
  for (size_t i = 0; i < list->count; i++) append_row(list->files[i], column, &out);
  if (list->count == 0)
    text_append(&out, "no models are installed; `celforge export --format model` makes one from a "
                      "run, and\n$CELFORGE_MODELS names the folder to find it in\n");
  fputs(out.data, stdout);
  text_free(&out);
}

/* --- Card ------------------------------------------------------------------------------------- */

static void append_member(Text *out, const char *label, const char *text) {
  size_t start = out->length;
  text_append(out, "%s", label);
  move_to(out, start, LABEL);
  text_append_wrapped(out, text, LABEL, WIDTH);
  text_append(out, "\n");
}

static void append_network(const ModelFile *file, Text *out) {
  for (const char *const *key = model_config_keys(&file->config); *key; key++) {
    const char *name = strchr(*key, '.') + 1;
    text_append(out, "%s%s ", out->length ? ", " : "", name);
    config_write_value(&config_schema, *key, &file->config, out);
  }
  text_append(out, ", scale %" PRId64 ", source channels %" PRId64, file->scale,
              file->source_channels);
}

static void print_card(const ModelFile *file) {
  const ModelCard *card = &file->card;
  Text out = {0}, network = {0}, weights = {0}, size = {0};
  append_network(file, &network);
  text_append(&weights, "%s, of step %" PRId64, file->ema ? "EMA" : "plain", file->step);
  text_append_size(&size, (double)file->bytes);
  append_member(&out, "name", card->name);
  append_member(&out, "look", or_not_stated(card->look));
  append_member(&out, "licence", or_not_stated(card->licence));
  append_member(&out, "trained on", or_not_stated(card->trained_on));
  append_member(&out, "date", card->date);
  append_member(&out, "height", card->height ? card->height : "not stated");
  append_member(&out, "network", network.data);
  append_member(&out, "weights", weights.data);
  append_member(&out, "size", size.data);
  text_append(&out, "%-*s%s\n", LABEL, "path", file->path);
  fputs(out.data, stdout);
  text_free(&out);
  text_free(&network);
  text_free(&weights);
  text_free(&size);
}

/* --- Command ---------------------------------------------------------------------------------- */

/* Members of the card that are not stated are null. */
static json_t *card_json(const ModelFile *file) {
  const ModelCard *card = &file->card;
  return json_pack("{s:s, s:s?, s:s?, s:s?, s:s?, s:s, s:I, s:I, s:s}", "name", card->name, "look",
                   card->look, "licence", card->licence, "trained_on", card->trained_on, "height",
                   card->height, "date", card->date, "step", (json_int_t)file->step, "bytes",
                   (json_int_t)file->bytes, "path", file->path);
}

static Status write_json(const char *path, ModelFile *const *files, size_t count, Error *error) {
  Status status = OK;
  json_t *json = json_object(), *models = json_array();
  for (size_t i = 0; i < count; i++) TRY(json_append(models, card_json(files[i]), path, error));
  TRY(json_set(json, "models", json_incref(models), path, error));
  TRY(json_write_file(path, json, error));
done:
  json_decref(models);
  json_decref(json);
  return status;
}

static Status run_models(const void *values, const Invocation *invocation, Error *error) {
  const Models *models = values;
  Status status = OK;
  ModelList list = {0};
  ModelFile *file = NULL;
  (void)invocation;
  if (models->name) {
    TRY(model_open(models->name, &file, error));
    print_card(file);
    if (models->json) TRY(write_json(models->json, &file, 1, error));
  } else {
    TRY(model_list_open(&list, error));
    print_list(&list);
    if (models->json) TRY(write_json(models->json, list.files, list.count, error));
  }
done:
  model_file_close(file);
  model_list_close(&list);
  return status;
}

const Command command_models = {.name = "models",
                                .summary = "list the installed models, or print a model's card",
                                .options = MODELS_OPTIONS,
                                .option_count = sizeof MODELS_OPTIONS / sizeof *MODELS_OPTIONS,
                                .values_size = sizeof(Models),
                                .more_help = explain_folders,
                                .run = run_models};
