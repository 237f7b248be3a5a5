/* mysql.h - one connection to MySQL or MariaDB, shared by the mysql_*.c files.
 *
 * Private to host.mysql. The connection is never asked to wait by itself: each
 * request is started, then continued whenever its socket is ready, by
 * mysql_wait.c, which knows nothing of Lua. A connection that may be out of
 * step with its server (timeout, interrupt, protocol error) is dropped: `my`
 * becomes NULL and every later request answers GONE.
 *
 * Owners: the Lua handle owns `my`, `res` and the parked statements; a Lua
 * statement owns its MYSQL_STMT and keeps its connection alive. */
#ifndef HOST_MYSQL_H
#define HOST_MYSQL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <lua.h>
#include <mysql.h>

#include "handle.h"

#define MYSQL_DB "mysql connection"
#define MYSQL_STATEMENT "mysql statement"

enum db_op {
  OP_NONE,
  OP_CONNECT,
  OP_QUERY,
  OP_NEXT,  /* the next result of a multi-statement or a CALL */
  OP_STORE, /* the rows of a result */
  OP_PING,
  OP_PREPARE,
  OP_EXECUTE,
  OP_STMT_STORE,
  OP_STMT_NEXT
};

enum db_phase {
  DB_IDLE,
  DB_BUSY, /* `op` runs */
  DB_READY /* it ended: `failed`, `error` and `res` tell how */
};

enum db_wait { WAIT_DONE, WAIT_TIMEOUT, WAIT_INTERRUPT };

enum db_mode {
  MODE_PATIENT, /* ended by a signal that is going to raise */
  MODE_EARLY,   /* ended by any signal that comes during the wait, too */
  MODE_DEAF     /* ended by no signal: for what takes a moment only */
};

/* The library's own texts have 512 bytes. */
struct db_error {
  const char *code; /* NULL: as the number says */
  unsigned number;  /* 0: none */
  char state[6];
  char text[512];
};

/* Where and how to connect. Not changed once it is in use; shared by reference
 * count with the threads that connect. */
struct route {
  atomic_int refs;
  char *host, *user, *password, *database;
  char *socket; /* NULL: TCP */
  char *ca, *cert, *key;
  int ssl;
  char verify;
  unsigned port, timeout_s;
  unsigned long flags;
  char **init; /* statements to run first */
  size_t init_n;
};

struct dial; /* one connect on its way */
struct stmt;

struct db {
  struct handle h;
  struct route *route;
  struct dial *dial; /* of OP_CONNECT */
  int64_t dial_deadline_us;
  MYSQL *my; /* NULL: not connected yet or dropped, `error` says why */
  enum db_phase phase;
  enum db_op op;
  int events; /* MYSQL_WAIT_*: what the operation waits for */
  union {
    int status;
    MYSQL_RES *res;
  } ret;          /* where the library puts the outcome of `op` */
  MYSQL_STMT *st; /* of OP_PREPARE to OP_STMT_NEXT */
  MYSQL_RES *res;
  int opened; /* the end of the connect was taken */
  int failed;
  int more; /* results of the last request not yet asked for */
  struct db_error error;
  size_t max_packet;
  char server[256]; /* names the server process behind the address */
  char target[320]; /* user@host:port/database, for messages */
  struct stmt *stmts;
  MYSQL_STMT **parked; /* closed in Lua while the connection was busy */
  size_t parked_n, parked_max, stmt_n;
};

struct stmt {
  struct handle h;
  struct db *db; /* kept alive by the user value */
  MYSQL_STMT *st;
  MYSQL_RES *meta; /* the columns of its last result, no rows */
  void *arrays;    /* of statement:send */
  struct stmt *next, *prev;
};

/* --- mysql_wait.c: no Lua ------------------------------------------------ */

/* Start a request; the connection must be idle. What is passed must live until
 * the request has ended. */
int db_start_connect(struct db *db, int64_t deadline_us); /* -1: no thread */
void db_start_query(struct db *db, const char *sql, size_t n);
void db_start_next(struct db *db);
void db_start_ping(struct db *db);
void db_start_stmt(struct db *db, enum db_op op, MYSQL_STMT *st,
                   const char *sql, size_t n);

/* A moment `ms` from now for db_wait; negative: never. */
int64_t db_deadline(int64_t ms);

/* Wait in slices until the request has ended. */
enum db_wait db_wait(struct db *db, int64_t deadline_us, enum db_mode mode);

/* READY to IDLE; frees the rows. */
void db_settle(struct db *db);

/* Break off what runs and close the connection. `text` (or, when it is NULL,
 * the error at hand) is what later requests are told. */
