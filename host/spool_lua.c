/* spool_lua.c - host.spool: the spool of a producer, for Lua.
 *
 * A record is a message on its way to Kafka: topic, key, value, the time it
 * carries and the moment it was made. A thread of the spool's own syncs, on
 * duplicates of the descriptors, so that a slow disk never holds the Lua thread
 * up: Lua asks for a sync and looks later. The folder is to be locked by the
 * caller. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "field.h"
#include "handle.h"
#include "interrupt.h"
#include "mono.h"
#include "opts.h"
#include "spool.h"
#include "thread.h"

int luaopen_host_spool(lua_State *L);

#define SPOOL "spool"

enum { FDS_MAX = 16, HEAD_SIZE = 19, TOPIC_MAX = 255, KEY_MAX = 65535 };

struct syncer {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  int started, stop, working; /* working: fds wait for or are in a sync */
  int fds[FDS_MAX], count;
  int err;       /* of the last sync */
  int64_t us;    /* its duration */
  uint64_t upto; /* what it covers */
};

struct spool_handle {
  struct handle h;
  struct spool *s;
  struct syncer y;
  uint64_t synced; /* all below is on disk */
  uint8_t *pack;   /* a payload being put together */
  size_t pack_size;
};


static int spool_fail(lua_State *L, int err) {
  const char *code = err == ENOSPC || err == EDQUOT                  ? "NOSPACE"
                     : err == ENOENT                                 ? "NOENT"
                     : err == EACCES || err == EROFS || err == EPERM ? "DENIED"
                                                                     : "IO";
  return fail(L, SPOOL, code, "%s", strerror(err));
}


/* ---- the thread that syncs ---- */

static int syncer_sync(const int *fds, int count) {
  int err = 0;
  for (int i = 0; i < count; i++)
    if (fsync(fds[i]) != 0 && err == 0)
      err = errno;
  return err;
}


static void *syncer_run(void *arg) {
  struct syncer *y = arg;
  pthread_mutex_lock(&y->lock);
  for (;;) {
    while (y->count == 0 && !y->stop)
      pthread_cond_wait(&y->changed, &y->lock);
    if (y->count == 0)
      break;
    int fds[FDS_MAX], count = y->count;
    memcpy(fds, y->fds, sizeof fds);
    pthread_mutex_unlock(&y->lock);
    int64_t began = mono_us();
    int err = syncer_sync(fds, count);
    int64_t took = mono_us() - began;
    for (int i = 0; i < count; i++)
      close(fds[i]);
    pthread_mutex_lock(&y->lock);
    y->count = 0;
    y->err = err;
    y->us = took;
    pthread_cond_broadcast(&y->changed);
  }
  pthread_mutex_unlock(&y->lock);
  return NULL;
}


static int syncer_start(struct syncer *y) {
  pthread_mutex_init(&y->lock, NULL);
  mono_cond_init(&y->changed);
  int err = thread_start(&y->thread, 0, syncer_run, y);
  y->started = err == 0;
  return err;
}


/* Ends after the sync under way. */
static void syncer_stop(struct syncer *y) {
  if (y->started) {
    pthread_mutex_lock(&y->lock);
    y->stop = 1;
    pthread_cond_broadcast(&y->changed);
    pthread_mutex_unlock(&y->lock);
    pthread_join(y->thread, NULL);
  }
  pthread_mutex_destroy(&y->lock);
  pthread_cond_destroy(&y->changed);
}


static void spool_handle_close(struct handle *h) {
  struct spool_handle *p = (struct spool_handle *)h;
  syncer_stop(&p->y);
  if (p->s != NULL)
    spool_close(p->s);
  free(p->pack);
  p->s = NULL;
  p->pack = NULL;
}


static struct spool_handle *spool_check(lua_State *L) {
  return handle_check(L, 1, SPOOL);
}


/* ---- payloads: time (8), moment (8), lengths of topic (1) and key (2) ---- */

static void put(uint8_t *p, uint64_t v, int n) {
  for (int i = 0; i < n; i++)
    p[i] = (uint8_t)(v >> 8 * i);
}


