/* mysql.c - host.mysql: requests to MySQL and MariaDB, and the module itself.
 *
 * Requests go out without blocking and are waited for in slices (see
 * mysql_wait.c). Connecting is in mysql_connect.c, results in mysql_result.c,
 * prepared statements in mysql_stmt.c and mysql_bulk.c, literals in
 * mysql_text.c. */
#include <stdio.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>
#include <mysql.h>

#include "field.h"
#include "handle.h"
#include "interrupt.h"
#include "mysql.h"

/* How long a KILL of what was broken off may take. */
enum { KILL_MS = 1000 };


int db_begin(lua_State *L, struct db *db) {
  if (db->phase == DB_BUSY)
    luaL_error(L, "a statement is still running on this connection "
                  "(wait for it with ready, or drain)");
  if (db->phase == DB_READY || db->more)
    luaL_error(L, "results of the last statement are still waiting "
                  "(receive them, or drain)");
  /* A raise in between left the results of a CALL behind. */
  if (db->my != NULL && mysql_more_results(db->my))
    db_drop(db, "an earlier statement was left in the middle of its results");
  return db->my == NULL ? db_fail(L, db) : 0;
}


int db_finish(lua_State *L, struct db *db, int64_t timeout_ms) {
  char text[96];
  struct db_error ignored;
  enum db_wait wait = db_wait(db, db_deadline(timeout_ms), MODE_PATIENT);
  if (wait == WAIT_DONE)
    return db->failed ? db_fail(L, db) : 0;
  kill_running(db, 0, KILL_MS, &ignored);
  if (wait == WAIT_INTERRUPT) {
    db_drop(db, "the connection was closed by an interrupt");
    interrupt_check(L);
    return db_fail_here(L, db, "INTERRUPTED", "interrupted");
  }
  snprintf(text, sizeof text,
           "no answer within %lld ms; the connection was closed",
           (long long)timeout_ms);
  db_drop(db, text);
  return db_fail_here(L, db, "TIMEOUT", text);
}


/* Optional timeout in milliseconds at `arg`; -1: none. */
static int64_t db_timeout(lua_State *L, int arg) {
  if (lua_isnoneornil(L, arg))
    return -1;
  lua_Integer ms = luaL_checkinteger(L, arg);
  luaL_argcheck(L, ms >= 0 && ms <= INT32_MAX, arg,
                "a timeout is 0 to 2147483647 milliseconds");
  return ms;
}


/* --- requests ------------------------------------------------------------ */

static struct db *db_check(lua_State *L) {
  return handle_check(L, 1, MYSQL_DB);
}


/* Push what a request that ended well has brought; the handle is at 1. */
static int db_take(lua_State *L, struct db *db) {
  lua_pushnil(L);
  lua_setiuservalue(L, 1, 1); /* the statement, which may be long */
  if (db->opened) {
    result_push(L, db);
  } else {
    db_settle(db);
    lua_pushboolean(L, 1);
  }
  return 1;
}


/* Start the statement at argument 2; 0, or the values of a failure. */
static int db_start(lua_State *L, struct db *db) {
  size_t n = 0;
  const char *sql = luaL_checklstring(L, 2, &n);
  int failed = db_begin(L, db);
  if (failed)
    return failed;
  if (db->max_packet != 0 && n >= db->max_packet) {
    char text[128];
    snprintf(text, sizeof text,
             "a statement of %zu bytes; the server's max_allowed_packet is %zu",
             n, db->max_packet);
    return db_fail_here(L, db, "TOOBIG", text);
  }
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, 1); /* the library reads it while it is sent */
  db_start_query(db, sql, n);
  return 0;
}


/* db:query(sql [, timeout_ms]) -> result | nil, message, code, errno, sqlstate
 * Waits for the result. After a timeout (code TIMEOUT) the server is asked to
 * end the statement, which may take a second more, and the connection is
 * closed, because nobody knows what was done. With several statements
 * this is the first one's result; db:next() has the others. */
static int db_query(lua_State *L) {
  struct db *db = db_check(L);
  int64_t timeout_ms = db_timeout(L, 3);
  int failed = db_start(L, db);
  if (!failed)
    failed = db_finish(L, db, timeout_ms);
  return failed ? failed : db_take(L, db);
}


