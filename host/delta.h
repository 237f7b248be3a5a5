/* delta.h - what a commit will add: one row for each key and window.
 *
 * A delta is the count and the exact partial aggregates of the rows that
 * arrived since the last commit; it is added to the table's row, never stored
 * instead of it. A table of deltas belongs to one partition, one window kind
 * and one buffer. Pure C, one thread. */
#ifndef HOST_DELTA_H
#define HOST_DELTA_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h"
#include "wide.h"

enum part_op {
  PART_SUM,     /* 128-bit sum; for values of at most 30 digits */
  PART_PRODUCT, /* 384-bit sum of a * b, or of a when there is no b */
  PART_MIN,
  PART_MAX,
  PART_FIRST, /* value and position of the least (time, partition, offset) */
  PART_LAST
};

/* One partial aggregate: which cells it reads, where its slots are. */
struct part {
  enum part_op op;
  int cell;
  int cell_b;    /* PART_PRODUCT: -1 for none */
  int integer;   /* the cells are int64, not decimal */
  unsigned slot; /* first slot of 16 bytes; set by parts_layout */
};

/* Where a row stands in the log, for first and last. */
struct place {
  int64_t time_ms;
  int64_t offset;
  int32_t partition;
};

enum { DELTA_INLINE = 12 }; /* bytes of a key that need no other memory */

/* With one sum it is 64 bytes, one line of the cache. */
struct delta {
  uint64_t hash;
  int64_t start_ms;
  int64_t count;
  int64_t late;
  uint32_t key_len;
  union {
    char bytes[DELTA_INLINE];
    uint32_t at; /* of a longer key in the table's key bytes */
  } key;
  decimal slots[]; /* as parts_layout says; 16-byte aligned */
};

/* A slot of the index. The tag is the upper half of the row's hash: a probe
 * looks at a row only when it is, nearly always, the one. */
struct delta_slot {
  uint32_t tag;
  uint32_t row; /* number + 1; 0 empty */
};

struct delta_table {
  char *rows; /* `count` deltas, `stride` bytes apart, from a whole line on */
  size_t stride;
  size_t count;
  size_t rows_cap;
  char *keys; /* the bytes of long keys */
  size_t keys_used;
  size_t keys_cap;
  struct delta_slot *index; /* open addressing, a power of 2 */
  size_t index_cap;
};

enum { DELTA_OK = 0, DELTA_NOMEM = -1 };

/* Bytes of rows that the cache surely keeps. Fuzzing takes 0: always far. */
#ifndef DELTA_NEAR
#define DELTA_NEAR ((size_t)128 << 10)
#endif

/* Give every part its slots; returns how many slots a delta has. */
unsigned parts_layout(struct part *parts, size_t count);

void delta_init(struct delta_table *t, unsigned slots);
void delta_free(struct delta_table *t);

/* Forget all rows; keep memory unless it has grown far beyond its use. */
void delta_clear(struct delta_table *t);

uint64_t delta_hash(const char *key, size_t len, int64_t start_ms);

/* The delta of (key, start), made empty if it is new. NULL: out of memory.
 * Valid until the next call. `hash` is delta_hash of the same. */
struct delta *delta_find(struct delta_table *t, uint64_t hash, const char *key,
                         size_t len, int64_t start_ms);

/* Add one row's cells. `d` may be new (count 0). */
void delta_add(struct delta *d, const struct part *parts, size_t count,
               const union cell *cells, const struct place *at, int late);

/* d += from, for the same key and window. */
void delta_merge(struct delta *d, const struct delta *from,
                 const struct part *parts, size_t count);

/* Add every delta of `from` to `t`. */
int delta_absorb(struct delta_table *t, const struct delta_table *from,
                 const struct part *parts, size_t count);

static inline struct delta *delta_at(const struct delta_table *t, size_t i) {
  return (struct delta *)(void *)(t->rows + i * t->stride);
}

static inline const char *delta_key(const struct delta_table *t,
                                    const struct delta *d) {
  return d->key_len <= DELTA_INLINE ? d->key.bytes : t->keys + d->key.at;
}

/* Is the table so large that its rows have to be fetched from afar? */
static inline int delta_far(const struct delta_table *t) {
  return t->count * t->stride > DELTA_NEAR;
}

/* Two steps of a look ahead: first the slot of the index, some rows later the
 * row it names. They change nothing. */
static inline void delta_fetch_slot(const struct delta_table *t,
                                    uint64_t hash) {
  __builtin_prefetch(&t->index[hash & (t->index_cap - 1)]);
}

static inline void delta_fetch_row(const struct delta_table *t, uint64_t hash) {
  const struct delta_slot *slot = &t->index[hash & (t->index_cap - 1)];
  for (int i = 0; i < 8 && slot->row != 0; i++) {
    if (slot->tag == (uint32_t)(hash >> 32)) {
      __builtin_prefetch(t->rows + (slot->row - 1) * t->stride, 1);
      return;
    }
    if (++slot == t->index + t->index_cap)
      slot = t->index;
  }
}

/* The place kept with PART_FIRST and PART_LAST. */
struct place delta_place(const struct delta *d, const struct part *p);

#endif
