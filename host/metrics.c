/* metrics.c - host.metrics: counters, gauges and histograms for Lua.
 *
 * Only the binding; the numbers live in metrics_core.c, in the one registry of
 * the process. A series is never removed, so its userdata owns nothing and
 * there is nothing to close. */
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "field.h"
#include "metrics_core.h"

#define TYPE_COUNTER "counter"
#define TYPE_GAUGE "gauge"
#define TYPE_HISTOGRAM "histogram"

static const char *const kind_names[] = {TYPE_COUNTER, TYPE_GAUGE,
                                         TYPE_HISTOGRAM};

struct series {
  struct metric *s;
};

int luaopen_host_metrics(lua_State *L);


static struct metrics *registry(lua_State *L) {
  struct metrics *m = metrics_process();
  if (m == NULL)
    luaL_error(L, "metrics: out of memory");
  return m;
}


static struct metric *series_arg(lua_State *L, const char *type) {
  struct series *u = luaL_checkudata(L, 1, type);
  return u->s;
}


/* Read the table of labels at `arg` into `out`; the strings belong to the
 * table, numbers are refused so that none changes under lua_next. [-0, +0] */
static size_t labels_read(lua_State *L, int arg, struct metric_label *out) {
  size_t n = 0;
  if (lua_isnoneornil(L, arg))
    return 0;
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
      luaL_argerror(L, arg, "labels must be strings by name");
    if (n == METRICS_MAX_LABELS)
      luaL_argerror(L, arg, "more than 16 labels");
    out[n].name = lua_tostring(L, -2);
    out[n].value = lua_tostring(L, -1);
    n++;
    lua_pop(L, 1);
  }
  return n;
}


/* Read the array of bounds at `arg`. [-0, +0] */
static size_t bounds_read(lua_State *L, int arg, double *out) {
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_Unsigned n = lua_rawlen(L, arg);
  if (n > METRICS_MAX_BOUNDS)
    luaL_argerror(L, arg, "more than 64 buckets");
  for (lua_Unsigned i = 0; i < n; i++) {
    lua_rawgeti(L, arg, (lua_Integer)i + 1);
    if (!lua_isnumber(L, -1))
      luaL_argerror(L, arg, "buckets must be numbers");
    out[i] = lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  return (size_t)n;
}


/* metrics.KIND(name, help [, labels [, buckets]]) [-0, +1] */
static int series_push(lua_State *L, enum metric_kind kind) {
  struct metric_label labels[METRICS_MAX_LABELS];
  double bounds[METRICS_MAX_BOUNDS];
  const char *name = luaL_checkstring(L, 1);
  const char *help = luaL_optstring(L, 2, "");
  size_t nlabels = labels_read(L, 3, labels);
  int own = kind == METRIC_HISTOGRAM && !lua_isnoneornil(L, 4);
  size_t nbounds = own ? bounds_read(L, 4, bounds) : 0;
  struct series *u = lua_newuserdatauv(L, sizeof *u, 0);
  int rc = metrics_get(registry(L), kind, name, help, labels, nlabels,
                       own ? bounds : NULL, nbounds, &u->s);
  if (rc != METRICS_OK)
    return luaL_error(L, "metrics: %s: %s", name, metrics_error(rc));
  luaL_setmetatable(L, kind_names[kind]);
  return 1;
}


/* metrics.counter(name, help [, labels])  --> counter
 * The series of that name and labels: the same one for the same arguments.
 * labels: {name = value}, strings. A bad name raises. */
static int metrics_counter(lua_State *L) {
  return series_push(L, METRIC_COUNTER);
}


/* metrics.gauge(name, help [, labels])  --> gauge */
static int metrics_gauge(lua_State *L) {
  return series_push(L, METRIC_GAUGE);
}


/* metrics.histogram(name, help [, labels [, buckets]])  --> histogram
 * buckets: rising upper bounds; the default suits seconds (1 ms to 60 s). */
static int metrics_histogram(lua_State *L) {
  return series_push(L, METRIC_HISTOGRAM);
}


/* counter:add([n])   n: whole, not negative, 1 when absent */
static int counter_add(lua_State *L) {
  struct metric *s = series_arg(L, TYPE_COUNTER);
  lua_Integer n = luaL_optinteger(L, 2, 1);
  luaL_argcheck(L, n >= 0, 2, "a counter only grows");
  metric_count(s, n);
  return 0;
}


/* counter:value()  --> integer */
static int counter_value(lua_State *L) {
  lua_pushinteger(L, metric_counted(series_arg(L, TYPE_COUNTER)));
  return 1;
}


/* gauge:set(x) */
static int gauge_set(lua_State *L) {
  metric_set(series_arg(L, TYPE_GAUGE), luaL_checknumber(L, 2));
  return 0;
}


/* gauge:add(x)   x may be negative */
static int gauge_add(lua_State *L) {
  metric_add(series_arg(L, TYPE_GAUGE), luaL_checknumber(L, 2));
  return 0;
}


/* gauge:value()  --> number */
static int gauge_value(lua_State *L) {
  lua_pushnumber(L, metric_value(series_arg(L, TYPE_GAUGE)));
  return 1;
}


/* histogram:observe(x)   a NaN is ignored */
static int histogram_observe(lua_State *L) {
  metric_observe(series_arg(L, TYPE_HISTOGRAM), luaL_checknumber(L, 2));
  return 0;
}


/* histogram:quantile(q)  --> number   q in 0..1; 0 before the first value.
 * Within 1.6 % of the true value, whatever the buckets. */
static int histogram_quantile(lua_State *L) {
  struct metric *s = series_arg(L, TYPE_HISTOGRAM);
  lua_Number q = luaL_checknumber(L, 2);
  luaL_argcheck(L, q >= 0 && q <= 1, 2, "must be within 0 and 1");
  lua_pushnumber(L, metric_quantile(s, q));
  return 1;
}


/* histogram:count()  --> integer */
static int histogram_count(lua_State *L) {
  lua_pushinteger(L, metric_observations(series_arg(L, TYPE_HISTOGRAM)));
  return 1;
}


/* histogram:sum()  --> number */
static int histogram_sum(lua_State *L) {
  lua_pushnumber(L, metric_sum(series_arg(L, TYPE_HISTOGRAM)));
  return 1;
}


/* Owns the rendered text across the push that may raise. */
static int text_free(lua_State *L) {
  char **text = lua_touserdata(L, 1);
  free(*text);
  *text = NULL;
  return 0;
}


/* metrics.render()  --> text
 * All series and the process's own as Prometheus text, version 0.0.4. */
static int metrics_lua_render(lua_State *L) {
  size_t len = 0;
  char **text = lua_newuserdatauv(L, sizeof *text, 0);
  *text = NULL;
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, text_free);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, text_free);
  lua_setfield(L, -2, "__close");
  lua_setmetatable(L, -2);
  lua_toclose(L, -1);
  *text = metrics_render(registry(L), 1, &len);
  if (*text == NULL)
    return luaL_error(L, "metrics: out of memory");
  lua_pushlstring(L, *text, len);
  return 1;
}


