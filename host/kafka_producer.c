/* kafka_producer.c - the producer of host.kafka.
 *
 * Idempotent unless told otherwise. Delivery reports are counted here, on the
 * thread that polls, and never enter Lua one by one; failed records are kept,
 * up to a limit, until poll hands them over. */
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "interrupt.h"
#include "kafka_producer.h"
#include "mono.h"
#include "opts.h"

enum {
  TOPICS_MAX = KAFKA_TOPICS_MAX,
  CLOSE_FLUSH_MS = 500,
  CLOSE_MS = 1000,
  WAIT_DEFAULT_MS = 10000
};

static const struct kafka_setting defaults[] = {
    {"enable.idempotence", "true"},
    {"compression.type", "lz4"},
    {"partitioner", "murmur2_random"}, /* Java's, so both agree on a key */
    {"linger.ms", "2"},
    {"queue.buffering.max.messages", "500000"},
    {"queue.buffering.max.kbytes", "65536"},
    {"reconnect.backoff.max.ms", "1000"},
    {"socket.nagle.disable", "true"},
    {"socket.keepalive.enable", "true"},
    {"log.connection.close", "false"},
    {NULL, NULL}};


/* The bucket of a latency: its power of two and the three bits after. */
static int latency_bucket(int64_t us) {
  if (us < LATENCY_SUB)
    return us < 0 ? 0 : (int)us;
  int power = 63 - __builtin_clzll((unsigned long long)us);
  int sub = (int)(us >> (power - 3)) & (LATENCY_SUB - 1);
  int bucket = (power - 2) * LATENCY_SUB + sub;
  return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}


/* The upper end of a bucket. */
static int64_t latency_value(int bucket) {
  if (bucket < LATENCY_SUB)
    return bucket;
  int power = bucket / LATENCY_SUB + 2;
  int64_t step = (int64_t)1 << (power - 3);
  return ((int64_t)1 << power) + (bucket % LATENCY_SUB + 1) * step - 1;
}


static void producer_failed(struct producer *p, const rd_kafka_message_t *m) {
  p->failures++;
  p->total_failed++;
  if (p->failed_count == FAILED_MAX)
    return;
  struct failed *f = &p->failed[p->failed_count++];
  memset(f, 0, sizeof *f);
  f->err = m->err;
  f->partition = m->partition;
  if (m->rkt != NULL)
    strncpy(f->topic, rd_kafka_topic_name(m->rkt), sizeof f->topic - 1);
  f->has_key = m->key != NULL;
  f->key_len = m->key_len < FAILED_KEY_MAX ? m->key_len : FAILED_KEY_MAX;
  if (f->has_key)
    memcpy(f->key, m->key, f->key_len);
}


static void producer_count(struct producer *p, const rd_kafka_message_t *m) {
  if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
    producer_failed(p, m);
    return;
  }
  int64_t us = rd_kafka_message_latency(m);
  p->delivered++;
  p->total_delivered++;
  p->latency[latency_bucket(us)]++;
  if (us > p->latency_max)
    p->latency_max = us;
}


/* A delivery report, inside poll or flush; or on the thread of a transaction's
 * call, which flushes too. */
static void producer_report(rd_kafka_t *rk, const rd_kafka_message_t *m,
                            void *opaque) {
  struct kafka_client *client = opaque;
  (void)rk;
  pthread_mutex_lock(&client->owned);
  if (client->owner != NULL)
    producer_count(client->owner, m);
  pthread_mutex_unlock(&client->owned);
}


