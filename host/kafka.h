/* kafka.h - what the files of host.kafka share. Private to them.
 *
 * A client is one librdkafka instance with its feed of events. It is counted:
 * the handle that Lua holds and every call still under way on a thread of its
 * own keep it, and the last one destroys it. No callback of librdkafka runs
 * Lua: callbacks write to the feed, the thread that polls reads it as data. */
#ifndef HOST_KAFKA_H
#define HOST_KAFKA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include <lua.h>
#include <lauxlib.h>
#include <librdkafka/rdkafka.h>

#include "handle.h"

#define KAFKA "kafka"

enum { KAFKA_TEXT_MAX = 512, KAFKA_CODE_MAX = 48, KAFKA_TOPIC_MAX = 256 };

/* ---- kafka_feed.c: what happened, in order, as data ---- */

enum kafka_event_type {
  KAFKA_ASSIGN,
  KAFKA_REVOKE,
  KAFKA_LOST,
  KAFKA_ERROR,
  KAFKA_LOG
};

struct kafka_event {
  struct kafka_event *next;
  enum kafka_event_type type;
  int level; /* syslog level of a log line */
  int fatal;
  int32_t partition; /* -1: none */
  int64_t offset;    /* -1: none */
  char code[KAFKA_CODE_MAX];
  char topic[KAFKA_TOPIC_MAX]; /* of an error; the facility of a log line */
  rd_kafka_topic_partition_list_t *list; /* of a rebalance; owned */
  char text[KAFKA_TEXT_MAX];
};

struct kafka_feed {
  pthread_mutex_t lock;
  struct kafka_event *head;
  struct kafka_event *tail;
  int lines;       /* log lines and errors now held: they are bounded */
  int64_t dropped; /* ... and these did not fit */
  int64_t serial;  /* counts rebalances and errors */
};

void kafka_feed_init(struct kafka_feed *feed);
void kafka_feed_free(struct kafka_feed *feed);
void kafka_feed_log(struct kafka_feed *feed, int level, const char *facility,
                    const char *text);
void kafka_feed_error(struct kafka_feed *feed, rd_kafka_resp_err_t err,
                      int fatal, const char *topic, int32_t partition,
                      int64_t offset, const char *text);
void kafka_feed_rebalance(struct kafka_feed *feed, enum kafka_event_type type,
                          const rd_kafka_topic_partition_list_t *list);

/* A number that grows with each rebalance and each error. */
int64_t kafka_feed_serial(struct kafka_feed *feed);

/* Push an array of all events and forget them. [-0, +1, m] */
void kafka_feed_push(lua_State *L, struct kafka_feed *feed);

/* The same to the end of the array on top of the stack. [-0, +0, m] */
void kafka_feed_append(lua_State *L, struct kafka_feed *feed);

/* ---- kafka_client.c: life of one librdkafka instance ---- */

struct kafka_client {
  rd_kafka_t *rk;
  rd_kafka_conf_t *conf; /* until rk exists */
  atomic_int refs;
  int sasl;   /* its brokers ask for credentials */
  int spared; /* never destroyed: that would abort the process */
  struct kafka_feed feed;
  void *owner;           /* what the callbacks of the polling thread write to */
  pthread_mutex_t owned; /* ... of a producer: transactions report as well */
};

struct kafka_setting {
  const char *key;
  const char *value;
};

/* A client with `defaults` set and logs and errors going to its feed; NULL:
 * out of memory. */
struct kafka_client *kafka_client_new(const struct kafka_setting *defaults);

/* Set what the options table at `arg` says: brokers and conf. Raises, naming
 * the key, on a property librdkafka does not know or take. */
void kafka_client_options(lua_State *L, int arg, struct kafka_client *client);

/* One property; raises. */
void kafka_client_set(lua_State *L, struct kafka_client *client,
                      const char *key, const char *value);

/* Start it. Raises when the properties do not go together. */
void kafka_client_start(lua_State *L, struct kafka_client *client,
                        rd_kafka_type_t type);

/* Add the fatal error, by its own code, to the feed. */
void kafka_client_fatal(struct kafka_client *client);

/* Wake librdkafka's broker threads; on the thread that polls. */
void kafka_client_wake(struct kafka_client *client);

/* A fetcher that found the queue full sleeps for up to a second, however soon
 * it is read: it is woken when there is room again, not for every few records.
 * All zero at first. */
struct kafka_refill {
  int64_t records, bytes; /* taken since it was woken */
  size_t low;             /* not while more records than these wait */
};

/* A record was taken. */
static inline void kafka_refill_took(struct kafka_refill *r,
                                     const rd_kafka_message_t *m) {
  r->records++;
  r->bytes += (int64_t)(m->len + m->key_len);
}

/* After each look at `queue`, on the thread that polls. */
void kafka_refill(struct kafka_refill *r, struct kafka_client *client,
                  rd_kafka_queue_t *queue);

/* A numeric property of the running client, or `def`. */
int64_t kafka_client_number(struct kafka_client *client, const char *key,
                            int64_t def);

void kafka_client_keep(struct kafka_client *client);

/* Let go; the last one destroys, on this thread, for as long as it takes. */
void kafka_client_release(struct kafka_client *client);

/* Let go and have it destroyed, but wait no longer than `wait_ms`: librdkafka
 * 2.0.2 can hang in its destroy (a deleted topic). Returns 0 when it is gone.
 */
int kafka_client_close(struct kafka_client *client, int wait_ms);

/* "QUEUE_FULL" for RD_KAFKA_RESP_ERR__QUEUE_FULL. */
const char *kafka_code(rd_kafka_resp_err_t err);

