/* kafka_job.c - calls of librdkafka that block, made interruptible.
 *
 * librdkafka has no asynchronous form of these and cannot be told to give one
 * up. So it gets a thread, the Lua thread waits in slices, and a long timeout
 * is made of attempts that double: short ones would never end on a slow link,
 * and one for the whole time would keep the client, its threads and its
 * descriptors long after the caller was interrupted. */
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "interrupt.h"
#include "kafka_request.h"
#include "mono.h"

#define KAFKA_JOB "kafka job"

enum { JOB_GRACE_MS = 1000, JOB_ATTEMPT_MS = 2000 };

struct job_box {
  struct handle h;
  struct kafka_job *job;
};


static void job_box_close(struct handle *h) {
  kafka_task_release(&((struct job_box *)h)->job->task);
}


void kafka_job_open(lua_State *L) {
  static const luaL_Reg methods[] = {{NULL, NULL}};
  handle_type(L, KAFKA_JOB, methods);
}


static void job_free(struct kafka_task *task) {
  struct kafka_job *job = (struct kafka_job *)task;
  if (job->list != NULL)
    rd_kafka_topic_partition_list_destroy(job->list);
  if (job->more != NULL)
    rd_kafka_topic_partition_list_destroy(job->more);
  if (job->metadata != NULL)
    rd_kafka_metadata_destroy(job->metadata);
  free(job->name);
  if (job->client != NULL) /* it never ran */
    kafka_client_release(job->client);
  free(job);
}


static void job_strip(rd_kafka_topic_partition_list_t **list) {
  if (*list == NULL)
    return;
  rd_kafka_topic_partition_list_t *copy = kafka_list_copy(*list);
  rd_kafka_topic_partition_list_destroy(*list);
  *list = copy;
}


/* Did an attempt end for want of time? */
static int job_late(const struct kafka_job *job, int64_t began) {
  return (job->err == RD_KAFKA_RESP_ERR__TIMED_OUT ||
          job->err == RD_KAFKA_RESP_ERR__TRANSPORT ||
          job->err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) &&
         mono_ms() - began >= job->timeout_ms - INTERRUPT_SLICE_MS;
}


/* The last attempt gets what is left: up to thrice the time of the one that
 * would have been next, and all of a timeout of less than 6 s. */
static void job_attempts(struct kafka_job *job) {
  int64_t now = mono_ms(), until = now + job->timeout_ms;
  int last = 0;
  for (int64_t slice = JOB_ATTEMPT_MS; !last; slice *= 2) {
    int64_t began = now, left = until > now ? until - now : 1;
    last = left < 3 * slice;
    job->timeout_ms = (int)(last ? left : slice);
    job->err = RD_KAFKA_RESP_ERR_NO_ERROR;
    job->run(job);
    if (!job_late(job, began) || atomic_load(&job->given_up))
      return;
    now = mono_ms();
  }
}


/* The result must hold nothing of the client: it lives until Lua collects. */
static void job_run(struct kafka_task *task) {
  struct kafka_job *job = (struct kafka_job *)task;
  job_attempts(job);
  job_strip(&job->list);
  job_strip(&job->more);
  kafka_client_release(job->client);
  job->client = NULL;
}


struct kafka_job *kafka_job_new(lua_State *L, struct kafka_client *client,
                                int timeout_ms) {
  struct job_box *box = handle_new(L, sizeof *box, KAFKA_JOB);
  box->job = calloc(1, sizeof *box->job);
  if (box->job == NULL)
    luaL_error(L, "kafka: out of memory");
  kafka_client_keep(client);
  box->job->client = client;
  box->job->timeout_ms = timeout_ms;
  atomic_init(&box->job->given_up, 0);
  kafka_task_init(&box->job->task, job_run, job_free);
  box->h.close = job_box_close;
  return box->job;
}


