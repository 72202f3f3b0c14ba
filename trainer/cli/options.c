#include "trainer/cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/version.h"
#include "trainer/run/preflight.h"

enum { MAX_SIDE = 32768, HELP_COLUMN = 28, HELP_WIDTH = 110 };

/* --- Values ----------------------------------------------------------------------------------- */

static void *value_at(void *values, const Option *option) {
  return (char *)values + option->offset;
}

/* Parses a side of 1 to MAX_SIDE pixels; false where the text is anything else. */
static bool parse_side(const char *text, size_t length, int *out) {
  int side = 0;
  if (length == 0) return false;
  for (size_t i = 0; i < length; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    side = side * 10 + (text[i] - '0');
    if (side > MAX_SIDE) return false;
  }
  *out = side;
  return side > 0;
}

static Status parse_size(const Option *option, const char *text, PictureSize *out, Error *error) {
  bool both = option->kind == OPTION_SIZE;
  const char *cross = strchr(text, 'x');
  size_t before = cross ? (size_t)(cross - text) : strlen(text);
  const char *after = cross ? cross + 1 : "";
  PictureSize size = {0};
  bool width = parse_side(text, before, &size.width);
  bool height = parse_side(after, strlen(after), &size.height);
  bool fine = both ? width && height
                   : (width || before == 0) && (height || *after == '\0') && (width || height);
  if (!fine)
    return error_set(error, ERROR_USAGE, "--%s: \"%s\" is not a size; allowed: %s, 1 to %d each",
                     option->name, text, both ? "WxH" : "WxH, W or xH", MAX_SIDE);
  *out = size;
  return OK;
}

static Status parse_number(const Option *option, const char *text, int64_t *out, Error *error) {
  char *end = NULL;
  bool digit = isdigit((unsigned char)text[text[0] == '-']);
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (!digit || *end != '\0')
    return error_set(error, ERROR_USAGE, "--%s: \"%s\" is not a whole number", option->name, text);
  if (errno != 0 || number < option->minimum || number > option->maximum)
    return error_set(error, ERROR_USAGE, "--%s: %s is out of range; allowed: %lld to %lld",
                     option->name, text, (long long)option->minimum, (long long)option->maximum);
  *out = number;
  return OK;
}

static Status set_value(const Option *option, const char *text, void *values, Error *error) {
  void *value = value_at(values, option);
  switch (option->kind) {
  case OPTION_FLAG:
    *(bool *)value = true;
    return OK;
  case OPTION_ARGUMENT:
  case OPTION_TEXT:
    *(const char **)value = text;
    return OK;
  case OPTION_LIST: {
    TextList *list = value;
    MEM_PUSH_SLOT(list->items, list->count, list->capacity);
    list->items[list->count++] = text;
    return OK;
  }
  case OPTION_NUMBER:
    return parse_number(option, text, value, error);
  case OPTION_SIZE:
  case OPTION_SIDES:
    return parse_size(option, text, value, error);
  }
  return error_set(error, ERROR_INTERNAL, "--%s: unknown kind of option", option->name);
}

static void free_values(const Command *command, void *values) {
  if (!values) return;
  for (int i = 0; i < command->option_count; i++)
    if (command->options[i].kind == OPTION_LIST)
      free(((TextList *)value_at(values, &command->options[i]))->items);
  free(values);
}

/* --- Help ------------------------------------------------------------------------------------- */

static void print_usage(const Command *command, Text *out) {
  text_append(out, "usage: celforge %s", command->name);
  for (int i = 0; i < command->option_count; i++) {
    const Option *option = &command->options[i];
    if (option->kind == OPTION_ARGUMENT)
      text_append(out, option->required ? " %s" : " [%s]", option->name);
    else if (option->required)
      text_append(out, " --%s %s", option->name, option->value);
  }
  text_append(out, " [options]\n\n%s\n\n", command->summary);
}

/* Appends "step|data" as "step, data". */
static void append_words(const char *words, Text *out) {
  for (const char *at = words; *at; at++)
    if (*at == '|')
      text_append(out, ", ");
    else
      text_append_bytes(out, at, 1);
}

static void print_option(const Option *option, Text *out) {
  Text left = {0}, right = {0};
  bool argument = option->kind == OPTION_ARGUMENT;
  text_append(&left, argument ? "  %s" : "  --%s", option->name);
  if (option->value) text_append(&left, " %s", option->value);
  if (left.length + 2 > HELP_COLUMN)
    text_append(out, "%s\n%*s", left.data, HELP_COLUMN, "");
  else
    text_append(out, "%-*s", HELP_COLUMN, left.data);
  if (option->modes) {
    append_words(option->modes, &right);
    text_append(&right, ": ");
  }
  text_append(&right, "%s", option->help);
  if (option->default_text) text_append(&right, " (default %s)", option->default_text);
  text_append_wrapped(out, right.data, HELP_COLUMN, HELP_WIDTH);
  text_append(out, "\n");
  text_free(&left);
  text_free(&right);
}

