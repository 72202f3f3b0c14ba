#include "trainer/infer/model_search.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"

/* --- Folders ---------------------------------------------------------------------------------- */

typedef struct Folders {
  char **paths;
  size_t count;
} Folders;

/* Takes over `path`, and adds it without "..". A missing folder, or one that was added before, is
 * not added. */
static Status folders_add(Folders *folders, char *path, Error *error) {
  Status status = OK;
  bool is_folder;
  char *real = NULL;
  TRY(path_is_folder(path, &is_folder, error));
  if (!is_folder) goto done;
  real = realpath(path, NULL);
  if (!real) {
    status = error_errno(error, errno, "%s: cannot be looked up", path);
    goto done;
  }
  for (size_t i = 0; i < folders->count; i++)
    if (strcmp(folders->paths[i], real) == 0) goto done;
  folders->paths = mem_resize(folders->paths, folders->count + 1, sizeof *folders->paths);
  folders->paths[folders->count++] = real;
  real = NULL;
done:
  free(path);
  free(real);
  return status;
}

static void folders_free(Folders *folders) {
  for (size_t i = 0; i < folders->count; i++) free(folders->paths[i]);
  free(folders->paths);
}

static Status add_environment(Folders *folders, Error *error) {
  Status status = OK;
  const char *next = getenv("CELFORGE_MODELS");
  while (next && *next) {
    size_t length = strcspn(next, ":");
    if (length > 0) TRY(folders_add(folders, mem_format("%.*s", (int)length, next), error));
    next += length + (next[length] == ':');
  }
done:
  return status;
}

/* The README tells models/ of a source tree from a folder of that name which belongs to something
 * else. */
static Status is_source_models(const char *folder, bool *out, Error *error) {
  char *readme = path_join(folder, "README.md"), *recipes = path_join(folder, "clips.tsv");
  Status status = path_exists(readme, out, error);
  if (status == OK && *out) status = path_exists(recipes, out, error);
  free(readme);
  free(recipes);
  return status;
}

/* A build folder is build/ or, for a second build, build/NAME. */
static Status add_source_tree(Folders *folders, const char *program_folder, Error *error) {
  static const char *const UP[] = {"..", "../.."};
  Status status = OK;
  bool found = false;
  for (size_t i = 0; i < sizeof UP / sizeof *UP && !found; i++) {
    char *folder = mem_format("%s/%s/models", program_folder, UP[i]);
    status = is_source_models(folder, &found, error);
    if (status == OK && found)
      status = folders_add(folders, folder, error);
    else
      free(folder);
    if (status != OK) break;
  }
  return status;
}

static Status find_folders(Folders *out, Error *error) {
  Status status = OK;
  char program[PATH_MAX];
  TRY(add_environment(out, error));
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  if (length <= 0) goto done;
  program[length] = '\0';
  *strrchr(program, '/') = '\0';
  TRY(add_source_tree(out, program, error));
  TRY(folders_add(out, mem_format("%s/../share/celforge/models", program), error));
done:
  return status;
}

/* --- List ------------------------------------------------------------------------------------- */

static bool has_ending(const char *name) {
  size_t length = strlen(name), ending = strlen(MODEL_FILE_ENDING);
  return length > ending && strcmp(name + length - ending, MODEL_FILE_ENDING) == 0;
}

/* Returns whether `file` is called `name` with the ending. */
static bool is_called(const char *file, const char *name) {
  size_t length = strlen(name);
  return has_ending(file) && strlen(file) == length + strlen(MODEL_FILE_ENDING) &&
         strncmp(file, name, length) == 0;
}

static bool is_listed(const ModelList *list, const char *name) {
  for (size_t i = 0; i < list->count; i++)
    if (strcmp(list->files[i]->card.name, name) == 0) return true;
  return false;
}

