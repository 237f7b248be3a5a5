/* moment.c - fuzzes host/moment.c, and the dates of host/sqltext.c, against a
 * regular expression, timegm, gmtime_r and GMP. */
#include <regex.h>
#include <time.h>

#include "fuzz.h"
#include "moment.h"
#include "upsert.h"

#define END INT64_C(253402300800000)

enum { GROUPS = 10 };


/* The time that a number means, by what moment.h says of it. */
static int number_time(int kind, const mpq_t value, const struct said *said,
                       enum time_unit unit, int64_t *ms) {
  static const int shift[] = {
      [TIME_S] = 3, [TIME_MS] = 0, [TIME_US] = -3, [TIME_NS] = -6};
  mpq_t q;
  mpz_t whole, limit;
  if (mpq_sgn(value) == 0) {
    *ms = 0;
    return MOMENT_OK;
  }
  if (mpq_sgn(value) < 0 || (kind == NUMBER_FAR && said->scale < 0))
    return MOMENT_RANGE;
  if (kind == NUMBER_FAR) {
    *ms = 0;
    return MOMENT_OK;
  }
  mpq_init(q);
  mpz_inits(whole, limit, NULL);
  mpz_tdiv_q(whole, mpq_numref(value), mpq_denref(value));
  for (int i = 0; unit == TIME_AUTO && i < 3; i++) {
    mpz_power(limit, 11 + 3 * (unsigned long)i);
    if (mpz_cmp(whole, limit) < 0)
      unit = (enum time_unit)(TIME_S + i);
  }
  if (unit == TIME_AUTO)
    unit = TIME_NS;
  mpq_set(q, value);
  mpq_shift(q, shift[unit]);
  mpz_tdiv_q(whole, mpq_numref(q), mpq_denref(q));
  int ok = mpz_cmp_si(whole, END) < 0;
  if (ok)
    *ms = mpz_get_si(whole);
  mpq_clear(q);
  mpz_clears(whole, limit, NULL);
  return ok ? MOMENT_OK : MOMENT_RANGE;
}


static int group(const char *text, const regmatch_t *m) {
  return m->rm_so < 0 ? 0 : atoi(text + m->rm_so);
}


/* The time that a date means; MOMENT_SYNTAX when it is none. */
static int date_time(const char *text, int64_t *ms) {
  static regex_t re;
  static int ready;
  regmatch_t m[GROUPS];
  if (!ready)
    ready = regcomp(&re,
                    "^([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):"
                    "([0-9]{2}):([0-9]{2})([.][0-9]+)?([Zz]|[+-][0-9]{2}"
                    "(:?[0-9]{2})?)?$",
                    REG_EXTENDED) == 0;
  EXPECT(ready, "regcomp");
  if (regexec(&re, text, GROUPS, m, 0) != 0)
    return MOMENT_SYNTAX;
  struct tm tm = {.tm_year = group(text, &m[1]) - 1900,
                  .tm_mon = group(text, &m[2]) - 1,
                  .tm_mday = group(text, &m[3]),
                  .tm_hour = group(text, &m[4]),
                  .tm_min = group(text, &m[5]),
                  .tm_sec = group(text, &m[6])};
  struct tm real = tm;
  int64_t at = (int64_t)timegm(&real) * 1000;
  if (real.tm_mon != tm.tm_mon || real.tm_mday != tm.tm_mday ||
      real.tm_hour != tm.tm_hour || real.tm_min != tm.tm_min ||
      real.tm_sec != tm.tm_sec)
    return MOMENT_FIELD;
  if (m[7].rm_so >= 0) {
    char digits[4] = "000";
    for (int i = 0; i < 3 && m[7].rm_so + 1 + i < m[7].rm_eo; i++)
      digits[i] = text[m[7].rm_so + 1 + i];
    at += atoi(digits);
  }
  if (m[8].rm_so >= 0 && strchr("Zz", text[m[8].rm_so]) == NULL) {
    char hours[3] = {text[m[8].rm_so + 1], text[m[8].rm_so + 2], '\0'};
    int hour = atoi(hours);
    int minute = m[9].rm_so < 0 ? 0 : atoi(text + m[9].rm_eo - 2);
    if (hour > 23 || minute > 59)
      return MOMENT_FIELD;
    int64_t offset = (hour * 60 + minute) * INT64_C(60000);
    at -= text[m[8].rm_so] == '-' ? -offset : offset;
  }
  *ms = at;
  return at >= 0 && at < END ? MOMENT_OK : MOMENT_RANGE;
}


