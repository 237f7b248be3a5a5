/* kafka_group.c - a consumer without Lua. See kafka_group.h.
 *
 * librdkafka 2.0.2 can lose records in a batch call: when its own thread
 * pauses the partitions for a rebalance while a batch is being filled, it
 * takes the records read so far out of the batch again but resumes behind
 * them. So after every answer to a rebalance the partitions that stay are
 * sent back to the position kept here, before anything more is handed over. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kafka_group.h"

struct kafka_part *kafka_group_part(struct kafka_group *g, int32_t partition) {
  if (partition < 0 || partition >= g->parts_count)
    return NULL;
  return &g->parts[partition];
}


/* The part of `partition`, made if need be; NULL: out of memory. */
static struct kafka_part *group_make(struct kafka_group *g, int32_t partition) {
  if (partition >= g->parts_count) {
    size_t count = (size_t)partition + 1;
    struct kafka_part *p = realloc(g->parts, count * sizeof *p);
    if (p == NULL)
      return NULL;
    size_t old = (size_t)g->parts_count;
    memset(p + old, 0, (count - old) * sizeof *p);
    g->parts = p;
    g->parts_count = partition + 1;
  }
  return &g->parts[partition];
}


/* rd_kafka_rebalance_protocol asks the group's thread, which answers NULL or
 * never while the group ends; the strategies configured tell the same. */
int kafka_group_cooperative(rd_kafka_t *rk) {
  char strategies[256];
  size_t size = sizeof strategies;
  if (rd_kafka_conf_get(rd_kafka_conf(rk), "partition.assignment.strategy",
                        strategies, &size) != RD_KAFKA_CONF_OK)
    return 0;
  return strstr(strategies, "cooperative") != NULL;
}


/* Give back what a rebalance takes, or refuse what it gives, now. */
void kafka_group_let_go(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                        rd_kafka_topic_partition_list_t *list) {
  if (kafka_group_cooperative(rk) &&
      err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
    rd_kafka_error_t *error = rd_kafka_incremental_unassign(rk, list);
    if (error != NULL)
      rd_kafka_error_destroy(error);
  } else {
    rd_kafka_assign(rk, NULL);
  }
}


/* Inside a poll, on the polling thread: only write it down. */
static void group_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                            rd_kafka_topic_partition_list_t *list,
                            void *opaque) {
  struct kafka_client *client = opaque;
  struct kafka_group *g = client->owner;
  if (g != NULL && err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    g->rebalances++;
    kafka_feed_rebalance(&client->feed, KAFKA_ASSIGN, list);
  } else if (g != NULL && err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) {
    g->rebalances++;
    kafka_feed_rebalance(
        &client->feed, rd_kafka_assignment_lost(rk) ? KAFKA_LOST : KAFKA_REVOKE,
        list);
  } else {
    kafka_feed_error(&client->feed, err, 0, NULL, -1, -1, NULL);
    kafka_group_let_go(rk, err, list);
  }
}


/* The result of an asynchronous commit to the group; only failures matter. */
static void group_committed(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                            rd_kafka_topic_partition_list_t *list,
                            void *opaque) {
  struct kafka_client *client = opaque;
  (void)rk;
  (void)list;
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR && err != RD_KAFKA_RESP_ERR__NO_OFFSET)
    kafka_feed_error(&client->feed, err, 0, NULL, -1, -1,
                     "the commit to the group failed");
}


void kafka_group_callbacks(struct kafka_client *client) {
  rd_kafka_conf_set_rebalance_cb(client->conf, group_rebalance);
  rd_kafka_conf_set_offset_commit_cb(client->conf, group_committed);
}


static void group_wake(struct kafka_group *g) {
  uint64_t one = 1;
  if (write(g->fd, &one, sizeof one) < 0) {
    /* EAGAIN: it is readable already */
  }
}


int kafka_group_init(struct kafka_group *g) {
  static const uint64_t one = 1;
  g->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (g->fd < 0)
    return -1;
  g->client->owner = g;
  rd_kafka_poll_set_consumer(g->client->rk);
  g->queue = rd_kafka_queue_get_consumer(g->client->rk);
  if (g->queue == NULL)
    return -1;
  rd_kafka_queue_io_event_enable(g->queue, g->fd, &one, sizeof one);
  return 0;
}


void kafka_group_wait(struct kafka_group *g, int timeout_ms) {
  struct pollfd p = {.fd = g->fd, .events = POLLIN};
  poll(&p, 1, timeout_ms); /* a signal ends it early, as it should */
}


void kafka_group_drain(struct kafka_group *g) {
  uint64_t count;
  if (read(g->fd, &count, sizeof count) < 0) {
    /* EAGAIN: nothing was signalled */
  }
}