static uint64_t get(const uint8_t *p, int n) {
  uint64_t v = 0;
  for (int i = n; i-- > 0;)
    v = v << 8 | p[i];
  return v;
}


static void set_int(lua_State *L, const char *key, uint64_t v) {
  field_int(L, key, (lua_Integer)v);
}


/* {seq=, topic=, key=, value=, stamp_ms=, since_us=}; 0 when the payload is no
 * message (a checksum that was not looked at). [-0, +1] */
static int spool_push(lua_State *L, const struct spool_record *r) {
  const uint8_t *p = r->payload;
  if (r->len < HEAD_SIZE)
    return 0;
  size_t topic = p[16], key = (size_t)get(p + 17, 2);
  if (r->len - HEAD_SIZE < topic + key)
    return 0;
  const char *text = (const char *)p + HEAD_SIZE;
  lua_createtable(L, 0, 6);
  set_int(L, "seq", r->seq);
  set_int(L, "stamp_ms", get(p, 8));
  set_int(L, "since_us", get(p + 8, 8));
  lua_pushlstring(L, text, topic);
  lua_setfield(L, -2, "topic");
  lua_pushlstring(L, text + topic, key);
  lua_setfield(L, -2, "key");
  lua_pushlstring(L, text + topic + key, r->len - HEAD_SIZE - topic - key);
  lua_setfield(L, -2, "value");
  return 1;
}


/* Room for `n` bytes. */
static uint8_t *spool_room(lua_State *L, struct spool_handle *p, size_t n) {
  if (n > p->pack_size) {
    uint8_t *more = realloc(p->pack, n);
    if (more == NULL)
      luaL_error(L, "spool: out of memory");
    p->pack = more;
    p->pack_size = n;
  }
  return p->pack;
}


/* spool:append(seq, topic, key, value, stamp_ms, since_us) -> true | nil,
 * message, code
 *
 * seq must not be below stats().next. NOSPACE, IO: nothing was appended. What
 * was appended is on disk once synced() is above seq. */
static int spool_lua_append(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  size_t topic_len, key_len, value_len;
  lua_Integer seq = luaL_checkinteger(L, 2);
  const char *topic = luaL_checklstring(L, 3, &topic_len);
  const char *key = luaL_checklstring(L, 4, &key_len);
  const char *value = luaL_checklstring(L, 5, &value_len);
  lua_Integer stamp = luaL_checkinteger(L, 6), since = luaL_checkinteger(L, 7);
  luaL_argcheck(L, seq > 0 && (uint64_t)seq >= spool_next_seq(p->s), 2,
                "this number is taken");
  luaL_argcheck(L, topic_len <= TOPIC_MAX, 3, "too long");
  luaL_argcheck(L, key_len <= KEY_MAX, 4, "too long");
  luaL_argcheck(L,
                value_len <=
                    SPOOL_PAYLOAD_MAX - HEAD_SIZE - TOPIC_MAX - (size_t)KEY_MAX,
                5, "too long");
  size_t n = HEAD_SIZE + topic_len + key_len + value_len;
  uint8_t *bytes = spool_room(L, p, n);
  put(bytes, (uint64_t)stamp, 8);
  put(bytes + 8, (uint64_t)since, 8);
  put(bytes + 16, topic_len, 1);
  put(bytes + 17, key_len, 2);
  memcpy(bytes + HEAD_SIZE, topic, topic_len);
  memcpy(bytes + HEAD_SIZE + topic_len, key, key_len);
  memcpy(bytes + HEAD_SIZE + topic_len + key_len, value, value_len);
  int err = spool_append(p->s, (uint64_t)seq, bytes, (uint32_t)n);
  if (err != 0)
    return spool_fail(L, err);
  lua_pushboolean(L, 1);
  return 1;
}


/* spool:sync() -> true | nil, message, code
 *
 * Begins to bring all appended until now to the disk, on another thread; one
 * that is under way is let be: call it again when that is over. */
