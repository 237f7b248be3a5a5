/* spool_read.c - reading a spool in order. See spool.h.
 *
 * The reader stands at a place in one segment and goes forward. Bytes that are
 * no record are gone over to the next good one of the same segment, at worst to
 * the next segment; which numbers are lost by that is noted once, and the
 * segment is kept aside. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "spool_impl.h"

enum { CHUNK = 1 << 17 };


/* The segment the reader is in; -1: it was removed, or there is none. */
static int read_segment(const struct spool *s) {
  for (int i = 0; s->r_first > 0 && i < s->count; i++)
    if (s->segs[i].first == s->r_first)
      return i;
  return -1;
}


static int read_enter(struct spool *s, int i) {
  char name[SPOOL_NAME_MAX];
  spool_segment_name(name, s->segs[i].first);
  int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  if (s->r_fd >= 0)
    close(s->r_fd);
  s->r_fd = fd;
  s->r_first = s->segs[i].first;
  s->r_last = s->r_first - 1;
  s->r_offset = SPOOL_HEADER_SIZE;
  s->buf_len = 0;
  return 0;
}


/* Go to the segment that holds `from`, or where it would be. */
static int read_seek(struct spool *s, uint64_t from) {
  int i = s->count - 1;
  while (i > 0 && s->segs[i].first > from)
    i--;
  s->r_next = from;
  return read_enter(s, i);
}


/* Have `n` bytes of the file from the reader's place in the buffer. */
static int read_fill(struct spool *s, size_t n) {
  if (s->r_offset >= s->buf_at && s->buf_len >= s->r_offset - s->buf_at &&
      s->buf_len - (s->r_offset - s->buf_at) >= n)
    return 0;
  if (n < CHUNK)
    n = CHUNK;
  if (n > s->buf_size) {
    uint8_t *buf = realloc(s->buf, n);
    if (buf == NULL)
      return -ENOMEM;
    s->buf = buf;
    s->buf_size = n;
  }
  s->buf_len = 0;
  ssize_t got = spool_pread(s->r_fd, s->buf, n, s->r_offset);
  if (got < 0)
    return (int)got;
  s->buf_at = s->r_offset;
  s->buf_len = (size_t)got;
  return 0;
}


/* The numbers from `from` to `to` are lost; told once. */
static void read_lost(struct spool *s, enum spool_loss_kind kind,
                      uint64_t bytes, uint64_t from, uint64_t to) {
  char name[SPOOL_NAME_MAX];
  if (from < s->r_next)
    from = s->r_next;
  if (from <= s->r_told)
    from = s->r_told + 1;
  if (from > to)
    return;
  spool_segment_name(name, s->r_first);
  if (kind == SPOOL_DAMAGED)
    spool_keep_aside(s, name);
  spool_note(s, kind, name, s->r_offset, bytes, from, to);
  s->r_told = to;
}


/* Go over bad bytes: to the next good record below `limit`, else to the end of
 * the segment. */
static int read_over(struct spool *s, uint64_t size, uint64_t limit) {
  struct spool_record r = {.seq = limit};
  size_t n = (size_t)(size - s->r_offset);
  uint8_t *bytes = malloc(n + 1);
  if (bytes == NULL)
    return -ENOMEM;
  ssize_t got = spool_pread(s->r_fd, bytes, n, s->r_offset);
  size_t at = got > 0 ? spool_find(bytes, (size_t)got, 1, s->id, s->r_last + 1,
                                   limit, &r)
                      : 0;
  free(bytes);
  if (got < 0)
    return (int)got;
  int found = at < (size_t)got;
  uint64_t to = found ? r.seq : limit;
  if (!found)
    at = n;
  read_lost(s, SPOOL_DAMAGED, at, s->r_last + 1, to - 1);
  s->r_offset += at;
  s->r_last = to - 1;
  if (s->r_next < to)
    s->r_next = to;
  return 0;
}


/* Look at what stands at the reader's place, which has `left` bytes. */
static int read_here(struct spool *s, uint64_t left, uint64_t limit,
                     struct spool_record *out) {
  size_t need = SPOOL_FRAME_SIZE;
  for (;;) {
    if (need > left)
      need = (size_t)left;
    int err = read_fill(s, need);
    if (err != 0)
      return err;
    size_t at = (size_t)(s->r_offset - s->buf_at), have = s->buf_len - at;
    if (have > left)
      have = (size_t)left;
    enum spool_verdict v =
        spool_record_read(s->buf + at, have, s->id, s->verify, out);
    if (v == SPOOL_SHORT && have < left &&
        have < SPOOL_FRAME_SIZE + SPOOL_PAYLOAD_MAX && need <= have) {
      need = SPOOL_FRAME_SIZE + SPOOL_PAYLOAD_MAX;
      continue;
    }
    return v == SPOOL_GOOD && out->seq > s->r_last && out->seq < limit;
  }
}


int spool_read(struct spool *s, uint64_t from, uint64_t until,
               struct spool_record *out) {
  int i = read_segment(s), err = 0;
  if (until > s->next)
    until = s->next;
  if (from >= until)
    return 0;
  if (i < 0 || from < s->r_next)
    err = read_seek(s, from);
  else
    s->r_next = from;
  while (err == 0) {
    i = read_segment(s);
    int last = i == s->count - 1;
    uint64_t size = s->segs[i].size;
    if (s->r_offset >= size) {
      if (last)
        return 0;
      err = read_enter(s, i + 1);
      continue;
    }
    uint64_t limit = last ? s->next : s->segs[i + 1].first;
    int good = read_here(s, size - s->r_offset, limit, out);
    if (good < 0)
      return good;
    if (!good) {
      err = read_over(s, size, limit);
      continue;
    }
    if (out->seq >= until)
      return 0;
    if (out->seq > s->r_next)
      read_lost(s, SPOOL_MISSING, 0, s->r_next, out->seq - 1);
    s->r_offset += SPOOL_FRAME_SIZE + out->len;
    s->r_last = out->seq;
    if (out->seq < s->r_next)
      continue; /* below what is wanted */
    s->r_next = out->seq + 1;
    return 1;
  }
  return err;
}
