/* kafka_consumer.c - the consumer of host.kafka as Lua sees it.
 *
 * Rebalances, errors and log lines come as data from events(); only this
 * thread assigns, pauses and seeks. One topic a consumer: a record in a batch
 * names its partition, not its topic. The work is in kafka_group.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "box.h"
#include "fail.h"
#include "interrupt.h"
#include "kafka_group.h"
#include "kafka_leave.h"
#include "mono.h"
#include "opts.h"

#define CONSUMER "consumer"

enum { POLL_DEFAULT = 10000, SEEK_DEFAULT_MS = 1000, CLOSE_MS = 1000 };

struct consumer {
  struct handle h;
  struct kafka_group g;
  int in_group; /* subscribed */
  int instance; /* a static member */
  int stay;     /* close without telling the group */
};

/* What differs from librdkafka's own defaults. The first seven are what the
 * position in the database needs; the rest is latency and memory. Nothing is
 * committed but what consumer:store was given. */
const struct kafka_setting kafka_reading[] = {
    {"enable.auto.commit", "true"},
    {"enable.auto.offset.store", "false"},
    {"auto.offset.reset", "error"},
    {"enable.partition.eof", "true"},
    {"isolation.level", "read_committed"},
    {"allow.auto.create.topics", "false"},
    /* Who joins or leaves stops only the partitions that move. */
    {"partition.assignment.strategy", "cooperative-sticky"},
    {"session.timeout.ms", "10000"},
    {"heartbeat.interval.ms", "1000"},
    /* librdkafka needs 600 bytes for a record besides its own: what is
     * fetched ahead is bounded by number, and little goes far, since the
     * fetcher is woken as soon as there is room. */
    {"queued.min.messages", "20000"},
    {"queued.max.messages.kbytes", "16384"},
    {"fetch.message.max.bytes", "131072"},
    /* A partition just resumed waits for the fetch under way to return. */
    {"fetch.wait.max.ms", "50"},
    {"fetch.error.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"topic.metadata.refresh.interval.ms", "30000"},
    {"socket.nagle.disable", "true"},
    {"socket.keepalive.enable", "true"},
    {"log.connection.close", "false"},
    {NULL, NULL}};


static void consumer_close(struct handle *h) {
  struct consumer *c = (struct consumer *)h;
  kafka_group_close(&c->g, !c->stay && c->in_group, CLOSE_MS);
}


static struct consumer *consumer_check(lua_State *L) {
  return handle_check(L, 1, CONSUMER);
}


/* consumer:poll(batch [, max [, timeout_ms]]) -> int
 *
 * Resets the batch and fills it with up to `max` (10000) records; their number.
 * Ends of partitions are in batch:ends(). Waits up to timeout_ms (100) for the
 * first record, end or event; 0 when none came or a signal did. */
static int consumer_poll(lua_State *L) {
  struct consumer *c = consumer_check(L);
  struct batch *b = box_batch(L, 2);
  lua_Integer max = luaL_optinteger(L, 3, POLL_DEFAULT);
  lua_Integer timeout_ms = luaL_optinteger(L, 4, INTERRUPT_SLICE_MS);
  luaL_argcheck(L, max > 0 && max <= KAFKA_POLL_MAX, 3, "out of range");
  luaL_argcheck(L, timeout_ms >= 0, 4, "must not be negative");
  int64_t until = mono_ms() + timeout_ms;
  int64_t serial = kafka_feed_serial(&c->g.client->feed);
  batch_reset(b);
  for (;;) {
    if (kafka_group_take(&c->g, b, (size_t)max) < 0)
      return luaL_error(L, "consumer: out of memory");
    int64_t left = until - mono_ms();
    if (b->count > 0 || b->end_count > 0 || left <= 0 ||
        kafka_feed_serial(&c->g.client->feed) != serial)
      break;
    kafka_group_wait(&c->g, left < INTERRUPT_SLICE_MS ? (int)left
                                                      : INTERRUPT_SLICE_MS);
    if (interrupt_pending()) {
      interrupt_check(L);
      break;
    }
  }
  lua_pushinteger(L, (lua_Integer)b->count);
  return 1;
}


/* consumer:events() -> array   what happened since the last call, in order
 *
 * {type="assign"|"revoke"|"lost", partitions={{topic=, partition=}, ...}}
 * {type="error", code=, message=, fatal=, topic=, partition=, offset=}
 * {type="log", level=, facility=, text=} */
static int consumer_events(lua_State *L) {
  struct consumer *c = consumer_check(L);
  kafka_feed_push(L, &c->g.client->feed);
  return 1;
}


/* true, or nil, message, code of `error`, which is taken. */
static int consumer_result(lua_State *L, rd_kafka_error_t *error) {
  if (error != NULL)
    return kafka_fail_error(L, error);
  lua_pushboolean(L, 1);
  return 1;
}


/* A list for this consumer: of its topic, no partition twice. */
static rd_kafka_topic_partition_list_t *consumer_list(lua_State *L,
                                                      struct consumer *c,
                                                      int arg,
                                                      enum kafka_offset kind) {
  rd_kafka_topic_partition_list_t *list =
      kafka_list_check(L, arg, c->g.topic, kind);
  for (int i = 0; i < list->cnt; i++) {
    const char *topic = list->elems[i].topic;
    if (c->g.topic == NULL) {
      c->g.topic = strdup(topic);
      if (c->g.topic == NULL)
        luaL_error(L, "consumer: out of memory");
    }
    if (strcmp(c->g.topic, topic) != 0)
      luaL_error(L, "this consumer reads topic '%s', not '%s'", c->g.topic,
                 topic);
    if (list->elems[i].partition >= 1000000)
      luaL_error(L, "partition %d is out of range", list->elems[i].partition);
  }
  return list;
}


/* consumer:assign(list) -> true | nil, message, code
 *
 * Answers an assign event: { {partition=, offset=}, ... }, each with an exact
 * offset. They start paused: seek if need be, then resume. */
static int consumer_assign(lua_State *L) {
  struct consumer *c = consumer_check(L);
  return consumer_result(
      L, kafka_group_assign(&c->g, consumer_list(L, c, 2, KAFKA_OFFSET_EXACT)));
}


/* consumer:unassign(list) -> true | nil, message, code
 *
 * Answers a revoke or lost event. */
static int consumer_unassign(lua_State *L) {
  struct consumer *c = consumer_check(L);
  return consumer_result(
      L,
      kafka_group_unassign(&c->g, consumer_list(L, c, 2, KAFKA_OFFSET_NONE)));
}


/* consumer:manual(list) -> true | nil, message, code
 *
 * Reads these partitions without a group, at once; offset: an integer,
 * "earliest" or "latest". Replaces what was read before. */
static int consumer_manual(lua_State *L) {
  struct consumer *c = consumer_check(L);
  if (c->in_group)
    return luaL_error(L, "this consumer is in a group: use assign");
  return consumer_result(
      L,
      kafka_group_manual(&c->g, consumer_list(L, c, 2, KAFKA_OFFSET_LOGICAL)));
}


/* consumer:seek(list [, timeout_ms]) -> list, ok
 *
 * The list again, with code and error where a partition did not get there; ok
 * is true when all did. Nothing of a partition is handed over before its seek
 * succeeded. */
static int consumer_seek(lua_State *L) {
  struct consumer *c = consumer_check(L);
  lua_Integer timeout_ms = luaL_optinteger(L, 3, SEEK_DEFAULT_MS);
  luaL_argcheck(L, timeout_ms >= 0 && timeout_ms <= 60000, 3, "out of range");
  rd_kafka_topic_partition_list_t *list =
      consumer_list(L, c, 2, KAFKA_OFFSET_EXACT);
  kafka_group_seek(&c->g, list, (int)timeout_ms);
  int ok = 1;
  for (int i = 0; i < list->cnt; i++)
    ok = ok && list->elems[i].err == RD_KAFKA_RESP_ERR_NO_ERROR;
  kafka_list_push(L, list);
  lua_pushboolean(L, ok);
  return 2;
}


static int consumer_set_paused(lua_State *L, int pause) {
  struct consumer *c = consumer_check(L);
  rd_kafka_topic_partition_list_t *list =
      consumer_list(L, c, 2, KAFKA_OFFSET_NONE);
  kafka_group_pause(&c->g, list, pause);
  kafka_list_push(L, list);
  return 1;
}


/* consumer:pause(list) -> list   with code where one is not assigned
 *
 * What was fetched ahead is dropped and fetched again after resume, from
 * exactly the record that follows the last one handed over. */
static int consumer_pause(lua_State *L) {
  return consumer_set_paused(L, 1);
}


/* consumer:resume(list) -> list */
static int consumer_resume(lua_State *L) {
  return consumer_set_paused(L, 0);
}


/* consumer:commit(list) -> true | nil, message, code
 *
 * Sends the positions to the Kafka group, for lag tools, at once, and does not
 * wait; a failure comes as an error event. One that crosses a rebalance makes
 * librdkafka take the whole assignment for lost: see store. */
static int consumer_commit(lua_State *L) {
  struct consumer *c = consumer_check(L);
  rd_kafka_topic_partition_list_t *list =
      consumer_list(L, c, 2, KAFKA_OFFSET_EXACT);
  if (list->cnt > 0) {
    rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
    rd_kafka_resp_err_t err = rd_kafka_commit(c->g.client->rk, own, 1);
    rd_kafka_topic_partition_list_destroy(own);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
      return kafka_fail(L, err, NULL);
  }
  lua_pushboolean(L, 1);
  return 1;
}


/* consumer:store(list) -> list   with code where one is not assigned
 *
 * Positions to be sent to the Kafka group, for lag tools: every
 * auto.commit.interval.ms, but not between a JoinGroup and its end, and before
 * a partition is given back. Only librdkafka's own thread can tell when that
 * is, so its own timer sends them. */
static int consumer_store(lua_State *L) {
  struct consumer *c = consumer_check(L);
  rd_kafka_topic_partition_list_t *list =
      consumer_list(L, c, 2, KAFKA_OFFSET_EXACT);
  /* In a copy: librdkafka leaves references in it that would keep the client
   * from ending until Lua collects the list. */
  rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
  rd_kafka_offsets_store(c->g.client->rk, own);
  for (int i = 0; i < list->cnt; i++)
    list->elems[i].err = own->elems[i].err;
  rd_kafka_topic_partition_list_destroy(own);
  kafka_list_push(L, list);
  return 1;
}


/* consumer:committed(list [, timeout_ms]) -> list | nil, message, code
 *
 * The group's offsets; an entry without one has no offset. */
static int consumer_committed(lua_State *L) {
  struct consumer *c = consumer_check(L);
  lua_Integer timeout_ms = luaL_optinteger(L, 3, 5000);
  luaL_argcheck(L, timeout_ms > 0 && timeout_ms <= 3600000, 3, "out of range");
  rd_kafka_topic_partition_list_t *list =
      consumer_list(L, c, 2, KAFKA_OFFSET_NONE);
  struct kafka_job *job = kafka_job_new(L, c->g.client, (int)timeout_ms);
  job->list = kafka_list_copy(list);
  job->run = kafka_job_committed;
  int failed = kafka_job_run(L, job);
  if (failed)
    return failed;
  kafka_list_push(L, job->list);
  return 1;
}


/* consumer:watermarks(topic, partition [, timeout_ms]) -> low, high
 * consumer:watermarks(list [, timeout_ms]) -> { {partition=, low=, high=}, ...
 * }
 *
 * The first offset kept and the end; read-committed with isolation. Or nil,
 * message, code; in a list, an entry may have code and error instead. */
static int consumer_watermarks(lua_State *L) {
  struct consumer *c = consumer_check(L);
  return kafka_watermarks(L, c->g.client, c->g.topic);
}


/* consumer:offsets_for_time(list, ms [, timeout_ms]) -> list
 *
 * The first offset whose timestamp is >= ms; none: no offset. Or nil, message,
 * code. */
static int consumer_offsets_for_time(lua_State *L) {
  struct consumer *c = consumer_check(L);
  return kafka_offsets_for_time(L, c->g.client, c->g.topic);
}


/* consumer:assignment() -> { {partition=, offset=, paused=}, ... }
 *
 * `offset` is the next to be handed over; absent while not known. */
static int consumer_assignment(lua_State *L) {
  struct consumer *c = consumer_check(L);
  lua_newtable(L);
  lua_Integer n = 0;
  for (int32_t i = 0; i < c->g.parts_count; i++) {
    const struct kafka_part *p = &c->g.parts[i];
    if (!p->assigned)
      continue;
    lua_createtable(L, 0, 4);
    kafka_set_str(L, "topic", c->g.topic);
    kafka_set_int(L, "partition", i);
    if (p->next >= 0)
      kafka_set_int(L, "offset", p->next);
    kafka_set_bool(L, "paused", p->paused);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}


/* consumer:protocol() -> "NONE" | "EAGER" | "COOPERATIVE" */
static int consumer_protocol(lua_State *L) {
  struct consumer *c = consumer_check(L);
  /* A group that ends may never answer. */
  const char *name =
      c->g.ended ? NULL : rd_kafka_rebalance_protocol(c->g.client->rk);
  lua_pushstring(L, name != NULL ? name : "NONE");
  return 1;
}


/* consumer:member() -> string or nil   the id the group gave */
static int consumer_member(lua_State *L) {
  struct consumer *c = consumer_check(L);
  char *id = rd_kafka_memberid(c->g.client->rk);
  if (id == NULL || *id == '\0')
    lua_pushnil(L);
  else
    lua_pushfstring(L, "%s", id);
  if (id != NULL)
    rd_kafka_mem_free(c->g.client->rk, id);
  return 1;
}


/* consumer:fd() -> int   readable while records or events may wait */
static int consumer_fd(lua_State *L) {
  lua_pushinteger(L, consumer_check(L)->g.fd);
  return 1;
}


/* consumer:drain_fd()   make it not readable; poll does so by itself. Poll
 * after it: what came before is not signalled again. */
static int consumer_drain_fd(lua_State *L) {
  kafka_group_drain(&consumer_check(L)->g);
  return 0;
}


/* consumer:stats() -> {polls, records, bytes, ends, stale, reseeks,
 * rebalances, assigned}   integers since the start */
static int consumer_stats(lua_State *L) {
  struct consumer *c = consumer_check(L);
  int64_t assigned = 0;
  for (int32_t i = 0; i < c->g.parts_count; i++)
    assigned += c->g.parts[i].assigned;
  lua_createtable(L, 0, 8);
  kafka_set_int(L, "polls", c->g.polls);
  kafka_set_int(L, "records", c->g.records);
  kafka_set_int(L, "bytes", c->g.bytes);
  kafka_set_int(L, "ends", c->g.ends);
  kafka_set_int(L, "stale", c->g.stale);
  kafka_set_int(L, "reseeks", c->g.reseeks);
  kafka_set_int(L, "rebalances", c->g.rebalances);
  kafka_set_int(L, "assigned", assigned);
  return 1;
}


/* Leave as a static member: nil, message, code, or 0 when done. */
static int consumer_leave_static(lua_State *L, struct consumer *c) {
  rd_kafka_resp_err_t err;
  struct kafka_leave *leave = kafka_leave_prepare(c->g.client, CLOSE_MS, &err);
  int gone = kafka_group_leave(&c->g, CLOSE_MS);
  if (leave != NULL)
    err = kafka_leave_send(leave, CLOSE_MS);
  if (err == RD_KAFKA_RESP_ERR_NO_ERROR && gone != 0)
    err = RD_KAFKA_RESP_ERR__TIMED_OUT;
  if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE)
    return fail(L, KAFKA, "UNSUPPORTED",
                "this static member cannot leave its group here; its "
                "partitions are free after the session timeout");
  return err == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : kafka_fail(L, err, NULL);
}


/* consumer:leave() -> true | nil, message, code
 *
 * Gives the partitions to the rest of the group at once; also as a static
 * member, except through TLS or SASL and on the development broker
 * (UNSUPPORTED: then the session timeout frees them). Reads nothing more;
 * close it after. Takes up to about 3 s when the brokers are away. */
static int consumer_leave(lua_State *L) {
  struct consumer *c = consumer_check(L);
  if (c->in_group) {
    c->in_group = 0; /* close has nothing left to say */
    if (c->instance) {
      int failed = consumer_leave_static(L, c);
      if (failed)
        return failed;
    } else if (kafka_group_leave(&c->g, CLOSE_MS) != 0) {
      return kafka_fail(L, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
    }
  }
  lua_pushboolean(L, 1);
  return 1;
}


static int consumer_subscribe(lua_State *L, struct consumer *c) {
  rd_kafka_topic_partition_list_t *list = kafka_list_new(L, 1);
  rd_kafka_topic_partition_list_add(list, c->g.topic, RD_KAFKA_PARTITION_UA);
  rd_kafka_resp_err_t err = rd_kafka_subscribe(c->g.client->rk, list);
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, err, NULL);
  c->in_group = 1;
  c->g.subscribed = 1;
  return 0;
}


/* consumer:rejoin() -> true | nil, message, code
 *
 * Subscribes anew, also as a static member, upon which the group's leader deals
 * all partitions out again: those it has come as a "revoke" first. Does nothing
 * while a rebalance is under way, which deals out as well. */
static int consumer_rejoin(lua_State *L) {
  struct consumer *c = consumer_check(L);
  if (!c->in_group || c->g.ended)
    return kafka_fail(L, RD_KAFKA_RESP_ERR__STATE, NULL);
  rd_kafka_resp_err_t err = rd_kafka_unsubscribe(c->g.client->rk);
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, err, NULL);
  int failed = consumer_subscribe(L, c);
  if (failed)
    return failed;
  lua_pushboolean(L, 1);
  return 1;
}


