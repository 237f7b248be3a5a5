/* delta.c - what a commit will add, by key and window. See delta.h. */
#include <stdlib.h>
#include <string.h>

#include "delta.h"

enum { INDEX_MIN = 64, KEEP_BYTES = 4 << 20, LINE = 64 };

/* Slots of each operation; a place takes two behind the value. */
static unsigned part_slots(enum part_op op) {
  switch (op) {
  case PART_PRODUCT:
    return sizeof(struct wide) / sizeof(decimal);
  case PART_FIRST:
  case PART_LAST:
    return 3;
  default:
    return 1;
  }
}


unsigned parts_layout(struct part *parts, size_t count) {
  unsigned slots = 0;
  for (size_t i = 0; i < count; i++) {
    parts[i].slot = slots;
    slots += part_slots(parts[i].op);
  }
  return slots;
}


void delta_init(struct delta_table *t, unsigned slots) {
  memset(t, 0, sizeof *t);
  t->stride = sizeof(struct delta) + slots * sizeof(decimal);
  /* struct delta holds __int128, so its size keeps the alignment of 16. */
}


void delta_free(struct delta_table *t) {
  free(t->rows);
  free(t->keys);
  free(t->index);
  size_t stride = t->stride;
  memset(t, 0, sizeof *t);
  t->stride = stride;
}


void delta_clear(struct delta_table *t) {
  if (t->rows_cap * t->stride + t->keys_cap + t->index_cap * sizeof *t->index >
      KEEP_BYTES) {
    delta_free(t);
    return;
  }
  if (t->count > 0)
    memset(t->index, 0, t->index_cap * sizeof *t->index);
  t->count = 0;
  t->keys_used = 0;
}


/* Multiply to 128 bits and fold: the mixing step of the wyhash family. */
static inline uint64_t hash_mix(uint64_t a, uint64_t b) {
  unsigned __int128 r = (unsigned __int128)a * b;
  return (uint64_t)r ^ (uint64_t)(r >> 64);
}


static inline uint64_t hash_word(const char *p, size_t n) {
  uint64_t v = 0;
  memcpy(&v, p, n);
  return v;
}


uint64_t delta_hash(const char *key, size_t len, int64_t start_ms) {
  const uint64_t k0 = 0x9E3779B97F4A7C15u, k1 = 0xD1B54A32D192ED03u;
  uint64_t h = hash_mix((uint64_t)start_ms ^ k0, len ^ k1);
  while (len > 8) {
    h = hash_mix(h ^ hash_word(key, 8), k1);
    key += 8;
    len -= 8;
  }
  return hash_mix(h ^ hash_word(key, len), k0);
}


/* Put row number `i` into the first empty slot on its way. */
static inline void index_put(struct delta_slot *index, size_t cap,
                             uint64_t hash, size_t i) {
  size_t at = hash & (cap - 1);
  while (index[at].row != 0)
    at = (at + 1) & (cap - 1);
  index[at].tag = (uint32_t)(hash >> 32);
  index[at].row = (uint32_t)i + 1;
}


static int delta_grow_index(struct delta_table *t) {
  size_t cap = t->index_cap < INDEX_MIN ? INDEX_MIN : t->index_cap * 2;
  struct delta_slot *index = calloc(cap, sizeof *index);
  if (index == NULL)
    return DELTA_NOMEM;
  for (size_t i = 0; i < t->count; i++)
    index_put(index, cap, delta_at(t, i)->hash, i);
  free(t->index);
  t->index = index;
  t->index_cap = cap;
  return DELTA_OK;
}


static int delta_grow_rows(struct delta_table *t) {
  size_t cap = t->rows_cap < 16 ? 16 : t->rows_cap + t->rows_cap / 2;
  size_t bytes = (cap * t->stride + LINE - 1) / LINE * LINE;
  char *rows = aligned_alloc(LINE, bytes);
  if (rows == NULL)
    return DELTA_NOMEM;
  if (t->count > 0)
    memcpy(rows, t->rows, t->count * t->stride);
  free(t->rows);
  t->rows = rows;
  t->rows_cap = cap;
  return DELTA_OK;
}


static int delta_grow_keys(struct delta_table *t, size_t key_len) {
  size_t cap = t->keys_cap < 256 ? 256 : t->keys_cap * 2;
  while (cap < t->keys_used + key_len)
    cap *= 2;
  char *keys = realloc(t->keys, cap);
  if (keys == NULL)
    return DELTA_NOMEM;
  t->keys = keys;
  t->keys_cap = cap;
  return DELTA_OK;
}


/* Room for one more row, and for its key if that is a long one. */
static int delta_reserve(struct delta_table *t, size_t key_len) {
  if ((t->count + 1) * 4 > t->index_cap * 3 && delta_grow_index(t) != DELTA_OK)
    return DELTA_NOMEM;
  if (t->count == t->rows_cap && delta_grow_rows(t) != DELTA_OK)
    return DELTA_NOMEM;
  if (key_len > DELTA_INLINE && t->keys_used + key_len > t->keys_cap)
    return delta_grow_keys(t, key_len);
  return DELTA_OK;
}


