/* mysql_connect.c - the options of a connection, and its handle.
 *
 * Sessions are always the same: utf8mb4, UTC, strict, autocommit, matched
 * rather than changed rows counted, no LOCAL INFILE, never reconnected behind
 * the caller's back, no option file read. See mysql_dial.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "handle.h"
#include "mysql.h"
#include "opts.h"

enum { DEFAULT_PORT = 3306, DEFAULT_TIMEOUT_S = 5, MAX_TIMEOUT_S = 3600 };


static void db_close(struct handle *h) {
  struct db *db = (struct db *)h;
  db_drop(db, "the connection was closed");
  stmt_close_all(db);
  free(db->parked);
  db->parked = NULL;
  route_free(db->route);
  db->route = NULL;
}


/* A copy of option `key`, owned by the route at *to. */
static void connect_copy(lua_State *L, int arg, const char *key,
                         const char *def, char **to) {
  size_t n = 0;
  const char *s = opts_lstr(L, arg, key, &n);
  if (s == NULL)
    s = def;
  if (s == NULL)
    return;
  if (s != def && strlen(s) != n)
    luaL_error(L, "option '%s' must not hold a NUL byte", key);
  *to = strdup(s);
  if (*to == NULL)
    luaL_error(L, "out of memory");
}


static void connect_ssl(lua_State *L, struct route *r) {
  static const char *const known[] = {"ca", "cert", "key", "verify", NULL};
  if (!opts_table(L, 1, "ssl"))
    return;
  int arg = lua_gettop(L);
  opts_check(L, arg, known);
  r->ssl = 1;
  connect_copy(L, arg, "ca", NULL, &r->ca);
  connect_copy(L, arg, "cert", NULL, &r->cert);
  connect_copy(L, arg, "key", NULL, &r->key);
  r->verify = (char)opts_bool(L, arg, "verify", 1);
  lua_pop(L, 1);
}


/* The statements of option `init`, in order. */
static void connect_init(lua_State *L, struct route *r) {
  if (!opts_table(L, 1, "init"))
    return;
  size_t count = lua_rawlen(L, -1);
  r->init = calloc(count + 1, sizeof *r->init);
  for (size_t i = 0; i < count; i++) {
    size_t n = 0;
    if (lua_geti(L, -1, (lua_Integer)i + 1) != LUA_TSTRING)
      luaL_error(L, "option 'init' must be a list of strings");
    const char *sql = lua_tolstring(L, -1, &n);
    if (strlen(sql) != n)
      luaL_error(L, "option 'init' must not hold a NUL byte");
    if (r->init == NULL || (r->init[i] = strdup(sql)) == NULL)
      luaL_error(L, "out of memory");
    r->init_n = i + 1;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}


/* Read the options into the route, which the handle owns already. */
static void connect_route(lua_State *L, struct route *r) {
  opts_need(L, 1, "user");
  connect_copy(L, 1, "user", NULL, &r->user);
  connect_copy(L, 1, "host", "127.0.0.1", &r->host);
  connect_copy(L, 1, "password", "", &r->password);
  connect_copy(L, 1, "socket", NULL, &r->socket);
  connect_copy(L, 1, "database", NULL, &r->database);
  if (*r->host == '\0' || strchr(r->host, ',') != NULL)
    luaL_error(L, "option 'host' must be one host name");
  r->port = (unsigned)opts_int(L, 1, "port", DEFAULT_PORT, 1, 65535);
  r->timeout_s = (unsigned)opts_int(L, 1, "connect_timeout", DEFAULT_TIMEOUT_S,
                                    1, MAX_TIMEOUT_S);
  if (opts_bool(L, 1, "multi", 0))
    r->flags |= CLIENT_MULTI_STATEMENTS;
  if (opts_bool(L, 1, "found_rows", 1))
    r->flags |= CLIENT_FOUND_ROWS;
  connect_ssl(L, r);
  connect_init(L, r);
}


/* user@host:port/database, or the same with a socket, for messages. */
static void connect_target(struct db *db) {
  const struct route *r = db->route;
  const char *database = r->database != NULL ? r->database : "";
  if (r->socket != NULL)
    snprintf(db->target, sizeof db->target, "%s@localhost/%s?socket=%s",
             r->user, database, r->socket);
  else
    snprintf(db->target, sizeof db->target, "%s@%s:%u/%s", r->user, r->host,
             r->port, database);
}


/* mysql.connect{ user=, host="127.0.0.1", port=3306, socket=, password=,
 *   database=, connect_timeout=5 (s), ssl={ca=,cert=,key=,verify=true},
 *   init={sql,...}, multi=false, found_rows=true, wait=true }
 *   -> db | nil, message, code, errno, sqlstate
 * With wait=false it returns at once; db:ready() and db:receive(), which then
 * answers true or the failure, are the rest. */
int connect_lua(lua_State *L) {
  static const char *const known[] = {
      "host",     "port", "socket", "user",       "password",
      "database", "ssl",  "multi",  "found_rows", "connect_timeout",
      "init",     "wait", NULL};
  lua_settop(L, 1);
  opts_check(L, 1, known);
  struct db *db = handle_new(L, sizeof *db, MYSQL_DB);
  db->route = route_new();
  if (db->route == NULL)
    return luaL_error(L, "out of memory");
  db->h.close = db_close;
  connect_route(L, db->route);
  connect_target(db);
  int64_t timeout_ms = db->route->timeout_s * (int64_t)1000;
  if (db_start_connect(db, db_deadline(timeout_ms)) != 0)
    return luaL_error(L, "out of memory: a connection needs a thread");
  if (opts_bool(L, 1, "wait", 1)) {
    int failed = db_finish(L, db, -1);
    if (failed) {
      handle_close(&db->h);
      return failed;
    }
    db_settle(db);
  }
  lua_settop(L, 2);
  return 1;
}
