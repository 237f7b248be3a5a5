/* kafka_producer.h - what the files of the producer share. Private to them. */
#ifndef HOST_KAFKA_PRODUCER_H
#define HOST_KAFKA_PRODUCER_H

#include "kafka.h"

#define PRODUCER "producer"

enum {
  FAILED_MAX = 100,
  FAILED_KEY_MAX = 64,
  KAFKA_TOPICS_MAX = 64,
  LATENCY_SUB = 8, /* buckets a power of two: within 12.5 % */
  LATENCY_BUCKETS = 40 * LATENCY_SUB
};

struct failed {
  rd_kafka_resp_err_t err;
  int32_t partition;
  char topic[KAFKA_TOPIC_MAX];
  char key[FAILED_KEY_MAX];
  size_t key_len; /* cut at FAILED_KEY_MAX */
  int has_key;
};

struct producer {
  struct handle h;
  struct kafka_client *client;
  rd_kafka_topic_t *topics[KAFKA_TOPICS_MAX];
  int topic_count;
  int transactional;
  int abandoned;                   /* do not wait for its end */
  struct transaction *transaction; /* a call under way, or its outcome */
  /* Guarded by client->owned: a transaction's call may report, too. */
  /* since the last poll */
  int64_t delivered;
  int64_t failures;
  struct failed *failed; /* FAILED_MAX */
  size_t failed_count;
  /* since the start */
  int64_t sent, sent_bytes, total_delivered, total_failed, queue_full;
  int64_t latency[LATENCY_BUCKETS]; /* microseconds from send to ack */
  int64_t latency_max;
};

struct producer *producer_check(lua_State *L);

/* ---- kafka_transaction.c ---- */

/* Add the methods of transactions to the producer's. */
void kafka_transaction_open(lua_State *L);

/* Is there an outcome that was not asked for yet? */
int kafka_transaction_done(struct producer *p);

/* Let the call under way go on alone. */
void kafka_transaction_close(struct producer *p);

#endif
