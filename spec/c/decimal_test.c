/* decimal_test.c - decimal.c against tables and against GMP.
 *
 * The random part prints its seed; CHECK_SEED sets another. */
#include <gmp.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "decimal.h"

static uint64_t seed = UINT64_C(20240809);


static uint64_t random_next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}


/* Magnitudes of every size, not only huge ones. */
static decimal random_decimal(void) {
  unsigned __int128 u = (unsigned __int128)random_next() << 64 | random_next();
  u >>= random_next() % 128;
  u %= (unsigned __int128)decimal_power(38);
  return random_next() & 1 ? -(decimal)u : (decimal)u;
}


static void mpz_set_decimal(mpz_t z, decimal v) {
  unsigned __int128 u = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
  uint64_t limb[2] = {(uint64_t)u, (uint64_t)(u >> 64)};
  mpz_import(z, 2, -1, sizeof limb[0], 0, 0, limb);
  if (v < 0)
    mpz_neg(z, z);
}


static void test_parse(void) {
  static const struct {
    const char *text;
    int precision, scale, err;
    const char *want;
  } cases[] = {
      {"61837.63000000", 20, 8, DECIMAL_OK, "61837.63000000"},
      {"61837.63", 20, 8, DECIMAL_OK, "61837.63000000"},
      {"61825.1", 20, 8, DECIMAL_OK, "61825.10000000"},
      {"0", 20, 8, DECIMAL_OK, "0.00000000"},
      {"-0", 20, 8, DECIMAL_OK, "0.00000000"},
      {"-0.0e999999999999999999999", 20, 8, DECIMAL_OK, "0.00000000"},
      {"-1", 20, 8, DECIMAL_OK, "-1.00000000"},
      {"1.2e-05", 20, 8, DECIMAL_OK, "0.00001200"},
      {"1E3", 20, 8, DECIMAL_OK, "1000.00000000"},
      {"1e+3", 20, 8, DECIMAL_OK, "1000.00000000"},
      {"1e-06", 20, 8, DECIMAL_OK, "0.00000100"},
      {"1e-8", 20, 8, DECIMAL_OK, "0.00000001"},
      {"1e-9", 20, 8, DECIMAL_DIGITS, NULL},
      {"10e-9", 20, 8, DECIMAL_OK, "0.00000001"},
      {"0.000000010", 20, 8, DECIMAL_OK, "0.00000001"},
      {"0.000000011", 20, 8, DECIMAL_DIGITS, NULL},
      {"999999999999.99999999", 20, 8, DECIMAL_OK, "999999999999.99999999"},
      {"-999999999999.99999999", 20, 8, DECIMAL_OK, "-999999999999.99999999"},
      {"1000000000000", 20, 8, DECIMAL_RANGE, NULL},
      {"1e12", 20, 8, DECIMAL_RANGE, NULL},
      {"1e11", 20, 8, DECIMAL_OK, "100000000000.00000000"},
      {"1e999999999", 20, 8, DECIMAL_RANGE, NULL},
      {"1e99999999999999999999999999999999", 20, 8, DECIMAL_RANGE, NULL},
      {"1e-99999999999999999999999999999999", 20, 8, DECIMAL_DIGITS, NULL},
      {"0e-99999999999999999999999999999999", 20, 8, DECIMAL_OK, "0.00000000"},
      {"0.5", 4, 4, DECIMAL_OK, "0.5000"},
      {"1.5", 4, 4, DECIMAL_RANGE, NULL},
      {"5", 1, 0, DECIMAL_OK, "5"},
      {"10", 1, 0, DECIMAL_RANGE, NULL},
      {"5.0", 1, 0, DECIMAL_OK, "5"},
      {"5.5", 1, 0, DECIMAL_DIGITS, NULL},
      {"99999999999999999999999999999999999999", 38, 0, DECIMAL_OK,
       "99999999999999999999999999999999999999"},
      {"100000000000000000000000000000000000000", 38, 0, DECIMAL_RANGE, NULL},
      {"0.00000000000000000000000000000000000001", 38, 38, DECIMAL_OK,
       "0.00000000000000000000000000000000000001"},
      {"-123456789012345678901234567890.12345678", 38, 8, DECIMAL_OK,
       "-123456789012345678901234567890.12345678"},
      {"10000000000000000000000000000000000000000000000e-46", 20, 8, DECIMAL_OK,
       "1.00000000"},
      {"18446744073709551615", 38, 0, DECIMAL_OK, "18446744073709551615"},
      {"9999999999999999999", 19, 0, DECIMAL_OK, "9999999999999999999"},
      {"9223372036854775808.5", 38, 8, DECIMAL_OK,
       "9223372036854775808.50000000"},
      {"", 20, 8, DECIMAL_SYNTAX, NULL},
      {"-", 20, 8, DECIMAL_SYNTAX, NULL},
      {"+1", 20, 8, DECIMAL_SYNTAX, NULL},
      {" 1", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1 ", 20, 8, DECIMAL_SYNTAX, NULL},
      {"01", 20, 8, DECIMAL_SYNTAX, NULL},
      {"-01", 20, 8, DECIMAL_SYNTAX, NULL},
      {".5", 20, 8, DECIMAL_SYNTAX, NULL},
      {"5.", 20, 8, DECIMAL_SYNTAX, NULL},
      {"5.e1", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1e", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1e+", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1e1.5", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1,5", 20, 8, DECIMAL_SYNTAX, NULL},
      {"1_000", 20, 8, DECIMAL_SYNTAX, NULL},
      {"NaN", 20, 8, DECIMAL_SYNTAX, NULL},
      {"Infinity", 20, 8, DECIMAL_SYNTAX, NULL},
      {"0x10", 20, 8, DECIMAL_SYNTAX, NULL},
      {"--1", 20, 8, DECIMAL_SYNTAX, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    decimal v = 0;
    char text[DECIMAL_TEXT_MAX];
    int err = decimal_parse(cases[i].text, strlen(cases[i].text),
                            cases[i].precision, cases[i].scale, &v);
    CHECK(err == cases[i].err, "%s gave %d", cases[i].text, err);
    if (err != DECIMAL_OK || cases[i].want == NULL)
      continue;
    size_t len = decimal_format(v, cases[i].scale, text);
    CHECK(strcmp(text, cases[i].want) == 0 && len == strlen(text),
          "%s became %s", cases[i].text, text);
  }
}


/* A megabyte of digits is read once and costs no memory. */
static void test_parse_long(void) {
  enum { LONG = 1000000 };
  char *text = malloc(LONG + 2);
  decimal v = 0;
  memset(text, '0', LONG);
  text[1] = '.';
  text[LONG - 1] = '1';
  CHECK(decimal_parse(text, LONG, 38, 38, &v) == DECIMAL_DIGITS, "tiny");
  text[LONG - 1] = '0';
  CHECK(decimal_parse(text, LONG, 38, 38, &v) == DECIMAL_OK && v == 0, "zeros");
  memset(text, '9', LONG);
  CHECK(decimal_parse(text, LONG, 38, 0, &v) == DECIMAL_RANGE, "huge");
  memset(text, '0', LONG);
  text[0] = '7';
  memcpy(text + LONG - 8, "e-999990", 8);
  CHECK(decimal_parse(text, LONG, 20, 8, &v) == DECIMAL_OK && v == 7000000000,
        "7 followed by zeros and a large negative exponent");
  free(text);
}


static void test_average(void) {
  static const struct {
    decimal sum;
    int64_t count;
    int from, to, err;
    decimal want;
  } cases[] = {
      {10, 4, 0, 0, DECIMAL_OK, 3}, /* 2.5 */
      {-10, 4, 0, 0, DECIMAL_OK, -3},
      {9, 4, 0, 0, DECIMAL_OK, 2}, /* 2.25 */
      {10, 3, 0, 8, DECIMAL_OK, 333333333},
      {20, 3, 0, 8, DECIMAL_OK, 666666667},
      {1, 2, 8, 8, DECIMAL_OK, 1}, /* half of the last place */
      {-1, 2, 8, 8, DECIMAL_OK, -1},
      {1, 3, 8, 8, DECIMAL_OK, 0},
      {149, 1, 2, 0, DECIMAL_OK, 1},
      {150, 1, 2, 0, DECIMAL_OK, 2},
      {-150, 1, 2, 0, DECIMAL_OK, -2},
      {449, 3, 2, 0, DECIMAL_OK, 1}, /* 1.4966..: once, not by way of 1.5 */
      {450, 3, 2, 0, DECIMAL_OK, 2},
      {0, INT64_MAX, 8, 38, DECIMAL_OK, 0},
      {1, 1, 0, 38, DECIMAL_RANGE, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    decimal v = 0;
    int err = decimal_average(cases[i].sum, cases[i].count, cases[i].from,
                              cases[i].to, &v);
    CHECK(err == cases[i].err, "case %zu gave %d", i, err);
    CHECK(v == cases[i].want, "case %zu gave %lld", i, (long long)v);
  }
}


/* round(n / d) half away from zero, by GMP. */
static void mpz_round(mpz_t q, const mpz_t n, const mpz_t d) {
  mpz_t a, twice;
  mpz_inits(a, twice, NULL);
  mpz_abs(a, n);
  mpz_mul_2exp(a, a, 1);
  mpz_add(a, a, d);
  mpz_mul_2exp(twice, d, 1);
  mpz_fdiv_q(q, a, twice);
  if (mpz_sgn(n) < 0)
    mpz_neg(q, q);
  mpz_clears(a, twice, NULL);
}


static void test_average_random(void) {
  mpz_t n, d, q, got, limit;
  mpz_inits(n, d, q, got, limit, NULL);
  mpz_ui_pow_ui(limit, 10, 38);
  int wrong = 0, ties = 0;
  for (int i = 0; i < 200000; i++) {
    decimal sum = random_decimal(), out = 0;
    int64_t count = (int64_t)(random_next() >> (random_next() % 63 + 1));
    if (count == 0)
      count = 1;
    int from = (int)(random_next() % 39), to = (int)(random_next() % 39);
    if (i % 4 == 0) {
      /* An exact half, or one off it. */
      count = (int64_t)(random_next() % 1000 + 1) * 2;
      to = from;
      sum = (sum % decimal_power(30)) * count + count / 2 - (i % 8 == 0);
      ties += i % 8 != 0;
    }
    int err = decimal_average(sum, count, from, to, &out);
    mpz_set_decimal(n, sum);
    mpz_set_si(d, count);
    mpz_ui_pow_ui(q, 10, (unsigned long)(to > from ? to - from : from - to));
    if (to > from)
      mpz_mul(n, n, q);
    else
      mpz_mul(d, d, q);
    mpz_round(q, n, d);
    mpz_set_decimal(got, out);
    if (mpz_cmpabs(q, limit) >= 0)
      wrong += err != DECIMAL_RANGE;
    else
      wrong += err != DECIMAL_OK || mpz_cmp(q, got) != 0;
  }
  CHECK(wrong == 0, "%d of 200000 averages differ from GMP", wrong);
  CHECK(ties == 25000, "%d exact halves were tried", ties);
  mpz_clears(n, d, q, got, limit, NULL);
}


/* What is written is read back, and is what GMP writes. */
static void test_format_random(void) {
  mpz_t z;
  mpz_init(z);
  int wrong = 0;
  for (int i = 0; i < 100000; i++) {
    decimal v = random_decimal(), back = 0;
    int scale = (int)(random_next() % 39);
    char text[DECIMAL_TEXT_MAX], whole[DECIMAL_TEXT_MAX];
    size_t len = decimal_format(v, scale, text);
    wrong +=
        decimal_parse(text, len, 38, scale, &back) != DECIMAL_OK || back != v;
    decimal_format(v, 0, whole);
    mpz_set_decimal(z, v);
    char *want = mpz_get_str(NULL, 10, z);
    wrong += strcmp(whole, want) != 0;
    free(want);
  }
  CHECK(wrong == 0, "%d of 100000 texts differ", wrong);
  mpz_clear(z);
}


static void test_add(void) {
  decimal max = decimal_power(38) - 1, v = 7;
  CHECK(decimal_add(max, 1, &v) == DECIMAL_RANGE && v == 7, "over");
  CHECK(decimal_add(-max, -1, &v) == DECIMAL_RANGE && v == 7, "under");
  CHECK(decimal_add(max, max, &v) == DECIMAL_RANGE, "over 128 bits");
  CHECK(decimal_add(max, -max, &v) == DECIMAL_OK && v == 0, "to zero");
  CHECK(decimal_add(max - 1, 1, &v) == DECIMAL_OK && v == max, "to the limit");
}


static void test_rescale(void) {
  decimal v = 0;
  CHECK(decimal_rescale(15, 1, 0, &v) == DECIMAL_OK && v == 2, "1.5");
  CHECK(decimal_rescale(-25, 1, 0, &v) == DECIMAL_OK && v == -3, "-2.5");
  CHECK(decimal_rescale(14, 1, 0, &v) == DECIMAL_OK && v == 1, "1.4");
  CHECK(decimal_rescale(5, 0, 8, &v) == DECIMAL_OK && v == 500000000, "5");
  CHECK(decimal_rescale(decimal_power(37), 0, 1, &v) == DECIMAL_RANGE, "10^38");
}


int main(void) {
  const char *given = getenv("CHECK_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0) | 1;
  printf("decimal_test: seed %llu\n", (unsigned long long)seed);
  test_parse();
  test_parse_long();
  test_average();
  test_average_random();
  test_format_random();
  test_add();
  test_rescale();
  return check_done();
}
