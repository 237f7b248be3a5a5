/* kafka_lane.c - one librdkafka instance and the thread that reads it. See
 * kafka_lane.h.
 *
 * The simple consumer of librdkafka, not the group's: partitions are started at
 * an exact offset and stopped one by one, into a queue that holds nothing but
 * their records. Such a queue may be served by callback, which takes its lock
 * once for all that waits instead of once a record. Starts and stops are done
 * by the lane's own thread, between two batches, so that no batch is half of
 * before and half of after. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kafka_lane.h"
#include "mono.h"
#include "thread.h"

enum {
  WAIT_MS = 200, /* between two looks for errors when nothing comes */
  ARENA_KEPT = 4 * LANE_BYTES,
  LATE_MS = 1000 /* the process may have been stopped while it waited */
};

struct lane_part {
  int64_t next; /* the first offset not handed over */
  uint8_t started;
  uint8_t again; /* a record could not be kept: start again at next */
};

struct lane {
  atomic_int refs; /* the owner and the thread */
  struct kafka_client *client;
  rd_kafka_topic_t *topic;
  rd_kafka_queue_t *queue;
  int fd;

  /* of the thread */
  struct lane_part *parts; /* by partition */
  int32_t parts_count;
  struct batch filling;
  struct kafka_refill refill;
  int again;            /* some partition is to be started again */
  struct box_work *use; /* the work, as of the last look */
  struct lane_stats counted;

  /* under the lock */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct batch ready[LANE_READY];
  size_t first, waiting;
  rd_kafka_topic_partition_list_t *orders;
  struct box_work *work;
  int failed; /* out of memory: to be told once */
  int end, gone;
  struct lane_stats stats;
};


static struct lane_part *lane_part(struct lane *l, int32_t partition) {
  return partition >= 0 && partition < l->parts_count ? &l->parts[partition]
                                                      : NULL;
}


static struct lane_part *lane_make(struct lane *l, int32_t partition) {
  if (partition >= l->parts_count) {
    size_t count = (size_t)partition + 1, old = (size_t)l->parts_count;
    struct lane_part *p = realloc(l->parts, count * sizeof *p);
    if (p == NULL)
      return NULL;
    memset(p + old, 0, (count - old) * sizeof *p);
    l->parts = p;
    l->parts_count = partition + 1;
  }
  return &l->parts[partition];
}


static void lane_signal(struct lane *l) {
  uint64_t one = 1;
  if (write(l->fd, &one, sizeof one) < 0) {
    /* EAGAIN: it is readable already */
  }
}


/* ---- the thread: records ------------------------------------------------ */

/* What could not be kept comes again. */
static void lane_lost(struct lane *l, struct lane_part *p) {
  p->again = 1;
  l->again = 1;
}


static void lane_record(struct lane *l, const rd_kafka_message_t *m) {
  struct lane_part *p = lane_part(l, m->partition);
  if (p == NULL || !p->started || p->again || m->offset < p->next) {
    l->counted.stale++;
    return;
  }
  rd_kafka_timestamp_type_t type;
  int64_t stamp = rd_kafka_message_timestamp(m, &type);
  if (batch_add(&l->filling, m->partition, m->offset, stamp, m->key, m->key_len,
                m->payload, m->len) != BATCH_OK) {
    lane_lost(l, p);
    return;
  }
  p->next = m->offset + 1;
  kafka_refill_took(&l->refill, m);
}


static void lane_end(struct lane *l, const rd_kafka_message_t *m) {
  struct lane_part *p = lane_part(l, m->partition);
  if (p == NULL || !p->started || p->again || m->offset < p->next) {
    l->counted.stale++;
  } else if (batch_end(&l->filling, m->partition, m->offset) == BATCH_OK) {
    p->next = m->offset; /* past control records that were not handed over */
    l->counted.ends++;
  } else {
    lane_lost(l, p);
  }
}


