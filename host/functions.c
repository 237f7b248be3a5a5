/* functions.c - a script's `where`, `map` and `key`, called for each good row.
 *
 * The only place where Lua runs per message. The row given to a function is
 * one reused userdata whose fields are read when they are asked for: what a
 * function does not read costs nothing. Part of host.batch, see rows.c. */
#include <stdio.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "box.h"
#include "decimal.h"
#include "functions.h"

#define ROW_TYPE "row"
#define SHAPE_TYPE "row shape"
#define TIME_MAX_MS INT64_C(253402300799999)

/* What is not a field but the record's own, in the table of names. */
enum record_field {
  NO_FIELD = -100,
  RECORD_PARTITION = -5,
  RECORD_OFFSET,
  RECORD_STAMP,
  RECORD_KEY,
  RECORD_VALUE /* -1: cells count from 0 */
};

static const char *const record_names[] = {"partition", "offset", "stamp_ms",
                                           "key", "value"};

enum { SHAPE_MAX = 64, KEYS_MAX = 16, COLUMN_MAX = 64 * 4 };

/* What a text's column can hold. */
struct text_limit {
  lua_Integer max_chars; /* 0: no limit */
  char column[COLUMN_MAX + 1];
};

struct shape_field {
  enum cell_type type;
  int precision, scale;
  struct text_limit limit;
};

/* What the cells are; user value 1 is the table name -> cell, or
 * enum record_field. */
struct shape {
  size_t count;
  struct shape_field fields[SHAPE_MAX];
  struct text_limit keys[KEYS_MAX];
};

/* A view. `b` is NULL outside a call, but an error in a function leaves it:
 * the user values keep the shape's names, the shape and the batch alive, and
 * each use looks whether the row is still there. */
struct row {
  struct batch *b;
  size_t index;
  const struct shape *shape;
};


/* Read max_chars and column of entry `i` on top. [-0, +0] */
static void shape_limit(lua_State *L, lua_Integer i, struct text_limit *limit) {
  if (!lua_istable(L, -1))
    luaL_error(L, "entry %I of a shape must be a table, got a %s", i,
               luaL_typename(L, -1));
  lua_getfield(L, -1, "max_chars");
  limit->max_chars = luaL_optinteger(L, -1, 0);
  lua_getfield(L, -2, "column");
  snprintf(limit->column, sizeof limit->column, "%s",
           luaL_optstring(L, -1, "?"));
  lua_pop(L, 2);
}


/* The number on top, or `def`. [-0, +0] */
static int shape_digits(lua_State *L, const char *key, int def, int min,
                        int max) {
  lua_Integer n = luaL_optinteger(L, -1, def);
  if (n < min || n > max)
    luaL_error(L, "option '%s' must be between %d and %d, got %I", key, min,
               max, n);
  return (int)n;
}


/* batch.shape({ {name=, type=, precision=, scale=, max_chars=, column=}, ... }
 *   [, { {max_chars=, column=}, ... }]) -> shape
 * The cells of a decoder, in its order, and the limits of key functions. */
