/* exact.c - exact divisions and roots of decimal text. See exact.h.
 *
 * GMP has no way to report that memory ran out; the limit on digits keeps what
 * it asks for at a few kilobytes. */
#include <gmp.h>
#include <string.h>

#include "decimal.h"
#include "exact.h"

/* A value of `digits` / 10^scale. */
struct exact {
  mpz_t digits;
  unsigned long scale;
};


static void exact_init(struct exact *x) {
  mpz_init(x->digits);
  x->scale = 0;
}


static void exact_clear(struct exact *x) {
  mpz_clear(x->digits);
}


/* x *= 10^n */
static void exact_shift(mpz_t x, unsigned long n) {
  mpz_t power;
  if (n == 0)
    return;
  mpz_init(power);
  mpz_ui_pow_ui(power, 10, n);
  mpz_mul(x, x, power);
  mpz_clear(power);
}


static int exact_read(struct exact *x, const char *text) {
  struct number n;
  const char *end = text + strlen(text), *wrong;
  char digits[EXACT_DIGITS_MAX + 1];
  if (number_scan(text, end, &n, &wrong) != end)
    return EXACT_SYNTAX;
  if (n.whole + n.fraction > EXACT_DIGITS_MAX)
    return EXACT_SPACE;
  memcpy(digits, n.digits, n.whole);
  if (n.fraction > 0)
    memcpy(digits + n.whole, n.digits + n.whole + 1, n.fraction);
  digits[n.whole + n.fraction] = '\0';
  mpz_set_str(x->digits, digits, 10);
  if (n.negative)
    mpz_neg(x->digits, x->digits);
  int64_t scale = (int64_t)n.fraction - n.exponent;
  if (mpz_sgn(x->digits) == 0 && n.exponent != 0)
    scale = 0;
  if (scale > EXACT_DIGITS_MAX || scale < -EXACT_DIGITS_MAX)
    return EXACT_SPACE;
  x->scale = scale > 0 ? (unsigned long)scale : 0;
  exact_shift(x->digits, scale < 0 ? (unsigned long)-scale : 0);
  return EXACT_OK;
}


static int exact_write(const mpz_t value, unsigned long scale, char *out,
                       size_t size) {
  char text[EXACT_TEXT_MAX];
  if (mpz_sizeinbase(value, 10) + 2 > sizeof text)
    return EXACT_SPACE;
  mpz_get_str(text, 10, value);
  const char *digits = text + (*text == '-');
  size_t n = strlen(digits), used = 0;
  size_t zeros = n <= scale ? scale + 1 - n : 0;
  if (n + zeros + (scale > 0) + (*text == '-') + 1 > size)
    return EXACT_SPACE;
  if (*text == '-')
    out[used++] = '-';
  /* The whole part, the point, the rest; leading zeros are in either. */
  for (size_t i = 0; i < n + zeros; i++) {
    if (scale > 0 && i == n + zeros - scale)
      out[used++] = '.';
    out[used++] = i < zeros ? '0' : digits[i - zeros];
  }
  out[used] = '\0';
  return EXACT_OK;
}


/* q = round(n / d), half away from zero; d > 0. */
static void exact_divide(mpz_t q, const mpz_t n, const mpz_t d) {
  mpz_t twice;
  int negative = mpz_sgn(n) < 0;
  mpz_init(twice);
  mpz_abs(q, n);
  mpz_mul_2exp(q, q, 1);
  mpz_add(q, q, d);
  mpz_mul_2exp(twice, d, 1);
  mpz_fdiv_q(q, q, twice);
  if (negative)
    mpz_neg(q, q);
  mpz_clear(twice);
}


static int exact_scale(int scale) {
  return scale >= 0 && scale <= EXACT_DIGITS_MAX ? EXACT_OK : EXACT_SPACE;
}


int exact_ratio(const char *numerator, const char *denominator, int scale,
                char *out, size_t size) {
  struct exact n, d;
  exact_init(&n);
  exact_init(&d);
  int err = exact_scale(scale);
  if (err == EXACT_OK)
    err = exact_read(&n, numerator);
  if (err == EXACT_OK)
    err = exact_read(&d, denominator);
  if (err == EXACT_OK && mpz_sgn(d.digits) == 0)
    err = EXACT_ZERO;
  if (err == EXACT_OK) {
    if (mpz_sgn(d.digits) < 0) {
      mpz_neg(n.digits, n.digits);
      mpz_neg(d.digits, d.digits);
    }
    exact_shift(n.digits, d.scale + (unsigned long)scale);
    exact_shift(d.digits, n.scale);
    exact_divide(n.digits, n.digits, d.digits);
    err = exact_write(n.digits, (unsigned long)scale, out, size);
  }
  exact_clear(&n);
  exact_clear(&d);
  return err;
}


/* The root of x / divisor, x at scale `at`, rounded to `scale` digits, in x.
 * With v the value times 10^(2*scale), round(sqrt(v)) is the half, rounded
 * down, of isqrt(4*v) + 1; a tie is seen because isqrt is exact. */
