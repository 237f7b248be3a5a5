/* mysql_dial.c - opening connections on a thread of their own. No Lua.
 *
 * The library's non-blocking connect still blocks while it resolves the name
 * and during the TLS handshake and login. So each connect runs, blocking, on a
 * thread, which also sets the session up; who waits polls an eventfd. Thread
 * and waiter share the dial by reference count: whoever gives up just lets go,
 * and the thread, bounded by the library's timeouts, frees the rest. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <errmsg.h>

#include "mysql.h"
#include "thread.h"

enum {
  THREAD_STACK_BYTES = 1024 * 1024,
  /* A request runs on a stack the library makes; its 60 KB are little for TLS.
   * Untouched pages cost nothing. */
  REQUEST_STACK_BYTES = 256 * 1024
};

static const char setup_sql[] =
    "set names utf8mb4, time_zone = '+00:00', autocommit = 1,"
    " sql_mode = 'STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ZERO_IN_DATE,"
    "NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

/* The second column names the server process behind the address. */
static const char facts_sql[] =
    "select @@max_allowed_packet,"
    " concat_ws(' ', @@hostname, @@port, @@server_id, @@datadir)";

/* Never the plugin that would hand the password to whoever asks for it. */
static const char allowed_auth[] =
    "mysql_native_password,caching_sha2_password,sha256_password,"
    "client_ed25519";

struct dial {
  atomic_int refs;
  atomic_int done;
  int fd;
  struct route *route;
  MYSQL *my; /* NULL: `error` says why */
  struct db_error error;
  size_t max_packet;
  char server[256];
};


/* --- routes -------------------------------------------------------------- */

struct route *route_new(void) {
  struct route *r = calloc(1, sizeof *r);
  if (r != NULL)
    atomic_init(&r->refs, 1);
  return r;
}


void route_free(struct route *r) {
  if (r == NULL || atomic_fetch_sub(&r->refs, 1) > 1)
    return;
  if (r->password != NULL)
    explicit_bzero(r->password, strlen(r->password));
  char *const all[] = {r->host,     r->user, r->password, r->socket,
                       r->database, r->ca,   r->cert,     r->key};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free(all[i]);
  for (size_t i = 0; i < r->init_n; i++)
    free(r->init[i]);
  free(r->init);
  free(r);
}


static struct route *route_share(struct route *r) {
  atomic_fetch_add(&r->refs, 1);
  return r;
}


/* --- on the thread ------------------------------------------------------- */

/* The thread is a little more patient than who waits for it: his message is
 * the better one. */
static unsigned dial_patience_s(const struct route *r) {
  return r->timeout_s + 1;
}


static void dial_options(const struct route *r, MYSQL *my) {
  unsigned off = 0, protocol = MYSQL_PROTOCOL_TCP;
  unsigned patience = dial_patience_s(r);
  my_bool no = 0, yes = 1, verify = r->verify;
  mysql_options(my, MYSQL_OPT_LOCAL_INFILE, &off);
  mysql_options(my, MYSQL_OPT_RECONNECT, &no);
  mysql_options(my, MYSQL_SET_CHARSET_NAME, "utf8mb4");
  mysql_options(my, MYSQL_OPT_CONNECT_TIMEOUT, &patience);
  mysql_options(my, MYSQL_OPT_READ_TIMEOUT, &patience);
  mysql_options(my, MYSQL_OPT_WRITE_TIMEOUT, &patience);
  mysql_options(my, MARIADB_OPT_RESTRICTED_AUTH, allowed_auth);
  if (r->socket == NULL) /* else "localhost" would mean some socket */
    mysql_options(my, MYSQL_OPT_PROTOCOL, &protocol);
  if (r->ssl) {
    mysql_ssl_set(my, r->key, r->cert, r->ca, NULL, NULL);
    mysql_options(my, MYSQL_OPT_SSL_ENFORCE, &yes);
    mysql_options(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
  }
}


static int dial_error(struct dial *d, unsigned number, const char *text) {
  d->error.number = number;
  snprintf(d->error.state, sizeof d->error.state, "HY000");
  snprintf(d->error.text, sizeof d->error.text, "%s", text);
  return -1;
}


/* The library ends such texts in a bare "(110)"; say what the number means.
 * When the peer refused, it has forgotten the number and puts EINPROGRESS. */
static void dial_explain(struct db_error *e) {
  char *open = strrchr(e->text, '(');
  if (open == NULL)
    return;
  int n = atoi(open + 1);
  const char *why = e->number == CR_UNKNOWN_HOST ? gai_strerror(n)
                    : n == EINPROGRESS ? "refused, or no way to get there"
                                       : strerror(n);
  snprintf(open + 1, sizeof e->text - (size_t)(open + 1 - e->text), "%s)", why);
}


/* The library's own words do not name the file. */
static int dial_files(struct dial *d) {
  char *const files[] = {d->route->ca, d->route->cert, d->route->key};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char text[sizeof d->error.text];
    if (files[i] == NULL || access(files[i], R_OK) == 0)
      continue;
    snprintf(text, sizeof text, "the file %.400s cannot be read: %s", files[i],
             strerror(errno));
    return dial_error(d, CR_SSL_CONNECTION_ERROR, text);
  }
  return 0;
}


/* The library says this of a certificate that has no such host among its
 * names, and of nothing else. */
