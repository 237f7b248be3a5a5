/* spool.c - fuzzes the spool: segments of any bytes, or good ones spoilt.
 *
 * An input either is a segment's bytes, or says what records to write and how
 * to spoil the file. A second reader here, which looks at every place of the
 * file and computes the checksum bit by bit, tells which records are good; each
 * that is read must be one of those, and no good record in front of the first
 * spoilt byte may be missing. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "spool.h"

enum { FILE_MAX = 8192, RECORDS_MAX = 64, TEXT_MAX = 200 };

static char dir[64], segment[128], identity[128];
static uint8_t id[SPOOL_ID_SIZE], bytes[FILE_MAX];


static void write_file(const char *path, const void *p, size_t n) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  EXPECT(fd >= 0 && write(fd, p, n) == (ssize_t)n, "%s", path);
  close(fd);
}


static void clean(void) {
  DIR *d = opendir(dir);
  struct dirent *e;
  EXPECT(d != NULL, "opendir");
  while ((e = readdir(d)) != NULL)
    if (e->d_name[0] != '.')
      unlinkat(dirfd(d), e->d_name, 0);
  closedir(d);
}


static void finish(void) {
  clean();
  rmdir(dir);
}


static void prepare(void) {
  if (dir[0] != '\0')
    return;
  snprintf(dir, sizeof dir, "/dev/shm/fuzz-spool-XXXXXX");
  if (mkdtemp(dir) == NULL) {
    snprintf(dir, sizeof dir, "/tmp/fuzz-spool-XXXXXX");
    EXPECT(mkdtemp(dir) != NULL, "mkdtemp");
  }
  snprintf(segment, sizeof segment, "%s/%020d.seg", dir, 1);
  snprintf(identity, sizeof identity, "%s/id", dir);
  for (unsigned i = 0; i < sizeof id; i++)
    id[i] = (uint8_t)(i * 7 + 1);
  atexit(finish);
}


/* One bit at a time, as the polynomial says. */
static uint32_t plain_crc(uint32_t crc, const uint8_t *p, size_t n) {
  crc = ~crc;
  for (; n > 0; n--) {
    crc ^= *p++;
    for (int i = 0; i < 8; i++)
      crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
  }
  return ~crc;
}


static uint64_t little(const uint8_t *p, int n) {
  uint64_t v = 0;
  while (n-- > 0)
    v = v << 8 | p[n];
  return v;
}


/* Is there a good record at `at`? Its number and length. */
static int plain_record(size_t size, size_t at, uint64_t *seq, size_t *len) {
  static const uint8_t mark[] = {0xF5, 'T', 'M', 0xFA};
  const uint8_t *p = bytes + at;
  if (size - at < SPOOL_FRAME_SIZE || memcmp(p, mark, 4) != 0)
    return 0;
  *len = (size_t)little(p + 4, 4);
  *seq = little(p + 8, 8);
  if (*len > size - at - SPOOL_FRAME_SIZE || *len > SPOOL_PAYLOAD_MAX ||
      *seq == 0)
    return 0;
  uint32_t crc = plain_crc(0, id, sizeof id);
  crc = plain_crc(crc, p + 4, 12);
  crc = plain_crc(crc, p + SPOOL_FRAME_SIZE, *len);
  return crc == little(p + 16, 4);
}


/* Good records from the beginning, one after the other, numbers rising. */
static uint64_t plain_front(size_t size) {
  uint64_t last = 0, seq;
  size_t at = SPOOL_HEADER_SIZE, len;
  while (at <= size && plain_record(size, at, &seq, &len) && seq > last &&
         seq < UINT64_MAX) {
    last = seq;
    at += SPOOL_FRAME_SIZE + len;
  }
  return last;
}


static int plain_has(size_t size, const struct spool_record *r) {
  uint64_t seq;
  size_t len;
  for (size_t at = 0; at < size; at++)
    if (plain_record(size, at, &seq, &len) && seq == r->seq && len == r->len &&
        memcmp(bytes + at + SPOOL_FRAME_SIZE, r->payload, len) == 0)
      return 1;
  return 0;
}


/* Read all; the numbers must rise, each record be good, none of the front be
 * missing. */
