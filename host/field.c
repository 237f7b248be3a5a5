/* field.c - fields of a table for Lua. See field.h. */
#include "field.h"


void field_int(lua_State *L, const char *key, lua_Integer v) {
  lua_pushinteger(L, v);
  lua_setfield(L, -2, key);
}