static void producer_close(struct handle *h) {
  struct producer *p = (struct producer *)h;
  rd_kafka_t *rk = p->client->rk;
  if (rk != NULL && rd_kafka_outq_len(rk) > 0) {
    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    if (!p->abandoned)
      rd_kafka_flush(rk, CLOSE_FLUSH_MS);
  }
  for (int i = 0; i < p->topic_count; i++)
    rd_kafka_topic_destroy(p->topics[i]);
  p->topic_count = 0;
  pthread_mutex_lock(&p->client->owned);
  p->client->owner = NULL;
  pthread_mutex_unlock(&p->client->owned);
  kafka_transaction_close(p);
  kafka_client_close(p->client, p->abandoned ? 0 : CLOSE_MS);
  p->client = NULL;
  free(p->failed);
  p->failed = NULL;
}


/* Records not yet reported as delivered or failed. librdkafka's own count
 * includes errors that wait in its queue. */
static int64_t producer_left(struct producer *p) {
  pthread_mutex_lock(&p->client->owned);
  int64_t left = p->sent - p->total_delivered - p->total_failed;
  pthread_mutex_unlock(&p->client->owned);
  return left;
}


struct producer *producer_check(lua_State *L) {
  return handle_check(L, 1, PRODUCER);
}


/* producer:abandon() -> true
 *
 * Closes at once: what is queued is dropped, and librdkafka, which may wait
 * for a broker that does not answer, ends on a thread of its own. */
static int producer_abandon(lua_State *L) {
  struct producer *p = producer_check(L);
  p->abandoned = 1;
  handle_close(&p->h);
  lua_pushboolean(L, 1);
  return 1;
}


/* The topic's handle, kept for the next record; NULL: librdkafka refused. */
static rd_kafka_topic_t *producer_topic(struct producer *p, const char *name) {
  for (int i = 0; i < p->topic_count; i++)
    if (strcmp(rd_kafka_topic_name(p->topics[i]), name) == 0)
      return p->topics[i];
  rd_kafka_topic_t *rkt = rd_kafka_topic_new(p->client->rk, name, NULL);
  if (rkt == NULL)
    return NULL;
  if (p->topic_count == TOPICS_MAX)
    rd_kafka_topic_destroy(p->topics[--p->topic_count]);
  p->topics[p->topic_count++] = rkt;
  return rkt;
}


struct out {
  const char *topic, *key, *value;
  size_t key_len, value_len;
  int32_t partition;
  int64_t stamp_ms; /* 0: now */
  rd_kafka_headers_t *headers;
};


/* Hand one record to librdkafka, which copies it. */
static rd_kafka_resp_err_t producer_put(struct producer *p,
                                        const struct out *o) {
  rd_kafka_topic_t *rkt = producer_topic(p, o->topic);
  if (rkt == NULL)
    return rd_kafka_last_error();
  rd_kafka_vu_t vus[8] = {
      {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = rkt},
      {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = o->partition},
      {.vtype = RD_KAFKA_VTYPE_VALUE,
       .u.mem = {.ptr = (void *)(uintptr_t)o->value, .size = o->value_len}},
      {.vtype = RD_KAFKA_VTYPE_KEY,
       .u.mem = {.ptr = (void *)(uintptr_t)o->key, .size = o->key_len}},
      {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
      {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = o->stamp_ms}};
  size_t n = 6;
  if (o->headers != NULL) {
    vus[n].vtype = RD_KAFKA_VTYPE_HEADERS;
    vus[n++].u.headers = o->headers;
  }
  rd_kafka_error_t *error = rd_kafka_produceva(p->client->rk, vus, n);
  if (error == NULL)
    return RD_KAFKA_RESP_ERR_NO_ERROR;
  rd_kafka_resp_err_t err = rd_kafka_error_code(error);
  rd_kafka_error_destroy(error);
  return err;
}


/* Put a record; a full queue is served once first. Pushes the result. */
static int producer_send_out(lua_State *L, struct producer *p,
                             const struct out *o) {
  rd_kafka_resp_err_t err = producer_put(p, o);
  if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
    rd_kafka_poll(p->client->rk, 0); /* reports hold places in the queue */
    err = producer_put(p, o);
  }
  if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
    p->sent++;
    p->sent_bytes += (int64_t)(o->key_len + o->value_len);
    lua_pushboolean(L, 1);
    return 1;
  }
  p->queue_full += err == RD_KAFKA_RESP_ERR__QUEUE_FULL;
  return kafka_fail(L, err, NULL);
}


