/* kafka_reader.c - the reader of host.kafka: a topic's partitions, as decoded
 * batches, fetched and decoded on threads of its own.
 *
 * A reader is in no group: who reads what is decided elsewhere, and said with
 * start and stop. Its partitions are spread over lanes (kafka_lane.h); a batch
 * comes from one lane, so each partition's records stay in order. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "box.h"
#include "fail.h"
#include "interrupt.h"
#include "kafka_lane.h"
#include "mono.h"
#include "opts.h"

#define READER "kafka reader"

enum { READER_LANES_MAX = 16, CLOSE_MS = 1000, PARTITION_MAX = 1000000 };

struct reader {
  struct handle h;
  struct lane *lanes[READER_LANES_MAX];
  int lane_count;
  int turn; /* the lane that is asked first */
  int finished;
  int decodes;                  /* it was lent a decoder */
  struct kafka_client *opening; /* not yet a lane's: its options may raise */
  int fd;
  char *topic;
  int16_t *lane_of; /* by partition: lane + 1; 0: not started */
  int32_t partitions;
};


static void reader_close(struct handle *h) {
  struct reader *r = (struct reader *)h;
  for (int i = 0; i < r->lane_count; i++)
    lane_finish(r->lanes[i]);
  for (int i = 0; i < r->lane_count; i++)
    lane_close(r->lanes[i], CLOSE_MS);
  if (r->opening != NULL)
    kafka_client_release(r->opening);
  if (r->fd >= 0)
    close(r->fd);
  free(r->topic);
  free(r->lane_of);
}


static struct reader *reader_check(lua_State *L) {
  return handle_check(L, 1, READER);
}


/* A list of this reader's topic. [-0, +1, v] */
static rd_kafka_topic_partition_list_t *
reader_list(lua_State *L, struct reader *r, enum kafka_offset kind) {
  rd_kafka_topic_partition_list_t *list =
      kafka_list_check(L, 2, r->topic, kind);
  for (int i = 0; i < list->cnt; i++) {
    const rd_kafka_topic_partition_t *e = &list->elems[i];
    if (strcmp(e->topic, r->topic) != 0)
      luaL_error(L, "this reader reads topic '%s', not '%s'", r->topic,
                 e->topic);
    if (e->partition >= PARTITION_MAX)
      luaL_error(L, "partition %d is out of range", (int)e->partition);
  }
  return list;
}


/* Room in lane_of for every partition of the list. */
static int reader_room(struct reader *r,
                       const rd_kafka_topic_partition_list_t *list) {
  int32_t need = r->partitions;
  for (int i = 0; i < list->cnt; i++)
    if (list->elems[i].partition >= need)
      need = list->elems[i].partition + 1;
  if (need == r->partitions)
    return 0;
  int16_t *p = realloc(r->lane_of, (size_t)need * sizeof *p);
  if (p == NULL)
    return -1;
  memset(p + r->partitions, 0, (size_t)(need - r->partitions) * sizeof *p);
  r->lane_of = p;
  r->partitions = need;
  return 0;
}


/* The lane with the fewest partitions. */
static int reader_least(const struct reader *r) {
  int counts[READER_LANES_MAX] = {0}, least = 0;
  for (int32_t p = 0; p < r->partitions; p++)
    if (r->lane_of[p] > 0)
      counts[r->lane_of[p] - 1]++;
  for (int i = 1; i < r->lane_count; i++)
    if (counts[i] < counts[least])
      least = i;
  return least;
}


/* Give each lane its part of the list; errors go to the entries. Returns 0, or
 * -1 when a lane does not answer. */
static int reader_go(struct reader *r, rd_kafka_topic_partition_list_t *list,
                     rd_kafka_resp_err_t *errs) {
  int stuck = 0;
  for (int lane = 0; lane < r->lane_count; lane++) {
    rd_kafka_topic_partition_list_t *part =
        rd_kafka_topic_partition_list_new(list->cnt);
    for (int i = 0; i < list->cnt; i++) {
      const rd_kafka_topic_partition_t *e = &list->elems[i];
      if (r->lane_of[e->partition] == lane + 1)
        rd_kafka_topic_partition_list_add(part, e->topic, e->partition)
            ->offset = e->offset;
    }
    if (part->cnt > 0 && r->finished)
      for (int i = 0; i < part->cnt; i++)
        errs[i] = RD_KAFKA_RESP_ERR__DESTROY;
    else if (part->cnt > 0 && lane_go(r->lanes[lane], part, errs) != 0)
      stuck = 1;
    if (!stuck)
      for (int i = 0; i < part->cnt; i++)
        rd_kafka_topic_partition_list_find(list, r->topic,
                                           part->elems[i].partition)
            ->err = errs[i];
    rd_kafka_topic_partition_list_destroy(part);
  }
  return stuck ? -1 : 0;
}


