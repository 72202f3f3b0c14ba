#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host.h"

static void name_is_that_of_the_system(void **state) {
  (void)state;
  char name[HOST_NAME_SIZE], expected[256] = "";
  memset(name, 0x55, sizeof name);
  host_name(name);
  assert_non_null(memchr(name, '\0', sizeof name));
  assert_true(name[0] != '\0');
  if (gethostname(expected, sizeof expected - 1) != 0 || !expected[0]) strcpy(expected, "unknown");
  assert_int_equal(strncmp(name, expected, HOST_NAME_SIZE - 1), 0);
}

static void processors_follow_the_affinity_mask(void **state) {
  (void)state;
  cpu_set_t before, one;
  assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
  cpu_set_t set = host_processor_set();
  assert_true(CPU_EQUAL(&set, &before));
  assert_int_equal(host_processor_count(), CPU_COUNT(&before));
  size_t first = 0;
  while (!CPU_ISSET(first, &before)) first++;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  set = host_processor_set();
  int count = host_processor_count();
  assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
  assert_true(CPU_EQUAL(&set, &one));
  assert_int_equal(count, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(name_is_that_of_the_system),
      cmocka_unit_test(processors_follow_the_affinity_mask),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
