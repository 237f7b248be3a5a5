/* moment_test.c - every form of time, the C library's calendar as the judge. */
#include <gmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "moment.h"

static uint64_t seed = UINT64_C(20240812);


static uint64_t random_next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}


struct accepted {
  const char *text;
  enum time_unit unit;
  int64_t ms;
};

static const struct accepted accepted[] = {
    /* seconds, with a fraction that is floored */
    {"1723161255", TIME_AUTO, 1723161255000},
    {"1723161255.342", TIME_AUTO, 1723161255342},
    {"1723161255.3", TIME_AUTO, 1723161255300},
    {"1723161255.3429", TIME_AUTO, 1723161255342},
    {"1723161255.342999999999999999999999", TIME_AUTO, 1723161255342},
    {"1723161255.9999999", TIME_AUTO, 1723161255999},
    {"1700000000.123", TIME_AUTO, 1700000000123},
    {"1.723161255342e9", TIME_AUTO, 1723161255342},
    {"1.723161255342E+9", TIME_AUTO, 1723161255342},
    {"17231612553420e-4", TIME_AUTO, 1723161255342},
    {"0", TIME_AUTO, 0},
    {"-0", TIME_AUTO, 0},
    {"-0.0", TIME_AUTO, 0},
    {"0.0019", TIME_AUTO, 1},
    {"0.0009", TIME_AUTO, 0},
    {"1e-9", TIME_AUTO, 0},
    {"1e-999999999999999999999", TIME_AUTO, 0},
    {"0e999999999999999999999", TIME_AUTO, 0},
    /* told apart by magnitude */
    {"99999999999", TIME_AUTO, 99999999999000},
    {"99999999999.9999", TIME_AUTO, 99999999999999},
    {"100000000000", TIME_AUTO, 100000000000},
    {"1723161255342", TIME_AUTO, 1723161255342},
    {"1723161255342.9", TIME_AUTO, 1723161255342},
    {"1.723161255342e12", TIME_AUTO, 1723161255342},
    {"99999999999999", TIME_AUTO, 99999999999999},
    {"100000000000000", TIME_AUTO, 100000000000},
    {"1735689600000000", TIME_AUTO, 1735689600000},
    {"1723161255342999", TIME_AUTO, 1723161255342},
    {"99999999999999999", TIME_AUTO, 99999999999999},
    {"100000000000000000", TIME_AUTO, 100000000000},
    {"1723161254087896568", TIME_AUTO, 1723161254087},
    {"1723161254087999999", TIME_AUTO, 1723161254087},
    {"1.723161254087896568e18", TIME_AUTO, 1723161254087},
    {"9223372036854775808", TIME_AUTO, 9223372036854},
    {"253402300799999999999", TIME_AUTO, 253402300799999},
    /* the unit given */
    {"1723161255342", TIME_MS, 1723161255342},
    {"1723161255", TIME_MS, 1723161255},
    {"253402300799.999", TIME_S, 253402300799999},
    {"1723161255342", TIME_US, 1723161255},
    {"1723161255342", TIME_NS, 1723161},
    {"999999", TIME_NS, 0},
    {"1.5", TIME_S, 1500},
    {"1.999", TIME_MS, 1},
    {"123456.123456789012", TIME_NS, 0},
    /* text */
    {"2024-08-08T23:54:15.342Z", TIME_AUTO, 1723161255342},
    {"2024-08-08t23:54:15.342z", TIME_AUTO, 1723161255342},
    {"2024-08-08 23:54:15.342", TIME_AUTO, 1723161255342},
    {"2024-08-08 23:54:15", TIME_AUTO, 1723161255000},
    {"2024-08-08T23:54:15", TIME_AUTO, 1723161255000},
    {"2024-08-08 23:54:15Z", TIME_AUTO, 1723161255000},
    {"2024-08-09T01:54:15.342+02:00", TIME_AUTO, 1723161255342},
    {"2024-08-09T01:54:15.342+0200", TIME_AUTO, 1723161255342},
    {"2024-08-08T18:54:15.342-05", TIME_AUTO, 1723161255342},
    {"2024-08-09T05:24:15.342+05:30", TIME_AUTO, 1723161255342},
    {"2024-08-08T23:54:15.342-00:00", TIME_AUTO, 1723161255342},
    {"2024-03-13T11:00:17.710679Z", TIME_AUTO, 1710327617710},
    {"2024-03-13T11:00:17.7Z", TIME_AUTO, 1710327617700},
    {"2024-03-13T11:00:17.99999999999999999999Z", TIME_AUTO, 1710327617999},
    {"1970-01-01T00:00:00Z", TIME_AUTO, 0},
    {"1969-12-31T23:00:00-01:00", TIME_AUTO, 0},
    {"2000-02-29T00:00:00Z", TIME_AUTO, 951782400000},
    {"2024-02-29T00:00:00Z", TIME_AUTO, 1709164800000},
    {"2024-12-31T23:59:59.999Z", TIME_AUTO, 1735689599999},
    {"9999-12-31T23:59:59.999Z", TIME_AUTO, 253402300799999},
    {"2024-08-08T23:54:15Z", TIME_MS, 1723161255000},
};

