/* kafka_transaction.c - the producer's transactions.
 *
 * librdkafka's calls block. The plain ones here wait in slices; transact runs
 * one on a thread of its own, and the loop goes on: its poll ends early when
 * the outcome is there. In librdkafka 2.0.2 a call may hang after errors (even
 * begin_transaction, after a fatal one): then the thread is left behind when
 * the producer is closed. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "interrupt.h"
#include "kafka_producer.h"
#include "mono.h"

enum { WAIT_DEFAULT_MS = 10000, TRANSACT_MS = 30000, RETRY_US = 20000 };

typedef rd_kafka_error_t *(*transaction_call)(rd_kafka_t *rk, int timeout_ms);


/* nil, message, code, kind; takes `error`. */
static int transaction_fail(lua_State *L, rd_kafka_error_t *error) {
  const char *kind = rd_kafka_error_is_fatal(error)             ? "fatal"
                     : rd_kafka_error_txn_requires_abort(error) ? "abort"
                     : rd_kafka_error_is_retriable(error)       ? "retry"
                                                                : "error";
  int n = kafka_fail_error(L, error);
  lua_pushstring(L, kind);
  return n + 1;
}


/* May `error` pass by itself? One that timed out goes on where it was; others
 * (an earlier transaction is still being ended) get a moment. */
static int transaction_again(const rd_kafka_error_t *error, int64_t until) {
  if (!rd_kafka_error_is_retriable(error) || mono_ms() >= until ||
      interrupt_pending())
    return 0;
  if (rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR__TIMED_OUT)
    usleep(RETRY_US);
  return 1;
}


/* The transactional producer at 1; raises when it is another one. */
static struct producer *transaction_check(lua_State *L) {
  struct producer *p = producer_check(L);
  if (!p->transactional)
    luaL_error(L, "this producer has no conf['transactional.id']");
  return p;
}


/* Repeat `call` in slices. */
static int transaction_run(lua_State *L, transaction_call call) {
  struct producer *p = transaction_check(L);
  lua_Integer timeout_ms = luaL_optinteger(L, 2, WAIT_DEFAULT_MS);
  luaL_argcheck(L, timeout_ms >= 0, 2, "must not be negative");
  int64_t until = mono_ms() + timeout_ms;
  for (;;) {
    rd_kafka_error_t *error = call(p->client->rk, INTERRUPT_SLICE_MS);
    if (error == NULL)
      break;
    if (!transaction_again(error, until))
      return transaction_fail(L, error);
    rd_kafka_error_destroy(error);
  }
  lua_pushboolean(L, 1);
  return 1;
}


/* producer:init_transactions([timeout_ms]) -> true | nil, message, code, kind
 *
 * Fences earlier producers of the same transactional.id. kind: "retry" (call
 * again), "abort" (abort the transaction), "fatal" (close), "error". */
static int producer_init_transactions(lua_State *L) {
  return transaction_run(L, rd_kafka_init_transactions);
}


/* producer:begin() -> true | nil, message, code, kind */
static int producer_begin(lua_State *L) {
  struct producer *p = transaction_check(L);
  rd_kafka_error_t *error = rd_kafka_begin_transaction(p->client->rk);
  if (error != NULL)
    return transaction_fail(L, error);
  lua_pushboolean(L, 1);
  return 1;
}


/* producer:commit([timeout_ms]) -> true | nil, message, code, kind
 *
 * Delivers what is queued, then commits. */
static int producer_commit(lua_State *L) {
  return transaction_run(L, rd_kafka_commit_transaction);
}


/* producer:abort([timeout_ms]) -> true | nil, message, code, kind */
static int producer_abort(lua_State *L) {
  return transaction_run(L, rd_kafka_abort_transaction);
}


/* ---- on a thread of its own ---- */

struct transaction {
  struct kafka_task task;
  struct kafka_client *client; /* kept */
  transaction_call call;
  const char *what;
  int timeout_ms;
  rd_kafka_error_t *error; /* the outcome, once it is over */
  atomic_int over;
};


