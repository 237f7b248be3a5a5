/* upsert.h - the sealed deltas as rows of a multi-row INSERT.
 *
 * Deltas of the same key and window from several partitions are merged, sorted
 * by key and start (statements that lock in the same order do not deadlock),
 * and written as "(…),(…)", or packed: each value as its length (uint32_t of
 * this machine; UINT32_MAX: NULL) and its bytes, row by row, which a prepared
 * statement takes. The statement around them is the caller's. Pure C. */
#ifndef HOST_UPSERT_H
#define HOST_UPSERT_H

#include <stddef.h>
#include <stdint.h>

#include "store.h"

enum out_kind {
  OUT_KEY,
  OUT_START,
  OUT_END,
  OUT_COUNT,
  OUT_LATE,   /* revision: late rows added */
  OUT_FINAL,  /* 1 when the window's end is at or below final_ms */
  OUT_SUM,    /* PART_SUM or PART_PRODUCT as it is */
  OUT_VALUE,  /* min, max, first, last */
  OUT_PLACE,  /* BINARY(20): time, partition, offset, big endian */
  OUT_AVG,    /* sum / count */
  OUT_RATIO,  /* part / part_b, both PART_PRODUCT: vwap */
  OUT_STDDEV, /* part: sum of x; part_b: sum of x*x */
  OUT_STDDEV_SAMP
};

/* One column of the INSERT. */
struct out {
  enum out_kind kind;
  int part;
  int part_b;
  int scale;        /* of the part's number */
  int scale_b;      /* of part_b's number */
  int column_scale; /* AVG, RATIO, STDDEV: digits of the column */
  int fraction;     /* START, END: digits of DATETIME(n), 0..3 */
};

enum { UPSERT_MAX_OUTS = 64 };

/* The sealed rows of one window, merged and in order. */
struct merged {
  struct delta_table table;
  uint32_t *order;
  size_t count;
};

/* Growing text. */
struct sqltext {
  char *bytes;
  size_t len;
  size_t cap;
};

int merged_init(struct merged *m, const struct store *s, size_t window);
void merged_free(struct merged *m);

/* The i-th row in order. */
const struct delta *merged_row(const struct merged *m, size_t i);

/* Append rows from `from` on until `max_rows` rows or `max_bytes` bytes, as
 * "(…),(…)" or packed; returns the next row to write, or 0 when memory is out.
 */
typedef size_t upsert_writer(const struct merged *m, const struct window *win,
                             const struct out *outs, size_t out_count,
                             int64_t final_ms, size_t from, size_t max_rows,
                             size_t max_bytes, struct sqltext *sql);

upsert_writer upsert_render, upsert_pack;

/* Append one value of one row, as SQL. Returns 0, or -1: out of memory. */
int upsert_value(const struct merged *m, const struct delta *d,
                 const struct window *win, const struct out *o,
                 int64_t final_ms, struct sqltext *sql);

int sqltext_add(struct sqltext *t, const char *bytes, size_t len);

/* Append a quoted string literal: utf8mb4, backslash escapes on. */
int sqltext_quote(struct sqltext *t, const char *bytes, size_t len);

/* Append YYYY-MM-DD hh:mm:ss[.fff] of UTC milliseconds. */
int sqltext_datetime(struct sqltext *t, int64_t ms, int fraction);

#endif
