/* gzip.c - host.gzip: the lines of a plain or gzip file, and gzip in memory.
 *
 * zlib tells the two kinds of file apart itself. Lines are cut out of one
 * buffer that is bounded by the longest line allowed. A file that ends inside
 * its gzip stream is an error where its last whole line ends, never a short
 * file. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>
#include <zlib.h>

#include "fail.h"
#include "handle.h"
#include "interrupt.h"
#include "opts.h"

#define TYPE_READER "line reader"

enum {
  LINE_MAX_BYTES = 1024 * 1024,
  CHUNK = 128 * 1024,
  LINES_MAX = 100000,
  GZIP_WINDOW = 15 + 16, /* the greatest window, with a gzip header */
  PACK_MAX = 64 * 1024 * 1024
};

struct reader {
  struct handle h;
  gzFile file;
  char *buf;
  size_t cap, from, to; /* the unread bytes are buf[from .. to) */
  size_t scanned;       /* no line break in buf[from .. scanned) */
  size_t max_line;
  lua_Integer number; /* of the line that was read last */
  int ended;
};

int luaopen_host_gzip(lua_State *L);


static void reader_free(struct handle *h) {
  struct reader *r = (struct reader *)h;
  gzclose_r(r->file);
  r->file = NULL;
  free(r->buf);
  r->buf = NULL;
}


static int fail_errno(lua_State *L, const char *path, int error) {
  const char *code = error == ENOENT   ? "NOENT"
                     : error == EACCES ? "DENIED"
                     : error == EISDIR ? "ISDIR"
                     : error == ENOMEM ? "NOMEM"
                                       : "READ";
  return fail(L, "gzip", code, "%s: %s", path, strerror(error));
}


/* A descriptor of a file that is no folder, or -1 with errno. */
static int open_file(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
    close(fd);
    errno = EISDIR;
    fd = -1;
  }
  return fd;
}


/* gzip.open(path [, { max_line=1048576 }])  --> reader | nil, message, code
 * Codes: NOENT, DENIED, ISDIR, NOMEM, READ. */
static int gzip_open(lua_State *L) {
  static const char *const known[] = {"max_line", NULL};
  const char *path = luaL_checkstring(L, 1);
  int64_t max_line = LINE_MAX_BYTES;
  if (!lua_isnoneornil(L, 2)) {
    opts_check(L, 2, known);
    max_line = opts_int(L, 2, "max_line", max_line, 1, (int64_t)1 << 30);
  }
  struct reader *r = handle_new(L, sizeof *r, TYPE_READER);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1); /* the path, for messages */
  int fd = open_file(path);
  if (fd < 0)
    return fail_errno(L, path, errno);
  r->file = gzdopen(fd, "rb");
  if (r->file == NULL) {
    close(fd);
    return fail_errno(L, path, ENOMEM);
  }
  r->h.close = reader_free;
  gzbuffer(r->file, CHUNK);
  r->max_line = (size_t)max_line;
  r->cap = (size_t)CHUNK;
  r->buf = malloc(r->cap);
  if (r->buf == NULL) {
    handle_close(&r->h);
    return fail_errno(L, path, ENOMEM);
  }
  return 1;
}


/* Push the failure that zlib tells of `r`; the reader is at 1. */
static int fail_zlib(lua_State *L, struct reader *r) {
  int zerr = Z_OK;
  int error = errno;
  const char *text = gzerror(r->file, &zerr);
  lua_getiuservalue(L, 1, 1);
  const char *path = lua_tostring(L, -1);
  if (zerr == Z_ERRNO)
    return fail_errno(L, path, error);
  return fail(L, "gzip",
              zerr == Z_BUF_ERROR   ? "TRUNCATED"
              : zerr == Z_MEM_ERROR ? "NOMEM"
                                    : "CORRUPT",
              "%s: after line %lld: %s", path, (long long)r->number,
              zerr == Z_BUF_ERROR ? "the file ends inside its gzip stream"
                                  : text);
}


/* Make room in the buffer for another read. 0, or -1 without memory. */
static int reader_room(struct reader *r) {
  if (r->from > 0) {
    memmove(r->buf, r->buf + r->from, r->to - r->from);
    r->to -= r->from;
    r->scanned -= r->from;
    r->from = 0;
  }
  if (r->to == r->cap) {
    char *grown = realloc(r->buf, r->cap * 2);
    if (grown == NULL)
      return -1;
    r->buf = grown;
    r->cap *= 2;
  }
  return 0;
}


/* Read more bytes; 1: got some, 0: the end, -1: gzerror tells. */
static int reader_fill(struct reader *r) {
  int zerr = Z_OK;
  size_t room = r->cap - r->to;
  int n =
      gzread(r->file, r->buf + r->to, room > CHUNK ? CHUNK : (unsigned)room);
  if (n > 0) {
    r->to += (size_t)n;
    return 1;
  }
  gzerror(r->file, &zerr);
  if (n < 0 || (zerr != Z_OK && zerr != Z_STREAM_END))
    return -1;
  r->ended = 1;
  return 0;
}


/* Push a failure about the next line. */
static int fail_line(lua_State *L, struct reader *r, const char *code,
                     const char *text) {
  lua_getiuservalue(L, 1, 1);
  return fail(L, "gzip", code, "%s: line %lld %s", lua_tostring(L, -1),
              (long long)r->number + 1, text);
}


/* Read until a line break is in the buffer or the file ends; the line is then
 * buf[from .. *stop). 1, 0 at the end, or -1 after pushing a failure whose
 * last three values count. The reader is at 1. */
