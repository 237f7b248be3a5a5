/* store.c - watermarks and deltas of every partition. See store.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store.h"

enum { KEY_TEXT_MAX = 24, LOOK_AHEAD = 32 };


void store_init(struct store *s) {
  memset(s, 0, sizeof *s);
}


static void buffer_init(struct buffer *buf, const struct store *s) {
  memset(buf, 0, sizeof *buf);
  for (size_t w = 0; w < s->window_count; w++)
    delta_init(&buf->tables[w], s->windows[w].slots);
}


/* Empty the buffer for reuse; the tables keep their memory. */
static void buffer_clear(struct buffer *buf, const struct store *s) {
  for (size_t w = 0; w < s->window_count; w++)
    delta_clear(&buf->tables[w]);
  notes_free(&buf->notes);
  buf->last_offset = -1;
  buf->last_hash = 0;
  buf->oldest_stamp_ms = STORE_NO_TIME;
  buf->changed = 0;
  buf->counted = buf->dead = buf->late = 0;
  buf->too_late = buf->dropped = buf->skipped = 0;
}


static void partition_free(struct partition *p, const struct store *s) {
  for (int i = 0; i < 2; i++) {
    for (size_t w = 0; w < s->window_count; w++)
      delta_free(&p->buffers[i].tables[w]);
    notes_free(&p->buffers[i].notes);
  }
  free(p);
}


void store_free(struct store *s) {
  for (size_t i = 0; i < s->partitions_cap; i++)
    if (s->partitions[i] != NULL)
      partition_free(s->partitions[i], s);
  free(s->partitions);
  store_init(s);
}


struct partition *store_partition(const struct store *s, int32_t id) {
  if (id < 0 || (size_t)id >= s->partitions_cap)
    return NULL;
  return s->partitions[id];
}


static int store_reserve(struct store *s, int32_t id) {
  if (id < 0 || id > STORE_MAX_PARTITION)
    return STORE_BAD_PARTITION;
  size_t need = (size_t)id + 1;
  if (need > s->partitions_cap) {
    void *p = realloc(s->partitions, need * sizeof *s->partitions);
    if (p == NULL)
      return STORE_NOMEM;
    s->partitions = p;
    memset(s->partitions + s->partitions_cap, 0,
           (need - s->partitions_cap) * sizeof *s->partitions);
    s->partitions_cap = need;
  }
  if (s->partitions[id] == NULL) {
    struct partition *p = calloc(1, sizeof *p);
    if (p == NULL)
      return STORE_NOMEM;
    p->id = id;
    buffer_init(&p->buffers[0], s);
    buffer_init(&p->buffers[1], s);
    s->partitions[id] = p;
  }
  return STORE_OK;
}


/* Floor of a / b for b > 0. */
static int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}


/* The end of the newest window that holds `time_ms`. */
static int64_t store_newest_end(const struct store *s, int64_t time_ms) {
  int64_t newest = STORE_NO_TIME;
  for (size_t w = 0; w < s->window_count; w++) {
    const struct window *win = &s->windows[w];
    int64_t end = floor_div(time_ms, win->hop_ms) * win->hop_ms + win->size_ms;
    if (end > newest)
      newest = end;
  }
  return newest;
}


int store_open(struct store *s, int32_t id, int64_t position,
               int64_t watermark_ms, int at_end) {
  int err = store_reserve(s, id);
  if (err != STORE_OK)
    return err;
  struct partition *p = s->partitions[id];
  buffer_clear(&p->buffers[0], s);
  buffer_clear(&p->buffers[1], s);
  p->open = 1;
  p->sealed = 0;
  p->next = position;
  p->watermark_ms = watermark_ms;
  p->newest_end_ms = watermark_ms == STORE_NO_TIME
                         ? STORE_NO_TIME
                         : store_newest_end(s, watermark_ms + s->max_delay_ms);
  p->at_end = at_end;
  p->stamp_ms = -1;
  p->verify_offset = -1;
  p->mismatch = 0;
  return STORE_OK;
}


