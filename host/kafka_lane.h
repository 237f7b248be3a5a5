/* kafka_lane.h - one librdkafka instance and the thread that reads it.
 *
 * A lane fetches some partitions of one topic, outside any group, and makes
 * batches of them on a thread of its own: it takes records, runs the work it
 * was lent (decoding), and hands the batch over. What it hands over of a
 * partition is every record from the offset it was started at, once and in
 * order. One thread, the owner's, calls the functions below. No Lua in here. */
#ifndef HOST_KAFKA_LANE_H
#define HOST_KAFKA_LANE_H

#include "box.h"
#include "kafka.h"

enum {
  LANE_READY = 4,         /* batches waiting to be taken */
  LANE_ROWS = 4096,       /* of a batch: it should stay in the cache */
  LANE_BYTES = 1 << 20,   /* ... and large messages be handed over in time */
  LANE_ANSWER_MS = 10000, /* for a start or a stop */
};

struct lane;

/* Counters since the start. */
struct lane_stats {
  int64_t polls, records, bytes, ends, stale, starts;
  int64_t behind; /* records that the brokers had beyond the last batch */
};

/* A lane that reads `topic` with `client`, which is started and from now on the
 * lane's, and signals `fd` (an eventfd) when a batch waits. NULL: no memory, or
 * no thread; the client is still the caller's then. */
struct lane *lane_new(struct kafka_client *client, const char *topic, int fd);

/* Work on every batch before it is handed over, from now on; the reference is
 * the lane's. Once, before the first start. */
void lane_lend(struct lane *lane, struct box_work *work);

/* For each entry: read on from its offset, or with RD_KAFKA_OFFSET_INVALID
 * stop. From the return on nothing comes that was read before. entry->err says
 * how it went. Returns 0, or -1 when the lane does not answer. */
int lane_go(struct lane *lane, const rd_kafka_topic_partition_list_t *list,
            rd_kafka_resp_err_t *errs);

/* Exchange `b` with the oldest batch that waits. 1; 0: none waits; -1: out of
 * memory, the lane has gone back to what could not be kept. */
int lane_take(struct lane *lane, struct batch *b);

/* Does a batch wait? */
int lane_ready(struct lane *lane);

struct lane_stats lane_statistics(struct lane *lane);

struct kafka_feed *lane_feed(struct lane *lane);

/* Begin to end; returns at once. Nothing is handed over any more. */
void lane_finish(struct lane *lane);

/* End, waiting no longer than `wait_ms`; a lane that takes longer ends alone.
 */
void lane_close(struct lane *lane, int wait_ms);

#endif
