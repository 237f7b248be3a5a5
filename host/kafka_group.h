/* kafka_group.h - a consumer without Lua: polling, positions, assignment.
 *
 * It keeps, for each partition, the offset that comes next, and hands over
 * every record from there once and in order, whatever librdkafka does around
 * pauses, seeks and rebalances. One thread uses a group at a time. */
#ifndef HOST_KAFKA_GROUP_H
#define HOST_KAFKA_GROUP_H

#include "batch.h"
#include "kafka.h"

struct kafka_part {
  int64_t next; /* the first offset not handed over; -1: not known yet */
  uint8_t assigned;
  uint8_t paused;
  uint8_t reseek;  /* librdkafka's own position may be wrong: seek to next */
  uint8_t stopped; /* librdkafka gave up fetching: offset out of range */
};

struct kafka_group {
  struct kafka_client *client;
  rd_kafka_queue_t *queue;
  char *topic;
  int fd;                   /* eventfd, readable while something may wait */
  int manual;               /* assigned by hand, no group */
  int subscribed;           /* joins a group */
  int ended;                /* has left it */
  struct kafka_part *parts; /* by partition */
  int32_t parts_count;
  rd_kafka_message_t **messages;
  size_t messages_cap;
  struct kafka_refill refill;
  int64_t polls, records, bytes, ends, stale, reseeks, rebalances;
};

/* RESEEK: the longest that a poll waits for librdkafka to take a position. */
enum { KAFKA_POLL_MAX = 100000, KAFKA_RESEEK_MS = 100 };

/* Does the group rebalance cooperatively? */
int kafka_group_cooperative(rd_kafka_t *rk);

/* Give back what a rebalance takes, or refuse what it gives, now. */
void kafka_group_let_go(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                        rd_kafka_topic_partition_list_t *list);

/* Have nothing assigned any more. */
void kafka_group_forget(struct kafka_group *g);

/* Set the callbacks, before the client starts. */
void kafka_group_callbacks(struct kafka_client *client);

/* Start to receive; client->rk exists. Returns 0 or -1 with errno set. */
int kafka_group_init(struct kafka_group *g);

/* Take what waits, up to `max` records, without waiting. The number of rows
 * in `b`, or -1: out of memory (nothing is lost; the records come again). */
int64_t kafka_group_take(struct kafka_group *g, struct batch *b, size_t max);

/* Wait for something to take. */
void kafka_group_wait(struct kafka_group *g, int timeout_ms);

/* Make fd not readable. */
void kafka_group_drain(struct kafka_group *g);

/* Answer an assign event; the partitions start paused. */
rd_kafka_error_t *
kafka_group_assign(struct kafka_group *g,
                   const rd_kafka_topic_partition_list_t *list);

/* Answer a revoke or lost event. */
rd_kafka_error_t *
kafka_group_unassign(struct kafka_group *g,
                     const rd_kafka_topic_partition_list_t *list);

/* Read these partitions without a group, at once. */
rd_kafka_error_t *
kafka_group_manual(struct kafka_group *g,
                   const rd_kafka_topic_partition_list_t *list);

/* Go to each entry's offset; entry->err says how that went. */
void kafka_group_seek(struct kafka_group *g,
                      rd_kafka_topic_partition_list_t *list, int timeout_ms);

/* Pause or resume; entry->err is set where a partition is not assigned. */
void kafka_group_pause(struct kafka_group *g,
                       rd_kafka_topic_partition_list_t *list, int pause);

/* End the membership, waiting no longer than `wait_ms`; a static member stays
 * in the group for its session timeout. Returns 0 when it is done. */
int kafka_group_leave(struct kafka_group *g, int wait_ms);

/* Leave the group if `leave` (a static member stays), waiting no longer than
 * `wait_ms`; then destroy. */
void kafka_group_close(struct kafka_group *g, int leave, int wait_ms);

/* NULL for no error. */
rd_kafka_error_t *kafka_group_error(rd_kafka_resp_err_t err);

struct kafka_part *kafka_group_part(struct kafka_group *g, int32_t partition);

#endif
