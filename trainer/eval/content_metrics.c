#include "trainer/eval/content_metrics.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/ssim.h"

static const double LUMA[3] = {0.299, 0.587, 0.114};

static double luma(const double rgb[3]) {
  return LUMA[0] * rgb[0] + LUMA[1] * rgb[1] + LUMA[2] * rgb[2];
}

/* --- Structure -------------------------------------------------------------------------------- */

/* Luma of the means of 2 x 2 pixels, f64 [height/2,width/2]. */
static void halve_luma(const uint8_t *rgb, int height, int width, double *half) {
  for (int y = 0; y + 1 < height; y += 2)
    for (int x = 0; x + 1 < width; x += 2) {
      double sums[3] = {0};
      for (int k = 0; k < 4; k++) {
        const uint8_t *pixel =
            rgb + 3 * ((size_t)(y + k / 2) * (size_t)width + (size_t)(x + k % 2));
        for (int c = 0; c < 3; c++) sums[c] += pixel[c];
      }
      *half++ = luma(sums) / 4;
    }
}

double content_metrics_structure(const uint8_t *a, const uint8_t *b, int height, int width) {
  int rows = height / 2, columns = width / 2;
  if (rows == 0 || columns == 0) return (double)NAN;
  size_t pixels = (size_t)rows * (size_t)columns;
  double *planes = mem_new(2 * pixels, sizeof *planes);
  halve_luma(a, height, width, planes);
  halve_luma(b, height, width, planes + pixels);
  double structure = structure_planes(planes, planes + pixels, rows, columns);
  free(planes);
  return structure;
}

/* --- Cells ------------------------------------------------------------------------------------ */

static int cells_along(int side) {
  return (side + CONTENT_CELL - 1) / CONTENT_CELL;
}

size_t content_metrics_cell_count(int height, int width) {
  return (size_t)cells_along(height) * (size_t)cells_along(width);
}

static void cell_mean(const uint8_t *rgb, int top, int left, int height, int width,
                      double mean[3]) {
  int low = top + CONTENT_CELL < height ? top + CONTENT_CELL : height;
  int right = left + CONTENT_CELL < width ? left + CONTENT_CELL : width;
  int64_t sums[3] = {0};
  for (int y = top; y < low; y++)
    for (int x = left; x < right; x++)
      for (int c = 0; c < 3; c++)
        sums[c] += rgb[3 * ((size_t)y * (size_t)width + (size_t)x) + (size_t)c];
  double count = (double)(low - top) * (right - left);
  for (int c = 0; c < 3; c++) mean[c] = (double)sums[c] / count;
}

void content_metrics_cells(const uint8_t *rgb, int height, int width, double *cells) {
  for (int y = 0; y < height; y += CONTENT_CELL)
    for (int x = 0; x < width; x += CONTENT_CELL, cells += 3)
      cell_mean(rgb, y, x, height, width, cells);
}

/* --- Colour ----------------------------------------------------------------------------------- */

static double linear_of(double srgb) { /* IEC 61966-2-1 */
  double value = srgb / 255;
  return value <= 0.04045 ? value / 12.92 : pow((value + 0.055) / 1.055, 2.4);
}

static double lab_curve(double t) { /* CIE 15: 6/29 cubed, and the line below */
  const double edge = 6.0 / 29;
  return t > edge * edge * edge ? cbrt(t) : t / (3 * edge * edge) + 4.0 / 29;
}

void content_metrics_lab(const double rgb[3], double lab[3]) {
  static const double TO_XYZ[3][3] = {{0.4124564, 0.3575761, 0.1804375},
                                      {0.2126729, 0.7151522, 0.0721750},
                                      {0.0193339, 0.1191920, 0.9503041}};
  double f[3];
  for (int i = 0; i < 3; i++) {
    double value = 0, white = 0;
    for (int c = 0; c < 3; c++) {
      value += TO_XYZ[i][c] * linear_of(rgb[c]);
      white += TO_XYZ[i][c];
    }
    f[i] = lab_curve(value / white);
  }
  lab[0] = 116 * f[1] - 16;
  lab[1] = 500 * (f[0] - f[1]);
  lab[2] = 200 * (f[1] - f[2]);
}

ColorShift content_metrics_color_shift(const double *a, const double *b, size_t cells) {
  ColorShift shift = {0};
  for (size_t i = 0; i < cells; i++) {
    double from[3], to[3], square = 0;
    content_metrics_lab(a + 3 * i, from);
    content_metrics_lab(b + 3 * i, to);
    for (int c = 0; c < 3; c++) {
      shift.lab[c] += (to[c] - from[c]) / (double)cells;
      square += (to[c] - from[c]) * (to[c] - from[c]);
    }
    shift.delta_e += sqrt(square) / (double)cells;
  }
  return shift;
}

/* --- Flicker ---------------------------------------------------------------------------------- */

double content_metrics_flicker(const double *a, const double *b, const double *c, size_t cells) {
  double sum = 0;
  for (size_t i = 0; i < 3 * cells; i += 3)
    sum += fabs(luma(a + i) - 2 * luma(b + i) + luma(c + i));
  return cells > 0 ? sum / (double)cells : 0;
}
