/* kafka_client.c - life of one librdkafka instance, and its error names.
 *
 * Options of librdkafka pass through untouched. It never prints: its log lines
 * go to the feed. Closing is bounded, because a destroy that hangs must not
 * keep the process from ending. */
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "kafka.h"
#include "opts.h"

enum { REFILL_RECORDS = 1000, REFILL_BYTES = 1 << 20 };


const char *kafka_code(rd_kafka_resp_err_t err) {
  const char *name = rd_kafka_err2name(err);
  return *name == '_' ? name + 1 : name;
}


int kafka_fail(lua_State *L, rd_kafka_resp_err_t err, const char *text) {
  if (text == NULL || *text == '\0')
    text = rd_kafka_err2str(err);
  return fail(L, KAFKA, kafka_code(err), "%s", text);
}


int kafka_fail_error(lua_State *L, rd_kafka_error_t *error) {
  char text[KAFKA_TEXT_MAX];
  rd_kafka_resp_err_t err = rd_kafka_error_code(error);
  strncpy(text, rd_kafka_error_string(error), sizeof text - 1);
  text[sizeof text - 1] = '\0';
  rd_kafka_error_destroy(error);
  return kafka_fail(L, err, text);
}


/* On librdkafka's threads. */
static void client_log(const rd_kafka_t *rk, int level, const char *facility,
                       const char *text) {
  struct kafka_client *client = rd_kafka_opaque(rk);
  if (client != NULL)
    kafka_feed_log(&client->feed, level, facility, text);
}


void kafka_client_fatal(struct kafka_client *client) {
  char text[KAFKA_TEXT_MAX] = "";
  rd_kafka_resp_err_t cause =
      rd_kafka_fatal_error(client->rk, text, sizeof text);
  kafka_feed_error(&client->feed, cause, 1, NULL, -1, -1, text);
}


/* On the thread that polls. */
static void client_error(rd_kafka_t *rk, int err, const char *reason,
                         void *opaque) {
  struct kafka_client *client = opaque;
  (void)rk;
  if (err == RD_KAFKA_RESP_ERR__FATAL)
    kafka_client_fatal(client);
  else
    kafka_feed_error(&client->feed, (rd_kafka_resp_err_t)err, 0, NULL, -1, -1,
                     reason);
}


struct kafka_client *kafka_client_new(const struct kafka_setting *defaults) {
  struct kafka_client *client = calloc(1, sizeof *client);
  if (client == NULL)
    return NULL;
  atomic_init(&client->refs, 1);
  kafka_feed_init(&client->feed);
  pthread_mutex_init(&client->owned, NULL);
  client->conf = rd_kafka_conf_new();
  rd_kafka_conf_set_opaque(client->conf, client);
  rd_kafka_conf_set_log_cb(client->conf, client_log);
  rd_kafka_conf_set_error_cb(client->conf, client_error);
  for (; defaults->key != NULL; defaults++) {
    char text[KAFKA_TEXT_MAX];
    rd_kafka_conf_res_t res = rd_kafka_conf_set(
        client->conf, defaults->key, defaults->value, text, sizeof text);
    if (res != RD_KAFKA_CONF_OK) /* a library built without an option */
      kafka_feed_log(&client->feed, 4, "CONF", text);
  }
  return client;
}


/* A property whose value must not appear in a message. */
static int client_secret(const char *key) {
  static const char *const words[] = {"password", "secret", "pem", "oauth",
                                      "jaas"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strstr(key, words[i]) != NULL)
      return 1;
  return 0;
}


void kafka_client_set(lua_State *L, struct kafka_client *client,
                      const char *key, const char *value) {
  char text[KAFKA_TEXT_MAX];
  rd_kafka_conf_res_t res =
      rd_kafka_conf_set(client->conf, key, value, text, sizeof text);
  if (res == RD_KAFKA_CONF_OK)
    return;
  if (res == RD_KAFKA_CONF_INVALID && client_secret(key))
    luaL_error(L, "kafka option '%s': librdkafka refuses its value", key);
  luaL_error(L, "kafka option '%s': %s", key, text);
}


/* The value on top of the stack as librdkafka wants it written. */
static const char *client_value(lua_State *L, const char *key) {
  switch (lua_type(L, -1)) {
  case LUA_TSTRING:
  case LUA_TNUMBER:
    return luaL_tolstring(L, -1, NULL);
  case LUA_TBOOLEAN:
    lua_pushstring(L, lua_toboolean(L, -1) ? "true" : "false");
    return lua_tostring(L, -1);
  default:
    luaL_error(L,
               "kafka option '%s' must be a string, a number or a boolean, "
               "got a %s",
               key, luaL_typename(L, -1));
    return NULL;
  }
}


