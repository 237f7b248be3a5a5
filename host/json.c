/* json.c - host.json: the strict decoder of batches, and the scanner's verdict.
 *
 * General JSON in Lua is lua-cjson's; this takes named fields out of many
 * payloads at once, into typed cells, exactly. */
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "box.h"
#include "decimal.h"
#include "decode.h"
#include "field.h"
#include "handle.h"
#include "opts.h"
#include "scan.h"

#define DECODER "decoder"

/* A decoder and who uses it: the handle, and threads that it was lent to. It is
 * outside: a userdata is not aligned for 128-bit integers. */
struct json_work {
  struct box_work work;
  struct decoder d;
};

static const char *const type_names[] = {
    [CELL_STRING] = "string",
    [CELL_DECIMAL] = "decimal",
    [CELL_INTEGER] = "integer",
    [CELL_TIME] = "time",
};

static const char *const unit_names[] = {
    [TIME_AUTO] = "auto", [TIME_S] = "s",   [TIME_MS] = "ms",
    [TIME_US] = "us",     [TIME_NS] = "ns",
};


static struct json_work *decoder_work(lua_State *L) {
  struct box_worker *w = handle_check(L, 1, DECODER);
  return (struct json_work *)(void *)w->work;
}


static struct decoder *decoder_check(lua_State *L) {
  return &decoder_work(L)->d;
}


static int json_run(const struct box_work *work, struct batch *b) {
  return decode_batch(&((const struct json_work *)(const void *)work)->d, b);
}


static void json_free(struct box_work *work) {
  free(work);
}


/* The index of `text` in `names`, or -1. */
static int json_index(const char *text, const char *const *names, int count) {
  for (int i = 0; i < count; i++)
    if (strcmp(text, names[i]) == 0)
      return i;
  return -1;
}


/* Options of one type only, so that a misplaced one is not ignored. [-0, +0] */
static void field_known(lua_State *L, int arg, enum cell_type type) {
  static const char *const known[][7] = {
      [CELL_STRING] = {"name", "type", NULL},
      [CELL_DECIMAL] = {"name", "type", "precision", "scale", "positive", NULL},
      [CELL_INTEGER] = {"name", "type", "positive", NULL},
      [CELL_TIME] = {"name", "type", "unit", NULL},
  };
  opts_check(L, arg, known[type]);
}


/* The field described by the table at `arg`. [-0, +0] */
static void field_read(lua_State *L, int arg, struct decoder *d) {
  const char *name = opts_need(L, arg, "name");
  const char *type_name = opts_need(L, arg, "type");
  int type = json_index(type_name, type_names, 4);
  if (type < 0)
    luaL_error(L,
               "field '%s': unknown type '%s' (known: string, decimal, "
               "integer, time)",
               name, type_name);
  field_known(L, arg, (enum cell_type)type);
  struct field *f = decoder_add(d, name, (enum cell_type)type);
  if (f == NULL)
    luaL_error(L,
               "field '%s': a decoder takes at most %d fields with different "
               "names of 1 to %d bytes, in at most %d parts between dots, none "
               "inside another",
               name, DECODE_MAX_FIELDS, DECODE_NAME_MAX, DECODE_PARTS_MAX);
  f->positive = (uint8_t)opts_bool(L, arg, "positive", 0);
  if (type == CELL_DECIMAL) {
    f->precision =
        (uint8_t)opts_int(L, arg, "precision", 0, 1, DECIMAL_MAX_PRECISION);
    if (f->precision == 0)
      luaL_error(L, "field '%s': option 'precision' is required", name);
    f->scale = (uint8_t)opts_int(L, arg, "scale", 0, 0, f->precision);
  }
  const char *unit_name = opts_str(L, arg, "unit", "auto");
  int unit = json_index(unit_name, unit_names, 5);
  if (unit < 0)
    luaL_error(L, "field '%s': unknown unit '%s' (known: auto, s, ms, us, ns)",
               name, unit_name);
  f->unit = (enum time_unit)unit;
}


static void decoder_close(struct handle *h) {
  struct box_worker *w = (struct box_worker *)h;
  box_work_release(w->work);
  w->work = NULL;
}


