/* kafka_seek.c - seek, pause and resume of a consumer, exact. See
 * kafka_group.h.
 *
 * Done on the thread that polls and waited for, these make everything fetched
 * before stale, and librdkafka drops it. What they need around them in 2.0.2
 * is here. */
#include <string.h>
#include <unistd.h>

#include "interrupt.h"
#include "kafka_group.h"
#include "mono.h"

enum { SEEK_PAUSE_US = 2000 };


/* Make librdkafka's flag, which outlives an assignment, what it should be; as
 * a side effect records fetched before become stale. */
static void group_pause_one(struct kafka_group *g, int32_t partition) {
  rd_kafka_topic_partition_list_t *one = rd_kafka_topic_partition_list_new(1);
  rd_kafka_topic_partition_list_add(one, g->topic, partition);
  if (g->parts[partition].paused)
    rd_kafka_pause_partitions(g->client->rk, one);
  else
    rd_kafka_resume_partitions(g->client->rk, one);
  rd_kafka_topic_partition_list_destroy(one);
}


/* All assigned partitions at their positions, `e` at its own. */
static rd_kafka_topic_partition_list_t *
group_assigned(const struct kafka_group *g,
               const rd_kafka_topic_partition_t *e) {
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new(g->parts_count);
  for (int32_t i = 0; i < g->parts_count; i++) {
    const struct kafka_part *p = &g->parts[i];
    if (!p->assigned)
      continue;
    int64_t next = p->next >= 0 ? p->next : RD_KAFKA_OFFSET_END;
    rd_kafka_topic_partition_list_add(list, g->topic, i)->offset =
        i == e->partition ? e->offset : next;
  }
  return list;
}


/* Start again a partition that librdkafka stopped fetching: it refuses to seek
 * it, so it is taken out and put back; alone if the protocol lets us. */
static rd_kafka_resp_err_t group_restart(struct kafka_group *g,
                                         const rd_kafka_topic_partition_t *e) {
  rd_kafka_t *rk = g->client->rk;
  rd_kafka_topic_partition_list_t *list;
  rd_kafka_error_t *error;
  if (!kafka_group_cooperative(rk)) {
    list = group_assigned(g, e);
    error = kafka_group_error(rd_kafka_assign(rk, list));
  } else {
    list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, e->topic, e->partition);
    error = rd_kafka_incremental_unassign(rk, list);
    list->elems[0].offset = e->offset;
    if (error == NULL)
      error = rd_kafka_incremental_assign(rk, list);
  }
  for (int i = 0; error == NULL && i < list->cnt; i++)
    group_pause_one(g, list->elems[i].partition);
  rd_kafka_topic_partition_list_destroy(list);
  rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
  if (error != NULL) {
    err = rd_kafka_error_code(error);
    rd_kafka_error_destroy(error);
  }
  return err;
}


/* One try: the entries that are not settled, together. Returns how many of
 * them may still succeed. */
static int group_seek_try(struct kafka_group *g,
                          rd_kafka_topic_partition_list_t *list) {
  rd_kafka_topic_partition_list_t *todo =
      rd_kafka_topic_partition_list_new(list->cnt);
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    if (e->err == RD_KAFKA_RESP_ERR__IN_PROGRESS)
      rd_kafka_topic_partition_list_add(todo, e->topic, e->partition)->offset =
          e->offset;
  }
  int left = 0;
  if (todo->cnt > 0) {
    /* 2.0.2 waits a thousandth of what it is told: this is 100 ms. */
    rd_kafka_error_t *error =
        rd_kafka_seek_partitions(g->client->rk, todo, 100 * 1000);
    if (error != NULL)
      rd_kafka_error_destroy(error);
  }
  for (int i = 0; i < todo->cnt; i++) {
    rd_kafka_topic_partition_t *t = &todo->elems[i];
    rd_kafka_topic_partition_t *e =
        rd_kafka_topic_partition_list_find(list, t->topic, t->partition);
    /* Just assigned, the fetcher may not have started; a seek that was not
     * confirmed is given again. */
    if (t->err == RD_KAFKA_RESP_ERR__STATE ||
        t->err == RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS ||
        t->err == RD_KAFKA_RESP_ERR__IN_PROGRESS)
      left++;
    else
      e->err = t->err;
  }
  rd_kafka_topic_partition_list_destroy(todo);
  return left;
}


/* Settle the entries that no seek is needed or possible for. */
static void group_seek_begin(struct kafka_group *g,
                             rd_kafka_topic_partition_list_t *list) {
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    struct kafka_part *p = kafka_group_part(g, e->partition);
    if (p == NULL || !p->assigned)
      e->err = RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
    else if (p->stopped)
      e->err = group_restart(g, e);
    else
      e->err = RD_KAFKA_RESP_ERR__IN_PROGRESS;
  }
}


void kafka_group_seek(struct kafka_group *g,
                      rd_kafka_topic_partition_list_t *list, int timeout_ms) {
  int64_t until = mono_ms() + timeout_ms;
  group_seek_begin(g, list);
  while (group_seek_try(g, list) > 0 && mono_ms() < until &&
         !interrupt_pending())
    usleep(SEEK_PAUSE_US);
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    struct kafka_part *p = kafka_group_part(g, e->partition);
    if (e->err == RD_KAFKA_RESP_ERR__IN_PROGRESS)
      e->err = RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (p == NULL || !p->assigned)
      continue;
    /* Not done: nothing is handed over before it is, at the next take. */
    p->reseek = e->err != RD_KAFKA_RESP_ERR_NO_ERROR;
    p->stopped = p->stopped && p->reseek;
    p->next = e->offset;
  }
}


void kafka_group_pause(struct kafka_group *g,
                       rd_kafka_topic_partition_list_t *list, int pause) {
  rd_kafka_topic_partition_list_t *own =
      rd_kafka_topic_partition_list_new(list->cnt);
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    struct kafka_part *p = kafka_group_part(g, e->partition);
    e->err = RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
    if (p == NULL || !p->assigned)
      continue;
    e->err = RD_KAFKA_RESP_ERR_NO_ERROR;
    p->paused = (uint8_t)pause;
    rd_kafka_topic_partition_list_add(own, e->topic, e->partition);
  }
  if (pause) {
    rd_kafka_pause_partitions(g->client->rk, own);
  } else {
    rd_kafka_resume_partitions(g->client->rk, own);
    kafka_client_wake(g->client); /* or it takes up to a second */
  }
  rd_kafka_topic_partition_list_destroy(own);
}
