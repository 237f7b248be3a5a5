/* kafka_leave.c - a static member's LeaveGroup. See kafka_leave.h.
 *
 * The group's coordinator is asked for over a connection of our own: requests
 * of librdkafka wait behind its fetches, up to fetch.wait.max.ms each. Where
 * none of bootstrap.servers answers, librdkafka knows others. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kafka_leave.h"
#include "kafka_request.h"
#include "kafka_wire.h"
#include "mono.h"

enum {
  LATE_MS = 500,             /* its own timeout comes first */
  API_FIND_COORDINATOR = 10, /* version 0 */
  API_LEAVE_GROUP = 13,      /* version 3 */
};

/* Where a broker is, as texts. */
struct place {
  char host[KAFKA_NAME_MAX];
  char port[16];
};

struct kafka_leave {
  struct kafka_task task;
  struct place at; /* the coordinator */
  char group[KAFKA_NAME_MAX];
  char member[KAFKA_NAME_MAX];
  char instance[KAFKA_NAME_MAX];
  char servers[KAFKA_NAME_MAX]; /* some brokers to ask for it, or empty */
  int wait_ms;
  rd_kafka_resp_err_t err;
};


static void leave_free(struct kafka_task *task) {
  free(task);
}


/* Run the task, which is freed. `out`, if given, gets what it has found. */
static rd_kafka_resp_err_t leave_do(struct kafka_leave *leave,
                                    void (*run)(struct kafka_task *),
                                    int wait_ms, struct place *out) {
  leave->wait_ms = wait_ms;
  kafka_task_init(&leave->task, run, leave_free);
  kafka_task_start(&leave->task);
  int done = kafka_task_wait(&leave->task, wait_ms);
  rd_kafka_resp_err_t err = done ? leave->err : RD_KAFKA_RESP_ERR__TIMED_OUT;
  if (done && out != NULL)
    *out = leave->at;
  kafka_task_release(&leave->task);
  return err;
}


/* LeaveGroup of one member, as the instance it is. */
static rd_kafka_resp_err_t leave_say(const struct kafka_leave *leave, int fd,
                                     int64_t until) {
  struct kafka_wire m;
  char text[KAFKA_NAME_MAX];
  kafka_wire_begin(&m, API_LEAVE_GROUP, 3);
  kafka_wire_put(&m, leave->group);
  kafka_wire_put_int(&m, 1, 4); /* one member */
  kafka_wire_put(&m, leave->member);
  kafka_wire_put(&m, leave->instance);
  rd_kafka_resp_err_t err = kafka_wire_ask(fd, &m, until);
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return err;
  kafka_wire_int(&m, 4); /* throttle */
  int16_t said = kafka_wire_error(&m);
  if (kafka_wire_int(&m, 4) > 0 && said == 0) { /* the member's */
    kafka_wire_text(&m, text);
    kafka_wire_text(&m, text);
    said = kafka_wire_error(&m);
  }
  return m.bad ? RD_KAFKA_RESP_ERR__BAD_MSG : (rd_kafka_resp_err_t)said;
}


static void leave_run(struct kafka_task *task) {
  struct kafka_leave *leave = (struct kafka_leave *)task;
  int64_t until = mono_ms() + leave->wait_ms;
  int fd = kafka_wire_connect(leave->at.host, leave->at.port, until);
  leave->err = RD_KAFKA_RESP_ERR__TRANSPORT;
  if (fd < 0)
    return;
  leave->err = leave_say(leave, fd, until);
  close(fd);
}


/* The next of "host:port,[host]:port, PLAINTEXT://host"; 0 at the end. */
static int find_next(const char **servers, struct place *place) {
  char one[KAFKA_NAME_MAX];
  const char *s = *servers + strspn(*servers, ", ");
  size_t len = strcspn(s, ", ");
  *servers = s + len;
  if (len == 0)
    return 0;
  snprintf(one, sizeof one, "%.*s", (int)len, s);
  char *host = strstr(one, "://"), *end;
  host = host != NULL ? host + 3 : one;
  char *port = strrchr(host, ':');
  if (port != NULL && strchr(port, ']') == NULL)
    *port++ = '\0';
  else
    port = NULL;
  if (*host == '[' && (end = strchr(host, ']')) != NULL) {
    *end = '\0';
    host++;
  }
  snprintf(place->host, sizeof place->host, "%s", host);
  snprintf(place->port, sizeof place->port, "%s", port != NULL ? port : "9092");
  return 1;
}


static rd_kafka_resp_err_t find_say(struct kafka_leave *leave, int fd,
                                    int64_t until) {
  struct kafka_wire m;
  kafka_wire_begin(&m, API_FIND_COORDINATOR, 0);
  kafka_wire_put(&m, leave->group);
  rd_kafka_resp_err_t err = kafka_wire_ask(fd, &m, until);
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return err;
  int16_t said = kafka_wire_error(&m);
  kafka_wire_int(&m, 4); /* its id */
  kafka_wire_text(&m, leave->at.host);
  snprintf(leave->at.port, sizeof leave->at.port, "%u", kafka_wire_int(&m, 4));
  return m.bad ? RD_KAFKA_RESP_ERR__BAD_MSG : (rd_kafka_resp_err_t)said;
}