void store_verify(struct store *s, int32_t id, int64_t offset, uint64_t hash) {
  struct partition *p = store_partition(s, id);
  if (p == NULL)
    return;
  p->verify_offset = offset;
  p->verify_hash = hash;
}


void store_drop(struct store *s, int32_t id) {
  struct partition *p = store_partition(s, id);
  if (p == NULL)
    return;
  /* What is sealed may be in a transaction that has moved its position already:
   * it stays until that is settled, or unsealed. */
  buffer_clear(&p->buffers[p->active], s);
  p->open = 0;
}


static int store_dead(struct buffer *buf, const struct batch *b, size_t row) {
  struct note *n =
      notes_add(&buf->notes, NOTE_DEAD, b, &b->records[row], NULL, 0, NULL);
  if (n == NULL)
    return STORE_NOMEM;
  const struct fault *f = batch_fault_of(b, row);
  snprintf(n->code, sizeof n->code, "%s", f != NULL ? f->code : "bad");
  snprintf(n->path, sizeof n->path, "%s", f != NULL ? f->path : "$");
  snprintf(n->text, sizeof n->text, "%s", f != NULL ? f->text : "bad row");
  return STORE_OK;
}


/* The row as the windows see it. */
struct seen {
  const struct batch *b;
  const struct record *r;
  const union cell *cells;
  struct place at;
  const char *key;
  size_t key_len;
  const struct note *noted; /* for another window, or NULL */
};


static int store_late(struct buffer *buf, struct seen *row, unsigned window,
                      const char *code, int64_t start, int64_t lateness) {
  struct note *n = notes_add(&buf->notes, NOTE_LATE, row->b, row->r, row->key,
                             row->key_len, row->noted);
  if (n == NULL)
    return STORE_NOMEM;
  row->noted = n;
  snprintf(n->code, sizeof n->code, "%s", code);
  n->window = window;
  n->time_ms = row->at.time_ms;
  n->start_ms = start;
  n->lateness_ms = lateness;
  return STORE_OK;
}


/* Why [start, ...) takes no rows at all, or NULL. */
static const char *window_floor(const struct window *win, int64_t start) {
  static const char *const reasons[FLOOR_COUNT] = {"before-cut", "adopted",
                                                   "purged"};
  for (int i = 0; i < FLOOR_COUNT; i++)
    if (start < win->floors[i])
      return reasons[i];
  return NULL;
}


/* Count the row into every window of kind `w` that holds its time. */
static int window_add(const struct store *s, const struct partition *p,
                      struct buffer *buf, unsigned w, struct seen *row,
                      int *added, int *late) {
  const struct window *win = &s->windows[w];
  char text[KEY_TEXT_MAX];
  const union cell *key = &row->cells[win->key_cell];
  if (win->key_integer) {
    row->key = text;
    row->key_len =
        (size_t)snprintf(text, sizeof text, "%lld", (long long)key->integer);
  } else if ((size_t)key->text.at + key->text.len > row->b->arena_used) {
    return STORE_BAD_BATCH;
  } else {
    row->key = batch_bytes(row->b, key->text);
    row->key_len = key->text.len;
  }
  int64_t time_ms = row->at.time_ms;
  int64_t start = floor_div(time_ms, win->hop_ms) * win->hop_ms;
  for (; start > time_ms - win->size_ms; start -= win->hop_ms) {
    int64_t end = start + win->size_ms;
    int64_t behind =
        p->watermark_ms == STORE_NO_TIME ? -1 : p->watermark_ms - end;
    const char *reason = window_floor(win, start);
    if (reason == NULL && behind >= 0 && behind >= win->lateness_ms)
      reason = "too-late";
    *late |= behind >= 0;
    if (reason != NULL) {
      if (store_late(buf, row, w, reason, start, behind) != STORE_OK)
        return STORE_NOMEM;
      continue;
    }
    uint64_t hash = delta_hash(row->key, row->key_len, start);
    struct delta *d =
        delta_find(&buf->tables[w], hash, row->key, row->key_len, start);
    if (d == NULL)
      return STORE_NOMEM;
    delta_add(d, win->parts, win->part_count, row->cells, &row->at,
              behind >= 0);
    *added = 1;
  }
  return STORE_OK;
}


