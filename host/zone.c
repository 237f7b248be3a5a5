/* zone.c - host.zone: offsets of a time zone from the system's tz database.
 *
 * Needed once in a system's life: to turn the replaced system's local times
 * into UTC. Uses the C library's zone rules; restores TZ afterwards. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"


static int zone_known(const char *name) {
  char path[PATH_MAX];
  if (strcmp(name, "UTC") == 0)
    return 1;
  if (*name == '\0' || *name == '/' || strstr(name, "..") != NULL)
    return 0;
  snprintf(path, sizeof path, "/usr/share/zoneinfo/%s", name);
  return access(path, R_OK) == 0;
}


/* zone.offset(name, utc_s) -> seconds east of UTC at that moment
 *   | nil, message, "UNKNOWN"   when the tz database has no such zone */
static int zone_offset(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  time_t at = (time_t)luaL_checkinteger(L, 2);
  if (!zone_known(name))
    return fail(L, "zone", "UNKNOWN",
                "'%s' is not in /usr/share/zoneinfo (package tzdata); write "
                "it like Europe/Madrid",
                name);
  const char *kept = getenv("TZ");
  char before[256] = "";
  if (kept != NULL)
    snprintf(before, sizeof before, "%s", kept);
  struct tm tm;
  setenv("TZ", name, 1);
  tzset();
  localtime_r(&at, &tm);
  if (kept != NULL)
    setenv("TZ", before, 1);
  else
    unsetenv("TZ");
  tzset();
  lua_pushinteger(L, tm.tm_gmtoff);
  return 1;
}


int luaopen_host_zone(lua_State *L);

int luaopen_host_zone(lua_State *L) {
  static const luaL_Reg functions[] = {{"offset", zone_offset}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
