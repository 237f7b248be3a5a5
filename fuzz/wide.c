/* wide.c - fuzzes host/wide.c: sums of products against GMP's integers. */
#include "fuzz.h"
#include "wide.h"


/* Does z fit 384 bits, two's complement? */
static int fits(const mpz_t z) {
  mpz_t least;
  mpz_init_set_si(least, -1);
  mpz_mul_2exp(least, least, 64 * WIDE_LIMBS - 1);
  int ok = mpz_cmp(z, least) >= 0;
  mpz_neg(least, least);
  ok = ok && mpz_cmp(z, least) < 0;
  mpz_clear(least);
  return ok;
}


static void value_of(const struct wide *w, mpz_t z) {
  mpz_import(z, WIDE_LIMBS, -1, sizeof *w->limb, 0, 0, w->limb);
  if (w->limb[WIDE_LIMBS - 1] >> 63) {
    mpz_t all;
    mpz_init_set_ui(all, 1);
    mpz_mul_2exp(all, all, 64 * WIDE_LIMBS);
    mpz_sub(z, z, all);
    mpz_clear(all);
  }
}


static void check_format(const struct wide *w, const mpz_t value, int scale) {
  char out[WIDE_TEXT_MAX], digits[WIDE_TEXT_MAX];
  size_t len = wide_format(w, scale, out), n = 0;
  EXPECT(len == strlen(out) && len < sizeof out, "length %zu", len);
  EXPECT(scale == 0 ? strchr(out, '.') == NULL
                    : out[len - (size_t)scale - 1] == '.',
         "the point of %s", out);
  for (size_t i = 0; i <= len; i++)
    if (out[i] != '.')
      digits[n++] = out[i];
  mpz_t z;
  mpz_init_set_str(z, digits, 10);
  EXPECT(mpz_cmp(z, value) == 0, "%s", out);
  mpz_clear(z);
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  struct wide acc = {{0}};
  mpz_t sum, next, z;
  mpz_inits(sum, next, z, NULL);
  while (b.p < b.end) {
    int err;
    if (take_below(&b, 4) == 0) {
      struct wide x;
      for (int i = 0; i < WIDE_LIMBS; i++)
        x.limb[i] = take(&b, 8);
      value_of(&x, next);
      err = wide_add(&acc, &x);
    } else {
      decimal x = take_decimal(&b), y = take_decimal(&b);
      mpz_set_decimal(next, x);
      mpz_set_decimal(z, y);
      mpz_mul(next, next, z);
      err = wide_add_product(&acc, x, y);
    }
    mpz_add(next, next, sum);
    EXPECT(err == (fits(next) ? 0 : -1), "overflow: %d", err);
    if (err == 0)
      mpz_set(sum, next);
    value_of(&acc, z);
    EXPECT(mpz_cmp(z, sum) == 0, "another sum");
    check_format(&acc, sum, (int)take_below(&b, 77));
  }
  mpz_clears(sum, next, z, NULL);
  return 0;
}