static const char *group_topic_of(const rd_kafka_message_t *m) {
  return m->rkt != NULL ? rd_kafka_topic_name(m->rkt) : NULL;
}


static int group_end(struct kafka_group *g, struct batch *b,
                     const rd_kafka_message_t *m) {
  struct kafka_part *p = kafka_group_part(g, m->partition);
  if (p == NULL || !p->assigned || p->reseek || m->offset < p->next) {
    g->stale++;
    return BATCH_OK;
  }
  int err = batch_end(b, m->partition, m->offset);
  if (err == BATCH_OK) {
    p->next = m->offset; /* past control records that were not handed over */
    g->ends++;
  }
  return err;
}


/* An error in the place of a record. */
static void group_failed(struct kafka_group *g, const rd_kafka_message_t *m) {
  struct kafka_part *p = kafka_group_part(g, m->partition);
  if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET && p != NULL)
    p->stopped = 1;
  if (m->err == RD_KAFKA_RESP_ERR__FATAL) {
    kafka_client_fatal(g->client);
    return;
  }
  kafka_feed_error(&g->client->feed, m->err, 0, group_topic_of(m), m->partition,
                   m->offset, rd_kafka_message_errstr(m));
}


static int group_record(struct kafka_group *g, struct batch *b,
                        const rd_kafka_message_t *m) {
  struct kafka_part *p = kafka_group_part(g, m->partition);
  if (p == NULL || !p->assigned || p->reseek || m->offset < p->next) {
    g->stale++;
    return BATCH_OK;
  }
  rd_kafka_timestamp_type_t type;
  int64_t stamp = rd_kafka_message_timestamp(m, &type);
  int err = batch_add(b, m->partition, m->offset, stamp, m->key, m->key_len,
                      m->payload, m->len);
  if (err == BATCH_OK) {
    p->next = m->offset + 1;
    g->records++;
    g->bytes += (int64_t)(m->len + m->key_len);
    kafka_refill_took(&g->refill, m);
  } else {
    p->reseek = 1; /* it comes again */
  }
  return err;
}


static int group_message(struct kafka_group *g, struct batch *b,
                         const rd_kafka_message_t *m) {
  if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
    return group_record(g, b, m);
  if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
    return group_end(g, b, m);
  group_failed(g, m);
  return BATCH_OK;
}


/* Send the marked partitions back to the position kept here. One that is paused
 * waits until it is resumed: nothing of it is handed over before. */
static void group_reseek(struct kafka_group *g) {
  rd_kafka_topic_partition_list_t *list = NULL;
  for (int32_t i = 0; i < g->parts_count; i++) {
    struct kafka_part *p = &g->parts[i];
    if (!p->reseek || !p->assigned || p->paused)
      continue;
    if (list == NULL)
      list = rd_kafka_topic_partition_list_new(8);
    rd_kafka_topic_partition_list_add(list, g->topic, i)->offset = p->next;
  }
  if (list == NULL)
    return;
  kafka_group_seek(g, list, KAFKA_RESEEK_MS);
  g->reseeks += list->cnt;
  rd_kafka_topic_partition_list_destroy(list);
}


static int group_room(struct kafka_group *g, size_t max) {
  if (max <= g->messages_cap)
    return 0;
  rd_kafka_message_t **m = realloc(g->messages, max * sizeof *m);
  if (m == NULL)
    return -1;
  g->messages = m;
  g->messages_cap = max;
  return 0;
}


int64_t kafka_group_take(struct kafka_group *g, struct batch *b, size_t max) {
  if (group_room(g, max) != 0)
    return -1;
  /* Before the queue is read: what arrives from here on signals again. */
  kafka_group_drain(g);
  group_reseek(g);
  ssize_t n = rd_kafka_consume_batch_queue(g->queue, 0, g->messages, max);
  int failed = BATCH_OK;
  g->polls++;
  for (ssize_t i = 0; i < n; i++) {
    rd_kafka_message_t *m = g->messages[i];
    int err = group_message(g, b, m);
    if (err != BATCH_OK)
      failed = err;
    rd_kafka_message_destroy(m);
  }
  kafka_refill(&g->refill, g->client, g->queue);
  /* librdkafka signals only when its queue was empty. */
  if (n == (ssize_t)max)
    group_wake(g);
  return failed == BATCH_OK ? (int64_t)b->count : -1;
}


static int group_cooperative(const struct kafka_group *g) {
  return !g->manual && kafka_group_cooperative(g->client->rk);
}


/* Everything that stays assigned goes back to its position. */
static void group_mark(struct kafka_group *g) {
  for (int32_t i = 0; i < g->parts_count; i++) {
    struct kafka_part *p = &g->parts[i];
    if (p->assigned && p->next >= 0 && !p->stopped)
      p->reseek = 1;
  }
}