static int spool_lua_sync(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  struct syncer *y = &p->y;
  int fds[FDS_MAX];
  if (!y->working && p->synced < spool_next_seq(p->s)) {
    int n = spool_dirty(p->s, fds, FDS_MAX);
    if (n < 0)
      return spool_fail(L, -n);
    pthread_mutex_lock(&y->lock);
    memcpy(y->fds, fds, sizeof fds);
    y->count = n;
    y->upto = spool_next_seq(p->s);
    pthread_cond_broadcast(&y->changed);
    pthread_mutex_unlock(&y->lock);
    y->working = 1;
  }
  lua_pushboolean(L, 1);
  return 1;
}


/* spool:wait([timeout_ms = 0]) -> "idle" | "working" | "done", took_us
 * | nil, message, code
 *
 * Waits for the sync under way. "done" and a failure are told once. After a
 * failure nobody knows what of it is on disk. */
static int spool_lua_wait(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  struct syncer *y = &p->y;
  lua_Integer timeout_ms = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, timeout_ms >= 0, 2, "must not be negative");
  if (timeout_ms > INTERRUPT_SLICE_MS)
    timeout_ms = INTERRUPT_SLICE_MS;
  if (!y->working) {
    lua_pushliteral(L, "idle");
    return 1;
  }
  struct timespec until = mono_timespec(mono_us() + timeout_ms * 1000);
  int err = 0;
  pthread_mutex_lock(&y->lock);
  while (y->count > 0 && err == 0 && timeout_ms > 0)
    err = pthread_cond_timedwait(&y->changed, &y->lock, &until);
  int over = y->count == 0, failed = y->err;
  int64_t us = y->us;
  pthread_mutex_unlock(&y->lock);
  if (!over) {
    lua_pushliteral(L, "working");
    return 1;
  }
  y->working = 0;
  if (failed != 0)
    return spool_fail(L, failed);
  p->synced = y->upto;
  lua_pushliteral(L, "done");
  lua_pushinteger(L, us);
  return 2;
}


/* spool:synced() -> integer   all records below are on disk */
static int spool_lua_synced(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)spool_check(L)->synced);
  return 1;
}


/* spool:read(from, until, max [, max_bytes = 1 MiB]) -> array, next
 * | nil, message, code
 *
 * Records numbered at least `from` and below `until`, in order, at most `max`;
 * as {seq=, topic=, key=, value=, stamp_ms=, since_us=}. next is where to read
 * on. What is lost on the way is told by losses(). */
static int spool_lua_read(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  lua_Integer from = luaL_checkinteger(L, 2), until = luaL_checkinteger(L, 3);
  lua_Integer max = luaL_checkinteger(L, 4);
  lua_Integer max_bytes = luaL_optinteger(L, 5, 1 << 20), bytes = 0, n = 0;
  struct spool_record r;
  int got = 0;
  luaL_argcheck(L, from > 0, 2, "must be positive");
  lua_createtable(L, max > 0 && max < 1000 ? (int)max : 0, 0);
  while (n < max && bytes < max_bytes && until > 0 &&
         (got = spool_read(p->s, (uint64_t)from, (uint64_t)until, &r)) == 1) {
    from = (lua_Integer)r.seq + 1;
    bytes += r.len;
    if (spool_push(L, &r))
      lua_rawseti(L, -2, ++n);
  }
  if (got < 0)
    return spool_fail(L, -got);
  uint64_t end = spool_next_seq(p->s);
  if (until < 0 || (uint64_t)until < end)
    end = until < 0 ? 0 : (uint64_t)until;
  if (n < max && bytes < max_bytes && (uint64_t)from < end)
    from = (lua_Integer)end; /* there are no more, damaged ones at most */
  lua_pushinteger(L, from);
  return 2;
}


/* spool:acknowledge(seq) -> true | nil, message, code
 *
 * All below seq may be removed; kept as stats().position. */
static int spool_lua_acknowledge(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  lua_Integer seq = luaL_checkinteger(L, 2);
  luaL_argcheck(L, seq > 0, 2, "must be positive");
  int err = spool_acknowledge(p->s, (uint64_t)seq);
  if (err != 0)
    return spool_fail(L, err);
  lua_pushboolean(L, 1);
  return 1;
}


/* spool:drop() -> first | nil, message, code
 *
 * Removes the oldest segment, whatever is in it; first is the oldest number
 * that is there now. */
