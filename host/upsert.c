/* upsert.c - the sealed deltas as rows of an INSERT. See upsert.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decimal.h"
#include "exact.h"
#include "upsert.h"

enum { NUMBER_MAX = 128, VALUE_NULL = 1, PLACE_BYTES = 20 };


/* A row on its way to its place. The first bytes in which keys differ decide
 * nearly every comparison without a look at the rows. */
struct sorted {
  uint64_t head;
  uint32_t row;
};


/* Order by key bytes, then window: the order of the table's binary key. */
static int merged_compare(const void *a, const void *b, void *arg) {
  const struct delta_table *t = arg;
  const struct sorted *p = a, *q = b;
  if (p->head != q->head)
    return p->head < q->head ? -1 : 1;
  const struct delta *x = delta_at(t, p->row), *y = delta_at(t, q->row);
  uint32_t len = x->key_len < y->key_len ? x->key_len : y->key_len;
  int order = memcmp(delta_key(t, x), delta_key(t, y), len);
  if (order != 0)
    return order;
  if (x->key_len != y->key_len)
    return x->key_len < y->key_len ? -1 : 1;
  return (x->start_ms > y->start_ms) - (x->start_ms < y->start_ms);
}


/* How many bytes all keys have in common at their start. */
static size_t merged_common(const struct delta_table *t) {
  const struct delta *first = t->count > 0 ? delta_at(t, 0) : NULL;
  size_t common = first != NULL ? first->key_len : 0;
  for (size_t i = 1; i < t->count && common > 0; i++) {
    const struct delta *d = delta_at(t, i);
    size_t n = 0, most = d->key_len < common ? d->key_len : common;
    while (n < most && delta_key(t, d)[n] == delta_key(t, first)[n])
      n++;
    common = n;
  }
  return common;
}


/* The 8 bytes from `at` on as a number that compares as they do; a shorter key
 * has zeros, as if it ended with them: then the rows are looked at. */
static uint64_t merged_head(const char *key, size_t len, size_t at) {
  unsigned char bytes[8] = {0};
  size_t n = len - at < sizeof bytes ? len - at : sizeof bytes;
  memcpy(bytes, key + at, n);
  uint64_t head = 0;
  for (size_t i = 0; i < sizeof bytes; i++)
    head = head << 8 | bytes[i];
  return head;
}


static int merged_sort(struct merged *m) {
  const struct delta_table *t = &m->table;
  struct sorted *list = malloc((t->count + 1) * sizeof *list);
  m->order = malloc((t->count + 1) * sizeof *m->order);
  if (list == NULL || m->order == NULL) {
    free(list);
    return -1;
  }
  size_t common = merged_common(t);
  for (size_t i = 0; i < t->count; i++) {
    const struct delta *d = delta_at(t, i);
    list[i].head = merged_head(delta_key(t, d), d->key_len, common);
    list[i].row = (uint32_t)i;
  }
  qsort_r(list, t->count, sizeof *list, merged_compare, &m->table);
  for (size_t i = 0; i < t->count; i++)
    m->order[i] = list[i].row;
  m->count = t->count;
  free(list);
  return 0;
}


int merged_init(struct merged *m, const struct store *s, size_t window) {
  const struct window *win = &s->windows[window];
  memset(m, 0, sizeof *m);
  delta_init(&m->table, win->slots);
  for (size_t i = 0; i < s->partitions_cap; i++) {
    const struct partition *p = s->partitions[i];
    if (p == NULL || !p->sealed)
      continue;
    if (delta_absorb(&m->table, &p->buffers[!p->active].tables[window],
                     win->parts, win->part_count) != DELTA_OK)
      return -1;
  }
  return merged_sort(m);
}


void merged_free(struct merged *m) {
  delta_free(&m->table);
  free(m->order);
  m->order = NULL;
  m->count = 0;
}


const struct delta *merged_row(const struct merged *m, size_t i) {
  return delta_at(&m->table, m->order[i]);
}