/* db:send(sql) -> true | nil, message, code, errno, sqlstate
 * Starts a statement; db:ready() tells when db:receive() has its result. */
static int db_send(lua_State *L) {
  struct db *db = db_check(L);
  int failed = db_start(L, db);
  if (failed)
    return failed;
  lua_pushboolean(L, 1);
  return 1;
}


/* db:ready([timeout_ms = 0]) -> boolean   a result (or failure) can be taken.
 * After a result of several it asks for the next. A signal ends the wait. */
static int db_ready(lua_State *L) {
  struct db *db = db_check(L);
  int64_t timeout_ms = db_timeout(L, 2);
  if (db->phase == DB_IDLE) {
    if (!db->more)
      return luaL_error(L, "no statement was sent");
    db_start_next(db);
  }
  enum db_wait wait =
      db_wait(db, db_deadline(timeout_ms < 0 ? 0 : timeout_ms), MODE_EARLY);
  if (wait == WAIT_INTERRUPT)
    interrupt_check(L);
  lua_pushboolean(L, wait == WAIT_DONE);
  return 1;
}


/* db:receive() -> result | nil, message, code, errno, sqlstate
 * What db:ready() said is there; true for the end of a connect. */
static int db_receive(lua_State *L) {
  struct db *db = db_check(L);
  if (db->phase != DB_READY)
    return luaL_error(L, "no result is ready (db:ready() must say so first)");
  return db->failed ? db_fail(L, db) : db_take(L, db);
}


/* db:more() -> boolean   results of the last request are not yet taken */
static int db_more(lua_State *L) {
  struct db *db = db_check(L);
  lua_pushboolean(L, db->more || db->phase != DB_IDLE);
  return 1;
}


/* db:next([timeout_ms]) -> result | nil | nil, message, code, errno, sqlstate
 * The next result of several; plain nil when there is none. */
static int db_next(lua_State *L) {
  struct db *db = db_check(L);
  int64_t timeout_ms = db_timeout(L, 2);
  if (db->phase == DB_IDLE) {
    if (!db->more) {
      lua_pushnil(L);
      return 1;
    }
    db_start_next(db);
  }
  int failed = db_finish(L, db, timeout_ms);
  return failed ? failed : db_take(L, db);
}


/* db:drain([timeout_ms]) -> n | nil, message, code, errno, sqlstate
 * Takes and drops every result still to come; n of them succeeded. */
static int db_drain(lua_State *L) {
  struct db *db = db_check(L);
  int64_t timeout_ms = db_timeout(L, 2);
  lua_Integer n = 0;
  while (db->phase != DB_IDLE || db->more) {
    if (db->phase == DB_IDLE)
      db_start_next(db);
    int failed = db_finish(L, db, timeout_ms);
    if (failed)
      return failed;
    db_settle(db);
    n++;
  }
  lua_pushinteger(L, n);
  return 1;
}


/* db:ping([timeout_ms]) -> true | nil, message, code, errno, sqlstate */
static int db_ping(lua_State *L) {
  struct db *db = db_check(L);
  int64_t timeout_ms = db_timeout(L, 2);
  int failed = db_begin(L, db);
  if (failed)
    return failed;
  db_start_ping(db);
  failed = db_finish(L, db, timeout_ms);
  if (failed)
    return failed;
  db_settle(db);
  lua_pushboolean(L, 1);
  return 1;
}


/* --- about the connection ------------------------------------------------ */

/* db:alive() -> boolean   false once the connection is known to be lost, also
 * when the server has closed it while it was idle. Sends nothing. */
static int db_alive(lua_State *L) {
  struct db *db = handle_any(L, 1, MYSQL_DB);
  int has = db->h.close != NULL && (db->my != NULL || db->dial != NULL);
  lua_pushboolean(L, has && (db->phase != DB_IDLE || !db_hung_up(db)));
  return 1;
}


/* db:fd() -> integer | nil   what an event loop polls for db:wants(); another
 * one once the connection is made */
static int db_fd(lua_State *L) {
  struct db *db = db_check(L);
  int fd = db_socket(db);
  if (fd < 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, fd);
  return 1;
}