static int spool_lua_drop(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  int err = spool_drop(p->s);
  if (err != 0)
    return spool_fail(L, err);
  lua_pushinteger(L, (lua_Integer)spool_first_seq(p->s));
  return 1;
}


/* spool:losses() -> array of {kind=, file=, offset=, bytes=, from=, to=}
 *
 * Since the last call. kind: "torn" (the end of the last segment, cut off),
 * "damaged" (bytes that are no record; the file is kept as damaged-FILE),
 * "missing" (numbers that stand nowhere), "foreign" (a file of another spool).
 * Without from and to no record is known to be lost. */
static int spool_lua_losses(lua_State *L) {
  static const char *const kinds[] = {"torn", "damaged", "missing", "foreign"};
  struct spool_handle *p = spool_check(L);
  struct spool_loss l;
  lua_Integer n = 0;
  lua_newtable(L);
  while (spool_lost(p->s, &l)) {
    lua_createtable(L, 0, 6);
    lua_pushstring(L, kinds[l.kind]);
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, l.file);
    lua_setfield(L, -2, "file");
    set_int(L, "offset", l.offset);
    set_int(L, "bytes", l.bytes);
    if (l.from <= l.to) {
      set_int(L, "from", l.from);
      set_int(L, "to", l.to);
    }
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}


/* spool:stats() -> {id=, first=, next=, position=, bytes=, segments=, new=}
 *
 * id: 32 hexadecimal digits; first: the oldest number that may be there; next:
 * the least that may be appended; position: acknowledged (0: nothing yet);
 * new: this opening made the spool. */
static int spool_lua_stats(lua_State *L) {
  struct spool_handle *p = spool_check(L);
  char hex[2 * SPOOL_ID_SIZE + 1];
  for (int i = 0; i < SPOOL_ID_SIZE; i++)
    snprintf(hex + 2 * i, 3, "%02x", spool_id(p->s)[i]);
  lua_createtable(L, 0, 7);
  lua_pushstring(L, hex);
  lua_setfield(L, -2, "id");
  set_int(L, "first", spool_first_seq(p->s));
  set_int(L, "next", spool_next_seq(p->s));
  set_int(L, "position", spool_position(p->s));
  set_int(L, "bytes", spool_bytes(p->s));
  set_int(L, "segments", (uint64_t)spool_segments(p->s));
  lua_pushboolean(L, spool_is_new(p->s));
  lua_setfield(L, -2, "new");
  return 1;
}


/* spool.open{path=, segment_bytes=, verify=} -> spool | nil, message, code
 *
 * Opens the spool in a folder, which must be there, or makes one there. Only
 * one process at a time may: lock it. segment_bytes: 16 MiB; verify = false
 * takes records without looking at their checksums. */
static int spool_lua_open(lua_State *L) {
  static const char *const known[] = {"path", "segment_bytes", "verify", NULL};
  opts_check(L, 1, known);
  const char *path = opts_need(L, 1, "path");
  int64_t segment = opts_int(L, 1, "segment_bytes", 16 << 20, 1024, 1 << 30);
  int verify = opts_bool(L, 1, "verify", 1), err;
  struct spool_handle *p = handle_new(L, sizeof *p, SPOOL);
  err = syncer_start(&p->y);
  p->h.close = spool_handle_close;
  if (err == 0)
    p->s = spool_open(path, (uint64_t)segment, &err);
  if (p->s == NULL) {
    handle_close(&p->h);
    return spool_fail(L, err);
  }
  spool_verify(p->s, verify);
  p->synced = 1; /* of what an earlier run left nothing is known */
  return 1;
}


int luaopen_host_spool(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"append", spool_lua_append}, {"sync", spool_lua_sync},
      {"wait", spool_lua_wait},     {"synced", spool_lua_synced},
      {"read", spool_lua_read},     {"acknowledge", spool_lua_acknowledge},
      {"drop", spool_lua_drop},     {"losses", spool_lua_losses},
      {"stats", spool_lua_stats},   {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open", spool_lua_open}, {NULL, NULL}};
  handle_type(L, SPOOL, methods);
  luaL_newlib(L, functions);
  return 1;
}
