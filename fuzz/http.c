/* http.c - fuzzes host.http's server: a real one on a loopback socket that is
 * fed the input's bytes.
 *
 * fuzz/http.lua has the server, its answers and what must hold; here is the
 * client: it sends the bytes in pieces, on one connection or on two, ends them
 * early or not, and reads what comes back until the server is done. The first
 * byte of an input chooses all that. Run from the project's folder. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>

#include "fuzz.h"

/* The server gives a request two seconds (fuzz/http.lua). */
enum {
  PATIENCE_MS = 20000,
  SURE_MS = 1500,
  RESTART_EVERY = 500,
  WAIT_EVERY = 2000
};
enum { FLAG_GOOD = 1, FLAG_OPEN = 32, FLAG_TWO = 64, FLAG_SILENT = 128 };

int luaopen_host_http(lua_State *L);

static lua_State *L;
static int port;
static unsigned inputs;

struct link {
  int fd;
  const char *at, *end;
  size_t piece, received;
  int done;
};


static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}


/* Call a function of fuzz/http.lua, which is at 1, on `args` values. */
static void call(const char *name, int args) {
  lua_getfield(L, 1, name);
  lua_insert(L, -1 - args);
  EXPECT(lua_pcall(L, args, 1, 0) == LUA_OK, "%s: %s", name,
         lua_tostring(L, -1));
}


static void restart(void) {
  call("open", 0);
  port = (int)lua_tointeger(L, -1);
  lua_settop(L, 1);
}


static void prepare(void) {
  if (L == NULL) {
    signal(SIGPIPE, SIG_IGN);
    L = luaL_newstate();
    luaL_openlibs(L);
    luaL_requiref(L, "host.http", luaopen_host_http, 0);
    lua_settop(L, 0);
    EXPECT(luaL_dofile(L, "fuzz/http.lua") == LUA_OK, "%s",
           lua_tostring(L, -1));
    lua_settop(L, 1);
  }
  if (inputs++ % RESTART_EVERY == 0)
    restart();
}


/* A client that ends by a reset leaves no port behind in TIME_WAIT. */
static int connect_link(void) {
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)port),
                           .sin_addr = {htonl(INADDR_LOOPBACK)}};
  struct linger reset = {1, 0};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT(fd >= 0, "socket: %s", strerror(errno));
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  EXPECT(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "connect: %s",
         strerror(errno));
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}


static void link_send(struct link *k, int half_close) {
  if (k->at == NULL)
    return;
  size_t left = (size_t)(k->end - k->at);
  size_t n = left < k->piece ? left : k->piece;
  ssize_t sent = send(k->fd, k->at, n, MSG_NOSIGNAL);
  if (sent >= 0)
    k->at += sent;
  else if (errno != EAGAIN)
    k->at = k->end; /* the server has closed it */
  if (k->at == k->end) {
    if (half_close)
      shutdown(k->fd, SHUT_WR);
    k->at = NULL;
  }
}


static void link_receive(struct link *k) {
  char answer[16384];
  ssize_t n = recv(k->fd, answer, sizeof answer, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN))
    k->done = 1;
  if (n > 0 && k->received == 0)
    EXPECT(n < 7 || memcmp(answer, "HTTP/1.", 7) == 0, "an answer of %.*s",
           (int)n, answer);
  k->received += n > 0 ? (size_t)n : 0;
}


/* Until the server has closed the links, or all is said and quiet. */
static void talk(struct link *k, int count, unsigned flags) {
  int64_t end = now_ms() + PATIENCE_MS;
  int quiet = 0, open = count;
  /* A silent connection takes the server's whole timeout: seldom waited for. */
  int wait = inputs % WAIT_EVERY == 0 && !(flags & FLAG_SILENT);
  lua_Integer seen = flags & FLAG_GOOD ? 0 : 1;
  while (open > 0 && (wait || quiet < 4 || seen == 0)) {
    size_t before = 0, after = 0;
    int sending = 0;
    open = 0;
    for (int i = 0; i < count; i++) {
      before += k[i].received;
      link_send(&k[i], (flags & FLAG_OPEN) == 0);
      if (!k[i].done)
        link_receive(&k[i]);
      after += k[i].received;
      open += !k[i].done;
      sending += k[i].at != NULL;
    }
    call("step", 0);
    seen += lua_tointeger(L, -1);
    lua_settop(L, 1);
    quiet = sending > 0 || after > before ? 0 : quiet + 1;
    EXPECT(now_ms() < end, "the server does not end a connection");
  }
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  prepare();
  unsigned flags = (unsigned)take(&b, 1);
  size_t piece = (size_t)take(&b, 1);
  lua_pushinteger(L, (lua_Integer)flags);
  lua_pushlstring(L, (const char *)b.p, (size_t)(b.end - b.p));
  call("request", 2);
  size_t n;
  const char *text = lua_tolstring(L, -1, &n);
  char *copy = malloc(n + 1);
  EXPECT(copy != NULL, "no memory");
  memcpy(copy, text, n + 1);
  lua_settop(L, 1);
  size_t cut = flags & FLAG_TWO && !(flags & FLAG_GOOD) ? n / 2 : n;
  struct link k[2] = {{.at = copy, .end = copy + cut},
                      {.at = copy + cut, .end = copy + n}};
  int count = cut < n ? 2 : 1;
  int64_t began = now_ms();
  for (int i = 0; i < count; i++) {
    k[i].fd = connect_link();
    k[i].piece = piece < 8 ? n + 1 : piece * 8;
  }
  talk(k, count, flags);
  for (int i = 0; i < count; i++)
    close(k[i].fd);
  lua_pushboolean(L, now_ms() - began < SURE_MS);
  call("finish", 1);
  lua_settop(L, 1);
  /* With requests that nobody answered: they are cut off. */
  if (flags & FLAG_SILENT)
    restart();
  free(copy);
  return 0;
}
