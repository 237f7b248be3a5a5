/* fuzz.h - what the fuzz targets share: an input read as a row of choices, a
 * check that stops the run, and numbers as GMP's.
 *
 * Each target in fuzz/ feeds one unit with libFuzzer's inputs and compares the
 * outcome with a second, slow way to the same result that shares no code with
 * it. tools/fuzz.sh runs them. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <gmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h" /* typedef decimal */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* abort() makes libFuzzer save the input. */
#define EXPECT(cond, ...)                                                      \
  do {                                                                         \
    if (!(cond)) {                                                             \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);               \
      fprintf(stderr, __VA_ARGS__);                                            \
      fprintf(stderr, "\n");                                                   \
      abort();                                                                 \
    }                                                                          \
  } while (0)

/* What is left of an input; a used up one gives zeros. */
struct bytes {
  const uint8_t *p, *end;
};


static inline uint64_t take(struct bytes *b, int count) {
  uint64_t v = 0;
  for (; count > 0 && b->p < b->end; count--)
    v = v << 8 | *b->p++;
  return v;
}


static inline unsigned take_below(struct bytes *b, unsigned limit) {
  return (unsigned)(take(b, limit > 256 ? 4 : 1) % limit);
}


/* Any 128 bits; small numbers, powers and the extremes more often. */
static inline decimal take_decimal(struct bytes *b) {
  unsigned kind = take_below(b, 8);
  if (kind < 3) {
    decimal v = (decimal)take(b, 1 + (int)kind * 3);
    return kind == 1 ? -v : v;
  }
  unsigned __int128 bits = (unsigned __int128)take(b, 8) << 64 | take(b, 8);
  if (kind < 6)
    return (decimal)bits;
  unsigned __int128 edge = (unsigned __int128)1 << (bits % 128);
  return (decimal)(kind == 6 ? edge : edge - 1);
}


static inline void mpz_set_decimal(mpz_t z, decimal v) {
  unsigned __int128 u = v < 0 ? -(unsigned __int128)v : (unsigned __int128)v;
  uint64_t limbs[2] = {(uint64_t)u, (uint64_t)(u >> 64)};
  mpz_import(z, 2, -1, sizeof *limbs, 0, 0, limbs);
  if (v < 0)
    mpz_neg(z, z);
}


static inline void mpz_power(mpz_t z, unsigned long n) {
  mpz_ui_pow_ui(z, 10, n);
}


/* q *= 10^n */
static inline void mpq_shift(mpq_t q, long n) {
  mpq_t power;
  mpq_init(power);
  mpz_power(mpq_numref(power), (unsigned long)labs(n));
  if (n < 0)
    mpq_inv(power, power);
  mpq_mul(q, q, power);
  mpq_clear(power);
}


/* z = q rounded half away from zero. */
static inline void mpq_round(mpz_t z, const mpq_t q) {
  mpq_t half;
  mpq_init(half);
  mpq_set_ui(half, 1, 2);
  if (mpq_sgn(q) < 0)
    mpq_neg(half, half);
  mpq_add(half, half, q);
  mpz_tdiv_q(z, mpq_numref(half), mpq_denref(half));
  mpq_clear(half);
}


enum { NUMBER_NONE, NUMBER_VALUE, NUMBER_FAR, NUMBER_FAR_MIN = 9999 };

/* What a JSON number says about itself, apart from its value. */
struct said {
  long digits; /* before the exponent, the point left out */
  long scale;  /* fraction digits - exponent */
};


/* The JSON number that is all of [p, end). NUMBER_FAR: its exponent is beyond
 * NUMBER_FAR_MIN, kept in s->scale, and *out has its digits only. */
static inline int number_value(const char *p, const char *end, mpq_t out,
                               struct said *s) {
  size_t n = (size_t)(end - p), used = 0, point = 0;
  char *digits = malloc(n + 2);
  long exponent = 0;
  int kind = NUMBER_NONE, negative = n > 0 && *p == '-';
  p += negative;
  while (p < end && *p >= '0' && *p <= '9')
    digits[used++] = *p++;
  point = used;
  int good = used == 1 || (used > 1 && digits[0] != '0');
  if (good && p < end && *p == '.') {
    for (p++; p < end && *p >= '0' && *p <= '9';)
      digits[used++] = *p++;
    good = used > point;
  }
  if (good && p < end && (*p == 'e' || *p == 'E')) {
    int minus = ++p < end && *p == '-';
    p += p < end && (*p == '-' || *p == '+');
    good = p < end;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
      exponent =
          exponent > NUMBER_FAR_MIN ? exponent : exponent * 10 + (*p - '0');
    good = good && p[-1] >= '0' && p[-1] <= '9';
    exponent = minus ? -exponent : exponent;
  }
  if (good && p == end) {
    digits[used] = '\0';
    mpz_set_str(mpq_numref(out), digits, 10);
    mpz_set_ui(mpq_denref(out), 1);
    if (negative)
      mpq_neg(out, out);
    s->digits = (long)used;
    s->scale = (long)(used - point) - exponent;
    kind = labs(exponent) > NUMBER_FAR_MIN ? NUMBER_FAR : NUMBER_VALUE;
    if (kind == NUMBER_VALUE)
      mpq_shift(out, -s->scale);
  }
  free(digits);
  return kind;
}

#endif
