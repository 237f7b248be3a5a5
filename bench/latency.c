/* latency.c - from a message's timestamp to its row being visible.
 *
 *   latency kafka URL TABLE QUERY rate=N seconds=N BROKERS TOPIC
 *   latency commit URL TABLE QUERY rate=N seconds=N
 *   latency through URL TABLE QUERY rate=N seconds=N BROKERS TOPIC
 *
 * `kafka` sends messages at a rate to TOPIC, which a pipeline reads; `commit`
 * is the control: the rows that are due are committed to TABLE directly, with
 * the statements of a pipeline's commit, one transaction after the other.
 * `through` is the same loop with Kafka before it: what the machine gives a
 * program that reads, counts by the message's key and commits.
 * Either way another connection repeats QUERY, which gives symbol and count,
 * and a message is visible when its symbol's count says so: a symbol is in one
 * partition, so its messages are counted in order. TABLE is `-` with kafka.
 *
 * The messages of the first second warm both sides up and are not in the
 * figures.
 *
 * Prints one JSON object: messages, p50_ms, p90_ms, p99_ms, max_ms, and
 * look_ms, the median time between two looks, which is part of the figures. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "db.h"
#include "gen.h"

enum { KEYS = 5, LOOK_MAX = 1000000, GIVE_UP_S = 60, PARTITIONS = 3 };

struct latency {
  const char *url, *table, *query, *brokers, *topic;
  int64_t rate, total;
  double began;
  double *sent[KEYS];              /* when each message was due, by symbol */
  _Atomic int64_t published[KEYS]; /* how many of them are filled in */
  double *ms;                      /* latencies */
  int64_t kept, seen;
  double look[LOOK_MAX];
  int64_t looks;
};


static double wall(void) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}


static int symbol_number(const char *name) {
  char key[GEN_KEY_MAX];
  for (int k = 0; k < KEYS; k++) {
    gen_key(k, key);
    if (strcmp(key, name) == 0)
      return k;
  }
  return -1;
}


/* Message `n` of symbol `k` is visible. */
static void note(struct latency *l, int k, int64_t n, double ms) {
  l->seen++;
  if (n * KEYS + k >= l->rate)
    l->ms[l->kept++] = ms;
}


/* Look until every message is visible. */
static void *watch(void *arg) {
  struct latency *l = arg;
  MYSQL *db = db_open(l->url);
  int64_t counted[KEYS] = {0};
  double give_up = 0, before = bench_now();
  while (l->seen < l->total) {
    if (mysql_query(db, l->query) != 0)
      bench_die("%s", mysql_error(db));
    MYSQL_RES *result = mysql_store_result(db);
    double now = bench_now(), at = wall();
    if (l->looks < LOOK_MAX)
      l->look[l->looks++] = (now - before) * 1000;
    before = now;
    for (MYSQL_ROW row; (row = mysql_fetch_row(result)) != NULL;) {
      int k = symbol_number(row[0]);
      int64_t n = row[1] != NULL ? atoll(row[1]) : 0;
      if (k < 0)
        continue; /* messages that others sent */
      if (n > l->published[k])
        bench_die("the table counts %" PRId64 " messages of %s too many",
                  n - l->published[k], row[0]);
      for (; counted[k] < n; counted[k]++)
        note(l, k, counted[k], (at - l->sent[k][counted[k]]) * 1000);
    }
    mysql_free_result(result);
    double end = l->began + (double)l->total / (double)l->rate;
    if (give_up == 0 && bench_now() > end)
      give_up = bench_now() + GIVE_UP_S;
    if (give_up > 0 && bench_now() > give_up)
      bench_die("%" PRId64 " of %" PRId64 " messages are visible after %d s",
                l->seen, l->total, GIVE_UP_S);
    bench_until(bench_now() + 0.0008);
  }
  mysql_close(db);
  return NULL;
}


/* Wait until message `i` is due; returns how many are due in all. */
static int64_t due(const struct latency *l, int64_t i) {
  double at = l->began + (double)i / (double)l->rate;
  if (bench_now() < at)
    bench_until(at);
  int64_t n = (int64_t)((bench_now() - l->began) * (double)l->rate) + 1;
  return n < l->total ? n : l->total;
}