/* Push one series as a table. [-0, +1] */
static void snapshot_push(lua_State *L, const struct metric *s) {
  const struct metric_label *labels;
  size_t n = metric_labels(s, &labels);
  lua_createtable(L, 0, 8);
  lua_pushstring(L, metric_name(s));
  lua_setfield(L, -2, "name");
  lua_pushstring(L, kind_names[metric_kind(s)]);
  lua_setfield(L, -2, "kind");
  lua_createtable(L, 0, (int)n);
  for (size_t i = 0; i < n; i++) {
    lua_pushstring(L, labels[i].value);
    lua_setfield(L, -2, labels[i].name);
  }
  lua_setfield(L, -2, "labels");
  switch (metric_kind(s)) {
  case METRIC_COUNTER:
    field_int(L, "value", metric_counted(s));
    break;
  case METRIC_GAUGE:
    lua_pushnumber(L, metric_value(s));
    lua_setfield(L, -2, "value");
    break;
  case METRIC_HISTOGRAM:
    field_int(L, "count", metric_observations(s));
    lua_pushnumber(L, metric_sum(s));
    lua_setfield(L, -2, "sum");
    lua_pushnumber(L, metric_quantile(s, 0.5));
    lua_setfield(L, -2, "p50");
    lua_pushnumber(L, metric_quantile(s, 0.99));
    lua_setfield(L, -2, "p99");
    break;
  }
}


/* metrics.snapshot()  --> { {name=, kind=, labels={}, value=}, ... }
 * Ordered by name and labels; a histogram has count, sum, p50 and p99. */
static int metrics_snapshot(lua_State *L) {
  struct metrics *m = registry(L);
  size_t n = metrics_list(m, NULL, 0);
  struct metric **all = lua_newuserdatauv(L, (n + 1) * sizeof *all, 0);
  size_t now = metrics_list(m, all, n);
  if (now < n)
    n = now;
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    snapshot_push(L, all[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}


static void series_type(lua_State *L, const char *type,
                        const luaL_Reg *methods) {
  luaL_newmetatable(L, type); /* filled again after one without memory */
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}


static const luaL_Reg counter_methods[] = {
    {"add", counter_add}, {"value", counter_value}, {NULL, NULL}};

static const luaL_Reg gauge_methods[] = {{"set", gauge_set},
                                         {"add", gauge_add},
                                         {"value", gauge_value},
                                         {NULL, NULL}};

static const luaL_Reg histogram_methods[] = {{"observe", histogram_observe},
                                             {"quantile", histogram_quantile},
                                             {"count", histogram_count},
                                             {"sum", histogram_sum},
                                             {NULL, NULL}};

static const luaL_Reg metrics_functions[] = {
    {"counter", metrics_counter},     {"gauge", metrics_gauge},
    {"histogram", metrics_histogram}, {"render", metrics_lua_render},
    {"snapshot", metrics_snapshot},   {NULL, NULL}};


int luaopen_host_metrics(lua_State *L) {
  series_type(L, TYPE_COUNTER, counter_methods);
  series_type(L, TYPE_GAUGE, gauge_methods);
  series_type(L, TYPE_HISTOGRAM, histogram_methods);
  luaL_newlib(L, metrics_functions);
  return 1;
}
