/* mysql_stmt.c - prepared statements of host.mysql.
 *
 * A statement keeps its connection alive and is closed with it. Values go out
 * and come back in the binary protocol, typed as in mysql_result.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>
#include <mysql.h>

#include "handle.h"
#include "mysql.h"

/* Value of one column as the library writes it. */
struct cell {
  union {
    long long i;
    double d;
  } v;
  unsigned long length;
  my_bool is_null;
  my_bool error;
};


/* Forget the columns of the last result. */
static void stmt_forget(struct stmt *st) {
  if (st->meta != NULL)
    mysql_free_result(st->meta);
  st->meta = NULL;
}


static void stmt_close(struct handle *h) {
  struct stmt *st = (struct stmt *)h;
  stmt_forget(st);
  if (st->prev != NULL)
    st->prev->next = st->next;
  else
    st->db->stmts = st->next;
  if (st->next != NULL)
    st->next->prev = st->prev;
  db_close_stmt(st->db, st->st);
  st->st = NULL;
  free(st->arrays);
  st->arrays = NULL;
}


void stmt_close_all(struct db *db) {
  while (db->stmts != NULL)
    handle_close(&db->stmts->h);
}


/* Push a statement and start to prepare the text at 2 of the connection at 1;
 * NULL: the values of a failure are pushed, *failed of them. */
static struct stmt *stmt_new(lua_State *L, struct db *db, int *failed) {
  size_t n = 0;
  const char *sql = luaL_checklstring(L, 2, &n);
  lua_settop(L, 2);
  *failed = db_begin(L, db);
  if (*failed)
    return NULL;
  struct stmt *st = handle_new(L, sizeof *st, MYSQL_STATEMENT);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  if (db_reserve_stmt(db) != 0)
    luaL_error(L, "out of memory");
  st->st = mysql_stmt_init(db->my);
  if (st->st == NULL) {
    db->stmt_n--;
    luaL_error(L, "out of memory");
  }
  st->db = db;
  st->next = db->stmts;
  if (st->next != NULL)
    st->next->prev = st;
  db->stmts = st;
  st->h.close = stmt_close;
  db_start_stmt(db, OP_PREPARE, st->st, sql, n);
  return st;
}


/* db:prepare(sql) -> statement | nil, message, code, errno, sqlstate */
int stmt_prepare(lua_State *L) {
  struct db *db = handle_check(L, 1, MYSQL_DB);
  int failed;
  struct stmt *st = stmt_new(L, db, &failed);
  if (st == NULL)
    return failed;
  failed = db_finish(L, db, -1);
  if (failed) {
    handle_close(&st->h);
    return failed;
  }
  db_settle(db);
  lua_settop(L, 3);
  return 1;
}


/* db:send_prepare(sql) -> statement | nil, message, code, errno, sqlstate
 * Starts to prepare; db:ready() tells when db:receive() has the outcome. */
int stmt_send_prepare(lua_State *L) {
  struct db *db = handle_check(L, 1, MYSQL_DB);
  int failed;
  if (stmt_new(L, db, &failed) == NULL)
    return failed;
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, 1); /* the library reads it while it is sent */
  return 1;
}


/* --- values to the server ------------------------------------------------ */

/* Well-formed UTF-8 without surrogates, at most U+10FFFF. */
static int stmt_is_text(const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text, *end = s + n;
  while (s < end) {
    unsigned c = *s++;
    if (c < 0x80)
      continue;
    int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    if (c < 0xC2 || c > 0xF4 || end - s < more)
      return 0;
    unsigned low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (*s < low || *s > high)
      return 0;
    for (s++, more--; more > 0; s++, more--) {
      if ((*s & 0xC0) != 0x80)
        return 0;
    }
  }
  return 1;
}


/* Bytes that are no text are sent as such; as text the server refuses them. */
static void stmt_bind_string(lua_State *L, MYSQL_BIND *bind, int arg) {
  size_t n = 0;
  const char *s = lua_tolstring(L, arg, &n);
  bind->buffer_type = stmt_is_text(s, n) ? MYSQL_TYPE_STRING : MYSQL_TYPE_BLOB;
  memcpy(&bind->buffer, &s, sizeof s); /* the library takes no const */
  bind->buffer_length = n;
}


