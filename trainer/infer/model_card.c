/* The card in a model file's metadata. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trainer/infer/model_card.h"

enum { MAX_HEIGHT = 65536 };

/* Line breaks, escape sequences and reordered text would let a file draw on the terminal. */
static bool is_control(int32_t c) {
  bool reorders = (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
  bool breaks = c == 0x2028 || c == 0x2029;
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || reorders || breaks;
}

Status model_text_check(const char *key, const char *text, Error *error) {
  size_t length = strlen(text);
  if (length == 0 || length > MODEL_TEXT_MAX)
    return error_set(error, ERROR_USAGE, "%s: has %zu bytes; allowed: 1 to %d", key, length,
                     MODEL_TEXT_MAX);
  for (const char *next = text; *next;) {
    ptrdiff_t offset = next - text;
    if (is_control(text_next_code_point(&next)))
      return error_set(error, ERROR_USAGE,
                       "%s: byte %td is not printable UTF-8; expected one line of text", key,
                       offset);
  }
  return OK;
}

static bool is_name(const char *text) {
  size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");
  return length > 0 && length <= MODEL_NAME_MAX && text[length] == '\0' && text[0] != '-';
}

static bool is_date(const char *text) {
  static const char FORM[] = "0000-00-00";
  if (strlen(text) != sizeof FORM - 1) return false;
  for (size_t i = 0; i < sizeof FORM - 1; i++)
    if (FORM[i] == '-' ? text[i] != '-' : !isdigit((unsigned char)text[i])) return false;
  int month = atoi(text + 5), day = atoi(text + 8);
  return month >= 1 && month <= 12 && day >= 1 && day <= 31;
}

/* Reads digits without sign or leading zero. */
static bool parse_side(const char **text, int64_t *out) {
  *out = 0;
  if (**text < '1' || **text > '9') return false;
  for (; isdigit((unsigned char)**text) && *out <= MAX_HEIGHT; (*text)++)
    *out = *out * 10 + (**text - '0');
  return *out <= MAX_HEIGHT;
}

bool model_card_parse_height(const char *text, int64_t *minimum, int64_t *maximum) {
  if (!parse_side(&text, minimum)) return false;
  *maximum = *minimum;
  if (*text == '-') {
    text++;
    if (!parse_side(&text, maximum)) return false;
  }
  return *text == '\0' && *minimum <= *maximum;
}

typedef struct Member {
  const char *key;
  size_t offset; /* in ModelCard */
  bool required;
} Member;

static const Member MEMBERS[] = {
    {"card.name", offsetof(ModelCard, name), true},
    {"card.date", offsetof(ModelCard, date), true},
    {"card.look", offsetof(ModelCard, look), false},
    {"card.licence", offsetof(ModelCard, licence), false},
    {"card.trained_on", offsetof(ModelCard, trained_on), false},
    {"card.height", offsetof(ModelCard, height), false},
};
enum { MEMBER_COUNT = sizeof MEMBERS / sizeof *MEMBERS };

static const char **member_text(ModelCard *card, const Member *member) {
  return (const char **)(void *)((char *)card + member->offset);
}

Status model_card_check(const ModelCard *card, Error *error) {
  ModelCard copy = *card;
  int64_t minimum, maximum;
  for (int i = 0; i < MEMBER_COUNT; i++) {
    const char *text = *member_text(&copy, &MEMBERS[i]);
    if (!text && MEMBERS[i].required)
      return error_set(error, ERROR_USAGE, "%s: is missing", MEMBERS[i].key);
    Status status = text ? model_text_check(MEMBERS[i].key, text, error) : OK;
    if (status != OK) return status;
  }
  if (!is_name(card->name))
    return error_set(error, ERROR_USAGE,
                     "card.name: \"%s\"; allowed: 1 to %d lower-case letters, digits and hyphens, "
                     "a letter or digit first",
                     card->name, MODEL_NAME_MAX);
  if (!is_date(card->date))
    return error_set(error, ERROR_USAGE, "card.date: \"%s\"; expected YYYY-MM-DD", card->date);
  if (card->height && !model_card_parse_height(card->height, &minimum, &maximum))
    return error_set(error, ERROR_USAGE,
                     "card.height: \"%s\"; expected pixels or a range of them, such as 270 or "
                     "180-360; at most %d",
                     card->height, MAX_HEIGHT);
  return OK;
}

void model_card_write(const ModelCard *card, json_t *metadata) {
  ModelCard copy = *card;
  for (int i = 0; i < MEMBER_COUNT; i++) {
    const char *text = *member_text(&copy, &MEMBERS[i]);
    if (text) json_object_set_new(metadata, MEMBERS[i].key, json_string(text));
  }
}

void model_card_read(const json_t *metadata, ModelCard *card) {
  for (int i = 0; i < MEMBER_COUNT; i++)
    *member_text(card, &MEMBERS[i]) = json_string_value(json_object_get(metadata, MEMBERS[i].key));
}

bool model_card_has_key(const char *key) {
  for (int i = 0; i < MEMBER_COUNT; i++)
    if (strcmp(key, MEMBERS[i].key) == 0) return true;
  return false;
}
