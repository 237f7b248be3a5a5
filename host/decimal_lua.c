/* decimal_lua.c - host.decimal: exact arithmetic on decimal text.
 *
 * For scripts, checks and tests that compare what MySQL's DECIMAL columns hold.
 * Arguments are decimal text or integers; a float is refused, because it has
 * lost digits already. All round half away from zero. */
#include <lua.h>
#include <lauxlib.h>

#include "exact.h"
#include "fail.h"


/* Decimal text at `arg`; raises for floats and other types. */
static const char *decimal_arg(lua_State *L, int arg) {
  int type = lua_type(L, arg);
  if (type == LUA_TNUMBER && !lua_isinteger(L, arg))
    luaL_argerror(L, arg, "decimal text or an integer expected, got a float");
  if (type != LUA_TNUMBER && type != LUA_TSTRING)
    luaL_typeerror(L, arg, "decimal text or an integer");
  size_t len;
  const char *text = lua_tolstring(L, arg, &len);
  /* exact.h reads up to NUL; what hides behind one is not a number. */
  for (size_t i = 0; i < len; i++)
    if (text[i] == '\0')
      return "";
  return text;
}


static int decimal_scale(lua_State *L, int arg) {
  lua_Integer scale = luaL_checkinteger(L, arg);
  luaL_argcheck(L, scale >= 0 && scale <= EXACT_DIGITS_MAX, arg,
                "scale out of range");
  return (int)scale;
}


/* Push `out`, or what went wrong. */
static int decimal_result(lua_State *L, int err, const char *out) {
  switch (err) {
  case EXACT_OK:
    lua_pushstring(L, out);
    return 1;
  case EXACT_ZERO:
    return fail(L, "decimal", "ZERO", "division by zero");
  case EXACT_SPACE:
    return fail(L, "decimal", "RANGE", "more than %d digits", EXACT_DIGITS_MAX);
  case EXACT_NEGATIVE:
    return fail(L, "decimal", "NEGATIVE",
                "no numbers have such sums: their variance is negative");
  default:
    return fail(L, "decimal", "SYNTAX", "not a decimal number");
  }
}


/* decimal.add(a, b) -> text | nil, message, code
 * Exact, with the larger of the two scales. Codes: SYNTAX, RANGE. */
static int decimal_lua_add(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *a = decimal_arg(L, 1), *b = decimal_arg(L, 2);
  return decimal_result(L, exact_add(a, b, out, sizeof out), out);
}


/* decimal.sub(a, b) -> text | nil, message, code */
static int decimal_lua_sub(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *a = decimal_arg(L, 1), *b = decimal_arg(L, 2);
  return decimal_result(L, exact_sub(a, b, out, sizeof out), out);
}


/* decimal.mul(a, b) -> text | nil, message, code
 * Exact, with the sum of the two scales. */
static int decimal_lua_mul(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *a = decimal_arg(L, 1), *b = decimal_arg(L, 2);
  return decimal_result(L, exact_mul(a, b, out, sizeof out), out);
}


/* decimal.ratio(numerator, denominator, scale) -> text | nil, message, code
 * Codes: SYNTAX, RANGE, ZERO (the denominator is 0). */
static int decimal_lua_ratio(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *a = decimal_arg(L, 1), *b = decimal_arg(L, 2);
  int scale = decimal_scale(L, 3);
  return decimal_result(L, exact_ratio(a, b, scale, out, sizeof out), out);
}


/* decimal.round(text, scale) -> text | nil, message, code */
static int decimal_lua_round(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *a = decimal_arg(L, 1);
  int scale = decimal_scale(L, 2);
  return decimal_result(L, exact_round(a, scale, out, sizeof out), out);
}


/* decimal.stddev(n, sum, sum_of_squares, sample, scale)
 *   -> text | nil, message, code
 * sample: divide by n - 1, not by n. Codes: SYNTAX, RANGE, ZERO (n too small),
 * NEGATIVE (n * sum_of_squares < sum^2). */
static int decimal_lua_stddev(lua_State *L) {
  char out[EXACT_TEXT_MAX];
  const char *n = decimal_arg(L, 1), *sum = decimal_arg(L, 2);
  const char *squares = decimal_arg(L, 3);
  luaL_checktype(L, 4, LUA_TBOOLEAN);
  int scale = decimal_scale(L, 5);
  return decimal_result(L,
                        exact_stddev(n, sum, squares, lua_toboolean(L, 4),
                                     scale, out, sizeof out),
                        out);
}


/* decimal.compare(a, b) -> -1 | 0 | 1 | nil, message, code
 * By value: "1.50" equals "1.5". */
static int decimal_lua_compare(lua_State *L) {
  const char *a = decimal_arg(L, 1), *b = decimal_arg(L, 2);
  int order = 0;
  int err = exact_compare(a, b, &order);
  if (err != EXACT_OK)
    return decimal_result(L, err, "");
  lua_pushinteger(L, order);
  return 1;
}


int luaopen_host_decimal(lua_State *L);

int luaopen_host_decimal(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"add", decimal_lua_add},         {"sub", decimal_lua_sub},
      {"mul", decimal_lua_mul},         {"ratio", decimal_lua_ratio},
      {"round", decimal_lua_round},     {"stddev", decimal_lua_stddev},
      {"compare", decimal_lua_compare}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
