/* exact_test.c - exact.c against tables, and against what its results mean.
 *
 * A rounded quotient or root is right when it is the one number of its scale
 * within half a unit of the last place; that is checked with GMP's rationals
 * and no division or root of ours. */
#include <gmp.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "decimal.h"
#include "exact.h"

static uint64_t seed = UINT64_C(20240811);


static uint64_t random_next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}


static void test_binary(void) {
  static const struct {
    int (*op)(const char *, const char *, char *, size_t);
    const char *a, *b, *want;
    int err;
  } cases[] = {
      {exact_add, "1.5", "2.25", "3.75", EXACT_OK},
      {exact_add, "0.1", "0.2", "0.3", EXACT_OK},
      {exact_add, "99999999999999999999999999999999999999", "1",
       "100000000000000000000000000000000000000", EXACT_OK},
      {exact_add, "-0.5", "0.50", "0.00", EXACT_OK},
      {exact_sub, "1", "1.000", "0.000", EXACT_OK},
      {exact_sub, "0", "0.001", "-0.001", EXACT_OK},
      {exact_mul, "-1.5", "0.02", "-0.030", EXACT_OK},
      {exact_mul, "1e3", "1.5e-3", "1.5000", EXACT_OK},
      {exact_add, "0e999999", "1", "1", EXACT_OK},
      {exact_add, "1e1001", "1", NULL, EXACT_SPACE},
      {exact_add, "1e-1001", "1", NULL, EXACT_SPACE},
      {exact_add, "", "1", NULL, EXACT_SYNTAX},
      {exact_add, "1", "1 ", NULL, EXACT_SYNTAX},
      {exact_add, "0x1", "1", NULL, EXACT_SYNTAX},
      {exact_add, "1", "NaN", NULL, EXACT_SYNTAX},
      {exact_mul, "1.", "1", NULL, EXACT_SYNTAX},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[EXACT_TEXT_MAX] = "untouched";
    int err = cases[i].op(cases[i].a, cases[i].b, out, sizeof out);
    const char *want = cases[i].want != NULL ? cases[i].want : "untouched";
    CHECK(err == cases[i].err && strcmp(out, want) == 0,
          "%s and %s gave %d, %s", cases[i].a, cases[i].b, err, out);
  }
}


