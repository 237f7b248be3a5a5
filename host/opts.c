/* opts.c - reading a table of options. See opts.h. */
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "opts.h"


static void opts_unknown(lua_State *L, const char *key,
                         const char *const *known) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 0; known[i] != NULL; i++) {
    if (i > 0)
      luaL_addstring(&b, ", ");
    luaL_addstring(&b, known[i]);
  }
  luaL_pushresult(&b);
  luaL_error(L, "unknown option '%s' (known: %s)", key, lua_tostring(L, -1));
}


void opts_check(lua_State *L, int arg, const char *const *known) {
  luaL_checktype(L, arg, LUA_TTABLE);
  arg = lua_absindex(L, arg);
  luaL_checkstack(L, 6, "options");
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
      luaL_error(L, "option keys must be strings, got a %s",
                 luaL_typename(L, -1));
    const char *key = lua_tostring(L, -1);
    int i = 0;
    while (known[i] != NULL && strcmp(known[i], key) != 0)
      i++;
    if (known[i] == NULL)
      opts_unknown(L, key, known);
  }
}


static void opts_type(lua_State *L, const char *key, const char *want) {
  luaL_error(L, "option '%s' must be a %s, got a %s", key, want,
             luaL_typename(L, -1));
}


/* A key's own value: a metatable's functions would run in the middle of a
 * call, and what they return belongs to nobody once it is popped. [-0, +1] */
static void opts_raw(lua_State *L, int arg, const char *key) {
  arg = lua_absindex(L, arg);
  lua_pushstring(L, key);
  lua_rawget(L, arg);
}


const char *opts_lstr(lua_State *L, int arg, const char *key, size_t *len) {
  const char *s = NULL;
  opts_raw(L, arg, key);
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) != LUA_TSTRING)
      opts_type(L, key, "string");
    s = lua_tolstring(L, -1, len);
  }
  lua_pop(L, 1);
  return s;
}


const char *opts_str(lua_State *L, int arg, const char *key, const char *def) {
  size_t len = 0;
  const char *s = opts_lstr(L, arg, key, &len);
  if (s != NULL && strlen(s) != len)
    luaL_error(L, "option '%s' contains a NUL", key);
  return s != NULL ? s : def;
}


const char *opts_need(lua_State *L, int arg, const char *key) {
  const char *s = opts_str(L, arg, key, NULL);
  if (s == NULL)
    luaL_error(L, "option '%s' is required", key);
  return s;
}


int64_t opts_int(lua_State *L, int arg, const char *key, int64_t def,
                 int64_t min, int64_t max) {
  int64_t value = def;
  opts_raw(L, arg, key);
  if (!lua_isnil(L, -1)) {
    int ok = 0;
    if (lua_type(L, -1) == LUA_TNUMBER)
      value = lua_tointegerx(L, -1, &ok);
    if (!ok)
      opts_type(L, key, "whole number");
    if (value < min || value > max)
      luaL_error(L, "option '%s' must be between %I and %I, got %I", key,
                 (lua_Integer)min, (lua_Integer)max, (lua_Integer)value);
  }
  lua_pop(L, 1);
  return value;
}


int opts_bool(lua_State *L, int arg, const char *key, int def) {
  opts_raw(L, arg, key);
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) != LUA_TBOOLEAN)
      opts_type(L, key, "boolean");
    def = lua_toboolean(L, -1);
  }
  lua_pop(L, 1);
  return def;
}


int opts_table(lua_State *L, int arg, const char *key) {
  opts_raw(L, arg, key);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return 0;
  }
  if (lua_type(L, -1) != LUA_TTABLE)
    opts_type(L, key, "table");
  return 1;
}
