#include "data/flow/visibility.h"

#include <stdbool.h>

static double clamp(double position, int size) {
  return position > 0 ? (position < size - 1 ? position : size - 1) : 0;
}

static FlowEndpoint around(double x, double y, int height, int width) {
  x = clamp(x, width);
  y = clamp(y, height);
  int left = (int)x, top = (int)y, right = left + (left < width - 1),
      low = top + (top < height - 1);
  double across = x - left, down = y - top;
  size_t above = (size_t)top * (size_t)width, below = (size_t)low * (size_t)width;
  return (FlowEndpoint){
      .at = {above + (size_t)left, above + (size_t)right, below + (size_t)left,
             below + (size_t)right},
      .weights = {(1 - across) * (1 - down), across * (1 - down), (1 - across) * down,
                  across * down},
  };
}

FlowEndpoint flow_endpoint(const float *flow, int y, int x, int height, int width) {
  const float *f = flow + 2 * ((size_t)y * (size_t)width + (size_t)x);
  return around((double)x + f[0], (double)y + f[1], height, width);
}

static bool is_consistent(const float *forward, const float *backward, int y, int x, int height,
                          int width) {
  const float *f = forward + 2 * ((size_t)y * (size_t)width + (size_t)x);
  FlowEndpoint there = flow_endpoint(forward, y, x, height, width);
  double b[2] = {0}, both = 0, each = 0;
  for (int c = 0; c < 2; c++) {
    for (int i = 0; i < 4; i++) b[c] += there.weights[i] * backward[2 * there.at[i] + (size_t)c];
    both += (f[c] + b[c]) * (f[c] + b[c]);
    each += (double)f[c] * f[c] + b[c] * b[c];
  }
  return both <= 0.01 * each + 0.5;
}

/* The gradient by differences to the right and below; 0 in the last column and row. */
static bool is_smooth(const float *forward, int y, int x, int height, int width) {
  const float *f = forward + 2 * ((size_t)y * (size_t)width + (size_t)x);
  double gradient = 0, length = 0;
  for (int c = 0; c < 2; c++) {
    double across = x < width - 1 ? (double)f[2 + c] - f[c] : 0;
    double down = y < height - 1 ? (double)f[2 * width + c] - f[c] : 0;
    gradient += across * across + down * down;
    length += (double)f[c] * f[c];
  }
  return gradient <= 0.01 * length + 0.002;
}

int64_t flow_visibility(const float *forward, const float *backward, int height, int width,
                        uint8_t *visible) {
  int64_t count = 0;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      bool reliable = is_smooth(forward, y, x, height, width) &&
                      is_consistent(forward, backward, y, x, height, width);
      visible[(size_t)y * (size_t)width + (size_t)x] = reliable;
      count += reliable;
    }
  return count;
}