/* return nil, message, code; `text` NULL: librdkafka's description. */
int kafka_fail(lua_State *L, rd_kafka_resp_err_t err, const char *text);

/* The same from an error object, which is destroyed first. */
int kafka_fail_error(lua_State *L, rd_kafka_error_t *error);

/* What a client that reads sets besides librdkafka's own defaults; see
 * kafka_consumer.c. */
extern const struct kafka_setting kafka_reading[];

/* ---- kafka_trust.c: words for a certificate that is refused ---- */

void kafka_trust(rd_kafka_conf_t *conf);

/* ---- kafka_list.c: lists of topic, partition, offset ---- */

/* What an entry of a list must say of its offset. */
enum kafka_offset {
  KAFKA_OFFSET_NONE,    /* not looked at */
  KAFKA_OFFSET_EXACT,   /* an integer >= 0 */
  KAFKA_OFFSET_LOGICAL, /* or "earliest", "latest" */
};

void kafka_list_open(lua_State *L); /* the metatable, once */

/* Read { {topic=, partition=, offset=}, ... } at `arg`; `topic` is used where
 * an entry has none. The list belongs to a value pushed on the stack.
 * [-0, +1, v] */
rd_kafka_topic_partition_list_t *
kafka_list_check(lua_State *L, int arg, const char *topic, enum kafka_offset);

/* Push an empty list, owned by the pushed value. [-0, +1, m] */
rd_kafka_topic_partition_list_t *kafka_list_new(lua_State *L, int size);

/* The same entries without what librdkafka hung on to them: a list that was
 * given to it keeps its partitions alive, and destroying the client then waits
 * for ever. So lists that outlive a call are such copies. */
rd_kafka_topic_partition_list_t *
kafka_list_copy(const rd_kafka_topic_partition_list_t *list);

/* Push a table of the entries, with error and code where one failed; offset
 * is left out unless it is >= 0. [-0, +1, m] */
void kafka_list_push(lua_State *L, const rd_kafka_topic_partition_list_t *list);

/* ---- kafka_task.c: work on a thread of its own ---- */

/* Embedded first in what it works on; shared by the thread that waits and the
 * one that works, the last one frees. */
struct kafka_task {
  void (*run)(struct kafka_task *task);
  void (*free)(struct kafka_task *task);
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int done;
  atomic_int refs;
};

void kafka_task_init(struct kafka_task *task, void (*run)(struct kafka_task *),
                     void (*free)(struct kafka_task *));

/* Begin; where no thread can be had it is done here and now. */
void kafka_task_start(struct kafka_task *task);

/* Wait up to `wait_ms`; 1 when it is done. */
int kafka_task_wait(struct kafka_task *task, int wait_ms);

void kafka_task_release(struct kafka_task *task);

/* ---- kafka_job.c: calls of librdkafka that block ---- */

struct kafka_job {
  struct kafka_task task;
  struct kafka_client *client; /* kept until the call has ended */
  int timeout_ms;              /* for run: of this attempt */
  atomic_int given_up;         /* nobody waits any more */
  rd_kafka_resp_err_t err;
  char text[KAFKA_TEXT_MAX]; /* more about err, or empty */
  /* Input and output of the call; owned. */
  rd_kafka_topic_partition_list_t *list;
  rd_kafka_topic_partition_list_t *more;
  const struct rd_kafka_metadata *metadata;
  char *name;
  int32_t number;
  void (*run)(struct kafka_job *job);
};

void kafka_job_open(lua_State *L); /* the metatable, once */

/* Push a new job, owned by the pushed value. [-0, +1, m] */
struct kafka_job *kafka_job_new(lua_State *L, struct kafka_client *client,
                                int timeout_ms);

/* Run job->run on a thread of its own and wait for it in slices. Returns 0, or
 * pushes nil, message, code and returns 3: job->err, TIMED_OUT, INTERRUPTED.
 * A job that did not end goes on alone to the end of its attempt, and frees
 * itself. */
int kafka_job_run(lua_State *L, struct kafka_job *job);

/* Job bodies used by consumer and admin. */
void kafka_job_watermarks(
    struct kafka_job *job); /* list -> low, more -> high */
void kafka_job_times(struct kafka_job *job);
void kafka_job_metadata(struct kafka_job *job);
void kafka_job_committed(struct kafka_job *job);

/* handle:watermarks and :offsets_for_time, the same for consumer and admin. */
int kafka_watermarks(lua_State *L, struct kafka_client *client,
                     const char *topic);
int kafka_offsets_for_time(lua_State *L, struct kafka_client *client,
                           const char *topic);

/* ---- one file each ---- */

void kafka_consumer_open(lua_State *L);
void kafka_reader_open(lua_State *L);
void kafka_producer_open(lua_State *L);
void kafka_admin_open(lua_State *L);
void kafka_broker_open(lua_State *L);
int kafka_consumer_new(lua_State *L);
int kafka_reader_new(lua_State *L);
int kafka_producer_new(lua_State *L);
int kafka_admin_new(lua_State *L);
int kafka_broker_new(lua_State *L);

static inline void kafka_set_int(lua_State *L, const char *key, int64_t v) {
  lua_pushinteger(L, (lua_Integer)v);
  lua_setfield(L, -2, key);
}

static inline void kafka_set_str(lua_State *L, const char *key, const char *v) {
  lua_pushstring(L, v);
  lua_setfield(L, -2, key);
}

static inline void kafka_set_bool(lua_State *L, const char *key, int v) {
  lua_pushboolean(L, v);
  lua_setfield(L, -2, key);
}

#endif