static int row_good(const struct store *s, struct partition *p,
                    struct buffer *buf, const struct batch *b, size_t i,
                    struct tally *out) {
  struct seen row = {.b = b, .r = &b->records[i], .cells = batch_row(b, i)};
  row.at.time_ms = row.cells[s->time_cell].integer;
  row.at.partition = p->id;
  row.at.offset = row.r->offset;
  int added = 0, late = 0;
  for (unsigned w = 0; w < s->window_count; w++) {
    int err = window_add(s, p, buf, w, &row, &added, &late);
    if (err != STORE_OK)
      return err;
  }
  out->counted += added;
  out->too_late += !added;
  out->late += added && late;
  buf->counted += added;
  buf->too_late += !added;
  buf->late += added && late;
  return STORE_OK;
}


static void row_watermark(const struct store *s, struct partition *p,
                          int64_t time_ms) {
  if (time_ms - s->max_delay_ms <= p->watermark_ms &&
      p->watermark_ms != STORE_NO_TIME)
    return;
  p->watermark_ms = time_ms - s->max_delay_ms;
  p->newest_end_ms = store_newest_end(s, time_ms);
}


static int row_add(struct store *s, struct partition *p, struct buffer *buf,
                   struct batch *b, size_t i, int64_t now_ms,
                   struct tally *out) {
  struct record *r = &b->records[i];
  int64_t time_ms = 0;
  if (r->state == ROW_GOOD || r->state == ROW_DROPPED) {
    time_ms = batch_row(b, i)[s->time_cell].integer;
    if (time_ms > TIME_FAR_MS || time_ms < -TIME_FAR_MS)
      return STORE_BAD_BATCH; /* the cell is none of a decoder's times */
    if (time_ms - now_ms > s->max_future_ms &&
        batch_fault(b, i, "future", "$",
                    "its time is %lld ms ahead of the clock, more than "
                    "max_future",
                    (long long)(time_ms - now_ms)) != BATCH_OK)
      return STORE_NOMEM;
  }
  int err = STORE_OK;
  switch (r->state) {
  case ROW_BAD:
    out->dead++;
    buf->dead++;
    err = store_dead(buf, b, i);
    break;
  case ROW_SKIPPED:
    out->skipped++;
    buf->skipped++;
    break;
  case ROW_DROPPED:
    out->dropped++;
    buf->dropped++;
    row_watermark(s, p, time_ms);
    break;
  default:
    err = row_good(s, p, buf, b, i, out);
    row_watermark(s, p, time_ms);
  }
  return err;
}


uint64_t store_record_hash(const struct batch *b, const struct record *r) {
  uint64_t h = delta_hash(batch_bytes(b, r->key), r->key.len, r->stamp_ms);
  return delta_hash(batch_bytes(b, r->value), r->value.len, (int64_t)h);
}


/* A record below our position: is it the one we read last? */
static void store_recognise(struct partition *p, const struct batch *b,
                            const struct record *r) {
  if (p->verify_offset < 0 || r->offset < p->verify_offset)
    return;
  if (r->offset == p->verify_offset)
    p->mismatch = store_record_hash(b, r) != p->verify_hash;
  p->verify_offset = -1;
}


static void store_ends(struct store *s, const struct batch *b) {
  for (size_t i = 0; i < b->end_count; i++) {
    struct partition *p = store_partition(s, b->ends[i].partition);
    if (p == NULL || !p->open || p->mismatch || b->ends[i].offset < p->next)
      continue;
    p->verify_offset = -1;
    struct buffer *buf = &p->buffers[p->active];
    /* Control records and compaction leave holes: the end may be further on
     * than the last record, and an end reached is news by itself. */
    if (b->ends[i].offset > p->next || !p->at_end)
      buf->changed = 1;
    p->next = b->ends[i].offset;
    p->at_end = 1;
  }
}


