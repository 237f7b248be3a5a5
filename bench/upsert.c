/* upsert.c - the control of the sink: upsert averages with the client library
 * as fast as the server takes them.
 *
 *   upsert URL TABLE [rows=N] [keys=N] [statement=N] [packet=N] [commit=N]
 *          [way=text|prepared|bulk|staging]
 *
 * TABLE is one like moving_averages. The rows are those of a pipeline that
 * reads fill.c's topic with as many messages and keys: `commit` messages are
 * merged by key and put in order of their keys, which is not timed, and are one
 * transaction. `statement` rows go in one statement, `packet` statements in one
 * packet (text only). `prepared` binds the rows of a multi-row statement,
 * `bulk` binds arrays, which only MariaDB's protocol has, and `staging` fills a
 * temporary table and adds it to TABLE by one statement. Prints one JSON
 * object: rows, seconds, rows_per_second. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "db.h"
#include "gen.h"

enum { COLUMNS = 8, ROW_MAX = 200, SQL_MAX = 2048, NUMBER_MAX = 24 };

static const char *const WAYS[] = {"text", "prepared", "bulk", "staging"};
enum { TEXT, PREPARED, BULK, STAGING };

/* One row to add. */
struct row {
  char key[GEN_KEY_MAX], average[NUMBER_MAX], sum[NUMBER_MAX];
  unsigned long key_len, average_len, sum_len;
  int64_t units;
  long long samples;
  MYSQL_TIME start, end;
  signed char revision, final;
};

struct upsert {
  MYSQL *db;
  const char *table;
  int64_t rows, keys, statement, packet, commit;
  int way;
  char prefix[SQL_MAX], suffix[SQL_MAX];
  struct row *row;
  int64_t count;
  int64_t *ends; /* of the transactions, in rows */
  int64_t transactions;
  char *sql;
  MYSQL_STMT *stmt;
  int64_t stmt_rows; /* what it was prepared for */
  MYSQL_BIND *bind;
};

static const MYSQL_TIME START = {.year = 2024,
                                 .month = 8,
                                 .day = 8,
                                 .hour = 23,
                                 .minute = 54,
                                 .time_type = MYSQL_TIMESTAMP_DATETIME};


static void *need(size_t count, size_t size) {
  void *p = calloc(count, size);
  if (p == NULL)
    bench_die("out of memory");
  return p;
}


static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}


/* --- the rows ------------------------------------------------------------ */

static int row_compare(const void *a, const void *b) {
  return strcmp(((const struct row *)a)->key, ((const struct row *)b)->key);
}


static unsigned long units_text(int64_t units, char *out) {
  return (unsigned long)snprintf(out, NUMBER_MAX, "%" PRId64 ".%08" PRId64,
                                 units / 100000000, units % 100000000);
}


/* Merge the rows of one transaction, which lie from `from` on; returns how
 * many are left. */
static int64_t row_merge(struct row *from, int64_t count) {
  qsort(from, (size_t)count, sizeof *from, row_compare);
  int64_t n = 0;
  for (int64_t i = 0; i < count; i++) {
    if (n > 0 && strcmp(from[n - 1].key, from[i].key) == 0) {
      from[n - 1].units += from[i].units;
      from[n - 1].samples++;
      continue;
    }
    from[n++] = from[i];
  }
  for (int64_t i = 0; i < n; i++) {
    struct row *r = &from[i];
    r->sum_len = units_text(r->units, r->sum);
    r->average_len =
        units_text((r->units * 2 + r->samples) / (r->samples * 2), r->average);
  }
  return n;
}


static void upsert_rows(struct upsert *u) {
  static struct gen g;
  static struct gen_message m;
  char messages[40], keys[40];
  snprintf(messages, sizeof messages, "messages=%" PRId64, u->rows);
  snprintf(keys, sizeof keys, "keys=%" PRId64, u->keys);
  gen_open(&g, 2, (char *[]){messages, keys});
  u->row = need((size_t)u->rows, sizeof *u->row);
  u->ends = need((size_t)(u->rows / u->commit) + 1, sizeof *u->ends);
  for (int64_t left = u->rows; left > 0; left -= smaller(left, u->commit)) {
    struct row *from = u->row + u->count;
    int64_t count = smaller(left, u->commit);
    for (int64_t i = 0; i < count; i++) {
      gen_next(&g, &m);
      memcpy(from[i].key, m.key, sizeof m.key);
      from[i].key_len = (unsigned long)m.key_len;
      from[i].units = m.units;
      from[i].samples = 1;
      from[i].start = from[i].end = START;
      from[i].end.minute++;
    }
    u->count += row_merge(from, count);
    u->ends[u->transactions++] = u->count;
  }
}


