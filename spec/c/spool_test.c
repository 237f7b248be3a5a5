/* spool_test.c - the bytes of a spool, and its files under every damage. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "spool.h"

static char dir[256];


static void each_file(void (*f)(const char *path)) {
  DIR *d = opendir(dir);
  struct dirent *e;
  while (d != NULL && (e = readdir(d)) != NULL) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    if (e->d_name[0] != '.')
      f(path);
  }
  if (d != NULL)
    closedir(d);
}


static void remove_file(const char *path) {
  unlink(path);
}


static struct spool *open_it(uint64_t segment_max) {
  int err;
  struct spool *s = spool_open(dir, segment_max, &err);
  CHECK(s != NULL, "spool_open: %s", strerror(err));
  if (s == NULL)
    exit(1);
  return s;
}


static char *segment_path(uint64_t first) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%020llu.seg", dir, (unsigned long long)first);
  return path;
}


static void text_of(char *out, size_t size, uint64_t seq) {
  snprintf(out, size, "record %llu", (unsigned long long)seq);
}


static void fill(struct spool *s, int count) {
  for (int i = 0; i < count; i++) {
    char text[64];
    text_of(text, sizeof text, spool_next_seq(s));
    int err = spool_append(s, spool_next_seq(s), text, (uint32_t)strlen(text));
    CHECK(err == 0, "append: %s", strerror(err));
  }
}


/* Read on from `from`: each must be what was written. The number of records;
 * *next is what comes after the last one. */
static int drain(struct spool *s, uint64_t from, uint64_t *next) {
  struct spool_record r;
  int n = 0, got;
  while ((got = spool_read(s, from, UINT64_MAX, &r)) == 1) {
    char text[64];
    text_of(text, sizeof text, r.seq);
    CHECK(r.seq >= from, "went back to %llu", (unsigned long long)r.seq);
    CHECK(r.len == strlen(text) && memcmp(r.payload, text, r.len) == 0,
          "record %llu holds something else", (unsigned long long)r.seq);
    from = r.seq + 1;
    n++;
  }
  CHECK(got == 0, "read: %s", strerror(-got));
  *next = from;
  return n;
}


static int losses(struct spool *s, struct spool_loss *last) {
  int n = 0;
  while (spool_lost(s, last))
    n++;
  return n;
}


static void poke(const char *path, long at, int xor) {
  FILE *f = fopen(path, "r+b");
  CHECK(f != NULL, "%s: %s", path, strerror(errno));
  fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
  int c = fgetc(f);
  fseek(f, -1, SEEK_CUR);
  fputc(c ^ xor, f);
  fclose(f);
}


static void test_checksum(void) {
  uint8_t zeros[32] = {0}, ones[32], up[32];
  for (int i = 0; i < 32; i++) {
    ones[i] = 0xFF;
    up[i] = (uint8_t)i;
  }
  /* RFC 3720, B.4 */
  CHECK(spool_crc(0, zeros, 32) == 0x8A9136AAu, "zeros");
  CHECK(spool_crc(0, ones, 32) == 0x62A8AB43u, "ones");
  CHECK(spool_crc(0, up, 32) == 0x46DD794Eu, "incrementing");
  CHECK(spool_crc(0, "123456789", 9) == 0xE3069283u, "digits");
  CHECK(spool_crc(spool_crc(0, "1234", 4), "56789", 5) == 0xE3069283u,
        "in two parts");
}


static void test_record(void) {
  uint8_t id[SPOOL_ID_SIZE] = {1, 2, 3}, other[SPOOL_ID_SIZE] = {1, 2, 4};
  uint8_t bytes[SPOOL_FRAME_SIZE + 5];
  struct spool_record r;
  memcpy(bytes + SPOOL_FRAME_SIZE, "hello", 5);
  spool_frame_write(bytes, id, 7, "hello", 5);
  CHECK(spool_record_read(bytes, sizeof bytes, id, 1, &r) == SPOOL_GOOD &&
            r.seq == 7 && r.len == 5,
        "a whole one");
  CHECK(spool_record_read(bytes, sizeof bytes, other, 1, &r) == SPOOL_BAD,
        "one of another spool");
  for (size_t n = 0; n < sizeof bytes; n++)
    CHECK(spool_record_read(bytes, n, id, 1, &r) == SPOOL_SHORT, "cut at %zu",
          n);
  for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    CHECK(spool_record_read(bytes, sizeof bytes, id, 1, &r) != SPOOL_GOOD,
          "bit %zu turned", bit);
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  bytes[sizeof bytes - 1] ^= 1;
  CHECK(spool_record_read(bytes, sizeof bytes, id, 0, &r) == SPOOL_GOOD,
        "without its checksum");
}