/* Start (`start`) or stop what the list at 2 names. */
static int reader_order(lua_State *L, int start) {
  struct reader *r = reader_check(L);
  rd_kafka_topic_partition_list_t *list =
      reader_list(L, r, start ? KAFKA_OFFSET_EXACT : KAFKA_OFFSET_NONE);
  rd_kafka_resp_err_t *errs =
      lua_newuserdatauv(L, (size_t)list->cnt * sizeof *errs + 1, 0);
  if (reader_room(r, list) != 0)
    return luaL_error(L, "reader: out of memory");
  for (int i = 0; i < list->cnt; i++) {
    rd_kafka_topic_partition_t *e = &list->elems[i];
    if (!start)
      e->offset = RD_KAFKA_OFFSET_INVALID;
    else if (r->lane_of[e->partition] == 0)
      r->lane_of[e->partition] = (int16_t)(reader_least(r) + 1);
  }
  if (reader_go(r, list, errs) != 0)
    return fail(L, KAFKA, "TIMED_OUT",
                "a thread that reads topic '%s' did not answer for %d s",
                r->topic, LANE_ANSWER_MS / 1000);
  int ok = 1;
  for (int i = 0; i < list->cnt; i++) {
    const rd_kafka_topic_partition_t *e = &list->elems[i];
    if (!start || e->err != RD_KAFKA_RESP_ERR_NO_ERROR)
      r->lane_of[e->partition] = 0;
    ok = ok && e->err == RD_KAFKA_RESP_ERR_NO_ERROR;
  }
  kafka_list_push(L, list);
  lua_pushboolean(L, ok);
  return 2;
}


/* reader:start(list) -> list, ok | nil, message, code
 *
 * Read each { partition=, offset= } on from exactly that offset, also one that
 * is being read: nothing that was read of it before is handed over any more.
 * The list again, with code and error where that failed; ok is true when none
 * did. */
static int reader_start(lua_State *L) {
  return reader_order(L, 1);
}


/* reader:stop(list) -> list, ok | nil, message, code
 *
 * Nothing more of these is handed over, until they are started again. */
static int reader_stop(lua_State *L) {
  return reader_order(L, 0);
}


/* reader:decode(decoder)
 *
 * Batches come decoded from now on. Once, before the first start; raises after.
 */
static int reader_decode(lua_State *L) {
  struct reader *r = reader_check(L);
  if (r->partitions > 0)
    return luaL_error(L, "the reader reads already");
  if (r->decodes)
    return luaL_error(L, "the reader has a decoder already");
  for (int i = 0; i < r->lane_count; i++)
    lane_lend(r->lanes[i], box_work_keep(L, 2));
  r->decodes = 1;
  return 0;
}


static int reader_drain(struct reader *r) {
  uint64_t count;
  return read(r->fd, &count, sizeof count) > 0;
}


/* The next batch that waits, of each lane in turn; 1, 0: none, -1: no memory.
 */
static int reader_take(struct reader *r, struct batch *b) {
  static const uint64_t one = 1;
  int took = 0;
  reader_drain(r); /* before the look: what comes from here on signals again */
  for (int i = 0; i < r->lane_count && took == 0 && !r->finished; i++) {
    took = lane_take(r->lanes[r->turn], b);
    r->turn = (r->turn + 1) % r->lane_count;
  }
  for (int i = 0; i < r->lane_count; i++) {
    if (!lane_ready(r->lanes[i]))
      continue;
    if (write(r->fd, &one, sizeof one) < 0) {
      /* EAGAIN: it is readable already */
    }
    break;
  }
  return took;
}


/* reader:poll(batch [, timeout_ms]) -> int
 *
 * Gives the batch new contents: records of one or several partitions, decoded,
 * and ends in batch:ends(); their number. Waits up to timeout_ms (100) for the
 * first; 0 when none came, or only ends, or a signal did. */
static int reader_poll(lua_State *L) {
  struct reader *r = reader_check(L);
  struct batch *b = box_batch(L, 2);
  lua_Integer timeout_ms = luaL_optinteger(L, 3, INTERRUPT_SLICE_MS);
  luaL_argcheck(L, timeout_ms >= 0, 3, "must not be negative");
  int64_t until = mono_ms() + timeout_ms;
  batch_reset(b);
  for (;;) {
    int took = reader_take(r, b);
    if (took < 0)
      return luaL_error(L, "reader: out of memory");
    int64_t left = until - mono_ms();
    if (b->count > 0 || b->end_count > 0 || left <= 0)
      break;
    struct pollfd p = {.fd = r->fd, .events = POLLIN};
    poll(&p, 1, left < INTERRUPT_SLICE_MS ? (int)left : INTERRUPT_SLICE_MS);
    if (interrupt_pending()) {
      interrupt_check(L);
      break;
    }
  }
  lua_pushinteger(L, (lua_Integer)b->count);
  return 1;
}


