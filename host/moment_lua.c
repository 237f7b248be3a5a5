/* moment_lua.c - host.moment: times to and from integer milliseconds, UTC. */
#include <lua.h>
#include <lauxlib.h>

#include "fail.h"
#include "moment.h"


/* moment.parse(text [, unit]) -> ms | nil, message, code
 * `text` is a date with a time ("2024-08-09T12:00:00.123Z", an offset, a space
 * for the T; without zone: UTC) or a number as text, or an integer; `unit` is
 * "auto" (told by the size of the number), "s", "ms", "us" or "ns". Floored to
 * a millisecond. Code: TIME. */
static int moment_lua_parse(lua_State *L) {
  static const char *const units[] = {
      [TIME_AUTO] = "auto", [TIME_S] = "s",   [TIME_MS] = "ms",
      [TIME_US] = "us",     [TIME_NS] = "ns", NULL};
  int type = lua_type(L, 1);
  if (type == LUA_TNUMBER && !lua_isinteger(L, 1))
    return luaL_argerror(L, 1, "text or an integer expected, got a float");
  if (type != LUA_TNUMBER && type != LUA_TSTRING)
    return luaL_typeerror(L, 1, "text or an integer");
  int unit = luaL_checkoption(L, 2, "auto", units);
  size_t len;
  int64_t ms;
  const char *text = lua_tolstring(L, 1, &len);
  int err = moment_parse(text, len, (enum time_unit)unit, &ms);
  if (err != MOMENT_OK)
    return fail(L, "moment", "TIME", "%s: '%.40s'", moment_explain(err), text);
  lua_pushinteger(L, ms);
  return 1;
}


/* moment.format(ms [, form]) -> text
 * `form` is "iso" (2024-08-09T12:00:00.123Z), "sql" (2024-08-09 12:00:00) or
 * "sql3" (2024-08-09 12:00:00.123); floored. Raises outside the years 0 to
 * 9999. */
static int moment_lua_format(lua_State *L) {
  static const char *const forms[] = {
      [MOMENT_ISO] = "iso", [MOMENT_SQL] = "sql", [MOMENT_SQL3] = "sql3", NULL};
  char out[MOMENT_TEXT_MAX];
  lua_Integer ms = luaL_checkinteger(L, 1);
  int form = luaL_checkoption(L, 2, "iso", forms);
  size_t len = moment_format(ms, (enum moment_form)form, out);
  luaL_argcheck(L, len > 0, 1, "outside the years 0 to 9999");
  lua_pushlstring(L, out, len);
  return 1;
}


int luaopen_host_moment(lua_State *L);

int luaopen_host_moment(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"parse", moment_lua_parse}, {"format", moment_lua_format}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
