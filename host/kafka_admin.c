/* kafka_admin.c - looking at a cluster and changing its topics.
 *
 * Every call waits for its answer, in slices, up to its timeout. The
 * development broker offers only part of this; what it lacks fails with
 * UNSUPPORTED. Groups are in kafka_groups.c. */
#include <string.h>

#include "kafka_request.h"
#include "opts.h"

#define ADMIN "admin"

enum { CLOSE_MS = 1000 };

struct admin {
  struct handle h;
  struct kafka_client *client;
};

static const struct kafka_setting defaults[] = {
    {"isolation.level", "read_committed"}, /* for watermarks */
    {"allow.auto.create.topics", "false"},
    {"reconnect.backoff.max.ms", "1000"},
    {"socket.nagle.disable", "true"},
    {"log.connection.close", "false"},
    {NULL, NULL}};


static void admin_close(struct handle *h) {
  struct admin *a = (struct admin *)h;
  kafka_client_close(a->client, CLOSE_MS);
  a->client = NULL;
}


struct kafka_client *kafka_admin_client(lua_State *L) {
  return ((struct admin *)handle_check(L, 1, ADMIN))->client;
}


static void metadata_ids(lua_State *L, const int32_t *ids, int n,
                         const char *key) {
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushinteger(L, ids[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, key);
}


static void metadata_error(lua_State *L, rd_kafka_resp_err_t err) {
  if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
    return;
  kafka_set_str(L, "code", kafka_code(err));
  kafka_set_str(L, "error", rd_kafka_err2str(err));
}


/* [-0, +1] */
static void metadata_topic(lua_State *L,
                           const struct rd_kafka_metadata_topic *topic) {
  lua_createtable(L, 0, 3);
  metadata_error(L, topic->err);
  lua_createtable(L, topic->partition_cnt, 0);
  for (int i = 0; i < topic->partition_cnt; i++) {
    const struct rd_kafka_metadata_partition *p = &topic->partitions[i];
    lua_createtable(L, 0, 6);
    kafka_set_int(L, "id", p->id);
    kafka_set_int(L, "leader", p->leader);
    metadata_ids(L, p->replicas, p->replica_cnt, "replicas");
    metadata_ids(L, p->isrs, p->isr_cnt, "isrs");
    metadata_error(L, p->err);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "partitions");
}


/* [-0, +1] */
static void metadata_push(lua_State *L, const struct kafka_job *job) {
  const struct rd_kafka_metadata *m = job->metadata;
  luaL_checkstack(L, 8, "metadata");
  lua_createtable(L, 0, 4);
  lua_createtable(L, m->broker_cnt, 0);
  for (int i = 0; i < m->broker_cnt; i++) {
    lua_createtable(L, 0, 3);
    kafka_set_int(L, "id", m->brokers[i].id);
    kafka_set_str(L, "host", m->brokers[i].host);
    kafka_set_int(L, "port", m->brokers[i].port);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "brokers");
  if (job->number >= 0)
    kafka_set_int(L, "controller", job->number);
  if (job->name != NULL)
    kafka_set_str(L, "cluster_id", job->name);
  lua_createtable(L, 0, m->topic_cnt);
  for (int i = 0; i < m->topic_cnt; i++) {
    metadata_topic(L, &m->topics[i]);
    lua_setfield(L, -2, m->topics[i].topic);
  }
  lua_setfield(L, -2, "topics");
}


/* admin:metadata([topic [, timeout_ms]]) -> {brokers={ {id=, host=, port=} },
 * controller=, cluster_id=, topics={ [name]={code=, error=, partitions={ {id=,
 * leader=, replicas={}, isrs={}, code=, error=} } } }} | nil, message, code
 *
 * Of one topic, or of all when it is nil. A topic that does not exist is there
 * with code UNKNOWN_TOPIC_OR_PART; the development broker makes it instead. */
static int admin_metadata(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  const char *topic = luaL_optstring(L, 2, NULL);
  struct kafka_job *job = kafka_job_new(L, client, kafka_timeout(L, 3));
  rd_kafka_poll(client->rk, 0); /* nobody else empties its queue */
  if (topic != NULL && (job->name = strdup(topic)) == NULL)
    return luaL_error(L, "kafka: out of memory");
  job->run = kafka_job_metadata;
  int failed = kafka_job_run(L, job);
  if (failed)
    return failed;
  metadata_push(L, job);
  return 1;
}


/* true or fail, of the one topic in an answer. */
static int admin_topic_result(lua_State *L, struct kafka_request *r,
                              const rd_kafka_topic_result_t **results,
                              size_t n) {
  rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
  const char *text = NULL;
  if (n > 0) {
    err = rd_kafka_topic_result_error(results[0]);
    text = rd_kafka_topic_result_error_string(results[0]);
  }
  int pushed = 1;
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    pushed = kafka_request_fail(L, r->client, err, text);
  else
    lua_pushboolean(L, 1);
  handle_close(&r->h); /* after its text was used */
  return pushed;
}


#define NEW_TOPIC "kafka new topic"

struct new_topic {
  struct handle h;
  rd_kafka_NewTopic_t *topic;
};


static void new_topic_close(struct handle *h) {
  rd_kafka_NewTopic_destroy(((struct new_topic *)h)->topic);
}


/* Set the entries of option `config`. */
static void new_topic_config(lua_State *L, struct new_topic *t) {
  if (!opts_table(L, 2, "config"))
    return;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "option 'config' must hold names and values");
    const char *value = luaL_tolstring(L, -1, NULL);
    rd_kafka_NewTopic_set_config(t->topic, lua_tostring(L, -3), value);
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
}


