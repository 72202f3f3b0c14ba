/* The card of a model: texts that describe it to its users, members of a model file's metadata. */
#ifndef CELFORGE_TRAINER_INFER_MODEL_CARD_H
#define CELFORGE_TRAINER_INFER_MODEL_CARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/text.h"

enum { MODEL_TEXT_MAX = 4096, MODEL_NAME_MAX = 64 };

typedef struct ModelCard {
  const char *name;       /* lower-case letters, digits and hyphens */
  const char *date;       /* YYYY-MM-DD */
  const char *look;       /* one line; this one and the next three may be NULL: not stated */
  const char *licence;    /* of the weights */
  const char *trained_on; /* datasets or videos with their licences */
  const char *height;     /* recommended height of the input, pixels: "270" or "180-360" */
} ModelCard;

/* Fails with ERROR_USAGE and the member's `key` unless `text` is valid UTF-8 of 1 to MODEL_TEXT_MAX
 * bytes on one line, without control characters. */
Status model_text_check(const char *key, const char *text, Error *error);
/* Fails with ERROR_USAGE unless each text passes model_text_check, and name, date and height have
 * the form above; the message names the member. */
Status model_card_check(const ModelCard *card, Error *error);
/* Reads "270" or "180-360"; false for any other text. */
bool model_card_parse_height(const char *text, int64_t *minimum, int64_t *maximum);

/* Adds the card's members to the metadata: card.name, card.look, ... */
void model_card_write(const ModelCard *card, json_t *metadata);
/* Points the card to the metadata's strings, unchecked; missing ones become NULL. */
void model_card_read(const json_t *metadata, ModelCard *card);
/* Returns whether the metadata's member `key` belongs to the card. */
bool model_card_has_key(const char *key);

#endif