void db_drop(struct db *db, const char *text);

/* The socket to poll for `events`; -1: none. */
int db_socket(const struct db *db);

/* The peer has closed an idle connection. */
int db_hung_up(const struct db *db);

/* Close `st` now, or when the connection is idle again. */
void db_close_stmt(struct db *db, MYSQL_STMT *st);

/* Room for one more statement to park; -1: out of memory. */
int db_reserve_stmt(struct db *db);

/* --- mysql_dial.c, mysql_kill.c: no Lua ---------------------------------- */

struct route *route_new(void); /* NULL: out of memory */
void route_free(struct route *r);

/* Begin to connect; NULL: no memory or no thread. */
struct dial *dial_new(struct route *route);

/* Readable when dial_take has something. */
int dial_fd(const struct dial *d);

/* 1 when it has ended: moves the connection (or the error, with db->my NULL)
 * into `db`. */
int dial_take(struct dial *d, struct db *db);

/* Let go, at any time. */
void dial_free(struct dial *d);

/* Ask the server, over a connection of its own and for at most `ms`, to KILL
 * or (`query_only`) KILL QUERY what `db` runs. 0 when it said yes; else
 * *error says why. `db` goes on. */
int kill_running(const struct db *db, int query_only, int64_t ms,
                 struct db_error *error);

/* --- mysql_fail.c -------------------------------------------------------- */

const char *db_code(unsigned number);

/* Push nil, message, code, errno, sqlstate for db->error; return 5. Drops the
 * connection when the error says it cannot be used any more. */
int db_fail(lua_State *L, struct db *db);

/* The same without a look at the connection. */
int db_fail_push(lua_State *L, const struct db *db, const char *code,
                 unsigned number, const char *state, const char *text);

/* The same for a failure the server did not report. */
int db_fail_here(lua_State *L, struct db *db, const char *code,
                 const char *text);

/* --- mysql_result.c ------------------------------------------------------ */

enum kind {
  KIND_INT,
  KIND_BIT,
  KIND_REAL,
  KIND_DECIMAL,
  KIND_DATETIME,
  KIND_STRING,
  KIND_BLOB
};

enum kind result_kind(const MYSQL_FIELD *field);

/* Push the table of a result without its rows: columns, types, affected ...
 * [-0, +1, m] */
void result_head(lua_State *L, const MYSQL_FIELD *fields, unsigned count);
void result_counts(lua_State *L, my_ulonglong affected, my_ulonglong insert_id,
                   unsigned warnings, const char *info);

/* Push one value of the text protocol. [-0, +1, m] */
void result_text(lua_State *L, enum kind kind, const char *s, size_t n);
void result_unsigned(lua_State *L, unsigned long long v);
void result_bits(lua_State *L, const char *s, size_t n);
void result_null(lua_State *L);

/* Push the result at hand (READY, not failed) and settle. [-0, +1, m] */
void result_push(lua_State *L, struct db *db);

/* --- mysql_stmt.c -------------------------------------------------------- */

/* The methods of a statement; once, from luaopen. */
void stmt_type(lua_State *L);

/* db:prepare(sql), db:send_prepare(sql) */
int stmt_prepare(lua_State *L);
int stmt_send_prepare(lua_State *L);

/* Close every open statement of `db`. */
void stmt_close_all(struct db *db);

/* --- mysql_bulk.c -------------------------------------------------------- */

/* Does the server take arrays of values? */
int bulk_known(const struct db *db);

/* statement:send(rows, types) */
int bulk_send(lua_State *L);

/* --- mysql_connect.c, mysql_text.c --------------------------------------- */

/* mysql.connect(options), mysql.name(s), mysql.blob(s), db:quote(s) */
int connect_lua(lua_State *L);
int text_name(lua_State *L);
int text_blob(lua_State *L);
int text_quote(lua_State *L);

/* Let the NULL sentinel print as NULL. [-0, +0, m] */
void text_null_type(lua_State *L);

/* --- mysql.c ------------------------------------------------------------- */

/* Raises unless a new request may be started; a dropped connection returns 0
 * with the failure to return pushed (5 values). */
int db_begin(lua_State *L, struct db *db);

/* Wait for the request; 0 done, or the number of values of the failure pushed.
 * Raises on an interrupt, after dropping the connection. */
int db_finish(lua_State *L, struct db *db, int64_t timeout_ms);

/* The end of a wait that was not WAIT_DONE. */
int db_broken(lua_State *L, struct db *db, enum db_wait wait,
              int64_t timeout_ms);

#endif