static struct delta *delta_new(struct delta_table *t, uint64_t hash,
                               const char *key, size_t len, int64_t start_ms) {
  if (delta_reserve(t, len) != DELTA_OK)
    return NULL;
  struct delta *d = delta_at(t, t->count);
  memset(d, 0, t->stride);
  d->hash = hash;
  d->start_ms = start_ms;
  d->key_len = (uint32_t)len;
  if (len <= DELTA_INLINE) {
    memcpy(d->key.bytes, key, len);
  } else {
    d->key.at = (uint32_t)t->keys_used;
    memcpy(t->keys + t->keys_used, key, len);
    t->keys_used += len;
  }
  index_put(t->index, t->index_cap, hash, t->count++);
  return d;
}


struct delta *delta_find(struct delta_table *t, uint64_t hash, const char *key,
                         size_t len, int64_t start_ms) {
  size_t mask = t->index_cap - 1;
  uint32_t tag = (uint32_t)(hash >> 32);
  if (t->index_cap > 0) {
    for (size_t at = hash & mask; t->index[at].row != 0; at = (at + 1) & mask) {
      if (t->index[at].tag != tag)
        continue;
      struct delta *d = delta_at(t, t->index[at].row - 1);
      if (d->hash == hash && d->start_ms == start_ms && d->key_len == len &&
          memcmp(delta_key(t, d), key, len) == 0)
        return d;
    }
  }
  return delta_new(t, hash, key, len, start_ms);
}


static inline decimal cell_value(const struct part *p,
                                 const union cell *cells) {
  return p->integer ? (decimal)cells[p->cell].integer : cells[p->cell].number;
}


static int place_before(const struct place *a, const struct place *b) {
  if (a->time_ms != b->time_ms)
    return a->time_ms < b->time_ms;
  if (a->partition != b->partition)
    return a->partition < b->partition;
  return a->offset < b->offset;
}


struct place delta_place(const struct delta *d, const struct part *p) {
  struct place at;
  memcpy(&at, &d->slots[p->slot + 1], sizeof at);
  return at;
}


/* a + b; a batch that its windows were not made for wraps around. */
static inline decimal sum_of(decimal a, decimal b) {
  return (decimal)((unsigned __int128)a + (unsigned __int128)b);
}


/* Take `value` at `at` if it is the first so far, or comes before (PART_FIRST)
 * or after (PART_LAST) what is kept. */
static void part_place(struct delta *d, const struct part *p, decimal value,
                       const struct place *at) {
  if (d->count > 0) {
    struct place kept = delta_place(d, p);
    int take =
        p->op == PART_FIRST ? place_before(at, &kept) : place_before(&kept, at);
    if (!take)
      return;
  }
  d->slots[p->slot] = value;
  memcpy(&d->slots[p->slot + 1], at, sizeof *at);
}


static struct wide *part_wide(struct delta *d, const struct part *p) {
  return (struct wide *)(void *)&d->slots[p->slot];
}


static void part_add(struct delta *d, const struct part *p,
                     const union cell *cells, const struct place *at) {
  decimal value = cell_value(p, cells);
  decimal *slot = &d->slots[p->slot];
  switch (p->op) {
  case PART_SUM:
    *slot = sum_of(*slot, value);
    break;
  case PART_PRODUCT: {
    decimal b = 1;
    if (p->cell_b >= 0)
      b = p->integer ? (decimal)cells[p->cell_b].integer
                     : cells[p->cell_b].number;
    /* See wide.h: there are not enough rows for an overflow. */
    (void)wide_add_product(part_wide(d, p), value, b);
    break;
  }
  case PART_MIN:
    if (d->count == 0 || value < *slot)
      *slot = value;
    break;
  case PART_MAX:
    if (d->count == 0 || value > *slot)
      *slot = value;
    break;
  case PART_FIRST:
  case PART_LAST:
    part_place(d, p, value, at);
    break;
  }
}


void delta_add(struct delta *d, const struct part *parts, size_t count,
               const union cell *cells, const struct place *at, int late) {
  for (size_t i = 0; i < count; i++)
    part_add(d, &parts[i], cells, at);
  d->count++;
  d->late += late;
}


void delta_merge(struct delta *d, const struct delta *from,
                 const struct part *parts, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct part *p = &parts[i];
    decimal *slot = &d->slots[p->slot];
    decimal value = from->slots[p->slot];
    switch (p->op) {
    case PART_SUM:
      *slot = sum_of(*slot, value);
      break;
    case PART_PRODUCT:
      (void)wide_add(part_wide(d, p),
                     (const struct wide *)(const void *)&from->slots[p->slot]);
      break;
    case PART_MIN:
      if (d->count == 0 || value < *slot)
        *slot = value;
      break;
    case PART_MAX:
      if (d->count == 0 || value > *slot)
        *slot = value;
      break;
    case PART_FIRST:
    case PART_LAST: {
      struct place at = delta_place(from, p);
      part_place(d, p, value, &at);
      break;
    }
    }
  }
  d->count += from->count;
  d->late += from->late;
}


int delta_absorb(struct delta_table *t, const struct delta_table *from,
                 const struct part *parts, size_t count) {
  for (size_t i = 0; i < from->count; i++) {
    const struct delta *d = delta_at(from, i);
    struct delta *into =
        delta_find(t, d->hash, delta_key(from, d), d->key_len, d->start_ms);
    if (into == NULL)
      return DELTA_NOMEM;
    delta_merge(into, d, parts, count);
  }
  return DELTA_OK;
}
