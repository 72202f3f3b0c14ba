/* Random cases of matrix products, warps and translations. */
#include <math.h>

#include "support_cases.h"

Case case_matmul(Random *random) {
  static const int64_t lengths[] = {1, 2, 3, 7, 16, 17, 32, 64, 65, 100, 256, 300};
  Case test = case_new(OP_MATMUL);
  const DType dtype = draw_dtype(random);
  const bool ta = draw(random, 0, 1), tb = draw(random, 0, 1);
  int64_t rows = lengths[draw(random, 0, 11)], columns = lengths[draw(random, 0, 11)];
  int64_t terms = lengths[draw(random, 0, 11)];
  Shape a = shape_make(draw(random, 1, 3), draw(random, 1, 2), draw(random, 1, 2), 1, 1);
  if (draw(random, 0, 4) == 0) { /* a Gram matrix */
    rows = columns = draw(random, 1, 40);
    terms = draw(random, 1, 9000);
  }
  while (rows * columns * terms * shape_count(a) > 4000000)
    a.dim[AXIS_N] = 1, terms = terms / 2 + 1;
  Shape b = a, y = a;
  a.dim[AXIS_W] = ta ? terms : rows;
  a.dim[AXIS_C] = ta ? rows : terms;
  b.dim[AXIS_W] = tb ? columns : terms;
  b.dim[AXIS_C] = tb ? terms : columns;
  y.dim[AXIS_W] = rows;
  y.dim[AXIS_C] = columns;
  test.op.input_count = 2;
  test.op.output_count = 1;
  test.op.attributes.matmul.transpose_a = ta;
  test.op.attributes.matmul.transpose_b = tb;
  test.inputs[0] = (Tensor){.shape = a, .dtype = dtype};
  test.inputs[1] = (Tensor){.shape = b, .dtype = dtype};
  test.outputs[0] = (Tensor){.shape = y};
  return test;
}

/* Frames of any size, some of more channels or pixels than a block. */
static Tensor draw_frames(Random *random) {
  Tensor x = {.shape = draw_shape(random), .dtype = draw_dtype(random)};
  if (draw(random, 0, 2) == 0) x.shape.dim[AXIS_C] = 3;
  if (draw(random, 0, 2) == 0) x.shape.dim[AXIS_W] = draw(random, 60, 200);
  return x;
}

/* Flows of a few pixels, some of more than a frame; in some cases infinite or NaN. */
Case case_warp(Random *random) {
  static float flows[1 << 17]; /* until the next case */
  Case test = case_new(OP_WARP);
  const Tensor x = draw_frames(random);
  Tensor flow = {.shape = x.shape};
  flow.shape.dim[AXIS_C] = 2;
  if (draw(random, 0, 1)) flow.shape.dim[AXIS_T] = 1;
  const int64_t count = shape_count(flow.shape);
  const bool wild = draw(random, 0, 3) == 0;
  for (int64_t i = 0; i < count && i < 1 << 17; i++) {
    flows[i] = 3 * random_normal(random);
    if (wild && draw(random, 0, 9) == 0)
      flows[i] = (float[]){INFINITY, -INFINITY, NAN, 0x1p40f, -300.25f, 2}[draw(random, 0, 5)];
  }
  if (count <= 1 << 17) test.content[1] = flows;
  test.op.input_count = 2;
  test.op.output_count = 1;
  test.inputs[0] = test.outputs[0] = x;
  test.inputs[1] = flow;
  test.alignment = draw(random, 0, 1) ? 16 : 1;
  return test;
}

Case case_translate(Random *random) {
  static float offsets[6]; /* until the next case */
  Case test = case_new(OP_TRANSLATE);
  const Tensor x = draw_frames(random);
  for (int i = 0; i < 6; i++) {
    offsets[i] = 4 * random_normal(random);
    if (draw(random, 0, 3) == 0) offsets[i] = (float)draw(random, -4, 4) + 0.5f;
    if (draw(random, 0, 15) == 0)
      offsets[i] = (float[]){INFINITY, NAN, -0x1p40f, 1e6f}[draw(random, 0, 3)];
  }
  test.content[1] = offsets;
  test.op.attributes.translate.negated = draw(random, 0, 1);
  test.op.input_count = 2;
  test.op.output_count = 1;
  test.inputs[0] = test.outputs[0] = x;
  test.inputs[1] = (Tensor){.shape = shape_make(x.shape.dim[AXIS_N], 1, 1, 1, 2)};
  test.alignment = draw(random, 0, 1) ? 16 : 1;
  test.tolerance = 1e-30; /* copies */
  return test;
}
