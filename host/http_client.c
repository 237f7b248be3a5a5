/* http_client.c - http.client: many requests at once over one curl multi.
 *
 * A request belongs to its client from its first byte: it is a draft, active
 * or done, always on one list, so nothing leaks when Lua raises. Callbacks
 * only collect bytes; Lua sees finished requests when it polls. Redirects are
 * not followed: an API that answers with one is an answer to judge. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <curl/curl.h>
#include <lua.h>
#include <lauxlib.h>

#include "clock_core.h"
#include "fail.h"
#include "field.h"
#include "handle.h"
#include "http.h"
#include "http_request.h"
#include "interrupt.h"
#include "mono.h"
#include "opts.h"

#ifndef TIDEMILL_VERSION
#define TIDEMILL_VERSION "unknown"
#endif

#define TYPE_CLIENT "http client"

enum {
  BODY_MAX = 1024 * 1024,
  WAITING_MAX = 1024,
  TIMEOUT_MS = 10000,
  CONNECT_MS = 5000,
  DAY_MS = 86400000
};

struct client {
  struct handle h;
  CURLM *multi;
  struct request *draft;  /* being built; Lua may raise meanwhile */
  struct request *active; /* added to multi */
  struct request *done, **done_end;
  lua_Integer last_id;
  int waiting; /* active ones */
  char *user_agent;
  char *ca;
  char *proxy;
  int64_t requests, failed, received, connects;
};

static const char *const client_options[] = {"concurrency", "user_agent", "ca",
                                             "proxy", NULL};

static const char *const request_options[] = {
    "url",      "method", "headers", "body", "timeout_ms", "connect_timeout_ms",
    "max_body", "ca",     "verify",  NULL};


static void client_free(struct handle *h) {
  struct client *c = (struct client *)h;
  while (c->active != NULL) {
    struct request *r = c->active;
    c->active = r->next;
    curl_multi_remove_handle(c->multi, r->curl);
    request_free(r);
  }
  while (c->done != NULL) {
    struct request *r = c->done;
    c->done = r->next;
    request_free(r);
  }
  c->done_end = &c->done;
  request_free(c->draft);
  c->draft = NULL;
  curl_multi_cleanup(c->multi);
  c->multi = NULL;
  free(c->user_agent);
  free(c->ca);
  free(c->proxy);
  c->user_agent = c->ca = c->proxy = NULL;
}


static char *copy_or_null(const char *s) {
  return s != NULL ? strdup(s) : NULL;
}


/* http.client{ concurrency=16, user_agent=, ca=FILE, proxy=URL }  --> client
 *   | nil, message, "NOMEM"
 * concurrency: connections at once; more requests wait their turn.
 * proxy: "" for none; by default the environment's (https_proxy, ...), which
 * is never used for a loopback address. */
int http_client_new(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    lua_newtable(L);
  }
  opts_check(L, 1, client_options);
  long most = (long)opts_int(L, 1, "concurrency", 16, 1, 1024);
  const char *agent =
      opts_str(L, 1, "user_agent", "tidemill/" TIDEMILL_VERSION);
  const char *ca = opts_str(L, 1, "ca", NULL);
  const char *proxy = opts_str(L, 1, "proxy", NULL);
  struct client *c = handle_new(L, sizeof *c, TYPE_CLIENT);
  c->done_end = &c->done;
  c->multi = curl_multi_init();
  if (c->multi == NULL)
    return fail(L, "http", "NOMEM", "out of memory");
  c->h.close = client_free;
  c->user_agent = strdup(agent);
  c->ca = copy_or_null(ca);
  c->proxy = copy_or_null(proxy);
  curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, most);
  curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, most);
  if (c->user_agent == NULL || (ca != NULL && c->ca == NULL) ||
      (proxy != NULL && c->proxy == NULL)) {
    handle_close(&c->h);
    return fail(L, "http", "NOMEM", "out of memory");
  }
  return 1;
}


/* The options at `arg` as a plan; raises on misuse. [-0, +0] */
static void plan_read(lua_State *L, struct client *c, int arg,
                      struct request_plan *p) {
  opts_check(L, arg, request_options);
  p->url = opts_need(L, arg, "url");
  p->method = opts_str(L, arg, "method", "GET");
  if (!http_name_ok(p->method))
    luaL_error(L, "option 'method' is not a method: '%s'", p->method);
  p->body = opts_lstr(L, arg, "body", &p->body_len);
  p->ca = opts_str(L, arg, "ca", c->ca);
  p->proxy = c->proxy;
  p->user_agent = c->user_agent;
  p->timeout_ms = (long)opts_int(L, arg, "timeout_ms", TIMEOUT_MS, 1, DAY_MS);
  p->connect_ms =
      (long)opts_int(L, arg, "connect_timeout_ms", CONNECT_MS, 1, DAY_MS);
  p->max_body =
      (size_t)opts_int(L, arg, "max_body", BODY_MAX, 0, (int64_t)1 << 32);
  p->verify = opts_bool(L, arg, "verify", 1);
}