/* json.decoder{ fields = { {name=, type=, ...}, ... }, tombstones = "bad" }
 *   -> decoder
 * A field is {name, type="string"}, {name, type="decimal", precision (1..38),
 * scale (0), positive (false)}, {name, type="integer", positive (false)} or
 * {name, type="time", unit ("auto"|"s"|"ms"|"us"|"ns")}. The name "data.price"
 * looks inside the object `data`. tombstones = "skip": a null payload is no
 * bad row. extra (0): cells of each row behind the fields, for `key` functions.
 * Raises on unknown options. */
static int json_decoder(lua_State *L) {
  static const char *const known[] = {"fields", "tombstones", "extra", NULL};
  opts_check(L, 1, known);
  struct box_worker *worker = handle_new(L, sizeof *worker, DECODER);
  struct json_work *j = calloc(1, sizeof *j);
  if (j == NULL)
    return luaL_error(L, "decoder: out of memory");
  j->work.run = json_run;
  j->work.free = json_free;
  atomic_init(&j->work.refs, 1);
  worker->work = &j->work;
  worker->h.close = decoder_close;
  struct decoder *d = &j->d;
  const char *tombstones = opts_str(L, 1, "tombstones", "bad");
  if (strcmp(tombstones, "bad") != 0 && strcmp(tombstones, "skip") != 0)
    return luaL_error(
        L, "option 'tombstones' must be 'bad' or 'skip', got '%s'", tombstones);
  d->skip_tombstones = strcmp(tombstones, "skip") == 0;
  d->extra = (size_t)opts_int(L, 1, "extra", 0, 0, 64);
  if (!opts_table(L, 1, "fields"))
    return luaL_error(L, "option 'fields' is required");
  int fields = lua_gettop(L);
  lua_Integer count = (lua_Integer)lua_rawlen(L, fields);
  if (count < 1)
    return luaL_error(L, "option 'fields' is empty");
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_rawgeti(L, fields, i) != LUA_TTABLE)
      return luaL_error(L, "field %I must be a table, got a %s", i,
                        luaL_typename(L, -1));
    field_read(L, lua_gettop(L), d);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return 1;
}


/* decoder:decode(batch) -> good, bad
 * Decodes all rows of the batch that are not bad yet; both counts are of the
 * whole batch. Raises when out of memory. */
static int decoder_decode(lua_State *L) {
  const struct decoder *d = decoder_check(L);
  struct batch *b = box_batch(L, 2);
  int err = decode_batch(d, b);
  if (err != BATCH_OK)
    return luaL_error(L, err == BATCH_FULL ? "decoder: the batch is full"
                                           : "decoder: out of memory");
  lua_Integer good = 0, bad = 0;
  for (size_t i = 0; i < b->count; i++) {
    good += b->records[i].state == ROW_GOOD;
    bad += b->records[i].state == ROW_BAD;
  }
  lua_pushinteger(L, good);
  lua_pushinteger(L, bad);
  return 2;
}


/* Copy option `key` into a column name of the field. [-0, +0] */
static void limit_column(lua_State *L, const char *key, char *column,
                         size_t size) {
  const char *name = opts_str(L, 3, key, "");
  size_t len = strlen(name);
  if (len >= size)
    luaL_error(L, "option '%s' is longer than %d bytes", key, (int)size - 1);
  memcpy(column, name, len + 1);
}


/* Read option `key`, a bound of the number `f`, and its column. [-0, +0] */
static void limit_bound(lua_State *L, const struct field *f, const char *key,
                        const char *column_key, struct field_bound *bound) {
  size_t len;
  const char *text = opts_lstr(L, 3, key, &len);
  bound->set = text != NULL;
  if (text != NULL && decimal_parse(text, len, DECIMAL_MAX_PRECISION, f->scale,
                                    &bound->value) != DECIMAL_OK)
    luaL_error(L, "option '%s' must be a decimal(%d,%d), got '%s'", key,
               DECIMAL_MAX_PRECISION, (int)f->scale, text);
  limit_column(L, column_key, bound->column, sizeof bound->column);
}


/* decoder:limit(field, { max_chars=, max_chars_column=, min=, min_column=,
 *   max=, max_column= })
 * What the table can hold: rows beyond it become bad rows that name the column.
 * max_chars is for strings, min and max (decimal texts) for decimals and
 * integers; 0 characters or nil take the limit away. Raises while the decoder
 * is lent to a reader. */