static void test_ratio(void) {
  static const struct {
    const char *n, *d;
    int scale, err;
    const char *want;
  } cases[] = {
      {"1", "3", 8, EXACT_OK, "0.33333333"},
      {"2", "3", 8, EXACT_OK, "0.66666667"},
      {"-2", "3", 8, EXACT_OK, "-0.66666667"},
      {"2", "-3", 8, EXACT_OK, "-0.66666667"},
      {"-2", "-3", 8, EXACT_OK, "0.66666667"},
      {"0.00000001", "2", 8, EXACT_OK, "0.00000001"},
      {"-0.00000001", "2", 8, EXACT_OK, "-0.00000001"},
      {"0.00000001", "2.0000000001", 8, EXACT_OK, "0.00000000"},
      {"-0.00000001", "2.0000000001", 8, EXACT_OK, "0.00000000"},
      {"5", "2", 0, EXACT_OK, "3"},
      {"-5", "2", 0, EXACT_OK, "-3"},
      {"1", "0.001", 2, EXACT_OK, "1000.00"},
      {"0", "7", 3, EXACT_OK, "0.000"},
      {"1", "0", 2, EXACT_ZERO, NULL},
      {"1", "0.000", 2, EXACT_ZERO, NULL},
      {"0", "0", 2, EXACT_ZERO, NULL},
      {"1", "3", -1, EXACT_SPACE, NULL},
      {"1", "3", EXACT_DIGITS_MAX + 1, EXACT_SPACE, NULL},
      {"x", "3", 2, EXACT_SYNTAX, NULL},
      {"3", "", 2, EXACT_SYNTAX, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[EXACT_TEXT_MAX] = "untouched";
    int err =
        exact_ratio(cases[i].n, cases[i].d, cases[i].scale, out, sizeof out);
    const char *want = cases[i].want != NULL ? cases[i].want : "untouched";
    CHECK(err == cases[i].err && strcmp(out, want) == 0, "%s / %s gave %d, %s",
          cases[i].n, cases[i].d, err, out);
  }
}


static void test_stddev(void) {
  static const struct {
    const char *n, *sum, *squares;
    int sample, scale, err;
    const char *want;
  } cases[] = {
      {"4", "10", "30", 0, 8, EXACT_OK, "1.11803399"},
      {"4", "10", "30", 1, 8, EXACT_OK, "1.29099445"},
      {"4.00", "10.0", "30.000", 1, 8, EXACT_OK, "1.29099445"},
      {"1", "5", "25", 0, 8, EXACT_OK, "0.00000000"},
      {"1", "5", "25", 1, 8, EXACT_ZERO, NULL},
      {"0", "0", "0", 0, 8, EXACT_ZERO, NULL},
      {"-1", "0", "0", 0, 8, EXACT_ZERO, NULL},
      {"2", "0", "0.5", 0, 1, EXACT_OK, "0.5"}, /* 0.5 and -0.5 */
      {"2", "0", "0.5", 0, 0, EXACT_OK, "1"},   /* a tie goes up */
      {"2", "0", "0.4999", 0, 0, EXACT_OK, "0"},
      {"2", "2", "1.99999999", 0, 8, EXACT_NEGATIVE, NULL},
      {"2.5", "1", "1", 0, 8, EXACT_SYNTAX, NULL},
      {"two", "1", "1", 0, 8, EXACT_SYNTAX, NULL},
      {"3", "1", "", 0, 8, EXACT_SYNTAX, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[EXACT_TEXT_MAX] = "untouched";
    int err = exact_stddev(cases[i].n, cases[i].sum, cases[i].squares,
                           cases[i].sample, cases[i].scale, out, sizeof out);
    const char *want = cases[i].want != NULL ? cases[i].want : "untouched";
    CHECK(err == cases[i].err && strcmp(out, want) == 0, "case %zu gave %d, %s",
          i, err, out);
  }
}


static void test_round_and_compare(void) {
  static const char *const rounds[][3] = {
      {"2.5", "0", "3"},
      {"-2.5", "0", "-3"},
      {"2.4999999", "0", "2"},
      {"0.005", "2", "0.01"},
      {"-0.004", "2", "0.00"},
      {"1e-3", "2", "0.00"},
      {"7", "3", "7.000"},
      {"9.995", "2", "10.00"},
      {"61837.63", "8", "61837.63000000"},
  };
  for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++) {
    char out[EXACT_TEXT_MAX];
    int err = exact_round(rounds[i][0], atoi(rounds[i][1]), out, sizeof out);
    CHECK(err == EXACT_OK && strcmp(out, rounds[i][2]) == 0, "%s became %s",
          rounds[i][0], out);
  }
  int order = 9;
  CHECK(exact_compare("1.50", "1.5", &order) == 0 && order == 0, "equal");
  CHECK(exact_compare("-2", "1e-9", &order) == 0 && order == -1, "less");
  CHECK(exact_compare("1e3", "999.9", &order) == 0 && order == 1, "more");
  CHECK(exact_compare("1", "x", &order) == EXACT_SYNTAX, "no number");
}


/* A result that does not fit is refused, not cut. */
static void test_space(void) {
  char out[8] = "before";
  CHECK(exact_ratio("1", "3", 5, out, sizeof out) == EXACT_OK &&
            strcmp(out, "0.33333") == 0,
        "%s", out);
  CHECK(exact_ratio("1", "3", 6, out, sizeof out) == EXACT_SPACE, "1/3");
  CHECK(exact_ratio("-1", "3", 5, out, sizeof out) == EXACT_SPACE, "-1/3");
  CHECK(strcmp(out, "0.33333") == 0, "%s", out);
  char *many = malloc(EXACT_DIGITS_MAX + 2), *room = malloc(EXACT_TEXT_MAX);
  memset(many, '9', EXACT_DIGITS_MAX + 1);
  many[EXACT_DIGITS_MAX + 1] = '\0';
  CHECK(exact_mul(many, "1", room, EXACT_TEXT_MAX) == EXACT_SPACE, "1001");
  many[EXACT_DIGITS_MAX] = '\0';
  CHECK(exact_mul(many, many, room, EXACT_TEXT_MAX) == EXACT_OK, "1000");
  CHECK(strlen(room) == 2 * EXACT_DIGITS_MAX, "%zu digits", strlen(room));
  CHECK(exact_ratio(many, "1e-1000", 1000, room, EXACT_TEXT_MAX) == EXACT_OK,
        "the longest quotient");
  free(many);
  free(room);
}


/* Random decimal text; returns it in `out`, its value in `q`. */
static void random_text(char *out, mpq_t q) {
  unsigned digits = (unsigned)(random_next() % 30 + 1);
  unsigned scale = (unsigned)(random_next() % 12);
  char *p = out;
  mpz_t z;
  mpz_init(z);
  if (random_next() & 1)
    *p++ = '-';
  *p++ = (char)('1' + random_next() % 9);
  for (unsigned i = 1; i < digits; i++)
    *p++ = (char)('0' + random_next() % 10);
  *p = '\0';
  mpz_set_str(mpq_numref(q), out, 10);
  mpz_ui_pow_ui(mpq_denref(q), 10, scale);
  mpq_canonicalize(q);
  if (scale > 0) {
    /* Write the same digits with the point in them. */
    char *first = out + (*out == '-');
    size_t n = (size_t)(p - first);
    if (n <= scale) {
      size_t pad = scale + 1 - n;
      memmove(first + pad, first, n + 1);
      memset(first, '0', pad);
      n += pad;
    }
    memmove(first + n - scale + 1, first + n - scale, scale + 1);
    first[n - scale] = '.';
  }
  mpz_clear(z);
}


/* The value of `text`, which has exactly `scale` digits after the point. */
static int text_value(const char *text, int scale, mpq_t q) {
  char digits[EXACT_TEXT_MAX];
  const char *point = strchr(text, '.');
  size_t n = 0;
  if (scale > 0 ? point == NULL || strlen(point + 1) != (size_t)scale
                : point != NULL)
    return -1;
  for (const char *p = text; *p != '\0'; p++)
    if (*p != '.')
      digits[n++] = *p;
  digits[n] = '\0';
  if (mpz_set_str(mpq_numref(q), digits, 10) != 0)
    return -1;
  mpz_ui_pow_ui(mpq_denref(q), 10, (unsigned long)scale);
  mpq_canonicalize(q);
  return 0;
}


/* 1 / (2 * 10^scale) */
static void half_unit(mpq_t q, int scale) {
  mpz_set_ui(mpq_numref(q), 1);
  mpz_ui_pow_ui(mpq_denref(q), 10, (unsigned long)scale);
  mpz_mul_ui(mpq_denref(q), mpq_denref(q), 2);
}


static void test_ratio_random(void) {
  mpq_t n, d, r, half;
  mpq_inits(n, d, r, half, NULL);
  int wrong = 0;
  for (int i = 0; i < 50000; i++) {
    char a[64], b[64], out[EXACT_TEXT_MAX];
    int scale = (int)(random_next() % 20);
    random_text(a, n);
    random_text(b, d);
    if (exact_ratio(a, b, scale, out, sizeof out) != EXACT_OK ||
        text_value(out, scale, r) != 0) {
      wrong++;
      continue;
    }
    mpq_div(n, n, d);
    mpq_abs(n, n);
    mpq_abs(r, r);
    mpq_sub(n, n, r); /* -half < exact - rounded is refused at -half itself */
    half_unit(half, scale);
    int below = mpq_cmp(n, half) < 0;
    mpq_neg(half, half);
    wrong += !below || mpq_cmp(n, half) < 0;
  }
  CHECK(wrong == 0, "%d of 50000 quotients are not the nearest", wrong);
  mpq_clears(n, d, r, half, NULL);
}


/* (r - half)^2 <= variance < (r + half)^2 */
static int stddev_right(const mpq_t variance, const mpq_t r, int scale) {
  mpq_t half, edge;
  mpq_inits(half, edge, NULL);
  half_unit(half, scale);
  mpq_add(edge, r, half);
  mpq_mul(edge, edge, edge);
  int ok = mpq_cmp(variance, edge) < 0;
  mpq_sub(edge, r, half);
  if (mpq_sgn(edge) > 0) {
    mpq_mul(edge, edge, edge);
    ok = ok && mpq_cmp(variance, edge) >= 0;
  }
  mpq_clears(half, edge, NULL);
  return ok;
}


/* Values as they come in windows: sums are formed by decimal.c's types. */
static void test_stddev_random(void) {
  mpq_t variance, mean, r, x;
  mpq_inits(variance, mean, r, x, NULL);
  int wrong = 0;
  for (int i = 0; i < 5000; i++) {
    int count = (int)(random_next() % 40 + 2), sample = i & 1;
    int scale = (int)(random_next() % 12);
    decimal sum = 0, squares = 0;
    int64_t values[64];
    for (int k = 0; k < count; k++) {
      values[k] =
          (int64_t)(random_next() % 100000000) * (i % 3 == 0 ? 1000 : 1);
      sum += values[k];
      squares += (decimal)values[k] * values[k];
    }
    /* Two passes over the values, as the definition has it. */
    mpq_set_ui(mean, 0, 1);
    for (int k = 0; k < count; k++) {
      mpq_set_si(x, values[k], 1);
      mpq_add(mean, mean, x);
    }
    mpq_set_si(x, count, 1);
    mpq_div(mean, mean, x);
    mpq_set_ui(variance, 0, 1);
    for (int k = 0; k < count; k++) {
      mpq_set_si(x, values[k], 1);
      mpq_sub(x, x, mean);
      mpq_mul(x, x, x);
      mpq_add(variance, variance, x);
    }
    mpq_set_si(x, count - sample, 1);
    mpq_div(variance, variance, x);
    mpq_set_ui(x, 1, UINT64_C(10000000000000000)); /* values have scale 8 */
    mpq_mul(variance, variance, x);
    char n[16], s[64], q[64], out[EXACT_TEXT_MAX];
    snprintf(n, sizeof n, "%d", count);
    decimal_format(sum, 8, s);
    decimal_format(squares, 16, q);
    wrong +=
        exact_stddev(n, s, q, sample, scale, out, sizeof out) != EXACT_OK ||
        text_value(out, scale, r) != 0 || !stddev_right(variance, r, scale);
  }
  CHECK(wrong == 0, "%d of 5000 deviations are not the nearest", wrong);
  mpq_clears(variance, mean, r, x, NULL);
}


/* Two ways to one average. */
static void test_average_agrees(void) {
  int wrong = 0;
  for (int i = 0; i < 50000; i++) {
    decimal sum = (decimal)(int64_t)random_next() * 1000003, avg = 0;
    int64_t count = (int64_t)(random_next() % 1000000 + 1);
    char a[64], n[32], out[EXACT_TEXT_MAX], want[DECIMAL_TEXT_MAX];
    decimal_format(sum, 8, a);
    snprintf(n, sizeof n, "%lld", (long long)count);
    wrong += decimal_average(sum, count, 8, 8, &avg) != DECIMAL_OK;
    decimal_format(avg, 8, want);
    wrong += exact_ratio(a, n, 8, out, sizeof out) != EXACT_OK ||
             strcmp(out, want) != 0;
  }
  CHECK(wrong == 0, "%d of 50000 averages differ", wrong);
}


int main(void) {
  const char *given = getenv("CHECK_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0) | 1;
  printf("exact_test: seed %llu\n", (unsigned long long)seed);
  test_binary();
  test_ratio();
  test_stddev();
  test_round_and_compare();
  test_space();
  test_ratio_random();
  test_stddev_random();
  test_average_agrees();
  return check_done();
}
