/* fail.c - expected failures as nil, message, code. See fail.h. */
#include <stdarg.h>
#include <stdio.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"

enum { FAIL_TEXT_MAX = 2048 };


int fail(lua_State *L, const char *unit, const char *code, const char *fmt,
         ...) {
  char text[FAIL_TEXT_MAX];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  luaL_checkstack(L, 3, "failure");
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s: %s", unit, code, text);
  lua_pushstring(L, code);
  return 3;
}