static void check(struct spool *s, size_t size, int sound) {
  struct spool_record r;
  struct spool_loss l;
  uint64_t from = 1, front = plain_front(size), read_front = 0, last = 0;
  int got;
  while ((got = spool_read(s, from, UINT64_MAX, &r)) == 1) {
    EXPECT(r.seq >= from, "a number twice");
    EXPECT(plain_has(size, &r), "record %llu is not good",
           (unsigned long long)r.seq);
    if (r.seq <= front)
      read_front = r.seq;
    last = r.seq;
    from = r.seq + 1;
  }
  EXPECT(got == 0, "read: %d", got);
  EXPECT(!sound || read_front == front, "good ones up to %llu, read up to %llu",
         (unsigned long long)front, (unsigned long long)read_front);
  EXPECT(spool_next_seq(s) > last, "the next number");
  while (spool_lost(s, &l))
    EXPECT(l.offset + l.bytes <= size + SPOOL_HEADER_SIZE, "a loss beyond");
}


static size_t make_records(struct bytes *b) {
  size_t size = SPOOL_HEADER_SIZE;
  uint64_t seq = 1;
  uint8_t text[TEXT_MAX];
  spool_header_write(bytes, id, 1);
  for (unsigned n = take_below(b, RECORDS_MAX); n > 0; n--) {
    uint32_t len = take_below(b, TEXT_MAX);
    for (uint32_t i = 0; i < len; i++)
      text[i] = (uint8_t)take(b, 1);
    if (size + SPOOL_FRAME_SIZE + len > FILE_MAX)
      break;
    spool_frame_write(bytes + size, id, seq, text, len);
    memcpy(bytes + size + SPOOL_FRAME_SIZE, text, len);
    size += SPOOL_FRAME_SIZE + len;
    seq += 1 + (take_below(b, 8) == 0);
  }
  for (unsigned n = take_below(b, 4); n > 0; n--)
    bytes[take_below(b, (unsigned)size)] ^= (uint8_t)take(b, 1);
  return take_below(b, 4) == 0 ? take_below(b, (unsigned)size + 1) : size;
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  uint8_t mine[28] = {'T', 'M', 'i', 'd'};
  size_t n;
  prepare();
  clean();
  if (take(&b, 1) & 1) {
    n = make_records(&b);
  } else {
    n = (size_t)(b.end - b.p) < FILE_MAX ? (size_t)(b.end - b.p) : FILE_MAX;
    memcpy(bytes, b.p, n);
  }
  write_file(segment, bytes, n);
  memcpy(mine + 4, id, sizeof id);
  uint32_t crc = plain_crc(0, mine, 24);
  for (int i = 0; i < 4; i++)
    mine[24 + i] = (uint8_t)(crc >> 8 * i);
  write_file(identity, mine, sizeof mine);
  /* A header that is good, and another's, puts the file aside. */
  uint8_t other[SPOOL_ID_SIZE];
  uint64_t first;
  int ours = n >= SPOOL_HEADER_SIZE &&
             (spool_header_read(bytes, n, other, &first) != SPOOL_GOOD ||
              (first == 1 && memcmp(other, id, sizeof id) == 0));
  int err;
  for (int again = 0; again < 2; again++) {
    struct spool *s = spool_open(dir, 1 << 20, &err);
    EXPECT(s != NULL, "open: %s", strerror(err));
    check(s, n, ours);
    uint64_t next = spool_next_seq(s);
    struct spool_record r;
    if (next < UINT64_MAX - 1) {
      EXPECT(spool_append(s, next, "new", 3) == 0, "append");
      EXPECT(spool_read(s, next, UINT64_MAX, &r) == 1 && r.len == 3 &&
                 memcmp(r.payload, "new", 3) == 0,
             "what was appended");
    }
    spool_close(s);
    if (again == 0) { /* the second time with what the first appended */
      int fd = open(segment, O_RDONLY | O_CLOEXEC);
      if (fd < 0)
        break;
      ssize_t got = read(fd, bytes, sizeof bytes);
      close(fd);
      n = got > 0 ? (size_t)got : 0;
      if (n > FILE_MAX - 64 || next >= UINT64_MAX - 1)
        break;
    }
  }
  return 0;
}