/* --- text ---------------------------------------------------------------- */

static size_t text_rows(char *out, const struct row *r, int64_t count) {
  size_t len = 0;
  for (int64_t i = 0; i < count; i++, r++)
    len += (size_t)sprintf(out + len,
                           "%s('%s','2024-08-08 23:54:00',"
                           "'2024-08-08 23:55:00',%s,%s,%lld,0,0)",
                           i > 0 ? "," : "", r->key, r->average, r->sum,
                           r->samples);
  return len;
}


/* One packet; returns how many rows are in it. */
static int64_t upsert_text(struct upsert *u, const struct row *r,
                           int64_t count) {
  size_t len = 0;
  int64_t done = 0;
  for (int64_t i = 0; i < u->packet && done < count; i++) {
    int64_t n = smaller(u->statement, count - done);
    len += (size_t)sprintf(u->sql + len, "%s%s", i > 0 ? ";" : "", u->prefix);
    len += text_rows(u->sql + len, r + done, n);
    len += (size_t)sprintf(u->sql + len, "%s", u->suffix);
    done += n;
  }
  db_run(u->db, u->sql, len);
  return done;
}


/* --- bound values -------------------------------------------------------- */

static void upsert_prepare(struct upsert *u, int64_t rows) {
  size_t len = (size_t)sprintf(u->sql, "%s", u->prefix);
  for (int64_t i = 0; i < rows; i++)
    len +=
        (size_t)sprintf(u->sql + len, "%s(?,?,?,?,?,?,?,?)", i > 0 ? "," : "");
  len += (size_t)sprintf(u->sql + len, "%s", u->suffix);
  if (u->stmt != NULL)
    mysql_stmt_close(u->stmt);
  u->stmt = mysql_stmt_init(u->db);
  if (u->stmt == NULL ||
      mysql_stmt_prepare(u->stmt, u->sql, (unsigned long)len) != 0)
    bench_die("%s", u->stmt != NULL ? mysql_stmt_error(u->stmt) : "memory");
  u->stmt_rows = rows;
}


static void upsert_execute(struct upsert *u) {
  if (mysql_stmt_bind_param(u->stmt, u->bind) || mysql_stmt_execute(u->stmt))
    bench_die("%s", mysql_stmt_error(u->stmt));
}


static void put(MYSQL_BIND *b, enum enum_field_types type, const void *at,
                const unsigned long *len) {
  memcpy(&b->buffer, &at, sizeof at); /* the library takes no const */
  memcpy(&b->length, &len, sizeof len);
  b->buffer_type = type;
  b->buffer_length = len != NULL ? *len : 0;
}


static void bind_row(MYSQL_BIND *b, const struct row *r) {
  put(&b[0], MYSQL_TYPE_STRING, r->key, &r->key_len);
  put(&b[1], MYSQL_TYPE_DATETIME, &r->start, NULL);
  put(&b[2], MYSQL_TYPE_DATETIME, &r->end, NULL);
  put(&b[3], MYSQL_TYPE_NEWDECIMAL, r->average, &r->average_len);
  put(&b[4], MYSQL_TYPE_NEWDECIMAL, r->sum, &r->sum_len);
  put(&b[5], MYSQL_TYPE_LONGLONG, &r->samples, NULL);
  put(&b[6], MYSQL_TYPE_TINY, &r->revision, NULL);
  put(&b[7], MYSQL_TYPE_TINY, &r->final, NULL);
}


static int64_t upsert_prepared(struct upsert *u, const struct row *r,
                               int64_t count) {
  int64_t n = smaller(u->statement, count);
  if (u->stmt == NULL || u->stmt_rows != n)
    upsert_prepare(u, n);
  for (int64_t i = 0; i < n; i++)
    bind_row(u->bind + i * COLUMNS, &r[i]);
  upsert_execute(u);
  return n;
}


