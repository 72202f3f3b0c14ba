#include "data/video/image.h"

#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/memory.h"

enum { MAX_SIDE = 32768, MAX_FILE_PIXELS = 1 << 28 };
static const size_t max_file_bytes = (size_t)1 << 31;

Status image_new(int width, int height, Image *out, Error *error) {
  void *pixels = NULL;
  *out = (Image){0};
  if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "image of %dx%d pixels; expected 1x1 to %dx%d", width,
                     height, MAX_SIDE, MAX_SIDE);
  Status status = mem_bulk((size_t)width * (size_t)height * 3, "an image", &pixels, error);
  if (status == OK) *out = (Image){width, height, pixels};
  return status;
}

void image_free(Image *image) {
  free(image->pixels);
  *image = (Image){0};
}

/* --- PNG ------------------------------------------------------------------------------------- */

/* libpng reports errors by longjmp, so all state that must survive one is in this struct, and
 * functions that call libpng after setjmp have no local state. */

typedef struct Png {
  png_structp png;
  png_infop info;
  png_bytep *rows;
  const char *bytes;  /* when reading: the file */
  size_t size, used;  /* of it */
  AtomicFile *target; /* when writing */
  Error write_error;
  char reason[200];
} Png;

static void keep_reason(png_structp png, png_const_charp message) {
  Png *state = png_get_error_ptr(png);
  snprintf(state->reason, sizeof state->reason, "%s", message);
  png_longjmp(png, 1);
}

static void ignore_warning(png_structp png, png_const_charp message) {
  (void)png;
  (void)message;
}

static void read_bytes(png_structp png, png_bytep out, size_t size) {
  Png *state = png_get_io_ptr(png);
  if (size > state->size - state->used) png_error(png, "the file is truncated");
  memcpy(out, state->bytes + state->used, size);
  state->used += size;
}

/* Converts every kind of PNG to 8-bit RGB. */
static void set_conversions(png_structp png, png_infop info) {
  int type = png_get_color_type(png, info);
  png_set_expand(png);
  if (png_get_bit_depth(png, info) == 16) png_set_scale_16(png);
  if (type == PNG_COLOR_TYPE_GRAY || type == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
}

static bool read_header(Png *state) {
  if (setjmp(png_jmpbuf(state->png))) return false;
  png_set_user_limits(state->png, MAX_SIDE, MAX_SIDE);
  png_set_read_fn(state->png, state, read_bytes);
  png_read_info(state->png, state->info);
  return true;
}

static bool start_rows(Png *state) {
  if (setjmp(png_jmpbuf(state->png))) return false;
  set_conversions(state->png, state->info);
  return true;
}

static bool read_rows(Png *state) {
  if (setjmp(png_jmpbuf(state->png))) return false;
  png_read_image(state->png, state->rows);
  png_read_end(state->png, NULL);
  return true;
}

static png_bytep *row_pointers(const Image *image) {
  png_bytep *rows = mem_new((size_t)image->height, sizeof *rows);
  for (int y = 0; y < image->height; y++)
    rows[y] = image->pixels + (size_t)y * (size_t)image->width * 3;
  return rows;
}

/* Fails if the file is too short for the size it claims, before memory is allocated for that:
 * deflate shrinks at most by a factor of 1032 (zlib's "Technical Details"). */
static Status check_claim(const char *path, const Png *state, Error *error) {
  enum { DEFLATE_MAX_RATIO = 1032 };
  uint64_t width = png_get_image_width(state->png, state->info);
  uint64_t height = png_get_image_height(state->png, state->info);
  uint64_t bits = (uint64_t)png_get_bit_depth(state->png, state->info) *
                  png_get_channels(state->png, state->info);
  if (width * height > MAX_FILE_PIXELS)
    return error_set(error, ERROR_DATA, "%s: %llux%llu pixels; at most %d are read", path,
                     (unsigned long long)width, (unsigned long long)height, MAX_FILE_PIXELS);
  if (width * height * bits / 8 > state->size * DEFLATE_MAX_RATIO)
    return error_set(error, ERROR_DATA,
                     "%s: damaged PNG: %llux%llu pixels of %llu bits do not fit into a file of %zu "
                     "bytes",
                     path, (unsigned long long)width, (unsigned long long)height,
                     (unsigned long long)bits, state->size);
  return OK;
}

/* Decodes state->bytes. */
static Status decode_png(const char *path, Png *state, Image *out, Error *error) {
  Status status = OK;
  enum { SIGNATURE = 8 };
  if (state->size < SIGNATURE || png_sig_cmp((png_const_bytep)state->bytes, 0, SIGNATURE) != 0)
    FAIL(error, ERROR_DATA, "%s: not a PNG file: wrong signature", path);
  state->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, state, keep_reason, ignore_warning);
  if (state->png) state->info = png_create_info_struct(state->png);
  if (!state->info) FAIL(error, ERROR_INTERNAL, "%s: cannot initialise libpng", path);
  if (!read_header(state)) FAIL(error, ERROR_DATA, "%s: damaged PNG: %s", path, state->reason);
  TRY(check_claim(path, state, error));
  if (!start_rows(state)) FAIL(error, ERROR_DATA, "%s: damaged PNG: %s", path, state->reason);
  TRY(image_new((int)png_get_image_width(state->png, state->info),
                (int)png_get_image_height(state->png, state->info), out, error));
  state->rows = row_pointers(out);
  if (!read_rows(state)) FAIL(error, ERROR_DATA, "%s: damaged PNG: %s", path, state->reason);
done:
  if (state->png) png_destroy_read_struct(&state->png, &state->info, NULL);
  free(state->rows);
  return status;
}

