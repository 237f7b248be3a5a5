/* http_request.c - one request of http.client. See http_request.h.
 *
 * The callbacks of libcurl run on the stack of client:poll and only collect
 * bytes. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <lauxlib.h>

#include "field.h"
#include "http.h"
#include "http_request.h"

enum { HEAD_MAX = 64 * 1024 };


/* 0, or -1 past the limit or without memory. */
static int bytes_add(struct bytes *b, const char *data, size_t n) {
  if (n > b->max - b->used)
    return -1;
  if (n > b->cap - b->used) {
    size_t cap = b->cap > 0 ? b->cap : 4096;
    while (cap - b->used < n)
      cap *= 2;
    char *grown = realloc(b->at, cap);
    if (grown == NULL)
      return -1;
    b->at = grown;
    b->cap = cap;
  }
  if (n > 0)
    memcpy(b->at + b->used, data, n);
  b->used += n;
  return 0;
}


static size_t request_write(char *data, size_t size, size_t n, void *user) {
  struct request *r = user;
  if (bytes_add(&r->body, data, size * n) != 0) {
    r->too_big = 1;
    return 0;
  }
  return size * n;
}


/* Header lines as they come; a status line starts a new answer (100, 1xx). */
static size_t request_head(char *data, size_t size, size_t n, void *user) {
  struct request *r = user;
  if (size * n >= 5 && memcmp(data, "HTTP/", 5) == 0)
    r->head.used = 0;
  if (bytes_add(&r->head, data, size * n) != 0) {
    r->too_big = 1;
    return 0;
  }
  return size * n;
}


void request_free(struct request *r) {
  if (r == NULL)
    return;
  curl_easy_cleanup(r->curl);
  curl_slist_free_all(r->headers);
  free(r->url);
  free(r->body.at);
  free(r->head.at);
  free(r);
}


/* Is the URL's host this machine? Environment proxies are not for it. */
static int url_loopback(const char *url) {
  CURLU *u = curl_url();
  char *host = NULL;
  int yes = 0;
  if (u != NULL && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
      curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
    size_t n = strlen(host);
    yes = strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
          strncmp(host, "127.", 4) == 0 ||
          (n > 10 && strcasecmp(host + n - 10, ".localhost") == 0);
  }
  curl_free(host);
  curl_url_cleanup(u);
  return yes;
}


static void request_method(struct request *r, const struct request_plan *p) {
  if (p->body != NULL) {
    curl_easy_setopt(r->curl, CURLOPT_POSTFIELDSIZE_LARGE,
                     (curl_off_t)p->body_len);
    curl_easy_setopt(r->curl, CURLOPT_COPYPOSTFIELDS, p->body);
  }
  if (strcmp(p->method, "HEAD") == 0)
    curl_easy_setopt(r->curl, CURLOPT_NOBODY, 1L);
  else
    curl_easy_setopt(r->curl, CURLOPT_CUSTOMREQUEST, p->method);
}


static void request_security(struct request *r, const struct request_plan *p) {
  if (p->ca != NULL)
    curl_easy_setopt(r->curl, CURLOPT_CAINFO, p->ca);
  if (!p->verify) {
    curl_easy_setopt(r->curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(r->curl, CURLOPT_SSL_VERIFYHOST, 0L);
  }
  if (p->proxy != NULL)
    curl_easy_setopt(r->curl, CURLOPT_PROXY, p->proxy);
  else if (url_loopback(p->url))
    curl_easy_setopt(r->curl, CURLOPT_PROXY, "");
}


static void request_plumb(struct request *r, const struct request_plan *p) {
  CURL *curl = r->curl;
  curl_easy_setopt(curl, CURLOPT_URL, r->url);
  curl_easy_setopt(curl, CURLOPT_PRIVATE, r);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, r->error);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "");
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, request_write);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, r);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, request_head);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, r);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, p->user_agent);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, p->timeout_ms);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, p->connect_ms);
}


struct request *request_new(const struct request_plan *p) {
  struct request *r = calloc(1, sizeof *r);
  if (r == NULL)
    return NULL;
  r->body.max = p->max_body;
  r->head.max = HEAD_MAX;
  r->curl = curl_easy_init();
  r->url = strdup(p->url);
  if (r->curl == NULL || r->url == NULL) {
    request_free(r);
    return NULL;
  }
  request_plumb(r, p);
  request_method(r, p);
  request_security(r, p);
  return r;
}


int request_headers(lua_State *L, int arg, struct request *r) {
  arg = lua_absindex(L, arg);
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
      luaL_error(L, "option 'headers' must be strings by name");
    const char *name = lua_tostring(L, -2), *value = lua_tostring(L, -1);
    if (!http_name_ok(name) || !http_value_ok(value))
      luaL_error(L, "header '%s' is not well formed", name);
    /* "Name;" is curl's form of a header with an empty value. */
    const char *line = *value != '\0'
                           ? lua_pushfstring(L, "%s: %s", name, value)
                           : lua_pushfstring(L, "%s;", name);
    struct curl_slist *grown = curl_slist_append(r->headers, line);
    if (grown == NULL) {
      lua_pop(L, 3);
      return -1;
    }
    r->headers = grown;
    lua_pop(L, 2);
  }
  curl_easy_setopt(r->curl, CURLOPT_HTTPHEADER, r->headers);
  return 0;
}


