/* window.c - host.window: the window store for Lua.
 *
 * Binds store.c and upsert.c: rows go in by the batch, SQL tuples come out by
 * the statement. No Lua runs per row. The store is owned by its handle. */
#include <stdlib.h>
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "box.h"
#include "field.h"
#include "handle.h"
#include "notes_lua.h"
#include "opts.h"
#include "upsert.h"

#define WINDOW_TYPE "window store"

enum { OVERLAP_MAX = 10000, DECIMAL_MAX_SCALE = 38 };

struct window_store {
  struct handle h;
  struct store store;
  struct out outs[STORE_MAX_WINDOWS][UPSERT_MAX_OUTS];
  size_t out_counts[STORE_MAX_WINDOWS];
  struct merged merged[STORE_MAX_WINDOWS]; /* of the sealed buffers */
  int merged_ready[STORE_MAX_WINDOWS];
  struct sqltext sql;
};


static struct window_store *window_check(lua_State *L) {
  return handle_check(L, 1, WINDOW_TYPE);
}


static void window_unmerge(struct window_store *ws) {
  for (size_t w = 0; w < ws->store.window_count; w++) {
    if (ws->merged_ready[w])
      merged_free(&ws->merged[w]);
    ws->merged_ready[w] = 0;
  }
}


static void window_close(struct handle *h) {
  struct window_store *ws = (struct window_store *)h;
  window_unmerge(ws);
  free(ws->sql.bytes);
  store_free(&ws->store);
}


static int window_nomem(lua_State *L) {
  return luaL_error(L, "window store: out of memory");
}


/* What was begun is done in part: nothing may be counted on top of it. */
static int window_broken(lua_State *L, struct window_store *ws) {
  handle_close(&ws->h);
  return window_nomem(L);
}


/* One of `names` by the string field `key` of the table on top. */
static int window_choice(lua_State *L, const char *key,
                         const char *const *names) {
  const char *name = opts_need(L, lua_gettop(L), key);
  for (int i = 0; names[i] != NULL; i++)
    if (strcmp(names[i], name) == 0)
      return i;
  return luaL_error(L, "option '%s': unknown value '%s'", key, name);
}


static void window_part(lua_State *L, struct part *p) {
  static const char *const known[] = {"op", "cell", "cell_b", "integer", NULL};
  static const char *const ops[] = {"sum",   "product", "min", "max",
                                    "first", "last",    NULL};
  int t = lua_gettop(L);
  opts_check(L, t, known);
  p->op = (enum part_op)window_choice(L, "op", ops);
  p->cell = (int)opts_int(L, t, "cell", 0, 0, 1000);
  p->cell_b = (int)opts_int(L, t, "cell_b", -1, -1, 1000);
  p->integer = opts_bool(L, t, "integer", 0);
}


