/* spool.c - the bytes of a spool: checksum, header, records. See spool.h.
 *
 * Works on memory only; no function writes or trusts anything beyond the
 * lengths it was given, whatever the bytes say. */
#include "spool.h"

#include <pthread.h>
#include <string.h>

static const uint8_t magic[8] = {'T', 'M', 'S', 'P', 'O', 'O', 'L', '1'};
static const uint8_t mark[4] = {0xF5, 'T', 'M', 0xFA}; /* never in UTF-8 */

/* CRC-32C eight bytes at a time; the tables follow from the polynomial. */
static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;


static void crc_make(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++)
      c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
    crc_table[0][i] = c;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (int t = 1; t < 8; t++)
      crc_table[t][i] =
          crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 0xFF];
}


static void put32(uint8_t *p, uint32_t v) {
  for (int i = 0; i < 4; i++)
    p[i] = (uint8_t)(v >> 8 * i);
}


static void put64(uint8_t *p, uint64_t v) {
  for (int i = 0; i < 8; i++)
    p[i] = (uint8_t)(v >> 8 * i);
}


static uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
         (uint32_t)p[3] << 24;
}


static uint64_t get64(const uint8_t *p) {
  return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}


uint32_t spool_crc(uint32_t crc, const void *bytes, size_t n) {
  const uint8_t *p = bytes;
  pthread_once(&crc_once, crc_make);
  crc = ~crc;
  for (; n >= 8; n -= 8, p += 8) {
    uint32_t a = crc ^ get32(p), b = get32(p + 4);
    crc = crc_table[7][a & 0xFF] ^ crc_table[6][a >> 8 & 0xFF] ^
          crc_table[5][a >> 16 & 0xFF] ^ crc_table[4][a >> 24] ^
          crc_table[3][b & 0xFF] ^ crc_table[2][b >> 8 & 0xFF] ^
          crc_table[1][b >> 16 & 0xFF] ^ crc_table[0][b >> 24];
  }
  for (; n > 0; n--)
    crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 0xFF];
  return ~crc;
}


void spool_header_write(uint8_t *out, const uint8_t *id, uint64_t first) {
  memcpy(out, magic, sizeof magic);
  memcpy(out + 8, id, SPOOL_ID_SIZE);
  put64(out + 24, first);
  put32(out + 32, spool_crc(0, out, 32));
}


enum spool_verdict spool_header_read(const uint8_t *p, size_t n, uint8_t *id,
                                     uint64_t *first) {
  if (n < SPOOL_HEADER_SIZE || memcmp(p, magic, sizeof magic) != 0 ||
      get32(p + 32) != spool_crc(0, p, 32))
    return SPOOL_BAD;
  memcpy(id, p + 8, SPOOL_ID_SIZE);
  *first = get64(p + 24);
  return SPOOL_GOOD;
}


/* Over the id, then length and number of `frame`, then the payload. */
static uint32_t record_crc(const uint8_t *id, const uint8_t *frame,
                           const void *payload, uint32_t len) {
  uint32_t crc = spool_crc(0, id, SPOOL_ID_SIZE);
  crc = spool_crc(crc, frame + 4, 12);
  return spool_crc(crc, payload, len);
}


void spool_frame_write(uint8_t *out, const uint8_t *id, uint64_t seq,
                       const void *payload, uint32_t len) {
  memcpy(out, mark, sizeof mark);
  put32(out + 4, len);
  put64(out + 8, seq);
  put32(out + 16, record_crc(id, out, payload, len));
}


enum spool_verdict spool_record_read(const uint8_t *p, size_t n,
                                     const uint8_t *id, int verify,
                                     struct spool_record *out) {
  size_t have = n < sizeof mark ? n : sizeof mark;
  if (memcmp(p, mark, have) != 0)
    return SPOOL_BAD;
  if (n < SPOOL_FRAME_SIZE)
    return SPOOL_SHORT;
  uint32_t len = get32(p + 4);
  uint64_t seq = get64(p + 8);
  if (len > SPOOL_PAYLOAD_MAX || seq == 0)
    return SPOOL_BAD;
  if (n - SPOOL_FRAME_SIZE < len)
    return SPOOL_SHORT;
  if (verify && get32(p + 16) != record_crc(id, p, p + SPOOL_FRAME_SIZE, len))
    return SPOOL_BAD;
  out->seq = seq;
  out->payload = p + SPOOL_FRAME_SIZE;
  out->len = len;
  return SPOOL_GOOD;
}


size_t spool_find(const uint8_t *p, size_t n, size_t from, const uint8_t *id,
                  uint64_t least, uint64_t below, struct spool_record *out) {
  while (from < n) {
    const uint8_t *at = memchr(p + from, mark[0], n - from);
    if (at == NULL)
      return n;
    from = (size_t)(at - p);
    if (spool_record_read(at, n - from, id, 1, out) == SPOOL_GOOD &&
        out->seq >= least && out->seq < below)
      return from;
    from++;
  }
  return n;
}


size_t spool_last(const uint8_t *p, size_t n, size_t from, const uint8_t *id,
                  uint64_t *last) {
  struct spool_record r;
  size_t end = from < n ? from : n;
  *last = 0;
  while (from < n) {
    if (spool_record_read(p + from, n - from, id, 1, &r) != SPOOL_GOOD ||
        r.seq <= *last) {
      from = spool_find(p, n, from + 1, id, *last + 1, UINT64_MAX, &r);
      if (from == n)
        break;
    }
    *last = r.seq;
    from += SPOOL_FRAME_SIZE + r.len;
    end = from;
  }
  return end;
}
