/* kafka_wire.c - one request over a connection of one's own. See kafka_wire.h.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kafka_wire.h"
#include "mono.h"


void kafka_wire_put_int(struct kafka_wire *m, uint32_t value, int size) {
  for (int shift = 8 * (size - 1); shift >= 0; shift -= 8)
    m->bytes[m->used++] = (unsigned char)(value >> shift);
}


void kafka_wire_put(struct kafka_wire *m, const char *text) {
  size_t len = strlen(text); /* < KAFKA_NAME_MAX */
  kafka_wire_put_int(m, (uint32_t)len, 2);
  memcpy(m->bytes + m->used, text, len);
  m->used += len;
}


void kafka_wire_begin(struct kafka_wire *m, uint32_t api, uint32_t version) {
  m->used = 4; /* its length comes last */
  kafka_wire_put_int(m, api, 2);
  kafka_wire_put_int(m, version, 2);
  kafka_wire_put_int(m, 1, 4); /* correlation id */
  kafka_wire_put(m, "tidemill");
}


static int wire_wait(int fd, short events, int64_t until) {
  struct pollfd p = {.fd = fd, .events = events};
  int64_t left = until - mono_ms();
  return poll(&p, 1, left > 0 ? (int)left : 0) == 1 ? 0 : -1;
}


int kafka_wire_connect(const char *host, const char *port, int64_t until) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
  int fd = -1;
  if (getaddrinfo(host, port, &hints, &list) != 0)
    return -1;
  for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
    fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC,
                a->ai_protocol);
    if (fd < 0)
      continue;
    int failed = 0;
    socklen_t size = sizeof failed;
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0 &&
        (errno != EINPROGRESS || wire_wait(fd, POLLOUT, until) != 0 ||
         getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) != 0 ||
         failed != 0)) {
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(list);
  return fd;
}


static int wire_write(int fd, const struct kafka_wire *m, int64_t until) {
  size_t done = 0;
  while (done < m->used) {
    ssize_t n = send(fd, m->bytes + done, m->used - done, MSG_NOSIGNAL);
    if (n > 0)
      done += (size_t)n;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
      return -1;
    else if (wire_wait(fd, POLLOUT, until) != 0)
      return -1;
  }
  return 0;
}


/* `size` bytes to the front of `m`. */
static int wire_read(int fd, struct kafka_wire *m, size_t size, int64_t until) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = recv(fd, m->bytes + done, size - done, 0);
    if (n > 0)
      done += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
      return -1;
    else if (wire_wait(fd, POLLIN, until) != 0)
      return -1;
  }
  m->used = 0;
  m->size = size;
  m->bad = 0;
  return 0;
}


rd_kafka_resp_err_t kafka_wire_ask(int fd, struct kafka_wire *m,
                                   int64_t until) {
  size_t used = m->used;
  m->used = 0;
  kafka_wire_put_int(m, (uint32_t)(used - 4), 4);
  m->used = used;
  if (wire_write(fd, m, until) != 0 || wire_read(fd, m, 4, until) != 0)
    return RD_KAFKA_RESP_ERR__TRANSPORT;
  uint32_t size = kafka_wire_int(m, 4);
  if (size > sizeof m->bytes)
    return RD_KAFKA_RESP_ERR__BAD_MSG;
  if (wire_read(fd, m, size, until) != 0)
    return RD_KAFKA_RESP_ERR__TRANSPORT;
  kafka_wire_int(m, 4); /* correlation id */
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}


uint32_t kafka_wire_int(struct kafka_wire *m, int size) {
  uint32_t value = 0;
  if (m->size - m->used < (size_t)size) {
    m->bad = 1;
    return 0;
  }
  for (int i = 0; i < size; i++)
    value = value << 8 | m->bytes[m->used++];
  return value;
}


int16_t kafka_wire_error(struct kafka_wire *m) {
  return (int16_t)kafka_wire_int(m, 2);
}


void kafka_wire_text(struct kafka_wire *m, char text[KAFKA_NAME_MAX]) {
  int16_t said = (int16_t)kafka_wire_int(m, 2); /* -1: null */
  size_t len = said > 0 ? (size_t)said : 0;
  if (len >= KAFKA_NAME_MAX || len > m->size - m->used) {
    m->bad = 1;
    len = 0;
  }
  memcpy(text, m->bytes + m->used, len);
  text[len] = '\0';
  m->used += len;
}
