/* state.h - the Lua state of the process: libraries, limit, paths.
 *
 * Owns nothing but the state. Host modules are preloaded by modules.c. */
#ifndef HOST_STATE_H
#define HOST_STATE_H

#include <stddef.h>

#include <lua.h>

/* A new state with the standard libraries, os.exit that closes the state, a
 * panic and a warn function. Its memory limit is off. NULL: out of memory. */
lua_State *state_new(void);

/* Directories: `home`/lib/?.lua goes in front of package.path. */
void state_paths(lua_State *L, const char *home);

/* Limit the Lua heap to `bytes` (0: none). Call after the libraries loaded. */
void state_limit(lua_State *L, size_t bytes);
size_t state_limited(lua_State *L);

size_t state_used(lua_State *L);

void state_close(lua_State *L);

#endif
