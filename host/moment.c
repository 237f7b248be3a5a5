/* moment.c - time as text and numbers. See moment.h. */
#include <stdio.h>
#include <string.h>

#include "moment.h"

#define MOMENT_END INT64_C(253402300800000) /* the year 10000 */
#define DAY_MS INT64_C(86400000)
#define YEAR_0_MS (INT64_C(-719528) * DAY_MS)

/* Powers of ten that turn seconds, ms, us, ns into milliseconds. */
static const int unit_shift[] = {
    [TIME_S] = 3, [TIME_MS] = 0, [TIME_US] = -3, [TIME_NS] = -6};


static enum time_unit moment_unit(int64_t whole_digits) {
  if (whole_digits <= 11)
    return TIME_S;
  if (whole_digits <= 14)
    return TIME_MS;
  return whole_digits <= 17 ? TIME_US : TIME_NS;
}


/* Any length, any exponent: the floor needs only the digits before the last
 * millisecond, at most 15 of them. */
static int moment_of_long(const struct number *n, enum time_unit unit,
                          int64_t *ms) {
  size_t count = n->whole + n->fraction, first = 0;
  while (first < count && n->digits[first + (first >= n->whole)] == '0')
    first++;
  *ms = 0;
  if (first == count)
    return MOMENT_OK;
  if (n->negative)
    return MOMENT_RANGE;
  int64_t top = (int64_t)n->whole - (int64_t)first + n->exponent;
  int64_t take = top + unit_shift[unit != TIME_AUTO ? unit : moment_unit(top)];
  if (take > 15)
    return MOMENT_RANGE;
  int64_t v = 0;
  for (size_t i = first; take > 0; take--, i++)
    v = v * 10 + (i < count ? n->digits[i + (i >= n->whole)] - '0' : 0);
  if (v >= MOMENT_END)
    return MOMENT_RANGE;
  *ms = v;
  return MOMENT_OK;
}


int moment_of(const struct number *n, enum time_unit unit, int64_t *ms) {
  if (n->exponent != 0 || n->negative || n->whole + n->fraction > 18)
    return moment_of_long(n, unit, ms);
  /* A JSON number has no leading zeros, so digits tell the magnitude. */
  if (unit == TIME_AUTO)
    unit = moment_unit((int64_t)n->whole);
  int shift = unit_shift[unit] - (int)n->fraction;
  if (shift > 0 && n->whole + n->fraction > 15)
    return moment_of_long(n, unit, ms);
  if (shift < -18)
    return moment_of_long(n, unit, ms);
  uint64_t power = (uint64_t)decimal_power(shift < 0 ? -shift : shift);
  uint64_t v = shift < 0 ? n->small / power : n->small * power;
  if (v >= (uint64_t)MOMENT_END)
    return MOMENT_RANGE;
  *ms = (int64_t)v;
  return MOMENT_OK;
}


/* `n` digits at `p` as a number, or -1. */
static int moment_digits(const char *p, const char *end, int n) {
  int v = 0;
  if (end - p < n)
    return -1;
  for (int i = 0; i < n; i++) {
    unsigned digit = (unsigned char)(p[i] - '0');
    if (digit > 9)
      return -1;
    v = v * 10 + (int)digit;
  }
  return v;
}


static int moment_leap(int year) {
  return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}


static int moment_month_days(int year, int month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return days[month - 1] + (month == 2 && moment_leap(year));
}


/* Days from 1 January of the year 0 to 1 January of `year`. */
static int64_t moment_year_days(int year) {
  int before = year - 1;
  if (year == 0)
    return 0;
  return INT64_C(366) + 365 * before + before / 4 - before / 100 + before / 400;
}


static int64_t moment_days(int year, int month, int day) {
  int64_t days = moment_year_days(year) - 719528 + day - 1;
  for (int m = 1; m < month; m++)
    days += moment_month_days(year, m);
  return days;
}