static const char *request_code(const struct request *r) {
  switch (r->result) {
  case CURLE_OPERATION_TIMEDOUT:
    return "TIMEOUT";
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_RESOLVE_PROXY:
    return "DNS";
  case CURLE_COULDNT_CONNECT:
    return "REFUSED";
  case CURLE_SSL_CONNECT_ERROR:
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_SSL_CERTPROBLEM:
  case CURLE_SSL_CIPHER:
  case CURLE_SSL_ISSUER_ERROR:
  case CURLE_SSL_INVALIDCERTSTATUS:
  case CURLE_SSL_ENGINE_NOTFOUND:
  case CURLE_SSL_ENGINE_SETFAILED:
  case CURLE_USE_SSL_FAILED:
    return "TLS";
  case CURLE_PARTIAL_FILE:
    return "TRUNCATED";
  case CURLE_WRITE_ERROR:
    return r->too_big ? "TOOBIG" : "HTTP";
  case CURLE_GOT_NOTHING:
  case CURLE_SEND_ERROR:
  case CURLE_RECV_ERROR:
  case CURLE_HTTP2:
  case CURLE_HTTP2_STREAM:
    return "RESET";
  case CURLE_BAD_CONTENT_ENCODING:
    return "ENCODING";
  case CURLE_URL_MALFORMAT:
  case CURLE_UNSUPPORTED_PROTOCOL:
    return "URL";
  case CURLE_OUT_OF_MEMORY:
    return "NOMEM";
  default:
    return "HTTP";
  }
}


static void push_us(lua_State *L, CURL *curl, CURLINFO info, const char *key) {
  curl_off_t us = 0;
  curl_easy_getinfo(curl, info, &us);
  lua_pushinteger(L, (lua_Integer)us);
  lua_setfield(L, -2, key);
}


/* Microseconds from the start of the request. [-0, +1] */
static void push_timings(lua_State *L, const struct request *r) {
  lua_createtable(L, 0, 6);
  push_us(L, r->curl, CURLINFO_NAMELOOKUP_TIME_T, "dns_us");
  push_us(L, r->curl, CURLINFO_CONNECT_TIME_T, "connect_us");
  push_us(L, r->curl, CURLINFO_APPCONNECT_TIME_T, "tls_us");
  push_us(L, r->curl, CURLINFO_PRETRANSFER_TIME_T, "sent_us");
  push_us(L, r->curl, CURLINFO_STARTTRANSFER_TIME_T, "first_byte_us");
  push_us(L, r->curl, CURLINFO_TOTAL_TIME_T, "total_us");
}


/* Set table[lower-case name] = value at the top; values of a repeated header
 * are joined by ", ". [-0, +0] */
static void push_header(lua_State *L, const char *line, size_t n) {
  char name[128];
  const char *colon = memchr(line, ':', n);
  size_t len = colon != NULL ? (size_t)(colon - line) : 0;
  if (len == 0 || len >= sizeof name)
    return; /* the status line, or no header at all */
  for (size_t i = 0; i < len; i++)
    name[i] = line[i] >= 'A' && line[i] <= 'Z' ? (char)(line[i] + 32) : line[i];
  name[len] = '\0';
  const char *from = colon + 1, *end = line + n;
  while (from < end && (*from == ' ' || *from == '\t'))
    from++;
  while (end > from && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
    end--;
  if (lua_getfield(L, -1, name) == LUA_TSTRING) {
    lua_pushliteral(L, ", ");
    lua_pushlstring(L, from, (size_t)(end - from));
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
    lua_pushlstring(L, from, (size_t)(end - from));
  }
  lua_setfield(L, -2, name);
}


/* [-0, +1] */
static void push_headers(lua_State *L, const struct request *r) {
  const char *at = r->head.at, *end = at + r->head.used;
  lua_newtable(L);
  while (at < end) {
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    if (stop == NULL)
      stop = end;
    push_header(L, at, (size_t)(stop - at));
    at = stop + 1;
  }
}


void request_push(lua_State *L, const struct request *r) {
  long status = 0;
  curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &status);
  lua_createtable(L, 0, 10);
  field_int(L, "id", r->id);
  lua_pushstring(L, r->url);
  lua_setfield(L, -2, "url");
  if (status > 0) {
    field_int(L, "status", status);
  }
  push_headers(L, r);
  lua_setfield(L, -2, "headers");
  push_timings(L, r);
  lua_setfield(L, -2, "timings");
  field_int(L, "finished_us", (lua_Integer)r->finished_us);
  if (r->result == CURLE_OK) {
    lua_pushlstring(L, r->body.at != NULL ? r->body.at : "", r->body.used);
    lua_setfield(L, -2, "body");
    return;
  }
  const char *code = request_code(r);
  const char *text = r->too_big ? "the answer is larger than its limit"
                     : r->error[0] != '\0' ? r->error
                                           : curl_easy_strerror(r->result);
  lua_pushfstring(L, "http: %s: %s", code, text);
  lua_setfield(L, -2, "error");
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
}
