/* box.c - the batch as a Lua value, and work lent. See box.h; the methods of a
 * batch are in rows.c. */
#include <lua.h>
#include <lauxlib.h>

#include "box.h"

struct box {
  struct handle h;
  struct batch batch;
};


struct batch *box_batch(lua_State *L, int arg) {
  struct box *box = handle_check(L, arg, BOX_BATCH);
  return &box->batch;
}


static void box_close(struct handle *h) {
  struct box *box = (struct box *)h;
  batch_free(&box->batch);
}


void box_new(lua_State *L) {
  struct box *box = handle_new(L, sizeof *box, BOX_BATCH);
  batch_init(&box->batch);
  box->h.close = box_close;
}


/* In the registry: the metatables of workers. Not a field in them, which a
 * script could set. */
static const char workers_key;


void box_worker_type(lua_State *L, const char *type) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &workers_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &workers_key);
  }
  luaL_getmetatable(L, type);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}


static int box_is_worker(lua_State *L, int arg) {
  int top = lua_gettop(L);
  int is = lua_type(L, arg) == LUA_TUSERDATA &&
           lua_rawgetp(L, LUA_REGISTRYINDEX, &workers_key) == LUA_TTABLE &&
           lua_getmetatable(L, arg) && lua_rawget(L, -2) == LUA_TBOOLEAN;
  lua_settop(L, top);
  return is;
}


struct box_work *box_work_keep(lua_State *L, int arg) {
  if (!box_is_worker(L, arg))
    luaL_typeerror(L, arg, "decoder");
  struct box_worker *w = lua_touserdata(L, arg);
  if (w->h.close == NULL)
    luaL_argerror(L, arg, "attempt to use a closed decoder");
  atomic_fetch_add(&w->work->refs, 1);
  return w->work;
}


void box_work_release(struct box_work *work) {
  if (work != NULL && atomic_fetch_sub(&work->refs, 1) == 1)
    work->free(work);
}
