/* functions.h - row functions of a script, for rows.c; see functions.c. */
#ifndef HOST_FUNCTIONS_H
#define HOST_FUNCTIONS_H

#include <lua.h>

int functions_shape(lua_State *L);
int functions_apply(lua_State *L);

/* Create the metatables. [-0, +0] */
void functions_types(lua_State *L);

#endif
