/* kafka_mock.c - the development broker: librdkafka's mock cluster.
 *
 * Real clients of other processes can connect to it. It keeps about 5 MB or
 * 100,000 records a partition in memory and is gone with the process; it has
 * neither isolation nor fencing. Not for production, and it says so. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fail.h"
#include "kafka.h"
#include "mono.h"
#include "opts.h"

#include <librdkafka/rdkafka_mock.h> /* needs rdkafka.h before it */

#define BROKER "broker"

enum { CLOSE_MS = 1000, GUARD_MS = 5000, BROKERS_MAX = 100 };

struct broker {
  struct handle h;
  struct kafka_client *client;
  rd_kafka_mock_cluster_t *cluster;
  char down[BROKERS_MAX + 1]; /* by id */
};

/* The client around the cluster connects to nothing. */
static const struct kafka_setting defaults[] = {{NULL, NULL}};


static void broker_close(struct handle *h) {
  struct broker *b = (struct broker *)h;
  if (b->cluster != NULL)
    rd_kafka_mock_cluster_destroy(b->cluster);
  b->cluster = NULL;
  kafka_client_close(b->client, CLOSE_MS);
  b->client = NULL;
}


static struct broker *broker_check(lua_State *L) {
  return handle_check(L, 1, BROKER);
}


/* true, or nil, message, code. */
static int broker_result(lua_State *L, rd_kafka_resp_err_t err) {
  if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
    return kafka_fail(L, err, NULL);
  lua_pushboolean(L, 1);
  return 1;
}


/* broker:bootstrap() -> "127.0.0.1:port[,...]" */
static int broker_bootstrap(lua_State *L) {
  lua_pushstring(L, rd_kafka_mock_cluster_bootstraps(broker_check(L)->cluster));
  return 1;
}


/* broker:create_topic(name, partitions) -> true | nil, message, code */
static int broker_create_topic(lua_State *L) {
  struct broker *b = broker_check(L);
  const char *name = luaL_checkstring(L, 2);
  lua_Integer partitions = luaL_checkinteger(L, 3);
  luaL_argcheck(L, partitions > 0 && partitions <= 10000, 3, "out of range");
  return broker_result(
      L, rd_kafka_mock_topic_create(b->cluster, name, (int)partitions, 1));
}


static int32_t broker_id(lua_State *L, int arg) {
  lua_Integer id = luaL_checkinteger(L, arg);
  luaL_argcheck(L, id >= 1 && id <= 1000, arg, "broker ids start at 1");
  return (int32_t)id;
}


/* ---- ports: the library ends the process when it cannot take one again ----
 */

/* The port of broker `id`, or 0: bootstraps are in the order of ids. */
static uint16_t broker_port(const struct broker *b, int32_t id) {
  const char *at = rd_kafka_mock_cluster_bootstraps(b->cluster);
  for (int32_t i = 1; i < id && at != NULL; i++) {
    at = strchr(at, ',');
    at = at != NULL ? at + 1 : NULL;
  }
  at = at != NULL ? strchr(at, ':') : NULL;
  return at != NULL ? (uint16_t)strtoul(at + 1, NULL, 10) : 0;
}


static struct sockaddr_in broker_address(uint16_t port) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
  in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return in;
}


static int broker_socket(void) {
  return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}


/* Wait until something happens to `fd`; 0, or -1 after GUARD_MS. */
static int broker_await(int fd, short events) {
  struct pollfd p = {.fd = fd, .events = events};
  int64_t until = mono_ms() + GUARD_MS;
  for (int64_t left; (left = until - mono_ms()) > 0;)
    if (poll(&p, 1, (int)left) > 0)
      return 0;
  errno = ETIMEDOUT;
  return -1;
}


/* A connection to the port; -1 with errno. */
static int broker_connect(uint16_t port) {
  struct sockaddr_in in = broker_address(port);
  int fd = broker_socket(), error = 0;
  socklen_t size = sizeof error;
  if (fd < 0)
    return -1;
  if (connect(fd, (struct sockaddr *)&in, sizeof in) == 0)
    return fd;
  if (errno == EINPROGRESS && broker_await(fd, POLLOUT) == 0 &&
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0)
    return fd;
  if (error != 0)
    errno = error;
  error = errno;
  close(fd);
  errno = error;
  return -1;
}


/* A connection that holds the port while its listener is closed and bound
 * anew: as long as the broker has accepted one, the system gives the port to
 * nobody who asks for any. Accepting goes by order, so it has happened when
 * the broker ends a second one, at which it reads the end. -1 with errno. */
static int broker_guard(uint16_t port) {
  int guard = broker_connect(port);
  int probe = guard >= 0 ? broker_connect(port) : -1;
  int held = probe >= 0 && shutdown(probe, SHUT_WR) == 0 &&
             broker_await(probe, POLLIN) == 0;
  int error = errno;
  if (probe >= 0)
    close(probe);
  if (guard >= 0 && !held) {
    close(guard);
    guard = -1;
  }
  errno = error;
  return guard;
}


/* Can the broker, which has the port bound, listen there? 0, or an errno. */
static int broker_taken(uint16_t port) {
  struct sockaddr_in in = broker_address(port);
  int fd = broker_socket(), on = 1, error = 0;
  if (fd < 0)
    return errno;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(fd, (struct sockaddr *)&in, sizeof in) != 0)
    error = errno;
  close(fd);
  return error;
}