/* An error in the place of a record. */
static void lane_error(struct lane *l, const rd_kafka_message_t *m) {
  const struct lane_part *p = lane_part(l, m->partition);
  if (m->err == RD_KAFKA_RESP_ERR__FATAL)
    kafka_client_fatal(l->client);
  else if (p != NULL && p->started)
    kafka_feed_error(&l->client->feed, m->err, 0, rd_kafka_topic_name(l->topic),
                     m->partition, m->offset, rd_kafka_message_errstr(m));
  lane_signal(l);
}


/* Inside rd_kafka_consume_callback_queue, on the lane's thread. */
static void lane_message(rd_kafka_message_t *m, void *opaque) {
  struct lane *l = opaque;
  if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
    lane_record(l, m);
  else if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
    lane_end(l, m);
  else
    lane_error(l, m);
  /* The rest goes back to the head of the queue. */
  if (l->filling.count >= LANE_ROWS || l->filling.arena_used >= LANE_BYTES)
    rd_kafka_yield(l->client->rk);
}


/* ---- the thread: orders ------------------------------------------------- */

static void lane_stop(struct lane *l, int32_t partition) {
  struct lane_part *p = lane_part(l, partition);
  if (p == NULL || !p->started)
    return;
  rd_kafka_consume_stop(l->topic,
                        partition); /* what was fetched is stale now */
  memset(p, 0, sizeof *p);
}


static rd_kafka_resp_err_t lane_start(struct lane *l, int32_t partition,
                                      int64_t offset) {
  struct lane_part *p = lane_make(l, partition);
  if (p == NULL)
    return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  if (rd_kafka_consume_start_queue(l->topic, partition, offset, l->queue) != 0)
    return rd_kafka_last_error();
  *p = (struct lane_part){.next = offset, .started = 1};
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}


/* Stop and start; then nothing that was read before is handed over. Without the
 * lock: librdkafka is waited for, and who gave the orders waits no longer than
 * it wants. */
static void lane_obey(struct lane *l, rd_kafka_topic_partition_list_t *list) {
  l->counted.behind = 0; /* not known, until the next batch */
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    lane_stop(l, e->partition);
    batch_forget(&l->filling, e->partition);
    e->err = RD_KAFKA_RESP_ERR_NO_ERROR;
    if (e->offset >= 0)
      e->err = lane_start(l, e->partition, e->offset);
    l->counted.starts += e->offset >= 0;
  }
  kafka_client_wake(l->client); /* or a start takes up to a second */
  pthread_mutex_lock(&l->lock);
  for (int i = 0; i < list->cnt; i++)
    for (size_t k = 0; k < l->waiting; k++)
      batch_forget(&l->ready[(l->first + k) % LANE_READY],
                   list->elems[i].partition);
  l->orders = NULL;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
}


/* Go back to what could not be kept. */
static void lane_go_back(struct lane *l) {
  for (int32_t i = 0; i < l->parts_count; i++) {
    struct lane_part *p = &l->parts[i];
    if (!p->again)
      continue;
    int64_t next = p->next;
    lane_stop(l, i);
    rd_kafka_resp_err_t err = lane_start(l, i, next);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
      kafka_feed_error(&l->client->feed, err, 0, rd_kafka_topic_name(l->topic),
                       i, next, NULL);
  }
  l->again = 0;
  pthread_mutex_lock(&l->lock);
  l->failed = 1;
  pthread_mutex_unlock(&l->lock);
}


/* ---- the thread: its life ----------------------------------------------- */

/* How many records the last answers of the brokers told of beyond `next`; those
 * of open transactions are among them. One a partition may be the mark that
 * ends a transaction, which is never handed over: it does not count. */
