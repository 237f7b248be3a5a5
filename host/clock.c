/* clock.c - host.clock: wall and monotonic time for Lua.
 *
 * Times are integers; the unit is in the name. The clock itself, and how tests
 * replace it, is clock_core.c: this file only carries it to Lua and sleeps. */
#include <errno.h>
#include <stdint.h>
#include <time.h>

#include <lua.h>
#include <lauxlib.h>

#include "clock_core.h"
#include "interrupt.h"
#include "mono.h"

/* A year; keeps sums of times far from overflow. */
static const int64_t CLOCK_SPAN_MAX_MS = INT64_C(366) * 24 * 3600 * 1000;


/* clock.wall_ms() -> integer   milliseconds since the Unix epoch, UTC */
static int clock_wall_ms(lua_State *L) {
  lua_pushinteger(L, clock_wall_now().ms);
  return 1;
}


/* clock.mono_ms() -> integer   milliseconds; never goes back */
static int clock_mono_ms(lua_State *L) {
  lua_pushinteger(L, clock_mono_now().us / 1000);
  return 1;
}


/* clock.mono_us() -> integer   microseconds; never goes back */
static int clock_mono_us(lua_State *L) {
  lua_pushinteger(L, clock_mono_now().us);
  return 1;
}


/* clock.asleep_ms() -> integer   how long the machine has slept since its boot:
 * the monotonic clock stood still meanwhile */
static int clock_asleep(lua_State *L) {
  lua_pushinteger(L, clock_asleep_ms());
  return 1;
}


/* clock.set_wall(ms | nil)   tests: the wall clock stands at `ms`; nil: it is
 * the machine's again. Monotonic time is not touched. */
static int clock_set_wall(lua_State *L) {
  if (lua_isnoneornil(L, 1))
    clock_wall_release();
  else
    clock_wall_fix(luaL_checkinteger(L, 1));
  return 0;
}


/* clock.advance(ms)   tests: both clocks go forward by `ms` >= 0 */
static int clock_lua_advance(lua_State *L) {
  lua_Integer ms = luaL_checkinteger(L, 1);
  luaL_argcheck(L, ms >= 0 && ms <= CLOCK_SPAN_MAX_MS, 1,
                "must be between 0 and a year");
  clock_advance(ms);
  return 0;
}


/* clock.sleep(ms) -> true when a signal ended it early, else false: never
 * shorter than told, not by a microsecond.
 * Real time, whatever the clock was set to. In the raising mode a signal raises
 * "interrupted". In the graceful mode only a signal that comes during the sleep
 * ends it: a drain that sleeps between two looks must not spin. */
static int clock_sleep(lua_State *L) {
  lua_Integer ms = luaL_checkinteger(L, 1);
  luaL_argcheck(L, ms <= CLOCK_SPAN_MAX_MS, 1, "longer than a year");
  int level = interrupt_level();
  /* In microseconds: with the start cut to a millisecond it would end early. */
  int64_t end = mono_us() + ms * 1000;
  for (;;) {
    interrupt_check(L);
    if (interrupt_level() != level) {
      lua_pushboolean(L, 1);
      return 1;
    }
    int64_t left = end - mono_us();
    if (left <= 0)
      break;
    if (left > INTERRUPT_SLICE_MS * 1000)
      left = INTERRUPT_SLICE_MS * 1000;
    struct timespec slice = {0, (long)left * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &slice, NULL); /* EINTR: look again */
  }
  lua_pushboolean(L, 0);
  return 1;
}


static const luaL_Reg clock_functions[] = {
    {"wall_ms", clock_wall_ms},   {"mono_ms", clock_mono_ms},
    {"mono_us", clock_mono_us},   {"asleep_ms", clock_asleep},
    {"set_wall", clock_set_wall}, {"advance", clock_lua_advance},
    {"sleep", clock_sleep},       {NULL, NULL}};


int luaopen_host_clock(lua_State *L);


int luaopen_host_clock(lua_State *L) {
  luaL_newlib(L, clock_functions);
  return 1;
}