/* YYYY-MM-DD, T or a space, HH:MM:SS: 19 bytes. */
static int moment_civil(const char *p, const char *end, int64_t *ms) {
  if (end - p < 19 || p[4] != '-' || p[7] != '-' ||
      (p[10] != 'T' && p[10] != 't' && p[10] != ' ') || p[13] != ':' ||
      p[16] != ':')
    return MOMENT_SYNTAX;
  int year = moment_digits(p, end, 4), month = moment_digits(p + 5, end, 2);
  int day = moment_digits(p + 8, end, 2), hour = moment_digits(p + 11, end, 2);
  int minute = moment_digits(p + 14, end, 2);
  int second = moment_digits(p + 17, end, 2);
  if ((year | month | day | hour | minute | second) < 0)
    return MOMENT_SYNTAX;
  if (month < 1 || month > 12 || day < 1 ||
      day > moment_month_days(year, month) || hour > 23 || minute > 59 ||
      second > 59)
    return MOMENT_FIELD;
  *ms = moment_days(year, month, day) * DAY_MS +
        ((hour * INT64_C(60) + minute) * 60 + second) * 1000;
  return MOMENT_OK;
}


/* Nothing, Z, +HH, +HHMM or +HH:MM up to the end. */
static int moment_offset(const char *p, const char *end, int64_t *ms) {
  *ms = 0;
  if (p == end || ((*p == 'Z' || *p == 'z') && p + 1 == end))
    return MOMENT_OK;
  if (*p != '+' && *p != '-')
    return MOMENT_SYNTAX;
  int west = *p++ == '-';
  int hour = moment_digits(p, end, 2), minute = 0;
  if (hour < 0)
    return MOMENT_SYNTAX;
  p += 2;
  if (p < end) {
    p += *p == ':';
    minute = moment_digits(p, end, 2);
    if (minute < 0 || end - p != 2)
      return MOMENT_SYNTAX;
  }
  if (hour > 23 || minute > 59)
    return MOMENT_FIELD;
  *ms = (hour * INT64_C(60) + minute) * 60000;
  if (west)
    *ms = -*ms;
  return MOMENT_OK;
}


static int moment_iso(const char *p, const char *end, int64_t *ms) {
  int64_t at, offset;
  int err = moment_civil(p, end, &at);
  if (err != MOMENT_OK)
    return err;
  p += 19;
  if (p < end && *p == '.') {
    const char *first = ++p;
    /* Three digits count, the rest is cut: that is the floor. */
    for (int64_t place = 100; p < end && *p >= '0' && *p <= '9'; p++) {
      at += place * (*p - '0');
      place /= 10;
    }
    if (p == first)
      return MOMENT_SYNTAX;
  }
  err = moment_offset(p, end, &offset);
  if (err != MOMENT_OK)
    return err;
  at -= offset;
  if (at < 0 || at >= MOMENT_END)
    return MOMENT_RANGE;
  *ms = at;
  return MOMENT_OK;
}


int moment_parse(const char *text, size_t n, enum time_unit unit, int64_t *ms) {
  struct number number;
  const char *wrong;
  if (number_scan(text, text + n, &number, &wrong) == text + n)
    return moment_of(&number, unit, ms);
  return moment_iso(text, text + n, ms);
}


const char *moment_explain(int err) {
  switch (err) {
  case MOMENT_OK:
    return "a time";
  case MOMENT_FIELD:
    return "no such date or time of day";
  case MOMENT_RANGE:
    return "before 1970 or after the year 9999";
  default:
    return "not a time";
  }
}


size_t moment_format(int64_t ms, enum moment_form form, char *out) {
  if (ms < YEAR_0_MS || ms >= MOMENT_END)
    return 0;
  int64_t since = ms - YEAR_0_MS;
  int64_t days = since / DAY_MS;
  int rest = (int)(since % DAY_MS);
  int year = (int)(days / 366); /* a few years too early, never late */
  while (moment_year_days(year + 1) <= days)
    year++;
  int day = (int)(days - moment_year_days(year)) + 1, month = 1;
  while (day > moment_month_days(year, month))
    day -= moment_month_days(year, month++);
  int hour = rest / 3600000, minute = rest / 60000 % 60;
  int second = rest / 1000 % 60;
  int len = snprintf(out, MOMENT_TEXT_MAX, "%04d-%02d-%02d%c%02d:%02d:%02d",
                     year, month, day, form == MOMENT_ISO ? 'T' : ' ', hour,
                     minute, second);
  if (form != MOMENT_SQL)
    len += snprintf(out + len, MOMENT_TEXT_MAX - (size_t)len, ".%03d%s",
                    rest % 1000, form == MOMENT_ISO ? "Z" : "");
  return (size_t)len;
}
