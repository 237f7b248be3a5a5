/* process_wait.c - host.process: bounded waiting, and signals to us and others.
 *
 * Every wait is poll(2) in slices of at most 100 ms with a look at the
 * interrupt flag between them. In the raising mode a signal raises; in the
 * graceful mode only one that comes during the wait ends it, so that a drain
 * after the signal still waits and does not spin. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "interrupt.h"
#include "mono.h"
#include "process.h"

enum { WAIT_FDS_MAX = 256 };


/* As process_poll, for several. */
static int process_poll_all(lua_State *L, struct pollfd *fds, nfds_t n,
                            int64_t timeout_ms) {
  int level = interrupt_level();
  int64_t end = mono_ms() + timeout_ms;
  for (;;) {
    interrupt_check(L);
    int64_t left = end - mono_ms();
    if (interrupt_level() != level)
      left = 0;
    int slice = left > INTERRUPT_SLICE_MS ? INTERRUPT_SLICE_MS : (int)left;
    int ready = poll(fds, n, slice > 0 ? slice : 0);
    if (ready > 0)
      return ready;
    if (ready < 0 && errno != EINTR)
      return -errno;
    if (left <= 0)
      return 0;
  }
}


int process_poll(lua_State *L, int fd, int events, int64_t timeout_ms) {
  struct pollfd one = {fd, (short)events, 0};
  return process_poll_all(L, &one, 1, timeout_ms);
}


static short wait_events(lua_State *L, const char *text) {
  int events = 0;
  for (const char *p = text; *p != '\0'; p++) {
    if (*p == 'r')
      events |= POLLIN;
    else if (*p == 'w')
      events |= POLLOUT;
    else
      luaL_error(L, "events must be 'r', 'w' or 'rw', got '%s'", text);
  }
  return (short)events;
}


/* Read entry `i` of the array at 1. [-0, +0, v] */
static void wait_entry(lua_State *L, int i, struct pollfd *p) {
  lua_rawgeti(L, 1, i);
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_getfield(L, -1, "fd");
  lua_Integer fd = luaL_checkinteger(L, -1);
  if (fd < 0 || fd > INT_MAX)
    luaL_error(L, "entry %d: %I is no descriptor", i, fd);
  lua_getfield(L, -2, "events");
  p->fd = (int)fd;
  p->events = wait_events(L, luaL_optstring(L, -1, "r"));
  p->revents = 0;
  lua_pop(L, 3);
}


/* process.wait_fds({ {fd =, events = "r" | "w" | "rw"}, ... }, timeout_ms)
 * -> ready, n: ready[fd] is what it is ready for: some of "r", "w" and "e" (an
 * error or a hang-up); n is how many are. n = 0: the time is over or a signal
 * came. | nil, message, code */
static int process_wait_fds(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int64_t timeout = luaL_optinteger(L, 2, 0);
  struct pollfd fds[WAIT_FDS_MAX];
  lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
  luaL_argcheck(L, n <= WAIT_FDS_MAX, 1, "more than 256 descriptors");
  for (int i = 0; i < (int)n; i++)
    wait_entry(L, i + 1, &fds[i]);
  int ready = process_poll_all(L, fds, (nfds_t)n, timeout);
  if (ready < 0)
    return process_fail(L, "poll", -ready);
  lua_createtable(L, 0, ready);
  for (int i = 0; i < (int)n; i++) {
    char text[4];
    size_t len = 0;
    if (fds[i].revents & (POLLIN | POLLHUP))
      text[len++] = 'r';
    if (fds[i].revents & POLLOUT)
      text[len++] = 'w';
    if (fds[i].revents & (POLLERR | POLLHUP | POLLNVAL))
      text[len++] = 'e';
    if (len == 0)
      continue;
    lua_pushlstring(L, text, len);
    lua_rawseti(L, -2, fds[i].fd);
  }
  lua_pushinteger(L, ready);
  return 2;
}


int process_signal(lua_State *L, int arg) {
  if (lua_type(L, arg) == LUA_TNUMBER) {
    lua_Integer n = luaL_checkinteger(L, arg);
    if (n < 1 || n >= NSIG)
      luaL_error(L, "no signal has the number %I", n);
    return (int)n;
  }
  const char *name = luaL_checkstring(L, arg);
  const char *brief = strncasecmp(name, "SIG", 3) == 0 ? name + 3 : name;
  for (int sig = 1; sig < NSIG; sig++) {
    const char *known = sigabbrev_np(sig);
    if (known != NULL && strcasecmp(known, brief) == 0)
      return sig;
  }
  return luaL_error(L, "unknown signal '%s'", name);
}


/* process.kill(pid, [signal = "TERM"]) -> true | nil, message, code */
static int process_kill(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  int sig = lua_isnoneornil(L, 2) ? SIGTERM : process_signal(L, 2);
  luaL_argcheck(L, pid > 0 && pid <= INT_MAX, 1, "must be one process");
  if (kill((pid_t)pid, sig) != 0)
    return process_fail(L, "kill", errno);
  lua_pushboolean(L, 1);
  return 1;
}


/* process.stop_requested() -> 0 | 1 | 2   how many signals asked us to stop;
 * 2 stands for two or more */
static int process_stop_requested(lua_State *L) {
  int level = interrupt_level();
  lua_pushinteger(L, level > 2 ? 2 : level);
  return 1;
}


/* process.graceful(false | true | "counted")
 * false: a signal raises "interrupted". true: the first is only counted, the
 * second ends the process at once. "counted": the second is only counted too,
 * for a program that has more to put in order; the third ends it. */
static int process_graceful(lua_State *L) {
  if (lua_type(L, 1) == LUA_TSTRING) {
    luaL_argcheck(L, strcmp(lua_tostring(L, 1), "counted") == 0, 1,
                  "must be a boolean or 'counted'");
    interrupt_graceful(INTERRUPT_COUNTED);
  } else {
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    interrupt_graceful(lua_toboolean(L, 1));
  }
  return 0;
}


/* process.raise_stop()   tests: act as if a signal came */
static int process_raise_stop(lua_State *L) {
  (void)L;
  interrupt_raise();
  return 0;
}


/* process.reset_stop()   forget the signals that came */
static int process_reset_stop(lua_State *L) {
  (void)L;
  interrupt_reset();
  return 0;
}


const luaL_Reg process_wait_functions[] = {
    {"wait_fds", process_wait_fds},
    {"kill", process_kill},
    {"stop_requested", process_stop_requested},
    {"graceful", process_graceful},
    {"raise_stop", process_raise_stop},
    {"reset_stop", process_reset_stop},
    {NULL, NULL}};
