/* interrupt.c - SIGINT, SIGTERM and SIGHUP. See interrupt.h. */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "interrupt.h"
#include "mono.h"

enum { HOOK_EVERY = 10000, STATUS_ABORTED = 130 };

static atomic_int level;
static atomic_int graceful;
static int64_t limit_ms; /* of the thread that runs Lua */


static void interrupt_signal(int sig) {
  (void)sig;
  int before = atomic_fetch_add(&level, 1);
  int mode = atomic_load(&graceful);
  if (mode != 0 && before >= (mode == INTERRUPT_COUNTED ? 2 : 1))
    _exit(STATUS_ABORTED);
}


void interrupt_install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = interrupt_signal; /* no SA_RESTART: waits end early */
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  /* A closed terminal asks to stop as well, unless nohup said otherwise. */
  struct sigaction before;
  if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, NULL);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, NULL);
}


int interrupt_late(void) {
  return limit_ms != 0 && mono_ms() >= limit_ms;
}


static void interrupt_count(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (interrupt_late()) {
    lua_sethook(L, interrupt_count, LUA_MASKCOUNT | LUA_MASKLINE, 1);
    luaL_error(L, "stopped: it ran for too long");
  }
  if (atomic_load(&level) == 0 || atomic_load(&graceful))
    return;
  /* A pcall in the script may catch this; stop again at its next line. */
  lua_sethook(L, interrupt_count, LUA_MASKCOUNT | LUA_MASKLINE, 1);
  luaL_error(L, "interrupted");
}


void interrupt_hook(lua_State *L) {
  lua_sethook(L, interrupt_count, LUA_MASKCOUNT, HOOK_EVERY);
}


int interrupt_level(void) {
  return atomic_load(&level);
}


int interrupt_pending(void) {
  return atomic_load(&level) > 0 || interrupt_late();
}


int interrupt_raising(void) {
  return interrupt_late() ||
         (atomic_load(&level) > 0 && !atomic_load(&graceful));
}


void interrupt_graceful(int mode) {
  atomic_store(&graceful, mode);
}


void interrupt_reset(void) {
  atomic_store(&level, 0);
}


void interrupt_raise(void) {
  interrupt_signal(SIGINT);
}


void interrupt_limit(int64_t deadline_ms) {
  limit_ms = deadline_ms;
}


void interrupt_check(lua_State *L) {
  if (interrupt_late())
    luaL_error(L, "stopped: it ran for too long");
  if (atomic_load(&level) > 0 && !atomic_load(&graceful))
    luaL_error(L, "interrupted");
}