struct refused {
  const char *text;
  enum time_unit unit;
  int err;
};

static const struct refused refused[] = {
    {"-1", TIME_AUTO, MOMENT_RANGE},
    {"-0.0001", TIME_AUTO, MOMENT_RANGE},
    {"253402300800", TIME_S, MOMENT_RANGE},
    {"253402300800000", TIME_MS, MOMENT_RANGE},
    {"253402300800000000000", TIME_AUTO, MOMENT_RANGE},
    {"1e999999999", TIME_AUTO, MOMENT_RANGE},
    {"1e99999999999999999999999", TIME_AUTO, MOMENT_RANGE},
    {"99999999999999999999999999", TIME_AUTO, MOMENT_RANGE},
    {"9999-12-31T23:59:59-05:00", TIME_AUTO, MOMENT_RANGE},
    {"1970-01-01T00:00:00+02:00", TIME_AUTO, MOMENT_RANGE},
    {"1969-12-31T23:59:59Z", TIME_AUTO, MOMENT_RANGE},
    {"0000-01-01T00:00:00Z", TIME_AUTO, MOMENT_RANGE},
    {"2024-13-01T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-00-01T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-00T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-32T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-04-31T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2023-02-29T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2100-02-29T00:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-01T24:00:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-01T00:60:00Z", TIME_AUTO, MOMENT_FIELD},
    {"2016-12-31T23:59:60Z", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-01T00:00:00+24:00", TIME_AUTO, MOMENT_FIELD},
    {"2024-01-01T00:00:00+02:60", TIME_AUTO, MOMENT_FIELD},
    {"", TIME_AUTO, MOMENT_SYNTAX},
    {"now", TIME_AUTO, MOMENT_SYNTAX},
    {"NaN", TIME_AUTO, MOMENT_SYNTAX},
    {"+1723161255", TIME_AUTO, MOMENT_SYNTAX},
    {" 1723161255", TIME_AUTO, MOMENT_SYNTAX},
    {"1723161255 ", TIME_AUTO, MOMENT_SYNTAX},
    {"01723161255", TIME_AUTO, MOMENT_SYNTAX},
    {"1723161255.", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15.", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15.Z", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15,342Z", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15.342 Z", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15.342ZZ", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15 UTC", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+2", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+02:", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+02:0", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+020", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+02000", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23:54:15+02:00:00", TIME_AUTO, MOMENT_SYNTAX},
    {"2024/08/08 23:54:15", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-8-8 23:54:15", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08_23:54:15", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T23-54-15", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T2a:54:15", TIME_AUTO, MOMENT_SYNTAX},
    {"2024-08-08T-1:54:15", TIME_AUTO, MOMENT_SYNTAX},
    {"Thu, 08 Aug 2024 23:54:15 GMT", TIME_AUTO, MOMENT_SYNTAX},
};


static void test_accepted(void) {
  for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
    const struct accepted *c = &accepted[i];
    int64_t ms = -1;
    int err = moment_parse(c->text, strlen(c->text), c->unit, &ms);
    CHECK(err == MOMENT_OK && ms == c->ms, "%s gave %d, %lld", c->text, err,
          (long long)ms);
  }
}


static void test_refused(void) {
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    const struct refused *c = &refused[i];
    int64_t ms = -1;
    int err = moment_parse(c->text, strlen(c->text), c->unit, &ms);
    CHECK(err == c->err, "%s gave %d, %lld", c->text, err, (long long)ms);
  }
}