int kafka_job_run(lua_State *L, struct kafka_job *job) {
  int64_t until = mono_ms() + job->timeout_ms + JOB_GRACE_MS;
  int done = 0;
  kafka_task_start(&job->task);
  while (!done && mono_ms() < until) {
    done = kafka_task_wait(&job->task, INTERRUPT_SLICE_MS);
    if (!done && interrupt_pending()) {
      atomic_store(&job->given_up, 1);
      interrupt_check(L);
      return fail(L, KAFKA, "INTERRUPTED", "stopped by a signal");
    }
  }
  if (!done) {
    atomic_store(&job->given_up, 1);
    return kafka_fail(L, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
  }
  if (job->err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, job->err, job->text);
  return 0;
}


/* 2.0.2's query_watermark_offsets does not keep its timeout and loses a moved
 * leader; this call does both, for all partitions at once. The timestamps -2
 * and -1 stand for the two ends, the high one read-committed when isolation
 * is. */
static rd_kafka_resp_err_t job_bounds(struct kafka_job *job,
                                      rd_kafka_topic_partition_list_t *list,
                                      int64_t which) {
  for (int i = 0; i < list->cnt; i++)
    list->elems[i].offset = which;
  return rd_kafka_offsets_for_times(job->client->rk, list, job->timeout_ms);
}


void kafka_job_watermarks(struct kafka_job *job) {
  if (job->more == NULL)
    job->more = kafka_list_copy(job->list);
  job->err = job_bounds(job, job->list, RD_KAFKA_OFFSET_BEGINNING);
  if (job->err == RD_KAFKA_RESP_ERR_NO_ERROR)
    job->err = job_bounds(job, job->more, RD_KAFKA_OFFSET_END);
}


void kafka_job_times(struct kafka_job *job) {
  job->err =
      rd_kafka_offsets_for_times(job->client->rk, job->list, job->timeout_ms);
}


void kafka_job_committed(struct kafka_job *job) {
  job->err = rd_kafka_committed(job->client->rk, job->list, job->timeout_ms);
}


void kafka_job_metadata(struct kafka_job *job) {
  rd_kafka_t *rk = job->client->rk;
  rd_kafka_topic_t *rkt =
      job->name != NULL ? rd_kafka_topic_new(rk, job->name, NULL) : NULL;
  if (job->name != NULL && rkt == NULL) {
    job->err = rd_kafka_last_error();
    return;
  }
  job->err =
      rd_kafka_metadata(rk, rkt == NULL, rkt, &job->metadata, job->timeout_ms);
  if (rkt != NULL)
    rd_kafka_topic_destroy(rkt);
  if (job->err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return;
  /* Both are known once metadata came, so these do not wait. */
  free(job->name);
  job->name = NULL;
  char *id = rd_kafka_clusterid(rk, 0);
  if (id != NULL) {
    job->name = strdup(id);
    rd_kafka_mem_free(rk, id);
  }
  job->number = rd_kafka_controllerid(rk, 0);
}


/* One partition's bounds: push low, high or fail. */
static int watermarks_one(lua_State *L, struct kafka_job *job) {
  rd_kafka_topic_partition_t *low = &job->list->elems[0];
  rd_kafka_topic_partition_t *high = &job->more->elems[0];
  if (low->err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, low->err, NULL);
  if (high->err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, high->err, NULL);
  lua_pushinteger(L, low->offset);
  lua_pushinteger(L, high->offset);
  return 2;
}


static int watermarks_all(lua_State *L, struct kafka_job *job) {
  lua_createtable(L, job->list->cnt, 0);
  for (int i = 0; i < job->list->cnt; i++) {
    rd_kafka_topic_partition_t *low = &job->list->elems[i];
    rd_kafka_topic_partition_t *high = rd_kafka_topic_partition_list_find(
        job->more, low->topic, low->partition);
    rd_kafka_resp_err_t err = low->err;
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
      err = high->err;
    lua_createtable(L, 0, 5);
    kafka_set_str(L, "topic", low->topic);
    kafka_set_int(L, "partition", low->partition);
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
      kafka_set_int(L, "low", low->offset);
      kafka_set_int(L, "high", high->offset);
    } else {
      kafka_set_str(L, "code", kafka_code(err));
      kafka_set_str(L, "error", rd_kafka_err2str(err));
    }
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}


int kafka_watermarks(lua_State *L, struct kafka_client *client,
                     const char *topic) {
  int one = !lua_istable(L, 2);
  rd_kafka_topic_partition_list_t *list;
  int timeout_ms = kafka_timeout(L, one ? 4 : 3);
  if (one) {
    topic = luaL_checkstring(L, 2);
    lua_Integer partition = luaL_checkinteger(L, 3);
    luaL_argcheck(L, partition >= 0 && partition <= INT32_MAX, 3,
                  "partition out of range");
    list = kafka_list_new(L, 1);
    rd_kafka_topic_partition_list_add(list, topic, (int32_t)partition);
  } else {
    list = kafka_list_check(L, 2, topic, KAFKA_OFFSET_NONE);
  }
  if (list->cnt == 0) {
    lua_newtable(L);
    return 1;
  }
  struct kafka_job *job = kafka_job_new(L, client, timeout_ms);
  job->list = kafka_list_copy(list);
  job->run = kafka_job_watermarks;
  int failed = kafka_job_run(L, job);
  if (failed)
    return failed;
  return one ? watermarks_one(L, job) : watermarks_all(L, job);
}


int kafka_offsets_for_time(lua_State *L, struct kafka_client *client,
                           const char *topic) {
  lua_Integer ms = luaL_checkinteger(L, 3);
  luaL_argcheck(L, ms >= 0, 3, "milliseconds since 1970 expected");
  int timeout_ms = kafka_timeout(L, 4);
  rd_kafka_topic_partition_list_t *list =
      kafka_list_check(L, 2, topic, KAFKA_OFFSET_NONE);
  if (list->cnt == 0) {
    lua_newtable(L);
    return 1;
  }
  for (int i = 0; i < list->cnt; i++)
    list->elems[i].offset = ms;
  struct kafka_job *job = kafka_job_new(L, client, timeout_ms);
  job->list = kafka_list_copy(list);
  job->run = kafka_job_times;
  int failed = kafka_job_run(L, job);
  if (failed)
    return failed;
  if (kafka_development(client)) /* it answers "none" to every time */
    return kafka_unsupported(L, client);
  kafka_list_push(L, job->list);
  return 1;
}