/* db:wants() -> "r" | "w" | "rw"   what the running statement waits for */
static int db_wants(lua_State *L) {
  struct db *db = db_check(L);
  int w = db->phase == DB_BUSY && (db->events & MYSQL_WAIT_WRITE);
  int r = db->phase != DB_BUSY || (db->events & MYSQL_WAIT_READ);
  lua_pushstring(L, w ? (r ? "rw" : "w") : "r");
  return 1;
}


/* db:server() -> { flavor = "mysql" | "mariadb", version = "9.7.0",
 *   number = 90700, max_packet = bytes, bulk = boolean }
 *   | nil, message, code, ...
 * bulk: it takes arrays of values (see statement:send). */
static int db_server(lua_State *L) {
  struct db *db = db_check(L);
  if (db->dial != NULL)
    return luaL_error(L, "the connection is not made yet");
  if (db->my == NULL)
    return db_fail(L, db);
  const char *text = mysql_get_server_info(db->my);
  lua_createtable(L, 0, 5);
  lua_pushstring(L, mariadb_connection(db->my) ? "mariadb" : "mysql");
  lua_setfield(L, -2, "flavor");
  lua_pushlstring(L, text, strspn(text, "0123456789."));
  lua_setfield(L, -2, "version");
  field_int(L, "number", (lua_Integer)mysql_get_server_version(db->my));
  field_int(L, "max_packet", (lua_Integer)db->max_packet);
  lua_pushboolean(L, bulk_known(db));
  lua_setfield(L, -2, "bulk");
  return 1;
}


/* db:thread_id() -> integer | nil   the server's id of this connection */
static int db_thread_id(lua_State *L) {
  struct db *db = db_check(L);
  if (db->my == NULL)
    lua_pushnil(L);
  else
    lua_pushinteger(L, (lua_Integer)mysql_thread_id(db->my));
  return 1;
}


/* db:kill_query([timeout_ms = 1000]) -> true | nil, message, code, errno,
 * sqlstate
 * Over a second connection, ask the server to break off the statement that
 * runs here; its result is then the failure KILLED. */
static int db_kill_query(lua_State *L) {
  struct db *db = db_check(L);
  struct db_error kept = db->error;
  int64_t timeout_ms = db_timeout(L, 2);
  if (db->phase != DB_BUSY)
    return luaL_error(L, "no statement is running on this connection");
  if (kill_running(db, 1, timeout_ms < 0 ? KILL_MS : timeout_ms, &db->error) ==
      0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  struct db_error error = db->error;
  db->error = kept;
  const char *code = db_code(error.number);
  return db_fail_push(L, db, code, error.number, error.state, error.text);
}


/* db:target() -> "user@host:port/database" */
static int db_target(lua_State *L) {
  struct db *db = handle_any(L, 1, MYSQL_DB);
  lua_pushstring(L, db->target);
  return 1;
}


static const luaL_Reg db_methods[] = {{"query", db_query},
                                      {"send", db_send},
                                      {"ready", db_ready},
                                      {"receive", db_receive},
                                      {"more", db_more},
                                      {"next", db_next},
                                      {"drain", db_drain},
                                      {"ping", db_ping},
                                      {"alive", db_alive},
                                      {"fd", db_fd},
                                      {"wants", db_wants},
                                      {"server", db_server},
                                      {"quote", text_quote},
                                      {"thread_id", db_thread_id},
                                      {"target", db_target},
                                      {"prepare", stmt_prepare},
                                      {"send_prepare", stmt_send_prepare},
                                      {"kill_query", db_kill_query},
                                      {NULL, NULL}};

static const luaL_Reg mysql_functions[] = {{"connect", connect_lua},
                                           {"name", text_name},
                                           {"blob", text_blob},
                                           {NULL, NULL}};

int luaopen_host_mysql(lua_State *L);


int luaopen_host_mysql(lua_State *L) {
  static int ready;
  if (!ready && mysql_library_init(0, NULL, NULL) != 0)
    return luaL_error(L, "the MySQL client library does not start");
  ready = 1;
  handle_type(L, MYSQL_DB, db_methods);
  stmt_type(L);
  text_null_type(L);
  luaL_newlib(L, mysql_functions);
  result_null(L);
  lua_setfield(L, -2, "null");
  return 1;
}
