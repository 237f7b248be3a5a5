/* kafka_list.c - lists of topic, partition and offset, to and from Lua. */
#include <string.h>

#include "kafka.h"

#define KAFKA_LIST "kafka list"

enum { LIST_MAX = 1000000 };

struct list {
  struct handle h;
  rd_kafka_topic_partition_list_t *tpl;
};


static void list_close(struct handle *h) {
  rd_kafka_topic_partition_list_destroy(((struct list *)h)->tpl);
}


void kafka_list_open(lua_State *L) {
  static const luaL_Reg methods[] = {{NULL, NULL}};
  handle_type(L, KAFKA_LIST, methods);
}


rd_kafka_topic_partition_list_t *kafka_list_new(lua_State *L, int size) {
  struct list *l = handle_new(L, sizeof *l, KAFKA_LIST);
  l->tpl = rd_kafka_topic_partition_list_new(size);
  l->h.close = list_close;
  return l->tpl;
}


/* The offset of the entry on top. */
static int64_t list_offset(lua_State *L, int i, enum kafka_offset kind) {
  int64_t offset = RD_KAFKA_OFFSET_INVALID;
  if (kind == KAFKA_OFFSET_NONE)
    return offset;
  lua_getfield(L, -1, "offset");
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 0)
    offset = lua_tointeger(L, -1);
  else if (kind == KAFKA_OFFSET_LOGICAL && strcmp(name, "earliest") == 0)
    offset = RD_KAFKA_OFFSET_BEGINNING;
  else if (kind == KAFKA_OFFSET_LOGICAL && strcmp(name, "latest") == 0)
    offset = RD_KAFKA_OFFSET_END;
  else
    luaL_error(L, "entry %d of the list needs an offset: an integer >= 0%s", i,
               kind == KAFKA_OFFSET_LOGICAL ? ", 'earliest' or 'latest'" : "");
  lua_pop(L, 1);
  return offset;
}


/* Add the entry on top. */
static void list_add(lua_State *L, int i, const char *topic,
                     enum kafka_offset kind,
                     rd_kafka_topic_partition_list_t *tpl) {
  if (!lua_istable(L, -1))
    luaL_error(L, "entry %d of the list must be a table, got a %s", i,
               luaL_typename(L, -1));
  lua_getfield(L, -1, "topic");
  if (lua_type(L, -1) == LUA_TSTRING)
    topic = lua_tostring(L, -1);
  if (topic == NULL)
    luaL_error(L, "entry %d of the list needs a topic", i);
  lua_getfield(L, -2, "partition");
  lua_Integer partition = lua_tointeger(L, -1);
  if (!lua_isinteger(L, -1) || partition < 0 || partition > INT32_MAX)
    luaL_error(L, "entry %d of the list needs a partition: an integer >= 0", i);
  lua_pop(L, 1);
  rd_kafka_topic_partition_t *p =
      rd_kafka_topic_partition_list_add(tpl, topic, (int32_t)partition);
  lua_pop(L, 1); /* the topic was copied */
  p->offset = list_offset(L, i, kind);
}


rd_kafka_topic_partition_list_t *kafka_list_check(lua_State *L, int arg,
                                                  const char *topic,
                                                  enum kafka_offset kind) {
  luaL_checktype(L, arg, LUA_TTABLE);
  luaL_checkstack(L, 8, "list");
  arg = lua_absindex(L, arg);
  size_t len = (size_t)lua_rawlen(L, arg);
  luaL_argcheck(L, len <= LIST_MAX, arg, "more than 1000000 entries");
  int n = (int)len;
  rd_kafka_topic_partition_list_t *tpl = kafka_list_new(L, n);
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, arg, i);
    list_add(L, i, topic, kind, tpl);
    lua_pop(L, 1);
  }
  return tpl;
}


rd_kafka_topic_partition_list_t *
kafka_list_copy(const rd_kafka_topic_partition_list_t *tpl) {
  rd_kafka_topic_partition_list_t *copy =
      rd_kafka_topic_partition_list_new(tpl->cnt);
  for (int i = 0; i < tpl->cnt; i++) {
    const rd_kafka_topic_partition_t *from = &tpl->elems[i];
    rd_kafka_topic_partition_t *to =
        rd_kafka_topic_partition_list_add(copy, from->topic, from->partition);
    to->offset = from->offset;
    to->err = from->err;
  }
  return copy;
}


void kafka_list_push(lua_State *L, const rd_kafka_topic_partition_list_t *tpl) {
  luaL_checkstack(L, 4, "list");
  lua_createtable(L, tpl->cnt, 0);
  for (int i = 0; i < tpl->cnt; i++) {
    const rd_kafka_topic_partition_t *p = &tpl->elems[i];
    lua_createtable(L, 0, 5);
    kafka_set_str(L, "topic", p->topic);
    kafka_set_int(L, "partition", p->partition);
    if (p->offset >= 0)
      kafka_set_int(L, "offset", p->offset);
    if (p->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      kafka_set_str(L, "code", kafka_code(p->err));
      kafka_set_str(L, "error", rd_kafka_err2str(p->err));
    }
    lua_rawseti(L, -2, i + 1);
  }
}
