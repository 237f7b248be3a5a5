/* spool_impl.h - what spool_file.c and spool_read.c share. Private to them. */
#ifndef HOST_SPOOL_IMPL_H
#define HOST_SPOOL_IMPL_H

#include <sys/types.h>

#include "spool.h"

enum {
  SPOOL_LOSSES_MAX = 256, /* notes kept until they are asked for */
  SPOOL_DIRTY_MAX = 8
};

struct segment {
  uint64_t first;
  uint64_t size;
};

struct spool {
  int dir, position_fd, verify, fresh;
  uint8_t id[SPOOL_ID_SIZE];
  uint64_t segment_max, next, position;
  struct segment *segs; /* in order; there is always one */
  int count, room;
  int fd;                     /* of the last segment */
  int dirty[SPOOL_DIRTY_MAX]; /* segments that were left, not yet synced */
  int dirty_count;
  int sync_err; /* of one that was synced by itself, not yet told */
  /* the reader, in spool_read.c */
  int r_fd;
  uint64_t r_first;  /* of its segment; 0: nowhere */
  uint64_t r_offset; /* in the file, of the next record */
  uint64_t r_last;   /* the number before it */
  uint64_t r_next;   /* the number that is wanted next */
  uint64_t r_told;   /* losses up to this number are noted */
  uint8_t *buf;
  size_t buf_size, buf_len;
  uint64_t buf_at; /* place of buf in the file */
  struct spool_loss *losses;
  int loss_first, loss_count;
};

void spool_segment_name(char *out, uint64_t first);

/* Up to `n` bytes at `at`: how many, or a negative errno. */
ssize_t spool_pread(int fd, void *p, size_t n, uint64_t at);

void spool_note(struct spool *s, enum spool_loss_kind kind, const char *file,
                uint64_t offset, uint64_t bytes, uint64_t from, uint64_t to);

/* Keep a segment under another name too, so that it outlives its removal. */
void spool_keep_aside(struct spool *s, const char *name);

#endif