static void publish(struct latency *l, int k, double at) {
  l->sent[k][l->published[k]] = at;
  l->published[k]++;
}


static void feed_kafka(struct latency *l) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", l->brokers);
  bench_set(conf, "linger.ms", l->rate > 10000 ? "1" : "0");
  bench_set(conf, "partitioner", "murmur2_random");
  bench_set(conf, "compression.type", "lz4");
  rd_kafka_t *rk = bench_client(RD_KAFKA_PRODUCER, conf);
  for (int64_t i = 0; i < l->total;) {
    for (int64_t to = due(l, i); i < to; i++) {
      char key[GEN_KEY_MAX], value[128];
      int k = (int)(i % KEYS);
      size_t key_len = gen_key(k, key);
      double at = wall();
      int len = snprintf(value, sizeof value,
                         "{\"symbol\":\"%s\",\"price\":\"61837.%08" PRId64
                         "\",\"timestamp\":%.6f}",
                         key, i % 100000000, at);
      publish(l, k, at);
      bench_produce(rk, l->topic, RD_KAFKA_PARTITION_UA, key, key_len, value,
                    (size_t)len);
    }
    rd_kafka_poll(rk, 0);
  }
  rd_kafka_flush(rk, 30000);
  rd_kafka_destroy(rk);
}


/* The statements of one commit: `n` messages of each symbol. */
static void commit(MYSQL *db, const char *table, const char *suffix,
                   const int64_t *n, int64_t seq) {
  char sql[4096], prefix[512];
  db_runf(db,
          "start transaction; update mill_progress set position = %" PRId64
          ", watermark_ms = %" PRId64 ", at_end = 0, commit_seq = %" PRId64
          " where pipeline = '%s' and `partition` = 0 and owner = 'me' and "
          "epoch = 1 and commit_seq = %" PRId64
          "; select result_table, final_ms, frozen, purged_ms from "
          "mill_pipelines where result_table in ('%s') order by pipeline, "
          "result_table lock in share mode",
          seq + 1, seq, seq + 1, table, seq, table);
  db_prefix(table, prefix, sizeof prefix);
  size_t len = (size_t)snprintf(sql, sizeof sql, "%s", prefix), rows = 0;
  for (int k = 0; k < KEYS; k++) {
    char key[GEN_KEY_MAX];
    gen_key(k, key);
    if (n[k] > 0)
      len += (size_t)snprintf(
          sql + len, sizeof sql - len,
          "%s('%s','2024-08-09 00:00:00','2024-08-09 00:01:00',61837.25,"
          "%" PRId64 ".25,%" PRId64 ",0,0)",
          rows++ > 0 ? "," : "", key, n[k] * 61837, n[k]);
  }
  len += (size_t)snprintf(sql + len, sizeof sql - len, "%s", suffix);
  db_run(db, sql, len);
  db_runf(db, "commit");
}


/* The loop's connection, its row of progress, and the end of its statements. */
static MYSQL *commit_open(const struct latency *l, char *suffix, size_t size) {
  MYSQL *db = db_open(l->url);
  db_suffix(db, l->table, suffix, size);
  db_runf(db,
          "insert into mill_progress (pipeline, cluster_id, topic, `partition`,"
          " position, owner, epoch) values ('%s', 'c', 't', 0, 0, 'me', 1)",
          l->table);
  return db;
}


static void commit_close(const struct latency *l, MYSQL *db) {
  db_runf(db, "delete from mill_progress where pipeline = '%s'", l->table);
  mysql_close(db);
}


static void feed_commit(struct latency *l) {
  char suffix[2048];
  MYSQL *db = commit_open(l, suffix, sizeof suffix);
  int64_t seq = 0;
  for (int64_t i = 0; i < l->total; seq++) {
    int64_t to = due(l, i), n[KEYS] = {0};
    double base = wall() - bench_now() + l->began;
    for (; i < to; i++) {
      publish(l, (int)(i % KEYS), base + (double)i / (double)l->rate);
      n[i % KEYS]++;
    }
    commit(db, l->table, suffix, n, seq);
  }
  commit_close(l, db);
}


