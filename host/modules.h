/* modules.h - the list of C modules that scripts can require as host.x. */
#ifndef HOST_MODULES_H
#define HOST_MODULES_H

#include <lua.h>

/* Register every module in package.preload; none is opened yet. */
void modules_preload(lua_State *L);

#endif