void kafka_group_forget(struct kafka_group *g) {
  for (int32_t i = 0; i < g->parts_count; i++)
    memset(&g->parts[i], 0, sizeof g->parts[i]);
}


rd_kafka_error_t *kafka_group_error(rd_kafka_resp_err_t err) {
  return err == RD_KAFKA_RESP_ERR_NO_ERROR
             ? NULL
             : rd_kafka_error_new(err, "%s", rd_kafka_err2str(err));
}


/* Remember `list` as assigned; NULL or an error. */
static rd_kafka_error_t *
group_remember(struct kafka_group *g,
               const rd_kafka_topic_partition_list_t *list, int paused) {
  for (int i = 0; i < list->cnt; i++) {
    const rd_kafka_topic_partition_t *e = &list->elems[i];
    struct kafka_part *p = group_make(g, e->partition);
    if (p == NULL)
      return rd_kafka_error_new(RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE,
                                "out of memory");
    memset(p, 0, sizeof *p);
    p->assigned = 1;
    p->paused = (uint8_t)paused;
    p->next = e->offset >= 0                           ? e->offset
              : e->offset == RD_KAFKA_OFFSET_BEGINNING ? 0
                                                       : -1;
  }
  return NULL;
}


static rd_kafka_error_t *group_gone(void) {
  return rd_kafka_error_new(RD_KAFKA_RESP_ERR__STATE,
                            "the consumer has left its group");
}


/* Assign `list` in the way of the group's protocol. */
static rd_kafka_error_t *group_add(struct kafka_group *g,
                                   rd_kafka_topic_partition_list_t *list) {
  rd_kafka_t *rk = g->client->rk;
  rd_kafka_error_t *error;
  /* The flag outlives assignments: nothing is fetched before the pause below.
   */
  rd_kafka_pause_partitions(rk, list);
  if (group_cooperative(g)) {
    error = rd_kafka_incremental_assign(rk, list);
    if (error == NULL)
      group_mark(g);
  } else {
    error = kafka_group_error(rd_kafka_assign(rk, list));
    if (error == NULL)
      kafka_group_forget(g);
  }
  if (error != NULL)
    return error;
  error = group_remember(g, list, 1);
  /* Pausing also makes records of an earlier assignment stale, at once. */
  rd_kafka_pause_partitions(rk, list);
  group_reseek(g);
  return error;
}


rd_kafka_error_t *
kafka_group_assign(struct kafka_group *g,
                   const rd_kafka_topic_partition_list_t *list) {
  if (g->ended)
    return group_gone();
  rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
  rd_kafka_error_t *error = group_add(g, own);
  rd_kafka_topic_partition_list_destroy(own);
  return error;
}


/* Drop entries that are not assigned: the group may revoke what the script
 * never took. */
static void group_filter(struct kafka_group *g,
                         rd_kafka_topic_partition_list_t *list) {
  for (int i = list->cnt - 1; i >= 0; i--) {
    struct kafka_part *p = kafka_group_part(g, list->elems[i].partition);
    if (p == NULL || !p->assigned)
      rd_kafka_topic_partition_list_del_by_idx(list, i);
  }
}


rd_kafka_error_t *
kafka_group_unassign(struct kafka_group *g,
                     const rd_kafka_topic_partition_list_t *list) {
  rd_kafka_t *rk = g->client->rk;
  rd_kafka_error_t *error;
  if (g->ended)
    return group_gone();
  if (!group_cooperative(g)) {
    error = kafka_group_error(rd_kafka_assign(rk, NULL));
    if (error == NULL)
      kafka_group_forget(g);
    return error;
  }
  rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
  group_filter(g, own);
  error = rd_kafka_incremental_unassign(rk, own);
  if (error == NULL) {
    for (int i = 0; i < own->cnt; i++)
      memset(&g->parts[own->elems[i].partition], 0, sizeof *g->parts);
    group_mark(g);
    group_reseek(g);
  }
  rd_kafka_topic_partition_list_destroy(own);
  return error;
}


rd_kafka_error_t *
kafka_group_manual(struct kafka_group *g,
                   const rd_kafka_topic_partition_list_t *list) {
  rd_kafka_topic_partition_list_t *own = kafka_list_copy(list);
  rd_kafka_error_t *error =
      kafka_group_error(rd_kafka_assign(g->client->rk, own));
  if (error == NULL) {
    g->manual = 1;
    kafka_group_forget(g);
    error = group_remember(g, own, 0);
  }
  if (error == NULL)
    rd_kafka_resume_partitions(g->client->rk, own);
  rd_kafka_topic_partition_list_destroy(own);
  return error;
}