/* consumer:abandon()   close without telling the group, as a crash would */
static int consumer_abandon(lua_State *L) {
  struct consumer *c = handle_any(L, 1, CONSUMER);
  c->stay = 1;
  handle_close(&c->h);
  return 0;
}


/* __gc: nobody closed it; do not wait for the group. Whatever else it is
 * called with, as a table with this metatable, is not ours. */
static int consumer_gc(lua_State *L) {
  return luaL_testudata(L, 1, CONSUMER) != NULL ? consumer_abandon(L) : 0;
}


/* The one topic of options `topics` or nil. The string is the table's. */
static const char *consumer_topic(lua_State *L) {
  const char *topic = NULL;
  if (!opts_table(L, 1, "topics"))
    return NULL;
  if (lua_rawlen(L, -1) > 1)
    luaL_error(L, "option 'topics': a consumer reads one topic, since a "
                  "batch does not name it");
  if (lua_rawgeti(L, -1, 1) == LUA_TSTRING)
    topic = lua_tostring(L, -1);
  if (topic == NULL || *topic == '\0' || *topic == '^')
    luaL_error(L, "option 'topics' must hold the name of one topic");
  lua_pop(L, 2);
  return topic;
}


/* kafka.consumer{brokers=, group=, instance=, topics={topic}, conf={}} ->
 * consumer | nil, message, code
 *
 * With a group and a topic it joins; without, use manual. `instance` is
 * group.instance.id: a restart within the session timeout gets its partitions
 * back at once, and closing does not leave the group. */
