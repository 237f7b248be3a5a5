/* batch.c - one reusable batch of records. See batch.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"


/* Grow `*items` so that it holds `need` items of `size` bytes. */
static int batch_grow(void **items, size_t *cap, size_t need, size_t size) {
  if (need <= *cap)
    return BATCH_OK;
  size_t want = *cap < 64 ? 64 : *cap;
  while (want < need)
    want += want / 2;
  void *p = realloc(*items, want * size);
  if (p == NULL)
    return BATCH_NOMEM;
  *items = p;
  *cap = want;
  return BATCH_OK;
}


void batch_init(struct batch *b) {
  memset(b, 0, sizeof *b);
}


void batch_free(struct batch *b) {
  free(b->records);
  free(b->arena);
  free(b->cells);
  free(b->faults);
  free(b->ends);
  batch_init(b);
}


void batch_reset(struct batch *b) {
  b->count = 0;
  b->arena_used = 0;
  b->width = 0;
  b->fault_count = 0;
  b->end_count = 0;
}


int batch_text(struct batch *b, const char *bytes, size_t len,
               struct span *out) {
  if (len > UINT32_MAX - b->arena_used)
    return BATCH_FULL;
  int err =
      batch_grow((void **)&b->arena, &b->arena_cap, b->arena_used + len, 1);
  if (err != BATCH_OK)
    return err;
  if (len > 0)
    memcpy(b->arena + b->arena_used, bytes, len);
  out->at = (uint32_t)b->arena_used;
  out->len = (uint32_t)len;
  b->arena_used += len;
  return BATCH_OK;
}


int batch_add(struct batch *b, int32_t partition, int64_t offset,
              int64_t stamp_ms, const char *key, size_t key_len,
              const char *value, size_t value_len) {
  int err = batch_grow((void **)&b->records, &b->records_cap, b->count + 1,
                       sizeof *b->records);
  if (err != BATCH_OK)
    return err;
  struct record *r = &b->records[b->count];
  memset(r, 0, sizeof *r);
  r->partition = partition;
  r->offset = offset;
  r->stamp_ms = stamp_ms;
  r->null_key = key == NULL;
  r->null_value = value == NULL;
  err = batch_text(b, key, key != NULL ? key_len : 0, &r->key);
  if (err == BATCH_OK)
    err = batch_text(b, value, value != NULL ? value_len : 0, &r->value);
  if (err == BATCH_OK)
    b->count++;
  return err;
}


int batch_widen(struct batch *b, size_t width) {
  b->width = width;
  return batch_grow((void **)&b->cells, &b->cells_cap, b->count * width,
                    sizeof *b->cells);
}


int batch_fault(struct batch *b, size_t row, const char *code, const char *path,
                const char *fmt, ...) {
  if (b->records[row].state == ROW_BAD)
    return BATCH_OK;
  int err = batch_grow((void **)&b->faults, &b->faults_cap, b->fault_count + 1,
                       sizeof *b->faults);
  if (err != BATCH_OK)
    return err;
  /* Later stages find faults too, so keep the list in row order. */
  size_t at = b->fault_count;
  while (at > 0 && b->faults[at - 1].row > row)
    at--;
  struct fault *f = &b->faults[at];
  memmove(f + 1, f, (b->fault_count - at) * sizeof *f);
  b->fault_count++;
  f->row = (uint32_t)row;
  f->code = code;
  snprintf(f->path, sizeof f->path, "%s", path);
  va_list args;
  va_start(args, fmt);
  vsnprintf(f->text, sizeof f->text, fmt, args);
  va_end(args);
  b->records[row].state = ROW_BAD;
  return BATCH_OK;
}


int batch_end(struct batch *b, int32_t partition, int64_t offset) {
  int err = batch_grow((void **)&b->ends, &b->ends_cap, b->end_count + 1,
                       sizeof *b->ends);
  if (err != BATCH_OK)
    return err;
  b->ends[b->end_count++] = (struct end){partition, offset};
  return BATCH_OK;
}


static void batch_forget_ends(struct batch *b, int32_t partition) {
  size_t kept = 0;
  for (size_t i = 0; i < b->end_count; i++)
    if (b->ends[i].partition != partition)
      b->ends[kept++] = b->ends[i];
  b->end_count = kept;
}


void batch_forget(struct batch *b, int32_t partition) {
  size_t kept = 0, fault = 0, faults = 0;
  for (size_t i = 0; i < b->count; i++) {
    int bad = fault < b->fault_count && b->faults[fault].row == i;
    if (b->records[i].partition != partition) {
      if (bad) {
        b->faults[faults] = b->faults[fault];
        b->faults[faults++].row = (uint32_t)kept;
      }
      if (b->width > 0)
        memmove(batch_row(b, kept), batch_row(b, i),
                b->width * sizeof *b->cells);
      b->records[kept++] = b->records[i];
    }
    fault += (size_t)bad;
  }
  b->count = kept;
  b->fault_count = faults;
  batch_forget_ends(b, partition);
}


void batch_swap(struct batch *a, struct batch *b) {
  struct batch t = *a;
  *a = *b;
  *b = t;
}


const struct fault *batch_fault_of(const struct batch *b, size_t row) {
  size_t low = 0, high = b->fault_count;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (b->faults[mid].row < row)
      low = mid + 1;
    else
      high = mid;
  }
  if (low < b->fault_count && b->faults[low].row == row)
    return &b->faults[low];
  return NULL;
}