static void stmt_bind(lua_State *L, MYSQL_BIND *bind, struct cell *cell,
                      int arg) {
  bind->buffer = &cell->v;
  switch (lua_type(L, arg)) {
  case LUA_TNIL:
    bind->buffer_type = MYSQL_TYPE_NULL;
    return;
  case LUA_TLIGHTUSERDATA:
    luaL_argcheck(L, lua_touserdata(L, arg) == NULL, arg,
                  "a light userdata other than mysql.null");
    bind->buffer_type = MYSQL_TYPE_NULL;
    return;
  case LUA_TBOOLEAN:
    cell->v.i = lua_toboolean(L, arg);
    bind->buffer_type = MYSQL_TYPE_LONGLONG;
    return;
  case LUA_TNUMBER:
    if (lua_isinteger(L, arg)) {
      cell->v.i = lua_tointeger(L, arg);
      bind->buffer_type = MYSQL_TYPE_LONGLONG;
    } else {
      cell->v.d = lua_tonumber(L, arg);
      bind->buffer_type = MYSQL_TYPE_DOUBLE;
    }
    return;
  case LUA_TSTRING:
    stmt_bind_string(L, bind, arg);
    return;
  default:
    luaL_argerror(
        L, arg, "a value is a number, a string, a boolean, nil or mysql.null");
  }
}


/* Bind the arguments from 2 on; their memory is pushed. [-0, +1, v] */
static void stmt_bind_all(lua_State *L, struct stmt *st, int count) {
  unsigned long want = mysql_stmt_param_count(st->st);
  if ((unsigned long)count != want)
    luaL_error(L, "the statement takes %I values, got %I", (lua_Integer)want,
               (lua_Integer)count);
  size_t n = (size_t)count;
  size_t size = n * (sizeof(MYSQL_BIND) + sizeof(struct cell));
  MYSQL_BIND *binds = lua_newuserdatauv(L, size + 1, 0);
  memset(binds, 0, size);
  struct cell *cells = (struct cell *)(binds + n);
  for (size_t i = 0; i < n; i++)
    stmt_bind(L, &binds[i], &cells[i], (int)i + 2);
  if (n > 0)
    mysql_stmt_bind_param(st->st, binds);
}


/* --- values from the server ---------------------------------------------- */

/* Types that the library can decode; it has none for newer ones. */
static int stmt_can_decode(enum enum_field_types type) {
  return type <= MYSQL_TYPE_BIT ||
         (type >= MYSQL_TYPE_JSON && type <= MYSQL_TYPE_GEOMETRY);
}


static void stmt_bind_column(MYSQL_BIND *bind, struct cell *cell,
                             const MYSQL_FIELD *field) {
  bind->buffer = &cell->v;
  bind->length = &cell->length;
  bind->is_null = &cell->is_null;
  bind->error = &cell->error;
  switch (result_kind(field)) {
  case KIND_INT:
    bind->buffer_type = MYSQL_TYPE_LONGLONG;
    bind->is_unsigned = (field->flags & UNSIGNED_FLAG) != 0;
    break;
  case KIND_REAL:
    bind->buffer_type = MYSQL_TYPE_DOUBLE;
    break;
  default:
    bind->buffer_type = MYSQL_TYPE_STRING; /* length first, bytes later */
    bind->buffer_length = 0;
    break;
  }
}


/* Push the bytes of column `i` of the row at hand. [-0, +1, m] */
static void stmt_push_bytes(lua_State *L, struct stmt *st, MYSQL_BIND *column,
                            unsigned i, size_t n) {
  MYSQL_BIND bind = *column;
  luaL_Buffer b;
  bind.buffer = luaL_buffinitsize(L, &b, n + 1);
  bind.buffer_length = n;
  if (n > 0)
    mysql_stmt_fetch_column(st->st, &bind, i, 0);
  luaL_pushresultsize(&b, n);
}


/* Push the value of column `i`. [-0, +1, m] */
static void stmt_push_value(lua_State *L, struct stmt *st, MYSQL_BIND *bind,
                            const struct cell *cell, unsigned i,
                            const MYSQL_FIELD *field) {
  if (cell->is_null) {
    result_null(L);
    return;
  }
  switch (result_kind(field)) {
  case KIND_INT:
    if (bind->is_unsigned)
      result_unsigned(L, (unsigned long long)cell->v.i);
    else
      lua_pushinteger(L, cell->v.i);
    return;
  case KIND_REAL:
    lua_pushnumber(L, cell->v.d);
    return;
  case KIND_BIT: {
    size_t n = 0;
    stmt_push_bytes(L, st, bind, i, cell->length);
    const char *s = lua_tolstring(L, -1, &n);
    result_bits(L, s, n);
    lua_remove(L, -2);
    return;
  }
  default:
    stmt_push_bytes(L, st, bind, i, cell->length);
    return;
  }
}


