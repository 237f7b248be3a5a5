/* mysql_wait.c - requests to the server that never block. See mysql.h.
 *
 * Wraps the library's start and continue calls; knows nothing of Lua. A
 * request broken off is brought to its end with the socket shut down, because
 * only its own code can free what it holds. */
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <errmsg.h>

#include "clock_core.h"
#include "interrupt.h"
#include "mysql.h"

/* A request that is broken off ends within a few steps; this is a backstop. */
enum { ABANDON_STEPS = 100000 };


static int db_is_stmt(enum db_op op) {
  return op >= OP_PREPARE && op <= OP_STMT_NEXT;
}


static void db_keep_error(struct db *db) {
  struct db_error *e = &db->error;
  int of_stmt = db_is_stmt(db->op) && mysql_stmt_errno(db->st) != 0;
  const char *state =
      of_stmt ? mysql_stmt_sqlstate(db->st) : mysql_sqlstate(db->my);
  const char *text = of_stmt ? mysql_stmt_error(db->st) : mysql_error(db->my);
  e->code = NULL;
  e->number = of_stmt ? mysql_stmt_errno(db->st) : mysql_errno(db->my);
  if (e->number == 0)
    e->number = CR_UNKNOWN_ERROR;
  snprintf(e->state, sizeof e->state, "%s", state);
  snprintf(e->text, sizeof e->text, "%s", text);
}


/* The library reads "must wait" out of OpenSSL's error queue of this thread and
 * takes what another connection, or libcurl, left there for an error of this
 * one. It is linked to OpenSSL; we are not. */
static void db_forget_tls_errors(const struct db *db) {
  static void (*clear)(void);
  static int looked;
  if (!db->route->ssl)
    return;
  if (!looked) {
    void *symbol = dlsym(RTLD_DEFAULT, "ERR_clear_error");
    memcpy(&clear, &symbol, sizeof clear);
    looked = 1;
  }
  if (clear != NULL)
    clear();
}


static void db_start_store(struct db *db) {
  db_forget_tls_errors(db);
  db->op = OP_STORE;
  db->ret.res = NULL;
  db->events = mysql_store_result_start(&db->ret.res, db->my);
}


/* The library is done with `op`: go on to the rows, or be READY. */
static void db_ended(struct db *db) {
  while (db->events == 0 && db->phase == DB_BUSY) {
    switch (db->op) {
    case OP_QUERY:
    case OP_NEXT:
      db->failed = db->ret.status != 0;
      if (!db->failed && mysql_field_count(db->my) > 0) {
        db_start_store(db);
        continue;
      }
      break;
    case OP_STORE:
      db->res = db->ret.res;
      db->failed = db->res == NULL;
      break;
    default:
      db->failed = db->ret.status != 0;
      break;
    }
    db->more = !db->failed && !db_is_stmt(db->op) && mysql_more_results(db->my);
    if (db->failed)
      db_keep_error(db);
    db->op = OP_NONE;
    db->phase = DB_READY;
  }
}


static void db_started(struct db *db) {
  db->phase = DB_BUSY;
  db_ended(db);
}


/* Before a new request: close the statements that Lua closed while the
 * connection was busy. */
static void db_unpark(struct db *db) {
  db_forget_tls_errors(db);
  while (db->parked_n > 0) {
    mysql_stmt_close(db->parked[--db->parked_n]);
    db->stmt_n--;
  }
}


int db_start_connect(struct db *db, int64_t deadline_us) {
  db->dial = dial_new(db->route);
  if (db->dial == NULL)
    return -1;
  db->dial_deadline_us = deadline_us;
  db->op = OP_CONNECT;
  db->events = MYSQL_WAIT_READ;
  db->phase = DB_BUSY;
  return 0;
}