/* Start the request whose options are at `arg`; its id, or 0 after pushing
 * a failure of three values. Raises on misuse. [-0, +0 or +3] */
static lua_Integer request_start(lua_State *L, struct client *c, int arg) {
  struct request_plan plan = {0};
  plan_read(L, c, arg, &plan);
  if (c->waiting >= WAITING_MAX) {
    fail(L, "http", "QUEUE_FULL", "%d requests wait already", WAITING_MAX);
    return 0;
  }
  request_free(c->draft); /* of a call that raised */
  struct request *r = c->draft = request_new(&plan);
  int ok = r != NULL;
  if (ok && opts_table(L, arg, "headers")) {
    ok = request_headers(L, -1, r) == 0;
    lua_pop(L, 1);
  }
  if (!ok) {
    fail(L, "http", "NOMEM", "out of memory");
    return 0;
  }
  CURLMcode rc = curl_multi_add_handle(c->multi, r->curl);
  if (rc != CURLM_OK) {
    fail(L, "http", "CURL", "%s", curl_multi_strerror(rc));
    return 0;
  }
  c->draft = NULL;
  r->id = ++c->last_id;
  r->next = c->active;
  c->active = r;
  c->waiting++;
  c->requests++;
  return r->id;
}


/* client:request{ url=, method="GET", headers={}, body=, timeout_ms=10000,
 *   connect_timeout_ms=5000, max_body=1048576, ca=FILE, verify=true }
 *   --> id | nil, message, code
 * Starts a request; client:poll gives its answer. max_body counts decoded
 * bytes. Codes: QUEUE_FULL, NOMEM. */
static int client_request(lua_State *L) {
  struct client *c = handle_check(L, 1, TYPE_CLIENT);
  lua_Integer id = request_start(L, c, 2);
  if (id == 0)
    return 3;
  lua_pushinteger(L, id);
  return 1;
}


/* Take `r` off the active list and stop its transfer. */
static void client_detach(struct client *c, struct request *r) {
  struct request **at = &c->active;
  while (*at != r)
    at = &(*at)->next;
  *at = r->next;
  r->next = NULL;
  c->waiting--;
  curl_multi_remove_handle(c->multi, r->curl);
}


static void client_finish(struct client *c, struct request *r,
                          CURLcode result) {
  long connects = 0;
  curl_easy_getinfo(r->curl, CURLINFO_NUM_CONNECTS, &connects);
  client_detach(c, r);
  r->result = result;
  r->finished_us = clock_mono_now().us; /* comparable with clock.mono_us() */
  c->connects += connects;
  c->received += (int64_t)r->body.used;
  c->failed += result != CURLE_OK;
  *c->done_end = r;
  c->done_end = &r->next;
}


/* Let curl work without waiting and collect what is finished. */
static void client_perform(struct client *c) {
  int running, left;
  CURLMsg *msg;
  curl_multi_perform(c->multi, &running);
  while ((msg = curl_multi_info_read(c->multi, &left)) != NULL) {
    CURLcode result = msg->data.result;
    struct request *r = NULL;
    if (msg->msg != CURLMSG_DONE)
      continue;
    curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &r);
    client_finish(c, r, result);
  }
}


/* One wait of at most a slice. Returns 0 when the caller should stop: nothing
 * is under way, the time is up, or a signal came since the level was `level`
 * (one that came before must not make a last drain spin). */
static int client_wait(struct client *c, int64_t deadline_us, int level) {
  int64_t left_ms = (deadline_us - mono_us() + 999) / 1000;
  if (c->active == NULL || left_ms <= 0)
    return 0;
  int slice =
      left_ms < INTERRUPT_SLICE_MS ? (int)left_ms : (int)INTERRUPT_SLICE_MS;
  curl_multi_poll(c->multi, NULL, 0, slice, NULL);
  client_perform(c);
  return !interrupt_raising() && interrupt_level() == level;
}


/* client:poll([timeout_ms])  --> { response, ... }
 * Waits until at least one request is finished, the time is up or a signal
 * came; at once when none is under way. A response has id, url, status,
 * headers (lower-case names), body, timings (dns_us, connect_us, tls_us,
 * sent_us, first_byte_us, total_us, each from the start), finished_us
 * (monotonic). One that failed has no body but error and code: TIMEOUT, DNS,
 * REFUSED, TLS, TRUNCATED, TOOBIG, RESET, ENCODING, URL, NOMEM, HTTP. */