static int32_t producer_partition(lua_State *L, int arg) {
  lua_Integer n = luaL_optinteger(L, arg, RD_KAFKA_PARTITION_UA);
  luaL_argcheck(L, n >= -1 && n <= INT32_MAX, arg, "partition out of range");
  return (int32_t)n;
}


/* producer:produce(topic, key, value [, timestamp_ms [, partition]]) ->
 * true | nil, message, code
 *
 * Queues one record; nil for a null key or value. The short form of send, for
 * many records. */
static int producer_produce(lua_State *L) {
  struct producer *p = producer_check(L);
  struct out o = {0};
  o.topic = luaL_checkstring(L, 2);
  o.key = luaL_optlstring(L, 3, NULL, &o.key_len);
  o.value = luaL_optlstring(L, 4, NULL, &o.value_len);
  o.stamp_ms = luaL_optinteger(L, 5, 0);
  luaL_argcheck(L, o.stamp_ms >= 0, 5, "must not be negative");
  o.partition = producer_partition(L, 6);
  return producer_send_out(L, p, &o);
}


#define HEADERS "kafka headers"

struct headers {
  struct handle h;
  rd_kafka_headers_t *list;
};


static void headers_close(struct handle *h) {
  rd_kafka_headers_destroy(((struct headers *)h)->list);
}


/* Read { name = value, ... } on top; the pushed value owns the list.
 * [-0, +1, v] */
static struct headers *producer_headers(lua_State *L) {
  int arg = lua_gettop(L);
  luaL_checktype(L, arg, LUA_TTABLE);
  struct headers *h = handle_new(L, sizeof *h, HEADERS);
  h->list = rd_kafka_headers_new(4);
  h->h.close = headers_close;
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    size_t len;
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "header names must be strings");
    const char *value = luaL_checklstring(L, -1, &len);
    rd_kafka_header_add(h->list, lua_tostring(L, -2), -1, value, (ssize_t)len);
    lua_pop(L, 1);
  }
  return h;
}


/* producer:send{topic=, key=, value=, partition=, timestamp_ms=, headers=} ->
 * true | nil, message, code
 *
 * Queues one record. QUEUE_FULL: poll, then send it again. headers is a table
 * of strings by name. */
static int producer_send(lua_State *L) {
  static const char *const known[] = {
      "topic", "key", "value", "partition", "headers", "timestamp_ms", NULL};
  struct producer *p = producer_check(L);
  struct out o = {0};
  struct headers *h = NULL;
  opts_check(L, 2, known);
  o.topic = opts_need(L, 2, "topic");
  o.key = opts_lstr(L, 2, "key", &o.key_len);
  o.value = opts_lstr(L, 2, "value", &o.value_len);
  o.partition = (int32_t)opts_int(L, 2, "partition", RD_KAFKA_PARTITION_UA, -1,
                                  INT32_MAX);
  o.stamp_ms = opts_int(L, 2, "timestamp_ms", 0, 0, INT64_MAX);
  if (opts_table(L, 2, "headers"))
    h = producer_headers(L);
  if (h != NULL)
    o.headers = rd_kafka_headers_copy(h->list); /* a full queue needs two */
  int n = producer_send_out(L, p, &o);
  if (o.headers != NULL && !lua_toboolean(L, -n))
    rd_kafka_headers_destroy(o.headers); /* it was not taken */
  if (h != NULL)
    handle_close(&h->h);
  return n;
}