/* The dial has ended, or its time has. */
static void db_connected(struct db *db, int late) {
  if (!late && !dial_take(db->dial, db))
    return;
  dial_free(db->dial);
  db->dial = NULL;
  db->events = 0;
  db->op = OP_NONE;
  db->phase = DB_READY;
  db->failed = db->my == NULL;
  if (late) {
    db->error.code = "TIMEOUT";
    db->error.number = 0;
    snprintf(db->error.state, sizeof db->error.state, "HY000");
    snprintf(db->error.text, sizeof db->error.text, "no connection within %u s",
             db->route->timeout_s);
  }
}


void db_start_query(struct db *db, const char *sql, size_t n) {
  db_unpark(db);
  db->op = OP_QUERY;
  db->ret.status = 0;
  db->events = mysql_real_query_start(&db->ret.status, db->my, sql, n);
  db_started(db);
}


void db_start_next(struct db *db) {
  db_forget_tls_errors(db);
  db->op = OP_NEXT;
  db->ret.status = 0;
  db->events = mysql_next_result_start(&db->ret.status, db->my);
  db_started(db);
}


void db_start_ping(struct db *db) {
  db_unpark(db);
  db->op = OP_PING;
  db->ret.status = 0;
  db->events = mysql_ping_start(&db->ret.status, db->my);
  db_started(db);
}


void db_start_stmt(struct db *db, enum db_op op, MYSQL_STMT *st,
                   const char *sql, size_t n) {
  db_unpark(db);
  db->op = op;
  db->st = st;
  db->ret.status = 0;
  int *ret = &db->ret.status;
  switch (op) {
  case OP_PREPARE:
    db->events = mysql_stmt_prepare_start(ret, st, sql, n);
    break;
  case OP_EXECUTE:
    db->events = mysql_stmt_execute_start(ret, st);
    break;
  case OP_STMT_STORE:
    db->events = mysql_stmt_store_result_start(ret, st);
    break;
  default:
    db->events = mysql_stmt_next_result_start(ret, st);
    break;
  }
  db_started(db);
}


/* Go on with the running request; `ready` are MYSQL_WAIT_ bits. */
static void db_step(struct db *db, int ready) {
  int *status = &db->ret.status;
  db_forget_tls_errors(db);
  switch (db->op) {
  case OP_CONNECT:
    db_connected(db, 0);
    return;
  case OP_QUERY:
    db->events = mysql_real_query_cont(status, db->my, ready);
    break;
  case OP_NEXT:
    db->events = mysql_next_result_cont(status, db->my, ready);
    break;
  case OP_STORE:
    db->events = mysql_store_result_cont(&db->ret.res, db->my, ready);
    break;
  case OP_PING:
    db->events = mysql_ping_cont(status, db->my, ready);
    break;
  case OP_PREPARE:
    db->events = mysql_stmt_prepare_cont(status, db->st, ready);
    break;
  case OP_EXECUTE:
    db->events = mysql_stmt_execute_cont(status, db->st, ready);
    break;
  case OP_STMT_STORE:
    db->events = mysql_stmt_store_result_cont(status, db->st, ready);
    break;
  case OP_STMT_NEXT:
    db->events = mysql_stmt_next_result_cont(status, db->st, ready);
    break;
  case OP_NONE:
    return;
  }
  db_ended(db);
}


int64_t db_deadline(int64_t ms) {
  return ms < 0 ? -1 : clock_mono_now().us + ms * 1000;
}


int db_socket(const struct db *db) {
  if (db->dial != NULL)
    return dial_fd(db->dial);
  return db->my != NULL ? mysql_get_socket(db->my) : -1;
}


/* Poll for at most `ms`; returns the MYSQL_WAIT_ bits that came true. */
static int db_poll(const struct db *db, int ms) {
  struct pollfd p = {.fd = db_socket(db)};
  int wants = db->events & (MYSQL_WAIT_READ | MYSQL_WAIT_WRITE);
  if (wants & MYSQL_WAIT_READ)
    p.events |= POLLIN;
  if (wants & MYSQL_WAIT_WRITE)
    p.events |= POLLOUT;
  if (poll(&p, 1, ms) <= 0)
    return 0;
  int ready = 0;
  if (p.revents & POLLIN)
    ready |= MYSQL_WAIT_READ;
  if (p.revents & POLLOUT)
    ready |= MYSQL_WAIT_WRITE;
  if (p.revents & (POLLERR | POLLHUP | POLLNVAL))
    ready |= wants;
  return ready & wants;
}


