/* mysql_bulk.c - one prepared statement for many rows, sent at once.
 *
 * MariaDB's protocol takes an array of values for each `?`. The rows come as
 * one string (see host/upsert.h, packed rows); nothing of them is copied here,
 * the library makes its packet from where they are. A server that does not know
 * arrays is asked with text instead, by the caller. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>
#include <mysql.h>

#include "handle.h"
#include "mysql.h"

/* What a packet has besides the values, at most, and for each column. */
enum { PACKET_HEAD = 64, PACKET_COLUMN = 2 };

/* The arrays of one request, of `rows` places for each column. */
struct arrays {
  MYSQL_BIND *binds;
  const char **values;
  unsigned long *lengths;
  char *indicators;
};


int bulk_known(const struct db *db) {
  unsigned long flags = 0; /* as wide as the library writes it */
  if (mariadb_get_infov(db->my, MARIADB_CONNECTION_EXTENDED_SERVER_CAPABILITIES,
                        &flags) != 0)
    return 0;
  return (flags & (unsigned long)(MARIADB_CLIENT_STMT_BULK_OPERATIONS >> 32)) !=
         0;
}


/* Rows in `n` bytes of `columns` packed values each; -1 when they are not. */
static int64_t bulk_count(const char *rows, size_t n, size_t columns) {
  int64_t count = 0;
  size_t at = 0;
  for (; at < n; count++) {
    for (size_t c = 0; c < columns; c++) {
      uint32_t len;
      if (n - at < sizeof len)
        return -1;
      memcpy(&len, rows + at, sizeof len);
      at += sizeof len;
      if (len == UINT32_MAX)
        continue;
      if (n - at < len)
        return -1;
      at += len;
    }
  }
  return count;
}


/* Memory for the arrays, kept by the statement; 0, or -1: there is none. */
static int bulk_arrays(struct stmt *st, struct arrays *a, size_t rows,
                       size_t columns) {
  size_t values = rows * columns;
  size_t one = sizeof *a->values + sizeof *a->lengths + 1;
  char *p = realloc(st->arrays, columns * sizeof *a->binds + values * one);
  if (p == NULL)
    return -1;
  st->arrays = p;
  a->binds = (MYSQL_BIND *)(void *)p;
  p += columns * sizeof *a->binds;
  a->values = (const char **)(void *)p;
  p += values * sizeof *a->values;
  a->lengths = (unsigned long *)(void *)p;
  a->indicators = p + values * sizeof *a->lengths;
  return 0;
}


/* Point the arrays at the values. */
static void bulk_fill(const struct arrays *a, const char *at, size_t rows,
                      size_t columns) {
  for (size_t r = 0; r < rows; r++) {
    for (size_t c = 0; c < columns; c++) {
      size_t i = c * rows + r;
      uint32_t len;
      memcpy(&len, at, sizeof len);
      at += sizeof len;
      int null = len == UINT32_MAX;
      a->values[i] = at;
      a->lengths[i] = null ? 0 : len;
      a->indicators[i] = null ? STMT_INDICATOR_NULL : STMT_INDICATOR_NONE;
      at += a->lengths[i];
    }
  }
}


static void bulk_bind(const struct arrays *a, const char *types, size_t rows,
                      size_t columns) {
  memset(a->binds, 0, columns * sizeof *a->binds);
  for (size_t c = 0; c < columns; c++) {
    MYSQL_BIND *b = &a->binds[c];
    b->buffer_type = types[c] == 'b' ? MYSQL_TYPE_BLOB : MYSQL_TYPE_STRING;
    b->buffer = a->values + c * rows;
    b->length = a->lengths + c * rows;
    b->u.indicator = a->indicators + c * rows;
  }
}


/* Bind the packed rows; 0, or the values of a failure. */
static int bulk_load(lua_State *L, struct stmt *st, const char *rows, size_t n,
                     const char *types, size_t columns) {
  struct arrays a;
  char text[128];
  int64_t count = bulk_count(rows, n, columns);
  luaL_argcheck(L, count > 0 && count <= INT32_MAX, 2, "no packed rows");
  size_t size = PACKET_HEAD + columns * PACKET_COLUMN + n;
  if (st->db->max_packet != 0 && size >= st->db->max_packet) {
    snprintf(text, sizeof text,
             "rows of %zu bytes; the server's max_allowed_packet is %zu", n,
             st->db->max_packet);
    return db_fail_here(L, st->db, "TOOBIG", text);
  }
  if (bulk_arrays(st, &a, (size_t)count, columns) != 0)
    return luaL_error(L, "out of memory");
  bulk_fill(&a, rows, (size_t)count, columns);
  bulk_bind(&a, types, (size_t)count, columns);
  unsigned int array = (unsigned)count;
  mysql_stmt_attr_set(st->st, STMT_ATTR_ARRAY_SIZE, &array);
  mysql_stmt_bind_param(st->st, a.binds);
  return 0;
}


/* statement:send(rows, types) -> true | nil, message, code, errno, sqlstate
 * Starts the statement for each of the packed rows; db:ready() tells when
 * db:receive() has the result. A letter of `types` for each `?`: t text, b
 * bytes. Raises when the server takes no arrays (db:server().bulk). */
int bulk_send(lua_State *L) {
  struct stmt *st = handle_check(L, 1, MYSQL_STATEMENT);
  size_t n = 0, columns = 0;
  const char *rows = luaL_checklstring(L, 2, &n);
  const char *types = luaL_checklstring(L, 3, &columns);
  luaL_argcheck(L, strspn(types, "tb") == columns, 3, "types are t and b");
  int failed = db_begin(L, st->db);
  if (failed)
    return failed;
  if (!bulk_known(st->db))
    return luaL_error(L, "the server takes no arrays of values");
  unsigned long want = mysql_stmt_param_count(st->st);
  if (columns == 0 || want != columns)
    return luaL_error(L, "the statement takes %I values, got %I",
                      (lua_Integer)want, (lua_Integer)columns);
  failed = bulk_load(L, st, rows, n, types, columns);
  if (failed)
    return failed;
  /* The library's packet is complete before anything of it is sent. */
  db_start_stmt(st->db, OP_EXECUTE, st->st, NULL, 0);
  lua_pushboolean(L, 1);
  return 1;
}
