/* http_message.h - a request that the HTTP server received, and its answer.
 *
 * Only their memory and the answer's body as libmicrohttpd wants it; who may
 * touch them when is http_daemon.c's matter. */
#ifndef HOST_HTTP_MESSAGE_H
#define HOST_HTTP_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

struct http_daemon;
struct MHD_Response;

struct http_pair {
  char *name;
  char *value; /* never NULL */
};

struct http_pairs {
  struct http_pair *at;
  size_t count, cap;
};

/* A request that waits for the owner; valid until it is answered. */
struct http_inbound {
  struct http_inbound *next;
  int64_t id;
  int64_t since_ms; /* monotonic, when it was queued */
  char *method;
  char *path;
  struct http_pairs query;
  struct http_pairs headers;
  char *body;
  size_t body_len, body_cap;
  struct http_daemon *daemon;
  void *connection;
  struct http_answer *answer;
  int64_t due_ms; /* of a delayed answer */
  int resumed;    /* the answer stands, NULL means to cut the connection */
};

struct http_answer {
  unsigned status;
  struct http_pairs headers;
  char *body;
  size_t len;
  int64_t truncate; /* send this many bytes of the body, then cut; -1: all */
  int64_t delay_ms;
  int chunked; /* without a Content-Length */
  int drop;    /* close without an answer */
};

/* NULL: no memory. */
struct http_inbound *http_inbound_new(struct http_daemon *d, const char *path,
                                      const char *method);
void http_inbound_free(struct http_inbound *r);

/* A plain text answer; NULL: no memory. */
struct http_answer *http_answer_text(unsigned status, const char *text);
void http_answer_free(struct http_answer *a);

/* The answer with its headers; takes the body over. NULL: no memory. */
struct MHD_Response *http_answer_response(struct http_answer *a);

/* 0, or -1 without memory. */
int http_pairs_add(struct http_pairs *p, const char *name, const char *value);
void http_pairs_free(struct http_pairs *p);

#endif
