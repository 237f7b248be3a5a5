/* http_daemon.c - the HTTP server's thread. See http_daemon.h.
 *
 * An http_inbound is made at a request's first bytes and freed when
 * libmicrohttpd says the request is complete, always on its thread. While it
 * is suspended nothing but an answer can complete it, so the owner may read
 * it without the lock. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "http_daemon.h"
#include "http_message.h"
#include "http_watch.h"
#include "metrics_core.h"
#include "mono.h"

enum { HEADER_MAX = 32 * 1024, BACKLOG = 128 };

struct page {
  struct page *next;
  char *path, *type, *body;
  size_t len;
  unsigned status;
  int64_t fresh_ms, set_ms;
};

struct http_daemon {
  struct MHD_Daemon *mhd;
  struct http_watch *watch;
  int dynamic, metrics, port, event;
  unsigned timeout_s;
  size_t max_body;
  pthread_mutex_t lock; /* guards all below */
  struct page *pages;
  struct http_inbound *queue, **queue_end;
  struct http_inbound *taken;   /* by the owner, in order of arrival */
  struct http_inbound *delayed; /* answered, not yet due */
  int64_t last_id;
  int stopping;
  struct http_counts counts;
};


/* ---- answers, on the server's thread ---- */

static enum MHD_Result reply(struct MHD_Connection *con, unsigned status,
                             const char *type, struct MHD_Response *response) {
  if (response == NULL)
    return MHD_NO;
  if (type != NULL)
    MHD_add_response_header(response, "Content-Type", type);
  MHD_add_response_header(response, "Cache-Control", "no-store");
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header(response, "Allow", "GET, HEAD");
  enum MHD_Result rc = MHD_queue_response(con, status, response);
  MHD_destroy_response(response);
  return rc;
}


static enum MHD_Result reply_text(struct MHD_Connection *con, unsigned status,
                                  const char *text) {
  return reply(con, status, "text/plain; charset=utf-8",
               MHD_create_response_from_buffer(strlen(text), (void *)text,
                                               MHD_RESPMEM_PERSISTENT));
}


static enum MHD_Result reply_metrics(struct MHD_Connection *con) {
  size_t len = 0;
  struct metrics *m = metrics_process();
  char *text = m != NULL ? metrics_render(m, 1, &len) : NULL;
  if (text == NULL)
    return reply_text(con, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
  struct MHD_Response *response =
      MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
  if (response == NULL)
    free(text);
  return reply(con, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
               response);
}


static struct page *page_find(struct http_daemon *d, const char *path) {
  struct page *p = d->pages;
  while (p != NULL && strcmp(p->path, path) != 0)
    p = p->next;
  return p;
}


/* Answer from a page; *found tells whether there is one. */
static enum MHD_Result reply_page(struct http_daemon *d,
                                  struct MHD_Connection *con, const char *path,
                                  int *found) {
  struct MHD_Response *response = NULL;
  char type[128] = "";
  unsigned status = 0;
  pthread_mutex_lock(&d->lock);
  const struct page *p = page_find(d, path);
  *found = p != NULL;
  if (p != NULL) {
    int stale = p->fresh_ms > 0 && mono_ms() - p->set_ms > p->fresh_ms;
    status = stale ? MHD_HTTP_SERVICE_UNAVAILABLE : p->status;
    snprintf(type, sizeof type, "%s", p->type);
    response =
        MHD_create_response_from_buffer(p->len, p->body, MHD_RESPMEM_MUST_COPY);
  }
  pthread_mutex_unlock(&d->lock);
  return *found ? reply(con, status, type, response) : MHD_NO;
}


static enum MHD_Result reply_answer(struct MHD_Connection *con,
                                    struct http_answer *a) {
  struct MHD_Response *response = a->drop ? NULL : http_answer_response(a);
  if (response == NULL)
    return MHD_NO; /* closes the connection */
  enum MHD_Result rc = MHD_queue_response(con, a->status, response);
  MHD_destroy_response(response);
  return rc;
}


/* ---- connections, on the server's thread ---- */

static void daemon_connection(void *user, struct MHD_Connection *con,
                              void **slot,
                              enum MHD_ConnectionNotificationCode what) {
  struct http_daemon *d = user;
  const union MHD_ConnectionInfo *fd;
  if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
    http_watch_close(d->watch, *slot);
    *slot = NULL;
    return;
  }
  fd = MHD_get_connection_info(con, MHD_CONNECTION_INFO_CONNECTION_FD);
  *slot = fd != NULL ? http_watch_open(d->watch, fd->connect_fd) : NULL;
}


