/* handle.c - userdata that own something outside Lua. See handle.h. */
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "handle.h"


void handle_close(struct handle *h) {
  void (*close)(struct handle *) = h->close;
  h->close = NULL;
  if (close != NULL)
    close(h);
}


/* handle:close()   closing twice is fine */
static int handle_lua_close(lua_State *L) {
  handle_close(luaL_checkudata(L, 1, lua_tostring(L, lua_upvalueindex(1))));
  return 0;
}


/* <close> and __gc: whatever else they are called with is not ours. */
static int handle_lua_end(lua_State *L) {
  struct handle *h = luaL_testudata(L, 1, lua_tostring(L, lua_upvalueindex(1)));
  if (h != NULL)
    handle_close(h);
  return 0;
}


static int handle_tostring(lua_State *L) {
  const struct handle *h =
      luaL_checkudata(L, 1, lua_tostring(L, lua_upvalueindex(1)));
  if (h->close == NULL)
    lua_pushfstring(L, "%s (closed)", h->type);
  else
    lua_pushfstring(L, "%s (%p)", h->type, (const void *)h);
  return 1;
}


void handle_type(lua_State *L, const char *type, const luaL_Reg *methods) {
  static const luaL_Reg meta[] = {{"__gc", handle_lua_end},
                                  {"__close", handle_lua_end},
                                  {"__tostring", handle_tostring},
                                  {NULL, NULL}};
  static const luaL_Reg closing[] = {{"close", handle_lua_close}, {NULL, NULL}};
  if (luaL_getmetatable(L, type) != LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushstring(L, type);
  lua_setfield(L, -2, "__name");
  lua_pushstring(L, type);
  luaL_setfuncs(L, meta, 1);
  lua_newtable(L);
  lua_pushstring(L, type);
  luaL_setfuncs(L, closing, 1);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  /* Known only when it is whole: an attempt that ran out of memory is made
   * again, and no handle goes without its __gc. */
  lua_setfield(L, LUA_REGISTRYINDEX, type);
}


void *handle_new(lua_State *L, size_t size, const char *type) {
  struct handle *h = lua_newuserdatauv(L, size, 1);
  memset(h, 0, size);
  h->type = type;
  luaL_setmetatable(L, type);
  return h;
}


void *handle_any(lua_State *L, int arg, const char *type) {
  return luaL_checkudata(L, arg, type);
}


void *handle_check(lua_State *L, int arg, const char *type) {
  struct handle *h = luaL_checkudata(L, arg, type);
  if (h->close == NULL)
    luaL_error(L, "attempt to use a closed %s", type);
  return h;
}
