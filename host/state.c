/* state.c - the Lua state of the process. See state.h. */
#include <stdio.h>
#include <stdlib.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>

#include "interrupt.h"
#include "state.h"

struct heap {
  size_t used;
  size_t limit; /* 0: none */
};


/* When ptr is NULL, osize is a type tag and not a size; a shrink or a free is
 * never refused. Lua collects garbage by itself before it gives up. */
static void *state_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  struct heap *heap = ud;
  size_t old = ptr != NULL ? osize : 0;
  if (nsize == 0) {
    free(ptr);
    heap->used -= old;
    return NULL;
  }
  if (nsize > old && heap->limit != 0 &&
      heap->used + (nsize - old) > heap->limit)
    return NULL;
  void *p = realloc(ptr, nsize);
  if (p != NULL)
    heap->used = heap->used - old + nsize;
  return p;
}


static int state_panic(lua_State *L) {
  const char *text = lua_tostring(L, -1);
  fprintf(stderr, "tidemill: unprotected error in Lua: %s\n",
          text != NULL ? text : "(not a string)");
  return 0;
}


static void state_warn(void *ud, const char *text, int more) {
  (void)ud;
  fprintf(stderr, "%s%s", text, more ? "" : "\n");
}


/* os.exit([code])   always closes the state, so that no last commit is lost */
static int state_exit(lua_State *L) {
  int status = lua_isboolean(L, 1)
                   ? (lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE)
                   : (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  lua_State *main = NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main = lua_tothread(L, -1);
  state_close(main);
  exit(status);
}


lua_State *state_new(void) {
  struct heap *heap = calloc(1, sizeof *heap);
  if (heap == NULL)
    return NULL;
  lua_State *L = lua_newstate(state_alloc, heap);
  if (L == NULL) {
    free(heap);
    return NULL;
  }
  lua_atpanic(L, state_panic);
  lua_setwarnf(L, state_warn, NULL);
  interrupt_hook(L);
  luaL_openlibs(L);
  lua_getglobal(L, "os");
  lua_pushcfunction(L, state_exit);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
  /* Many short-lived strings on the control path, none on the data path. */
  lua_gc(L, LUA_GCGEN, 0, 0);
  return L;
}


void state_paths(lua_State *L, const char *home) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/lib/?.lua;%s/lib/?/init.lua;%s", home, home,
                  lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
}


static struct heap *state_heap(lua_State *L) {
  void *ud = NULL;
  lua_getallocf(L, &ud);
  return ud;
}


void state_limit(lua_State *L, size_t bytes) {
  state_heap(L)->limit = bytes;
}


size_t state_limited(lua_State *L) {
  return state_heap(L)->limit;
}


size_t state_used(lua_State *L) {
  return state_heap(L)->used;
}


void state_close(lua_State *L) {
  struct heap *heap = state_heap(L);
  heap->limit = 0;
  lua_close(L);
  free(heap);
}
