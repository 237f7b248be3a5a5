/* wide.h - 384-bit two's complement sums of products of decimals.
 *
 * price * qty of two decimal(38) values needs up to 254 bits; sums of such
 * products and of squares are kept in these. 2^63 rows of the largest do not
 * fill them, so no sum of a store can overflow. */
#ifndef HOST_WIDE_H
#define HOST_WIDE_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h" /* typedef decimal */

enum { WIDE_LIMBS = 6, WIDE_TEXT_MAX = 128 };

struct wide {
  uint64_t limb[WIDE_LIMBS]; /* least significant first */
};

/* acc += a * b, exact. Returns 0, or -1 beyond 383 bits and *acc untouched. */
int wide_add_product(struct wide *acc, decimal a, decimal b);

/* acc += x. Returns 0, or -1 on overflow and *acc untouched. */
int wide_add(struct wide *acc, const struct wide *x);

/* Write with `scale` digits after the point (scale <= 76); NUL-ended. */
size_t wide_format(const struct wide *w, int scale, char *out);

#endif