/* admin:create_topic{name=, partitions=, replication=, config={}, timeout_ms=}
 * -> true | nil, message, code
 *
 * Partitions and replication default to the broker's. */
static int admin_create_topic(lua_State *L) {
  static const char *const known[] = {"name",   "partitions", "replication",
                                      "config", "timeout_ms", NULL};
  char text[KAFKA_TEXT_MAX];
  struct kafka_client *client = kafka_admin_client(L);
  opts_check(L, 2, known);
  const char *name = opts_need(L, 2, "name");
  int partitions = (int)opts_int(L, 2, "partitions", -1, 1, 1000000);
  int replication = (int)opts_int(L, 2, "replication", -1, 1, 32767);
  int timeout_ms = (int)opts_int(L, 2, "timeout_ms", 10000, 1, 3600000);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct new_topic *t = handle_new(L, sizeof *t, NEW_TOPIC);
  t->topic =
      rd_kafka_NewTopic_new(name, partitions, replication, text, sizeof text);
  if (t->topic == NULL)
    return kafka_fail(L, RD_KAFKA_RESP_ERR__INVALID_ARG, text);
  t->h.close = new_topic_close;
  new_topic_config(L, t);
  struct kafka_request *r =
      kafka_request_new(L, client, RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout_ms);
  /* Answer only when the topic is there. */
  rd_kafka_AdminOptions_set_operation_timeout(r->options, timeout_ms, text,
                                              sizeof text);
  rd_kafka_CreateTopics(client->rk, &t->topic, 1, r->options, r->queue);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(
      rd_kafka_event_CreateTopics_result(r->event), &n);
  return admin_topic_result(L, r, results, n);
}


/* admin:delete_topic(name [, timeout_ms]) -> true | nil, message, code */
static int admin_delete_topic(lua_State *L) {
  char text[KAFKA_TEXT_MAX];
  struct kafka_client *client = kafka_admin_client(L);
  const char *name = luaL_checkstring(L, 2);
  int timeout_ms = kafka_timeout(L, 3);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r =
      kafka_request_new(L, client, RD_KAFKA_ADMIN_OP_DELETETOPICS, timeout_ms);
  rd_kafka_AdminOptions_set_operation_timeout(r->options, timeout_ms, text,
                                              sizeof text);
  rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(name);
  rd_kafka_DeleteTopics(client->rk, &topic, 1, r->options, r->queue);
  rd_kafka_DeleteTopic_destroy(topic);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_topic_result_t **results = rd_kafka_DeleteTopics_result_topics(
      rd_kafka_event_DeleteTopics_result(r->event), &n);
  return admin_topic_result(L, r, results, n);
}