int kafka_consumer_new(lua_State *L) {
  static const char *const known[] = {"brokers", "group", "instance",
                                      "topics",  "conf",  NULL};
  opts_check(L, 1, known);
  lua_settop(L, 1);
  const char *group = opts_str(L, 1, "group", NULL);
  const char *instance = opts_str(L, 1, "instance", NULL);
  const char *topic = consumer_topic(L);
  struct consumer *c = handle_new(L, sizeof *c, CONSUMER);
  int self = lua_gettop(L);
  c->g.fd = -1;
  c->g.client = kafka_client_new(kafka_reading);
  if (c->g.client == NULL)
    return luaL_error(L, "kafka: out of memory");
  c->h.close = consumer_close;
  struct kafka_client *client = c->g.client;
  /* librdkafka wants a name even where no group is joined. */
  kafka_client_set(L, client, "group.id",
                   group != NULL ? group : "tidemill-none");
  if (instance != NULL)
    kafka_client_set(L, client, "group.instance.id", instance);
  c->instance = instance != NULL;
  kafka_client_options(L, 1, client);
  kafka_group_callbacks(client);
  if (topic != NULL && (c->g.topic = strdup(topic)) == NULL)
    return luaL_error(L, "kafka: out of memory");
  kafka_client_start(L, client, RD_KAFKA_CONSUMER);
  if (kafka_group_init(&c->g) != 0)
    return fail(L, KAFKA, "SYSTEM", "eventfd: %s", strerror(errno));
  if (group != NULL && topic != NULL) {
    int failed = consumer_subscribe(L, c);
    if (failed)
      return failed;
  }
  lua_pushvalue(L, self);
  return 1;
}


void kafka_consumer_open(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"poll", consumer_poll},
      {"events", consumer_events},
      {"assign", consumer_assign},
      {"unassign", consumer_unassign},
      {"manual", consumer_manual},
      {"seek", consumer_seek},
      {"pause", consumer_pause},
      {"resume", consumer_resume},
      {"commit", consumer_commit},
      {"store", consumer_store},
      {"committed", consumer_committed},
      {"watermarks", consumer_watermarks},
      {"offsets_for_time", consumer_offsets_for_time},
      {"assignment", consumer_assignment},
      {"protocol", consumer_protocol},
      {"member", consumer_member},
      {"fd", consumer_fd},
      {"drain_fd", consumer_drain_fd},
      {"stats", consumer_stats},
      {"leave", consumer_leave},
      {"rejoin", consumer_rejoin},
      {"abandon", consumer_abandon},
      {NULL, NULL}};
  handle_type(L, CONSUMER, methods);
  luaL_getmetatable(L, CONSUMER);
  lua_pushcfunction(L, consumer_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
