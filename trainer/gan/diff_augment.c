#include "trainer/gan/diff_augment.h"

#include <math.h>

#include "trainer/gan/networks.h"

void diff_augment_draw(Random *random, double probability, int64_t height, int64_t width,
                       float draw[DRAW_VALUES]) {
  double u[8];
  for (int i = 0; i < 8; i++) u[i] = random_uniform(random);
  bool apply = u[0] < probability;
  double max_x = round((double)width / 8), max_y = round((double)height / 8);
  draw[DRAW_BRIGHTNESS] = apply ? (float)(2 * u[1] - 1) : 0;
  draw[DRAW_SATURATION] = apply ? (float)(2 * u[2]) : 1;
  draw[DRAW_CONTRAST] = apply ? (float)(u[3] + 0.5) : 1;
  draw[DRAW_SHIFT] = apply ? (float)(floor(u[4] * (2 * max_x + 1)) - max_x) : 0;
  draw[DRAW_SHIFT + 1] = apply ? (float)(floor(u[5] * (2 * max_y + 1)) - max_y) : 0;
  draw[DRAW_CUT] = (float)(u[6] * (double)width);
  draw[DRAW_CUT + 1] = (float)(u[7] * (double)height);
  draw[DRAW_CUT_SIZE] = apply ? (float)width / 4 : -1;
  draw[DRAW_CUT_SIZE + 1] = apply ? (float)height / 4 : -1;
}

/* `count` numbers of each clip's draw, as [N,1,1,1,count]. */
static Value numbers(Graph *graph, Value draws, int first, int count) {
  Shape size = graph_shape(graph, draws);
  size.dim[AXIS_C] = count;
  return graph_slice(graph, draws, shape_make(0, 0, 0, 0, first), size);
}

/* mean + factor * (x - mean) */
static Value scale_distance(Graph *graph, Value x, Value mean, Value factor) {
  return graph_add(graph, mean, graph_mul(graph, factor, graph_sub(graph, x, mean)));
}

/* The mean of each pixel's channels, [N,T,H,W,1]. By channels: a reduction over rows of three would
 * load and store single numbers. */
static Value mean_of_channels(Graph *graph, Value x) {
  Value sum = graph_add(graph, frames_channel(graph, x, 0), frames_channel(graph, x, 1));
  sum = graph_add(graph, sum, frames_channel(graph, x, 2));
  return graph_affine(graph, sum, 1.0f / 3, 0);
}

static Value change_colour(Graph *graph, Value x, Value draws) {
  Value brightness = numbers(graph, draws, DRAW_BRIGHTNESS, 1);
  Value grey = graph_add(graph, mean_of_channels(graph, x), brightness);
  x = graph_add(graph, x, brightness);
  x = scale_distance(graph, x, grey, numbers(graph, draws, DRAW_SATURATION, 1));
  /* Saturation keeps each pixel's mean, so that the clip's mean is that of `grey`. */
  Shape shape = graph_shape(graph, grey);
  const int64_t pixels = shape_count(shape) / shape.dim[AXIS_N];
  Value mean = graph_reduce_sum(graph, grey, ALL_AXES & ~(1u << AXIS_N), 1 / (float)pixels);
  return scale_distance(graph, x, mean, numbers(graph, draws, DRAW_CONTRAST, 1));
}

/* 1 where a coordinate is closer to the rectangle's centre than half of its side, else 0. */
static Value is_inside(Graph *graph, Value draws, Value coordinates, int axis) {
  Value centre = numbers(graph, draws, DRAW_CUT + axis, 1);
  Value distance = graph_abs(graph, graph_sub(graph, coordinates, centre));
  Value margin = graph_sub(graph, numbers(graph, draws, DRAW_CUT_SIZE + axis, 1), distance);
  return graph_leaky_step(graph, margin, 0);
}

Value diff_augment(Graph *graph, Value frames, Value draws, Value columns, Value rows) {
  graph_scope_push(graph, "augment");
  Value x = change_colour(graph, graph_cast(graph, frames, DTYPE_F32), draws);
  x = graph_translate(graph, x, numbers(graph, draws, DRAW_SHIFT, 2));
  Value cut =
      graph_mul(graph, is_inside(graph, draws, columns, 0), is_inside(graph, draws, rows, 1));
  x = graph_mul(graph, x, graph_affine(graph, cut, -1, 1));
  x = graph_cast(graph, x, graph_dtype(graph, frames));
  graph_scope_pop(graph);
  return x;
}