static void test_format(void) {
  static const struct {
    int64_t ms;
    enum moment_form form;
    const char *want;
  } cases[] = {
      {1723161255342, MOMENT_ISO, "2024-08-08T23:54:15.342Z"},
      {1723161255342, MOMENT_SQL, "2024-08-08 23:54:15"},
      {1723161255999, MOMENT_SQL, "2024-08-08 23:54:15"},
      {1723161255007, MOMENT_SQL3, "2024-08-08 23:54:15.007"},
      {0, MOMENT_ISO, "1970-01-01T00:00:00.000Z"},
      {-1, MOMENT_ISO, "1969-12-31T23:59:59.999Z"},
      {-1, MOMENT_SQL, "1969-12-31 23:59:59"},
      {-62167219200000, MOMENT_SQL, "0000-01-01 00:00:00"},
      {-62167219200001, MOMENT_SQL, ""},
      {253402300799999, MOMENT_SQL3, "9999-12-31 23:59:59.999"},
      {253402300800000, MOMENT_ISO, ""},
      {INT64_MAX, MOMENT_ISO, ""},
      {INT64_MIN, MOMENT_ISO, ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char out[MOMENT_TEXT_MAX] = "";
    size_t len = moment_format(cases[i].ms, cases[i].form, out);
    CHECK(strcmp(out, cases[i].want) == 0 && len == strlen(out), "%lld: %s",
          (long long)cases[i].ms, out);
  }
}


/* Every day from 0000 to 9999 as gmtime has it, and back. Under memcheck, which
 * would take minutes, every 19th: no period of the calendar. */
static void test_every_day(void) {
  int wrong = 0, days = 0, step = check_slow() >= 10 ? 19 : 1;
  for (int64_t day = -719528; day < 2932897; day += step, days++) {
    int64_t ms = day * 86400000 + (int64_t)(random_next() % 86400000), back;
    char out[MOMENT_TEXT_MAX], want[128];
    int64_t s = (ms - (ms % 1000 + 1000) % 1000) / 1000;
    time_t t = (time_t)s;
    struct tm tm;
    gmtime_r(&t, &tm);
    snprintf(want, sizeof want, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
             tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
             tm.tm_min, tm.tm_sec, (int)(ms - s * 1000));
    size_t len = moment_format(ms, MOMENT_ISO, out);
    wrong += strcmp(out, want) != 0;
    int err = moment_parse(out, len, TIME_AUTO, &back);
    wrong += ms < 0 ? err != MOMENT_RANGE : err != MOMENT_OK || back != ms;
  }
  CHECK(wrong == 0, "%d of %d days differ from gmtime", wrong, days);
}


/* floor(digits * 10^exponent in the unit its size tells), by GMP. */
static int expected(const char *digits, int64_t exponent, int64_t *ms) {
  mpz_t whole, limit;
  mpz_inits(whole, limit, NULL);
  mpq_t v, power;
  mpq_inits(v, power, NULL);
  mpz_set_str(mpq_numref(v), digits, 10);
  mpz_ui_pow_ui(mpq_numref(power), 10,
                (unsigned long)(exponent < 0 ? -exponent : exponent));
  if (exponent < 0)
    mpq_div(v, v, power);
  else
    mpq_mul(v, v, power);
  mpz_fdiv_q(whole, mpq_numref(v), mpq_denref(v));
  static const unsigned long sizes[] = {11, 14, 17};
  static const long factors[][2] = {{1000, 1}, {1, 1}, {1, 1000}, {1, 1000000}};
  int unit = 0;
  for (; unit < 3; unit++) {
    mpz_ui_pow_ui(limit, 10, sizes[unit]);
    if (mpz_cmp(whole, limit) < 0)
      break;
  }
  mpq_set_si(power, factors[unit][0], (unsigned long)factors[unit][1]);
  mpq_mul(v, v, power);
  mpz_fdiv_q(whole, mpq_numref(v), mpq_denref(v));
  int fits = mpz_cmp_si(whole, 253402300799999) <= 0;
  *ms = fits ? mpz_get_si(whole) : 0;
  mpz_clears(whole, limit, NULL);
  mpq_clears(v, power, NULL);
  return fits;
}


static void test_numbers_random(void) {
  int wrong = 0, fitted = 0, numbers = check_slow() >= 10 ? 20000 : 200000;
  for (int i = 0; i < numbers; i++) {
    char digits[40], text[80];
    int count = (int)(random_next() % 28 + 1);
    int point = (int)(random_next() % (unsigned)count) + 1;
    int exponent = i % 3 == 0 ? (int)(random_next() % 25) - 12 : 0;
    digits[0] = (char)('1' + random_next() % 9);
    for (int k = 1; k < count; k++)
      digits[k] = (char)('0' + random_next() % 10);
    digits[count] = '\0';
    int len = snprintf(text, sizeof text, "%.*s", point, digits);
    if (point < count)
      len += snprintf(text + len, sizeof text - (size_t)len, ".%s",
                      digits + point);
    if (i % 3 == 0)
      len += snprintf(text + len, sizeof text - (size_t)len, "e%d", exponent);
    int64_t want, ms = 0;
    int fits = expected(digits, exponent - (count - point), &want);
    int err = moment_parse(text, (size_t)len, TIME_AUTO, &ms);
    wrong += fits ? err != MOMENT_OK || ms != want : err != MOMENT_RANGE;
    fitted += fits;
  }
  CHECK(wrong == 0, "%d of %d numbers differ from GMP", wrong, numbers);
  CHECK(fitted > numbers / 2, "%d numbers were times", fitted);
}


int main(void) {
  const char *given = getenv("CHECK_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0) | 1;
  printf("moment_test: seed %llu\n", (unsigned long long)seed);
  test_accepted();
  test_refused();
  test_format();
  test_every_day();
  test_numbers_random();
  return check_done();
}