int functions_shape(lua_State *L) {
  static const char *const types[] = {"string", "decimal", "integer", "time",
                                      NULL};
  luaL_checktype(L, 1, LUA_TTABLE);
  size_t n = (size_t)lua_rawlen(L, 1);
  luaL_argcheck(L, n <= SHAPE_MAX, 1, "too many fields");
  size_t keys = lua_istable(L, 2) ? (size_t)lua_rawlen(L, 2) : 0;
  luaL_argcheck(L, keys <= KEYS_MAX, 2, "too many keys");
  struct shape *s = lua_newuserdatauv(L, sizeof *s, 1);
  memset(s, 0, sizeof *s);
  luaL_setmetatable(L, SHAPE_TYPE);
  s->count = n;
  for (size_t i = 0; i < keys; i++) {
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    shape_limit(L, (lua_Integer)i + 1, &s->keys[i]);
    lua_pop(L, 1);
  }
  lua_createtable(L, 0, (int)n + 5);
  for (int i = 0; i < 5; i++) { /* a field of that name comes before it */
    lua_pushinteger(L, RECORD_PARTITION + i);
    lua_setfield(L, -2, record_names[i]);
  }
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, 1, (lua_Integer)i + 1);
    shape_limit(L, (lua_Integer)i + 1, &s->fields[i].limit);
    lua_getfield(L, -1, "type");
    s->fields[i].type =
        (enum cell_type)luaL_checkoption(L, lua_gettop(L), NULL, types);
    lua_getfield(L, -2, "precision");
    s->fields[i].precision = shape_digits(L, "precision", 38, 1, 38);
    lua_getfield(L, -3, "scale");
    s->fields[i].scale = shape_digits(L, "scale", 0, 0, s->fields[i].precision);
    if (lua_getfield(L, -4, "name") != LUA_TSTRING)
      luaL_error(L, "entry %I of a shape needs a name", (lua_Integer)i + 1);
    lua_pushinteger(L, (lua_Integer)i);
    lua_rawset(L, -7);
    lua_pop(L, 4);
  }
  lua_setiuservalue(L, -2, 1);
  return 1;
}


/* 1 while the batch has the row with its cells: a function may have changed or
 * closed the batch. */
static int row_there(const struct row *row, const struct batch *b) {
  return row->index < b->count && b->width >= row->shape->count &&
         (row->index + 1) * b->width <= b->cells_cap;
}


/* The row at 1 of a method whose upvalue 1 is the metatable of rows: looking
 * that up by its name takes as long as all the rest. */
static struct row *row_check(lua_State *L) {
  struct row *row = lua_touserdata(L, 1);
  /* A script can give the metatable to a table: that is no row. */
  if (row == NULL || !lua_getmetatable(L, 1) ||
      !lua_rawequal(L, -1, lua_upvalueindex(1)))
    luaL_typeerror(L, 1, ROW_TYPE);
  lua_pop(L, 1);
  if (row->b == NULL || !row_there(row, row->b))
    luaL_error(L, "a row is only valid inside the function it was given to");
  return row;
}


/* The cell of field name at index 2, an enum record_field, or NO_FIELD. */
static lua_Integer row_cell(lua_State *L) {
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_Integer cell =
      lua_rawget(L, -2) == LUA_TNUMBER ? lua_tointeger(L, -1) : NO_FIELD;
  lua_pop(L, 2);
  return cell;
}


static void push_cell(lua_State *L, const struct batch *b,
                      const struct shape_field *f, const union cell *cell) {
  char text[DECIMAL_TEXT_MAX];
  if (f->type == CELL_STRING &&
      (size_t)cell->text.at + cell->text.len > b->arena_used)
    luaL_error(L, "the batch was decoded with other fields");
  if (f->type == CELL_STRING)
    lua_pushlstring(L, batch_bytes(b, cell->text), cell->text.len);
  else if (f->type == CELL_DECIMAL)
    lua_pushlstring(L, text, decimal_format(cell->number, f->scale, text));
  else
    lua_pushinteger(L, cell->integer);
}


static void push_text(lua_State *L, const struct batch *b, struct span text,
                      int null) {
  if (null)
    lua_pushnil(L);
  else
    lua_pushlstring(L, batch_bytes(b, text), text.len);
}


/* row.partition, row.offset, row.key, row.value, row.stamp_ms: the record. */
static int push_record(lua_State *L, const struct batch *b,
                       const struct record *r, lua_Integer field) {
  switch (field) {
  case RECORD_PARTITION:
    lua_pushinteger(L, r->partition);
    return 1;
  case RECORD_OFFSET:
    lua_pushinteger(L, r->offset);
    return 1;
  case RECORD_STAMP:
    lua_pushinteger(L, r->stamp_ms);
    return 1;
  case RECORD_KEY:
    push_text(L, b, r->key, r->null_key);
    return 1;
  case RECORD_VALUE:
    push_text(L, b, r->value, r->null_value);
    return 1;
  default:
    return 0;
  }
}