/* Push the array of stored rows. [-0, +1, m] */
static void stmt_rows(lua_State *L, struct stmt *st, const MYSQL_FIELD *fields,
                      unsigned count) {
  size_t size = count * (sizeof(MYSQL_BIND) + sizeof(struct cell));
  MYSQL_BIND *binds = lua_newuserdatauv(L, size, 0);
  memset(binds, 0, size);
  struct cell *cells = (struct cell *)(binds + count);
  for (unsigned i = 0; i < count; i++)
    stmt_bind_column(&binds[i], &cells[i], &fields[i]);
  mysql_stmt_bind_result(st->st, binds);
  lua_createtable(L, 0, 0);
  for (lua_Integer r = 1;; r++) {
    int rc = mysql_stmt_fetch(st->st);
    if (rc != 0 && rc != MYSQL_DATA_TRUNCATED)
      break;
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
      stmt_push_value(L, st, &binds[i], &cells[i], i, &fields[i]);
      lua_rawseti(L, -2, i + 1);
    }
    lua_rawseti(L, -2, r);
  }
  lua_remove(L, -2);
}


/* Push the result of the statement that was executed. [-0, +1, m] */
static void stmt_push_result(lua_State *L, struct stmt *st) {
  MYSQL_RES *meta = st->meta;
  const MYSQL_FIELD *fields = meta != NULL ? mysql_fetch_fields(meta) : NULL;
  unsigned count = meta != NULL ? mysql_num_fields(meta) : 0;
  result_head(L, fields, count);
  if (count > 0)
    stmt_rows(L, st, fields, count);
  else
    lua_createtable(L, 0, 0);
  lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
  lua_setfield(L, -3, "n");
  lua_setfield(L, -2, "rows");
  result_counts(L, mysql_stmt_affected_rows(st->st),
                mysql_stmt_insert_id(st->st), mysql_warning_count(st->db->my),
                mysql_info(st->db->my));
}


/* Run one operation on the statement; 0, or the values of the failure. */
static int stmt_run(lua_State *L, struct stmt *st, enum db_op op) {
  db_start_stmt(st->db, op, st->st, NULL, 0);
  int failed = db_finish(L, st->db, -1);
  if (!failed)
    db_settle(st->db);
  return failed;
}


/* The further results of a CALL: read and dropped. */
static int stmt_skip(lua_State *L, struct stmt *st) {
  while (mysql_stmt_more_results(st->st)) {
    int failed = stmt_run(L, st, OP_STMT_NEXT);
    if (!failed && mysql_stmt_field_count(st->st) > 0)
      failed = stmt_run(L, st, OP_STMT_STORE);
    if (failed)
      return failed;
    mysql_stmt_free_result(st->st);
  }
  return 0;
}


/* Fetch the rows of the result; 0, or the values of the failure. */
static int stmt_store(lua_State *L, struct stmt *st) {
  if (mysql_stmt_field_count(st->st) == 0)
    return 0;
  int failed = stmt_run(L, st, OP_STMT_STORE);
  if (failed)
    return failed;
  st->meta = mysql_stmt_result_metadata(st->st);
  if (st->meta == NULL)
    return luaL_error(L, "out of memory");
  const MYSQL_FIELD *fields = mysql_fetch_fields(st->meta);
  for (unsigned i = 0; i < mysql_num_fields(st->meta); i++) {
    char text[320];
    if (stmt_can_decode(fields[i].type))
      continue;
    snprintf(text, sizeof text,
             "column '%s' has type %d, which prepared statements cannot read",
             fields[i].name, (int)fields[i].type);
    mysql_stmt_free_result(st->st);
    failed = stmt_skip(L, st);
    return failed ? failed : db_fail_here(L, st->db, "SQL", text);
  }
  return 0;
}


/* statement:execute(v1, v2, ...) -> result | nil, message, code, errno,
 * sqlstate
 * One value for each `?`: integer, float, string (any bytes), boolean, nil or
 * mysql.null. Of a CALL the first result is returned. */
static int stmt_execute(lua_State *L) {
  struct stmt *st = handle_check(L, 1, MYSQL_STATEMENT);
  int failed = db_begin(L, st->db);
  if (failed)
    return failed;
  unsigned int rows = 0; /* after statement:send they are arrays no more */
  mysql_stmt_attr_set(st->st, STMT_ATTR_ARRAY_SIZE, &rows);
  stmt_bind_all(L, st, lua_gettop(L) - 1);
  stmt_forget(st);
  failed = stmt_run(L, st, OP_EXECUTE);
  if (!failed)
    failed = stmt_store(L, st);
  if (failed)
    return failed;
  stmt_push_result(L, st);
  mysql_stmt_free_result(st->st);
  failed = stmt_skip(L, st);
  return failed ? failed : 1;
}


static const luaL_Reg stmt_methods[] = {
    {"execute", stmt_execute}, {"send", bulk_send}, {NULL, NULL}};


void stmt_type(lua_State *L) {
  handle_type(L, MYSQL_STATEMENT, stmt_methods);
}
