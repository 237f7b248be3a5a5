/* mysql_fail.c - what went wrong, as the codes scripts decide by.
 *
 * The one table from error numbers of server and library to codes. The text is
 * the server's own; passwords are never part of it. */
#include <string.h>

#include <errmsg.h>
#include <lua.h>

#include "fail.h"
#include "mysql.h"

struct code {
  unsigned number;
  const char *code;
};

/* A number without a server's name means the same on both. */
static const struct code codes[] = {
    /* no connection was made */
    {CR_SOCKET_CREATE_ERROR, "REFUSED"},
    {CR_CONNECTION_ERROR, "REFUSED"},
    {CR_CONN_HOST_ERROR, "REFUSED"},
    {CR_IPSOCK_ERROR, "REFUSED"},
    {CR_UNKNOWN_HOST, "REFUSED"},
    {CR_SERVER_HANDSHAKE_ERR, "REFUSED"},
    {1129, "REFUSED"}, /* too many connection errors from this host */
    {CR_SSL_CONNECTION_ERROR, "TLS"},
    {3159, "TLS"}, /* the server takes secure connections only */
    {1040, "TOOMANY"},
    {1203, "TOOMANY"}, /* connections of this user */
    {1226, "TOOMANY"}, /* a resource limit of this user */
    /* who we are */
    {1045, "AUTH"},
    {1130, "AUTH"}, /* this host may not connect */
    {1251, "AUTH"}, /* the server wants another protocol */
    {1275, "AUTH"},
    {1524, "AUTH"}, /* the account's plugin is not loaded */
    {1698, "AUTH"},
    {1820, "AUTH"}, /* the password must be changed */
    {1862, "AUTH"}, /* the password expired */
    {3118, "AUTH"}, /* MySQL: account locked */
    {4151, "AUTH"}, /* MariaDB: account locked */
    {CR_SECURE_AUTH, "AUTH"},
    {CR_AUTH_PLUGIN_CANNOT_LOAD, "AUTH"},
    {CR_AUTH_PLUGIN_ERR, "AUTH"},
    {CR_PLUGIN_NOT_ALLOWED, "AUTH"},
    /* the connection is lost */
    {CR_SERVER_GONE_ERROR, "GONE"},
    {CR_SERVER_LOST, "GONE"},
    {CR_MALFORMED_PACKET, "GONE"},
    {CR_SERVER_LOST_EXTENDED, "GONE"},
    {CR_STMT_CLOSED, "GONE"},
    {CR_ERR_NET_READ, "GONE"},
    {CR_ERR_NET_WRITE, "GONE"},
    {1047, "GONE"}, /* Galera: the node is not ready */
    {1053, "GONE"}, /* shutdown in progress */
    {1077, "GONE"},
    {1079, "GONE"},
    {1152, "GONE"}, /* aborted connection, and how */
    {1158, "GONE"},
    {1159, "GONE"},
    {1160, "GONE"},
    {1161, "GONE"},
    {1184, "GONE"},
    {1927, "GONE"}, /* MariaDB: connection killed */
    {3032, "GONE"}, /* MySQL: offline mode */
    {3169, "GONE"}, /* MySQL: session killed */
    {4031, "GONE"}, /* MySQL: closed after wait_timeout */
    /* the request */
    {1046, "NODB"},
    {1049, "NODB"},
    {1051, "NOTABLE"},
    {1109, "NOTABLE"},
    {1146, "NOTABLE"},
    {1054, "NOCOLUMN"},
    {1022, "DUPLICATE"},
    {1062, "DUPLICATE"},
    {1586, "DUPLICATE"},
    {1020, "DEADLOCK"}, /* MariaDB: the row changed since our snapshot */
    {1213, "DEADLOCK"},
    {1614, "DEADLOCK"},
    {3101, "DEADLOCK"}, /* MySQL: rolled back by group replication */
    {1205, "LOCKWAIT"},
    {3572, "LOCKWAIT"}, /* MySQL: NOWAIT is set */
    {1264, "RANGE"},    /* out of range for the column */
    {1265, "RANGE"},    /* truncated for the column */
    {1292, "RANGE"},    /* truncated wrong value */
    {1365, "RANGE"},    /* division by zero */
    {1366, "RANGE"},    /* wrong value for the column */
    {1367, "RANGE"},
    {1406, "RANGE"}, /* too long for the column */
    {1411, "RANGE"},
    {1690, "RANGE"}, /* an expression overflowed */
    {1064, "SYNTAX"},
    {1149, "SYNTAX"},
    {1044, "DENIED"},
    {1142, "DENIED"},
    {1143, "DENIED"},
    {1227, "DENIED"},
    {1370, "DENIED"},
    {1021, "FULL"},     /* disk full */
    {1114, "FULL"},     /* the table is full: so says InnoDB of a full disk */
    {1290, "READONLY"}, /* --read-only, or another option forbids it */
    {1792, "READONLY"},
    {1836, "READONLY"},
    {CR_NET_PACKET_TOO_LARGE, "TOOBIG"},
    {1153, "TOOBIG"},
    {1317, "KILLED"},  /* KILL QUERY by somebody */
    {1969, "TIMEOUT"}, /* MariaDB: max_statement_time */
    {3024, "TIMEOUT"}, /* MySQL: max_execution_time */
};


const char *db_code(unsigned number) {
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    if (codes[i].number == number)
      return codes[i].code;
  }
  return "SQL";
}


/* Where it happened is told when that is part of the answer. */
static int db_names_target(const char *code) {
  static const char *const named[] = {"REFUSED", "AUTH",    "NODB",    "GONE",
                                      "TLS",     "TOOMANY", "TIMEOUT", NULL};
  for (int i = 0; named[i] != NULL; i++) {
    if (strcmp(code, named[i]) == 0)
      return 1;
  }
  return 0;
}


int db_fail_push(lua_State *L, const struct db *db, const char *code,
                 unsigned number, const char *state, const char *text) {
  luaL_checkstack(L, 5, "failure");
  if (db_names_target(code))
    fail(L, "mysql", code, "%s: %s", db->target, text);
  else
    fail(L, "mysql", code, "%s", text);
  lua_pushinteger(L, number);
  lua_pushstring(L, state);
  return 5;
}


/* An error of the library itself leaves the connection in a state nobody
 * knows; so does one after which the server hangs up. */
static int db_is_last(unsigned number, const char *code) {
  return (number >= CR_MIN_ERROR && number <= CR_MAX_ERROR) ||
         (number >= CR_EVENT_CREATE_FAILED &&
          number <= CR_MARIADB_LAST_ERROR) ||
         strcmp(code, "GONE") == 0 || strcmp(code, "TOOBIG") == 0;
}


int db_fail(lua_State *L, struct db *db) {
  unsigned number = db->error.number;
  const char *code = db->error.code != NULL ? db->error.code : db_code(number);
  if (db->my == NULL || db_is_last(number, code)) {
    db_drop(db, NULL);
    db->error.code = NULL;
    db->error.number = CR_SERVER_GONE_ERROR; /* what the next one is told */
  } else {
    db_settle(db);
  }
  return db_fail_push(L, db, code, number, db->error.state, db->error.text);
}


int db_fail_here(lua_State *L, struct db *db, const char *code,
                 const char *text) {
  return db_fail_push(L, db, code, 0, "HY000", text);
}
