/* mysql_kill.c - ending what a connection runs, over a second connection.
 *
 * Closing our end of a connection does not end its statement: the server finds
 * out when it has an answer to give, and keeps its locks until then. The second
 * connection must reach the same server process, as it may not behind a
 * balancer, where the same number is somebody else's; that is checked. */
#include <stdio.h>
#include <string.h>

#include <errmsg.h>

#include "mysql.h"


static int kill_error(struct db_error *error, unsigned number,
                      const char *text) {
  error->number = number;
  snprintf(error->state, sizeof error->state, "HY000");
  snprintf(error->text, sizeof error->text, "%s", text);
  return -1;
}


/* The end of one step: 0 when it was done and succeeded. */
static int kill_finish(struct db *second, int64_t deadline_us,
                       struct db_error *error) {
  if (db_wait(second, deadline_us, MODE_DEAF) != WAIT_DONE)
    return kill_error(error, CR_SERVER_LOST,
                      "the server did not answer a second connection in time");
  if (second->failed) {
    *error = second->error;
    return -1;
  }
  db_settle(second);
  return 0;
}


static int kill_over(const struct db *db, struct db *second, int query_only,
                     int64_t deadline_us, struct db_error *error) {
  char sql[64];
  if (kill_finish(second, deadline_us, error) != 0)
    return -1;
  if (*db->server == '\0' || strcmp(db->server, second->server) != 0)
    return kill_error(error, CR_UNKNOWN_ERROR,
                      "a second connection reached another server");
  int n =
      snprintf(sql, sizeof sql, "kill %s %lu",
               query_only ? "query" : "connection", mysql_thread_id(db->my));
  db_start_query(second, sql, (size_t)n);
  return kill_finish(second, deadline_us, error);
}


int kill_running(const struct db *db, int query_only, int64_t ms,
                 struct db_error *error) {
  if (db->my == NULL || db_hung_up(db))
    return kill_error(error, CR_SERVER_GONE_ERROR, "the connection is lost");
  struct db second = {.route = db->route};
  int64_t deadline_us = db_deadline(ms);
  if (db_start_connect(&second, deadline_us) != 0)
    return kill_error(error, CR_OUT_OF_MEMORY, "out of memory");
  int rc = kill_over(db, &second, query_only, deadline_us, error);
  db_drop(&second, NULL);
  return rc;
}
