/* gzip.c - fuzzes host.gzip: the lines of plain, gzip and broken files.
 *
 * The module runs in a Lua state of the target's. What a file holds is told by
 * zlib in one go; the lines must be those, up to where a broken file breaks,
 * and a break must be an error. */
#include <sys/mman.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>
#include <zlib.h>

#include "fuzz.h"

enum { CONTENT_MAX = 1 << 20, LONGEST = 40 };

int luaopen_host_gzip(lua_State *L);

/* All lines of path, one LF after each, and the code of the failure. */
static const char *const reading =
    "local gzip, path, longest, at_once = ...\n"
    "local lines = {}\n"
    "local reader <close> = assert(gzip.open(path, { max_line = longest }))\n"
    "while true do\n"
    "  local got, _, code\n"
    "  if at_once then got, _, code = reader:lines(3)\n"
    "  else got, _, code = reader:line() end\n"
    "  if not got then lines[#lines + 1] = ''\n"
    "    return table.concat(lines, '\\n'), code, reader:number() end\n"
    "  if at_once then table.move(got, 1, #got, #lines + 1, lines)\n"
    "  else lines[#lines + 1] = got end\n"
    "end\n";

static lua_State *L;
static int file;
static char path[64], packed[CONTENT_MAX], content[CONTENT_MAX];
static char expected[CONTENT_MAX + 1];


static void prepare(void) {
  if (L != NULL)
    return;
  L = luaL_newstate();
  luaL_openlibs(L);
  EXPECT(luaL_loadstring(L, reading) == LUA_OK, "%s", lua_tostring(L, -1));
  luaL_requiref(L, "host.gzip", luaopen_host_gzip, 0);
  file = memfd_create("fuzz", 0);
  EXPECT(file >= 0, "memfd_create");
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
}


static size_t pack(const uint8_t *data, size_t size) {
  z_stream z = {0};
  EXPECT(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) ==
             Z_OK,
         "no memory");
  z.next_in = (Bytef *)(uintptr_t)data;
  z.avail_in = (uInt)size;
  z.next_out = (Bytef *)packed;
  z.avail_out = sizeof packed;
  EXPECT(deflate(&z, Z_FINISH) == Z_STREAM_END, "deflate");
  size_t n = z.total_out;
  deflateEnd(&z);
  return n;
}


/* What zlib reads out of the file: *n bytes; 0 when it ends in a failure. */
static int plain_read(size_t *n) {
  int err = Z_OK;
  gzFile f = gzopen(path, "rb");
  EXPECT(f != NULL, "gzopen");
  int got = gzread(f, content, sizeof content);
  gzerror(f, &err);
  *n = got > 0 ? (size_t)got : 0;
  gzclose_r(f);
  return got >= 0 && (err == Z_OK || err == Z_STREAM_END);
}


/* `content` as reading[] returns it, without lines longer than `longest` and
 * what follows them; *too_long tells of one. */
static size_t plain_lines(size_t n, size_t longest, int *too_long) {
  size_t used = 0, at = 0, number = 0;
  *too_long = 0;
  while (at < n) {
    const char *stop = memchr(content + at, '\n', n - at);
    size_t len = stop != NULL ? (size_t)(stop - content) - at : n - at;
    const char *line = content + at;
    at += len + 1;
    if (len > longest) {
      *too_long = 1;
      return used;
    }
    if (len > 0 && line[len - 1] == '\r')
      len--;
    if (++number == 1 && len >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
      line += 3;
      len -= 3;
    }
    memcpy(expected + used, line, len);
    used += len;
    expected[used++] = '\n';
  }
  return used;
}


static void check(size_t longest, int at_once) {
  size_t n, want, len;
  int too_long;
  int sound = plain_read(&n);
  want = plain_lines(n, longest, &too_long);
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushstring(L, path);
  lua_pushinteger(L, (lua_Integer)longest);
  lua_pushboolean(L, at_once);
  EXPECT(lua_pcall(L, 4, 3, 0) == LUA_OK, "%s", lua_tostring(L, -1));
  const char *lines = lua_tolstring(L, -3, &len);
  const char *code = lua_tostring(L, -2);
  EXPECT(len <= want && memcmp(lines, expected, len) == 0, "other lines");
  if (sound && !too_long)
    EXPECT(code == NULL && len == want, "%s, %zu of %zu bytes",
           code != NULL ? code : "", len, want);
  else if (sound)
    EXPECT(code != NULL && strcmp(code, "TOOLONG") == 0 && len == want,
           "a line too long: %s", code != NULL ? code : "none");
  else
    EXPECT(code != NULL, "a broken file read as a short one");
  lua_settop(L, 2);
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  prepare();
  unsigned mode = (unsigned)take(&b, 1);
  size_t at = (size_t)take(&b, 2);
  const void *bytes = b.p;
  size_t n = (size_t)(b.end - b.p);
  if (mode & 1) {
    n = pack(b.p, n);
    bytes = packed;
    if (mode & 2)
      n -= at % (n + 1); /* cut off */
    if (mode & 4 && n > 0)
      packed[at % n] ^= (char)(mode >> 3 | 1);
  }
  EXPECT(ftruncate(file, 0) == 0 && pwrite(file, bytes, n, 0) == (ssize_t)n,
         "pwrite");
  check(mode & 64 ? LONGEST : CONTENT_MAX, mode >> 7);
  return 0;
}
