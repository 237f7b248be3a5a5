/* opts.h - reading a table of options.
 *
 * A constructor takes one table; a key it does not know raises and names the
 * key. Library options travel untouched in a sub-table. Only a table's own
 * values count: metatables are not asked, so no Lua runs in here. */
#ifndef HOST_OPTS_H
#define HOST_OPTS_H

#include <stdint.h>

#include <lua.h>

/* Raise unless the value at `arg` is a table whose keys are all in the
 * NULL-terminated list `known`. */
void opts_check(lua_State *L, int arg, const char *const *known);

/* Field `key` as a string owned by the table (valid while the table holds it),
 * or `def`. A number is not converted; a NUL inside raises. */
const char *opts_str(lua_State *L, int arg, const char *key, const char *def);

/* The same, with its length; a string may hold NUL. */
const char *opts_lstr(lua_State *L, int arg, const char *key, size_t *len);

/* Field `key` as a string; raises when it is absent. */
const char *opts_need(lua_State *L, int arg, const char *key);

/* Field `key` as an integer within [min, max], or `def` when absent. */
int64_t opts_int(lua_State *L, int arg, const char *key, int64_t def,
                 int64_t min, int64_t max);

int opts_bool(lua_State *L, int arg, const char *key, int def);

/* Push sub-table `key` and return 1, or push nothing and return 0. */
int opts_table(lua_State *L, int arg, const char *key);

#endif
