/* exact.h - results that need a division or a root, exact to the last digit.
 *
 * Inputs and outputs are decimal text, because they come from and go to
 * DECIMAL columns; big integers are GMP's. All round half away from zero,
 * once. Nothing here is for the path of each message: that is decimal.h's. */
#ifndef HOST_EXACT_H
#define HOST_EXACT_H

#include <stddef.h>

enum {
  EXACT_OK = 0,
  EXACT_SYNTAX = -1,  /* not a JSON number, or a count that is not whole */
  EXACT_ZERO = -2,    /* a division by zero */
  EXACT_SPACE = -3,   /* beyond EXACT_DIGITS_MAX, or longer than `out` */
  EXACT_NEGATIVE = -4 /* sums that no numbers have: a negative variance */
};

/* Digits of an input and of a scale. Out buffers of EXACT_TEXT_MAX bytes hold
 * every result; the sums of a window need far less. */
enum { EXACT_DIGITS_MAX = 1000, EXACT_TEXT_MAX = 4096 };

/* numerator / denominator; EXACT_ZERO when the denominator is 0. `out` is
 * NUL-ended, here and below; it is written only on success. */
int exact_ratio(const char *numerator, const char *denominator, int scale,
                char *out, size_t size);

/* Standard deviation from n, sum(x), sum(x*x). `sample`: divide by n - 1
 * (EXACT_ZERO when n = 1), otherwise by n. */
int exact_stddev(const char *n, const char *sum, const char *sum_squares,
                 int sample, int scale, char *out, size_t size);

/* a + b and a - b, with the larger of their scales. */
int exact_add(const char *a, const char *b, char *out, size_t size);
int exact_sub(const char *a, const char *b, char *out, size_t size);

/* a * b, with the sum of their scales. */
int exact_mul(const char *a, const char *b, char *out, size_t size);

/* The text with `scale` digits after the point. */
int exact_round(const char *text, int scale, char *out, size_t size);

/* -1, 0 or 1 in *out. */
int exact_compare(const char *a, const char *b, int *out);

#endif