/* Opens a model whose card must name it like its file, so that a name means one model. */
static Status open_named(const char *path, ModelFile **out, Error *error) {
  Status status = model_file_open(path, out, error);
  if (status != OK) return status;
  const char *file_name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  if (is_called(file_name, (*out)->card.name)) return OK;
  status = error_set(error, ERROR_DATA, "%s: its card names it \"%s\"; rename the file to %s%s",
                     path, (*out)->card.name, (*out)->card.name, MODEL_FILE_ENDING);
  model_file_close(*out);
  *out = NULL;
  return status;
}

static Status list_folder(ModelList *list, const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (!has_ending(names[i])) continue;
    Error problem = {0};
    ModelFile *file = NULL;
    char *path = path_join(folder, names[i]);
    if (open_named(path, &file, &problem) != OK) log_warning("%s", problem.message);
    free(path);
    if (file && is_listed(list, file->card.name)) {
      model_file_close(file);
    } else if (file) {
      list->files = mem_resize(list->files, list->count + 1, sizeof *list->files);
      list->files[list->count++] = file;
    }
  }
done:
  folder_list_free(names, count);
  return status;
}

static int compare_names(const void *a, const void *b) {
  const ModelFile *const *left = a, *const *right = b;
  return strcmp((*left)->card.name, (*right)->card.name);
}

Status model_list_open(ModelList *out, Error *error) {
  Status status = OK;
  Folders folders = {0};
  *out = (ModelList){0};
  TRY(find_folders(&folders, error));
  for (size_t i = 0; i < folders.count; i++) TRY(list_folder(out, folders.paths[i], error));
  if (out->count > 0) qsort(out->files, out->count, sizeof *out->files, compare_names);
done:
  folders_free(&folders);
  if (status != OK) model_list_close(out);
  return status;
}

void model_list_close(ModelList *list) {
  for (size_t i = 0; i < list->count; i++) model_file_close(list->files[i]);
  free(list->files);
  *list = (ModelList){0};
}

void model_list_append_names(const ModelList *list, Text *out) {
  if (list->count == 0) text_append(out, "none");
  for (size_t i = 0; i < list->count; i++)
    text_append(out, "%s%s", i ? ", " : "", list->files[i]->card.name);
}

/* --- One model -------------------------------------------------------------------------------- */

static Status unknown_name(const char *name, Error *error) {
  ModelList list;
  Text names = {0}, nearest = {0};
  Status status = model_list_open(&list, error);
  if (status != OK) return status;
  int best = (int)strlen(name) / 2 + 1; /* more edits than this are no typing error */
  for (size_t i = 0; i < list.count; i++) {
    int distance = text_distance(name, list.files[i]->card.name);
    if (distance >= best) continue;
    best = distance;
    text_clear(&nearest);
    text_append(&nearest, "did you mean \"%s\"? ", list.files[i]->card.name);
  }
  model_list_append_names(&list, &names);
  status = error_set(error, ERROR_USAGE,
                     "--model: unknown model \"%s\"; %sinstalled models: %s; or give the path of a "
                     "model file, NAME%s",
                     name, nearest.data ? nearest.data : "", names.data, MODEL_FILE_ENDING);
  text_free(&names);
  text_free(&nearest);
  model_list_close(&list);
  return status;
}

Status model_open(const char *name, ModelFile **out, Error *error) {
  *out = NULL;
  if (strchr(name, '/') || has_ending(name)) return model_file_open(name, out, error);
  Status status = OK;
  Folders folders = {0};
  char *path = NULL;
  bool exists = false;
  TRY(find_folders(&folders, error));
  for (size_t i = 0; i < folders.count && !exists; i++) {
    free(path);
    path = mem_format("%s/%s%s", folders.paths[i], name, MODEL_FILE_ENDING);
    TRY(path_exists(path, &exists, error));
  }
  TRY(exists ? open_named(path, out, error) : unknown_name(name, error));
done:
  free(path);
  folders_free(&folders);
  return status;
}