/* A consumer of the whole topic, with a pipeline's settings of latency. */
static rd_kafka_t *through_open(const struct latency *l) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", l->brokers);
  bench_set(conf, "group.id", "bench-latency");
  bench_set(conf, "enable.auto.commit", "false");
  bench_set(conf, "isolation.level", "read_committed");
  bench_set(conf, "fetch.wait.max.ms", "50");
  bench_set(conf, "socket.nagle.disable", "true");
  rd_kafka_t *rk = bench_client(RD_KAFKA_CONSUMER, conf);
  bench_assign(rk, l->topic, PARTITIONS);
  return rk;
}


/* Count what waits, at least one message; how many there were. */
static int64_t through_take(rd_kafka_t *rk, int64_t *n) {
  int64_t took = 0;
  rd_kafka_message_t *m;
  while ((m = rd_kafka_consumer_poll(rk, took > 0 ? 0 : 1000)) != NULL) {
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR)
      bench_die("%s", rd_kafka_message_errstr(m));
    char key[GEN_KEY_MAX];
    snprintf(key, sizeof key, "%.*s", (int)m->key_len, (const char *)m->key);
    int k = symbol_number(key);
    if (k < 0)
      bench_die("'%s' is not a key of ours", key);
    n[k]++;
    took++;
    rd_kafka_message_destroy(m);
  }
  return took;
}


static void *through(void *arg) {
  struct latency *l = arg;
  char suffix[2048];
  MYSQL *db = commit_open(l, suffix, sizeof suffix);
  rd_kafka_t *rk = through_open(l);
  int64_t taken = 0;
  for (int64_t seq = 0; taken < l->total;) {
    int64_t n[KEYS] = {0}, took = through_take(rk, n);
    if (took > 0)
      commit(db, l->table, suffix, n, seq++);
    taken += took;
  }
  rd_kafka_destroy(rk);
  commit_close(l, db);
  return NULL;
}


/* Send, wait until all is visible, and print the figures. */
static void run(struct latency *l, const char *mode) {
  pthread_t watcher, reader;
  int reads = strcmp(mode, "through") == 0;
  if (pthread_create(&watcher, NULL, watch, l) != 0 ||
      (reads && pthread_create(&reader, NULL, through, l) != 0))
    bench_die("no thread");
  if (l->topic != NULL)
    feed_kafka(l);
  else
    feed_commit(l);
  if (reads)
    pthread_join(reader, NULL);
  pthread_join(watcher, NULL);
  double max = bench_quantile(l->ms, l->kept, 1);
  printf("{\"messages\":%" PRId64 ",\"p50_ms\":%.2f,\"p90_ms\":%.2f,"
         "\"p99_ms\":%.2f,\"max_ms\":%.2f,\"look_ms\":%.2f}\n",
         l->kept, bench_quantile(l->ms, l->kept, 0.5),
         bench_quantile(l->ms, l->kept, 0.9),
         bench_quantile(l->ms, l->kept, 0.99), max,
         bench_quantile(l->look, l->looks, 0.5));
}


int main(int argc, char **argv) {
  static struct latency l;
  const char *mode = argc > 1 ? argv[1] : "";
  int alone = strcmp(mode, "commit") == 0;
  if (argc != (alone ? 7 : 9) ||
      (!alone && strcmp(mode, "kafka") != 0 && strcmp(mode, "through") != 0))
    bench_die("usage: latency kafka|commit|through URL TABLE QUERY rate=N "
              "seconds=N [BROKERS TOPIC]");
  if (strncmp(argv[5], "rate=", 5) != 0 || strncmp(argv[6], "seconds=", 8) != 0)
    bench_die("rate=N seconds=N");
  l.url = argv[2];
  l.table = argv[3];
  l.query = argv[4];
  l.brokers = alone ? NULL : argv[7];
  l.topic = alone ? NULL : argv[8];
  l.rate = atoll(argv[5] + 5);
  l.total = l.rate * (1 + atoll(argv[6] + 8));
  if (l.total < 1)
    bench_die("rate and seconds are at least 1");
  l.ms = calloc((size_t)l.total, sizeof *l.ms);
  for (int k = 0; k < KEYS; k++)
    l.sent[k] = calloc((size_t)l.total / KEYS + 1, sizeof(double));
  mysql_library_init(0, NULL, NULL);
  l.began = bench_now() + 0.2;
  run(&l, mode);
  return 0;
}
