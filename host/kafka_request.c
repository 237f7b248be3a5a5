/* kafka_request.c - one admin request: a queue, an answer, a bounded wait. */
#include <string.h>

#include "fail.h"
#include "interrupt.h"
#include "kafka_request.h"
#include "mono.h"

#define KAFKA_REQUEST "kafka request"

enum { REQUEST_GRACE_MS = 1000, REQUEST_DEFAULT_MS = 5000 };


static void request_close(struct handle *h) {
  struct kafka_request *r = (struct kafka_request *)h;
  if (r->options != NULL)
    rd_kafka_AdminOptions_destroy(r->options);
  if (r->event != NULL)
    rd_kafka_event_destroy(r->event);
  rd_kafka_queue_destroy(r->queue);
  kafka_client_release(r->client);
}


void kafka_request_open(lua_State *L) {
  static const luaL_Reg methods[] = {{NULL, NULL}};
  handle_type(L, KAFKA_REQUEST, methods);
}


struct kafka_request *kafka_request_new(lua_State *L,
                                        struct kafka_client *client,
                                        rd_kafka_admin_op_t op,
                                        int timeout_ms) {
  char text[KAFKA_TEXT_MAX];
  struct kafka_request *r = handle_new(L, sizeof *r, KAFKA_REQUEST);
  r->queue = rd_kafka_queue_new(client->rk);
  kafka_client_keep(client);
  r->client = client;
  r->timeout_ms = timeout_ms;
  r->h.close = request_close;
  r->options = rd_kafka_AdminOptions_new(client->rk, op);
  rd_kafka_AdminOptions_set_request_timeout(r->options, timeout_ms, text,
                                            sizeof text);
  /* Errors and such would pile up in the client that nobody polls. */
  rd_kafka_poll(client->rk, 0);
  return r;
}


static int request_development(struct kafka_client *client, int wait_ms) {
  char *id = rd_kafka_clusterid(client->rk, wait_ms);
  int yes = id != NULL ? strncmp(id, "mockCluster", 11) == 0 : -1;
  if (id != NULL)
    rd_kafka_mem_free(client->rk, id);
  return yes;
}


int kafka_development(struct kafka_client *client) {
  return request_development(client, 0) == 1;
}


int kafka_development_wait(struct kafka_client *client, int timeout_ms) {
  int64_t until = mono_ms() + timeout_ms;
  int yes;
  do
    yes = request_development(client, INTERRUPT_SLICE_MS);
  while (yes < 0 && mono_ms() < until && !interrupt_pending());
  return yes == 1;
}


int kafka_unsupported(lua_State *L, struct kafka_client *client) {
  return fail(L, KAFKA, "UNSUPPORTED", "not offered by the %s",
              kafka_development(client) ? "development broker" : "broker");
}


int kafka_request_fail(lua_State *L, struct kafka_client *client,
                       rd_kafka_resp_err_t err, const char *text) {
  if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE ||
      err == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION)
    return kafka_unsupported(L, client);
  return kafka_fail(L, err, text);
}


static int request_wait(lua_State *L, struct kafka_request *r) {
  int64_t until = mono_ms() + r->timeout_ms + REQUEST_GRACE_MS;
  while (r->event == NULL && mono_ms() < until) {
    r->event = rd_kafka_queue_poll(r->queue, INTERRUPT_SLICE_MS);
    if (r->event == NULL && interrupt_pending()) {
      interrupt_check(L);
      return fail(L, KAFKA, "INTERRUPTED", "stopped by a signal");
    }
  }
  if (r->event == NULL)
    return kafka_fail(L, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
  rd_kafka_resp_err_t err = rd_kafka_event_error(r->event);
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_request_fail(L, r->client, err,
                              rd_kafka_event_error_string(r->event));
  return 0;
}


int kafka_request_wait(lua_State *L, struct kafka_request *r) {
  int failed = request_wait(L, r);
  if (failed)
    handle_close(&r->h);
  return failed;
}


int kafka_timeout(lua_State *L, int arg) {
  lua_Integer ms = luaL_optinteger(L, arg, REQUEST_DEFAULT_MS);
  luaL_argcheck(L, ms > 0 && ms <= 3600000, arg, "timeout out of range");
  return (int)ms;
}
