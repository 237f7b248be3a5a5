/* check.h - the smallest C test harness that names what failed.
 *
 * CHECK counts and reports, it never stops the program; main ends with
 * `return check_done();`, whose last line tools/test.sh adds up. */
#ifndef SPEC_CHECK_H
#define SPEC_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static int check_passed, check_failed;

#define CHECK(cond, ...)                                                       \
  do {                                                                         \
    if (cond) {                                                                \
      check_passed++;                                                          \
    } else {                                                                   \
      check_failed++;                                                          \
      printf("%s:%d: %s: ", __FILE__, __LINE__, #cond);                        \
      printf(__VA_ARGS__);                                                     \
      printf("\n");                                                            \
    }                                                                          \
  } while (0)

/* How many times as long things take here: see spec/support/slow.lua. */
static inline int check_slow(void) {
  const char *text = getenv("TIDEMILL_SLOW");
  int times = text != NULL ? atoi(text) : 1;
  return times > 1 ? times : 1;
}

static inline int check_done(void) {
  printf("%d passed, %d failed\n", check_passed, check_failed);
  return check_failed > 0;
}

#endif
