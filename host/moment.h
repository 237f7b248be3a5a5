/* moment.h - time as text and numbers, to and from milliseconds since 1970.
 *
 * UTC only, floored to a millisecond, never through a double. What lies before
 * 1970 or after the year 9999 is refused. It knows no time zone but offsets,
 * and no leap seconds: POSIX time has none. */
#ifndef HOST_MOMENT_H
#define HOST_MOMENT_H

#include <stddef.h>
#include <stdint.h>

#include "decimal.h" /* struct number */

/* TIME_AUTO tells the unit of a number by the size of its whole part: below
 * 10^11 seconds, below 10^14 milliseconds, below 10^17 microseconds, else
 * nanoseconds. */
enum time_unit { TIME_AUTO, TIME_S, TIME_MS, TIME_US, TIME_NS };

enum {
  MOMENT_OK = 0,
  MOMENT_SYNTAX = -1, /* neither a number nor a date with a time */
  MOMENT_FIELD = -2,  /* a month, day, hour, ... that does not exist */
  MOMENT_RANGE = -3   /* before 1970 or after 9999 */
};

enum moment_form {
  MOMENT_ISO, /* 2024-08-09T12:00:00.123Z */
  MOMENT_SQL, /* 2024-08-09 12:00:00 */
  MOMENT_SQL3 /* 2024-08-09 12:00:00.123 */
};

enum { MOMENT_TEXT_MAX = 32 };

/* The time that a number means. */
int moment_of(const struct number *n, enum time_unit unit, int64_t *ms);

/* The time that all `n` bytes of a text mean: YYYY-MM-DD, a T or a space,
 * HH:MM:SS, perhaps a fraction, perhaps Z or an offset; or a JSON number. */
int moment_parse(const char *text, size_t n, enum time_unit unit, int64_t *ms);

/* What a failure of the above means, for people. */
const char *moment_explain(int err);

/* Write `ms`, floored to the form's last place, into out[MOMENT_TEXT_MAX],
 * NUL-ended; returns the length, or 0 outside the years 0 to 9999. */
size_t moment_format(int64_t ms, enum moment_form form, char *out);

#endif
