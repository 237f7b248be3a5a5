/* call.c - the one protected call of the host. See call.h. */
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "call.h"
#include "interrupt.h"


/* Tables are messages for the user (see mill.fault): no traceback for those. */
static int call_traceback(lua_State *L) {
  const char *text = lua_tostring(L, 1);
  if (text == NULL) {
    if (lua_istable(L, 1))
      return 1;
    text = luaL_tolstring(L, 1, NULL);
  }
  luaL_traceback(L, L, text, 1);
  return 1;
}


int call_protected(lua_State *L, int nargs, int nresults) {
  int base = lua_gettop(L) - nargs;
  lua_pushcfunction(L, call_traceback);
  lua_insert(L, base);
  int status = lua_pcall(L, nargs, nresults, base);
  lua_remove(L, base);
  interrupt_hook(L); /* an interrupt narrowed the hook to every line */
  return status;
}