/* admin:create_partitions(name, total [, timeout_ms]) -> true | nil, message,
 * code   grow the topic to `total` partitions */
static int admin_create_partitions(lua_State *L) {
  char text[KAFKA_TEXT_MAX];
  struct kafka_client *client = kafka_admin_client(L);
  const char *name = luaL_checkstring(L, 2);
  lua_Integer total = luaL_checkinteger(L, 3);
  luaL_argcheck(L, total > 0 && total <= 1000000, 3, "out of range");
  int timeout_ms = kafka_timeout(L, 4);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r = kafka_request_new(
      L, client, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS, timeout_ms);
  rd_kafka_AdminOptions_set_operation_timeout(r->options, timeout_ms, text,
                                              sizeof text);
  rd_kafka_NewPartitions_t *p =
      rd_kafka_NewPartitions_new(name, (size_t)total, text, sizeof text);
  if (p == NULL)
    return kafka_fail(L, RD_KAFKA_RESP_ERR__INVALID_ARG, text);
  rd_kafka_CreatePartitions(client->rk, &p, 1, r->options, r->queue);
  rd_kafka_NewPartitions_destroy(p);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_topic_result_t **results =
      rd_kafka_CreatePartitions_result_topics(
          rd_kafka_event_CreatePartitions_result(r->event), &n);
  return admin_topic_result(L, r, results, n);
}


/* admin:delete_records(list [, timeout_ms]) -> list | nil, message, code
 *
 * Deletes what is before each entry's offset. The answer's offsets are the new
 * starts of the log; an entry may have code and error. */
static int admin_delete_records(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  int timeout_ms = kafka_timeout(L, 3);
  rd_kafka_topic_partition_list_t *list =
      kafka_list_check(L, 2, NULL, KAFKA_OFFSET_EXACT);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r =
      kafka_request_new(L, client, RD_KAFKA_ADMIN_OP_DELETERECORDS, timeout_ms);
  rd_kafka_DeleteRecords_t *d = rd_kafka_DeleteRecords_new(list);
  rd_kafka_DeleteRecords(client->rk, &d, 1, r->options, r->queue);
  rd_kafka_DeleteRecords_destroy(d);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  kafka_list_push(L, rd_kafka_DeleteRecords_result_offsets(
                         rd_kafka_event_DeleteRecords_result(r->event)));
  handle_close(&r->h);
  return 1;
}


/* { [name]={value=, default=, source=, read_only=, sensitive=} } [-0, +1] */
static void config_push(lua_State *L, const rd_kafka_ConfigResource_t *res) {
  size_t n = 0;
  const rd_kafka_ConfigEntry_t **entries =
      rd_kafka_ConfigResource_configs(res, &n);
  lua_createtable(L, 0, (int)n);
  for (size_t i = 0; i < n; i++) {
    const rd_kafka_ConfigEntry_t *e = entries[i];
    const char *value = rd_kafka_ConfigEntry_value(e);
    lua_createtable(L, 0, 5);
    if (value != NULL)
      kafka_set_str(L, "value", value);
    kafka_set_bool(L, "default", rd_kafka_ConfigEntry_is_default(e));
    kafka_set_str(L, "source",
                  rd_kafka_ConfigSource_name(rd_kafka_ConfigEntry_source(e)));
    kafka_set_bool(L, "read_only", rd_kafka_ConfigEntry_is_read_only(e));
    kafka_set_bool(L, "sensitive", rd_kafka_ConfigEntry_is_sensitive(e));
    lua_setfield(L, -2, rd_kafka_ConfigEntry_name(e));
  }
}


