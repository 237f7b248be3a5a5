/* rows.c - host.batch: Lua's view of a batch, one row at a time.
 *
 * The fast path never comes here. A script's `where` and `map` functions do,
 * and pay for what they read. The row given to them is one reused userdata. */
#include <lua.h>
#include <lauxlib.h>

#include "box.h"
#include "field.h"
#include "functions.h"
#include "handle.h"
#include "opts.h"


/* batch.new() -> batch   empty and reusable */
static int rows_new(lua_State *L) {
  box_new(L);
  return 1;
}


/* #batch -> int   rows in the batch */
static int rows_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)box_batch(L, 1)->count);
  return 1;
}


/* batch:reset()   forget all rows, keep the memory */
static int rows_reset(lua_State *L) {
  batch_reset(box_batch(L, 1));
  return 0;
}


/* batch:add{partition, offset, key, value, stamp_ms}   for tests and replays */
static int rows_add(lua_State *L) {
  struct batch *b = box_batch(L, 1);
  size_t key_len = 0, value_len = 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  int32_t partition = (int32_t)opts_int(L, 2, "partition", 0, 0, INT32_MAX);
  int64_t offset = opts_int(L, 2, "offset", 0, 0, INT64_MAX - 1);
  int64_t stamp_ms = opts_int(L, 2, "stamp_ms", -1, -1, INT64_MAX);
  const char *key = opts_lstr(L, 2, "key", &key_len);
  const char *value = opts_lstr(L, 2, "value", &value_len);
  if (batch_add(b, partition, offset, stamp_ms, key, key_len, value,
                value_len) != BATCH_OK)
    return luaL_error(L, "batch: out of memory");
  return 0;
}


/* batch:finish(partition, offset)   record that the partition's end is offset
 */
static int rows_finish(lua_State *L) {
  struct batch *b = box_batch(L, 1);
  if (batch_end(b, (int32_t)luaL_checkinteger(L, 2), luaL_checkinteger(L, 3)) !=
      BATCH_OK)
    return luaL_error(L, "batch: out of memory");
  return 0;
}


/* batch:ends() -> { {partition=, offset=}, ... }   ends of partitions reached
 */
static int rows_ends(lua_State *L) {
  struct batch *b = box_batch(L, 1);
  lua_createtable(L, (int)b->end_count, 0);
  for (size_t i = 0; i < b->end_count; i++) {
    lua_createtable(L, 0, 2);
    field_int(L, "partition", b->ends[i].partition);
    field_int(L, "offset", b->ends[i].offset);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}


static void rows_push_text(lua_State *L, const struct batch *b, struct span s,
                           int null, const char *field) {
  if (null)
    return;
  lua_pushlstring(L, batch_bytes(b, s), s.len);
  lua_setfield(L, -2, field);
}


/* batch:record(i) -> {partition, offset, stamp_ms, key, value, state, fault,
 * path, code} or nil past the end; i counts from 1 */
static int rows_record(lua_State *L) {
  static const char *const states[] = {"good", "bad", "dropped", "skipped"};
  struct batch *b = box_batch(L, 1);
  lua_Integer i = luaL_checkinteger(L, 2);
  if (i < 1 || (size_t)i > b->count)
    return 0;
  const struct record *r = &b->records[i - 1];
  lua_createtable(L, 0, 9);
  field_int(L, "partition", r->partition);
  field_int(L, "offset", r->offset);
  field_int(L, "stamp_ms", r->stamp_ms);
  rows_push_text(L, b, r->key, r->null_key, "key");
  rows_push_text(L, b, r->value, r->null_value, "value");
  lua_pushstring(L, states[r->state]);
  lua_setfield(L, -2, "state");
  const struct fault *f = batch_fault_of(b, (size_t)i - 1);
  if (f != NULL) {
    lua_pushstring(L, f->text);
    lua_setfield(L, -2, "fault");
    lua_pushstring(L, f->path);
    lua_setfield(L, -2, "path");
    lua_pushstring(L, f->code);
    lua_setfield(L, -2, "code");
  }
  return 1;
}


int luaopen_host_batch(lua_State *L);

int luaopen_host_batch(lua_State *L) {
  static const luaL_Reg methods[] = {{"reset", rows_reset},
                                     {"add", rows_add},
                                     {"finish", rows_finish},
                                     {"ends", rows_ends},
                                     {"record", rows_record},
                                     {"apply", functions_apply},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"new", rows_new}, {"shape", functions_shape}, {NULL, NULL}};
  handle_type(L, BOX_BATCH, methods);
  functions_types(L);
  luaL_getmetatable(L, BOX_BATCH);
  lua_pushcfunction(L, rows_len);
  lua_setfield(L, -2, "__len");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