/* The part's number as text with its scale. */
static size_t part_text(const struct delta *d, const struct part *p, int scale,
                        char *out) {
  if (p->op == PART_PRODUCT)
    return wide_format((const struct wide *)(const void *)&d->slots[p->slot],
                       scale, out);
  return decimal_format(d->slots[p->slot], scale, out);
}


static int add_int(struct sqltext *sql, int64_t v) {
  char out[DECIMAL_TEXT_MAX];
  return sqltext_add(sql, out, decimal_format(v, 0, out));
}


/* The place: big endian with the signs flipped, so that bytes compare as (time,
 * partition, offset) does. */
static int add_place(struct sqltext *sql, struct place at) {
  const uint64_t parts[] = {(uint64_t)at.time_ms ^ (1ull << 63),
                            (uint32_t)at.partition ^ (1u << 31),
                            (uint64_t)at.offset ^ (1ull << 63)};
  static const int sizes[] = {8, 4, 8};
  char out[PLACE_BYTES];
  size_t n = 0;
  for (int i = 0; i < 3; i++)
    for (int shift = (sizes[i] - 1) * 8; shift >= 0; shift -= 8)
      out[n++] = (char)(unsigned char)(parts[i] >> shift);
  return sqltext_add(sql, out, n);
}


/* avg, vwap, stddev: exact text, or VALUE_NULL where it is not defined. */
static int add_derived(struct sqltext *sql, const struct delta *d,
                       const struct window *win, const struct out *o) {
  char a[NUMBER_MAX], b[NUMBER_MAX], n[32], out[NUMBER_MAX];
  int err;
  part_text(d, &win->parts[o->part], o->scale, a);
  snprintf(n, sizeof n, "%lld", (long long)d->count);
  if (o->kind == OUT_AVG) {
    err = exact_ratio(a, n, o->column_scale, out, sizeof out);
  } else {
    part_text(d, &win->parts[o->part_b], o->scale_b, b);
    if (o->kind == OUT_RATIO)
      err = exact_ratio(a, b, o->column_scale, out, sizeof out);
    else
      err = exact_stddev(n, a, b, o->kind == OUT_STDDEV_SAMP, o->column_scale,
                         out, sizeof out);
  }
  if (err != EXACT_OK)
    return VALUE_NULL;
  return sqltext_add(sql, out, strlen(out));
}


/* The common case of avg without big integers. */
static int add_avg(struct sqltext *sql, const struct delta *d,
                   const struct window *win, const struct out *o) {
  const struct part *p = &win->parts[o->part];
  char out[DECIMAL_TEXT_MAX];
  decimal avg;
  if (p->op != PART_SUM ||
      decimal_average(d->slots[p->slot], d->count, o->scale, o->column_scale,
                      &avg) != DECIMAL_OK)
    return add_derived(sql, d, win, o);
  return sqltext_add(sql, out, decimal_format(avg, o->column_scale, out));
}


/* Append one value as it is. Returns 0, VALUE_NULL with nothing appended, or
 * -1: out of memory. */
static int add_value(const struct merged *m, const struct delta *d,
                     const struct window *win, const struct out *o,
                     int64_t final_ms, struct sqltext *sql) {
  char out[NUMBER_MAX];
  int64_t end_ms = d->start_ms + win->size_ms;
  switch (o->kind) {
  case OUT_KEY:
    return sqltext_add(sql, delta_key(&m->table, d), d->key_len);
  case OUT_START:
    return sqltext_datetime(sql, d->start_ms, o->fraction);
  case OUT_END:
    return sqltext_datetime(sql, end_ms, o->fraction);
  case OUT_COUNT:
    return add_int(sql, d->count);
  case OUT_LATE:
    return add_int(sql, d->late);
  case OUT_FINAL:
    return sqltext_add(sql, end_ms <= final_ms ? "1" : "0", 1);
  case OUT_SUM:
  case OUT_VALUE:
    return sqltext_add(sql, out,
                       part_text(d, &win->parts[o->part], o->scale, out));
  case OUT_PLACE:
    return add_place(sql, delta_place(d, &win->parts[o->part]));
  case OUT_AVG:
    return add_avg(sql, d, win, o);
  default:
    return add_derived(sql, d, win, o);
  }
}


