/* http_server.c - http.server for Lua, over http_daemon.c's thread.
 *
 * Everything here runs on the Lua thread: it sets pages, takes requests that
 * wait, and answers them by id. The other thread never enters Lua. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"
#include "field.h"
#include "handle.h"
#include "http.h"
#include "http_daemon.h"
#include "interrupt.h"
#include "mono.h"
#include "opts.h"

#define TYPE_SERVER "http server"

enum { DAY_MS = 86400000, BODY_MAX = 65536 };

struct server {
  struct handle h;
  struct http_daemon *d;
};

static const char *const server_options[] = {
    "address",   "port",     "dynamic", "max_connections",
    "timeout_s", "max_body", "metrics", NULL};

static const char *const page_options[] = {"status", "type", "body", "fresh_ms",
                                           NULL};

static const char *const answer_options[] = {"status",   "headers",  "body",
                                             "delay_ms", "truncate", "chunked",
                                             "drop",     NULL};


static void server_free(struct handle *h) {
  struct server *s = (struct server *)h;
  http_daemon_stop(s->d);
  s->d = NULL;
}


/* http.server{ address="127.0.0.1", port=0, dynamic=false, metrics=true,
 *   max_connections=64, timeout_s=10, max_body=65536 }
 *   --> server | nil, message, code
 * port 0 takes a free one. With dynamic, requests for which there is no page
 * wait for server:poll. timeout_s ends silent connections, and requests that
 * nobody answers (504). Codes: INUSE, DENIED, ADDRESS, SYSTEM. */
int http_server_new(lua_State *L) {
  struct http_daemon_options o;
  const char *code;
  char err[256];
  opts_check(L, 1, server_options);
  o.address = opts_str(L, 1, "address", "127.0.0.1");
  o.port = (int)opts_int(L, 1, "port", 0, 0, 65535);
  o.dynamic = opts_bool(L, 1, "dynamic", 0);
  o.metrics = opts_bool(L, 1, "metrics", 1);
  o.max_connections = (unsigned)opts_int(L, 1, "max_connections", 64, 1, 10000);
  o.timeout_s = (unsigned)opts_int(L, 1, "timeout_s", 10, 1, 3600);
  o.max_body =
      (size_t)opts_int(L, 1, "max_body", BODY_MAX, 0, (int64_t)1 << 30);
  struct server *s = handle_new(L, sizeof *s, TYPE_SERVER);
  s->d = http_daemon_start(&o, &code, err, sizeof err);
  if (s->d == NULL)
    return fail(L, "http", code, "%s", err);
  s->h.close = server_free;
  return 1;
}


static struct http_daemon *server_arg(lua_State *L) {
  struct server *s = handle_check(L, 1, TYPE_SERVER);
  return s->d;
}


/* server:port()  --> integer */
static int server_port(lua_State *L) {
  lua_pushinteger(L, http_daemon_port(server_arg(L)));
  return 1;
}


/* server:fd()  --> integer   readable while a request waits for poll */
static int server_fd(lua_State *L) {
  lua_pushinteger(L, http_daemon_fd(server_arg(L)));
  return 1;
}


/* server:page(path, { body=, status=200, type="text/plain; charset=utf-8",
 *   fresh_ms= })  --> true | nil, message, "NOMEM"
 * Sets or replaces what GET path answers. fresh_ms: when the page was not set
 * again for that long its status is 503, so that a health page cannot outlive
 * the loop that writes it. */
static int server_page(lua_State *L) {
  struct http_daemon *d = server_arg(L);
  size_t len = 0;
  const char *path = luaL_checkstring(L, 2);
  luaL_argcheck(L, path[0] == '/', 2, "a path starts with /");
  opts_check(L, 3, page_options);
  const char *body = opts_lstr(L, 3, "body", &len);
  const char *type = opts_str(L, 3, "type", "text/plain; charset=utf-8");
  unsigned status = (unsigned)opts_int(L, 3, "status", 200, 200, 599);
  int64_t fresh_ms = opts_int(L, 3, "fresh_ms", 0, 0, DAY_MS);
  if (!http_value_ok(type))
    return luaL_error(L, "option 'type' is not well formed");
  if (http_daemon_page(d, path, status, type, body != NULL ? body : "", len,
                       fresh_ms) != 0)
    return fail(L, "http", "NOMEM", "out of memory");
  lua_pushboolean(L, 1);
  return 1;
}