Status image_read_png(const char *path, Image *out, Error *error) {
  Png state = {0};
  char *bytes = NULL;
  *out = (Image){0};
  Status status = file_read(path, max_file_bytes, &bytes, &state.size, error);
  state.bytes = bytes;
  if (status == OK) status = decode_png(path, &state, out, error);
  if (status != OK) image_free(out);
  free(bytes);
  return status;
}

static void write_bytes(png_structp png, png_bytep data, size_t size) {
  Png *state = png_get_io_ptr(png);
  if (atomic_file_write(state->target, data, size, &state->write_error) != OK)
    png_error(png, "cannot write the file");
}

static void flush_bytes(png_structp png) {
  (void)png; /* the commit flushes */
}

static bool write_rows(Png *state, const Image *image) {
  if (setjmp(png_jmpbuf(state->png))) return false;
  png_set_write_fn(state->png, state, write_bytes, flush_bytes);
  png_set_IHDR(state->png, state->info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_set_compression_level(state->png, 6);
  png_write_info(state->png, state->info);
  png_write_image(state->png, state->rows);
  png_write_end(state->png, NULL);
  return true;
}

Status image_write_png(const char *path, const Image *image, Error *error) {
  Status status = OK;
  Png state = {0};
  AtomicFile file = {.descriptor = -1};
  TRY(atomic_file_open(path, &file, error));
  state.target = &file;
  state.rows = row_pointers(image);
  state.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &state, keep_reason, ignore_warning);
  if (state.png) state.info = png_create_info_struct(state.png);
  if (!state.info) FAIL(error, ERROR_INTERNAL, "%s: cannot initialise libpng", path);
  if (!write_rows(&state, image)) {
    if (state.write_error.status != OK)
      FAIL(error, state.write_error.status, "%s", state.write_error.message);
    FAIL(error, ERROR_INTERNAL, "%s: libpng: %s", path, state.reason);
  }
  TRY(atomic_file_commit(&file, error));
done:
  if (state.png) png_destroy_write_struct(&state.png, &state.info);
  free(state.rows);
  atomic_file_abort(&file);
  return status;
}

/* --- Resizing --------------------------------------------------------------------------------- */

/* Weights of the input pixels of one output pixel along one axis: a triangle as wide as the coarser
 * grid, cut at the borders, normalised to sum 1. */
typedef struct ResizeWeights {
  int first, count;
  float *weights; /* [count] */
} ResizeWeights;

static void compute_weights(ResizeWeights *row_weights, int i, int from, int to) {
  float ratio = (float)from / (float)to, reach = ratio > 1 ? ratio : 1, sum = 0;
  float centre = ((float)i + 0.5f) * ratio - 0.5f;
  int last = (int)floorf(centre + reach);
  row_weights->first = (int)ceilf(centre - reach);
  if (row_weights->first < 0) row_weights->first = 0;
  if (last > from - 1) last = from - 1;
  row_weights->count = last - row_weights->first + 1;
  for (int k = 0; k < row_weights->count; k++) {
    float weight = 1 - fabsf((float)(row_weights->first + k) - centre) / reach;
    row_weights->weights[k] = weight > 0 ? weight : 0;
    sum += row_weights->weights[k];
  }
  for (int k = 0; k < row_weights->count; k++) row_weights->weights[k] /= sum;
}

/* Returns the weights of every output pixel of an axis; *weights owns their memory. */
static ResizeWeights *axis_weights(int from, int to, float **weights) {
  int max_count = 2 * ((from > to ? from / to : 1) + 1) + 1;
  ResizeWeights *row_weights = mem_new((size_t)to, sizeof *row_weights);
  *weights = mem_new((size_t)to * (size_t)max_count, sizeof **weights);
  for (int i = 0; i < to; i++) {
    row_weights[i].weights = *weights + (size_t)i * (size_t)max_count;
    compute_weights(&row_weights[i], i, from, to);
  }
  return row_weights;
}

/* Computes the weighted sum of rows, as one row of the input's width. */
static void blend_rows(const Image *from, const ResizeWeights *row_weights, float *row) {
  size_t values = (size_t)from->width * 3;
  memset(row, 0, values * sizeof *row);
  for (int k = 0; k < row_weights->count; k++) {
    const uint8_t *pixels = from->pixels + (size_t)(row_weights->first + k) * values;
    for (size_t i = 0; i < values; i++) row[i] += row_weights->weights[k] * (float)pixels[i];
  }
}

void image_resize(const Image *from, Image *to) {
  float *across_weights, *down_weights, *row = mem_new((size_t)from->width, 3 * sizeof *row);
  ResizeWeights *across = axis_weights(from->width, to->width, &across_weights);
  ResizeWeights *down = axis_weights(from->height, to->height, &down_weights);
  for (int y = 0; y < to->height; y++) {
    blend_rows(from, &down[y], row);
    uint8_t *out = to->pixels + (size_t)y * (size_t)to->width * 3;
    for (int x = 0; x < to->width; x++, out += 3) {
      float sum[3] = {0.5f, 0.5f, 0.5f};
      for (int k = 0; k < across[x].count; k++)
        for (int c = 0; c < 3; c++)
          sum[c] += across[x].weights[k] * row[3 * (across[x].first + k) + c];
      for (int c = 0; c < 3; c++) out[c] = (uint8_t)(sum[c] < 255 ? sum[c] : 255);
    }
  }
  free(across);
  free(down);
  free(across_weights);
  free(down_weights);
  free(row);
}
