/* The mask of reliable optical flow against values computed by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/flow/visibility.h"

enum { FLOW_H = 6, FLOW_W = 8, FLOW_PIXELS = FLOW_H * FLOW_W };

static void fill_flow(float *flow, float dx, float dy) {
  for (int i = 0; i < FLOW_PIXELS; i++) {
    flow[2 * i] = dx;
    flow[2 * i + 1] = dy;
  }
}

static void test_visible_where_forward_and_backward_flow_cancel(void **state) {
  (void)state;
  float forward[2 * FLOW_PIXELS], backward[2 * FLOW_PIXELS];
  uint8_t visible[FLOW_PIXELS];
  fill_flow(forward, 1, 0);
  fill_flow(backward, -1, 0);
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS);
  /* |f + b|^2 = s^2 against 0.01 (1 + (1 - s)^2) + 0.5: s = 0.71 still passes, 0.72 does not. */
  fill_flow(backward, -0.29F, 0);
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS);
  fill_flow(backward, -0.28F, 0);
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), 0);
  /* The backward flow of one pixel disagrees: the pixel that ends there is occluded. */
  fill_flow(backward, -1, 0);
  backward[2 * (2 * FLOW_W + 4) + 1] = 3;
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS - 1);
  assert_int_equal(visible[2 * FLOW_W + 3], 0);
}

static void test_motion_boundaries_are_not_visible(void **state) {
  (void)state;
  float forward[2 * FLOW_PIXELS], backward[2 * FLOW_PIXELS];
  uint8_t visible[FLOW_PIXELS];
  fill_flow(forward, 0, 0);
  fill_flow(backward, 0, 0);
  /* Squared gradient against 0.002 for one moving pixel: 2 d^2 at the pixel, d^2 at its left and
   * upper neighbours. */
  forward[2 * (3 * FLOW_W + 5)] = 0.03F;
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS);
  forward[2 * (3 * FLOW_W + 5)] = 0.04F;
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS - 1);
  forward[2 * (3 * FLOW_W + 5)] = 0.05F;
  assert_int_equal(flow_visibility(forward, backward, FLOW_H, FLOW_W, visible), FLOW_PIXELS - 3);
  assert_int_equal(visible[3 * FLOW_W + 5] + visible[3 * FLOW_W + 4] + visible[2 * FLOW_W + 5], 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_visible_where_forward_and_backward_flow_cancel),
      cmocka_unit_test(test_motion_boundaries_are_not_visible),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
