/* http_request.h - one request of http.client, from its draft to its answer.
 *
 * Private to http_client.c, which owns every request and its place on a list;
 * http_request.c builds it, collects its bytes and shows it to Lua. */
#ifndef HOST_HTTP_REQUEST_H
#define HOST_HTTP_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include <curl/curl.h>
#include <lua.h>

struct bytes {
  char *at;
  size_t used, cap, max;
};

struct request {
  struct request *next;
  lua_Integer id;
  CURL *curl;
  struct curl_slist *headers;
  char *url;
  struct bytes body, head;
  int too_big;
  CURLcode result;
  int64_t finished_us; /* monotonic */
  char error[CURL_ERROR_SIZE];
};

/* What a request is asked to be; the strings belong to the caller. */
struct request_plan {
  const char *url, *method, *body, *user_agent, *ca, *proxy;
  size_t body_len, max_body;
  long timeout_ms, connect_ms;
  int verify;
};

/* NULL: no memory. */
struct request *request_new(const struct request_plan *plan);

void request_free(struct request *r);

/* Append the headers of the table at `arg`. Returns 0, or -1 without memory;
 * raises on a header that would not be one. [-0, +0] */
int request_headers(lua_State *L, int arg, struct request *r);

/* Push a finished request as the response that client:poll documents.
 * [-0, +1] */
void request_push(lua_State *L, const struct request *r);

#endif
