/* mysql_result.c - results of the server as Lua values.
 *
 * Whole numbers are Lua integers, exactly; what does not fit 64 bits with sign
 * stays text. DECIMAL and dates are text. NULL is the light userdata NULL, the
 * same sentinel as JSON's null. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <lua.h>
#include <lauxlib.h>

#include "field.h"
#include "mysql.h"

enum { CHARSET_BINARY = 63 };


enum kind result_kind(const MYSQL_FIELD *field) {
  switch (field->type) {
  case MYSQL_TYPE_TINY:
  case MYSQL_TYPE_SHORT:
  case MYSQL_TYPE_INT24:
  case MYSQL_TYPE_LONG:
  case MYSQL_TYPE_LONGLONG:
  case MYSQL_TYPE_YEAR:
    return KIND_INT;
  case MYSQL_TYPE_BIT:
    return KIND_BIT;
  case MYSQL_TYPE_FLOAT:
  case MYSQL_TYPE_DOUBLE:
    return KIND_REAL;
  case MYSQL_TYPE_DECIMAL:
  case MYSQL_TYPE_NEWDECIMAL:
    return KIND_DECIMAL;
  case MYSQL_TYPE_DATE:
  case MYSQL_TYPE_NEWDATE:
  case MYSQL_TYPE_TIME:
  case MYSQL_TYPE_DATETIME:
  case MYSQL_TYPE_TIMESTAMP:
    return KIND_DATETIME;
  case MYSQL_TYPE_JSON: /* its character set says binary; it is text */
  case MYSQL_TYPE_ENUM:
  case MYSQL_TYPE_SET:
  case MYSQL_TYPE_NULL:
    return KIND_STRING;
  case MYSQL_TYPE_GEOMETRY:
    return KIND_BLOB;
  default:
    return field->charsetnr == CHARSET_BINARY ? KIND_BLOB : KIND_STRING;
  }
}


static const char *result_type(enum kind kind) {
  switch (kind) {
  case KIND_INT:
  case KIND_BIT:
    return "int";
  case KIND_REAL:
    return "real";
  case KIND_DECIMAL:
    return "decimal";
  case KIND_DATETIME:
    return "datetime";
  case KIND_BLOB:
    return "blob";
  case KIND_STRING:
    break;
  }
  return "string";
}


void result_null(lua_State *L) {
  lua_pushlightuserdata(L, NULL);
}


void result_unsigned(lua_State *L, unsigned long long v) {
  char text[24];
  if (v <= LUA_MAXINTEGER) {
    lua_pushinteger(L, (lua_Integer)v);
    return;
  }
  snprintf(text, sizeof text, "%llu", v);
  lua_pushstring(L, text);
}


void result_bits(lua_State *L, const char *s, size_t n) {
  unsigned long long v = 0;
  for (size_t i = 0; i < n; i++)
    v = v << 8 | (unsigned char)s[i];
  result_unsigned(L, v);
}


/* The library ends every value with NUL. */
static void result_int(lua_State *L, const char *s, size_t n) {
  char *end = NULL;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno == 0 && end == s + n)
    lua_pushinteger(L, v);
  else
    lua_pushlstring(L, s, n);
}


void result_text(lua_State *L, enum kind kind, const char *s, size_t n) {
  if (s == NULL)
    result_null(L);
  else if (kind == KIND_INT)
    result_int(L, s, n);
  else if (kind == KIND_BIT)
    result_bits(L, s, n);
  else if (kind == KIND_REAL)
    lua_pushnumber(L, strtod(s, NULL));
  else
    lua_pushlstring(L, s, n);
}


void result_head(lua_State *L, const MYSQL_FIELD *fields, unsigned count) {
  luaL_checkstack(L, 6, "result");
  lua_createtable(L, 0, 8);
  lua_createtable(L, (int)count, 0);
  lua_createtable(L, (int)count, 0);
  for (unsigned i = 0; i < count; i++) {
    lua_pushlstring(L, fields[i].name, fields[i].name_length);
    lua_rawseti(L, -3, i + 1);
    lua_pushstring(L, result_type(result_kind(&fields[i])));
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -3, "types");
  lua_setfield(L, -2, "columns");
}


void result_counts(lua_State *L, my_ulonglong affected, my_ulonglong insert_id,
                   unsigned warnings, const char *info) {
  result_unsigned(L, affected);
  lua_setfield(L, -2, "affected");
  result_unsigned(L, insert_id);
  lua_setfield(L, -2, "insert_id");
  field_int(L, "warnings", warnings);
  lua_pushstring(L, info);
  lua_setfield(L, -2, "info");
}


/* Push the array of rows. [-0, +1, m] */
static void result_rows(lua_State *L, MYSQL_RES *res) {
  unsigned count = mysql_num_fields(res);
  my_ulonglong n = mysql_num_rows(res);
  const MYSQL_FIELD *fields = mysql_fetch_fields(res);
  enum kind *kinds = lua_newuserdatauv(L, count * sizeof *kinds, 0);
  for (unsigned i = 0; i < count; i++)
    kinds[i] = result_kind(&fields[i]);
  lua_createtable(L, n < 0x1000000 ? (int)n : 0, 0);
  mysql_data_seek(res, 0);
  for (lua_Integer r = 1;; r++) {
    MYSQL_ROW row = mysql_fetch_row(res);
    if (row == NULL)
      break;
    const unsigned long *lengths = mysql_fetch_lengths(res);
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
      result_text(L, kinds[i], row[i], lengths[i]);
      lua_rawseti(L, -2, i + 1);
    }
    lua_rawseti(L, -2, r);
  }
  lua_remove(L, -2);
}


void result_push(lua_State *L, struct db *db) {
  luaL_checkstack(L, 10, "result");
  MYSQL_RES *res = db->res;
  if (res != NULL) {
    result_head(L, mysql_fetch_fields(res), mysql_num_fields(res));
    result_rows(L, res);
  } else {
    result_head(L, NULL, 0);
    lua_createtable(L, 0, 0);
  }
  lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
  lua_setfield(L, -3, "n");
  lua_setfield(L, -2, "rows");
  result_counts(L, mysql_affected_rows(db->my), mysql_insert_id(db->my),
                mysql_warning_count(db->my), mysql_info(db->my));
  db_settle(db);
}
