/* main.c - the process: signals, the Lua state, and the command line in Lua.
 *
 * Everything a command does is Lua in lib/mill/cmd; this file only finds that
 * folder, hands over argv and turns the result into an exit status. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "call.h"
#include "interrupt.h"
#include "modules.h"
#include "mono.h"
#include "state.h"

#ifndef TIDEMILL_SHARE
#define TIDEMILL_SHARE "/usr/local/share/tidemill"
#endif

enum { STATUS_FAILED = 1 };


static int main_has_lib(const char *home) {
  char path[PATH_MAX + 32];
  snprintf(path, sizeof path, "%s/lib/mill/cli.lua", home);
  return access(path, R_OK) == 0;
}


/* Where lib/ is: TIDEMILL_HOME, else beside the program, else where `make
 * install` puts it. Returns 0, or -1 when none has it. */
static int main_home(char *home, size_t size) {
  const char *env = getenv("TIDEMILL_HOME");
  if (env != NULL && *env != '\0') {
    snprintf(home, size, "%s", env);
    return main_has_lib(home) ? 0 : -1;
  }
  ssize_t n = readlink("/proc/self/exe", home, size - 1);
  if (n > 0) {
    home[n] = '\0';
    char *slash = strrchr(home, '/');
    if (slash != NULL)
      *slash = '\0';
    if (main_has_lib(home))
      return 0;
  }
  snprintf(home, size, "%s", TIDEMILL_SHARE);
  return main_has_lib(home) ? 0 : -1;
}


/* Processor time of the process so far. */
static int64_t main_spent_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


/* Runs protected: opens the libraries and calls mill.cli's main(argv). */
static int main_run(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "mill.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_createtable(L, argc, 0);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_call(L, 1, 1);
  return 1;
}


/* A core file would hold every password. TIDEMILL_CORE=1 allows one. */
static void main_no_core(void) {
  const char *wanted = getenv("TIDEMILL_CORE");
  struct rlimit limit;
  if (wanted != NULL && strcmp(wanted, "1") == 0)
    return;
  if (getrlimit(RLIMIT_CORE, &limit) == 0) {
    limit.rlim_cur = 0; /* the hard limit stays, for children that want one */
    setrlimit(RLIMIT_CORE, &limit);
  }
}


int main(int argc, char **argv) {
  char home[PATH_MAX];
  /* What the process has computed so far is its loading: it started then. */
  int64_t started_us = mono_us() - main_spent_us();
  if (main_home(home, sizeof home) != 0) {
    fprintf(stderr,
            "tidemill: lib/mill/cli.lua is not in %s; set TIDEMILL_HOME to "
            "the folder that holds lib/\n",
            home);
    return STATUS_FAILED;
  }
  main_no_core();
  interrupt_install();
  interrupt_graceful(1); /* until the command line is known: see mill.cli */
  lua_State *L = state_new();
  if (L == NULL) {
    fprintf(stderr, "tidemill: out of memory\n");
    return STATUS_FAILED;
  }
  modules_preload(L);
  state_paths(L, home);
  lua_pushstring(L, home);
  lua_setfield(L, LUA_REGISTRYINDEX, "tidemill.home");
  lua_pushinteger(L, started_us);
  lua_setfield(L, LUA_REGISTRYINDEX, "tidemill.started_us");
  lua_pushcfunction(L, main_run);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int status = STATUS_FAILED;
  if (call_protected(L, 2, 1) == LUA_OK)
    status = (int)lua_tointeger(L, -1);
  else
    fprintf(stderr, "tidemill: %s\n", luaL_tolstring(L, -1, NULL));
  state_close(L);
  return status;
}