static void window_out(lua_State *L, struct out *o, const struct part *parts,
                       size_t count) {
  static const char *const known[] = {"kind",     "part",    "part_b",
                                      "scale",    "scale_b", "column_scale",
                                      "fraction", NULL};
  static const char *const kinds[] = {
      "key",   "start", "end", "count", "late",   "final",       "sum",
      "value", "place", "avg", "ratio", "stddev", "stddev_samp", NULL};
  int t = lua_gettop(L);
  int64_t top = (int64_t)count - 1;
  opts_check(L, t, known);
  o->kind = (enum out_kind)window_choice(L, "kind", kinds);
  o->part = (int)opts_int(L, t, "part", -1, -1, top);
  o->part_b = (int)opts_int(L, t, "part_b", -1, -1, top);
  o->scale = (int)opts_int(L, t, "scale", 0, 0, 76);
  o->scale_b = (int)opts_int(L, t, "scale_b", 0, 0, 76);
  o->column_scale = (int)opts_int(L, t, "column_scale", 0, 0, 38);
  o->fraction = (int)opts_int(L, t, "fraction", 0, 0, 6);
  if (o->kind >= OUT_SUM && o->part < 0)
    luaL_error(L, "option 'part' is required for kind '%s'", kinds[o->kind]);
  int product = o->part >= 0 && parts[o->part].op == PART_PRODUCT;
  int placed = o->part >= 0 && (parts[o->part].op == PART_FIRST ||
                                parts[o->part].op == PART_LAST);
  if (o->kind == OUT_PLACE && !placed)
    luaL_error(L, "kind 'place' is of a part 'first' or 'last'");
  if (o->kind >= OUT_SUM && !product && o->scale > DECIMAL_MAX_SCALE)
    luaL_error(L, "option 'scale' must be at most %d without products",
               (int)DECIMAL_MAX_SCALE);
  if (o->part_b >= 0 && parts[o->part_b].op != PART_PRODUCT &&
      o->scale_b > DECIMAL_MAX_SCALE)
    luaL_error(L, "option 'scale_b' must be at most %d without products",
               (int)DECIMAL_MAX_SCALE);
  if (o->kind >= OUT_RATIO && o->part_b < 0)
    luaL_error(L, "option 'part_b' is required for kind '%s'", kinds[o->kind]);
}


/* Read array `key` of the table at `t`, calling back with each item on top. */
static size_t window_items(lua_State *L, int t, const char *key, size_t max) {
  if (!opts_table(L, t, key))
    return (size_t)luaL_error(L, "option '%s' is required", key);
  size_t n = (size_t)lua_rawlen(L, -1);
  if (n > max)
    luaL_error(L, "option '%s' has more than %d items", key, (int)max);
  return n;
}


/* Rows have to have this cell. */
static void window_reach(struct store *s, int cell) {
  if (cell >= 0 && (size_t)cell >= s->cells)
    s->cells = (size_t)cell + 1;
}