/* Wait for a request, a delayed answer that is due, the deadline, or a signal
 * beyond those counted in `level`. Returns 0 when the caller should stop
 * waiting. */
static int server_wait(struct http_daemon *d, int64_t deadline_ms, int level) {
  struct pollfd p = {http_daemon_fd(d), POLLIN, 0};
  int64_t wait = http_daemon_tick(d);
  int64_t left = deadline_ms - mono_ms();
  if (wait < 0 || wait > INTERRUPT_SLICE_MS)
    wait = INTERRUPT_SLICE_MS;
  if (wait > left)
    wait = left;
  if (wait <= 0)
    return left > 0;
  int n = poll(&p, 1, (int)wait);
  return n == 0 && !interrupt_raising() && interrupt_level() == level;
}


/* Push pairs as a table, lower-casing names if asked; the first of a repeated
 * name wins. [-0, +1] */
static void push_pairs(lua_State *L, const struct http_pairs *p, int lower) {
  lua_createtable(L, 0, (int)p->count);
  for (size_t i = p->count; i-- > 0;) {
    if (lower) {
      luaL_Buffer b;
      luaL_buffinit(L, &b);
      for (const char *c = p->at[i].name; *c != '\0'; c++)
        luaL_addchar(&b, *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c);
      luaL_pushresult(&b);
    } else {
      lua_pushstring(L, p->at[i].name);
    }
    lua_pushstring(L, p->at[i].value);
    lua_rawset(L, -3);
  }
}


/* Push the query in its order, repeated names too. [-0, +1] */
static void push_params(lua_State *L, const struct http_pairs *p) {
  lua_createtable(L, (int)p->count, 0);
  for (size_t i = 0; i < p->count; i++) {
    lua_createtable(L, 0, 2);
    lua_pushstring(L, p->at[i].name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, p->at[i].value);
    lua_setfield(L, -2, "value");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}


/* [-0, +1] */
static void push_inbound(lua_State *L, const struct http_inbound *r) {
  lua_createtable(L, 0, 7);
  field_int(L, "id", r->id);
  lua_pushstring(L, r->method);
  lua_setfield(L, -2, "method");
  lua_pushstring(L, r->path);
  lua_setfield(L, -2, "path");
  push_pairs(L, &r->query, 0);
  lua_setfield(L, -2, "query");
  push_params(L, &r->query);
  lua_setfield(L, -2, "params");
  push_pairs(L, &r->headers, 1);
  lua_setfield(L, -2, "headers");
  lua_pushlstring(L, r->body != NULL ? r->body : "", r->body_len);
  lua_setfield(L, -2, "body");
}


/* server:poll([timeout_ms])  --> { request, ... }
 * Waits until a request came, the time is up or a signal came. A request has
 * id, method, path, query (by name), params ({name=, value=} in order),
 * headers (lower-case names) and body. Delayed answers leave here too, so a
 * dynamic server has to be polled. */
static int server_poll(lua_State *L) {
  struct http_daemon *d = server_arg(L);
  lua_Integer timeout = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, timeout >= 0 && timeout <= DAY_MS, 2, "out of range");
  int64_t deadline_ms = mono_ms() + timeout;
  int level = interrupt_level();
  while (server_wait(d, deadline_ms, level))
    ;
  interrupt_check(L);
  lua_newtable(L);
  const struct http_inbound *r = http_daemon_take(d);
  for (lua_Integer i = 1; r != NULL; i++, r = r->next) {
    push_inbound(L, r);
    lua_rawseti(L, -2, i);
  }
  return 1;
}