void kafka_client_options(lua_State *L, int arg, struct kafka_client *client) {
  luaL_checkstack(L, 8, "options");
  arg = lua_absindex(L, arg);
  const char *brokers = opts_str(L, arg, "brokers", NULL);
  if (brokers != NULL)
    kafka_client_set(L, client, "bootstrap.servers", brokers);
  if (!opts_table(L, arg, "conf"))
    return;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "kafka option keys must be strings, got a %s",
                 luaL_typename(L, -2));
    const char *key = lua_tostring(L, -2);
    kafka_client_set(L, client, key, client_value(L, key));
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
}


/* A property as text; 0, or -1 when it does not fit. */
static int client_text(const rd_kafka_conf_t *conf, const char *key, char *text,
                       size_t size) {
  size_t need = 0;
  *text = '\0';
  if (rd_kafka_conf_get(conf, key, NULL, &need) != RD_KAFKA_CONF_OK)
    return 0; /* not set */
  if (need > size)
    return -1;
  rd_kafka_conf_get(conf, key, text, &size);
  return 0;
}


void kafka_client_start(lua_State *L, struct kafka_client *client,
                        rd_kafka_type_t type) {
  char text[KAFKA_TEXT_MAX] = "";
  size_t size = 0;
  if (rd_kafka_conf_get(client->conf, "bootstrap.servers", NULL, &size) !=
          RD_KAFKA_CONF_OK ||
      size <= 1)
    luaL_error(L, "option 'brokers' is required");
  client_text(client->conf, "enable.ssl.certificate.verification", text,
              sizeof text);
  if (strcmp(text, "false") != 0)
    kafka_trust(client->conf);
  client->rk = rd_kafka_new(type, client->conf, text, sizeof text);
  if (client->rk == NULL) /* no thread is not the options' fault */
    luaL_error(L,
               rd_kafka_last_error() == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE
                   ? "kafka: %s"
                   : "kafka options: %s",
               text);
  client->conf = NULL; /* librdkafka owns it now */
  client_text(rd_kafka_conf(client->rk), "security.protocol", text,
              sizeof text);
  client->sasl = strncmp(text, "sasl", 4) == 0;
}


/* A broker thread looks at its queues only when something happens to it, or
 * once a second: 2.0.2 does not tell it of a resume, nor that a full queue has
 * been read. Setting the credentials, to what they are, wakes every one of
 * them and does nothing else. */
void kafka_client_wake(struct kafka_client *client) {
  char name[KAFKA_TEXT_MAX] = "", password[KAFKA_TEXT_MAX] = "";
  const rd_kafka_conf_t *conf = rd_kafka_conf(client->rk);
  if (client->sasl &&
      (client_text(conf, "sasl.username", name, sizeof name) != 0 ||
       client_text(conf, "sasl.password", password, sizeof password) != 0))
    return;
  rd_kafka_error_t *error =
      rd_kafka_sasl_set_credentials(client->rk, name, password);
  if (error != NULL)
    rd_kafka_error_destroy(error);
}


void kafka_refill(struct kafka_refill *r, struct kafka_client *client,
                  rd_kafka_queue_t *queue) {
  if (r->records < REFILL_RECORDS && r->bytes < REFILL_BYTES)
    return;
  if (r->low == 0)
    r->low =
        (size_t)kafka_client_number(client, "queued.min.messages", 2) / 2 + 1;
  if (rd_kafka_queue_length(queue) >= r->low)
    return;
  r->records = 0;
  r->bytes = 0;
  kafka_client_wake(client);
}


int64_t kafka_client_number(struct kafka_client *client, const char *key,
                            int64_t def) {
  char text[32] = "";
  size_t size = sizeof text;
  if (rd_kafka_conf_get(rd_kafka_conf(client->rk), key, text, &size) !=
      RD_KAFKA_CONF_OK)
    return def;
  return strtoll(text, NULL, 10);
}


void kafka_client_keep(struct kafka_client *client) {
  atomic_fetch_add(&client->refs, 1);
}


void kafka_client_release(struct kafka_client *client) {
  if (atomic_fetch_sub(&client->refs, 1) != 1 || client->spared)
    return;
  if (client->rk != NULL)
    rd_kafka_destroy_flags(client->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
  if (client->conf != NULL)
    rd_kafka_conf_destroy(client->conf);
  kafka_feed_free(&client->feed);
  pthread_mutex_destroy(&client->owned);
  free(client);
}


struct closer {
  struct kafka_task task;
  struct kafka_client *client;
};


static void closer_run(struct kafka_task *task) {
  kafka_client_release(((struct closer *)task)->client);
}


static void closer_free(struct kafka_task *task) {
  free(task);
}


int kafka_client_close(struct kafka_client *client, int wait_ms) {
  struct closer *c = client->rk != NULL ? calloc(1, sizeof *c) : NULL;
  if (c == NULL) {
    kafka_client_release(client);
    return 0;
  }
  c->client = client;
  kafka_task_init(&c->task, closer_run, closer_free);
  kafka_task_start(&c->task);
  int done = kafka_task_wait(&c->task, wait_ms);
  kafka_task_release(&c->task);
  return done ? 0 : -1;
}
