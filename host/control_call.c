/* control_call.c - frames and the asking side of host.control. See control.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "fail.h"
#include "interrupt.h"
#include "mono.h"


int control_fail(lua_State *L, const char *path, int error) {
  const char *code = error == ECONNREFUSED                   ? "REFUSED"
                     : error == ENOENT                       ? "NOENT"
                     : error == EACCES || error == EPERM     ? "DENIED"
                     : error == EPIPE || error == ECONNRESET ? "GONE"
                                                             : "SYSTEM";
  return fail(L, "control", code, "%s: %s", path, strerror(error));
}


int control_address(const char *path, const char *suffix,
                    struct sockaddr_un *at, char *name, size_t size) {
  const char *slash = strrchr(path, '/');
  char folder[4096] = ".";
  memset(at, 0, sizeof *at);
  at->sun_family = AF_UNIX;
  if (slash != NULL)
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path + 1), path);
  int fits = snprintf(name, size, "%s%s", slash != NULL ? slash + 1 : path,
                      suffix) < (int)sizeof at->sun_path - 32;
  if (!fits || strlen(path) >= sizeof folder) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0)
    snprintf(at->sun_path, sizeof at->sun_path, "/proc/self/fd/%d/%.70s", dir,
             name);
  return dir;
}


int control_connect(const char *path) {
  char name[sizeof((struct sockaddr_un *)0)->sun_path];
  struct sockaddr_un at;
  int dir = control_address(path, "", &at, name, sizeof name);
  if (dir < 0)
    return -1;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
    int error = errno;
    close(fd);
    fd = -1;
    errno = error;
  }
  int error = errno;
  close(dir);
  errno = error;
  return fd;
}


int control_frame(struct control_frame *f, const char *text, size_t size) {
  f->bytes = malloc(size + 1);
  if (f->bytes == NULL)
    return -1;
  memcpy(f->bytes, text, size);
  f->need = size;
  f->done = 0;
  for (int i = 0; i < CONTROL_HEAD; i++)
    f->head[i] = (unsigned char)(size >> (8 * (CONTROL_HEAD - 1 - i)));
  return 0;
}


int control_complete(const struct control_frame *f) {
  return f->bytes != NULL && f->done == CONTROL_HEAD + f->need;
}


int control_send(int fd, struct control_frame *f) {
  while (!control_complete(f)) {
    const void *from = f->head + f->done;
    size_t left = CONTROL_HEAD - f->done;
    if (f->done >= CONTROL_HEAD) {
      from = f->bytes + (f->done - CONTROL_HEAD);
      left = CONTROL_HEAD + f->need - f->done;
    }
    ssize_t n = send(fd, from, left, MSG_NOSIGNAL);
    if (n < 0)
      return errno == EAGAIN || errno == EINTR ? 0 : -1;
    f->done += (size_t)n;
  }
  return 1;
}


/* The head is whole: how long is the text? */
static int control_begin(struct control_frame *f, size_t most) {
  f->need = 0;
  for (int i = 0; i < CONTROL_HEAD; i++)
    f->need = f->need << 8 | f->head[i];
  f->bytes = f->need <= most ? malloc(f->need + 1) : NULL;
  return f->bytes != NULL ? 0 : -1;
}


int control_receive(int fd, struct control_frame *f, size_t most) {
  while (!control_complete(f)) {
    void *to = f->head + f->done;
    size_t left = CONTROL_HEAD - f->done;
    if (f->done >= CONTROL_HEAD) {
      to = f->bytes + (f->done - CONTROL_HEAD);
      left = CONTROL_HEAD + f->need - f->done;
    }
    ssize_t n = recv(fd, to, left, 0);
    if (n == 0)
      return -1;
    if (n < 0)
      return errno == EAGAIN || errno == EINTR ? 0 : -1;
    f->done += (size_t)n;
    if (f->done == CONTROL_HEAD && f->bytes == NULL &&
        control_begin(f, most) != 0)
      return -1;
  }
  return 1;
}


/* Move the frame one way; 1 whole, 0 out of time, -1 gone, -2 interrupted. */
static int call_move(int fd, struct control_frame *f, int sending,
                     int64_t end) {
  for (;;) {
    int rc = sending ? control_send(fd, f)
                     : control_receive(fd, f, CONTROL_ANSWER_MAX);
    int64_t left = end - mono_ms();
    if (rc != 0 || left <= 0)
      return rc;
    if (interrupt_raising())
      return -2;
    struct pollfd p = {fd, sending ? POLLOUT : POLLIN, 0};
    poll(&p, 1, left > INTERRUPT_SLICE_MS ? INTERRUPT_SLICE_MS : (int)left);
  }
}


/* control.ask(path, text [, timeout_ms=10000]) -> answer | nil, message, code
 * NOENT, REFUSED: nobody listens; DENIED; GONE: it hung up; TIMEOUT. */
int control_ask(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  size_t size = 0;
  const char *text = luaL_checklstring(L, 2, &size);
  lua_Integer ms = luaL_optinteger(L, 3, 10000);
  luaL_argcheck(L, size <= CONTROL_ANSWER_MAX, 2, "the request is too long");
  struct control_frame out = {0}, in = {0};
  int64_t end = mono_ms() + ms;
  int fd = control_connect(path);
  if (fd < 0)
    return control_fail(L, path, errno);
  int rc = control_frame(&out, text, size) == 0 ? 1 : -1;
  if (rc > 0)
    rc = call_move(fd, &out, 1, end);
  /* A server that refuses answers before it has read all, and hangs up. */
  if (rc > 0 || (rc == -1 && out.bytes != NULL))
    rc = call_move(fd, &in, 0, end);
  close(fd);
  free(out.bytes);
  if (rc > 0)
    lua_pushlstring(L, in.bytes, in.need);
  free(in.bytes);
  if (rc == -2)
    interrupt_check(L);
  if (rc == 0)
    return fail(L, "control", "TIMEOUT", "%s: no answer within %d ms", path,
                (int)ms);
  if (rc < 0)
    return fail(L, "control", "GONE", "%s: it hung up", path);
  return 1;
}
