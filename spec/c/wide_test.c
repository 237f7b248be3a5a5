/* wide_test.c - 384-bit sums against GMP, and their limits. */
#include <gmp.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "wide.h"

static uint64_t seed = UINT64_C(20240810);


static uint64_t random_next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}


static decimal random_decimal(void) {
  unsigned __int128 u = (unsigned __int128)random_next() << 64 | random_next();
  u >>= 1 + random_next() % 127;
  return random_next() & 1 ? -(decimal)u : (decimal)u;
}


static void mpz_set_decimal(mpz_t z, decimal v) {
  unsigned __int128 u = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
  uint64_t limb[2] = {(uint64_t)u, (uint64_t)(u >> 64)};
  mpz_import(z, 2, -1, sizeof limb[0], 0, 0, limb);
  if (v < 0)
    mpz_neg(z, z);
}


/* Sums of random products; every overflow must be told and change nothing. */
static void test_random(void) {
  mpz_t sum, next, a, b, limit;
  mpz_inits(sum, next, a, b, limit, NULL);
  mpz_ui_pow_ui(limit, 2, 64 * WIDE_LIMBS - 1);
  struct wide acc = {{0}};
  int wrong = 0, overflows = 0;
  for (int i = 0; i < 200000; i++) {
    decimal x = random_decimal(), y = random_decimal();
    mpz_set_decimal(a, x);
    mpz_set_decimal(b, y);
    mpz_mul(a, a, b);
    mpz_add(next, sum, a);
    wrong += wide_add_product(&acc, x, y) != 0;
    mpz_set(sum, next);
    if (i % 100 == 0) { /* towards an overflow, which products alone never do */
      struct wide same = acc;
      mpz_mul_2exp(next, sum, 1);
      int fits = mpz_cmpabs(next, limit) < 0;
      overflows += !fits;
      wrong += wide_add(&acc, &same) != (fits ? 0 : -1);
      if (fits)
        mpz_set(sum, next);
    }
    char text[WIDE_TEXT_MAX];
    size_t len = wide_format(&acc, 0, text);
    char *want = mpz_get_str(NULL, 10, sum);
    wrong += strcmp(text, want) != 0 || len != strlen(want);
    free(want);
  }
  CHECK(wrong == 0, "%d of 200000 sums differ from GMP", wrong);
  CHECK(overflows > 100, "%d overflows were tried", overflows);
  mpz_clears(sum, next, a, b, limit, NULL);
}


static void test_limits(void) {
  struct wide low = {{0}}, minus, one = {{1}};
  low.limb[WIDE_LIMBS - 1] = UINT64_C(1) << 63;
  memset(&minus, 0xFF, sizeof minus);
  char text[WIDE_TEXT_MAX];
  wide_format(&low, 0, text);
  CHECK(strcmp(text,
               "-19701003098197239606139520050071806902539869635232723333974"
               "146702122860885748605305707133127442457820403313995153408") ==
            0,
        "%s", text);
  CHECK(wide_add(&low, &minus) == -1, "below the least value");
  CHECK(wide_add(&low, &one) == 0, "up from the least value");
  CHECK(wide_add(&minus, &one) == 0, "-1 + 1");
  wide_format(&minus, 3, text);
  CHECK(strcmp(text, "0.000") == 0, "%s", text);
}


/* Products of 38 digits each: the sixth went beyond the 256 bits of old. */
static void test_largest(void) {
  struct wide acc = {{0}};
  mpz_t sum, square;
  decimal most = 1;
  for (int i = 0; i < 38; i++)
    most *= 10;
  most--;
  mpz_inits(sum, square, NULL);
  mpz_set_decimal(square, most);
  mpz_mul(square, square, square);
  int wrong = 0;
  for (int i = 0; i < 1000; i++) {
    char text[WIDE_TEXT_MAX];
    wrong += wide_add_product(&acc, most, i % 10 == 9 ? -most : most) != 0;
    if (i % 10 == 9)
      mpz_sub(sum, sum, square);
    else
      mpz_add(sum, sum, square);
    wide_format(&acc, 0, text);
    char *want = mpz_get_str(NULL, 10, sum);
    wrong += strcmp(text, want) != 0;
    free(want);
  }
  CHECK(wrong == 0, "%d sums of the largest products are wrong", wrong);
  mpz_clears(sum, square, NULL);
}


static void test_format(void) {
  static const struct {
    decimal a, b;
    int scale;
    const char *want;
  } cases[] = {
      {0, 0, 0, "0"},
      {0, 0, 16, "0.0000000000000000"},
      {-1, 1, 16, "-0.0000000000000001"},
      {61837630000000, 100000000, 16, "618376.3000000000000000"},
      {3, 4, 0, "12"},
      {-3, -4, 1, "1.2"},
      {-1, 1, 76,
       "-0.0000000000000000000000000000000000000000000000000000000000000000000"
       "000000001"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wide w = {{0}};
    char text[WIDE_TEXT_MAX];
    wide_add_product(&w, cases[i].a, cases[i].b);
    wide_format(&w, cases[i].scale, text);
    CHECK(strcmp(text, cases[i].want) == 0, "case %zu: %s", i, text);
  }
}


int main(void) {
  const char *given = getenv("CHECK_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0) | 1;
  printf("wide_test: seed %llu\n", (unsigned long long)seed);
  test_random();
  test_limits();
  test_largest();
  test_format();
  return check_done();
}
