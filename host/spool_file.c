/* spool_file.c - the files of a spool: segments, identity, position.
 *
 *   id                     who this spool is: magic, 16 random bytes, checksum
 *   position               what was acknowledged; a hint, rewritten in place
 *   NNNNNNNNNNNNNNNNNNNN.seg   records from that number on
 *   damaged-*              kept for people: what could not be read
 *
 * A failed append leaves what was there before. A process that is killed leaves
 * at most a torn record at the end of the last segment, which the next opening
 * cuts off; that opening reads the last segment only, the others when their
 * turn comes. One thread at a time; syncing happens on duplicates of the
 * descriptors, which may be used by another thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool_impl.h"

enum { SMALL_SIZE = 28 }; /* of the files id and position */


void spool_segment_name(char *out, uint64_t first) {
  snprintf(out, SPOOL_NAME_MAX, "%020" PRIu64 ".seg", first);
}


/* 1 and the number when this is a segment's name. */
static int segment_parse(const char *name, uint64_t *first) {
  if (strlen(name) != 24 || strcmp(name + 20, ".seg") != 0 ||
      strspn(name, "0123456789") != 20)
    return 0;
  errno = 0;
  *first = strtoull(name, NULL, 10);
  return errno == 0 && *first > 0;
}


void spool_note(struct spool *s, enum spool_loss_kind kind, const char *file,
                uint64_t offset, uint64_t bytes, uint64_t from, uint64_t to) {
  if (s->loss_count == SPOOL_LOSSES_MAX)
    return;
  struct spool_loss *l =
      &s->losses[(s->loss_first + s->loss_count++) % SPOOL_LOSSES_MAX];
  memset(l, 0, sizeof *l);
  l->kind = kind;
  snprintf(l->file, sizeof l->file, "%s", file);
  l->offset = offset;
  l->bytes = bytes;
  l->from = from;
  l->to = to;
}


int spool_lost(struct spool *s, struct spool_loss *out) {
  if (s->loss_count == 0)
    return 0;
  *out = s->losses[s->loss_first];
  s->loss_first = (s->loss_first + 1) % SPOOL_LOSSES_MAX;
  s->loss_count--;
  return 1;
}


/* All of `n` bytes at `at`, or an errno. */
static int write_all(int fd, const void *p, size_t n, uint64_t at) {
  const char *bytes = p;
  while (n > 0) {
    ssize_t done = pwrite(fd, bytes, n, (off_t)at);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return done < 0 ? errno : EIO;
    bytes += done;
    n -= (size_t)done;
    at += (uint64_t)done;
  }
  return 0;
}


ssize_t spool_pread(int fd, void *p, size_t n, uint64_t at) {
  size_t have = 0;
  while (have < n) {
    ssize_t got =
        pread(fd, (char *)p + have, n - have, (off_t)(at + (uint64_t)have));
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return -errno;
    if (got == 0)
      break;
    have += (size_t)got;
  }
  return (ssize_t)have;
}


/* ---- id and position: magic (4), value (8 or 16, padded), checksum ---- */

static void small_pack(uint8_t *out, const char *kind, const void *value,
                       size_t n) {
  memset(out, 0, SMALL_SIZE);
  memcpy(out, kind, 4);
  memcpy(out + 4, value, n);
  uint32_t crc = spool_crc(0, out, 24);
  for (int i = 0; i < 4; i++)
    out[24 + i] = (uint8_t)(crc >> 8 * i);
}


static int small_load(int dir, const char *name, const char *kind, void *value,
                      size_t n) {
  uint8_t bytes[SMALL_SIZE], want[SMALL_SIZE];
  int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t got = spool_pread(fd, bytes, sizeof bytes, 0);
  close(fd);
  if (got != SMALL_SIZE)
    return 0;
  small_pack(want, kind, bytes + 4, n);
  if (memcmp(bytes, want, sizeof want) != 0)
    return 0;
  memcpy(value, bytes + 4, n);
  return 1;
}