/* The rows are bound as they lie in memory. */
static int64_t upsert_bulk(struct upsert *u, const struct row *r,
                           int64_t count) {
  unsigned n = (unsigned)smaller(u->statement, count);
  if (u->stmt == NULL)
    upsert_prepare(u, 1);
  size_t size = sizeof *r;
  mysql_stmt_attr_set(u->stmt, STMT_ATTR_ROW_SIZE, &size);
  mysql_stmt_attr_set(u->stmt, STMT_ATTR_ARRAY_SIZE, &n);
  bind_row(u->bind, r);
  upsert_execute(u);
  return n;
}


/* --- a staging table ----------------------------------------------------- */

static void staging_open(struct upsert *u) {
  db_runf(u->db,
          "create temporary table bench_staging (symbol varchar(32) character "
          "set utf8mb4, start_time datetime, end_time datetime, average_price "
          "decimal(20,8), price_sum decimal(38,8), samples bigint, revision "
          "int, is_final tinyint)");
  db_prefix("bench_staging", u->prefix, sizeof u->prefix);
  u->suffix[0] = '\0';
}


static void staging_add(struct upsert *u) {
  const char *t = u->table;
  db_runf(u->db,
          "insert into %s (symbol, start_time, end_time, average_price, "
          "price_sum, samples, revision, is_final) select * from (select * "
          "from bench_staging) new on duplicate key update revision = "
          "%s.revision + new.revision, average_price = (%s.price_sum + "
          "new.price_sum) / nullif(%s.samples + new.samples, 0), price_sum = "
          "%s.price_sum + new.price_sum, samples = %s.samples + new.samples; "
          "delete from bench_staging",
          t, t, t, t, t, t);
}


/* --- the loop ------------------------------------------------------------ */

static void upsert_options(struct upsert *u, int argc, char **argv) {
  const char *const names[] = {
      "rows=", "keys=", "statement=", "packet=", "commit="};
  int64_t *const at[] = {&u->rows, &u->keys, &u->statement, &u->packet,
                         &u->commit};
  for (int i = 3; i < argc; i++) {
    int known = 0;
    for (int k = 0; k < 5; k++)
      if (strncmp(argv[i], names[k], strlen(names[k])) == 0) {
        *at[k] = atoll(argv[i] + strlen(names[k]));
        known = *at[k] >= 1;
      }
    for (int k = TEXT; k <= STAGING; k++)
      if (strncmp(argv[i], "way=", 4) == 0 && strcmp(argv[i] + 4, WAYS[k]) == 0)
        u->way = k, known = 1;
    if (!known)
      bench_die("not an option: '%s'", argv[i]);
  }
}


static void upsert_run(struct upsert *u) {
  int64_t (*const ways[])(struct upsert *, const struct row *, int64_t) = {
      upsert_text, upsert_prepared, upsert_bulk, upsert_text};
  int64_t at = 0;
  for (int64_t n = 0; n < u->transactions; n++) {
    db_runf(u->db, "start transaction");
    while (at < u->ends[n])
      at += ways[u->way](u, u->row + at, u->ends[n] - at);
    if (u->way == STAGING)
      staging_add(u);
    db_runf(u->db, "commit");
  }
}


int main(int argc, char **argv) {
  static struct upsert u = {.rows = 200000,
                            .keys = 100000,
                            .statement = 2000,
                            .packet = 1,
                            .commit = 20000};
  if (argc < 3)
    bench_die("usage: upsert URL TABLE [KEY=VALUE ...]");
  upsert_options(&u, argc, argv);
  u.db = db_open(argv[1]);
  u.table = argv[2];
  db_prefix(u.table, u.prefix, sizeof u.prefix);
  db_suffix(u.db, u.table, u.suffix, sizeof u.suffix);
  if (u.way == STAGING)
    staging_open(&u);
  u.sql = need((size_t)(u.statement * u.packet), ROW_MAX);
  u.sql = realloc(u.sql, (size_t)(u.statement * u.packet) * ROW_MAX +
                             (size_t)u.packet * 2 * SQL_MAX);
  u.bind = need((size_t)u.statement * COLUMNS, sizeof *u.bind);
  upsert_rows(&u);
  double began = bench_now();
  upsert_run(&u);
  double seconds = bench_now() - began;
  printf("{\"rows\":%" PRId64 ",\"seconds\":%.3f,\"rows_per_second\":%.0f}\n",
         u.count, seconds, (double)u.count / seconds);
  mysql_close(u.db);
  return 0;
}