static void check_parse(const uint8_t *data, size_t size) {
  enum time_unit unit = (enum time_unit)(size > 0 ? data[0] % 5 : 0);
  size_t n = size > 0 ? size - 1 : 0;
  char *text = malloc(n + 1);
  struct said said;
  mpq_t value;
  int64_t ms = -1, want = -1;
  int err;
  if (n > 0)
    memcpy(text, data + 1, n);
  text[n] = '\0';
  mpq_init(value);
  int kind = number_value(text, text + n, value, &said);
  if (kind != NUMBER_NONE)
    err = number_time(kind, value, &said, unit, &want);
  else
    err = strlen(text) == n ? date_time(text, &want) : MOMENT_SYNTAX;
  int is = moment_parse(text, n, unit, &ms);
  /* A wrong day is told before what follows it is looked at. */
  EXPECT(is == err || (err == MOMENT_SYNTAX && is == MOMENT_FIELD),
         "%s: %d, not %d", text, is, err);
  if (is == MOMENT_OK)
    EXPECT(ms == want, "%s: %lld, not %lld", text, (long long)ms,
           (long long)want);
  EXPECT(moment_explain(is)[0] != '\0', "explained");
  mpq_clear(value);
  free(text);
}


/* gmtime_r's opinion; 0 outside the years 0 to 9999. */
static size_t plain_format(int64_t ms, enum moment_form form, char *out,
                           size_t size) {
  time_t s = (time_t)(ms / 1000 - (ms % 1000 < 0));
  int rest = (int)(ms % 1000 + (ms % 1000 < 0 ? 1000 : 0));
  struct tm tm;
  if (gmtime_r(&s, &tm) == NULL || tm.tm_year < -1900 || tm.tm_year > 8099)
    return 0;
  int n =
      snprintf(out, size, "%04d-%02d-%02d%c%02d:%02d:%02d", tm.tm_year + 1900,
               tm.tm_mon + 1, tm.tm_mday, form == MOMENT_ISO ? 'T' : ' ',
               tm.tm_hour, tm.tm_min, tm.tm_sec);
  if (form != MOMENT_SQL)
    n += snprintf(out + n, size - (size_t)n, ".%03d%s", rest,
                  form == MOMENT_ISO ? "Z" : "");
  return (size_t)n;
}


static void check_format(struct bytes b) {
  char out[MOMENT_TEXT_MAX], want[64];
  enum moment_form form = (enum moment_form)take_below(&b, 3);
  int64_t ms = (int64_t)take(&b, 8) >> take_below(&b, 40), back = -1;
  size_t len = moment_format(ms, form, out);
  EXPECT(len == plain_format(ms, form, want, sizeof want), "%lld: %zu",
         (long long)ms, len);
  if (len == 0)
    return;
  EXPECT(strcmp(out, want) == 0, "%s, not %s", out, want);
  if (ms >= 0) {
    EXPECT(moment_parse(out, len, TIME_AUTO, &back) == MOMENT_OK, "%s", out);
    EXPECT(back == ms - (form == MOMENT_SQL ? ms % 1000 : 0), "%s", out);
  }
  if (form != MOMENT_ISO) {
    struct sqltext sql = {0};
    EXPECT(sqltext_datetime(&sql, ms, form == MOMENT_SQL ? 0 : 3) == 0,
           "no memory");
    EXPECT(sql.len == len && memcmp(sql.bytes, out, len) == 0, "%.*s",
           (int)sql.len, sql.bytes);
    free(sql.bytes);
  }
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  if (take_below(&b, 3) == 0)
    check_format(b);
  else
    check_parse(b.p, (size_t)(b.end - b.p));
  return 0;
}