/* Do the rows have the cells that the windows read? */
static int store_fits(const struct store *s, const struct batch *b) {
  if (b->width >= s->cells && b->count * b->width <= b->cells_cap)
    return 1;
  size_t i = 0;
  while (i < b->count && b->records[i].state != ROW_GOOD &&
         b->records[i].state != ROW_DROPPED)
    i++;
  return i == b->count;
}


/* Where the row of record `i` in window kind `w` will be looked for. 0: not
 * worth a look ahead. Only its newest window: sliding ones are near it. */
static int store_hash(const struct store *s, const struct batch *b, size_t i,
                      size_t w, const struct delta_table **t, uint64_t *hash) {
  const struct window *win = &s->windows[w];
  const struct record *r = &b->records[i];
  const struct partition *p = store_partition(s, r->partition);
  if (r->state != ROW_GOOD || p == NULL || win->key_integer)
    return 0;
  *t = &p->buffers[p->active].tables[w];
  if (!delta_far(*t))
    return 0;
  const union cell *cells = batch_row(b, i);
  struct span key = cells[win->key_cell].text;
  int64_t time_ms = cells[s->time_cell].integer;
  if ((size_t)key.at + key.len > b->arena_used || time_ms > TIME_FAR_MS ||
      time_ms < -TIME_FAR_MS)
    return 0;
  *hash = delta_hash(batch_bytes(b, key), key.len,
                     floor_div(time_ms, win->hop_ms) * win->hop_ms);
  return 1;
}


/* Fetch what the records from `from` on will touch, so that they wait for
 * memory together and not one after the other. Returns the first record that
 * was not looked at. */
static size_t store_ahead(const struct store *s, const struct batch *b,
                          size_t from) {
  const struct delta_table *tables[LOOK_AHEAD];
  uint64_t hashes[LOOK_AHEAD];
  size_t n = 0, i = from;
  size_t rows = s->window_count > 0 ? LOOK_AHEAD / s->window_count : b->count;
  for (; i < b->count && i - from < rows; i++) {
    for (size_t w = 0; w < s->window_count; w++) {
      if (!store_hash(s, b, i, w, &tables[n], &hashes[n]))
        continue;
      delta_fetch_slot(tables[n], hashes[n]);
      n++;
    }
  }
  for (size_t k = 0; k < n; k++)
    delta_fetch_row(tables[k], hashes[k]);
  return i;
}


int store_add(struct store *s, struct batch *b, int64_t now_ms,
              struct tally *out) {
  memset(out, 0, sizeof *out);
  if (!store_fits(s, b))
    return STORE_BAD_BATCH;
  size_t ahead = 0;
  for (size_t i = 0; i < b->count; i++) {
    if (i == ahead)
      ahead = store_ahead(s, b, i);
    const struct record *r = &b->records[i];
    struct partition *p = store_partition(s, r->partition);
    if (p == NULL || !p->open || r->offset < p->next) {
      out->stale++;
      if (p != NULL && p->open)
        store_recognise(p, b, r);
      continue;
    }
    if (p->mismatch) { /* nothing of another log is counted */
      out->stale++;
      continue;
    }
    p->verify_offset = -1; /* passed: the record is not there any more */
    struct buffer *buf = &p->buffers[p->active];
    int err = row_add(s, p, buf, b, i, now_ms, out);
    if (err != STORE_OK)
      return err;
    p->next = r->offset + 1;
    p->at_end = 0;
    p->stamp_ms = r->stamp_ms;
    buf->changed = 1;
    buf->last_offset = r->offset;
    if (buf->oldest_stamp_ms == STORE_NO_TIME)
      buf->oldest_stamp_ms = r->stamp_ms;
    /* The hash is needed for the last record only: the next one of the same
     * partition in this batch makes it superfluous. */
    if (i + 1 == b->count || b->records[i + 1].partition != r->partition)
      buf->last_hash = store_record_hash(b, r);
  }
  store_ends(s, b);
  return STORE_OK;
}


static size_t buffer_rows(const struct buffer *buf, size_t window_count) {
  size_t rows = buf->notes.count;
  for (size_t w = 0; w < window_count; w++)
    rows += buf->tables[w].count;
  return rows;
}