/* row.field   a field of the decoder (decimals as text, times in ms), or one
 * of the record's: partition, offset, key, value, stamp_ms */
static int row_index(lua_State *L) {
  const struct row *row = row_check(L);
  lua_Integer cell = row_cell(L);
  if (cell >= 0)
    push_cell(L, row->b, &row->shape->fields[cell],
              batch_row(row->b, row->index) + cell);
  else if (!push_record(L, row->b, &row->b->records[row->index], cell))
    return luaL_error(L, "a row has no field '%s'", luaL_checkstring(L, 2));
  return 1;
}


/* The bytes of the UTF-8 character at `p`, or 0 when it is none. */
static size_t utf8_char(const unsigned char *p, size_t left) {
  static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t n = p[0] < 0x80   ? 1
             : p[0] < 0xC0 ? 0
             : p[0] < 0xE0 ? 2
             : p[0] < 0xF0 ? 3
             : p[0] < 0xF8 ? 4
                           : 0;
  if (n == 0 || n > left)
    return 0;
  unsigned c = n == 1 ? p[0] : p[0] & (0xFFu >> (n + 1));
  for (size_t i = 1; i < n; i++) {
    if ((p[i] & 0xC0) != 0x80)
      return 0;
    c = c << 6 | (p[i] & 0x3F);
  }
  return c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? 0 : n;
}


/* Take a function's text, or make the row bad: the decoder, which sees to all
 * this, has not seen it. */
static int row_take_text(struct row *row, const char *code, const char *text,
                         size_t len, const struct text_limit *limit,
                         union cell *cell) {
  lua_Integer chars = 0;
  for (size_t i = 0; i < len; chars++) {
    size_t n = utf8_char((const unsigned char *)text + i, len - i);
    if (n == 0)
      return batch_fault(row->b, row->index, code, "$", "not UTF-8");
    i += n;
  }
  if (limit->max_chars > 0 && chars > limit->max_chars)
    return batch_fault(row->b, row->index, "column", "$",
                       "column '%s' holds at most %lld characters",
                       limit->column, (long long)limit->max_chars);
  return batch_text(row->b, text, len, &cell->text);
}


static int row_set_text(lua_State *L, struct row *row,
                        const struct shape_field *f, union cell *cell) {
  size_t len;
  const char *text = luaL_checklstring(L, 3, &len);
  if (len == 0)
    return batch_fault(row->b, row->index, "map", "$", "an empty string");
  return row_take_text(row, "map", text, len, &f->limit, cell);
}


static int row_set_decimal(lua_State *L, struct row *row,
                           const struct shape_field *f, union cell *cell) {
  size_t len;
  const char *text = luaL_tolstring(L, 3, &len);
  if (decimal_parse(text, len, f->precision, f->scale, &cell->number) !=
      DECIMAL_OK)
    return batch_fault(row->b, row->index, "map", "$",
                       "'%.40s' is not a decimal(%d,%d)", text, f->precision,
                       f->scale);
  return BATCH_OK;
}


/* A time beyond any calendar would overflow where windows are laid. */
static int row_set_integer(lua_State *L, struct row *row,
                           const struct shape_field *f, union cell *cell) {
  lua_Integer n = luaL_checkinteger(L, 3);
  if (f->type == CELL_TIME && (n < -TIME_MAX_MS || n > TIME_MAX_MS))
    return batch_fault(row->b, row->index, "map", "$",
                       "%lld ms is no time between the years 0 and 9999",
                       (long long)n);
  cell->integer = n;
  return BATCH_OK;
}


/* row.field = value   for `map`: text for strings and decimals, integers for
 * integers and times (ms). A decimal that does not fit makes a bad row. */
static int row_newindex(lua_State *L) {
  struct row *row = row_check(L);
  lua_Integer cell = row_cell(L);
  if (cell < 0)
    return luaL_error(L, "a row has no field '%s' to set",
                      luaL_checkstring(L, 2));
  const struct shape_field *f = &row->shape->fields[cell];
  union cell *at = batch_row(row->b, row->index) + cell;
  int err = BATCH_OK;
  if (f->type == CELL_STRING)
    err = row_set_text(L, row, f, at);
  else if (f->type == CELL_DECIMAL)
    err = row_set_decimal(L, row, f, at);
  else
    err = row_set_integer(L, row, f, at);
  return err == BATCH_OK ? 0 : luaL_error(L, "batch: out of memory");
}


