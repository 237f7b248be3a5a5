/* fail.h - how a host function reports an expected failure to Lua.
 *
 * A failure of the world (a refused connection, a full queue) is returned as
 * nil, message, code. Misuse by the caller is raised with luaL_error instead.
 * The text of a library is always an argument here, never a format. */
#ifndef HOST_FAIL_H
#define HOST_FAIL_H

#include <lua.h>

/* Push nil, "unit: CODE: text", code; return 3 for `return fail(...)`. */
int fail(lua_State *L, const char *unit, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
