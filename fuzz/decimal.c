/* decimal.c - fuzzes host/decimal.c against GMP's rationals. */
#include "decimal.h"
#include "fuzz.h"


/* *v as a scaled integer, or the failure, of a number with this value. */
static int expected(int kind, const mpq_t value, const struct said *said,
                    int precision, int scale, mpz_t v) {
  mpq_t q, limit;
  int err = DECIMAL_OK;
  mpz_set_ui(v, 0);
  if (kind == NUMBER_NONE)
    return DECIMAL_SYNTAX;
  if (mpq_sgn(value) == 0)
    return DECIMAL_OK;
  if (kind == NUMBER_FAR)
    return said->scale < 0 ? DECIMAL_RANGE : DECIMAL_DIGITS;
  mpq_inits(q, limit, NULL);
  mpz_power(mpq_numref(limit), (unsigned long)(precision - scale));
  mpq_abs(q, value);
  if (mpq_cmp(q, limit) >= 0) {
    err = DECIMAL_RANGE;
  } else {
    mpq_set(q, value);
    mpq_shift(q, scale);
    if (mpz_cmp_ui(mpq_denref(q), 1) != 0)
      err = DECIMAL_DIGITS;
    else
      mpz_set(v, mpq_numref(q));
  }
  mpq_clears(q, limit, NULL);
  return err;
}


static void check_equal(const mpz_t want, decimal got, const char *what) {
  mpz_t z;
  mpz_init(z);
  mpz_set_decimal(z, got);
  EXPECT(mpz_cmp(z, want) == 0, "%s", what);
  mpz_clear(z);
}


static void check_parse(struct bytes b) {
  int precision = 1 + (int)take_below(&b, DECIMAL_MAX_PRECISION);
  int scale = (int)take_below(&b, (unsigned)precision + 1);
  const char *text = (const char *)b.p, *end = (const char *)b.end;
  struct said said;
  mpq_t value;
  mpz_t want;
  decimal got = 0;
  mpq_init(value);
  mpz_init(want);
  int kind = number_value(text, end, value, &said);
  int err = expected(kind, value, &said, precision, scale, want);
  int is = decimal_parse(text, (size_t)(end - text), precision, scale, &got);
  EXPECT(is == err, "decimal(%d,%d): %d, not %d", precision, scale, is, err);
  if (err == DECIMAL_OK)
    check_equal(want, got, "parsed");
  mpq_clear(value);
  mpz_clear(want);
}


static void check_format(struct bytes b) {
  char out[DECIMAL_TEXT_MAX], digits[DECIMAL_TEXT_MAX];
  decimal v = take_decimal(&b), back;
  int scale = (int)take_below(&b, DECIMAL_MAX_PRECISION + 1);
  size_t len = decimal_format(v, scale, out), n = 0;
  EXPECT(len == strlen(out) && len < sizeof out, "length %zu", len);
  EXPECT(scale == 0 ? strchr(out, '.') == NULL
                    : out[len - (size_t)scale - 1] == '.',
         "the point of %s", out);
  for (size_t i = 0; i <= len; i++)
    if (out[i] != '.')
      digits[n++] = out[i];
  mpz_t z;
  mpz_init_set_str(z, digits, 10);
  check_equal(z, v, "formatted");
  mpz_abs(z, z);
  mpz_t limit;
  mpz_init(limit);
  mpz_power(limit, DECIMAL_MAX_PRECISION);
  if (mpz_cmp(z, limit) < 0)
    EXPECT(decimal_parse(out, len, DECIMAL_MAX_PRECISION, scale, &back) ==
                   DECIMAL_OK &&
               back == v,
           "%s does not come back", out);
  mpz_clears(z, limit, NULL);
}


/* `err` and `got` against `want`, unbounded. */
static void check_bounded(int err, decimal got, const mpz_t want,
                          const char *what) {
  mpz_t limit;
  mpz_init(limit);
  mpz_power(limit, DECIMAL_MAX_PRECISION);
  int fits = mpz_cmpabs(want, limit) < 0;
  EXPECT(err == (fits ? DECIMAL_OK : DECIMAL_RANGE), "%s: %d", what, err);
  if (fits)
    check_equal(want, got, what);
  mpz_clear(limit);
}


static void check_average(struct bytes b) {
  decimal sum = take_decimal(&b), out = 0;
  int64_t count = (int64_t)(take(&b, 8) >> 1 >> take_below(&b, 63));
  int from = (int)take_below(&b, DECIMAL_MAX_PRECISION + 1);
  int to = (int)take_below(&b, DECIMAL_MAX_PRECISION + 1);
  mpq_t q, n;
  mpz_t want;
  count += count == 0;
  mpq_inits(q, n, NULL);
  mpz_init(want);
  mpz_set_decimal(mpq_numref(q), sum);
  mpq_shift(q, to - from);
  mpq_round(want, q);
  check_bounded(decimal_rescale(sum, from, to, &out), out, want, "rescale");
  mpz_set_si(mpq_numref(n), count);
  mpq_div(q, q, n);
  mpq_round(want, q);
  check_bounded(decimal_average(sum, count, from, to, &out), out, want,
                "average");
  mpq_clears(q, n, NULL);
  mpz_clear(want);
}


static void check_add(struct bytes b) {
  decimal x = take_decimal(&b), y = take_decimal(&b), out = 0;
  mpz_t want, z;
  mpz_inits(want, z, NULL);
  mpz_set_decimal(want, x);
  mpz_set_decimal(z, y);
  mpz_add(want, want, z);
  check_bounded(decimal_add(x, y, &out), out, want, "add");
  mpz_clears(want, z, NULL);
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  switch (take_below(&b, 4)) {
  case 0:
    check_format(b);
    break;
  case 1:
    check_average(b);
    break;
  case 2:
    check_add(b);
    break;
  default:
    check_parse(b);
  }
  return 0;
}
