/* sqltext.c - growing SQL text: literals and dates. Declared in upsert.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "upsert.h"


int sqltext_add(struct sqltext *t, const char *bytes, size_t len) {
  if (t->len + len > t->cap) {
    size_t cap = t->cap < 4096 ? 4096 : t->cap * 2;
    while (cap < t->len + len)
      cap *= 2;
    char *p = realloc(t->bytes, cap);
    if (p == NULL)
      return -1;
    t->bytes = p;
    t->cap = cap;
  }
  if (len > 0)
    memcpy(t->bytes + t->len, bytes, len);
  t->len += len;
  return 0;
}


/* The letter after the backslash, or 0 for a byte that stands for itself. */
static char sqltext_escape(char c) {
  switch (c) {
  case '\0':
    return '0';
  case '\n':
    return 'n';
  case '\r':
    return 'r';
  case '\x1a':
    return 'Z';
  case '\'':
  case '"':
  case '\\':
    return c;
  default:
    return 0;
  }
}


int sqltext_quote(struct sqltext *t, const char *bytes, size_t len) {
  int err = sqltext_add(t, "'", 1);
  size_t plain = 0; /* start of the bytes not written yet */
  for (size_t i = 0; i < len; i++) {
    char e = sqltext_escape(bytes[i]);
    if (e == 0)
      continue;
    char pair[2] = {'\\', e};
    err |= sqltext_add(t, bytes + plain, i - plain);
    err |= sqltext_add(t, pair, 2);
    plain = i + 1;
  }
  err |= sqltext_add(t, bytes + plain, len - plain);
  err |= sqltext_add(t, "'", 1);
  return err != 0 ? -1 : 0;
}


/* Civil date from days since 1970-01-01, proleptic Gregorian; the arithmetic
 * counts years from March so that leap days come last. */
static void date_from_days(int64_t days, int64_t *y, int *m, int *d) {
  days += 719468;
  int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  int64_t day = days - era * 146097;
  int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  int64_t of_year = day - (365 * year + year / 4 - year / 100);
  int64_t month = (5 * of_year + 2) / 153;
  *d = (int)(of_year - (153 * month + 2) / 5 + 1);
  *m = (int)(month < 10 ? month + 3 : month - 9);
  *y = year + era * 400 + (*m <= 2);
}


/* `n` digits of `v`, with leading zeros. */
static char *put_digits(char *out, int v, int n) {
  for (int i = n - 1; i >= 0; i--, v /= 10)
    out[i] = (char)('0' + v % 10);
  return out + n;
}


int sqltext_datetime(struct sqltext *t, int64_t ms, int fraction) {
  static const int64_t day_ms = 86400000;
  int64_t days = ms / day_ms - (ms % day_ms < 0);
  int rest = (int)(ms - days * day_ms);
  int64_t year;
  int month, day;
  date_from_days(days, &year, &month, &day);
  char out[64], *p = out;
  if (year >= 0 && year <= 9999)
    p = put_digits(p, (int)year, 4);
  else
    p += sprintf(p, "%04lld", (long long)year);
  const int parts[] = {month, day, rest / 3600000, rest / 60000 % 60,
                       rest / 1000 % 60};
  for (int i = 0; i < 5; i++) {
    *p++ = "-- ::"[i];
    p = put_digits(p, parts[i], 2);
  }
  if (fraction > 0) {
    *p++ = '.';
    put_digits(p, rest % 1000, 3);
    p += fraction < 3 ? fraction : 3;
  }
  return sqltext_add(t, out, (size_t)(p - out));
}
