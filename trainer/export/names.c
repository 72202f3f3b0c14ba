#include "trainer/export/names.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* Lists of layers: "block3." becomes "blocks.3.". */
static const struct {
  const char *ours, *list;
} LISTS[] = {{"block", "blocks"}, {"refine", "refinements"}};

char *export_name(const char *name) {
  const char *gain = strstr(name, "norm.gain");
  int stem = gain ? (int)(gain - name) : (int)strlen(name);
  const char *end = gain ? "norm.weight" : "";
  for (size_t i = 0; i < sizeof LISTS / sizeof *LISTS; i++) {
    const char *found = strstr(name, LISTS[i].ours);
    const char *digits = found ? found + strlen(LISTS[i].ours) : "";
    int number = 0, length = 0;
    if (sscanf(digits, "%d.%n", &number, &length) != 1 || length == 0) continue;
    int before = (int)(found - name), after = (int)(digits - name) + length;
    return mem_format("%.*s%s.%d.%.*s%s", before, name, LISTS[i].list, number, stem - after,
                      name + after, end);
  }
  return mem_format("%.*s%s", stem, name, end);
}

/* [O,T,H,W,I] becomes [O,I,T,H,W]; the [I,T,H,W,O] of a transposed convolution [I,O,T,H,W]. */
void export_values(const Parameter *parameter, const float *from, float *to) {
  Shape shape = parameter->shape;
  int64_t positions = shape.dim[AXIS_T] * shape.dim[AXIS_H] * shape.dim[AXIS_W];
  int64_t inputs = shape.dim[AXIS_C];
  for (int64_t o = 0; o < shape.dim[AXIS_N]; o++) {
    const float *filter = from + o * positions * inputs;
    for (int64_t i = 0; i < inputs; i++) {
      for (int64_t position = 0; position < positions; position++)
        *to++ = filter[position * inputs + i];
    }
  }
}

NamedTensor export_tensor(const Parameter *parameter, const float *values) {
  Shape shape = parameter->shape;
  NamedTensor tensor = {.name = export_name(parameter->name), .type = TENSOR_F32, .data = values};
  bool vector = parameter->count == shape.dim[AXIS_C];
  if (vector) {
    tensor.rank = 1;
    tensor.shape[0] = shape.dim[AXIS_C];
    return tensor;
  }
  static const int ORDER[RANK] = {AXIS_N, AXIS_C, AXIS_T, AXIS_H, AXIS_W};
  tensor.rank = RANK;
  for (int i = 0; i < RANK; i++) tensor.shape[i] = shape.dim[ORDER[i]];
  return tensor;
}