/* { {topic=, partition=, key=, code=, error=}, ... } [-0, +1] */
static void producer_push_failed(lua_State *L, const struct failed *failed,
                                 size_t count) {
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    const struct failed *f = &failed[i];
    lua_createtable(L, 0, 5);
    kafka_set_str(L, "topic", f->topic);
    kafka_set_int(L, "partition", f->partition);
    if (f->has_key) {
      lua_pushlstring(L, f->key, f->key_len);
      lua_setfield(L, -2, "key");
    }
    kafka_set_str(L, "code", kafka_code(f->err));
    kafka_set_str(L, "error", rd_kafka_err2str(f->err));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}


/* Is there anything to tell? */
static int producer_news(struct producer *p) {
  pthread_mutex_lock(&p->client->owned);
  int news = p->delivered > 0 || p->failures > 0;
  pthread_mutex_unlock(&p->client->owned);
  return news || kafka_transaction_done(p);
}


/* producer:poll([timeout_ms]) -> {delivered=, failed={...}, failures=,
 * events={...}}   since the last poll
 *
 * failed holds the first 100 of `failures` as {topic, partition, key (cut at
 * 64 bytes), code, error}; events are errors and log lines, as a consumer's.
 * Waits up to timeout_ms (0) for a report, or
 * the end of a call that `transact` began. */
static int producer_poll(lua_State *L) {
  struct producer *p = producer_check(L);
  lua_Integer timeout_ms = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, timeout_ms >= 0, 2, "must not be negative");
  int64_t until = mono_ms() + timeout_ms;
  rd_kafka_poll(p->client->rk, 0);
  int64_t left = timeout_ms;
  while (left > 0 && !producer_news(p) && !interrupt_pending()) {
    rd_kafka_poll(p->client->rk,
                  left < INTERRUPT_SLICE_MS ? (int)left : INTERRUPT_SLICE_MS);
    left = until - mono_ms();
  }
  struct failed *failed = lua_newuserdatauv(L, FAILED_MAX * sizeof *failed, 0);
  pthread_mutex_lock(&p->client->owned);
  int64_t delivered = p->delivered, failures = p->failures;
  size_t count = p->failed_count;
  memcpy(failed, p->failed, count * sizeof *failed);
  p->delivered = 0;
  p->failures = 0;
  p->failed_count = 0;
  pthread_mutex_unlock(&p->client->owned);
  lua_createtable(L, 0, 4);
  kafka_set_int(L, "delivered", delivered);
  kafka_set_int(L, "failures", failures);
  producer_push_failed(L, failed, count);
  lua_setfield(L, -2, "failed");
  kafka_feed_push(L, &p->client->feed);
  lua_setfield(L, -2, "events");
  return 1;
}


/* producer:flush([timeout_ms]) -> int   records still not delivered
 *
 * Sends at once what lingers and waits up to timeout_ms (10000). */
static int producer_flush(lua_State *L) {
  struct producer *p = producer_check(L);
  lua_Integer timeout_ms = luaL_optinteger(L, 2, WAIT_DEFAULT_MS);
  luaL_argcheck(L, timeout_ms >= 0, 2, "must not be negative");
  int64_t until = mono_ms() + timeout_ms;
  rd_kafka_t *rk = p->client->rk;
  for (;;) {
    int64_t left = until - mono_ms();
    if (left < 0)
      left = 0;
    rd_kafka_flush(rk,
                   left < INTERRUPT_SLICE_MS ? (int)left : INTERRUPT_SLICE_MS);
    if (producer_left(p) == 0 || left == 0 || interrupt_pending())
      break;
  }
  lua_pushinteger(L, producer_left(p));
  return 1;
}


/* producer:purge() -> int   gives up what is not delivered; the next poll
 * reports it as failed. Returns what is left (0). */
static int producer_purge(lua_State *L) {
  struct producer *p = producer_check(L);
  rd_kafka_t *rk = p->client->rk;
  rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
  rd_kafka_flush(rk, INTERRUPT_SLICE_MS);
  lua_pushinteger(L, producer_left(p));
  return 1;
}