static void test_order(void) {
  uint64_t next;
  struct spool_loss l;
  struct spool *s = open_it(4096);
  CHECK(spool_is_new(s) && spool_next_seq(s) == 1, "a new one");
  fill(s, 1000);
  CHECK(spool_segments(s) > 5, "%d segments", spool_segments(s));
  CHECK(drain(s, 1, &next) == 1000 && next == 1001, "all of them");
  CHECK(drain(s, 500, &next) == 501, "going back");
  fill(s, 10);
  CHECK(drain(s, 1001, &next) == 10, "what came after the end");
  struct spool_record r;
  CHECK(spool_read(s, 5, 5, &r) == 0 && spool_read(s, 5, 6, &r) == 1,
        "below the limit only");
  CHECK(spool_acknowledge(s, 900) == 0 && spool_first_seq(s) > 700 &&
            spool_first_seq(s) <= 900,
        "acknowledged segments are removed");
  CHECK(drain(s, 900, &next) == 111, "the rest");
  spool_close(s);
  s = open_it(4096);
  CHECK(!spool_is_new(s) && spool_next_seq(s) == 1011, "opened again");
  CHECK(spool_position(s) == 900, "the position is kept");
  CHECK(drain(s, 900, &next) == 111 && losses(s, &l) == 0, "and the records");
  CHECK(spool_append(s, 1010, "x", 1) == EINVAL, "no number twice");
  spool_close(s);
  each_file(remove_file);
}


/* Cut at every byte of the last records: those before are all there. */
static void test_torn(void) {
  struct spool *s = open_it(1 << 20);
  uint64_t next, size;
  struct spool_loss l;
  fill(s, 3);
  uint64_t first = spool_bytes(s);
  fill(s, 1);
  size = spool_bytes(s);
  spool_close(s);
  for (uint64_t cut = size; cut-- > first;) {
    CHECK(truncate(segment_path(1), (off_t)cut) == 0, "truncate");
    s = open_it(1 << 20);
    CHECK(spool_next_seq(s) == 4, "cut at %llu", (unsigned long long)cut);
    CHECK(drain(s, 1, &next) == 3, "those before it");
    int told = losses(s, &l);
    CHECK(told == (cut > first), "told %d times", told);
    if (told)
      CHECK(l.kind == SPOOL_TORN && l.offset == first && l.bytes == cut - first,
            "where: %llu, %llu", (unsigned long long)l.offset,
            (unsigned long long)l.bytes);
    fill(s, 1);
    CHECK(drain(s, 4, &next) == 1, "it goes on");
    spool_close(s);
  }
  /* Bytes of the last record turned: it goes, and nothing else. */
  poke(segment_path(1), -1, 0x40);
  s = open_it(1 << 20);
  CHECK(spool_next_seq(s) == 4 && losses(s, &l) == 1 && l.kind == SPOOL_TORN,
        "turned bytes");
  spool_close(s);
  each_file(remove_file);
}


static void test_damaged(void) {
  uint64_t next;
  struct spool_loss l;
  struct stat st;
  struct spool *s = open_it(1 << 20);
  fill(s, 4);
  long at = (long)spool_bytes(s) + SPOOL_FRAME_SIZE + 2;
  fill(s, 6);
  spool_close(s);
  poke(segment_path(1), at, 1);
  s = open_it(1 << 20);
  CHECK(spool_next_seq(s) == 11, "what follows is known");
  CHECK(drain(s, 1, &next) == 9, "all others are read");
  CHECK(losses(s, &l) == 1 && l.kind == SPOOL_DAMAGED && l.from == 5 &&
            l.to == 5 && l.bytes == SPOOL_FRAME_SIZE + 8,
        "record 5: %llu..%llu", (unsigned long long)l.from,
        (unsigned long long)l.to);
  CHECK(drain(s, 1, &next) == 9 && losses(s, &l) == 0, "told once");
  char kept[512];
  snprintf(kept, sizeof kept, "%s/damaged-%020d.seg", dir, 1);
  CHECK(stat(kept, &st) == 0, "the file is kept");
  spool_verify(s, 0);
  struct spool_record r;
  CHECK(spool_read(s, 5, 6, &r) == 1 && r.seq == 5,
        "without checksums it would pass");
  spool_close(s);
  each_file(remove_file);
}


