/* control.c - host.control: the socket by which a live process is asked.
 *
 * A stream socket in the file system, for its own user (mode 0600, and each
 * peer's user is looked at). A request and its answer are frames: four bytes
 * of length, most significant first, and a text; one of each a connection.
 * Nothing here waits: poll takes what has come. Who sends too much, too
 * slowly, or does not read is dropped. The client's side is control_call.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control.h"
#include "fail.h"
#include "field.h"
#include "handle.h"
#include "interrupt.h"
#include "call.h"
#include "mono.h"
#include "opts.h"
#include "state.h"

int luaopen_host_control(lua_State *L);

#define SOCKET "control socket"

enum { CLIENTS_MAX = 8, BACKLOG = 8, REQUEST_MAX = 65536, TIMEOUT_MS = 5000 };

struct client {
  int fd; /* 0: the slot is free */
  lua_Integer id;
  int64_t since_ms;
  struct control_frame in, out;
  int asked; /* handed to Lua, not yet answered */
};

struct server {
  struct handle h;
  int listen, epoll;
  char *path;
  dev_t dev;
  ino_t ino;
  size_t request_max;
  int64_t timeout_ms;
  lua_Integer last_id, refused, dropped;
  struct control_frame refusal; /* what another user is told */
  struct client clients[CLIENTS_MAX];
};


static void client_drop(struct client *c) {
  if (c->fd == 0)
    return;
  close(c->fd); /* and out of the epoll set */
  free(c->in.bytes);
  free(c->out.bytes);
  memset(c, 0, sizeof *c);
}


/* The file is removed only if it is still ours. */
static void server_close(struct handle *h) {
  struct server *s = (struct server *)h;
  struct stat st;
  for (int i = 0; i < CLIENTS_MAX; i++)
    client_drop(&s->clients[i]);
  if (s->listen > 0)
    close(s->listen);
  if (s->epoll > 0)
    close(s->epoll);
  if (s->path != NULL && s->ino != 0 && lstat(s->path, &st) == 0 &&
      st.st_dev == s->dev && st.st_ino == s->ino)
    unlink(s->path);
  free(s->path);
  free(s->refusal.bytes);
  s->path = s->refusal.bytes = NULL;
}


static int server_watch(struct server *s, int fd, uint32_t events, int op) {
  struct epoll_event event = {.events = events, .data = {.fd = fd}};
  return epoll_ctl(s->epoll, op, fd, &event);
}


/* Bound under another name and listening before it gets its own: it is never
 * there without answering, and what a killed process left is replaced. The
 * mode is the socket's own before there is a file: no moment, no umask. */
static int server_bind(struct server *s) {
  char name[sizeof((struct sockaddr_un *)0)->sun_path];
  struct sockaddr_un at;
  struct stat st;
  int dir = control_address(s->path, ".new", &at, name, sizeof name);
  if (dir < 0)
    return -1;
  s->listen = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  unlinkat(dir, name, 0);
  int ok = s->listen >= 0 && fchmod(s->listen, 0600) == 0 &&
           bind(s->listen, (struct sockaddr *)&at, sizeof at) == 0 &&
           fchmodat(dir, name, 0600, 0) == 0 &&
           listen(s->listen, BACKLOG) == 0 &&
           fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           renameat(dir, name, AT_FDCWD, s->path) == 0;
  int error = errno;
  if (ok) {
    s->dev = st.st_dev;
    s->ino = st.st_ino;
  } else {
    unlinkat(dir, name, 0);
  }
  close(dir);
  errno = error;
  return ok ? 0 : -1;
}


/* control.listen{ path=, max_request=65536, timeout_ms=5000, refusal= }
 *   -> server | nil, message, code
 * INUSE: a live process listens there. A file that nobody serves is replaced.
 * timeout_ms: for a request to come and, again, for its answer to be read.
 * refusal: the answer to another user; none: it is hung up. */
static int control_listen(lua_State *L) {
  static const char *const known[] = {"path", "max_request", "timeout_ms",
                                      "refusal", NULL};
  opts_check(L, 1, known);
  const char *path = opts_need(L, 1, "path");
  size_t most = (size_t)opts_int(L, 1, "max_request", REQUEST_MAX, 1, 1 << 24);
  int64_t timeout_ms = opts_int(L, 1, "timeout_ms", TIMEOUT_MS, 1, 3600000);
  const char *refusal = opts_str(L, 1, "refusal", NULL);
  int other = control_connect(path);
  if (other >= 0) {
    close(other);
    return fail(L, "control", "INUSE", "%s: a live process listens there",
                path);
  }
  struct server *s = handle_new(L, sizeof *s, SOCKET);
  s->request_max = most;
  s->timeout_ms = timeout_ms;
  s->path = strdup(path);
  s->h.close = server_close;
  if (s->path == NULL ||
      (refusal != NULL &&
       control_frame(&s->refusal, refusal, strlen(refusal)) != 0))
    return luaL_error(L, "out of memory");
  s->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (s->epoll < 0 || server_bind(s) != 0 ||
      server_watch(s, s->listen, EPOLLIN, EPOLL_CTL_ADD) != 0) {
    int error = errno;
    handle_close(&s->h);
    return control_fail(L, path, error);
  }
  return 1;
}


/* Ours, or root's: everybody else is sent away. */
static int peer_is_ours(int fd) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == geteuid() || peer.uid == 0);
}