static rd_kafka_error_t *transaction_begin(rd_kafka_t *rk, int timeout_ms) {
  (void)timeout_ms;
  return rd_kafka_begin_transaction(rk);
}


/* At its end the one that waits in poll looks again. */
static void transaction_task(struct kafka_task *task) {
  struct transaction *t = (struct transaction *)task;
  t->error = t->call(t->client->rk, t->timeout_ms);
  atomic_store(&t->over, 1);
  rd_kafka_queue_t *queue = rd_kafka_queue_get_main(t->client->rk);
  rd_kafka_queue_yield(queue);
  rd_kafka_queue_destroy(queue);
}


static void transaction_free(struct kafka_task *task) {
  struct transaction *t = (struct transaction *)task;
  if (t->error != NULL)
    rd_kafka_error_destroy(t->error);
  kafka_client_release(t->client);
  free(t);
}


int kafka_transaction_done(struct producer *p) {
  return p->transaction != NULL && atomic_load(&p->transaction->over);
}


void kafka_transaction_close(struct producer *p) {
  if (p->transaction != NULL)
    kafka_task_release(&p->transaction->task);
  p->transaction = NULL;
}


/* producer:transact(what [, timeout_ms = 30000]) -> true
 *
 * Begins "init_transactions", "begin", "commit" or "abort" and does not wait;
 * `outcome` tells how it ended. One at a time. */
static int producer_transact(lua_State *L) {
  static const char *const names[] = {"init_transactions", "begin", "commit",
                                      "abort", NULL};
  static const transaction_call calls[] = {
      rd_kafka_init_transactions, transaction_begin,
      rd_kafka_commit_transaction, rd_kafka_abort_transaction};
  struct producer *p = transaction_check(L);
  int which = luaL_checkoption(L, 2, NULL, names);
  lua_Integer timeout_ms = luaL_optinteger(L, 3, TRANSACT_MS);
  luaL_argcheck(L, timeout_ms > 0 && timeout_ms <= 3600000, 3, "out of range");
  if (p->transaction != NULL)
    return luaL_error(L, "%s is under way", p->transaction->what);
  struct transaction *t = calloc(1, sizeof *t);
  if (t == NULL)
    return luaL_error(L, "kafka: out of memory");
  kafka_client_keep(p->client);
  t->client = p->client;
  t->call = calls[which];
  t->what = names[which];
  t->timeout_ms = (int)timeout_ms;
  kafka_task_init(&t->task, transaction_task, transaction_free);
  atomic_init(&t->over, 0);
  p->transaction = t;
  kafka_task_start(&t->task);
  lua_pushboolean(L, 1);
  return 1;
}


/* producer:outcome() -> false | what | nil, message, code, kind, what
 *
 * Of the call that transact began: false while it is under way, or when there
 * was none; told once. */
static int producer_outcome(lua_State *L) {
  struct producer *p = producer_check(L);
  if (!kafka_transaction_done(p)) {
    lua_pushboolean(L, 0);
    return 1;
  }
  struct transaction *t = p->transaction;
  const char *what = t->what;
  rd_kafka_error_t *error = t->error;
  t->error = NULL;
  kafka_transaction_close(p);
  if (error == NULL) {
    lua_pushstring(L, what);
    return 1;
  }
  int n = transaction_fail(L, error);
  lua_pushstring(L, what);
  return n + 1;
}


void kafka_transaction_open(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"init_transactions", producer_init_transactions},
      {"begin", producer_begin},
      {"commit", producer_commit},
      {"abort", producer_abort},
      {"transact", producer_transact},
      {"outcome", producer_outcome},
      {NULL, NULL}};
  luaL_getmetatable(L, PRODUCER);
  lua_getfield(L, -1, "__index");
  luaL_setfuncs(L, methods, 0);
  lua_pop(L, 2);
}
