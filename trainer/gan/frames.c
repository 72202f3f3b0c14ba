/* Frames as networks read them (trainer/gan/networks.h). */
#include "trainer/gan/networks.h"

Value frames_normalize(Graph *graph, Value frames, DType dtype) {
  Value x = graph_affine(graph, graph_cast(graph, frames, DTYPE_F32), 1 / 127.5f, -1);
  return graph_cast(graph, x, dtype);
}

Value frames_channel(Graph *graph, Value frames, int index) {
  Shape size = graph_shape(graph, frames);
  size.dim[AXIS_C] = 1;
  return graph_slice(graph, frames, shape_make(0, 0, 0, 0, index), size);
}

Value frames_upsample(Graph *graph, Value frames, int64_t height, int64_t width) {
  Shape shape = graph_shape(graph, frames);
  if (shape.dim[AXIS_H] == height && shape.dim[AXIS_W] == width) return frames;
  return graph_resize(graph, frames, height, width, RESIZE_BILINEAR);
}
