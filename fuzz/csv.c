/* csv.c - fuzzes lib/mill/csv.lua against a reader of one byte at a time.
 *
 * The input is a header and a line. Splitting must give the reader's fields or
 * fail where it fails; picking columns must give the same as splitting. Runs
 * in the repository, where it finds the library. */
#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>

#include "fuzz.h"

enum { FIELDS_MAX = 64 };

/* -> fields or nil, number of wanted columns, picked values... */
static const char *const reading =
    "package.path = 'lib/?.lua'\n"
    "local csv = require 'mill.csv'\n"
    "return function(header, line, first, second)\n"
    "  local fields = csv.split(line)\n"
    "  local names = csv.split(header)\n"
    "  if not names then return fields, 0 end\n"
    "  local wanted = { names[first % #names + 1], names[second % #names + 1] "
    "}\n"
    "  local index, count = csv.header(header, wanted)\n"
    "  if not index then return fields, 0 end\n"
    "  local pick = csv.picker(index, count, wanted)\n"
    "  local a, b = pick(line)\n"
    "  if not fields or #fields ~= count then\n"
    "    assert(a == nil, 'picked out of a bad line')\n"
    "  else\n"
    "    assert(a == fields[index[wanted[1]]], 'first column')\n"
    "    assert(b == fields[index[wanted[2]]], 'second column')\n"
    "  end\n"
    "  return fields, count\n"
    "end\n";

static lua_State *L;
static int run;

struct fields {
  char *text;
  size_t at[FIELDS_MAX], len[FIELDS_MAX];
  size_t count;
};


/* 0 when the line is not well formed, -1 when it has too many fields. */
static int plain_split(const char *line, size_t n, struct fields *f) {
  size_t i = 0, used = 0;
  f->count = 0;
  for (;;) {
    if (f->count == FIELDS_MAX)
      return -1;
    f->at[f->count] = used;
    if (i < n && line[i] == '"') {
      for (i++;; i++) {
        if (i == n)
          return 0;
        if (line[i] == '"' && (++i == n || line[i] != '"'))
          break;
        f->text[used++] = line[i];
      }
      if (i < n && line[i] != ',')
        return 0;
    } else {
      for (; i < n && line[i] != ','; i++) {
        if (line[i] == '"')
          return 0;
        f->text[used++] = line[i];
      }
    }
    f->len[f->count] = used - f->at[f->count];
    f->count++;
    if (i == n)
      return 1;
    i++;
  }
}


static void check_split(const struct fields *f, int good) {
  if (good < 0)
    return;
  EXPECT(lua_istable(L, -2) == good, "split: %s", luaL_typename(L, -2));
  if (!good)
    return;
  EXPECT(lua_rawlen(L, -2) == f->count, "%zu fields", f->count);
  for (size_t i = 0; i < f->count; i++) {
    size_t len;
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    const char *field = lua_tolstring(L, -1, &len);
    EXPECT(len == f->len[i] && memcmp(field, f->text + f->at[i], len) == 0,
           "field %zu", i + 1);
    lua_pop(L, 1);
  }
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  if (L == NULL) {
    L = luaL_newstate();
    luaL_openlibs(L);
    EXPECT(luaL_dostring(L, reading) == LUA_OK, "%s", lua_tostring(L, -1));
    run = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  unsigned columns = (unsigned)take(&b, 1);
  const char *header = (const char *)b.p, *end = (const char *)b.end;
  const char *stop =
      b.p < b.end ? memchr(header, '\n', (size_t)(end - header)) : NULL;
  const char *line = stop != NULL ? stop + 1 : header;
  size_t header_len = (size_t)((stop != NULL ? stop : end) - header);
  size_t n = (size_t)(end - line);
  struct fields f = {.text = malloc(n + 1)};
  int good = plain_split(line, n, &f);
  lua_rawgeti(L, LUA_REGISTRYINDEX, run);
  lua_pushlstring(L, header, header_len);
  lua_pushlstring(L, line, n);
  lua_pushinteger(L, columns & 15);
  lua_pushinteger(L, columns >> 4);
  EXPECT(lua_pcall(L, 4, 2, 0) == LUA_OK, "%s", lua_tostring(L, -1));
  check_split(&f, good);
  lua_settop(L, 0);
  free(f.text);
  return 0;
}
