/* kafka_feed.c - what librdkafka tells, kept until Lua asks.
 *
 * Log lines come from librdkafka's own threads, the rest from the thread that
 * polls. Log lines and errors are bounded, the oldest stay; rebalances, which
 * must be answered, and errors of partitions are never dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"

enum { FEED_MAX = 256 };


void kafka_feed_init(struct kafka_feed *feed) {
  memset(feed, 0, sizeof *feed);
  pthread_mutex_init(&feed->lock, NULL);
}


static void feed_event_free(struct kafka_event *event) {
  if (event->list != NULL)
    rd_kafka_topic_partition_list_destroy(event->list);
  free(event);
}


void kafka_feed_free(struct kafka_feed *feed) {
  while (feed->head != NULL) {
    struct kafka_event *event = feed->head;
    feed->head = event->next;
    feed_event_free(event);
  }
  pthread_mutex_destroy(&feed->lock);
}


static int feed_is_rebalance(const struct kafka_event *event) {
  return event->type <= KAFKA_LOST;
}


/* Takes `event`, or frees it when the feed is full of lines. */
static void feed_add(struct kafka_feed *feed, struct kafka_event *event) {
  int keep = 1;
  pthread_mutex_lock(&feed->lock);
  feed->serial += event->type != KAFKA_LOG;
  if (!feed_is_rebalance(event)) {
    /* Of a partition it may be the only word of why nothing more comes. */
    keep = feed->lines < FEED_MAX || event->partition >= 0;
    feed->lines += keep;
    feed->dropped += !keep;
  }
  if (keep) {
    if (feed->tail != NULL)
      feed->tail->next = event;
    else
      feed->head = event;
    feed->tail = event;
  }
  pthread_mutex_unlock(&feed->lock);
  if (!keep)
    feed_event_free(event);
}


static struct kafka_event *feed_event(enum kafka_event_type type) {
  struct kafka_event *event = calloc(1, sizeof *event);
  if (event != NULL) {
    event->type = type;
    event->partition = -1;
    event->offset = -1;
  }
  return event;
}


void kafka_feed_log(struct kafka_feed *feed, int level, const char *facility,
                    const char *text) {
  struct kafka_event *event = feed_event(KAFKA_LOG);
  if (event == NULL)
    return;
  event->level = level;
  snprintf(event->topic, sizeof event->topic, "%s", facility);
  snprintf(event->text, sizeof event->text, "%s", text);
  feed_add(feed, event);
}


void kafka_feed_error(struct kafka_feed *feed, rd_kafka_resp_err_t err,
                      int fatal, const char *topic, int32_t partition,
                      int64_t offset, const char *text) {
  struct kafka_event *event = feed_event(KAFKA_ERROR);
  if (event == NULL)
    return;
  event->fatal = fatal;
  event->partition = partition;
  event->offset = offset;
  snprintf(event->code, sizeof event->code, "%s", kafka_code(err));
  snprintf(event->topic, sizeof event->topic, "%s", topic != NULL ? topic : "");
  snprintf(event->text, sizeof event->text, "%s",
           text != NULL && *text != '\0' ? text : rd_kafka_err2str(err));
  feed_add(feed, event);
}


void kafka_feed_rebalance(struct kafka_feed *feed, enum kafka_event_type type,
                          const rd_kafka_topic_partition_list_t *list) {
  struct kafka_event *event = feed_event(type);
  if (event == NULL)
    return; /* unanswered: max.poll.interval.ms takes the partitions away */
  event->list = kafka_list_copy(list);
  feed_add(feed, event);
}


int64_t kafka_feed_serial(struct kafka_feed *feed) {
  pthread_mutex_lock(&feed->lock);
  int64_t serial = feed->serial;
  pthread_mutex_unlock(&feed->lock);
  return serial;
}


/* [-0, +1] */
static void feed_push_event(lua_State *L, const struct kafka_event *event) {
  static const char *const types[] = {"assign", "revoke", "lost", "error",
                                      "log"};
  lua_createtable(L, 0, 8);
  kafka_set_str(L, "type", types[event->type]);
  if (feed_is_rebalance(event)) {
    kafka_list_push(L, event->list);
    lua_setfield(L, -2, "partitions");
    return;
  }
  if (event->type == KAFKA_LOG) {
    kafka_set_int(L, "level", event->level);
    kafka_set_str(L, "facility", event->topic);
    kafka_set_str(L, "text", event->text);
    return;
  }
  kafka_set_str(L, "code", event->code);
  kafka_set_str(L, "message", event->text);
  kafka_set_bool(L, "fatal", event->fatal);
  if (event->topic[0] != '\0')
    kafka_set_str(L, "topic", event->topic);
  if (event->partition >= 0)
    kafka_set_int(L, "partition", event->partition);
  if (event->offset >= 0)
    kafka_set_int(L, "offset", event->offset);
}


/* Forget the first event; only the reader removes, so it is still first. */
static void feed_drop_first(struct kafka_feed *feed) {
  pthread_mutex_lock(&feed->lock);
  struct kafka_event *event = feed->head;
  feed->head = event->next;
  if (feed->head == NULL)
    feed->tail = NULL;
  feed->lines -= !feed_is_rebalance(event);
  pthread_mutex_unlock(&feed->lock);
  feed_event_free(event);
}


void kafka_feed_append(lua_State *L, struct kafka_feed *feed) {
  luaL_checkstack(L, 8, "events");
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  for (;;) {
    pthread_mutex_lock(&feed->lock);
    struct kafka_event *event = feed->head;
    pthread_mutex_unlock(&feed->lock);
    if (event == NULL)
      break;
    /* Pushed first, forgotten after: a raise here loses nothing. */
    feed_push_event(L, event);
    lua_rawseti(L, -2, ++n);
    feed_drop_first(feed);
  }
  pthread_mutex_lock(&feed->lock);
  int64_t dropped = feed->dropped;
  feed->dropped = 0;
  pthread_mutex_unlock(&feed->lock);
  if (dropped > 0) {
    lua_pushfstring(L, "%I further log lines and errors were dropped",
                    (lua_Integer)dropped);
    lua_createtable(L, 0, 4);
    kafka_set_str(L, "type", "log");
    kafka_set_int(L, "level", 4);
    kafka_set_str(L, "facility", "DROPPED");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "text");
    lua_rawseti(L, -3, ++n);
    lua_pop(L, 1);
  }
}


void kafka_feed_push(lua_State *L, struct kafka_feed *feed) {
  lua_newtable(L);
  kafka_feed_append(L, feed);
}
