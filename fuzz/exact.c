/* exact.c - fuzzes host/exact.c against GMP's rationals.
 *
 * A rounded result is right when it is the one number of its scale within half
 * a unit of the exact one; a root is compared by squaring. */
#include "exact.h"
#include "fuzz.h"

enum { TEXTS = 3, TEXT_MAX = 1200 };

struct text {
  char bytes[TEXT_MAX + 8];
  int kind;   /* NUMBER_NONE, ... */
  int within; /* a number that exact.h promises to take */
  mpq_t value;
};


static char digit_of(struct bytes *b) {
  return (char)('0' + take_below(b, 10));
}


/* A number of up to 40 digits, or what stands up to the next line break. */
static void text_take(struct text *t, struct bytes *b) {
  size_t n = 0;
  if (take_below(b, 4) > 0) {
    unsigned whole = take_below(b, 20), fraction = take_below(b, 20);
    if (take_below(b, 2))
      t->bytes[n++] = '-';
    t->bytes[n++] = whole > 0 ? (char)('1' + take_below(b, 9)) : '0';
    for (; whole > 1; whole--)
      t->bytes[n++] = digit_of(b);
    if (fraction > 0)
      t->bytes[n++] = '.';
    for (; fraction > 0; fraction--)
      t->bytes[n++] = digit_of(b);
    unsigned exponent = take_below(b, 64);
    if (exponent < 24)
      n += (size_t)snprintf(t->bytes + n, 8, "e%d", (int)exponent - 12);
  } else {
    for (; b->p < b->end && *b->p != '\n' && *b->p != '\0' && n < TEXT_MAX;)
      t->bytes[n++] = (char)*b->p++;
    b->p += b->p < b->end;
  }
  t->bytes[n] = '\0';
  struct said said;
  mpq_init(t->value);
  t->kind = number_value(t->bytes, t->bytes + n, t->value, &said);
  t->within = t->kind == NUMBER_VALUE && said.digits <= EXACT_DIGITS_MAX &&
              labs(said.scale) <= EXACT_DIGITS_MAX;
}


/* The value of a result, which must have exactly `scale` digits. */
static void result_value(const char *out, int scale, mpq_t q) {
  struct said said;
  int kind = number_value(out, out + strlen(out), q, &said);
  EXPECT(kind == NUMBER_VALUE && said.scale == scale, "%s, scale %d", out,
         scale);
}


/* The sum, difference or product, whose scale the operands decide. */
static void check_apply(const struct text *t, int op) {
  char out[EXACT_TEXT_MAX];
  mpq_t want, got;
  struct said said;
  int err = op == 0   ? exact_add(t[0].bytes, t[1].bytes, out, sizeof out)
            : op == 1 ? exact_sub(t[0].bytes, t[1].bytes, out, sizeof out)
                      : exact_mul(t[0].bytes, t[1].bytes, out, sizeof out);
  if (t[0].within && t[1].within)
    EXPECT(err == EXACT_OK, "%s, %s: %d", t[0].bytes, t[1].bytes, err);
  if (t[0].kind == NUMBER_NONE || t[1].kind == NUMBER_NONE)
    EXPECT(err != EXACT_OK, "%s, %s", t[0].bytes, t[1].bytes);
  if (err != EXACT_OK)
    return;
  mpq_inits(want, got, NULL);
  if (op == 0)
    mpq_add(want, t[0].value, t[1].value);
  else if (op == 1)
    mpq_sub(want, t[0].value, t[1].value);
  else
    mpq_mul(want, t[0].value, t[1].value);
  EXPECT(number_value(out, out + strlen(out), got, &said) == NUMBER_VALUE &&
             mpq_equal(want, got),
         "%s, %s, operation %d: %s", t[0].bytes, t[1].bytes, op, out);
  mpq_clears(want, got, NULL);
}


static void check_compare(const struct text *t) {
  int order = 2, err = exact_compare(t[0].bytes, t[1].bytes, &order);
  if (t[0].within && t[1].within) {
    int c = mpq_cmp(t[0].value, t[1].value);
    EXPECT(err == EXACT_OK && order == (c > 0) - (c < 0), "%s, %s: %d, %d",
           t[0].bytes, t[1].bytes, err, order);
  }
}