static int client_poll(lua_State *L) {
  struct client *c = handle_check(L, 1, TYPE_CLIENT);
  lua_Integer timeout = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, timeout >= 0 && timeout <= DAY_MS, 2, "out of range");
  int64_t deadline_us = mono_us() + timeout * 1000;
  int level = interrupt_level();
  client_perform(c);
  while (c->done == NULL && client_wait(c, deadline_us, level))
    ;
  interrupt_check(L);
  lua_newtable(L);
  for (lua_Integer i = 1; c->done != NULL; i++) {
    struct request *r = c->done;
    request_push(L, r);
    lua_rawseti(L, -2, i);
    c->done = r->next; /* only now: a raise above keeps it */
    if (c->done == NULL)
      c->done_end = &c->done;
    request_free(r);
  }
  return 1;
}


/* Take the finished request `id` off the done list, or NULL. */
static struct request *client_take(struct client *c, lua_Integer id) {
  struct request **at = &c->done;
  while (*at != NULL && (*at)->id != id)
    at = &(*at)->next;
  struct request *r = *at;
  if (r != NULL) {
    *at = r->next;
    r->next = NULL;
    if (*at == NULL)
      c->done_end = at;
  }
  return r;
}


static struct request *client_find(struct client *c, lua_Integer id) {
  struct request *r = c->active;
  while (r != NULL && r->id != id)
    r = r->next;
  return r;
}


/* client:cancel(id)  --> true when it was still under way
 * A cancelled request gives no response. */
static int client_cancel(lua_State *L) {
  struct client *c = handle_check(L, 1, TYPE_CLIENT);
  struct request *r = client_find(c, luaL_checkinteger(L, 2));
  if (r != NULL) {
    client_detach(c, r);
    request_free(r);
  }
  lua_pushboolean(L, r != NULL);
  return 1;
}


/* client:fetch{ ...as request }  --> response
 *   | nil, message, code, response
 * One request from start to end; others go on meanwhile and wait for poll.
 * Code INTERRUPTED: a signal came; then there is no fourth value. */
static int client_fetch(lua_State *L) {
  struct client *c = handle_check(L, 1, TYPE_CLIENT);
  lua_Integer id = request_start(L, c, 2);
  if (id == 0)
    return 3;
  int level = interrupt_level();
  client_perform(c);
  struct request *r;
  /* curl ends it by its own timeout; the far deadline is never met. */
  while ((r = client_find(c, id)) != NULL &&
         client_wait(c, mono_us() + (int64_t)DAY_MS * 1000, level))
    ;
  if (r != NULL && (r = client_find(c, id)) != NULL) {
    client_detach(c, r);
    request_free(r);
    interrupt_check(L);
    return fail(L, "http", "INTERRUPTED", "a signal came");
  }
  r = c->draft = client_take(c, id); /* owned by the client while we push */
  request_push(L, r);
  int failed = r->result != CURLE_OK;
  c->draft = NULL;
  request_free(r);
  if (!failed)
    return 1;
  int at = lua_gettop(L);
  lua_pushnil(L);
  lua_getfield(L, at, "error");
  lua_getfield(L, at, "code");
  lua_pushvalue(L, at);
  return 4;
}


/* client:stats()  --> { requests, failed, active, connects, received_bytes } */
static int client_stats(lua_State *L) {
  struct client *c = handle_check(L, 1, TYPE_CLIENT);
  lua_createtable(L, 0, 5);
  field_int(L, "requests", c->requests);
  field_int(L, "failed", c->failed);
  field_int(L, "active", c->waiting);
  field_int(L, "connects", c->connects);
  field_int(L, "received_bytes", c->received);
  return 1;
}


/* http.escape(text)  --> text   percent-encoded but for A-Z a-z 0-9 - . _ ~ */
int http_escape(lua_State *L) {
  static const char hex[] = "0123456789ABCDEF";
  size_t n;
  const char *s = luaL_checklstring(L, 1, &n);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (size_t i = 0; i < n; i++) {
    unsigned char ch = (unsigned char)s[i];
    if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
        (ch >= '0' && ch <= '9') || (ch != 0 && strchr("-._~", ch) != NULL)) {
      luaL_addchar(&b, s[i]);
    } else {
      luaL_addchar(&b, '%');
      luaL_addchar(&b, hex[ch >> 4]);
      luaL_addchar(&b, hex[ch & 15]);
    }
  }
  luaL_pushresult(&b);
  return 1;
}


/* http.date(text)  --> seconds since 1970 | nil   an HTTP date of any form */
int http_date(lua_State *L) {
  time_t t = curl_getdate(luaL_checkstring(L, 1), NULL);
  if (t == (time_t)-1)
    lua_pushnil(L);
  else
    lua_pushinteger(L, t);
  return 1;
}


static const luaL_Reg client_methods[] = {{"get", client_request},
                                          {"request", client_request},
                                          {"fetch", client_fetch},
                                          {"poll", client_poll},
                                          {"cancel", client_cancel},
                                          {"stats", client_stats},
                                          {NULL, NULL}};


void http_client_open(lua_State *L) {
  /* Debian's libcurl is built so that this is safe from any thread. */
  curl_global_init(CURL_GLOBAL_DEFAULT);
  handle_type(L, TYPE_CLIENT, client_methods);
}
