/* wide.c - 384-bit two's complement sums of products. See wide.h. */
#include <string.h>

#include "wide.h"

typedef unsigned __int128 u128;

#define E19 UINT64_C(10000000000000000000)

enum { WIDE_TOP = WIDE_LIMBS - 1 };


static void wide_negate(struct wide *w) {
  uint64_t carry = 1;
  for (int i = 0; i < WIDE_LIMBS; i++) {
    w->limb[i] = ~w->limb[i] + carry;
    carry = carry && w->limb[i] == 0;
  }
}


static int wide_negative(const struct wide *w) {
  return w->limb[WIDE_TOP] >> 63 != 0;
}


int wide_add(struct wide *acc, const struct wide *x) {
  struct wide sum;
  u128 carry = 0;
  for (int i = 0; i < WIDE_LIMBS; i++) {
    carry += (u128)acc->limb[i] + x->limb[i];
    sum.limb[i] = (uint64_t)carry;
    carry >>= 64;
  }
  /* Two values of one sign whose sum has the other overflowed. */
  if (((acc->limb[WIDE_TOP] ^ sum.limb[WIDE_TOP]) &
       (x->limb[WIDE_TOP] ^ sum.limb[WIDE_TOP])) >>
      63)
    return -1;
  *acc = sum;
  return 0;
}


int wide_add_product(struct wide *acc, decimal a, decimal b) {
  u128 ua = a < 0 ? -(u128)a : (u128)a;
  u128 ub = b < 0 ? -(u128)b : (u128)b;
  uint64_t a0 = (uint64_t)ua, a1 = (uint64_t)(ua >> 64);
  uint64_t b0 = (uint64_t)ub, b1 = (uint64_t)(ub >> 64);
  u128 low = (u128)a0 * b0;
  struct wide product = {{(uint64_t)low, (uint64_t)(low >> 64)}};
  if (a1 != 0 || b1 != 0) {
    u128 mid1 = (u128)a0 * b1, mid2 = (u128)a1 * b0;
    u128 carry = (low >> 64) + (uint64_t)mid1 + (uint64_t)mid2;
    u128 high = (u128)a1 * b1 + (mid1 >> 64) + (mid2 >> 64) + (carry >> 64);
    product.limb[1] = (uint64_t)carry;
    product.limb[2] = (uint64_t)high;
    product.limb[3] = (uint64_t)(high >> 64);
  }
  if ((a < 0) != (b < 0))
    wide_negate(&product);
  return wide_add(acc, &product);
}


size_t wide_format(const struct wide *w, int scale, char *out) {
  char digits[WIDE_TEXT_MAX];
  char *p = digits + sizeof digits;
  struct wide u = *w;
  int written = 0, more;
  if (wide_negative(w))
    wide_negate(&u);
  do {
    u128 rest = 0;
    for (int i = WIDE_TOP; i >= 0; i--) {
      u128 part = rest << 64 | u.limb[i];
      u.limb[i] = (uint64_t)(part / E19);
      rest = part % E19;
    }
    uint64_t part = (uint64_t)rest;
    more = 0;
    for (int i = 0; i < WIDE_LIMBS; i++)
      more |= u.limb[i] != 0;
    /* Every part but the last has all of its 19 digits. */
    for (int i = 0; i < 19 && (part != 0 || more || written <= scale); i++) {
      if (written == scale && scale > 0)
        *--p = '.';
      *--p = (char)('0' + part % 10);
      part /= 10;
      written++;
    }
  } while (more || written <= scale);
  if (wide_negative(w))
    *--p = '-';
  size_t len = (size_t)(digits + sizeof digits - p);
  memcpy(out, p, len);
  out[len] = '\0';
  return len;
}
