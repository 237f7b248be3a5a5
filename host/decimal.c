/* decimal.c - exact decimal numbers as 128-bit scaled integers. See decimal.h.
 *
 * Digits are counted before they are multiplied, so no text, however long and
 * whatever its exponent, overflows or costs more than one pass over it. */
#include <string.h>

#include "decimal.h"

typedef unsigned __int128 udecimal;

#define E19 UINT64_C(10000000000000000000)
#define P(n) ((decimal)(n))
#define Q(n) ((decimal)((udecimal)E19 * (n)))

static const decimal powers[DECIMAL_MAX_PRECISION + 1] = {
    P(1),
    P(10),
    P(100),
    P(1000),
    P(10000),
    P(100000),
    P(1000000),
    P(10000000),
    P(100000000),
    P(1000000000),
    P(10000000000),
    P(100000000000),
    P(1000000000000),
    P(10000000000000),
    P(100000000000000),
    P(1000000000000000),
    P(10000000000000000),
    P(100000000000000000),
    P(1000000000000000000),
    Q(1),
    Q(10),
    Q(100),
    Q(1000),
    Q(10000),
    Q(100000),
    Q(1000000),
    Q(10000000),
    Q(100000000),
    Q(1000000000),
    Q(10000000000),
    Q(100000000000),
    Q(1000000000000),
    Q(10000000000000),
    Q(100000000000000),
    Q(1000000000000000),
    Q(10000000000000000),
    Q(100000000000000000),
    Q(1000000000000000000),
    Q(E19),
};


decimal decimal_power(int n) {
  return powers[n];
}


static inline int number_digit(const char *p, const char *end) {
  return p < end && (unsigned char)(*p - '0') < 10;
}


