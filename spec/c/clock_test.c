/* clock_test.c - the clock unit: fixing, releasing and moving time. */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "clock_core.h"


static int64_t real_ms(void) {
  return (int64_t)time(NULL) * 1000;
}


static int near_real(int64_t ms) {
  return llabs(ms - real_ms()) < 5000;
}


static void test_fix(void) {
  CHECK(near_real(clock_wall_now().ms), "%" PRId64, clock_wall_now().ms);
  clock_wall_fix(-1);
  CHECK(clock_wall_now().ms == -1, "before the epoch");
  clock_wall_fix(INT64_C(1723161255342));
  CHECK(clock_wall_now().ms == INT64_C(1723161255342), "fixed");
  clock_wall_release();
  CHECK(near_real(clock_wall_now().ms), "%" PRId64, clock_wall_now().ms);
}


static void test_advance(void) {
  struct clock_mono before = clock_mono_now();
  clock_advance(3600000);
  CHECK(clock_mono_now().us - before.us >= INT64_C(3600000000), "mono moved");
  CHECK(near_real(clock_wall_now().ms - 3600000), "wall moved");
  clock_wall_release();
  CHECK(near_real(clock_wall_now().ms), "released");
  CHECK(clock_mono_now().us - before.us >= INT64_C(3600000000),
        "mono never goes back");
  clock_wall_fix(1000);
  clock_advance(500);
  CHECK(clock_wall_now().ms == 1500, "a fixed clock moves too");
  clock_wall_release();
}


static void test_shift(void) {
  struct clock_mono before = clock_mono_now();
  clock_wall_fix(1000);
  clock_wall_shift(-3600000);
  CHECK(near_real(clock_wall_now().ms + 3600000), "set back, and it runs");
  CHECK(clock_mono_now().us - before.us < INT64_C(60000000), "wall alone");
  clock_wall_shift(5000);
  CHECK(near_real(clock_wall_now().ms - 5000), "not added to the last");
  clock_wall_shift(0);
  CHECK(near_real(clock_wall_now().ms), "back again");
}


static void test_monotonic(void) {
  struct clock_mono last = clock_mono_now();
  int back = 0;
  for (int i = 0; i < 100000; i++) {
    struct clock_mono now = clock_mono_now();
    back += now.us < last.us;
    last = now;
  }
  CHECK(back == 0, "%d steps back", back);
}


int main(void) {
  test_fix();
  test_advance();
  test_shift();
  test_monotonic();
  return check_done();
}
