/* http_daemon.h - the HTTP server's own thread, without Lua.
 *
 * Pages and /metrics are answered on that thread. With `dynamic` any other
 * request is suspended and queued; the owner takes it, answers it by id, and
 * only then may its connection end. One mutex guards what both sides see. The
 * functions here are for the owner's thread; none of them calls back. */
#ifndef HOST_HTTP_DAEMON_H
#define HOST_HTTP_DAEMON_H

#include <stddef.h>
#include <stdint.h>

#include "http_message.h"

struct http_daemon;

struct http_daemon_options {
  const char *address; /* numeric, or localhost */
  int port;            /* 0: any free one */
  int dynamic;
  int metrics; /* answer /metrics */
  unsigned max_connections;
  unsigned timeout_s; /* of a silent connection, and for the owner to answer */
  size_t max_body;
};

struct http_counts {
  int64_t requests, waiting, dropped, timed_out;
};

/* NULL on failure, with a static `*code` and a text in `err`. */
struct http_daemon *http_daemon_start(const struct http_daemon_options *o,
                                      const char **code, char *err,
                                      size_t size);

/* Drops what waits, ends the thread, frees all. */
void http_daemon_stop(struct http_daemon *d);

int http_daemon_port(const struct http_daemon *d);

/* An eventfd that is readable while a request was queued since the last
 * http_daemon_take. */
int http_daemon_fd(const struct http_daemon *d);

/* Set the page at `path`; `fresh_ms` > 0: answered 503 when it was not set
 * again for that long. 0, or -1 without memory. */
int http_daemon_page(struct http_daemon *d, const char *path, unsigned status,
                     const char *type, const char *body, size_t len,
                     int64_t fresh_ms);

/* The requests queued since the last call, linked; NULL: none. */
struct http_inbound *http_daemon_take(struct http_daemon *d);

/* Answer a taken request. The daemon frees `a`, whatever comes. 0, or -1:
 * there is no such request, or no more. */
int http_daemon_answer(struct http_daemon *d, int64_t id,
                       struct http_answer *a);

/* Send delayed answers that are due and 504 to requests that waited longer
 * than timeout_s. Returns milliseconds to the next delayed answer, or -1. */
int64_t http_daemon_tick(struct http_daemon *d);

void http_daemon_counts(struct http_daemon *d, struct http_counts *out);

#endif