static void print_command_help(const Command *command) {
  Text text = {0};
  print_usage(command, &text);
  for (int i = 0; i < command->option_count; i++) print_option(&command->options[i], &text);
  if (command->more_help) command->more_help(&text);
  fputs(text.data, stdout);
  text_free(&text);
}

static void print_help(const Command *const *commands, int count) {
  printf("Celforge %s trains GANs that turn video into cartoon video.\n\nusage: celforge COMMAND "
         "...\n\n",
         CELFORGE_VERSION);
  for (int i = 0; i < count; i++) printf("  %-11s %s\n", commands[i]->name, commands[i]->summary);
  printf("\nRun celforge COMMAND --help for the options of a command.\n"
         "Exit codes: 0 success, 64 usage or config error, 65 bad data, 70 internal error, 74 I/O "
         "error,\n75 stopped by a signal: train has saved a checkpoint (continue with --resume "
         "auto), translate leaves no output.\n");
}

/* --- Parsing ---------------------------------------------------------------------------------- */

/* Returns `candidate` and lowers *distance if it is closer to `word` than *distance; else `best`.
 */
static const char *nearer(const char *word, const char *candidate, const char *best,
                          int *distance) {
  int d = text_distance(word, candidate);
  if (d >= *distance) return best;
  *distance = d;
  return candidate;
}

/* The edit distance from which a known word is no longer suggested. */
static int tolerance(const char *word) {
  return 2 + (int)strlen(word) / 4;
}

static Status unknown_option(const Command *command, const char *name, Error *error) {
  int distance = tolerance(name);
  const char *best = nearer(name, "help", NULL, &distance);
  for (int i = 0; i < command->option_count; i++)
    if (command->options[i].kind != OPTION_ARGUMENT)
      best = nearer(name, command->options[i].name, best, &distance);
  if (best)
    return error_set(error, ERROR_USAGE, "unknown option --%s; did you mean --%s?", name, best);
  return error_set(error, ERROR_USAGE, "unknown option --%s; run celforge %s --help for the list",
                   name, command->name);
}

static const Option *find_option(const Command *command, const char *name, size_t length) {
  for (int i = 0; i < command->option_count; i++) {
    const Option *option = &command->options[i];
    if (option->kind != OPTION_ARGUMENT && strlen(option->name) == length &&
        strncmp(option->name, name, length) == 0)
      return option;
  }
  return NULL;
}

typedef struct Parser {
  const Command *command;
  void *values;
  bool *given; /* [option_count] */
  int count, next;
  char **words;
  bool help;
} Parser;

static Status parse_option(Parser *parser, const char *word, Error *error) {
  const char *name = word + 2, *equals = strchr(name, '=');
  size_t length = equals ? (size_t)(equals - name) : strlen(name);
  const char *text = equals ? equals + 1 : NULL;
  const Option *option = find_option(parser->command, name, length);
  if (!option) {
    char *alone = mem_format("%.*s", (int)length, name);
    Status status = unknown_option(parser->command, alone, error);
    free(alone);
    return status;
  }
  bool *given = &parser->given[option - parser->command->options];
  if (*given && option->kind != OPTION_LIST)
    return error_set(error, ERROR_USAGE, "--%s: given twice", option->name);
  *given = true;
  if (option->kind == OPTION_FLAG && text)
    return error_set(error, ERROR_USAGE, "--%s: takes no value", option->name);
  if (option->kind != OPTION_FLAG && !text) {
    bool more = parser->next < parser->count;
    if (!more || strncmp(parser->words[parser->next], "--", 2) == 0)
      return error_set(error, ERROR_USAGE, "--%s: needs a value, %s", option->name, option->value);
    text = parser->words[parser->next++];
  }
  return set_value(option, text, parser->values, error);
}

static Status parse_argument(Parser *parser, const char *word, Error *error) {
  for (int i = 0; i < parser->command->option_count; i++) {
    const Option *option = &parser->command->options[i];
    if (option->kind != OPTION_ARGUMENT || parser->given[i]) continue;
    parser->given[i] = true;
    return set_value(option, word, parser->values, error);
  }
  return error_set(error, ERROR_USAGE, "unexpected argument \"%s\"; run celforge %s --help", word,
                   parser->command->name);
}

static Status parse_words(Parser *parser, Error *error) {
  Status status = OK;
  bool options = true;
  while (parser->next < parser->count) {
    const char *word = parser->words[parser->next++];
    if (options && strcmp(word, "--") == 0) {
      options = false;
    } else if (options && strcmp(word, "--help") == 0) {
      parser->help = true;
      return OK;
    } else if (options && strncmp(word, "--", 2) == 0) {
      TRY(parse_option(parser, word, error));
    } else if (options && word[0] == '-' && word[1] != '\0') {
      FAIL(error, ERROR_USAGE,
           "unknown option %s: options have long names only; run celforge %s --help", word,
           parser->command->name);
    } else {
      TRY(parse_argument(parser, word, error));
    }
  }
done:
  return status;
}