static void check_ratio(const struct text *t, int scale) {
  char out[EXACT_TEXT_MAX];
  int err = exact_ratio(t[0].bytes, t[1].bytes, scale, out, sizeof out);
  if (t[0].within && t[1].within)
    EXPECT(err == (mpq_sgn(t[1].value) == 0 ? EXACT_ZERO : EXACT_OK),
           "%s / %s: %d", t[0].bytes, t[1].bytes, err);
  if (err != EXACT_OK)
    return;
  EXPECT(t[0].kind != NUMBER_NONE && t[1].kind != NUMBER_NONE, "%s / %s",
         t[0].bytes, t[1].bytes);
  mpq_t want, got;
  mpz_t rounded;
  mpq_inits(want, got, NULL);
  mpz_init(rounded);
  mpq_div(want, t[0].value, t[1].value);
  mpq_shift(want, scale);
  mpq_round(rounded, want);
  result_value(out, scale, got);
  mpq_shift(got, scale);
  EXPECT(mpz_cmp(rounded, mpq_numref(got)) == 0, "%s / %s = %s", t[0].bytes,
         t[1].bytes, out);
  mpq_clears(want, got, NULL);
  mpz_clear(rounded);
}


/* (r - half)^2 <= v < (r + half)^2, r at `scale`. */
static void check_root(const mpq_t v, const mpq_t r, int scale) {
  mpq_t half, edge;
  mpq_inits(half, edge, NULL);
  mpq_set_ui(half, 1, 2);
  mpq_shift(half, -scale);
  mpq_add(edge, r, half);
  mpq_mul(edge, edge, edge);
  EXPECT(mpq_cmp(v, edge) < 0, "the root is too small");
  mpq_sub(edge, r, half);
  if (mpq_sgn(edge) > 0) {
    mpq_mul(edge, edge, edge);
    EXPECT(mpq_cmp(v, edge) >= 0, "the root is too great");
  }
  mpq_clears(half, edge, NULL);
}


/* texts: n, sum, sum of squares. */
static void check_stddev(const struct text *t, int sample, int scale) {
  char out[EXACT_TEXT_MAX];
  int err = exact_stddev(t[0].bytes, t[1].bytes, t[2].bytes, sample, scale, out,
                         sizeof out);
  if (err == EXACT_OK)
    EXPECT(t[0].kind != NUMBER_NONE && t[1].kind != NUMBER_NONE &&
               t[2].kind != NUMBER_NONE,
           "%s, %s, %s", t[0].bytes, t[1].bytes, t[2].bytes);
  if (!t[0].within || !t[1].within || !t[2].within)
    return;
  mpq_t v, s, divisor;
  mpq_inits(v, s, divisor, NULL);
  mpq_mul(v, t[0].value, t[2].value);
  mpq_mul(s, t[1].value, t[1].value);
  mpq_sub(v, v, s);
  mpq_set_si(divisor, sample, 1);
  mpq_sub(divisor, t[0].value, divisor);
  int want = mpz_cmp_ui(mpq_denref(t[0].value), 1) != 0 ? EXACT_SYNTAX
             : mpq_sgn(divisor) <= 0                    ? EXACT_ZERO
             : mpq_sgn(v) < 0                           ? EXACT_NEGATIVE
                                                        : EXACT_OK;
  EXPECT(err == want, "%s, %s, %s: %d, not %d", t[0].bytes, t[1].bytes,
         t[2].bytes, err, want);
  if (err == EXACT_OK) {
    mpq_mul(divisor, divisor, t[0].value);
    mpq_div(v, v, divisor);
    result_value(out, scale, s);
    check_root(v, s, scale);
  }
  mpq_clears(v, s, divisor, NULL);
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct text t[TEXTS];
  struct bytes b = {data, data + size};
  unsigned op = take_below(&b, 8);
  int scale = (int)take_below(&b, 64);
  for (int i = 0; i < TEXTS; i++)
    text_take(&t[i], &b);
  if (op < 3)
    check_apply(t, (int)op);
  else if (op == 3)
    check_compare(t);
  else if (op < 6)
    check_ratio(t, scale);
  else
    check_stddev(t, op == 7, scale);
  for (int i = 0; i < TEXTS; i++)
    mpq_clear(t[i].value);
  return 0;
}
