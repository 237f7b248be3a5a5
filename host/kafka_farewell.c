/* kafka_farewell.c - how a consumer ends. See kafka_group.h.
 *
 * Every step is bounded, though librdkafka 2.0.2 may hang or abort the process
 * in each: the farewell runs on a thread of its own that may be left behind,
 * and a client whose end would abort is not ended. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kafka_group.h"
#include "mono.h"

enum { SETTLE_MS = 500, LATE_MS = 100 };

struct farewell {
  struct kafka_task task;
  struct kafka_client *client; /* kept */
  int wait_ms;
  int closed;
};


/* Has a broker answered the member's JoinGroup? Not to be asked once the group
 * ends: see kafka_group_cooperative. */
static int farewell_joined(const struct kafka_group *g) {
  const char *name = rd_kafka_rebalance_protocol(g->client->rk);
  return name != NULL && strcmp(name, "NONE") != 0;
}


/* 2.0.2 aborts the process when it destroys a member of a cooperative group
 * that ended between the answers to its JoinGroup and its SyncGroup: the sticky
 * assignor frees what it does not have yet. So give the second answer a moment;
 * without it, stop the member, and look again, now that answers to it are no
 * longer heard. Such a client is never destroyed: it stays, idle, to the end of
 * the process. Returns 1 for one of these. */
static int farewell_unsettled(struct kafka_group *g) {
  rd_kafka_t *rk = g->client->rk;
  rd_kafka_message_t *m;
  int64_t until = mono_ms() + SETTLE_MS;
  if (!g->subscribed || !kafka_group_cooperative(rk))
    return 0;
  while (g->rebalances == 0 && farewell_joined(g) && mono_ms() < until)
    if (rd_kafka_consume_batch_queue(g->queue, 20, &m, 1) == 1)
      rd_kafka_message_destroy(m);
  if (g->rebalances > 0)
    return 0;
  rd_kafka_unsubscribe(rk);
  g->client->spared = farewell_joined(g);
  return g->client->spared;
}


/* Answer a rebalance while leaving. Once an assignment was refused the group
 * may end without another answer, and a question to it then would wait for
 * ever: so see first whether it does. */
static void farewell_answer(rd_kafka_t *rk, rd_kafka_event_t *event,
                            int *refused) {
  rd_kafka_resp_err_t err = rd_kafka_event_error(event);
  for (int i = 0; *refused && i < 10 && !rd_kafka_consumer_closed(rk); i++)
    poll(NULL, 0, 5);
  *refused |= err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
  if (!rd_kafka_consumer_closed(rk))
    kafka_group_let_go(rk, err, rd_kafka_event_topic_partition_list(event));
}


/* As events: a record in this queue would make librdkafka's callback form
 * abort the process. */
static void farewell_run(struct kafka_task *task) {
  struct farewell *f = (struct farewell *)task;
  rd_kafka_t *rk = f->client->rk;
  int64_t until = mono_ms() + f->wait_ms;
  int refused = 0;
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_error_t *error = rd_kafka_consumer_close_queue(rk, queue);
  if (error != NULL)
    rd_kafka_error_destroy(error);
  while (error == NULL && !rd_kafka_consumer_closed(rk) && mono_ms() < until) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 20);
    if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_REBALANCE)
      farewell_answer(rk, event, &refused);
    if (event != NULL)
      rd_kafka_event_destroy(event);
  }
  rd_kafka_queue_destroy(queue);
  f->closed = rd_kafka_consumer_closed(rk);
  kafka_client_release(f->client);
}


static void farewell_free(struct kafka_task *task) {
  free(task);
}


/* 0 when the member ended in time. */
static int farewell_say(struct kafka_group *g, int wait_ms) {
  struct farewell *f = calloc(1, sizeof *f);
  if (f == NULL)
    return -1;
  kafka_client_keep(g->client);
  f->client = g->client;
  f->wait_ms = wait_ms;
  kafka_task_init(&f->task, farewell_run, farewell_free);
  kafka_task_start(&f->task);
  int done = kafka_task_wait(&f->task, wait_ms + LATE_MS);
  int closed = done && f->closed;
  kafka_task_release(&f->task);
  return closed ? 0 : -1;
}


int kafka_group_leave(struct kafka_group *g, int wait_ms) {
  int gone = farewell_unsettled(g) ? 0 : farewell_say(g, wait_ms);
  kafka_group_forget(g);
  g->subscribed = 0;
  g->ended = 1;
  return gone;
}


void kafka_group_close(struct kafka_group *g, int leave, int wait_ms) {
  if (g->queue != NULL) {
    rd_kafka_queue_io_event_enable(g->queue, -1, NULL, 0);
    if (!leave)
      farewell_unsettled(g);
    /* Destroying waits for the answer that did not come: let it go on alone. */
    else if (kafka_group_leave(g, wait_ms) != 0)
      wait_ms = 0;
    rd_kafka_queue_destroy(g->queue);
    g->queue = NULL;
  }
  if (g->client != NULL) {
    g->client->owner = NULL;
    kafka_client_close(g->client, wait_ms);
    g->client = NULL;
  }
  if (g->fd >= 0)
    close(g->fd);
  g->fd = -1;
  free(g->topic);
  free(g->parts);
  free(g->messages);
  g->topic = NULL;
  g->parts = NULL;
  g->messages = NULL;
  g->parts_count = 0;
  g->messages_cap = 0;
}