/* A whole segment of several is spoilt, another one is gone. */
static void test_segments_lost(void) {
  uint64_t next, firsts[3];
  struct spool_loss l;
  struct spool *s = open_it(2048);
  for (int i = 0; i < 3; i++) {
    int before = spool_segments(s);
    while (spool_segments(s) == before)
      fill(s, 1);
    firsts[i] = spool_next_seq(s) - 1;
  }
  fill(s, 10);
  uint64_t end = spool_next_seq(s);
  spool_close(s);
  struct stat st;
  CHECK(stat(segment_path(firsts[0]), &st) == 0, "the second segment");
  FILE *f = fopen(segment_path(firsts[0]), "wb");
  for (long i = 0; i < st.st_size; i++)
    fputc('x', f);
  fclose(f);
  unlink(segment_path(firsts[1]));
  s = open_it(2048);
  CHECK(losses(s, &l) == 1 && l.kind == SPOOL_DAMAGED && l.from > l.to,
        "its header is damaged");
  uint64_t lost = firsts[2] - firsts[0];
  CHECK(drain(s, 1, &next) == (int)(end - 1 - lost) && next == end, "the rest");
  uint64_t sum = 0;
  while (spool_lost(s, &l))
    sum += l.to - l.from + 1;
  CHECK(sum == lost, "%llu told, %llu lost", (unsigned long long)sum,
        (unsigned long long)lost);
  spool_close(s);
  /* All are gone, and the position says what was there. */
  s = open_it(2048);
  CHECK(spool_acknowledge(s, end) == 0, "acknowledge");
  spool_close(s);
  for (uint64_t i = 1; i <= end; i++)
    unlink(segment_path(i));
  s = open_it(2048);
  CHECK(spool_next_seq(s) == end, "numbers are not used again");
  spool_close(s);
  /* The name of the spool is in the segments, too. */
  uint8_t id[SPOOL_ID_SIZE];
  s = open_it(2048);
  memcpy(id, spool_id(s), sizeof id);
  spool_close(s);
  char path[512];
  snprintf(path, sizeof path, "%s/id", dir);
  unlink(path);
  s = open_it(2048);
  CHECK(memcmp(id, spool_id(s), sizeof id) == 0 && !spool_is_new(s),
        "the same spool");
  spool_close(s);
  each_file(remove_file);
}


static void test_drop(void) {
  uint64_t next;
  struct spool_loss l;
  struct spool *s = open_it(1024);
  fill(s, 100);
  CHECK(drain(s, 1, &next) == 100, "read");
  uint64_t bytes = spool_bytes(s);
  CHECK(spool_drop(s) == 0 && spool_first_seq(s) > 1 && spool_bytes(s) < bytes,
        "the oldest is gone");
  CHECK(drain(s, spool_first_seq(s), &next) == (int)(101 - spool_first_seq(s)),
        "the rest is not");
  while (spool_first_seq(s) < spool_next_seq(s))
    CHECK(spool_drop(s) == 0, "drop");
  CHECK(spool_drop(s) == 0 && spool_segments(s) == 1, "nothing to drop");
  CHECK(drain(s, spool_next_seq(s), &next) == 0 && losses(s, &l) == 0, "none");
  fill(s, 1);
  CHECK(drain(s, 101, &next) == 1, "it goes on");
  int fds[16];
  int n = spool_dirty(s, fds, 16);
  CHECK(n >= 2, "descriptors to sync: %d", n);
  while (n > 0)
    CHECK(fsync(fds[n - 1]) == 0 && close(fds[n - 1]) == 0 && n-- > 0, "sync");
  spool_close(s);
  each_file(remove_file);
}


/* A file that may not grow: nothing is appended, nothing is spoilt. */
static void test_no_room(void) {
  uint64_t next;
  struct spool_loss l;
  struct rlimit old, small;
  struct spool *s = open_it(1 << 20);
  fill(s, 5);
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = spool_bytes(s) + 10; /* in the middle of a record */
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  CHECK(spool_append(s, 6, "record 6", 8) == EFBIG, "no room");
  CHECK(spool_next_seq(s) == 6, "not appended");
  setrlimit(RLIMIT_FSIZE, &old);
  CHECK(drain(s, 1, &next) == 5, "what was there");
  CHECK(spool_append(s, 9, "record 9", 8) == 0, "a number may be left out");
  CHECK(drain(s, 6, &next) == 1 && next == 10, "the next one");
  CHECK(losses(s, &l) == 1 && l.kind == SPOOL_MISSING && l.from == 6 &&
            l.to == 8,
        "the gap");
  spool_close(s);
  s = open_it(1 << 20);
  CHECK(drain(s, 9, &next) == 1 && losses(s, &l) == 0, "a gap that was known");
  spool_close(s);
  each_file(remove_file);
}


int main(void) {
  const char *tmp = getenv("TMPDIR");
  snprintf(dir, sizeof dir, "%.200s/spool-test-XXXXXX",
           tmp != NULL ? tmp : "/tmp");
  if (mkdtemp(dir) == NULL)
    return 1;
  test_checksum();
  test_record();
  test_order();
  test_torn();
  test_damaged();
  test_segments_lost();
  test_drop();
  test_no_room();
  rmdir(dir);
  return check_done();
}
