/* http_watch.c - ends connections that take too long. See http_watch.h.
 *
 * The thread only shuts a socket down: libmicrohttpd notices and closes it.
 * A descriptor is touched under the lock and only while its entry is in the
 * list, so it is never another one's. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "http_watch.h"
#include "mono.h"

enum { PRESSED_MS = 1000 };

struct http_watched {
  struct http_watched *next, **at;
  int64_t since_ms;
  int fd;
  int ours; /* or shut down already */
};

struct http_watch {
  pthread_mutex_t lock; /* guards all below */
  pthread_cond_t changed;
  struct http_watched *list;
  int64_t limit_ms;
  unsigned most, open;
  int stopping;
  pthread_t thread;
};


/* Shut down what is overdue; when to look again, or -1. Under the lock. */
static int64_t watch_sweep(struct http_watch *w) {
  int pressed = w->open >= w->most - w->most / 4;
  int64_t limit =
      pressed && w->limit_ms > PRESSED_MS ? PRESSED_MS : w->limit_ms;
  int64_t now = mono_ms(), next = -1;
  for (struct http_watched *c = w->list; c != NULL; c = c->next) {
    if (c->ours)
      continue;
    int64_t due = c->since_ms + limit;
    if (due <= now) {
      shutdown(c->fd, SHUT_RDWR);
      c->ours = 1;
    } else if (next < 0 || due < next) {
      next = due;
    }
  }
  return next;
}


static void *watch_thread(void *arg) {
  struct http_watch *w = arg;
  pthread_mutex_lock(&w->lock);
  while (!w->stopping) {
    int64_t next = watch_sweep(w);
    struct timespec at = mono_timespec(next * 1000);
    if (next < 0)
      pthread_cond_wait(&w->changed, &w->lock);
    else
      pthread_cond_timedwait(&w->changed, &w->lock, &at);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}


struct http_watch *http_watch_start(unsigned most, int64_t limit_ms) {
  struct http_watch *w = calloc(1, sizeof *w);
  if (w == NULL)
    return NULL;
  w->most = most;
  w->limit_ms = limit_ms;
  pthread_mutex_init(&w->lock, NULL);
  mono_cond_init(&w->changed);
  if (pthread_create(&w->thread, NULL, watch_thread, w) == 0)
    return w;
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
  return NULL;
}


void http_watch_stop(struct http_watch *w) {
  if (w == NULL)
    return;
  pthread_mutex_lock(&w->lock);
  w->stopping = 1;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
  pthread_join(w->thread, NULL);
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w);
}


struct http_watched *http_watch_open(struct http_watch *w, int fd) {
  struct http_watched *c = calloc(1, sizeof *c);
  if (c == NULL)
    return NULL;
  c->fd = fd;
  c->since_ms = mono_ms();
  pthread_mutex_lock(&w->lock);
  c->next = w->list;
  c->at = &w->list;
  if (c->next != NULL)
    c->next->at = &c->next;
  w->list = c;
  w->open++;
  pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
  return c;
}


void http_watch_close(struct http_watch *w, struct http_watched *c) {
  if (c == NULL)
    return;
  pthread_mutex_lock(&w->lock);
  *c->at = c->next;
  if (c->next != NULL)
    c->next->at = c->at;
  w->open--;
  pthread_mutex_unlock(&w->lock);
  free(c);
}


void http_watch_phase(struct http_watch *w, struct http_watched *c, int ours) {
  if (c == NULL)
    return;
  pthread_mutex_lock(&w->lock);
  c->since_ms = mono_ms();
  c->ours = ours;
  if (!ours)
    pthread_cond_signal(&w->changed);
  pthread_mutex_unlock(&w->lock);
}
