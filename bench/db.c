/* db.c - the database side of the control programs. See db.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "db.h"


MYSQL *db_open(const char *url) {
  char user[64], password[64], host[64], database[64];
  unsigned port;
  if (sscanf(url, "mysql://%63[^:]:%63[^@]@%63[^:]:%u/%63s", user, password,
             host, &port, database) != 5)
    bench_die("not mysql://USER:PASSWORD@HOST:PORT/DATABASE");
  MYSQL *db = mysql_init(NULL);
  if (db == NULL ||
      !mysql_real_connect(db, host, user, password, database, port, NULL,
                          CLIENT_MULTI_STATEMENTS | CLIENT_FOUND_ROWS))
    bench_die("cannot connect: %s", db != NULL ? mysql_error(db) : "memory");
  db_runf(db, "set time_zone = '+00:00', div_precision_increment = 22; set "
              "names utf8mb4");
  db_runf(db, "set session transaction isolation level read committed");
  return db;
}


void db_run(MYSQL *db, const char *sql, size_t len) {
  int more = mysql_real_query(db, sql, (unsigned long)len);
  while (more == 0) {
    MYSQL_RES *result = mysql_store_result(db);
    if (result != NULL)
      mysql_free_result(result);
    more = mysql_next_result(db);
  }
  if (mysql_errno(db) != 0)
    bench_die("%s: %.200s", mysql_error(db), sql);
}


void db_runf(MYSQL *db, const char *fmt, ...) {
  char sql[4096];
  va_list args;
  va_start(args, fmt);
  int len = vsnprintf(sql, sizeof sql, fmt, args);
  va_end(args);
  if (len < 0 || (size_t)len >= sizeof sql)
    bench_die("a statement is too long");
  db_run(db, sql, (size_t)len);
}


int db_is_mariadb(MYSQL *db) {
  return strstr(mysql_get_server_info(db), "MariaDB") != NULL;
}


void db_prefix(const char *table, char *out, size_t size) {
  snprintf(out, size,
           "insert into %s (symbol, start_time, end_time, average_price, "
           "price_sum, samples, revision, is_final) values ",
           table);
}


void db_suffix(MYSQL *db, const char *table, char *out, size_t size) {
  const char *a = db_is_mariadb(db) ? "values(" : "new.";
  const char *b = db_is_mariadb(db) ? ")" : "";
  snprintf(out, size,
           "%s on duplicate key update revision = %s.revision + %srevision%s, "
           "average_price = (%s.price_sum + %sprice_sum%s) / "
           "nullif(%s.samples + %ssamples%s, 0), "
           "price_sum = %s.price_sum + %sprice_sum%s, "
           "samples = %s.samples + %ssamples%s",
           db_is_mariadb(db) ? "" : " as new", table, a, b, table, a, b, table,
           a, b, table, a, b, table, a, b);
}