static void exact_root(mpz_t x, unsigned long at, mpz_t divisor, int scale) {
  exact_shift(x, 2 * (unsigned long)scale);
  exact_shift(divisor, at);
  mpz_mul_2exp(x, x, 2);
  mpz_fdiv_q(x, x, divisor);
  mpz_sqrt(x, x);
  mpz_add_ui(x, x, 1);
  mpz_fdiv_q_2exp(x, x, 1);
}


/* n, in place, becomes n * (n - sample): what n*sum(x*x) - sum(x)^2 is divided
 * by. */
static int exact_divisor(struct exact *n, int sample) {
  mpz_t less;
  if (n->scale != 0) {
    /* "5.0" is whole, "5.5" is not. */
    mpz_init_set_ui(less, 1);
    exact_shift(less, n->scale);
    int whole = mpz_divisible_p(n->digits, less);
    if (whole)
      mpz_divexact(n->digits, n->digits, less);
    mpz_clear(less);
    if (!whole)
      return EXACT_SYNTAX;
    n->scale = 0;
  }
  if (mpz_cmp_si(n->digits, sample ? 1 : 0) <= 0)
    return EXACT_ZERO;
  mpz_init_set(less, n->digits);
  if (sample)
    mpz_sub_ui(less, less, 1);
  mpz_mul(n->digits, n->digits, less);
  mpz_clear(less);
  return EXACT_OK;
}


int exact_stddev(const char *n, const char *sum, const char *sum_squares,
                 int sample, int scale, char *out, size_t size) {
  struct exact count, divisor, s, q;
  exact_init(&count);
  exact_init(&divisor);
  exact_init(&s);
  exact_init(&q);
  int err = exact_scale(scale);
  if (err == EXACT_OK)
    err = exact_read(&divisor, n);
  if (err == EXACT_OK)
    err = exact_read(&s, sum);
  if (err == EXACT_OK)
    err = exact_read(&q, sum_squares);
  if (err == EXACT_OK) {
    mpz_set(count.digits, divisor.digits);
    count.scale = divisor.scale;
    err = exact_divisor(&divisor, sample);
  }
  if (err == EXACT_OK) {
    /* n*q - s*s at their common scale; count.scale is that of "5.0". */
    unsigned long scale_q = q.scale + count.scale, scale_s = 2 * s.scale;
    unsigned long at = scale_q > scale_s ? scale_q : scale_s;
    mpz_mul(q.digits, q.digits, count.digits);
    exact_shift(q.digits, at - scale_q);
    mpz_mul(s.digits, s.digits, s.digits);
    exact_shift(s.digits, at - scale_s);
    mpz_sub(q.digits, q.digits, s.digits);
    if (mpz_sgn(q.digits) < 0) {
      err = EXACT_NEGATIVE;
    } else {
      exact_root(q.digits, at, divisor.digits, scale);
      err = exact_write(q.digits, (unsigned long)scale, out, size);
    }
  }
  exact_clear(&count);
  exact_clear(&divisor);
  exact_clear(&s);
  exact_clear(&q);
  return err;
}


/* Bring both to the larger of their scales. */
static void exact_align(struct exact *x, struct exact *y) {
  unsigned long scale = x->scale > y->scale ? x->scale : y->scale;
  exact_shift(x->digits, scale - x->scale);
  exact_shift(y->digits, scale - y->scale);
  x->scale = y->scale = scale;
}


enum exact_op { EXACT_ADD, EXACT_SUB, EXACT_MUL, EXACT_COMPARE };


/* `out` is text, or for EXACT_COMPARE unused and *order is set. */
static int exact_apply(enum exact_op op, const char *a, const char *b,
                       char *out, size_t size, int *order) {
  struct exact x, y;
  exact_init(&x);
  exact_init(&y);
  int err = exact_read(&x, a);
  if (err == EXACT_OK)
    err = exact_read(&y, b);
  if (err == EXACT_OK) {
    if (op == EXACT_MUL) {
      mpz_mul(x.digits, x.digits, y.digits);
      x.scale += y.scale;
    } else {
      exact_align(&x, &y);
    }
    if (op == EXACT_ADD)
      mpz_add(x.digits, x.digits, y.digits);
    else if (op == EXACT_SUB)
      mpz_sub(x.digits, x.digits, y.digits);
    if (op == EXACT_COMPARE) {
      int c = mpz_cmp(x.digits, y.digits);
      *order = (c > 0) - (c < 0);
    } else {
      err = exact_write(x.digits, x.scale, out, size);
    }
  }
  exact_clear(&x);
  exact_clear(&y);
  return err;
}


int exact_add(const char *a, const char *b, char *out, size_t size) {
  return exact_apply(EXACT_ADD, a, b, out, size, NULL);
}


int exact_sub(const char *a, const char *b, char *out, size_t size) {
  return exact_apply(EXACT_SUB, a, b, out, size, NULL);
}


int exact_mul(const char *a, const char *b, char *out, size_t size) {
  return exact_apply(EXACT_MUL, a, b, out, size, NULL);
}


int exact_compare(const char *a, const char *b, int *out) {
  return exact_apply(EXACT_COMPARE, a, b, NULL, 0, out);
}


int exact_round(const char *text, int scale, char *out, size_t size) {
  return exact_ratio(text, "1", scale, out, size);
}