/* How long to wait before the next look at everything. */
static int db_slice_ms(int64_t deadline_us, int64_t now_us) {
  int64_t left_us = INTERRUPT_SLICE_MS * 1000;
  if (deadline_us >= 0 && deadline_us - now_us < left_us)
    left_us = deadline_us - now_us;
  return left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
}


enum db_wait db_wait(struct db *db, int64_t deadline_us, enum db_mode mode) {
  int level = interrupt_level();
  while (db->phase == DB_BUSY) {
    if (mode != MODE_DEAF && interrupt_raising())
      return WAIT_INTERRUPT;
    if (mode == MODE_EARLY && interrupt_level() != level)
      return WAIT_TIMEOUT;
    int64_t now_us = clock_mono_now().us;
    int ready = db_poll(db, db_slice_ms(deadline_us, now_us));
    if (ready != 0)
      db_step(db, ready);
    else if (db->dial != NULL && now_us >= db->dial_deadline_us)
      db_connected(db, 1);
    else if (deadline_us >= 0 && now_us >= deadline_us)
      return WAIT_TIMEOUT;
  }
  return WAIT_DONE;
}


void db_settle(struct db *db) {
  if (db->res != NULL)
    mysql_free_result(db->res);
  db->res = NULL;
  db->opened |= db->my != NULL;
  db->phase = DB_IDLE;
}


void db_drop(struct db *db, const char *text) {
  struct db_error kept = db->error;
  if (db->dial != NULL) {
    dial_free(db->dial);
    db->dial = NULL;
    db->op = OP_NONE;
    db->phase = DB_IDLE;
  } else if (db->my == NULL) {
    db->phase = DB_IDLE;
    return;
  }
  for (int i = 0; db->phase == DB_BUSY && i < ABANDON_STEPS; i++) {
    int fd = mysql_get_socket(db->my);
    if (fd >= 0)
      shutdown(fd, SHUT_RDWR);
    db_step(db, db->events | MYSQL_WAIT_TIMEOUT);
  }
  db_settle(db);
  db->more = 0;
  MYSQL *my = db->my;
  db->my = NULL;
  if (my != NULL)
    mysql_close(my); /* its statements live on, closed, until they are freed */
  db_unpark(db);
  db->error = kept;
  if (text != NULL) {
    db->error.code = NULL;
    db->error.number = CR_SERVER_GONE_ERROR;
    snprintf(db->error.state, sizeof db->error.state, "HY000");
    snprintf(db->error.text, sizeof db->error.text, "%s", text);
  }
}


int db_hung_up(const struct db *db) {
  struct pollfd p = {.fd = db_socket(db), .events = POLLRDHUP};
  if (p.fd < 0)
    return 1;
  return poll(&p, 1, 0) > 0 && p.revents != 0;
}


int db_reserve_stmt(struct db *db) {
  if (db->stmt_n == db->parked_max) {
    size_t max = db->parked_max == 0 ? 8 : db->parked_max * 2;
    MYSQL_STMT **p = realloc(db->parked, max * sizeof *p);
    if (p == NULL)
      return -1;
    db->parked = p;
    db->parked_max = max;
  }
  db->stmt_n++;
  return 0;
}


void db_close_stmt(struct db *db, MYSQL_STMT *st) {
  if (db->my != NULL && (db->phase == DB_BUSY || db->more)) {
    db->parked[db->parked_n++] = st;
    return;
  }
  mysql_stmt_close(st);
  db->stmt_n--;
}