static int reader_find(lua_State *L, struct reader *r, size_t *stop) {
  for (;;) {
    char *at = memchr(r->buf + r->scanned, '\n', r->to - r->scanned);
    size_t end = at != NULL ? (size_t)(at - r->buf) : r->to;
    if (end - r->from > r->max_line) {
      fail_line(L, r, "TOOLONG", "is longer than the limit");
      return -1;
    }
    *stop = end;
    if (at != NULL)
      return 1;
    r->scanned = r->to;
    if (r->ended)
      return r->to > r->from;
    if (reader_room(r) != 0) {
      fail_line(L, r, "NOMEM", "does not fit into memory");
      return -1;
    }
    if (reader_fill(r) < 0) {
      fail_zlib(L, r);
      return -1;
    }
  }
}


/* Take the line that ends at `stop`, without its end and a byte order mark. */
static const char *reader_take(struct reader *r, size_t stop, size_t *len) {
  const char *line = r->buf + r->from;
  size_t n = stop - r->from;
  r->from = stop < r->to ? stop + 1 : stop;
  r->scanned = r->from;
  r->number++;
  if (n > 0 && line[n - 1] == '\r')
    n--;
  if (r->number == 1 && n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
    line += 3;
    n -= 3;
  }
  *len = n;
  return line;
}


/* reader:line()  --> text | nil at the end | nil, message, code
 * Without its line break (LF or CR LF); a byte order mark at the start is
 * dropped. Codes: TRUNCATED, CORRUPT, TOOLONG, READ, NOMEM. */
static int reader_line(lua_State *L) {
  struct reader *r = handle_check(L, 1, TYPE_READER);
  size_t stop, len;
  int got = reader_find(L, r, &stop);
  if (got < 0)
    return 3;
  if (got == 0) {
    lua_pushnil(L);
    return 1;
  }
  const char *line = reader_take(r, stop, &len);
  lua_pushlstring(L, line, len);
  return 1;
}


/* reader:lines(max)  --> { text, ... } | nil at the end | nil, message, code
 * Up to `max` lines at once. A failure is told by the call after the lines
 * that stand before it. */
static int reader_lines(lua_State *L) {
  struct reader *r = handle_check(L, 1, TYPE_READER);
  lua_Integer max = luaL_checkinteger(L, 2), n = 0;
  luaL_argcheck(L, max >= 1 && max <= LINES_MAX, 2, "must be 1 to 100000");
  interrupt_check(L);
  lua_settop(L, 2);
  lua_createtable(L, (int)max, 0);
  size_t stop, len;
  int got = 0;
  while (n < max && (got = reader_find(L, r, &stop)) > 0) {
    const char *line = reader_take(r, stop, &len);
    lua_pushlstring(L, line, len);
    lua_rawseti(L, 3, ++n);
  }
  if (n == 0 && got < 0)
    return 3;
  lua_settop(L, 3);
  if (n == 0)
    lua_pushnil(L);
  return 1;
}


/* reader:number()  --> integer   the number of the line that was read last */
static int reader_number(lua_State *L) {
  struct reader *r = handle_check(L, 1, TYPE_READER);
  lua_pushinteger(L, r->number);
  return 1;
}


/* reader:taken()  --> integer | nil   bytes of the file that were read so far,
 * as they are stored: a little ahead of the lines; nil for a pipe */
static int reader_taken(lua_State *L) {
  struct reader *r = handle_check(L, 1, TYPE_READER);
  z_off_t at = gzoffset(r->file);
  if (at >= 0)
    lua_pushinteger(L, (lua_Integer)at);
  else
    lua_pushnil(L);
  return 1;
}


static void *zlib_alloc(void *user, unsigned items, unsigned size) {
  (void)user;
  return calloc(items, size);
}


static void zlib_release(void *user, void *p) {
  (void)user;
  free(p);
}


/* gzip.pack(text [, level])  --> bytes   level 1 to 9, 6 by default */
static int gzip_pack(lua_State *L) {
  size_t len;
  z_stream z = {0};
  const char *text = luaL_checklstring(L, 1, &len);
  int level = (int)luaL_optinteger(L, 2, 6);
  luaL_argcheck(L, level >= 1 && level <= 9, 2, "must be 1 to 9");
  luaL_argcheck(L, len <= PACK_MAX, 1, "more than 64 MB");
  uLong bound = compressBound((uLong)len) + 64;
  /* The buffer first: nothing of zlib's is open when its allocation raises. */
  luaL_Buffer b;
  char *out = luaL_buffinitsize(L, &b, bound);
  z.zalloc = zlib_alloc;
  z.zfree = zlib_release;
  if (deflateInit2(&z, level, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) !=
      Z_OK)
    return luaL_error(L, "gzip: out of memory");
  z.next_in = (Bytef *)text;
  z.avail_in = (uInt)len;
  z.next_out = (Bytef *)out;
  z.avail_out = (uInt)bound;
  int rc = deflate(&z, Z_FINISH);
  size_t made = (size_t)z.total_out;
  deflateEnd(&z);
  if (rc != Z_STREAM_END)
    return luaL_error(L, "gzip: deflate ended with %d", rc);
  luaL_pushresultsize(&b, made);
  return 1;
}


static const luaL_Reg reader_methods[] = {{"line", reader_line},
                                          {"lines", reader_lines},
                                          {"number", reader_number},
                                          {"taken", reader_taken},
                                          {NULL, NULL}};

static const luaL_Reg gzip_functions[] = {
    {"open", gzip_open}, {"pack", gzip_pack}, {NULL, NULL}};


int luaopen_host_gzip(lua_State *L) {
  handle_type(L, TYPE_READER, reader_methods);
  luaL_newlib(L, gzip_functions);
  return 1;
}
