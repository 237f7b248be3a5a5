/* store.h - watermarks, and the deltas of every partition, double-buffered.
 *
 * The store counts decoded rows into windows. One buffer of each partition
 * fills while the other, sealed, is being committed; a commit that failed is
 * merged back. It decides what is late from the log alone: row by row, before
 * the row itself moves the watermark. It knows nothing of Kafka, MySQL or Lua,
 * and nothing of the time of day but what it is told. One thread. */
#ifndef HOST_STORE_H
#define HOST_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h"
#include "delta.h"
#include "notes.h"

enum {
  STORE_MAX_WINDOWS = 16,
  STORE_MAX_PARTS = 32,
  STORE_MAX_PARTITION = 100000
};

#define STORE_NO_TIME INT64_MIN

/* Times further away are refused: sums with a window's sizes would overflow. */
#define TIME_FAR_MS ((int64_t)1 << 59)

/* Windows that start before a floor take no more rows; these go to mill_late
 * with the floor's reason. */
enum floor_reason { FLOOR_CUT, FLOOR_ADOPTED, FLOOR_PURGED, FLOOR_COUNT };

struct window {
  int64_t size_ms;
  int64_t hop_ms; /* = size_ms: tumbling */
  int64_t lateness_ms;
  int key_cell;
  int key_integer;             /* the key cell is an int64 */
  int64_t floors[FLOOR_COUNT]; /* STORE_NO_TIME: none */
  struct part parts[STORE_MAX_PARTS];
  size_t part_count;
  unsigned slots;
};

/* What one commit adds for one partition. */
struct buffer {
  struct delta_table tables[STORE_MAX_WINDOWS];
  struct notes notes;
  int64_t position; /* after the commit */
  int64_t watermark_ms;
  int64_t last_offset; /* -1: none */
  uint64_t last_hash;
  int64_t oldest_stamp_ms; /* Kafka time of its oldest row; NO_TIME: none */
  int changed;
  int at_end;
  /* messages by fate, for the counters of a settled commit */
  int64_t counted, dead, late, too_late, dropped, skipped;
};

struct partition {
  int32_t id;
  int open;
  int64_t next;          /* the offset we expect; earlier ones are stale */
  int64_t watermark_ms;  /* STORE_NO_TIME before the first good row */
  int64_t newest_end_ms; /* end of its newest window; STORE_NO_TIME: none */
  int at_end;
  int64_t stamp_ms;      /* Kafka time of the newest row; -1: unknown */
  int64_t verify_offset; /* a record read before, to be recognised; -1: none */
  uint64_t verify_hash;
  int mismatch; /* it is another record: the topic was made anew */
  int sealed;   /* buffers[!active] is being committed */
  int active;
  struct buffer buffers[2];
};

struct store {
  struct window windows[STORE_MAX_WINDOWS];
  size_t window_count;
  int time_cell;
  size_t cells; /* of a row that the cell numbers reach; 0: not looked at */
  int64_t max_delay_ms;
  int64_t max_future_ms;
  struct partition **partitions; /* by id; NULL: never seen */
  size_t partitions_cap;
  size_t seal_from; /* the partition whose turn it is to be sealed first */
};

/* What happened to the rows of one batch. */
struct tally {
  int64_t counted; /* added to at least one window */
  int64_t dead;
  int64_t late; /* counted, but late for a window */
  int64_t too_late;
  int64_t dropped;
  int64_t skipped;
  int64_t stale; /* of partitions not open, or read before */
};

enum {
  STORE_OK = 0,
  STORE_NOMEM = -1,
  STORE_BAD_PARTITION = -2,
  STORE_BAD_BATCH = -3 /* not decoded, or with other cells */
};

void store_init(struct store *s);
void store_free(struct store *s);

/* Begin partition `id` at `position` with the stored watermark. What it holds
 * is forgotten, sealed or not: the transaction with it must have ended. */
int store_open(struct store *s, int32_t id, int64_t position,
               int64_t watermark_ms, int at_end);

/* Expect the record at `offset`, below the position, to have this hash. Its
 * absence is accepted (compaction, retention), another record is a mismatch. */
void store_verify(struct store *s, int32_t id, int64_t offset, uint64_t hash);

/* Close `id` and forget what is not sealed. What is sealed stays with its
 * transaction until store_settle or store_unseal, which forget it. */
void store_drop(struct store *s, int32_t id);

struct partition *store_partition(const struct store *s, int32_t id);

/* Count a decoded batch. `now_ms` is wall time, for max_future. Bad rows found
 * here are marked in the batch as well. After STORE_NOMEM a row may be counted
 * in part: the store is of no more use. */
int store_add(struct store *s, struct batch *b, int64_t now_ms,
              struct tally *out);

/* Seal the active buffer of changed partitions; returns how many. With
 * `max_rows` > 0 only of so many that they have at most that many rows, but of
 * one at least; the others come first next time. */
size_t store_seal(struct store *s, size_t max_rows);

/* The sealed buffers are in the database: forget them. */
void store_settle(struct store *s);

/* They are not: merge them back into the active buffers. */
int store_unseal(struct store *s);

/* Rows (deltas and notes) and bytes in the active buffers. */
void store_size(const struct store *s, size_t *rows, size_t *bytes);

/* How old, at `now_ms`, is the newest row of what is not sealed, by Kafka's
 * time? 0 when all its partitions are at their ends, or nothing is known. */
int64_t store_behind(const struct store *s, int64_t now_ms);

/* Hash of a record, for mill_progress.last_hash. */
uint64_t store_record_hash(const struct batch *b, const struct record *r);

#endif
