/* mysql_text.c - literals and identifiers for SQL text, and how NULL prints. */
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "handle.h"
#include "mysql.h"

enum { NAME_MAX_CHARS = 64 };


/* db:quote(s) -> string literal of the text `s`, quotes included
 * All bytes of a utf8mb4 character are above 127 but its first, so this can be
 * done byte by byte. Bytes that are no text: mysql.blob. */
int text_quote(lua_State *L) {
  struct db *db = handle_check(L, 1, MYSQL_DB);
  size_t n = 0;
  const char *s = luaL_checklstring(L, 2, &n);
  int slashes = db->my == NULL ||
                !(db->my->server_status & SERVER_STATUS_NO_BACKSLASH_ESCAPES);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '\'');
  for (size_t i = 0; i < n; i++) {
    static const char from[] = "\n\r\032\\";
    static const char to[] = "nrZ\\";
    const char *at = s[i] != '\0' ? strchr(from, s[i]) : NULL;
    if (s[i] == '\'') {
      luaL_addstring(&b, "''");
    } else if (slashes && s[i] == '\0') {
      luaL_addstring(&b, "\\0");
    } else if (slashes && at != NULL) {
      luaL_addchar(&b, '\\');
      luaL_addchar(&b, to[at - from]);
    } else {
      luaL_addchar(&b, s[i]);
    }
  }
  luaL_addchar(&b, '\'');
  luaL_pushresult(&b);
  return 1;
}


/* mysql.name(s) -> `s` as a quoted identifier; raises when none can be s */
int text_name(lua_State *L) {
  size_t n = 0, chars = 0;
  const char *s = luaL_checklstring(L, 1, &n);
  luaL_Buffer b;
  luaL_argcheck(L, n > 0, 1, "an identifier cannot be empty");
  luaL_argcheck(L, memchr(s, '\0', n) == NULL, 1,
                "an identifier cannot hold a NUL byte");
  luaL_argcheck(L, s[n - 1] != ' ', 1, "an identifier cannot end in a space");
  for (size_t i = 0; i < n; i++)
    chars += ((unsigned char)s[i] & 0xC0) != 0x80;
  luaL_argcheck(L, chars <= NAME_MAX_CHARS, 1,
                "an identifier has at most 64 characters");
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '`');
  for (size_t i = 0; i < n; i++) {
    if (s[i] == '`')
      luaL_addchar(&b, '`');
    luaL_addchar(&b, s[i]);
  }
  luaL_addchar(&b, '`');
  luaL_pushresult(&b);
  return 1;
}


/* mysql.blob(bytes) -> x'...'   a literal of any bytes */
int text_blob(lua_State *L) {
  static const char digits[] = "0123456789ABCDEF";
  size_t n = 0;
  const char *s = luaL_checklstring(L, 1, &n);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, "x'");
  for (size_t i = 0; i < n; i++) {
    luaL_addchar(&b, digits[(unsigned char)s[i] >> 4]);
    luaL_addchar(&b, digits[s[i] & 15]);
  }
  luaL_addchar(&b, '\'');
  luaL_pushresult(&b);
  return 1;
}


/* NULL prints as NULL; any other light userdata as it did. */
static int text_null_tostring(lua_State *L) {
  if (lua_touserdata(L, 1) == NULL)
    lua_pushliteral(L, "NULL");
  else
    lua_pushfstring(L, "userdata: %p", lua_touserdata(L, 1));
  return 1;
}


/* All light userdata share one metatable. [-0, +0] */
void text_null_type(lua_State *L) {
  result_null(L);
  if (!lua_getmetatable(L, -1)) {
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, text_null_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
  } else {
    lua_pop(L, 2);
  }
}