/* What its peer, or with `ours` we, owe next gets its time from now on. */
static void daemon_phase(struct http_daemon *d, struct MHD_Connection *con,
                         int ours) {
  const union MHD_ConnectionInfo *info =
      MHD_get_connection_info(con, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  if (info != NULL)
    http_watch_phase(d->watch, info->socket_context, ours);
}


/* ---- requests, on the server's thread ---- */

struct pair_copy {
  struct http_pairs *to;
  int failed;
};


static enum MHD_Result copy_pair(void *user, enum MHD_ValueKind kind,
                                 const char *name, const char *value) {
  struct pair_copy *c = user;
  (void)kind;
  if (http_pairs_add(c->to, name, value) != 0) {
    c->failed = 1;
    return MHD_NO;
  }
  return MHD_YES;
}


/* Suspend the request and queue it for the owner. */
static enum MHD_Result inbound_queue(struct http_inbound *r,
                                     struct MHD_Connection *con) {
  struct http_daemon *d = r->daemon;
  struct pair_copy query = {&r->query, 0}, headers = {&r->headers, 0};
  MHD_get_connection_values(con, MHD_GET_ARGUMENT_KIND, copy_pair, &query);
  MHD_get_connection_values(con, MHD_HEADER_KIND, copy_pair, &headers);
  if (query.failed || headers.failed)
    return MHD_NO;
  daemon_phase(d, con, 1);
  r->connection = con;
  r->since_ms = mono_ms();
  pthread_mutex_lock(&d->lock);
  int stopping = d->stopping;
  if (!stopping) {
    MHD_suspend_connection(con);
    r->id = ++d->last_id;
    *d->queue_end = r;
    d->queue_end = &r->next;
    d->counts.waiting++;
  }
  pthread_mutex_unlock(&d->lock);
  if (stopping)
    return MHD_NO;
  uint64_t one = 1;
  ssize_t n = write(d->event, &one, sizeof one);
  (void)n; /* a full counter is readable all the same */
  return MHD_YES;
}


static enum MHD_Result inbound_dispatch(struct http_inbound *r,
                                        struct MHD_Connection *con) {
  struct http_daemon *d = r->daemon;
  int reads = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
  int found = 0;
  if (reads && d->metrics && strcmp(r->path, "/metrics") == 0)
    return reply_metrics(con);
  if (reads) {
    enum MHD_Result rc = reply_page(d, con, r->path, &found);
    if (found)
      return rc;
  }
  if (d->dynamic)
    return inbound_queue(r, con);
  if (!reads)
    return reply_text(con, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
  return reply_text(con, MHD_HTTP_NOT_FOUND, "there is no such page\n");
}


/* Keep the upload within max_body. MHD_NO closes the connection. */
static enum MHD_Result inbound_upload(struct http_inbound *r, const char *data,
                                      size_t n) {
  if (n > r->daemon->max_body - r->body_len)
    return MHD_NO;
  if (n > r->body_cap - r->body_len) {
    size_t cap = r->body_cap > 0 ? r->body_cap : 1024;
    while (cap - r->body_len < n)
      cap *= 2;
    char *grown = realloc(r->body, cap);
    if (grown == NULL)
      return MHD_NO;
    r->body = grown;
    r->body_cap = cap;
  }
  memcpy(r->body + r->body_len, data, n);
  r->body_len += n;
  return MHD_YES;
}


/* A declared length beyond the limit is refused before the upload. */
static int inbound_too_long(struct http_daemon *d, struct MHD_Connection *con) {
  const char *length =
      MHD_lookup_connection_value(con, MHD_HEADER_KIND, "Content-Length");
  return length != NULL && strtoull(length, NULL, 10) > d->max_body;
}


/* libmicrohttpd calls this first with the headers, then with parts of the
 * body, then without; and once more after an answer resumed it. */
static enum MHD_Result daemon_request(void *user, struct MHD_Connection *con,
                                      const char *path, const char *method,
                                      const char *version, const char *data,
                                      size_t *size, void **slot) {
  struct http_daemon *d = user;
  struct http_inbound *r = *slot;
  (void)version;
  if (r == NULL) {
    r = *slot = http_inbound_new(d, path, method);
    if (r == NULL)
      return MHD_NO;
    pthread_mutex_lock(&d->lock);
    d->counts.requests++;
    pthread_mutex_unlock(&d->lock);
    if (inbound_too_long(d, con))
      return reply_text(con, MHD_HTTP_CONTENT_TOO_LARGE,
                        "the body is larger than the limit\n");
    return MHD_YES;
  }
  if (*size > 0) {
    enum MHD_Result rc = inbound_upload(r, data, *size);
    *size = 0;
    return rc;
  }
  daemon_phase(d, con, 0);
  if (!r->resumed)
    return inbound_dispatch(r, con);
  return r->answer != NULL ? reply_answer(con, r->answer) : MHD_NO;
}


static void daemon_completed(void *user, struct MHD_Connection *con,
                             void **slot, enum MHD_RequestTerminationCode why) {
  (void)why;
  daemon_phase(user, con, 0); /* of the next request */
  http_inbound_free(*slot);
  *slot = NULL;
}


/* ---- the owner's side ---- */

/* A listening socket, or -1 with a code and a text. */
static int listen_on(const struct http_daemon_options *o, const char **code,
                     char *err, size_t size) {
  struct addrinfo hints = {0}, *found = NULL;
  char port[16];
  snprintf(port, sizeof port, "%d", o->port);
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  int rc = getaddrinfo(o->address, port, &hints, &found);
  if (rc != 0) {
    *code = "ADDRESS";
    snprintf(err, size, "%s: %s", o->address, gai_strerror(rc));
    return -1;
  }
  int yes = 1;
  int fd =
      socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ||
      listen(fd, BACKLOG) != 0) {
    *code = errno == EADDRINUSE      ? "INUSE"
            : errno == EACCES        ? "DENIED"
            : errno == EADDRNOTAVAIL ? "ADDRESS"
                                     : "SYSTEM";
    snprintf(err, size, "%s port %d: %s", o->address, o->port, strerror(errno));
    if (fd >= 0)
      close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  return fd;
}


static int socket_port(int fd) {
  struct sockaddr_storage at = {0};
  socklen_t len = sizeof at;
  char port[16];
  if (getsockname(fd, (struct sockaddr *)&at, &len) != 0 ||
      getnameinfo((struct sockaddr *)&at, len, NULL, 0, port, sizeof port,
                  NI_NUMERICSERV) != 0)
    return 0;
  return atoi(port);
}


/* Start libmicrohttpd with all signals blocked, so that its thread inherits
 * the mask and every signal reaches the main thread's waits. */
static struct MHD_Daemon *
mhd_start(struct http_daemon *d, const struct http_daemon_options *o, int fd) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  d->watch = http_watch_start(o->max_connections, (int64_t)o->timeout_s * 1000);
  struct MHD_Daemon *mhd =
      d->watch == NULL
          ? NULL
          : MHD_start_daemon(
                MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0,
                NULL, NULL, daemon_request, d, MHD_OPTION_LISTEN_SOCKET, fd,
                MHD_OPTION_NOTIFY_COMPLETED, daemon_completed, d,
                MHD_OPTION_NOTIFY_CONNECTION, daemon_connection, d,
                MHD_OPTION_CONNECTION_LIMIT, o->max_connections,
                MHD_OPTION_CONNECTION_TIMEOUT, o->timeout_s,
                MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_MAX,
                MHD_OPTION_END);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return mhd;
}


struct http_daemon *http_daemon_start(const struct http_daemon_options *o,
                                      const char **code, char *err,
                                      size_t size) {
  struct http_daemon *d = calloc(1, sizeof *d);
  int fd = -1;
  *code = "SYSTEM";
  snprintf(err, size, "out of memory");
  if (d == NULL)
    return NULL;
  pthread_mutex_init(&d->lock, NULL);
  d->queue_end = &d->queue;
  d->dynamic = o->dynamic;
  d->metrics = o->metrics;
  d->timeout_s = o->timeout_s;
  d->max_body = o->max_body;
  d->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (d->event < 0) {
    snprintf(err, size, "eventfd: %s", strerror(errno));
    goto failed;
  }
  fd = listen_on(o, code, err, size);
  if (fd < 0)
    goto failed;
  d->port = socket_port(fd);
  d->mhd = mhd_start(d, o, fd);
  if (d->mhd == NULL) {
    snprintf(err, size, "the server's thread did not start");
    close(fd);
    goto failed;
  }
  return d;
failed:
  http_daemon_stop(d);
  return NULL;
}


static void page_free(struct page *p) {
  if (p == NULL)
    return;
  free(p->path);
  free(p->type);
  free(p->body);
  free(p);
}


/* Give `r` its answer (NULL: none, cut the connection) and wake it. Under the
 * lock; the other thread may free `r` at once. */
static void inbound_resume(struct http_daemon *d, struct http_inbound *r,
                           struct http_answer *a) {
  d->counts.waiting--;
  d->counts.dropped += a == NULL || a->drop;
  r->answer = a;
  r->resumed = 1;
  MHD_resume_connection(r->connection);
}


static void resume_all(struct http_daemon *d, struct http_inbound *r) {
  while (r != NULL) {
    struct http_inbound *next = r->next;
    http_answer_free(r->answer);
    inbound_resume(d, r, NULL);
    r = next;
  }
}


void http_daemon_stop(struct http_daemon *d) {
  if (d == NULL)
    return;
  pthread_mutex_lock(&d->lock);
  d->stopping = 1;
  /* libmicrohttpd aborts when it is stopped with a suspended connection. */
  resume_all(d, d->queue);
  resume_all(d, d->taken);
  resume_all(d, d->delayed);
  pthread_mutex_unlock(&d->lock);
  if (d->mhd != NULL)
    MHD_stop_daemon(d->mhd);
  http_watch_stop(d->watch);
  while (d->pages != NULL) {
    struct page *p = d->pages;
    d->pages = p->next;
    page_free(p);
  }
  if (d->event >= 0)
    close(d->event);
  pthread_mutex_destroy(&d->lock);
  free(d);
}


int http_daemon_port(const struct http_daemon *d) {
  return d->port;
}


int http_daemon_fd(const struct http_daemon *d) {
  return d->event;
}


int http_daemon_page(struct http_daemon *d, const char *path, unsigned status,
                     const char *type, const char *body, size_t len,
                     int64_t fresh_ms) {
  struct page *made = calloc(1, sizeof *made);
  if (made == NULL)
    return -1;
  made->path = strdup(path);
  made->type = strdup(type);
  made->body = malloc(len + 1);
  if (made->path == NULL || made->type == NULL || made->body == NULL) {
    page_free(made);
    return -1;
  }
  memcpy(made->body, body, len);
  made->len = len;
  made->status = status;
  made->fresh_ms = fresh_ms;
  made->set_ms = mono_ms();
  pthread_mutex_lock(&d->lock);
  struct page **at = &d->pages;
  while (*at != NULL && strcmp((*at)->path, path) != 0)
    at = &(*at)->next;
  struct page *old = *at;
  made->next = old != NULL ? old->next : NULL;
  *at = made;
  pthread_mutex_unlock(&d->lock);
  page_free(old);
  return 0;
}


struct http_inbound *http_daemon_take(struct http_daemon *d) {
  uint64_t count;
  ssize_t n = read(d->event, &count, sizeof count);
  (void)n; /* only to make the descriptor quiet */
  pthread_mutex_lock(&d->lock);
  struct http_inbound *first = d->queue, **at = &d->taken;
  while (*at != NULL)
    at = &(*at)->next;
  *at = first;
  d->queue = NULL;
  d->queue_end = &d->queue;
  pthread_mutex_unlock(&d->lock);
  return first;
}


/* Unlink and return the request `id` of the list, or NULL. */
static struct http_inbound *list_take(struct http_inbound **at, int64_t id) {
  while (*at != NULL && (*at)->id != id)
    at = &(*at)->next;
  struct http_inbound *r = *at;
  if (r != NULL) {
    *at = r->next;
    r->next = NULL;
  }
  return r;
}


int http_daemon_answer(struct http_daemon *d, int64_t id,
                       struct http_answer *a) {
  pthread_mutex_lock(&d->lock);
  struct http_inbound *r = list_take(&d->taken, id);
  if (r != NULL && a->delay_ms > 0) {
    r->answer = a;
    r->due_ms = mono_ms() + a->delay_ms;
    r->next = d->delayed;
    d->delayed = r;
  } else if (r != NULL) {
    inbound_resume(d, r, a);
  }
  pthread_mutex_unlock(&d->lock);
  if (r == NULL)
    http_answer_free(a);
  return r != NULL ? 0 : -1;
}


int64_t http_daemon_tick(struct http_daemon *d) {
  int64_t now = mono_ms(), next = -1;
  pthread_mutex_lock(&d->lock);
  for (struct http_inbound **at = &d->delayed; *at != NULL;) {
    struct http_inbound *r = *at;
    if (r->due_ms <= now) {
      *at = r->next;
      inbound_resume(d, r, r->answer);
      continue;
    }
    if (next < 0 || r->due_ms - now < next)
      next = r->due_ms - now;
    at = &r->next;
  }
  /* In order of arrival, so the first that is in time ends the search. */
  while (d->taken != NULL &&
         now - d->taken->since_ms > (int64_t)d->timeout_s * 1000) {
    struct http_inbound *r = d->taken;
    d->taken = r->next;
    d->counts.timed_out++;
    inbound_resume(d, r,
                   http_answer_text(MHD_HTTP_GATEWAY_TIMEOUT,
                                    "nobody answered in time\n"));
  }
  pthread_mutex_unlock(&d->lock);
  return next;
}


void http_daemon_counts(struct http_daemon *d, struct http_counts *out) {
  pthread_mutex_lock(&d->lock);
  *out = d->counts;
  pthread_mutex_unlock(&d->lock);
}