size_t store_seal(struct store *s, size_t max_rows) {
  size_t sealed = 0, rows = 0, first = s->seal_from;
  for (size_t k = 0; k < s->partitions_cap; k++) {
    size_t i = (first + k) % s->partitions_cap;
    struct partition *p = s->partitions[i];
    if (p == NULL || !p->open || p->sealed)
      continue;
    struct buffer *buf = &p->buffers[p->active];
    if (!buf->changed)
      continue;
    rows += buffer_rows(buf, s->window_count);
    if (max_rows > 0 && rows > max_rows && sealed > 0) {
      s->seal_from = i;
      break;
    }
    buf->position = p->next;
    buf->watermark_ms = p->watermark_ms;
    buf->at_end = p->at_end;
    p->sealed = 1;
    p->active = !p->active;
    sealed++;
  }
  return sealed;
}


void store_settle(struct store *s) {
  for (size_t i = 0; i < s->partitions_cap; i++) {
    struct partition *p = s->partitions[i];
    if (p == NULL || !p->sealed)
      continue;
    buffer_clear(&p->buffers[!p->active], s);
    p->sealed = 0;
  }
}


static int partition_unseal(const struct store *s, struct partition *p) {
  struct buffer *into = &p->buffers[p->active];
  struct buffer *from = &p->buffers[!p->active];
  for (size_t w = 0; w < s->window_count; w++) {
    const struct window *win = &s->windows[w];
    if (delta_absorb(&into->tables[w], &from->tables[w], win->parts,
                     win->part_count) != DELTA_OK)
      return STORE_NOMEM;
  }
  notes_prepend(&into->notes, &from->notes);
  if (into->last_offset < 0) {
    into->last_offset = from->last_offset;
    into->last_hash = from->last_hash;
  }
  if (from->oldest_stamp_ms != STORE_NO_TIME)
    into->oldest_stamp_ms = from->oldest_stamp_ms;
  into->counted += from->counted;
  into->dead += from->dead;
  into->late += from->late;
  into->too_late += from->too_late;
  into->dropped += from->dropped;
  into->skipped += from->skipped;
  into->changed = 1;
  buffer_clear(from, s);
  p->sealed = 0;
  return STORE_OK;
}


int store_unseal(struct store *s) {
  for (size_t i = 0; i < s->partitions_cap; i++) {
    struct partition *p = s->partitions[i];
    if (p == NULL || !p->sealed)
      continue;
    if (!p->open) { /* lost meanwhile */
      buffer_clear(&p->buffers[!p->active], s);
      p->sealed = 0;
    } else if (partition_unseal(s, p) != STORE_OK) {
      return STORE_NOMEM;
    }
  }
  return STORE_OK;
}


void store_size(const struct store *s, size_t *rows, size_t *bytes) {
  *rows = *bytes = 0;
  for (size_t i = 0; i < s->partitions_cap; i++) {
    const struct partition *p = s->partitions[i];
    if (p == NULL || !p->open)
      continue;
    const struct buffer *buf = &p->buffers[p->active];
    *rows += buffer_rows(buf, s->window_count);
    for (size_t w = 0; w < s->window_count; w++)
      *bytes += buf->tables[w].count * buf->tables[w].stride +
                buf->tables[w].keys_used;
    *bytes += buf->notes.bytes;
  }
}


int64_t store_behind(const struct store *s, int64_t now_ms) {
  int64_t newest = -1;
  int all_at_end = 1;
  for (size_t i = 0; i < s->partitions_cap; i++) {
    const struct partition *p = s->partitions[i];
    if (p == NULL || !p->open || !p->buffers[p->active].changed)
      continue;
    if (p->stamp_ms < 0 && !p->at_end)
      return 0;
    all_at_end &= p->at_end;
    if (p->stamp_ms > newest)
      newest = p->stamp_ms;
  }
  return !all_at_end && newest >= 0 && newest < now_ms ? now_ms - newest : 0;
}