/* Written aside, synced and renamed: there is never a half one. */
static int id_store(struct spool *s) {
  uint8_t bytes[SMALL_SIZE];
  small_pack(bytes, "TMid", s->id, sizeof s->id);
  int fd =
      openat(s->dir, "id.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0)
    return errno;
  int err = write_all(fd, bytes, sizeof bytes, 0);
  if (err == 0 && fsync(fd) != 0)
    err = errno;
  close(fd);
  if (err == 0 && renameat(s->dir, "id.new", s->dir, "id") != 0)
    err = errno;
  return err;
}


/* The position is bound to the id: two words of it stand beside. */
static int position_load(struct spool *s) {
  uint64_t value[2], tail;
  memcpy(&tail, s->id + 8, sizeof tail);
  if (small_load(s->dir, "position", "TMps", value, sizeof value) &&
      value[1] == tail)
    s->position = value[0];
  s->position_fd =
      openat(s->dir, "position", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  return s->position_fd < 0 ? errno : 0;
}


static int position_store(struct spool *s) {
  uint8_t bytes[SMALL_SIZE];
  uint64_t value[2] = {s->position, 0};
  memcpy(&value[1], s->id + 8, sizeof value[1]);
  small_pack(bytes, "TMps", value, sizeof value);
  return write_all(s->position_fd, bytes, sizeof bytes, 0);
}


/* ---- segments ---- */

static int segs_add(struct spool *s, uint64_t first, uint64_t size) {
  if (s->count == s->room) {
    int room = s->room * 2 + 16;
    struct segment *segs = realloc(s->segs, (size_t)room * sizeof *segs);
    if (segs == NULL)
      return ENOMEM;
    s->segs = segs;
    s->room = room;
  }
  int i = s->count++;
  for (; i > 0 && s->segs[i - 1].first > first; i--)
    s->segs[i] = s->segs[i - 1];
  s->segs[i] = (struct segment){first, size};
  return 0;
}


static struct segment *segs_last(struct spool *s) {
  return &s->segs[s->count - 1];
}


void spool_keep_aside(struct spool *s, const char *name) {
  char kept[SPOOL_NAME_MAX + 16];
  snprintf(kept, sizeof kept, "damaged-%s", name);
  if (linkat(s->dir, name, s->dir, kept, 0) != 0 && errno != EEXIST)
    (void)0; /* a file system without links: the note has to do */
}


/* Begin a segment at the next number. It becomes the last one only when its
 * header is written; 0 or an errno. */
static int segment_begin(struct spool *s) {
  uint8_t header[SPOOL_HEADER_SIZE];
  char name[SPOOL_NAME_MAX];
  spool_segment_name(name, s->next);
  int fd = openat(s->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0)
    return errno;
  spool_header_write(header, s->id, s->next);
  int err = write_all(fd, header, sizeof header, 0);
  if (err == 0)
    err = segs_add(s, s->next, SPOOL_HEADER_SIZE);
  if (err != 0) {
    unlinkat(s->dir, name, 0);
    close(fd);
    return err;
  }
  if (s->fd >= 0 && s->dirty_count < SPOOL_DIRTY_MAX) {
    s->dirty[s->dirty_count++] = s->fd;
  } else if (s->fd >= 0) {
    if (fdatasync(s->fd) != 0) /* the syncs are slower than the segments */
      s->sync_err = errno;
    close(s->fd);
  }
  s->fd = fd;
  return 0;
}


static int segment_remove(struct spool *s, int i) {
  char name[SPOOL_NAME_MAX];
  spool_segment_name(name, s->segs[i].first);
  if (unlinkat(s->dir, name, 0) != 0 && errno != ENOENT)
    return errno;
  if (s->r_first == s->segs[i].first)
    s->r_first = 0;
  memmove(&s->segs[i], &s->segs[i + 1],
          (size_t)(s->count - i - 1) * sizeof *s->segs);
  s->count--;
  return 0;
}


/* ---- opening ---- */

/* A segment found in the folder: ours by its header, or by its name when only
 * the header is damaged; of another spool: put aside. 0 or an errno. */
static int open_found(struct spool *s, const char *name, uint64_t first,
                      int know_id) {
  uint8_t header[SPOOL_HEADER_SIZE], id[SPOOL_ID_SIZE];
  uint64_t told;
  struct stat st;
  char kept[SPOOL_NAME_MAX + 16];
  int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  ssize_t got = spool_pread(fd, header, sizeof header, 0);
  int err = fstat(fd, &st) != 0 ? errno : 0;
  close(fd);
  if (got < 0 || err != 0)
    return err != 0 ? err : (int)-got;
  int sound = spool_header_read(header, (size_t)got, id, &told) == SPOOL_GOOD;
  if (sound && !know_id) {
    memcpy(s->id, id, sizeof id);
    return segs_add(s, first, (uint64_t)st.st_size);
  }
  if (sound ? told == first && memcmp(id, s->id, sizeof id) == 0
            : know_id && st.st_size >= SPOOL_HEADER_SIZE) {
    if (!sound)
      spool_note(s, SPOOL_DAMAGED, name, 0, SPOOL_HEADER_SIZE, 1, 0);
    return segs_add(s, first, (uint64_t)st.st_size);
  }
  if (st.st_size < SPOOL_HEADER_SIZE) /* a crash while it was begun */
    return unlinkat(s->dir, name, 0) != 0 ? errno : 0;
  snprintf(kept, sizeof kept, "damaged-%s", name);
  spool_note(s, SPOOL_FOREIGN, kept, 0, (uint64_t)st.st_size, 1, 0);
  return renameat(s->dir, name, s->dir, kept) != 0 ? errno : 0;
}


/* The names of segments, in order. *out is to be freed. */
static int open_list(struct spool *s, uint64_t **out, int *count) {
  int fd = dup(s->dir), err = 0, room = 0;
  DIR *d = fd < 0 ? NULL : fdopendir(fd);
  *out = NULL;
  *count = 0;
  if (d == NULL) {
    err = errno;
    if (fd >= 0)
      close(fd);
    return err;
  }
  rewinddir(d);
  struct dirent *e;
  while (err == 0 && (e = readdir(d)) != NULL) {
    uint64_t first;
    if (!segment_parse(e->d_name, &first))
      continue;
    if (*count == room) {
      room = room * 2 + 16;
      uint64_t *more = realloc(*out, (size_t)room * sizeof **out);
      if (more == NULL) {
        err = ENOMEM;
        break;
      }
      *out = more;
    }
    int i = (*count)++;
    for (; i > 0 && (*out)[i - 1] > first; i--)
      (*out)[i] = (*out)[i - 1];
    (*out)[i] = first;
  }
  closedir(d);
  return err;
}


static int open_segments(struct spool *s) {
  uint64_t *firsts;
  int count, err = open_list(s, &firsts, &count);
  uint8_t none[SPOOL_ID_SIZE] = {0};
  int know_id = small_load(s->dir, "id", "TMid", s->id, sizeof s->id);
  int had_id = know_id;
  for (int i = 0; i < count && err == 0; i++) {
    char name[SPOOL_NAME_MAX];
    spool_segment_name(name, firsts[i]);
    err = open_found(s, name, firsts[i], know_id);
    know_id = know_id || memcmp(s->id, none, sizeof none) != 0;
  }
  free(firsts);
  if (err == 0 && !know_id) {
    if (getrandom(s->id, sizeof s->id, 0) != sizeof s->id)
      return errno;
    s->fresh = 1;
  }
  return err == 0 && !had_id ? id_store(s) : err;
}


/* Find the end of the last segment and cut off what was torn there. */
static int open_end(struct spool *s) {
  char name[SPOOL_NAME_MAX];
  struct segment *seg = segs_last(s);
  spool_segment_name(name, seg->first);
  s->fd = openat(s->dir, name, O_RDWR | O_CLOEXEC);
  if (s->fd < 0)
    return errno;
  size_t n = seg->size < SIZE_MAX / 2 ? (size_t)seg->size : SIZE_MAX / 2;
  uint8_t *bytes = malloc(n + 1);
  if (bytes == NULL)
    return ENOMEM;
  ssize_t got = spool_pread(s->fd, bytes, n, 0);
  uint64_t last = 0;
  size_t end =
      got < 0 ? 0
              : spool_last(bytes, (size_t)got, SPOOL_HEADER_SIZE, s->id, &last);
  free(bytes);
  if (got < 0)
    return (int)-got;
  s->next = last >= seg->first ? last + 1 : seg->first;
  if (end < seg->size) {
    spool_note(s, SPOOL_TORN, name, end, seg->size - end, 1, 0);
    if (ftruncate(s->fd, (off_t)end) != 0)
      return errno;
    seg->size = end;
  }
  return 0;
}


static int open_all(struct spool *s) {
  int err = open_segments(s);
  if (err == 0)
    err = position_load(s);
  if (err == 0)
    (void)position_store(s); /* has its place before the disk is full */
  if (err == 0 && s->count > 0)
    err = open_end(s);
  if (err != 0)
    return err;
  /* Fewer records than were acknowledged: segments are gone; their numbers
   * must not be used again. */
  if (s->next < s->position || s->count == 0) {
    if (s->next < s->position)
      s->next = s->position;
    err = segment_begin(s);
  }
  if (err == 0 && fsync(s->dir) != 0)
    err = errno;
  return err;
}


struct spool *spool_open(const char *path, uint64_t segment_max, int *err) {
  struct spool *s = calloc(1, sizeof *s);
  *err = ENOMEM;
  if (s == NULL)
    return NULL;
  s->segment_max = segment_max;
  s->fd = s->r_fd = s->position_fd = -1;
  s->verify = 1;
  s->next = 1;
  s->losses = calloc(SPOOL_LOSSES_MAX, sizeof *s->losses);
  s->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (s->losses != NULL && s->dir < 0)
    *err = errno;
  if (s->losses != NULL && s->dir >= 0)
    *err = open_all(s);
  if (*err != 0) {
    spool_close(s);
    return NULL;
  }
  return s;
}


static void close_one(int fd) {
  if (fd >= 0)
    close(fd);
}


void spool_close(struct spool *s) {
  for (int i = 0; i < s->dirty_count; i++)
    close(s->dirty[i]);
  close_one(s->fd);
  close_one(s->r_fd);
  close_one(s->position_fd);
  close_one(s->dir);
  free(s->segs);
  free(s->buf);
  free(s->losses);
  free(s);
}


/* ---- appending ---- */

int spool_append(struct spool *s, uint64_t seq, const void *payload,
                 uint32_t len) {
  uint8_t frame[SPOOL_FRAME_SIZE];
  size_t need = SPOOL_FRAME_SIZE + (size_t)len;
  if (seq < s->next || len > SPOOL_PAYLOAD_MAX)
    return EINVAL;
  if (segs_last(s)->size + need > s->segment_max &&
      s->next > segs_last(s)->first) {
    int err = segment_begin(s);
    if (err != 0)
      return err;
  }
  uint8_t small[1024];
  uint8_t *bytes = need <= sizeof small ? small : malloc(need);
  if (bytes == NULL)
    return ENOMEM;
  spool_frame_write(frame, s->id, seq, payload, len);
  memcpy(bytes, frame, sizeof frame);
  memcpy(bytes + sizeof frame, payload, len);
  struct segment *seg = segs_last(s);
  int err = write_all(s->fd, bytes, need, seg->size);
  if (bytes != small)
    free(bytes);
  if (err != 0) {
    /* What was written in part is overwritten by the next, or cut off by the
     * next opening, should even this fail. */
    if (ftruncate(s->fd, (off_t)seg->size) != 0)
      return err;
    return err;
  }
  seg->size += need;
  s->next = seq + 1;
  return 0;
}


int spool_dirty(struct spool *s, int *fds, int max) {
  int n = 0, err = s->sync_err;
  s->sync_err = 0;
  if (err != 0)
    return -err;
  int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
  int dir = fd < 0 ? -1 : fcntl(s->dir, F_DUPFD_CLOEXEC, 0);
  if (dir < 0) {
    err = errno;
    close_one(fd);
    return -err;
  }
  fds[n++] = fd;
  fds[n++] = dir;
  while (s->dirty_count > 0 && n < max)
    fds[n++] = s->dirty[--s->dirty_count];
  return n;
}


/* ---- removing ---- */

int spool_acknowledge(struct spool *s, uint64_t seq) {
  int err = 0;
  if (seq > s->position) {
    s->position = seq;
    err = position_store(s);
  }
  while (s->count > 1 && s->segs[1].first <= seq) {
    int failed = segment_remove(s, 0);
    if (failed != 0)
      return failed;
  }
  return err;
}


int spool_drop(struct spool *s) {
  if (s->count == 1) {
    if (s->next == s->segs[0].first)
      return 0; /* there is nothing in it */
    int err = segment_begin(s);
    if (err != 0)
      return err;
  }
  return segment_remove(s, 0);
}


const uint8_t *spool_id(const struct spool *s) {
  return s->id;
}
uint64_t spool_first_seq(const struct spool *s) {
  return s->segs[0].first;
}
uint64_t spool_next_seq(const struct spool *s) {
  return s->next;
}
uint64_t spool_position(const struct spool *s) {
  return s->position;
}
int spool_segments(const struct spool *s) {
  return s->count;
}
int spool_is_new(const struct spool *s) {
  return s->fresh;
}
void spool_verify(struct spool *s, int on) {
  s->verify = on;
}


uint64_t spool_bytes(const struct spool *s) {
  uint64_t sum = 0;
  for (int i = 0; i < s->count; i++)
    sum += s->segs[i].size;
  return sum;
}
