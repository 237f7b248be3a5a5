/* kafka_request.h - one admin request. Private to host.kafka.
 *
 * The request is a value on the stack that owns its queue, options and answer;
 * it keeps the client alive. Close it once the answer was read. */
#ifndef HOST_KAFKA_REQUEST_H
#define HOST_KAFKA_REQUEST_H

#include "kafka.h"

struct kafka_request {
  struct handle h;
  struct kafka_client *client;
  rd_kafka_queue_t *queue;
  rd_kafka_AdminOptions_t *options;
  rd_kafka_event_t *event; /* the answer */
  int timeout_ms;
};

void kafka_request_open(lua_State *L); /* the metatable, once */

/* Push a new request. [-0, +1, m] */
struct kafka_request *kafka_request_new(lua_State *L,
                                        struct kafka_client *client,
                                        rd_kafka_admin_op_t op, int timeout_ms);

/* Wait for the answer. Returns 0, or pushes nil, message, code; returns 3. */
int kafka_request_wait(lua_State *L, struct kafka_request *r);

/* nil, message, code; UNSUPPORTED where the broker lacks the request. */
int kafka_request_fail(lua_State *L, struct kafka_client *client,
                       rd_kafka_resp_err_t err, const char *text);
int kafka_unsupported(lua_State *L, struct kafka_client *client);

/* Is this the development broker? Known once metadata came. */
int kafka_development(struct kafka_client *client);

/* The same, having waited for metadata. Requests for the controller ask first:
 * the development broker names none, and librdkafka waits for one. */
int kafka_development_wait(struct kafka_client *client, int timeout_ms);

/* The timeout at `arg`, by default 5 s. */
int kafka_timeout(lua_State *L, int arg);

/* The client of the admin at argument 1; raises unless it is open. */
struct kafka_client *kafka_admin_client(lua_State *L);

/* Methods of the admin that kafka_groups.c has. */
int kafka_admin_groups(lua_State *L);
int kafka_admin_describe_group(lua_State *L);
int kafka_admin_group_offsets(lua_State *L);
int kafka_admin_delete_group(lua_State *L);

#endif