/* reader:events() -> array   errors and log lines since the last call, as those
 * of a consumer */
static int reader_events(lua_State *L) {
  struct reader *r = reader_check(L);
  lua_newtable(L);
  for (int i = 0; i < r->lane_count && !r->finished; i++)
    kafka_feed_append(L, lane_feed(r->lanes[i]));
  return 1;
}


/* reader:fd() -> int   readable while a batch or an error may wait; poll makes
 * it not readable */
static int reader_fd(lua_State *L) {
  lua_pushinteger(L, reader_check(L)->fd);
  return 1;
}


/* reader:behind() -> bool
 *
 * Is there more than what poll has handed over, as far as the brokers' last
 * answers tell? Records of open transactions count as more. */
static int reader_behind(lua_State *L) {
  struct reader *r = reader_check(L);
  int behind = 0;
  for (int i = 0; i < r->lane_count && !behind; i++)
    behind = lane_ready(r->lanes[i]) || lane_statistics(r->lanes[i]).behind > 0;
  lua_pushboolean(L, behind);
  return 1;
}


/* reader:stats() -> {polls, records, bytes, ends, stale, starts, threads,
 * started}   integers since the start */
static int reader_stats(lua_State *L) {
  struct reader *r = reader_check(L);
  struct lane_stats sum = {0};
  int64_t started = 0;
  for (int i = 0; i < r->lane_count; i++) {
    struct lane_stats s = lane_statistics(r->lanes[i]);
    sum.polls += s.polls;
    sum.records += s.records;
    sum.bytes += s.bytes;
    sum.ends += s.ends;
    sum.stale += s.stale;
    sum.starts += s.starts;
  }
  for (int32_t p = 0; p < r->partitions; p++)
    started += r->lane_of[p] > 0;
  lua_createtable(L, 0, 8);
  kafka_set_int(L, "polls", sum.polls);
  kafka_set_int(L, "records", sum.records);
  kafka_set_int(L, "bytes", sum.bytes);
  kafka_set_int(L, "ends", sum.ends);
  kafka_set_int(L, "stale", sum.stale);
  kafka_set_int(L, "starts", sum.starts);
  kafka_set_int(L, "threads", r->lane_count);
  kafka_set_int(L, "started", started);
  return 1;
}


/* reader:finish()   begin to end, without waiting; close waits, for a second at
 * most. Nothing more comes, and nothing can be started. */
static int reader_finish(lua_State *L) {
  struct reader *r = reader_check(L);
  r->finished = 1;
  for (int i = 0; i < r->lane_count; i++)
    lane_finish(r->lanes[i]);
  return 0;
}


/* One more lane, of a client with the options at 1. Raises. */
static void reader_lane(lua_State *L, struct reader *r) {
  struct kafka_client *client = r->opening = kafka_client_new(kafka_reading);
  if (client == NULL)
    luaL_error(L, "reader: out of memory");
  kafka_client_options(L, 1, client);
  kafka_client_start(L, client, RD_KAFKA_CONSUMER);
  struct lane *lane = lane_new(client, r->topic, r->fd);
  if (lane == NULL)
    luaL_error(L, "reader: no memory or no thread for it");
  r->opening = NULL; /* the lane's now */
  r->lanes[r->lane_count++] = lane;
}


/* kafka.reader{brokers=, topic=, conf={}, threads=1} -> reader
 *
 * `threads` clients, each with a thread that takes and decodes. Raises on
 * unknown options. */
int kafka_reader_new(lua_State *L) {
  static const char *const known[] = {"brokers", "topic", "conf", "threads",
                                      NULL};
  opts_check(L, 1, known);
  lua_settop(L, 1);
  const char *topic = opts_need(L, 1, "topic");
  lua_Integer threads = opts_int(L, 1, "threads", 1, 1, READER_LANES_MAX);
  struct reader *r = handle_new(L, sizeof *r, READER);
  r->topic = strdup(topic);
  r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  r->h.close = reader_close;
  if (r->fd < 0)
    return luaL_error(L, "reader: eventfd: %s", strerror(errno));
  if (r->topic == NULL)
    return luaL_error(L, "reader: out of memory");
  for (lua_Integer i = 0; i < threads; i++)
    reader_lane(L, r);
  return 1;
}


void kafka_reader_open(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"decode", reader_decode}, {"start", reader_start},
      {"stop", reader_stop},     {"poll", reader_poll},
      {"events", reader_events}, {"fd", reader_fd},
      {"behind", reader_behind}, {"stats", reader_stats},
      {"finish", reader_finish}, {NULL, NULL}};
  handle_type(L, READER, methods);
}
