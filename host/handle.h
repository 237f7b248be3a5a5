/* handle.h - userdata that own something outside Lua.
 *
 * Every handle starts with struct handle and is born closed: the userdata and
 * its metatable exist before the resource does, so a raise in between leaks
 * nothing. One idempotent function closes it, for close(), <close> and __gc.
 *
 *   struct thing { struct handle h; resource *r; };
 *   struct thing *t = handle_new(L, sizeof *t, "thing");   // closed, zeroed
 *   t->r = resource_open();
 *   t->h.close = thing_close;                              // open from now on
 */
#ifndef HOST_HANDLE_H
#define HOST_HANDLE_H

#include <stddef.h>

#include <lua.h>
#include <lauxlib.h>

struct handle {
  /* NULL while closed. Frees the resource; must not touch Lua. */
  void (*close)(struct handle *h);
  const char *type;
};

/* Create the metatable of `type` with `methods`; adds close, __gc, __close,
 * __tostring and __name. Call once, from luaopen. [-0, +0] */
void handle_type(lua_State *L, const char *type, const luaL_Reg *methods);

/* Push a new closed, zeroed handle of `size` bytes with one user value. */
void *handle_new(lua_State *L, size_t size, const char *type);

/* The open handle at `arg`; raises "attempt to use a closed TYPE". */
void *handle_check(lua_State *L, int arg, const char *type);

/* The handle at `arg`, open or closed; raises if it is another type. */
void *handle_any(lua_State *L, int arg, const char *type);

/* Close now if open. */
void handle_close(struct handle *h);

#endif