static int decoder_limit(lua_State *L) {
  static const char *const string_known[] = {"max_chars", "max_chars_column",
                                             NULL};
  static const char *const number_known[] = {"min", "min_column", "max",
                                             "max_column", NULL};
  static const char *const none_known[] = {NULL};
  struct decoder *d = decoder_check(L);
  const char *name = luaL_checkstring(L, 2);
  struct field *f = NULL;
  if (atomic_load(&decoder_work(L)->work.refs) > 1)
    return luaL_error(L, "the decoder is in use by a reader");
  for (size_t i = 0; i < d->count; i++)
    if (strcmp(d->fields[i].name, name) == 0)
      f = &d->fields[i];
  if (f == NULL)
    return luaL_error(L, "no field '%s' in this decoder", name);
  if (f->type == CELL_STRING) {
    opts_check(L, 3, string_known);
    f->max_chars = (uint32_t)opts_int(L, 3, "max_chars", 0, 0, UINT32_MAX);
    limit_column(L, "max_chars_column", f->max_column, sizeof f->max_column);
  } else if (f->type == CELL_TIME) {
    opts_check(L, 3, none_known);
  } else {
    opts_check(L, 3, number_known);
    limit_bound(L, f, "min", "min_column", &f->least);
    limit_bound(L, f, "max", "max_column", &f->most);
  }
  return 0;
}


/* Push the cell as a Lua value. [-0, +1] */
static void cell_push(lua_State *L, const struct batch *b,
                      const struct field *f, const union cell *cell) {
  char text[DECIMAL_TEXT_MAX];
  switch (f->type) {
  case CELL_STRING:
    if ((size_t)cell->text.at + cell->text.len > b->arena_used)
      luaL_error(L, "the batch was not decoded since rows were added");
    lua_pushlstring(L, batch_bytes(b, cell->text), cell->text.len);
    break;
  case CELL_DECIMAL:
    lua_pushlstring(L, text, decimal_format(cell->number, f->scale, text));
    break;
  default:
    lua_pushinteger(L, cell->integer);
    break;
  }
}


/* decoder:cells(batch, i) -> { name = value, ... } or nil
 * The cells of row i (from 1) of a batch this decoder decoded: strings,
 * decimals as text with all digits of their scale, integers, times as integer
 * milliseconds. nil for a row past the end, bad or skipped. */
static int decoder_cells(lua_State *L) {
  const struct decoder *d = decoder_check(L);
  const struct batch *b = box_batch(L, 2);
  lua_Integer i = luaL_checkinteger(L, 3);
  if (i < 1 || (size_t)i > b->count)
    return 0;
  if (b->width != d->count || (size_t)i * b->width > b->cells_cap)
    return luaL_error(L, "the batch was not decoded by this decoder");
  int state = b->records[i - 1].state;
  if (state != ROW_GOOD && state != ROW_DROPPED)
    return 0;
  const union cell *cells = batch_row(b, (size_t)i - 1);
  lua_createtable(L, 0, (int)d->count);
  for (size_t k = 0; k < d->count; k++) {
    cell_push(L, b, &d->fields[k], &cells[k]);
    lua_setfield(L, -2, d->fields[k].name);
  }
  return 1;
}


/* json.valid(text) -> true | false, message, place
 * Is the text one RFC 8259 value? `place` is the byte that does not fit,
 * counted from 1; it may be one past the end. */
static int json_valid(lua_State *L) {
  size_t n;
  const char *text = luaL_checklstring(L, 1, &n);
  struct scan s;
  char why[SCAN_TEXT_MAX];
  int ok = scan_valid(&s, text, n);
  lua_pushboolean(L, ok);
  if (ok)
    return 1;
  scan_explain(&s, why);
  lua_pushstring(L, why);
  lua_pushinteger(L, (lua_Integer)scan_place(&s));
  return 3;
}


int luaopen_host_json(lua_State *L);

int luaopen_host_json(lua_State *L) {
  static const luaL_Reg methods[] = {{"decode", decoder_decode},
                                     {"limit", decoder_limit},
                                     {"cells", decoder_cells},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"decoder", json_decoder}, {"valid", json_valid}, {NULL, NULL}};
  handle_type(L, DECODER, methods);
  box_worker_type(L, DECODER);
  luaL_newlib(L, functions);
  field_int(L, "max_depth", SCAN_DEPTH_MAX);
  return 1;
}
