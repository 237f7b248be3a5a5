/* scan.h - a strict one-pass scanner of RFC 8259 JSON.
 *
 * It checks every byte it passes, UTF-8 included, builds no tree, allocates
 * nothing and does not recurse: what nests deeper than SCAN_DEPTH_MAX is
 * refused. A position travels as a plain pointer; NULL is a failure, described
 * in struct scan. Lone surrogate escapes are valid JSON text here and refused
 * by scan_unescape; numbers have any size. A caller that walks an object
 * itself (decode.c) hands every value it does not want to scan_value. */
#ifndef HOST_SCAN_H
#define HOST_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "decimal.h" /* struct number */

enum scan_type {
  SCAN_STRING,
  SCAN_NUMBER,
  SCAN_TRUE,
  SCAN_FALSE,
  SCAN_NULL,
  SCAN_OBJECT,
  SCAN_ARRAY
};

enum scan_error { SCAN_OK, SCAN_SYNTAX, SCAN_UTF8, SCAN_DEPTH };

/* More than the deepest message anybody sends, small enough for a bitmap. */
enum { SCAN_DEPTH_MAX = 512, SCAN_TEXT_MAX = 128 };

struct scan {
  const char *start;
  const char *end;
  const char *at;       /* after a failure: the byte that does not fit */
  const char *expected; /* after a failure, SCAN_SYNTAX: what would fit */
  enum scan_error error;
};

/* One value. `text` is what stands between the quotes of a string, and the
 * whole text of anything else. */
struct scan_value {
  const char *text;
  size_t len;
  struct number number; /* SCAN_NUMBER */
  enum scan_type type;
  int escaped; /* a string with a backslash: `text` is not its value */
  int wide;    /* a string with bytes beyond ASCII */
};

/* Begin; returns the first byte after a UTF-8 byte order mark. */
const char *scan_begin(struct scan *s, const char *text, size_t n);

/* The string whose opening quote is before `p`; returns the byte after its
 * closing quote. */
const char *scan_string(struct scan *s, const char *p, struct scan_value *v);

/* Any value; `p` may be white space before it. `depth` objects and arrays are
 * open around it. */
const char *scan_value(struct scan *s, const char *p, int depth,
                       struct scan_value *v);

/* Nothing but white space may follow. */
const char *scan_finish(struct scan *s, const char *p);

/* Record a failure at `p`; returns NULL. */
const char *scan_fail(struct scan *s, const char *p, const char *expected);

/* Write "byte 18: expected ',' or '}', got 'x'" into out[SCAN_TEXT_MAX]; bytes
 * count from 1. */
void scan_explain(const struct scan *s, char *out);

/* The place of the failure, counted from 1. */
size_t scan_place(const struct scan *s);

/* Is `text` one valid JSON value? Otherwise `s` tells why not. */
int scan_valid(struct scan *s, const char *text, size_t n);

/* Decode the escapes of a string that scan_string accepted, [p, end), into
 * `out` of `cap` (>= 4) bytes, as far as it has room. *len is the number of
 * bytes written; returns where to go on, `end` when done, NULL at a surrogate
 * that has no partner. */
const char *scan_unescape(const char *p, const char *end, char *out, size_t cap,
                          size_t *len);

/* The first byte that is not white space, or `end`. */
static inline const char *scan_space(const char *p, const char *end) {
  while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
    p++;
  return p;
}

#endif
