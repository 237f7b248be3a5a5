/* http_watch.h - a deadline for each connection of the HTTP server.
 *
 * libmicrohttpd ends silent connections, but one that drips a byte now and
 * then is never silent. Here receiving a request and sending its answer have
 * one time limit each. While most connections are taken the limit is a second,
 * so that whoever holds them on purpose does not keep others out. No Lua. */
#ifndef HOST_HTTP_WATCH_H
#define HOST_HTTP_WATCH_H

#include <stdint.h>

struct http_watch;
struct http_watched;

/* Starts a thread, which inherits the caller's signal mask; NULL when there is
 * none. `most` is the number of connections that the server takes. */
struct http_watch *http_watch_start(unsigned most, int64_t limit_ms);

/* No connection may be open any more. */
void http_watch_stop(struct http_watch *w);

/* A connection was accepted on `fd`; NULL when out of memory: not watched.
 * http_watch_close comes before the descriptor is closed. */
struct http_watched *http_watch_open(struct http_watch *w, int fd);
void http_watch_close(struct http_watch *w, struct http_watched *c);

/* The time of the next phase begins; with `ours` it is our turn, and the
 * connection has no deadline until the next call. */
void http_watch_phase(struct http_watch *w, struct http_watched *c, int ours);

#endif
