/* batch.h - one reusable batch of records on its way through the stages.
 *
 * A source appends records, a decoder fills the cells of each row or marks it
 * bad, a window store counts the good rows. Payloads are copied into the
 * batch's arena, so no record of a client library outlives its poll. Pure C:
 * nothing here knows Lua, Kafka or MySQL. One thread uses a batch at a time. */
#ifndef HOST_BATCH_H
#define HOST_BATCH_H

#include <stddef.h>
#include <stdint.h>

typedef __int128 decimal; /* a scaled integer; its scale is the column's */

enum cell_type { CELL_STRING, CELL_DECIMAL, CELL_INTEGER, CELL_TIME };

enum row_state {
  ROW_GOOD,
  ROW_BAD,     /* has a fault; goes to the dead letters */
  ROW_DROPPED, /* a `where` function refused it; moves the watermark */
  ROW_SKIPPED  /* a tombstone that the script asked to skip */
};

/* Bytes in the arena, by offset: the arena moves while it grows. */
struct span {
  uint32_t at;
  uint32_t len;
};

/* A string is a span of the arena, a time is milliseconds since 1970 UTC. */
union cell {
  struct span text;
  int64_t integer;
  decimal number;
};

struct record {
  int64_t offset;
  int64_t stamp_ms; /* Kafka's own timestamp; -1: none */
  struct span key;
  struct span value;
  int32_t partition;
  uint8_t state;      /* enum row_state */
  uint8_t null_key;   /* a key that is absent, not empty */
  uint8_t null_value; /* a tombstone */
};

/* Why a row is bad. `path` is the JSON path, such as $.price. */
struct fault {
  uint32_t row;
  const char *code; /* static: "json" "missing" "type" "range" "time" ... */
  char path[64];
  char text[160];
};

/* The consumer reached the end of a partition: `offset` is the next one. */
struct end {
  int32_t partition;
  int64_t offset;
};

struct batch {
  struct record *records;
  size_t count;
  size_t records_cap;
  char *arena;
  size_t arena_used;
  size_t arena_cap;
  union cell *cells; /* count * width, row by row */
  size_t cells_cap;
  size_t width; /* cells a row, set by the decoder */
  struct fault *faults;
  size_t fault_count;
  size_t faults_cap;
  struct end *ends;
  size_t end_count;
  size_t ends_cap;
};

enum { BATCH_OK = 0, BATCH_NOMEM = -1, BATCH_FULL = -2 };

void batch_init(struct batch *b);
void batch_free(struct batch *b);

/* Forget all rows; keep the memory. */
void batch_reset(struct batch *b);

/* Append a record; NULL `key` or `value` is null. The bytes are copied. */
int batch_add(struct batch *b, int32_t partition, int64_t offset,
              int64_t stamp_ms, const char *key, size_t key_len,
              const char *value, size_t value_len);

/* Append bytes to the arena; BATCH_FULL past 4 GiB. */
int batch_text(struct batch *b, const char *bytes, size_t len,
               struct span *out);

/* Make room for count * width cells; keeps nothing. */
int batch_widen(struct batch *b, size_t width);

/* Mark `row` bad. The first fault of a row counts, later ones are ignored. */
int batch_fault(struct batch *b, size_t row, const char *code, const char *path,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));

int batch_end(struct batch *b, int32_t partition, int64_t offset);

/* Forget the rows and ends of one partition; the others keep their order, cells
 * and faults. */
void batch_forget(struct batch *b, int32_t partition);

/* Exchange all that two batches hold. */
void batch_swap(struct batch *a, struct batch *b);

/* The fault of a bad row, or NULL. Faults are in row order. */
const struct fault *batch_fault_of(const struct batch *b, size_t row);

/* Never NULL, so that it may be copied from: an arena without bytes is. */
static inline const char *batch_bytes(const struct batch *b, struct span s) {
  return s.len > 0 ? b->arena + s.at : "";
}

static inline union cell *batch_row(const struct batch *b, size_t row) {
  return b->cells + row * b->width;
}

#endif
