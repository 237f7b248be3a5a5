/* notes.h - rows that a commit reports instead of counting.
 *
 * A bad row goes to mill_dead_letters, a row that came too late for a window
 * to mill_late. Both keep the payload, cut, with its length and SHA-256. */
#ifndef HOST_NOTES_H
#define HOST_NOTES_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h"

enum note_kind { NOTE_DEAD, NOTE_LATE };

enum { NOTE_PAYLOAD_MAX = 65536, NOTE_HASH_BYTES = 32 };

struct note {
  struct note *next;
  enum note_kind kind;
  int32_t partition;
  int64_t offset;
  int64_t stamp_ms;
  char code[16]; /* dead: the fault's code; late: too-late, adopted, ... */
  char path[64];
  char text[160];
  /* late rows only */
  unsigned window; /* which of the pipeline's windows */
  int64_t time_ms;
  int64_t start_ms;
  int64_t lateness_ms;  /* watermark - window end */
  uint32_t row_key_len; /* the row's key; its bytes follow the payload */
  /* the record */
  unsigned char hash[NOTE_HASH_BYTES];
  uint32_t key_len;   /* Kafka's key, cut like the payload */
  uint32_t value_len; /* kept bytes */
  uint32_t value_total;
  uint8_t null_key, null_value;
  char bytes[]; /* key, value, row key */
};

/* A list in order of arrival. */
struct notes {
  struct note *first, *last;
  size_t count;
  size_t bytes;
  struct note *at; /* the last that notes_at gave, and its number */
  size_t at_number;
};

/* Append a note about record `r`; returns it for the caller to fill in, or
 * NULL when memory is out. `row_key` may be NULL, and so may `same`: the note
 * before, where it is about the same record. */
struct note *notes_add(struct notes *n, enum note_kind kind,
                       const struct batch *b, const struct record *r,
                       const char *row_key, size_t row_key_len,
                       const struct note *same);

/* The note of this number, from 0, or NULL; quick when they are asked for in
 * their order. */
const struct note *notes_at(struct notes *n, size_t number);

/* Put all of `from` in front of `n`; `from` becomes empty. */
void notes_prepend(struct notes *n, struct notes *from);

void notes_free(struct notes *n);

#endif
