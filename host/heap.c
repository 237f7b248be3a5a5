/* heap.c - host.heap: the Lua heap's size and its limit.
 *
 * The accounting is the state's own allocator (state.c); memory of libraries
 * is not in it. */
#include <lua.h>
#include <lauxlib.h>

#include "state.h"


/* heap.limit(bytes)   0: no limit. Beyond it Lua collects garbage, then raises
 * "not enough memory" */
static int heap_limit(lua_State *L) {
  lua_Integer bytes = luaL_checkinteger(L, 1);
  luaL_argcheck(L, bytes >= 0, 1, "must not be negative");
  state_limit(L, (size_t)bytes);
  return 0;
}


/* heap.used() -> int   bytes in use */
static int heap_used(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)state_used(L));
  return 1;
}


int luaopen_host_heap(lua_State *L);

int luaopen_host_heap(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"limit", heap_limit}, {"used", heap_used}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