static int admin_config(lua_State *L, rd_kafka_ResourceType_t type,
                        const char *name, int timeout_ms) {
  struct kafka_client *client = kafka_admin_client(L);
  if (kafka_development_wait(client, timeout_ms))
    return kafka_unsupported(L, client);
  struct kafka_request *r = kafka_request_new(
      L, client, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout_ms);
  rd_kafka_ConfigResource_t *res = rd_kafka_ConfigResource_new(type, name);
  if (res == NULL)
    return kafka_fail(L, RD_KAFKA_RESP_ERR__INVALID_ARG, "no such resource");
  rd_kafka_DescribeConfigs(client->rk, &res, 1, r->options, r->queue);
  rd_kafka_ConfigResource_destroy(res);
  int failed = kafka_request_wait(L, r);
  if (failed)
    return failed;
  size_t n = 0;
  const rd_kafka_ConfigResource_t **answer =
      rd_kafka_DescribeConfigs_result_resources(
          rd_kafka_event_DescribeConfigs_result(r->event), &n);
  int pushed = 1;
  if (n == 0)
    pushed = kafka_fail(L, RD_KAFKA_RESP_ERR__BAD_MSG, "an empty answer");
  else if (rd_kafka_ConfigResource_error(answer[0]) !=
           RD_KAFKA_RESP_ERR_NO_ERROR)
    pushed =
        kafka_request_fail(L, client, rd_kafka_ConfigResource_error(answer[0]),
                           rd_kafka_ConfigResource_error_string(answer[0]));
  else
    config_push(L, answer[0]);
  handle_close(&r->h);
  return pushed;
}


/* admin:topic_config(name [, timeout_ms]) -> { [key]={value=, default=,
 * source=, read_only=, sensitive=} } | nil, message, code */
static int admin_topic_config(lua_State *L) {
  return admin_config(L, RD_KAFKA_RESOURCE_TOPIC, luaL_checkstring(L, 2),
                      kafka_timeout(L, 3));
}


/* admin:broker_config(id [, timeout_ms]): the same of a broker */
static int admin_broker_config(lua_State *L) {
  lua_Integer id = luaL_checkinteger(L, 2);
  int timeout_ms = kafka_timeout(L, 3);
  lua_pushfstring(L, "%I", id);
  return admin_config(L, RD_KAFKA_RESOURCE_BROKER, lua_tostring(L, -1),
                      timeout_ms);
}


/* admin:watermarks(topic, partition [, timeout_ms]) -> low, high
 * admin:watermarks(list [, timeout_ms]) -> list: as consumer:watermarks */
static int admin_watermarks(lua_State *L) {
  return kafka_watermarks(L, kafka_admin_client(L), NULL);
}


/* admin:offsets_for_time(list, ms [, timeout_ms]): as consumer's */
static int admin_offsets_for_time(lua_State *L) {
  return kafka_offsets_for_time(L, kafka_admin_client(L), NULL);
}


/* admin:events() -> array   errors and log lines since the last call */
static int admin_events(lua_State *L) {
  struct kafka_client *client = kafka_admin_client(L);
  rd_kafka_poll(client->rk, 0);
  kafka_feed_push(L, &client->feed);
  return 1;
}


/* kafka.admin{brokers=, conf={}} -> admin */
int kafka_admin_new(lua_State *L) {
  static const char *const known[] = {"brokers", "conf", NULL};
  opts_check(L, 1, known);
  struct admin *a = handle_new(L, sizeof *a, ADMIN);
  a->client = kafka_client_new(defaults);
  if (a->client == NULL)
    return luaL_error(L, "kafka: out of memory");
  a->h.close = admin_close;
  kafka_client_options(L, 1, a->client);
  kafka_client_start(L, a->client, RD_KAFKA_CONSUMER);
  return 1;
}


void kafka_admin_open(lua_State *L) {
  static const luaL_Reg none[] = {{NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"metadata", admin_metadata},
      {"create_topic", admin_create_topic},
      {"delete_topic", admin_delete_topic},
      {"create_partitions", admin_create_partitions},
      {"delete_records", admin_delete_records},
      {"topic_config", admin_topic_config},
      {"broker_config", admin_broker_config},
      {"watermarks", admin_watermarks},
      {"offsets_for_time", admin_offsets_for_time},
      {"groups", kafka_admin_groups},
      {"describe_group", kafka_admin_describe_group},
      {"group_offsets", kafka_admin_group_offsets},
      {"delete_group", kafka_admin_delete_group},
      {"events", admin_events},
      {NULL, NULL}};
  kafka_request_open(L);
  handle_type(L, NEW_TOPIC, none);
  handle_type(L, ADMIN, methods);
}