static void server_accept(struct server *s) {
  for (;;) {
    int fd = accept4(s->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
      return;
    struct client *c = NULL;
    for (int i = 0; i < CLIENTS_MAX && c == NULL; i++)
      c = s->clients[i].fd == 0 ? &s->clients[i] : NULL;
    int ours = peer_is_ours(fd);
    if (c == NULL || !ours || server_watch(s, fd, EPOLLIN, EPOLL_CTL_ADD)) {
      struct control_frame refusal = s->refusal;
      if (!ours && refusal.bytes != NULL)
        (void)control_send(fd, &refusal); /* there is room: it is the first */
      s->refused += !ours;
      s->dropped += ours;
      close(fd);
      continue;
    }
    c->fd = fd;
    c->id = ++s->last_id;
    c->since_ms = mono_ms();
  }
}


/* Go on with what the client and we owe each other. */
static void client_step(struct server *s, struct client *c, int64_t now) {
  int done = 0;
  if (c->out.bytes != NULL)
    done = control_send(c->fd, &c->out);
  else if (!c->asked)
    done = control_receive(c->fd, &c->in, s->request_max) < 0;
  else
    return; /* it waits for Lua */
  if (done != 0 || now - c->since_ms > s->timeout_ms) {
    s->dropped += done <= 0;
    client_drop(c);
  }
}


/* server:poll() -> { {id=, text=}, ... }   requests that came; never waits */
static int server_poll(lua_State *L) {
  struct server *s = handle_check(L, 1, SOCKET);
  lua_Integer n = 0;
  int64_t now = mono_ms();
  server_accept(s);
  lua_newtable(L);
  for (int i = 0; i < CLIENTS_MAX; i++) {
    struct client *c = &s->clients[i];
    if (c->fd != 0)
      client_step(s, c, now);
    if (c->fd == 0 || c->asked || !control_complete(&c->in))
      continue;
    lua_createtable(L, 0, 2);
    field_int(L, "id", c->id);
    lua_pushlstring(L, c->in.bytes, c->in.need);
    lua_setfield(L, -2, "text");
    lua_rawseti(L, -2, ++n);
    c->asked = 1;
    /* Its hanging up would wake the loop again and again. */
    server_watch(s, c->fd, 0, EPOLL_CTL_DEL);
  }
  return 1;
}


/* server:reply(id, text) -> true | nil, message, "GONE" */
static int server_reply(lua_State *L) {
  struct server *s = handle_check(L, 1, SOCKET);
  lua_Integer id = luaL_checkinteger(L, 2);
  size_t size = 0;
  const char *text = luaL_checklstring(L, 3, &size);
  luaL_argcheck(L, size <= CONTROL_ANSWER_MAX, 3, "the answer is too long");
  for (int i = 0; i < CLIENTS_MAX; i++) {
    struct client *c = &s->clients[i];
    if (c->fd == 0 || c->id != id || !c->asked || c->out.bytes != NULL)
      continue;
    if (control_frame(&c->out, text, size) != 0)
      return luaL_error(L, "out of memory");
    c->since_ms = mono_ms();
    server_watch(s, c->fd, EPOLLOUT, EPOLL_CTL_ADD);
    client_step(s, c, c->since_ms);
    lua_pushboolean(L, 1);
    return 1;
  }
  return fail(L, "control", "GONE", "the client has left");
}


/* server:fd() -> int   readable while poll has something to do */
static int server_fd(lua_State *L) {
  struct server *s = handle_check(L, 1, SOCKET);
  lua_pushinteger(L, s->epoll);
  return 1;
}


/* server:stats() -> { refused=, dropped= }   other users; who broke a limit */
static int server_stats(lua_State *L) {
  struct server *s = handle_check(L, 1, SOCKET);
  lua_createtable(L, 0, 2);
  field_int(L, "refused", s->refused);
  field_int(L, "dropped", s->dropped);
  return 1;
}


/* control.limited(ms, bytes, f, ...) -> true, results... | false, error
 * Calls f; after `ms` it is stopped wherever it is, also within pcall, a
 * coroutine or one of our waits (not within one call of a library). The Lua
 * heap may grow by `bytes` meanwhile. */
static int control_limited(lua_State *L) {
  lua_Integer ms = luaL_checkinteger(L, 1);
  lua_Integer bytes = luaL_checkinteger(L, 2);
  luaL_argcheck(L, ms >= 1 && ms <= 60000, 1, "from 1 to 60000 ms");
  luaL_argcheck(L, bytes >= 0 && bytes <= INT64_C(1) << 40, 2,
                "from 0 to 2^40 bytes");
  luaL_checkany(L, 3);
  size_t before = state_limited(L), most = state_used(L) + (size_t)bytes;
  if (before == 0 || most < before)
    state_limit(L, most);
  interrupt_limit(mono_ms() + ms);
  int status = call_protected(L, lua_gettop(L) - 3, LUA_MULTRET);
  interrupt_limit(0);
  state_limit(L, before);
  lua_pushboolean(L, status == LUA_OK);
  lua_replace(L, 2);
  return lua_gettop(L) - 1;
}


/* control.late() -> bool   is what `limited` runs beyond its time? */
static int control_late(lua_State *L) {
  lua_pushboolean(L, interrupt_late());
  return 1;
}


static const luaL_Reg server_methods[] = {{"poll", server_poll},
                                          {"reply", server_reply},
                                          {"fd", server_fd},
                                          {"stats", server_stats},
                                          {NULL, NULL}};

static const luaL_Reg functions[] = {{"listen", control_listen},
                                     {"ask", control_ask},
                                     {"limited", control_limited},
                                     {"late", control_late},
                                     {NULL, NULL}};


int luaopen_host_control(lua_State *L) {
  handle_type(L, SOCKET, server_methods);
  luaL_newlib(L, functions);
  return 1;
}