/* Call the function at stack index `fn` with the row at `row_at`. [-0, +1] */
static void row_call(lua_State *L, int fn, int row_at) {
  const struct row *given = lua_touserdata(L, row_at);
  size_t width = given->b->width;
  lua_pushvalue(L, fn);
  lua_pushvalue(L, row_at);
  lua_call(L, 1, 1);
  if (!row_there(given, given->b) || given->b->width != width)
    luaL_error(L, "the batch was changed by a function that was given a row");
}


/* where, map and key of one row; `keys` is the index of the list. */
static void row_apply(lua_State *L, struct row *row, int row_at, int keys,
                      lua_Integer key_count) {
  struct batch *b = row->b;
  if (!lua_isnil(L, 3)) {
    row_call(L, 3, row_at);
    int keep = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!keep) {
      b->records[row->index].state = ROW_DROPPED;
      return;
    }
  }
  if (!lua_isnil(L, 4)) {
    row_call(L, 4, row_at);
    lua_pop(L, 1);
  }
  for (lua_Integer k = 1; k <= key_count; k++) {
    lua_rawgeti(L, keys, k);
    row_call(L, lua_gettop(L), row_at);
    size_t len = 0;
    const char *text = lua_tolstring(L, -1, &len);
    union cell *cell =
        batch_row(b, row->index) + row->shape->count + (size_t)(k - 1);
    int err = text != NULL && len > 0
                  ? row_take_text(row, "key", text, len,
                                  &row->shape->keys[k - 1], cell)
                  : batch_fault(b, row->index, "key", "$",
                                "the key function gave no text");
    if (err != BATCH_OK)
      luaL_error(L, "batch: out of memory");
    lua_pop(L, 2);
  }
}


/* batch:apply(shape, where | nil, map | nil, keys)
 * For every good row: where(row) false drops it; map(row) may set fields; each
 * function of the list `keys` gives the text of one extra cell. An error in a
 * function is raised with its traceback. */
int functions_apply(lua_State *L) {
  struct batch *b = box_batch(L, 1);
  const struct shape *shape = luaL_checkudata(L, 2, SHAPE_TYPE);
  luaL_checktype(L, 5, LUA_TTABLE);
  lua_settop(L, 5);
  lua_Integer key_count = (lua_Integer)lua_rawlen(L, 5);
  luaL_argcheck(L, key_count <= KEYS_MAX, 5, "too many keys");
  luaL_argcheck(L, b->width == shape->count + (size_t)key_count, 2,
                "the batch was decoded with other fields");
  luaL_argcheck(L, b->count * b->width <= b->cells_cap, 1,
                "the batch was not decoded since rows were added");
  struct row *row = lua_newuserdatauv(L, sizeof *row, 3);
  row->b = NULL;
  row->shape = shape;
  luaL_setmetatable(L, ROW_TYPE);
  lua_getiuservalue(L, 2, 1);
  lua_setiuservalue(L, 6, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 6, 2);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 6, 3);
  for (size_t i = 0; i < b->count; i++) {
    if (b->records[i].state != ROW_GOOD)
      continue;
    row->b = b;
    row->index = i;
    row_apply(L, row, 6, 5, key_count);
  }
  row->b = NULL;
  return 0;
}


void functions_types(lua_State *L) {
  static const luaL_Reg meta[] = {
      {"__index", row_index}, {"__newindex", row_newindex}, {NULL, NULL}};
  luaL_newmetatable(L, ROW_TYPE);
  lua_pushvalue(L, -1);
  luaL_setfuncs(L, meta, 1); /* also after an attempt without memory */
  luaL_newmetatable(L, SHAPE_TYPE);
  lua_pop(L, 2);
}
