/* call.h - the one protected call of the host.
 *
 * Every entry from C into Lua goes through here, so tracebacks and interrupts
 * are handled in one place. */
#ifndef HOST_CALL_H
#define HOST_CALL_H

#include <lua.h>

/* Call the function below `nargs` arguments. On success `nresults` values
 * replace them and LUA_OK is returned; on error one message with a traceback
 * is left (an interrupt or an error object that is a table is left as it is).
 */
int call_protected(lua_State *L, int nargs, int nresults);

#endif
