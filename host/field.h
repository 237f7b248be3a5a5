/* field.h - a field of the table that is being built on the top of the stack.
 */
#ifndef HOST_FIELD_H
#define HOST_FIELD_H

#include <lua.h>

/* Set field `key` to the integer `v`. */
void field_int(lua_State *L, const char *key, lua_Integer v);

#endif
