/* Content that a candidate keeps of its source: structure and colour; and flicker. Frames are u8
 * RGB [H,W,3]. All results are computed in double precision (docs/scores.md). */
#ifndef CELFORGE_TRAINER_EVAL_CONTENT_METRICS_H
#define CELFORGE_TRAINER_EVAL_CONTENT_METRICS_H

#include <stddef.h>
#include <stdint.h>

/* Returns how much of the structure of `a` is left in `b` (structure_planes in
 * trainer/eval/ssim.h), on luma at half resolution: means of 2 x 2 pixels; a last odd row or column
 * is dropped. 1 under changes of brightness and contrast; flattened texture costs little, lost,
 * moved or invented edges much. NaN for frames of one row or column. */
double content_metrics_structure(const uint8_t *a, const uint8_t *b, int height, int width);

/* Means over cells of CONTENT_CELL x CONTENT_CELL pixels: colours at low resolution. Cells at the
 * right and lower edge may be smaller. `cells` is f64 [rows,columns,3], of the RGB values. */
enum { CONTENT_CELL = 8 };
size_t content_metrics_cell_count(int height, int width); /* rows * columns */
void content_metrics_cells(const uint8_t *rgb, int height, int width, double *cells);

/* Colour difference in CIELAB (D65, from sRGB): the mean over cells of the length of b - a (CIE
 * 1976 delta E), and of each channel with its sign, so that a drift of the whole picture is seen.
 */
typedef struct ColorShift {
  double delta_e, lab[3];
} ColorShift;
ColorShift content_metrics_color_shift(const double *a, const double *b, size_t cells);
void content_metrics_lab(const double rgb[3], double lab[3]); /* rgb in 0 .. 255 */

/* Returns the flicker of three consecutive frames, given by their cells: mean |a - 2b + c| of luma,
 * in grey levels. A steady change of brightness cancels; a single bright frame counts most. */
double content_metrics_flicker(const double *a, const double *b, const double *c, size_t cells);

#endif