static int64_t lane_behind(const struct lane *l) {
  int64_t behind = 0;
  for (int32_t i = 0; i < l->parts_count; i++) {
    const struct lane_part *p = &l->parts[i];
    int64_t low, high;
    if (p->started &&
        rd_kafka_get_watermark_offsets(l->client->rk,
                                       rd_kafka_topic_name(l->topic), i, &low,
                                       &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
        high > p->next + 1)
      behind += high - p->next - 1;
  }
  return behind;
}


/* Under the lock. */
static void lane_publish(struct lane *l) {
  struct batch *slot = &l->ready[(l->first + l->waiting) % LANE_READY];
  batch_swap(slot, &l->filling);
  batch_reset(&l->filling);
  if (l->filling.arena_cap > ARENA_KEPT) /* after a burst of large messages */
    batch_free(&l->filling);
  l->waiting++;
  l->counted.records += (int64_t)slot->count;
  for (size_t i = 0; i < slot->count; i++)
    l->counted.bytes += slot->records[i].value.len + slot->records[i].key.len;
  l->counted.behind = lane_behind(l);
  lane_signal(l);
}


/* Orders, and handing over; 0: end. */
static int lane_between(struct lane *l) {
  for (;;) {
    if (l->again)
      lane_go_back(l);
    pthread_mutex_lock(&l->lock);
    rd_kafka_topic_partition_list_t *orders = l->orders;
    int some = l->filling.count > 0 || l->filling.end_count > 0;
    if (orders == NULL && some && l->waiting < LANE_READY) {
      lane_publish(l);
      some = 0;
    }
    int end = l->end, done = orders == NULL && (end || !some);
    if (orders == NULL && !done)
      pthread_cond_wait(&l->changed, &l->lock);
    l->stats = l->counted;
    l->use = l->work;
    pthread_mutex_unlock(&l->lock);
    if (orders != NULL)
      lane_obey(l, orders);
    if (done)
      return !end;
  }
}


static void lane_fill(struct lane *l) {
  rd_kafka_consume_callback_queue(l->queue, WAIT_MS, lane_message, l);
  rd_kafka_poll(l->client->rk, 0); /* errors */
  l->counted.polls++;
  kafka_refill(&l->refill, l->client, l->queue);
  int some = l->filling.count > 0 || l->filling.end_count > 0;
  if (l->use != NULL && some && l->use->run(l->use, &l->filling) != BATCH_OK) {
    /* Half done: all of it comes again. */
    for (size_t i = l->filling.count; i-- > 0;) {
      const struct record *r = &l->filling.records[i];
      struct lane_part *p = &l->parts[r->partition];
      p->next = r->offset;
      lane_lost(l, p);
    }
    for (size_t i = 0; i < l->filling.end_count; i++)
      lane_lost(l, &l->parts[l->filling.ends[i].partition]);
    batch_reset(&l->filling);
  }
}


static void lane_free(struct lane *l) {
  if (atomic_fetch_sub(&l->refs, 1) != 1)
    return;
  for (size_t i = 0; i < LANE_READY; i++)
    batch_free(&l->ready[i]);
  batch_free(&l->filling);
  box_work_release(l->work);
  free(l->parts);
  pthread_mutex_destroy(&l->lock);
  pthread_cond_destroy(&l->changed);
  close(l->fd);
  free(l);
}


static void *lane_thread(void *arg) {
  struct lane *l = arg;
  while (lane_between(l))
    lane_fill(l);
  for (int32_t i = 0; i < l->parts_count; i++)
    lane_stop(l, i);
  rd_kafka_topic_destroy(l->topic);
  rd_kafka_queue_destroy(l->queue);
  kafka_client_release(l->client);
  pthread_mutex_lock(&l->lock);
  l->gone = 1;
  pthread_cond_broadcast(&l->changed);
  pthread_mutex_unlock(&l->lock);
  lane_free(l);
  return NULL;
}


/* ---- the owner ---------------------------------------------------------- */

/* The simple consumer's own commits, to a group that there is not, are off. */
static rd_kafka_topic_t *lane_topic(rd_kafka_t *rk, const char *name) {
  char text[KAFKA_TEXT_MAX];
  rd_kafka_topic_conf_t *conf = rd_kafka_default_topic_conf_dup(rk);
  rd_kafka_topic_conf_set(conf, "auto.commit.enable", "false", text,
                          sizeof text);
  return rd_kafka_topic_new(rk, name, conf);
}


struct lane *lane_new(struct kafka_client *client, const char *topic, int fd) {
  struct lane *l = calloc(1, sizeof *l);
  if (l == NULL)
    return NULL;
  atomic_init(&l->refs, 2);
  l->client = client;
  l->topic = lane_topic(client->rk, topic);
  l->queue = rd_kafka_queue_new(client->rk);
  l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* for a lane that ends late */
  pthread_mutex_init(&l->lock, NULL);
  mono_cond_init(&l->changed);
  if (l->topic != NULL && l->fd >= 0 &&
      thread_start(NULL, 0, lane_thread, l) == 0)
    return l;
  if (l->topic != NULL)
    rd_kafka_topic_destroy(l->topic);
  rd_kafka_queue_destroy(l->queue);
  atomic_store(&l->refs, 1);
  lane_free(l);
  return NULL;
}


void lane_lend(struct lane *lane, struct box_work *work) {
  pthread_mutex_lock(&lane->lock);
  lane->work = work;
  pthread_mutex_unlock(&lane->lock);
}


/* Wait for the answer to the orders, or for the end; under the lock. 0, or -1:
 * not in time. */
static int lane_wait(struct lane *l, int wait_ms, int for_end) {
  struct timespec until = mono_timespec(mono_us() + (int64_t)wait_ms * 1000);
  int err = 0;
  while ((for_end ? !l->gone : l->orders != NULL) && err != ETIMEDOUT)
    err = pthread_cond_timedwait(&l->changed, &l->lock, &until);
  return (for_end ? !l->gone : l->orders != NULL) ? -1 : 0;
}


int lane_go(struct lane *lane, const rd_kafka_topic_partition_list_t *list,
            rd_kafka_resp_err_t *errs) {
  rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
  pthread_mutex_lock(&lane->lock);
  int stuck = lane->orders != NULL; /* the last ones were not answered */
  if (!stuck) {
    lane->orders = own;
    pthread_cond_broadcast(&lane->changed);
    rd_kafka_queue_yield(lane->queue);
    stuck = lane_wait(lane, LANE_ANSWER_MS, 0) != 0 &&
            lane_wait(lane, LATE_MS, 0) != 0;
  }
  pthread_mutex_unlock(&lane->lock);
  if (stuck) /* what the thread may still look at stays */
    return -1;
  for (int i = 0; i < own->cnt; i++)
    errs[i] = own->elems[i].err;
  rd_kafka_topic_partition_list_destroy(own);
  return 0;
}


int lane_take(struct lane *lane, struct batch *b) {
  pthread_mutex_lock(&lane->lock);
  int some = lane->waiting > 0;
  int failed = !some && lane->failed;
  if (some) {
    batch_swap(b, &lane->ready[lane->first]);
    lane->first = (lane->first + 1) % LANE_READY;
    /* The thread waits only when there was no room. */
    if (lane->waiting-- == LANE_READY)
      pthread_cond_broadcast(&lane->changed);
  }
  if (failed)
    lane->failed = 0;
  pthread_mutex_unlock(&lane->lock);
  return failed ? -1 : some;
}


int lane_ready(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  int some = lane->waiting > 0 || lane->failed;
  pthread_mutex_unlock(&lane->lock);
  return some;
}


struct lane_stats lane_statistics(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  struct lane_stats stats = lane->stats;
  pthread_mutex_unlock(&lane->lock);
  return stats;
}


struct kafka_feed *lane_feed(struct lane *lane) {
  return &lane->client->feed;
}


void lane_finish(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  if (!lane->end) { /* the thread, which destroys the queue, does not know yet
                     */
    lane->end = 1;
    pthread_cond_broadcast(&lane->changed);
    rd_kafka_queue_yield(lane->queue);
  }
  pthread_mutex_unlock(&lane->lock);
}


void lane_close(struct lane *lane, int wait_ms) {
  lane_finish(lane);
  pthread_mutex_lock(&lane->lock);
  lane_wait(lane, wait_ms, 1);
  pthread_mutex_unlock(&lane->lock);
  lane_free(lane);
}