/* Check the headers of the table at `arg`; raises. [-0, +0] */
static void headers_check(lua_State *L, int arg) {
  arg = lua_absindex(L, arg);
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
      luaL_error(L, "option 'headers' must be strings by name");
    const char *name = lua_tostring(L, -2);
    if (!http_name_ok(name) || !http_value_ok(lua_tostring(L, -1)))
      luaL_error(L, "header '%s' is not well formed", name);
    if (strcasecmp(name, "Content-Length") == 0 ||
        strcasecmp(name, "Transfer-Encoding") == 0)
      luaL_error(L, "header '%s' is set by the server", name);
    lua_pop(L, 1);
  }
}


/* Copy checked headers; raises nothing. 0, or -1 without memory. [-0, +0] */
static int headers_copy(lua_State *L, int arg, struct http_pairs *to) {
  arg = lua_absindex(L, arg);
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    if (http_pairs_add(to, lua_tostring(L, -2), lua_tostring(L, -1)) != 0) {
      lua_pop(L, 2);
      return -1;
    }
    lua_pop(L, 1);
  }
  return 0;
}


/* server:respond(id, { status=200, headers={}, body="", delay_ms=0, truncate=,
 *   chunked=false, drop=false })  --> true | nil, message, code
 * Answers a request that poll returned. For tests of clients: delay_ms sends
 * it later, truncate cuts the connection after that many bytes of the body,
 * drop closes it without an answer. Codes: GONE (answered already, or too
 * late), NOMEM. */
static int server_respond(lua_State *L) {
  struct http_daemon *d = server_arg(L);
  lua_Integer id = luaL_checkinteger(L, 2);
  size_t len = 0;
  opts_check(L, 3, answer_options);
  const char *body = opts_lstr(L, 3, "body", &len);
  unsigned status = (unsigned)opts_int(L, 3, "status", 200, 200, 599);
  int64_t delay_ms = opts_int(L, 3, "delay_ms", 0, 0, DAY_MS);
  int64_t truncate = opts_int(L, 3, "truncate", -1, -1, (int64_t)1 << 40);
  int chunked = opts_bool(L, 3, "chunked", 0);
  int drop = opts_bool(L, 3, "drop", 0);
  int headers = opts_table(L, 3, "headers");
  if (headers)
    headers_check(L, -1);
  struct http_answer *a = calloc(1, sizeof *a);
  if (a == NULL)
    return fail(L, "http", "NOMEM", "out of memory");
  a->status = status;
  a->delay_ms = delay_ms;
  a->truncate = truncate;
  a->chunked = chunked;
  a->drop = drop;
  a->len = len;
  a->body = len > 0 ? malloc(len) : NULL;
  if ((len > 0 && a->body == NULL) ||
      (headers && headers_copy(L, -1, &a->headers) != 0)) {
    http_answer_free(a);
    return fail(L, "http", "NOMEM", "out of memory");
  }
  if (len > 0)
    memcpy(a->body, body, len);
  if (http_daemon_answer(d, id, a) != 0)
    return fail(L, "http", "GONE", "request %lld waits for no answer",
                (long long)id);
  lua_pushboolean(L, 1);
  return 1;
}


/* server:stats()  --> { requests, waiting, dropped, timed_out } */
static int server_stats(lua_State *L) {
  struct http_counts c;
  http_daemon_counts(server_arg(L), &c);
  lua_createtable(L, 0, 4);
  field_int(L, "requests", c.requests);
  field_int(L, "waiting", c.waiting);
  field_int(L, "dropped", c.dropped);
  field_int(L, "timed_out", c.timed_out);
  return 1;
}


static const luaL_Reg server_methods[] = {
    {"port", server_port}, {"fd", server_fd},       {"page", server_page},
    {"poll", server_poll}, {"stats", server_stats}, {"respond", server_respond},
    {NULL, NULL}};


void http_server_open(lua_State *L) {
  handle_type(L, TYPE_SERVER, server_methods);
}
