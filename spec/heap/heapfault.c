/* heapfault.c - host.heapfault: allocations that fail on request, for a test
 * build (`make tidemill-heap`) that is linked with it.
 *
 * The linker sends our objects' malloc, calloc, realloc and strdup here; those
 * of libraries are not seen. Lua's requests come through the allocator of its
 * state, which is told apart. Only the thread that armed a failure counts.
 * See spec/heap/steps.lua. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "modules.h"

enum { KIND_NONE, KIND_LUA, KIND_C };

static struct {
  int kind;
  long left; /* requests to go until the first that fails */
  int on;    /* from then on all fail; else that one, and Lua's second try */
  long failed;
  pthread_t thread;
} armed;

static lua_Alloc state_alloc;
static _Thread_local int in_lua;

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void __real_modules_preload(lua_State *L);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
void __wrap_modules_preload(lua_State *L);


/* Is this request of `kind` one that fails? */
static int fails(int kind) {
  if (armed.kind != kind || !pthread_equal(armed.thread, pthread_self()))
    return 0;
  if (armed.left > 1) {
    armed.left--;
    return 0;
  }
  int again = kind == KIND_LUA ? 2 : 1;
  if (!armed.on && armed.failed >= again)
    return 0;
  armed.failed++;
  return 1;
}


static int fails_c(void) {
  return !in_lua && fails(KIND_C);
}


void *__wrap_malloc(size_t n) {
  return fails_c() ? NULL : __real_malloc(n);
}


void *__wrap_calloc(size_t count, size_t size) {
  return fails_c() ? NULL : __real_calloc(count, size);
}


void *__wrap_realloc(void *p, size_t n) {
  return fails_c() ? NULL : __real_realloc(p, n);
}


char *__wrap_strdup(const char *s) {
  return fails_c() ? NULL : __real_strdup(s);
}


/* Frees and shrinks never fail. */
static void *alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  size_t old = ptr != NULL ? osize : 0;
  if (nsize > old && fails(KIND_LUA))
    return NULL;
  in_lua++;
  void *p = state_alloc(ud, ptr, osize, nsize);
  in_lua--;
  return p;
}


/* heapfault.arm("lua" | "c", n, on)   the n-th request from now fails, and with
 * `on` all after it */
static int heapfault_arm(lua_State *L) {
  static const char *const kinds[] = {"lua", "c", NULL};
  int kind = luaL_checkoption(L, 1, NULL, kinds) + KIND_LUA;
  armed.left = (long)luaL_checkinteger(L, 2);
  armed.on = lua_toboolean(L, 3);
  armed.failed = 0;
  armed.thread = pthread_self();
  armed.kind = kind;
  return 0;
}


/* heapfault.disarm() -> requests that failed */
static int heapfault_disarm(lua_State *L) {
  armed.kind = KIND_NONE;
  lua_pushinteger(L, (lua_Integer)armed.failed);
  return 1;
}


static int heapfault_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"arm", heapfault_arm}, {"disarm", heapfault_disarm}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}


void __wrap_modules_preload(lua_State *L) {
  void *ud = NULL;
  __real_modules_preload(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, heapfault_open);
  lua_setfield(L, -2, "host.heapfault");
  lua_pop(L, 1);
  state_alloc = lua_getallocf(L, &ud);
  lua_setallocf(L, alloc, ud);
}