static void find_run(struct kafka_task *task) {
  struct kafka_leave *leave = (struct kafka_leave *)task;
  int64_t until = mono_ms() + leave->wait_ms;
  const char *servers = leave->servers;
  leave->err = RD_KAFKA_RESP_ERR__TRANSPORT;
  while (leave->err != RD_KAFKA_RESP_ERR_NO_ERROR && mono_ms() < until &&
         find_next(&servers, &leave->at)) {
    int fd = kafka_wire_connect(leave->at.host, leave->at.port, until);
    if (fd < 0)
      continue;
    leave->err = find_say(leave, fd, until);
    close(fd);
  }
}


/* The coordinator, by our own question. */
static rd_kafka_resp_err_t leave_find(struct kafka_leave *leave, int wait_ms) {
  struct kafka_leave *find = malloc(sizeof *find);
  if (find == NULL)
    return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  *find = *leave;
  return leave_do(find, find_run, wait_ms, &leave->at);
}


/* A property of the running client. 0, or -1 when it is empty or too long. */
static int leave_property(rd_kafka_t *rk, const char *key, char *value) {
  size_t size = KAFKA_NAME_MAX;
  return rd_kafka_conf_get(rd_kafka_conf(rk), key, value, &size) ==
                     RD_KAFKA_CONF_OK &&
                 size > 1 && size <= KAFKA_NAME_MAX
             ? 0
             : -1;
}


/* The coordinator, from librdkafka's description of the group. */
static rd_kafka_resp_err_t
leave_describe(rd_kafka_t *rk, struct kafka_leave *leave, int wait_ms) {
  char text[KAFKA_TEXT_MAX];
  const char *group = leave->group;
  rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_AdminOptions_t *options =
      rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS);
  rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, text,
                                            sizeof text);
  rd_kafka_DescribeConsumerGroups(rk, &group, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, wait_ms + LATE_MS);
  if (event != NULL)
    err = rd_kafka_event_error(event);
  if (event != NULL && err == RD_KAFKA_RESP_ERR_NO_ERROR) {
    size_t n = 0;
    const rd_kafka_ConsumerGroupDescription_t **groups =
        rd_kafka_DescribeConsumerGroups_result_groups(
            rd_kafka_event_DescribeConsumerGroups_result(event), &n);
    const rd_kafka_Node_t *node =
        n > 0 ? rd_kafka_ConsumerGroupDescription_coordinator(groups[0]) : NULL;
    if (node != NULL) {
      snprintf(leave->at.host, sizeof leave->at.host, "%s",
               rd_kafka_Node_host(node));
      snprintf(leave->at.port, sizeof leave->at.port, "%u",
               rd_kafka_Node_port(node));
    } else {
      err = RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE;
    }
  }
  if (event != NULL)
    rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_queue_destroy(queue);
  return err;
}


static rd_kafka_resp_err_t
leave_coordinator(rd_kafka_t *rk, struct kafka_leave *leave, int wait_ms) {
  if (leave_property(rk, "bootstrap.servers", leave->servers) == 0 &&
      leave_find(leave, wait_ms / 2) == RD_KAFKA_RESP_ERR_NO_ERROR)
    return RD_KAFKA_RESP_ERR_NO_ERROR;
  return leave_describe(rk, leave, wait_ms / 2);
}


struct kafka_leave *kafka_leave_prepare(struct kafka_client *client,
                                        int wait_ms, rd_kafka_resp_err_t *err) {
  rd_kafka_t *rk = client->rk;
  char protocol[KAFKA_NAME_MAX];
  struct kafka_leave *leave = calloc(1, sizeof *leave);
  *err = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  if (leave == NULL)
    return NULL;
  /* Asked for what it lacks here, 2.0.2 aborts the process. */
  *err = RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE;
  char *member = rd_kafka_memberid(rk);
  int known = member != NULL && *member != '\0';
  if (known)
    snprintf(leave->member, sizeof leave->member, "%s", member);
  if (member != NULL)
    rd_kafka_mem_free(rk, member);
  if (!kafka_development(client) &&
      leave_property(rk, "security.protocol", protocol) == 0 &&
      strcmp(protocol, "plaintext") == 0 &&
      leave_property(rk, "group.id", leave->group) == 0 &&
      leave_property(rk, "group.instance.id", leave->instance) == 0)
    *err = known ? leave_coordinator(rk, leave, wait_ms)
                 : RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
  if (*err != RD_KAFKA_RESP_ERR_NO_ERROR) {
    free(leave);
    return NULL;
  }
  return leave;
}


rd_kafka_resp_err_t kafka_leave_send(struct kafka_leave *leave, int wait_ms) {
  return leave_do(leave, leave_run, wait_ms, NULL);
}