/* The number that 8 digits are, the first in the lowest byte, without '0'. */
static inline uint64_t number_eight(uint64_t x) {
  x = (x * 10 + (x >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
  x = (x * 100 + (x >> 16)) & UINT64_C(0x0000FFFF0000FFFF);
  return (x * 10000 + (x >> 32)) & UINT64_C(0x00000000FFFFFFFF);
}


/* Read digits from `p` on into *value, which wraps beyond 19 of them; returns
 * the byte after the last. Eight at a time where memory allows. */
static inline const char *number_digits(const char *p, const char *end,
                                        uint64_t *value) {
  uint64_t v = *value;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  static const uint64_t scale[] = {1,     10,     100,     1000,
                                   10000, 100000, 1000000, 10000000};
  while (end - p >= 8) {
    uint64_t x;
    memcpy(&x, p, 8);
    x ^= UINT64_C(0x3030303030303030);
    /* The high bit of each byte that is no digit, carries kept inside. */
    uint64_t other =
        (((x & UINT64_C(0x7F7F7F7F7F7F7F7F)) + UINT64_C(0x7676767676767676)) |
         x) &
        UINT64_C(0x8080808080808080);
    if (other != 0) {
      /* Shifted in two steps: no digit at all would be a shift by 64. */
      int bits = __builtin_ctzll(other) & 56;
      *value = v * scale[bits / 8] + number_eight((x << 8) << (56 - bits));
      return p + bits / 8;
    }
    v = v * 100000000 + number_eight(x);
    p += 8;
  }
#endif
  for (; number_digit(p, end); p++)
    v = v * 10 + (uint64_t)(*p - '0');
  *value = v;
  return p;
}


/* The exponent after its `e`. The value is capped, not wrapped. */
static const char *number_exponent(const char *p, const char *end,
                                   struct number *out, const char **wrong) {
  int negative = 0;
  if (p < end && (*p == '+' || *p == '-'))
    negative = *p++ == '-';
  if (!number_digit(p, end)) {
    *wrong = p;
    return NULL;
  }
  int64_t e = 0;
  for (; number_digit(p, end); p++)
    if (e < NUMBER_EXPONENT_MAX)
      e = e * 10 + (*p - '0');
  if (e > NUMBER_EXPONENT_MAX)
    e = NUMBER_EXPONENT_MAX;
  out->exponent = negative ? -e : e;
  return p;
}


const char *number_scan(const char *p, const char *end, struct number *out,
                        const char **wrong) {
  uint64_t small = 0;
  out->negative = p < end && *p == '-';
  out->fraction = 0;
  out->exponent = 0;
  p += out->negative;
  out->digits = p;
  if (!number_digit(p, end)) {
    *wrong = p;
    return NULL;
  }
  if (*p == '0') {
    p++;
  } else {
    p = number_digits(p, end, &small);
  }
  out->whole = (size_t)(p - out->digits);
  if (p < end && *p == '.') {
    const char *first = ++p;
    p = number_digits(p, end, &small);
    out->fraction = (size_t)(p - first);
    if (p == first) {
      *wrong = p;
      return NULL;
    }
  }
  out->small = small;
  if (p < end && (*p == 'e' || *p == 'E'))
    return number_exponent(p + 1, end, out, wrong);
  return p;
}


/* The digit at index `i`, the point left out. */
static inline unsigned number_at(const struct number *n, size_t i) {
  return (unsigned)(n->digits[i + (i >= n->whole)] - '0');
}


/* Any length, any exponent: look only at the digits from the first to the last
 * that is not zero. */
static int decimal_of_long(const struct number *n, int precision, int scale,
                           decimal *out) {
  size_t count = n->whole + n->fraction, first = 0, last = count;
  while (first < count && number_at(n, first) == 0)
    first++;
  *out = 0;
  if (first == count)
    return DECIMAL_OK;
  while (number_at(n, last - 1) == 0)
    last--;
  /* Powers of ten just above the first and just below the last digit. */
  int64_t top = (int64_t)n->whole - (int64_t)first + n->exponent;
  int64_t bottom = (int64_t)n->whole - (int64_t)last + n->exponent;
  if (top > precision - scale)
    return DECIMAL_RANGE;
  if (bottom < -scale)
    return DECIMAL_DIGITS;
  decimal v = 0;
  for (size_t i = first; i < last; i++)
    v = v * 10 + (decimal)number_at(n, i);
  v *= powers[bottom + scale];
  *out = n->negative ? -v : v;
  return DECIMAL_OK;
}


int decimal_of(const struct number *n, int precision, int scale, decimal *out) {
  if (n->whole + n->fraction > NUMBER_SMALL || n->exponent != 0 ||
      n->fraction > (size_t)scale)
    return decimal_of_long(n, precision, scale, out);
  int shift = scale - (int)n->fraction;
  if (n->whole > (size_t)(precision - scale) &&
      (decimal)n->small >= powers[precision - shift])
    return DECIMAL_RANGE;
  decimal v = (decimal)n->small * powers[shift];
  *out = n->negative ? -v : v;
  return DECIMAL_OK;
}


int decimal_parse(const char *text, size_t n, int precision, int scale,
                  decimal *out) {
  struct number number;
  const char *wrong;
  if (number_scan(text, text + n, &number, &wrong) != text + n)
    return DECIMAL_SYNTAX;
  return decimal_of(&number, precision, scale, out);
}


size_t decimal_format(decimal v, int scale, char *out) {
  char digits[DECIMAL_TEXT_MAX];
  char *p = digits + sizeof digits;
  udecimal u = v < 0 ? -(udecimal)v : (udecimal)v;
  int written = 0;
  do {
    uint64_t part;
    if (u < E19) { /* nearly always; a division of 128 bits is a slow one */
      part = (uint64_t)u;
      u = 0;
    } else {
      part = (uint64_t)(u % E19);
      u /= E19;
    }
    /* Every part but the last has all of its 19 digits. */
    for (int i = 0; i < 19 && (part != 0 || u != 0 || written <= scale); i++) {
      if (written == scale && scale > 0)
        *--p = '.';
      *--p = (char)('0' + part % 10);
      part /= 10;
      written++;
    }
  } while (u != 0 || written <= scale);
  if (v < 0)
    *--p = '-';
  size_t len = (size_t)(digits + sizeof digits - p);
  memcpy(out, p, len);
  out[len] = '\0';
  return len;
}


static int decimal_signed(udecimal magnitude, int negative, decimal *out) {
  if (magnitude >= (udecimal)powers[DECIMAL_MAX_PRECISION])
    return DECIMAL_RANGE;
  *out = negative ? -(decimal)magnitude : (decimal)magnitude;
  return DECIMAL_OK;
}


/* round(u * 10^k / count), where the product may need 256 bits. */
static int decimal_scale_up(udecimal u, int k, uint64_t count, int negative,
                            decimal *out) {
  udecimal power = (udecimal)powers[k], product;
  if (!__builtin_mul_overflow(u, power, &product)) {
    udecimal q = product / count, r = product % count;
    return decimal_signed(q + (r >= count - r), negative, out);
  }
  uint64_t a0 = (uint64_t)u, a1 = (uint64_t)(u >> 64);
  uint64_t b0 = (uint64_t)power, b1 = (uint64_t)(power >> 64);
  udecimal low = (udecimal)a0 * b0, high = (udecimal)a1 * b1;
  udecimal mid1 = (udecimal)a0 * b1, mid2 = (udecimal)a1 * b0;
  udecimal carry = (low >> 64) + (uint64_t)mid1 + (uint64_t)mid2;
  high += (mid1 >> 64) + (mid2 >> 64) + (carry >> 64);
  uint64_t limb[4] = {(uint64_t)low, (uint64_t)carry, (uint64_t)high,
                      (uint64_t)(high >> 64)};
  udecimal r = 0;
  for (int i = 3; i >= 0; i--) {
    udecimal part = r << 64 | limb[i];
    limb[i] = (uint64_t)(part / count);
    r = part % count;
  }
  if (limb[3] != 0 || limb[2] != 0)
    return DECIMAL_RANGE;
  udecimal q = (udecimal)limb[1] << 64 | limb[0];
  if (q >= (udecimal)powers[DECIMAL_MAX_PRECISION])
    return DECIMAL_RANGE;
  return decimal_signed(q + (r >= count - r), negative, out);
}


/* round(u / (count * 10^k)) without forming the divisor: rounding looks at
 * rest * 10^k + cut against half of count * 10^k. */
static int decimal_scale_down(udecimal u, int k, uint64_t count, int negative,
                              decimal *out) {
  udecimal power = (udecimal)powers[k];
  udecimal cut = u % power;
  udecimal q = u / power / count, rest = u / power % count;
  udecimal up;
  if (rest * 2 >= count)
    up = 1;
  else if (rest * 2 + 1 == count)
    up = cut >= power - cut;
  else
    up = 0;
  return decimal_signed(q + up, negative, out);
}


int decimal_average(decimal sum, int64_t count, int from, int to,
                    decimal *out) {
  int negative = sum < 0;
  udecimal u = negative ? -(udecimal)sum : (udecimal)sum;
  if (to >= from)
    return decimal_scale_up(u, to - from, (uint64_t)count, negative, out);
  return decimal_scale_down(u, from - to, (uint64_t)count, negative, out);
}


int decimal_rescale(decimal v, int from, int to, decimal *out) {
  return decimal_average(v, 1, from, to, out);
}


int decimal_add(decimal a, decimal b, decimal *out) {
  decimal sum;
  if (__builtin_add_overflow(a, b, &sum))
    return DECIMAL_RANGE;
  if (sum >= powers[DECIMAL_MAX_PRECISION] ||
      sum <= -powers[DECIMAL_MAX_PRECISION])
    return DECIMAL_RANGE;
  *out = sum;
  return DECIMAL_OK;
}
