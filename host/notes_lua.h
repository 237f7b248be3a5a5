/* notes_lua.h - a dead letter or late row as a Lua table. */
#ifndef HOST_NOTES_LUA_H
#define HOST_NOTES_LUA_H

#include <lua.h>

#include "notes.h"

/* Push it, with the fields that store:notes of host.window tells. [-0, +1] */
void notes_push(lua_State *L, const struct note *n);

#endif
