/* notes_lua.c - a dead letter or late row as a Lua table. See notes_lua.h. */
#include "notes_lua.h"
#include "field.h"


void notes_push(lua_State *L, const struct note *n) {
  const char *value = n->bytes + n->key_len;
  lua_createtable(L, 0, 18);
  lua_pushstring(L, n->kind == NOTE_DEAD ? "dead" : "late");
  lua_setfield(L, -2, "kind");
  field_int(L, "partition", n->partition);
  field_int(L, "offset", n->offset);
  field_int(L, "stamp_ms", n->stamp_ms);
  lua_pushstring(L, n->code);
  lua_setfield(L, -2, "code");
  lua_pushlstring(L, (const char *)n->hash, NOTE_HASH_BYTES);
  lua_setfield(L, -2, "sha256");
  field_int(L, "value_length", n->value_total);
  if (!n->null_value) {
    lua_pushlstring(L, value, n->value_len);
    lua_setfield(L, -2, "value");
  }
  if (!n->null_key) {
    lua_pushlstring(L, n->bytes, n->key_len);
    lua_setfield(L, -2, "key");
  }
  if (n->kind == NOTE_DEAD) {
    lua_pushstring(L, n->path);
    lua_setfield(L, -2, "path");
    lua_pushstring(L, n->text);
    lua_setfield(L, -2, "text");
    return;
  }
  field_int(L, "window", (int64_t)n->window + 1);
  field_int(L, "time_ms", n->time_ms);
  field_int(L, "start_ms", n->start_ms);
  field_int(L, "lateness_ms", n->lateness_ms);
  lua_pushlstring(L, value + n->value_len, n->row_key_len);
  lua_setfield(L, -2, "row_key");
}
