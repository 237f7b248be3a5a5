/* spool.h - an append-only spool on disk: records that survive a crash.
 *
 * Pure C. A spool is a folder of segments; a segment is a header and records,
 * each with its sequence number and a checksum. spool.c knows the bytes,
 * spool_file.c the files. It knows nothing of what a record holds, and it does
 * not lock the folder: the caller makes sure that only one process opens it.
 *
 * Bytes, all numbers little endian:
 *   header  "TMSPOOL1", id (16), first sequence number (8), checksum (4)
 *   record  mark (4), length of the payload (4), sequence number (8),
 *           checksum (4), payload
 * The checksum is CRC-32C (the polynomial of Castagnoli, as in RFC 3720), over
 * the id, then length, number and payload: bytes of another spool, or a record
 * hidden in a payload, are never taken for one of this spool's. */
#ifndef HOST_SPOOL_H
#define HOST_SPOOL_H

#include <stddef.h>
#include <stdint.h>

enum {
  SPOOL_ID_SIZE = 16,
  SPOOL_HEADER_SIZE = 36,
  SPOOL_FRAME_SIZE = 20,
  SPOOL_PAYLOAD_MAX = 1 << 20,
  SPOOL_NAME_MAX = 64
};

/* ---- spool.c: bytes ---- */

enum spool_verdict { SPOOL_GOOD = 1, SPOOL_SHORT = 0, SPOOL_BAD = -1 };

struct spool_record {
  uint64_t seq;
  const uint8_t *payload;
  uint32_t len;
};

uint32_t spool_crc(uint32_t crc, const void *p, size_t n);

void spool_header_write(uint8_t *out, const uint8_t *id, uint64_t first);

/* SPOOL_GOOD, or SPOOL_BAD. */
enum spool_verdict spool_header_read(const uint8_t *p, size_t n, uint8_t *id,
                                     uint64_t *first);

void spool_frame_write(uint8_t *out, const uint8_t *id, uint64_t seq,
                       const void *payload, uint32_t len);

/* The record at `p`. SPOOL_SHORT: it is longer than the `n` bytes there are,
 * if its length is to be believed. With `verify` 0 the checksum is not looked
 * at (a test build proves that it is needed). */
enum spool_verdict spool_record_read(const uint8_t *p, size_t n,
                                     const uint8_t *id, int verify,
                                     struct spool_record *out);

/* The place of the first good record at or after `from` whose number is at
 * least `least` and below `below`; `n` when there is none. */
size_t spool_find(const uint8_t *p, size_t n, size_t from, const uint8_t *id,
                  uint64_t least, uint64_t below, struct spool_record *out);

/* Where the last good record ends, and its number (0: there is none). Bad
 * bytes in between are gone over. */
size_t spool_last(const uint8_t *p, size_t n, size_t from, const uint8_t *id,
                  uint64_t *last);

/* ---- spool_file.c: files ---- */

enum spool_loss_kind {
  SPOOL_TORN,    /* the last record was not written to its end; cut off */
  SPOOL_DAMAGED, /* bytes that are no record; a copy is kept */
  SPOOL_MISSING, /* numbers that stand nowhere */
  SPOOL_FOREIGN  /* a segment of another spool; put aside */
};

struct spool_loss {
  enum spool_loss_kind kind;
  char file[SPOOL_NAME_MAX];
  uint64_t offset, bytes; /* of the file */
  uint64_t from, to;      /* numbers lost; from > to: none */
};

struct spool;

/* Open the folder, which must be there; a torn end is cut off. NULL: errno is
 * in *err. */
struct spool *spool_open(const char *path, uint64_t segment_max, int *err);
void spool_close(struct spool *s);

/* Append a record; `seq` must not be below spool_next_seq. 0 or an errno, and
 * then nothing was appended. It is in the system's hands, not yet on disk. */
int spool_append(struct spool *s, uint64_t seq, const void *payload,
                 uint32_t len);

/* Descriptors to sync so that all appended until now is on disk; up to `max`,
 * each to be closed. Their number, or a negative errno. */
int spool_dirty(struct spool *s, int *fds, int max);

/* The next record numbered at least `from` and below `until`. 1: it is in
 * *out, valid until the next call; 0: there is none; or a negative errno. What
 * is lost on the way is noted. Reading in order is quick, going back is not. */
int spool_read(struct spool *s, uint64_t from, uint64_t until,
               struct spool_record *out);

/* The next note of a loss; 0: there is none. */
int spool_lost(struct spool *s, struct spool_loss *out);

/* All below `seq` may go: keeps that number, removes segments. 0 or errno. */
int spool_acknowledge(struct spool *s, uint64_t seq);

/* Remove the oldest segment, whatever is in it. 0 or errno. */
int spool_drop(struct spool *s);

const uint8_t *spool_id(const struct spool *s);
uint64_t spool_first_seq(const struct spool *s); /* the oldest that is there */
uint64_t spool_next_seq(const struct spool *s);
uint64_t spool_position(const struct spool *s); /* acknowledged; 0: none yet */
uint64_t spool_bytes(const struct spool *s);
int spool_segments(const struct spool *s);
int spool_is_new(const struct spool *s); /* made by this opening */
void spool_verify(struct spool *s, int on);

#endif
