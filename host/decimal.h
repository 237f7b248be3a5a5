/* decimal.h - exact decimal numbers as 128-bit scaled integers.
 *
 * decimal(p,s) holds value * 10^s with |value * 10^s| < 10^p, p <= 38. No
 * double is involved anywhere. Rounding is half away from zero, as MySQL's
 * DECIMAL rounds. It also takes apart JSON numbers, for every unit that needs
 * their digits; text is never copied, NUL-ended or bound to a locale. */
#ifndef HOST_DECIMAL_H
#define HOST_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h" /* typedef decimal */

enum {
  DECIMAL_OK = 0,
  DECIMAL_SYNTAX = -1, /* not a number as JSON writes it */
  DECIMAL_RANGE = -2,  /* more digits before the point than p - s */
  DECIMAL_DIGITS = -3  /* digits beyond s that are not zero */
};

enum { DECIMAL_MAX_PRECISION = 38, DECIMAL_TEXT_MAX = 48 };

/* A JSON number taken apart: (-1)^negative * digits * 10^(exponent - fraction).
 * `whole` and `fraction` count digits before and after the point. While
 * whole + fraction <= NUMBER_SMALL, `small` holds all the digits. */
struct number {
  const char *digits; /* the first digit; the text stays the caller's */
  size_t whole;
  size_t fraction;
  int64_t exponent; /* held within NUMBER_EXPONENT_MAX, far out of any range */
  uint64_t small;
  int negative;
};

enum { NUMBER_SMALL = 19 };
#define NUMBER_EXPONENT_MAX INT64_C(1000000000000)

/* Scan the JSON number that starts at `p`. Returns the byte after it, or NULL
 * when none starts there; then *wrong is the byte that does not fit (it may be
 * `end`). */
const char *number_scan(const char *p, const char *end, struct number *out,
                        const char **wrong);

/* The number's value with `scale` digits after the point. */
int decimal_of(const struct number *n, int precision, int scale, decimal *out);

/* Parse all `n` bytes as a JSON number (exponent allowed) into *out. */
int decimal_parse(const char *text, size_t n, int precision, int scale,
                  decimal *out);

/* Write `v` with `scale` digits after the point into out[DECIMAL_TEXT_MAX],
 * ended by NUL; returns the length. */
size_t decimal_format(decimal v, int scale, char *out);

/* 10^n for 0 <= n <= 38. */
decimal decimal_power(int n);

/* sum * 10^(to - from) / count, rounded half away from zero. Returns
 * DECIMAL_RANGE when the result does not fit 38 digits. count > 0. */
int decimal_average(decimal sum, int64_t count, int from, int to, decimal *out);

/* Change the scale, rounding half away from zero; DECIMAL_RANGE on overflow. */
int decimal_rescale(decimal v, int from, int to, decimal *out);

/* a + b; DECIMAL_RANGE (and *out untouched) beyond 38 digits. */
int decimal_add(decimal a, decimal b, decimal *out);

#endif