static int broker_port_fail(lua_State *L, int32_t id, uint16_t port,
                            int error) {
  if (error == EADDRINUSE)
    return fail(L, KAFKA, "IN_USE",
                "port %d of broker %d is taken by another program", (int)port,
                (int)id);
  return fail(L, KAFKA, "SYSTEM", "port %d of broker %d: %s", (int)port,
              (int)id, strerror(error));
}


/* broker:broker_down(id) -> true | nil, message, code
 *
 * Refuses connections, and ends those it has. The port stays its own. */
static int broker_down(lua_State *L) {
  struct broker *b = broker_check(L);
  int32_t id = broker_id(L, 2);
  uint16_t port = broker_port(b, id);
  int guard = -1;
  if (port != 0 && !b->down[id]) {
    guard = broker_guard(port);
    if (guard < 0)
      return broker_port_fail(L, id, port, errno);
  }
  rd_kafka_resp_err_t err = rd_kafka_mock_broker_set_down(b->cluster, id);
  if (guard >= 0)
    close(guard);
  if (err == RD_KAFKA_RESP_ERR_NO_ERROR && port != 0)
    b->down[id] = 1;
  return broker_result(L, err);
}


/* broker:broker_up(id) -> true | nil, message, code
 *
 * IN_USE when another program listens at its port meanwhile. */
static int broker_up(lua_State *L) {
  struct broker *b = broker_check(L);
  int32_t id = broker_id(L, 2);
  uint16_t port = broker_port(b, id);
  int error = port != 0 && b->down[id] ? broker_taken(port) : 0;
  if (error != 0)
    return broker_port_fail(L, id, port, error);
  rd_kafka_resp_err_t err = rd_kafka_mock_broker_set_up(b->cluster, id);
  if (err == RD_KAFKA_RESP_ERR_NO_ERROR && port != 0)
    b->down[id] = 0;
  return broker_result(L, err);
}


/* broker:rtt(id, ms) -> true | nil, message, code   delay every answer */
static int broker_rtt(lua_State *L) {
  struct broker *b = broker_check(L);
  lua_Integer ms = luaL_checkinteger(L, 3);
  luaL_argcheck(L, ms >= 0 && ms <= 600000, 3, "out of range");
  return broker_result(
      L, rd_kafka_mock_broker_set_rtt(b->cluster, broker_id(L, 2), (int)ms));
}


/* broker:leader(topic, partition, id) -> true | nil, message, code */
static int broker_leader(lua_State *L) {
  struct broker *b = broker_check(L);
  const char *topic = luaL_checkstring(L, 2);
  lua_Integer partition = luaL_checkinteger(L, 3);
  /* The library looks for a negative one in front of its array. */
  luaL_argcheck(L, partition >= 0 && partition < 10000, 3,
                "not a partition number");
  return broker_result(L, rd_kafka_mock_partition_set_leader(b->cluster, topic,
                                                             (int32_t)partition,
                                                             broker_id(L, 4)));
}


/* broker:logs() -> array   log lines since the last call */
static int broker_logs(lua_State *L) {
  kafka_feed_push(L, &broker_check(L)->client->feed);
  return 1;
}


/* Create the topics of option `topics`: { {name=, partitions=}, ... }.
 * Returns 0, or the number of values pushed by fail. */
static int broker_topics(lua_State *L, struct broker *b) {
  static const char *const known[] = {"name", "partitions", NULL};
  if (!opts_table(L, 1, "topics"))
    return 0;
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    int entry = lua_gettop(L);
    opts_check(L, entry, known);
    const char *name = opts_need(L, entry, "name");
    int partitions = (int)opts_int(L, entry, "partitions", 1, 1, 10000);
    rd_kafka_resp_err_t err =
        rd_kafka_mock_topic_create(b->cluster, name, partitions, 1);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
      return kafka_fail(L, err, NULL);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return 0;
}


/* kafka.broker{brokers=1, topics={ {name=, partitions=}, ... }} -> broker
 *
 * Listens on free ports of 127.0.0.1. */
int kafka_broker_new(lua_State *L) {
  static const char *const known[] = {"brokers", "topics", NULL};
  opts_check(L, 1, known);
  lua_settop(L, 1);
  int brokers = (int)opts_int(L, 1, "brokers", 1, 1, BROKERS_MAX);
  struct broker *b = handle_new(L, sizeof *b, BROKER);
  int self = lua_gettop(L);
  b->client = kafka_client_new(defaults);
  if (b->client == NULL)
    return luaL_error(L, "kafka: out of memory");
  b->h.close = broker_close;
  char text[KAFKA_TEXT_MAX];
  b->client->rk =
      rd_kafka_new(RD_KAFKA_PRODUCER, b->client->conf, text, sizeof text);
  if (b->client->rk == NULL)
    return fail(L, KAFKA, "SYSTEM", "%s", text);
  b->client->conf = NULL;
  b->cluster = rd_kafka_mock_cluster_new(b->client->rk, brokers);
  if (b->cluster == NULL)
    return fail(L, KAFKA, "SYSTEM", "the development broker did not start");
  int failed = broker_topics(L, b);
  if (failed)
    return failed;
  lua_pushvalue(L, self);
  return 1;
}


void kafka_broker_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"bootstrap", broker_bootstrap},
                                     {"create_topic", broker_create_topic},
                                     {"broker_down", broker_down},
                                     {"broker_up", broker_up},
                                     {"rtt", broker_rtt},
                                     {"leader", broker_leader},
                                     {"logs", broker_logs},
                                     {NULL, NULL}};
  handle_type(L, BROKER, methods);
}