static bool is_among(const char *words, const char *word) {
  for (size_t length = strlen(word);; words += strcspn(words, "|") + 1) {
    if (strcspn(words, "|") == length && strncmp(words, word, length) == 0) return true;
    if (!strchr(words, '|')) return false;
  }
}

/* Rejects options that the chosen mode would ignore. */
static Status check_modes(const Parser *parser, Error *error) {
  Status status = OK;
  const Option *options = parser->command->options, *mode = options;
  const char *word =
      mode->kind == OPTION_ARGUMENT ? *(const char **)value_at(parser->values, mode) : NULL;
  Text words = {0};
  if (!word || !strchr(mode->name, '|')) return OK;
  append_words(mode->name, &words);
  if (!is_among(mode->name, word))
    FAIL(error, ERROR_USAGE, "unknown mode \"%s\"; allowed: %s", word, words.data);
  for (int i = 0; i < parser->command->option_count; i++) {
    if (!parser->given[i] || !options[i].modes || is_among(options[i].modes, word)) continue;
    text_clear(&words);
    append_words(options[i].modes, &words);
    FAIL(error, ERROR_USAGE, "%s%s: has no effect in %s; allowed in %s",
         options[i].kind == OPTION_ARGUMENT ? "" : "--", options[i].name, word, words.data);
  }
done:
  text_free(&words);
  return status;
}

/* Sets options that were not given to their defaults; a required one is an error. */
static Status complete(Parser *parser, Error *error) {
  for (int i = 0; i < parser->command->option_count; i++) {
    const Option *option = &parser->command->options[i];
    if (parser->given[i]) continue;
    if (option->required)
      return error_set(error, ERROR_USAGE, "%s%s is missing; run celforge %s --help",
                       option->kind == OPTION_ARGUMENT ? "" : "--", option->name,
                       parser->command->name);
    if (!option->default_text) continue;
    Status status = set_value(option, option->default_text, parser->values, error);
    if (status != OK) return status;
  }
  return OK;
}

static Status run_command(const Command *command, int *argc, char ***argv, Error *error) {
  Status status = OK;
  Text line = {0};
  Parser parser = {.command = command,
                   .values = mem_new(1, command->values_size),
                   .given = mem_new((size_t)command->option_count, sizeof(bool)),
                   .count = *argc - 2,
                   .words = *argv + 2};
  status = parse_words(&parser, error);
  if (status == OK && !parser.help) status = check_modes(&parser, error);
  if (status == OK && !parser.help) status = complete(&parser, error);
  if (status != OK) {
    error_context(error, "%s", command->name);
    if (command->by_ranks) status = preflight_fail_together(argc, argv, status, error);
    goto done;
  }
  if (parser.help) {
    print_command_help(command);
    goto done;
  }
  text_append(&line, "celforge");
  for (int i = 1; i < *argc; i++) text_append(&line, " %s", (*argv)[i]);
  Invocation invocation = {argc, argv, line.data};
  status = command->run(parser.values, &invocation, error);
done:
  text_free(&line);
  free(parser.given);
  free_values(command, parser.values);
  return status;
}

static Status unknown_command(const Command *const *commands, int count, const char *word,
                              Error *error) {
  int distance = tolerance(word);
  const char *best = NULL;
  for (int i = 0; i < count; i++) best = nearer(word, commands[i]->name, best, &distance);
  if (best)
    return error_set(error, ERROR_USAGE, "unknown command \"%s\"; did you mean \"%s\"?", word,
                     best);
  return error_set(error, ERROR_USAGE, "unknown command \"%s\"; run celforge --help for the list",
                   word);
}

Status commandline_run(const Command *const *commands, int count, int *argc, char ***argv,
                       Error *error) {
  Status status = OK;
  const char *word = *argc > 1 ? (*argv)[1] : NULL;
  const Command *command = NULL;
  for (int i = 0; word && i < count; i++)
    if (strcmp(commands[i]->name, word) == 0) command = commands[i];
  if (!word)
    FAIL(error, ERROR_USAGE, "a command is missing; run celforge --help for the list");
  else if (command)
    TRY(run_command(command, argc, argv, error));
  else if (strcmp(word, "--help") == 0 || strcmp(word, "help") == 0)
    print_help(commands, count);
  else if (strcmp(word, "--version") == 0)
    printf("celforge %s\n", CELFORGE_VERSION);
  else
    TRY(unknown_command(commands, count, word, error));
  if (fflush(stdout) != 0 || ferror(stdout)) status = error_errno(error, errno, "standard output");
done:
  return status;
}
