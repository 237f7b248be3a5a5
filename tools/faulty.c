/* faulty.c - faults on purpose: tools/sanitize.sh tries itself on them.
 *
 * A module for Lua whose functions leak, overflow, race and read what nobody
 * wrote. Never part of the program. */
#include <lua.h>
#include <pthread.h>
#include <stdlib.h>

int faulty_leak(lua_State *L);
int faulty_overflow(lua_State *L);
int faulty_race(lua_State *L);
int faulty_unwritten(lua_State *L);

static int shared;


static void *racer(void *arg) {
  (void)arg;
  shared++;
  return NULL;
}


int faulty_leak(lua_State *L) {
  void *volatile p = malloc(77);
  (void)L;
  p = malloc(78);
  p = NULL;
  (void)p;
  return 0;
}


int faulty_overflow(lua_State *L) {
  volatile int x = 2147483647;
  x = x + lua_gettop(L) + 1;
  return 0;
}


int faulty_race(lua_State *L) {
  pthread_t thread;
  (void)L;
  if (pthread_create(&thread, NULL, racer, NULL) != 0)
    return 0;
  shared++;
  pthread_join(thread, NULL);
  return 0;
}


int faulty_unwritten(lua_State *L) {
  char *volatile p = malloc(8);
  lua_pushboolean(L, p[3] == 'x');
  free(p);
  return 1;
}