static void window_kind(lua_State *L, struct window_store *ws, size_t w) {
  static const char *const known[] = {"size_ms", "hop_ms",      "lateness_ms",
                                      "key",     "key_integer", "parts",
                                      "outs",    NULL};
  struct window *win = &ws->store.windows[w];
  int t = lua_gettop(L);
  opts_check(L, t, known);
  win->size_ms = opts_int(L, t, "size_ms", 0, 1, INT64_MAX / 4);
  win->hop_ms = opts_int(L, t, "hop_ms", win->size_ms, 1, win->size_ms);
  if (win->size_ms / win->hop_ms > OVERLAP_MAX)
    luaL_error(L, "option 'hop_ms': a row would be in more than %d windows",
               (int)OVERLAP_MAX);
  win->lateness_ms = opts_int(L, t, "lateness_ms", 0, 0, INT64_MAX / 4);
  win->key_cell = (int)opts_int(L, t, "key", 0, 0, 1000);
  win->key_integer = opts_bool(L, t, "key_integer", 0);
  window_reach(&ws->store, win->key_cell);
  for (int i = 0; i < FLOOR_COUNT; i++)
    win->floors[i] = STORE_NO_TIME;
  win->part_count = window_items(L, t, "parts", STORE_MAX_PARTS);
  for (size_t i = 0; i < win->part_count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    window_part(L, &win->parts[i]);
    window_reach(&ws->store, win->parts[i].cell);
    window_reach(&ws->store, win->parts[i].cell_b);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  win->slots = parts_layout(win->parts, win->part_count);
  ws->out_counts[w] = window_items(L, t, "outs", UPSERT_MAX_OUTS);
  for (size_t i = 0; i < ws->out_counts[w]; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    window_out(L, &ws->outs[w][i], win->parts, win->part_count);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}


/* window.store{ time = cell, max_delay_ms =, max_future_ms =, windows = {
 *   { size_ms =, hop_ms =, lateness_ms =, key = cell, key_integer = bool,
 *     parts = { {op=, cell=, cell_b=, integer=} },
 *     outs = { {kind=, part=, part_b=, scale=, scale_b=, column_scale=,
 *               fraction=} } } } } -> store
 * Cells count from 0 in the decoder's order, parts from 0. Raises on misuse. */
static int window_store_new(lua_State *L) {
  static const char *const known[] = {"time", "max_delay_ms", "max_future_ms",
                                      "windows", NULL};
  opts_check(L, 1, known);
  struct window_store *ws = handle_new(L, sizeof *ws, WINDOW_TYPE);
  store_init(&ws->store);
  ws->store.time_cell = (int)opts_int(L, 1, "time", 0, 0, 1000);
  window_reach(&ws->store, ws->store.time_cell);
  ws->store.max_delay_ms = opts_int(L, 1, "max_delay_ms", 0, 0, INT64_MAX / 4);
  ws->store.max_future_ms =
      opts_int(L, 1, "max_future_ms", INT64_MAX / 4, 0, INT64_MAX / 4);
  size_t n = window_items(L, 1, "windows", STORE_MAX_WINDOWS);
  luaL_argcheck(L, n > 0, 1, "windows is empty");
  for (size_t w = 0; w < n; w++) {
    lua_rawgeti(L, -1, (lua_Integer)w + 1);
    window_kind(L, ws, w);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  ws->store.window_count = n;
  ws->h.close = window_close;
  return 1;
}


/* A partition's number; one that is none is -1, which is never open. */
static int32_t window_partition(lua_State *L, int arg) {
  lua_Integer id = luaL_checkinteger(L, arg);
  return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}


/* store:open(partition, position [, watermark_ms [, at_end]])
 * Begin or begin again a partition; what it held uncommitted is dropped. */
static int window_open(lua_State *L) {
  struct window_store *ws = window_check(L);
  int64_t watermark_ms = luaL_optinteger(L, 4, STORE_NO_TIME);
  luaL_argcheck(
      L,
      watermark_ms == STORE_NO_TIME ||
          (watermark_ms >= -TIME_FAR_MS && watermark_ms <= TIME_FAR_MS),
      4, "out of range");
  int err =
      store_open(&ws->store, window_partition(L, 2), luaL_checkinteger(L, 3),
                 watermark_ms, lua_toboolean(L, 5));
  window_unmerge(ws);
  if (err == STORE_BAD_PARTITION)
    return luaL_argerror(L, 2, "not a partition number");
  return err == STORE_OK ? 0 : window_nomem(L);
}


/* store:verify(partition, offset, hash)   recognise a record read before */
static int window_verify(lua_State *L) {
  struct window_store *ws = window_check(L);
  store_verify(&ws->store, window_partition(L, 2), luaL_checkinteger(L, 3),
               (uint64_t)luaL_checkinteger(L, 4));
  return 0;
}


/* store:drop(partition)   close it; forget what is uncommitted, but leave what
 * is sealed to its transaction, until settle or unseal */
static int window_drop(lua_State *L) {
  struct window_store *ws = window_check(L);
  store_drop(&ws->store, window_partition(L, 2));
  return 0;
}


/* store:add(batch, now_ms)
 *   -> counted, dead, late, too_late, dropped, skipped, stale   all messages */
static int window_add_batch(lua_State *L) {
  struct window_store *ws = window_check(L);
  struct tally t;
  struct batch *b = box_batch(L, 2);
  lua_Integer now_ms = luaL_checkinteger(L, 3);
  luaL_argcheck(L, now_ms >= -TIME_FAR_MS && now_ms <= TIME_FAR_MS, 3,
                "out of range");
  int err = store_add(&ws->store, b, now_ms, &t);
  if (err == STORE_BAD_BATCH)
    return luaL_argerror(L, 2, "not decoded with the cells of the windows");
  if (err != STORE_OK)
    return window_broken(L, ws);
  lua_pushinteger(L, t.counted);
  lua_pushinteger(L, t.dead);
  lua_pushinteger(L, t.late);
  lua_pushinteger(L, t.too_late);
  lua_pushinteger(L, t.dropped);
  lua_pushinteger(L, t.skipped);
  lua_pushinteger(L, t.stale);
  return 7;
}


static void push_time(lua_State *L, int64_t ms, const char *field) {
  if (ms == STORE_NO_TIME)
    return;
  lua_pushinteger(L, ms);
  lua_setfield(L, -2, field);
}


static void push_buffer(lua_State *L, const struct partition *p,
                        const struct buffer *buf) {
  lua_createtable(L, 0, 13);
  field_int(L, "partition", p->id);
  field_int(L, "position", buf->position);
  push_time(L, buf->watermark_ms, "watermark_ms");
  push_time(L, buf->oldest_stamp_ms, "oldest_stamp_ms");
  if (buf->last_offset >= 0) {
    field_int(L, "last_offset", buf->last_offset);
    field_int(L, "last_hash", (int64_t)buf->last_hash);
  }
  lua_pushboolean(L, buf->at_end);
  lua_setfield(L, -2, "at_end");
  field_int(L, "counted", buf->counted);
  field_int(L, "dead", buf->dead);
  field_int(L, "late", buf->late);
  field_int(L, "too_late", buf->too_late);
  field_int(L, "dropped", buf->dropped);
  field_int(L, "skipped", buf->skipped);
}


/* store:seal([max_rows]) -> array of {partition, position, watermark_ms,
 * at_end, last_offset, last_hash, oldest_stamp_ms, counted, dead, late,
 * too_late, dropped, skipped}, by partition; empty when nothing changed. With
 * max_rows only of some partitions, in turn: those with that many rows, or one.
 * Raises when the last seal was neither settled nor unsealed. */
static int window_seal(lua_State *L) {
  struct window_store *ws = window_check(L);
  struct store *s = &ws->store;
  lua_Integer max_rows = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, max_rows >= 0, 2, "must not be negative");
  for (size_t i = 0; i < s->partitions_cap; i++)
    if (s->partitions[i] != NULL && s->partitions[i]->sealed)
      return luaL_error(L, "window store: already sealed");
  window_unmerge(ws);
  lua_createtable(L, (int)store_seal(s, (size_t)max_rows), 0);
  lua_Integer n = 0;
  for (size_t i = 0; i < s->partitions_cap; i++) {
    const struct partition *p = s->partitions[i];
    if (p == NULL || !p->sealed)
      continue;
    push_buffer(L, p, &p->buffers[!p->active]);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}


/* store:settle()   the sealed rows are committed */
static int window_settle(lua_State *L) {
  struct window_store *ws = window_check(L);
  store_settle(&ws->store);
  window_unmerge(ws);
  return 0;
}


/* store:unseal()   they are not: back into the filling buffer */
static int window_unseal(lua_State *L) {
  struct window_store *ws = window_check(L);
  window_unmerge(ws);
  return store_unseal(&ws->store) == STORE_OK ? 0 : window_broken(L, ws);
}


/* The merged sealed rows of the window number (from 1) at `arg`. */
static struct merged *window_merged(lua_State *L, struct window_store *ws,
                                    int arg, size_t *w) {
  lua_Integer n = luaL_checkinteger(L, arg);
  luaL_argcheck(L, n >= 1 && (size_t)n <= ws->store.window_count, arg,
                "no such window");
  *w = (size_t)n - 1;
  if (!ws->merged_ready[*w]) {
    if (merged_init(&ws->merged[*w], &ws->store, *w) != 0) {
      merged_free(&ws->merged[*w]);
      window_nomem(L);
    }
    ws->merged_ready[*w] = 1;
  }
  return &ws->merged[*w];
}


/* store:rows(window) -> int   sealed rows, after merging partitions */
static int window_rows(lua_State *L) {
  struct window_store *ws = window_check(L);
  size_t w;
  lua_pushinteger(L, (lua_Integer)window_merged(L, ws, 2, &w)->count);
  return 1;
}


/* store:render(window, final_ms, from, max_rows, max_bytes [, packed])
 *   -> text "(…),(…)", next   or nothing when `from` is past the last row
 * Rows count from 1; they are sorted by key and window. With `packed` the text
 * is what host.mysql's statement:send takes. */
static int window_render(lua_State *L) {
  struct window_store *ws = window_check(L);
  size_t w;
  struct merged *m = window_merged(L, ws, 2, &w);
  int64_t final_ms = luaL_checkinteger(L, 3);
  lua_Integer from = luaL_checkinteger(L, 4);
  luaL_argcheck(L, from >= 1, 4, "rows count from 1");
  upsert_writer *writer = lua_toboolean(L, 7) ? upsert_pack : upsert_render;
  if ((size_t)from > m->count)
    return 0;
  ws->sql.len = 0;
  size_t next =
      writer(m, &ws->store.windows[w], ws->outs[w], ws->out_counts[w], final_ms,
             (size_t)from - 1, (size_t)luaL_checkinteger(L, 5),
             (size_t)luaL_checkinteger(L, 6), &ws->sql);
  if (next == 0)
    return window_nomem(L);
  lua_pushlstring(L, ws->sql.bytes, ws->sql.len);
  lua_pushinteger(L, (lua_Integer)next + 1);
  return 2;
}


/* store:row(window, i, final_ms) -> {key=, start_ms=, end_ms=, count=,
 *   values={SQL text of each out}}   for the rare row that needs a look */
static int window_row(lua_State *L) {
  struct window_store *ws = window_check(L);
  size_t w;
  struct merged *m = window_merged(L, ws, 2, &w);
  lua_Integer i = luaL_checkinteger(L, 3);
  luaL_argcheck(L, i >= 1 && (size_t)i <= m->count, 3, "no such row");
  const struct window *win = &ws->store.windows[w];
  const struct delta *d = merged_row(m, (size_t)i - 1);
  lua_createtable(L, 0, 5);
  lua_pushlstring(L, delta_key(&m->table, d), d->key_len);
  lua_setfield(L, -2, "key");
  field_int(L, "start_ms", d->start_ms);
  field_int(L, "end_ms", d->start_ms + win->size_ms);
  field_int(L, "count", d->count);
  lua_createtable(L, (int)ws->out_counts[w], 0);
  for (size_t c = 0; c < ws->out_counts[w]; c++) {
    ws->sql.len = 0;
    if (upsert_value(m, d, win, &ws->outs[w][c], luaL_checkinteger(L, 4),
                     &ws->sql) != 0)
      return window_nomem(L);
    lua_pushlstring(L, ws->sql.bytes, ws->sql.len);
    lua_rawseti(L, -2, (lua_Integer)c + 1);
  }
  lua_setfield(L, -2, "values");
  return 1;
}


/* store:noted() -> array of the partitions that have sealed notes */
static int window_noted(lua_State *L) {
  const struct store *s = &window_check(L)->store;
  lua_Integer n = 0;
  lua_newtable(L);
  for (size_t i = 0; i < s->partitions_cap; i++) {
    const struct partition *p = s->partitions[i];
    if (p == NULL || !p->sealed || p->buffers[!p->active].notes.count == 0)
      continue;
    lua_pushinteger(L, p->id);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}


/* store:notes(partition, from, most) -> array of the partition's sealed dead
 * letters and late rows in order of arrival, from number `from`, 1 for the
 * first, at most `most`: {kind="dead"|"late", partition, offset, stamp_ms,
 * code, sha256, value_length, value, key, and path, text or window, time_ms,
 * start_ms, lateness_ms, row_key} */
static int window_notes(lua_State *L) {
  struct store *s = &window_check(L)->store;
  lua_Integer id = luaL_checkinteger(L, 2), from = luaL_checkinteger(L, 3);
  lua_Integer most = luaL_checkinteger(L, 4), n = 0;
  luaL_argcheck(L, from >= 1, 3, "notes are counted from 1");
  lua_newtable(L);
  struct partition *p = id >= 0 && (lua_Unsigned)id < s->partitions_cap
                            ? s->partitions[id]
                            : NULL;
  if (p == NULL || !p->sealed)
    return 1;
  struct notes *notes = &p->buffers[!p->active].notes;
  const struct note *note;
  luaL_checkstack(L, 4, "notes");
  while (n < most &&
         (note = notes_at(notes, (size_t)from - 1 + (size_t)n)) != NULL) {
    notes_push(L, note);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}


/* store:size() -> rows, bytes   uncommitted and not sealed */
static int window_size(lua_State *L) {
  size_t rows, bytes;
  store_size(&window_check(L)->store, &rows, &bytes);
  lua_pushinteger(L, (lua_Integer)rows);
  lua_pushinteger(L, (lua_Integer)bytes);
  return 2;
}


/* store:behind(now_ms) -> ms   how old the newest row that is not sealed is, by
 * Kafka's time; 0 at the end of all its partitions, and when not known */
static int window_behind(lua_State *L) {
  const struct store *s = &window_check(L)->store;
  lua_pushinteger(L, store_behind(s, luaL_checkinteger(L, 2)));
  return 1;
}


/* store:floor(window, "cut"|"adopted"|"purged", start_ms | nil)
 * Windows that start before it take no more rows. */
static int window_set_floor(lua_State *L) {
  static const char *const reasons[] = {"cut", "adopted", "purged", NULL};
  struct window_store *ws = window_check(L);
  lua_Integer w = luaL_checkinteger(L, 2);
  luaL_argcheck(L, w >= 1 && (size_t)w <= ws->store.window_count, 2,
                "no such window");
  int reason = luaL_checkoption(L, 3, NULL, reasons);
  ws->store.windows[w - 1].floors[reason] =
      luaL_optinteger(L, 4, STORE_NO_TIME);
  return 0;
}


/* store:state(partition) -> {next, watermark_ms, newest_end_ms, at_end,
 *   changed, sealed, verifying, mismatch} or nil when it is not open */
static int window_state(lua_State *L) {
  struct window_store *ws = window_check(L);
  const struct partition *p =
      store_partition(&ws->store, window_partition(L, 2));
  if (p == NULL || !p->open)
    return 0;
  lua_createtable(L, 0, 8);
  field_int(L, "next", p->next);
  lua_pushboolean(L, p->verify_offset >= 0);
  lua_setfield(L, -2, "verifying");
  lua_pushboolean(L, p->mismatch);
  lua_setfield(L, -2, "mismatch");
  push_time(L, p->watermark_ms, "watermark_ms");
  push_time(L, p->newest_end_ms, "newest_end_ms");
  lua_pushboolean(L, p->at_end);
  lua_setfield(L, -2, "at_end");
  lua_pushboolean(L, p->buffers[p->active].changed);
  lua_setfield(L, -2, "changed");
  lua_pushboolean(L, p->sealed);
  lua_setfield(L, -2, "sealed");
  return 1;
}


int luaopen_host_window(lua_State *L);

int luaopen_host_window(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"open", window_open},     {"verify", window_verify},
      {"drop", window_drop},     {"add", window_add_batch},
      {"seal", window_seal},     {"settle", window_settle},
      {"unseal", window_unseal}, {"rows", window_rows},
      {"render", window_render},

      {"row", window_row},       {"noted", window_noted},
      {"notes", window_notes},   {"size", window_size},
      {"behind", window_behind}, {"floor", window_set_floor},
      {"state", window_state},   {NULL, NULL}};
  static const luaL_Reg functions[] = {{"store", window_store_new},
                                       {NULL, NULL}};
  handle_type(L, WINDOW_TYPE, methods);
  luaL_newlib(L, functions);
  return 1;
}