static void dial_explain_tls(struct dial *d) {
  char *at = strstr(d->error.text, "Validation of SSL server certificate");
  if (at != NULL)
    snprintf(at, sizeof d->error.text - (size_t)(at - d->error.text),
             "the server's certificate is not for the host %.200s",
             d->route->host);
}


static int dial_library_error(struct dial *d, MYSQL *my) {
  dial_error(d, mysql_errno(my), mysql_error(my));
  snprintf(d->error.state, sizeof d->error.state, "%s", mysql_sqlstate(my));
  if (d->error.number == CR_CONNECTION_ERROR ||
      d->error.number == CR_CONN_HOST_ERROR ||
      d->error.number == CR_UNKNOWN_HOST)
    dial_explain(&d->error);
  if (d->error.number == CR_SSL_CONNECTION_ERROR)
    dial_explain_tls(d);
  return -1;
}


/* Run a statement; its rows, if any, are of no interest. */
static int dial_run(struct dial *d, MYSQL *my, const char *sql) {
  if (mysql_real_query(my, sql, strlen(sql)) != 0)
    return dial_library_error(d, my);
  int rc;
  do {
    mysql_free_result(mysql_store_result(my));
    if (mysql_errno(my) != 0)
      return dial_library_error(d, my);
    rc = mysql_next_result(my);
  } while (rc == 0);
  return rc > 0 ? dial_library_error(d, my) : 0;
}


static int dial_facts(struct dial *d, MYSQL *my) {
  MYSQL_RES *res = NULL;
  if (mysql_real_query(my, facts_sql, sizeof facts_sql - 1) != 0 ||
      (res = mysql_store_result(my)) == NULL)
    return dial_library_error(d, my);
  MYSQL_ROW row = mysql_fetch_row(res);
  if (row != NULL && row[0] != NULL && row[1] != NULL) {
    d->max_packet = strtoull(row[0], NULL, 10);
    snprintf(d->server, sizeof d->server, "%s", row[1]);
  }
  mysql_free_result(res);
  return 0;
}


/* From here on requests must not block; with TLS that is up to the socket. */
static void dial_unblock(const struct route *r, MYSQL *my) {
  size_t stack = REQUEST_STACK_BYTES;
  int fd = mysql_get_socket(my);
  mysql_options(my, MYSQL_OPT_NONBLOCK, &stack);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  if (r->ssl)
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}


static int dial_open(struct dial *d, MYSQL *my) {
  const struct route *r = d->route;
  if (r->ssl && dial_files(d) != 0)
    return -1;
  dial_options(r, my);
  if (mysql_real_connect(my, r->socket != NULL ? "localhost" : r->host, r->user,
                         r->password, r->database, r->port, r->socket,
                         r->flags) == NULL)
    return dial_library_error(d, my);
  /* The library goes on in the clear with a server that offers no TLS. */
  if (r->ssl && mysql_get_ssl_cipher(my) == NULL)
    return dial_error(d, CR_SSL_CONNECTION_ERROR,
                      "TLS is required, but the server does not offer it");
  if (dial_run(d, my, setup_sql) != 0 || dial_facts(d, my) != 0)
    return -1;
  for (size_t i = 0; i < r->init_n; i++) {
    if (dial_run(d, my, r->init[i]) != 0)
      return -1;
  }
  dial_unblock(r, my);
  return 0;
}


static void *dial_thread(void *arg) {
  struct dial *d = arg;
  const uint64_t one = 1;
  mysql_thread_init();
  MYSQL *my = mysql_init(NULL);
  if (my == NULL) {
    dial_error(d, CR_OUT_OF_MEMORY, "out of memory");
  } else if (dial_open(d, my) == 0) {
    d->my = my;
  } else {
    mysql_close(my);
  }
  atomic_store(&d->done, 1);
  ssize_t n = write(d->fd, &one, sizeof one);
  (void)n; /* an eventfd takes one number */
  dial_free(d);
  mysql_thread_end();
  return NULL;
}


/* --- for who waits ------------------------------------------------------- */

void dial_free(struct dial *d) {
  if (d == NULL || atomic_fetch_sub(&d->refs, 1) > 1)
    return;
  if (d->my != NULL)
    mysql_close(d->my);
  route_free(d->route);
  if (d->fd >= 0)
    close(d->fd);
  free(d);
}


static int dial_spawn(struct dial *d) {
  atomic_store(&d->refs, 2);
  int err = thread_start(NULL, THREAD_STACK_BYTES, dial_thread, d);
  if (err != 0)
    atomic_store(&d->refs, 1);
  return err;
}


struct dial *dial_new(struct route *route) {
  struct dial *d = calloc(1, sizeof *d);
  if (d == NULL)
    return NULL;
  atomic_init(&d->refs, 1);
  d->route = route_share(route);
  d->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (d->fd < 0 || dial_spawn(d) != 0) {
    dial_free(d);
    return NULL;
  }
  return d;
}


int dial_fd(const struct dial *d) {
  return d->fd;
}


int dial_take(struct dial *d, struct db *db) {
  if (!atomic_load(&d->done))
    return 0;
  db->my = d->my;
  d->my = NULL;
  db->error = d->error;
  db->max_packet = d->max_packet;
  snprintf(db->server, sizeof db->server, "%s", d->server);
  return 1;
}