/* producer:queued() -> int   records not yet delivered or failed */
static int producer_queued(lua_State *L) {
  lua_pushinteger(L, producer_left(producer_check(L)));
  return 1;
}


static int64_t latency_quantile(const struct producer *p, int permille) {
  int64_t rank = (p->total_delivered * permille + 999) / 1000;
  for (int i = 0; i < LATENCY_BUCKETS; i++) {
    rank -= p->latency[i];
    if (rank <= 0) {
      int64_t value = latency_value(i);
      return value < p->latency_max ? value : p->latency_max;
    }
  }
  return p->latency_max;
}


/* producer:stats() -> {sent, sent_bytes, delivered, failed, queue_full,
 * queued, latency_us={p50, p90, p99, p999, max}}   since the start; latency is
 * from send to acknowledgement, within 12.5 % */
static int producer_stats(lua_State *L) {
  static const struct {
    const char *name;
    int permille;
  } quantiles[] = {{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p999", 999}};
  struct producer *p = producer_check(L);
  int64_t left = producer_left(p), values[4];
  pthread_mutex_lock(&p->client->owned);
  int64_t delivered = p->total_delivered, failed = p->total_failed;
  int64_t max = p->latency_max;
  for (int i = 0; i < 4; i++)
    values[i] = latency_quantile(p, quantiles[i].permille);
  pthread_mutex_unlock(&p->client->owned);
  lua_createtable(L, 0, 7);
  kafka_set_int(L, "sent", p->sent);
  kafka_set_int(L, "sent_bytes", p->sent_bytes);
  kafka_set_int(L, "delivered", delivered);
  kafka_set_int(L, "failed", failed);
  kafka_set_int(L, "queue_full", p->queue_full);
  kafka_set_int(L, "queued", left);
  lua_createtable(L, 0, 5);
  for (int i = 0; i < 4; i++)
    kafka_set_int(L, quantiles[i].name, values[i]);
  kafka_set_int(L, "max", max);
  lua_setfield(L, -2, "latency_us");
  return 1;
}


/* producer:logs() -> array   errors and log lines since the last call */
static int producer_logs(lua_State *L) {
  kafka_feed_push(L, &producer_check(L)->client->feed);
  return 1;
}


static int producer_is_transactional(const rd_kafka_conf_t *conf) {
  size_t size = 0;
  return rd_kafka_conf_get(conf, "transactional.id", NULL, &size) ==
             RD_KAFKA_CONF_OK &&
         size > 1;
}


/* kafka.producer{brokers=, conf={}} -> producer */
int kafka_producer_new(lua_State *L) {
  static const char *const known[] = {"brokers", "conf", NULL};
  opts_check(L, 1, known);
  struct producer *p = handle_new(L, sizeof *p, PRODUCER);
  p->client = kafka_client_new(defaults);
  if (p->client == NULL)
    return luaL_error(L, "kafka: out of memory");
  p->h.close = producer_close;
  p->client->owner = p;
  p->failed = calloc(FAILED_MAX, sizeof *p->failed);
  if (p->failed == NULL)
    return luaL_error(L, "kafka: out of memory");
  kafka_client_options(L, 1, p->client);
  rd_kafka_conf_set_dr_msg_cb(p->client->conf, producer_report);
  p->transactional = producer_is_transactional(p->client->conf);
  kafka_client_start(L, p->client, RD_KAFKA_PRODUCER);
  return 1;
}


void kafka_producer_open(lua_State *L) {
  static const luaL_Reg none[] = {{NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"send", producer_send},     {"produce", producer_produce},
      {"poll", producer_poll},     {"flush", producer_flush},
      {"purge", producer_purge},   {"abandon", producer_abandon},
      {"queued", producer_queued}, {"stats", producer_stats},
      {"logs", producer_logs},     {NULL, NULL}};
  handle_type(L, HEADERS, none);
  handle_type(L, PRODUCER, methods);
  kafka_transaction_open(L);
}