/* Bytes as x'..'. */
static int add_hex(struct sqltext *sql, const char *bytes, size_t len) {
  int err = sqltext_add(sql, "x'", 2);
  for (size_t i = 0; i < len; i++) {
    char out[3];
    snprintf(out, sizeof out, "%02x", (unsigned char)bytes[i]);
    err |= sqltext_add(sql, out, 2);
  }
  return err | sqltext_add(sql, "'", 1);
}


int upsert_value(const struct merged *m, const struct delta *d,
                 const struct window *win, const struct out *o,
                 int64_t final_ms, struct sqltext *sql) {
  char place[PLACE_BYTES];
  size_t head;
  int err;
  switch (o->kind) {
  case OUT_KEY:
    return sqltext_quote(sql, delta_key(&m->table, d), d->key_len);
  case OUT_START:
  case OUT_END:
    err = sqltext_add(sql, "'", 1);
    err |= add_value(m, d, win, o, final_ms, sql);
    return err | sqltext_add(sql, "'", 1);
  case OUT_PLACE:
    head = sql->len;
    if (add_value(m, d, win, o, final_ms, sql) != 0)
      return -1;
    memcpy(place, sql->bytes + head, sizeof place);
    sql->len = head;
    return add_hex(sql, place, sizeof place);
  default:
    err = add_value(m, d, win, o, final_ms, sql);
    return err == VALUE_NULL ? sqltext_add(sql, "null", 4) : err;
  }
}


size_t upsert_render(const struct merged *m, const struct window *win,
                     const struct out *outs, size_t out_count, int64_t final_ms,
                     size_t from, size_t max_rows, size_t max_bytes,
                     struct sqltext *sql) {
  size_t start_len = sql->len;
  size_t i = from;
  for (; i < m->count && i - from < max_rows; i++) {
    if (i > from && sql->len - start_len >= max_bytes)
      break;
    const struct delta *d = merged_row(m, i);
    int err = sqltext_add(sql, i > from ? ",(" : "(", i > from ? 2 : 1);
    for (size_t c = 0; c < out_count; c++) {
      if (c > 0)
        err |= sqltext_add(sql, ",", 1);
      err |= upsert_value(m, d, win, &outs[c], final_ms, sql);
    }
    err |= sqltext_add(sql, ")", 1);
    if (err != 0)
      return 0;
  }
  return i;
}


/* Append one packed value; 0, or -1: out of memory. */
static int pack_value(const struct merged *m, const struct delta *d,
                      const struct window *win, const struct out *o,
                      int64_t final_ms, struct sqltext *rows) {
  uint32_t len = UINT32_MAX;
  size_t head = rows->len;
  if (sqltext_add(rows, (const char *)&len, sizeof len) != 0)
    return -1;
  int err = add_value(m, d, win, o, final_ms, rows);
  if (err == VALUE_NULL)
    return 0;
  len = (uint32_t)(rows->len - head - sizeof len);
  memcpy(rows->bytes + head, &len, sizeof len);
  return err;
}


size_t upsert_pack(const struct merged *m, const struct window *win,
                   const struct out *outs, size_t out_count, int64_t final_ms,
                   size_t from, size_t max_rows, size_t max_bytes,
                   struct sqltext *rows) {
  size_t start_len = rows->len;
  size_t i = from;
  for (; i < m->count && i - from < max_rows; i++) {
    if (i > from && rows->len - start_len >= max_bytes)
      break;
    const struct delta *d = merged_row(m, i);
    for (size_t c = 0; c < out_count; c++)
      if (pack_value(m, d, win, &outs[c], final_ms, rows) != 0)
        return 0;
  }
  return i;
}
