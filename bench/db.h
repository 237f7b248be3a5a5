/* db.h - the database side of the control programs. */
#ifndef BENCH_DB_H
#define BENCH_DB_H

#include <mysql.h>

/* Connect as mysql://USER:PASSWORD@HOST:PORT/DATABASE says, or die. Several
 * statements a packet are allowed; found rows are counted. */
MYSQL *db_open(const char *url);

/* Run the statements of `sql` and throw their results away, or die. */
void db_run(MYSQL *db, const char *sql, size_t len);

/* db_run of a formatted text. */
void db_runf(MYSQL *db, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

int db_is_mariadb(MYSQL *db);

/* The statement of an averages table around its rows, as the server wants it:
 * before them, and after them. */
void db_prefix(const char *table, char *out, size_t size);
void db_suffix(MYSQL *db, const char *table, char *out, size_t size);

#endif
