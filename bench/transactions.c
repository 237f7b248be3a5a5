/* transactions.c - the control of the spool's latency: records become due at a
 * rate; all that are due go out in one Kafka transaction after the other.
 *
 *   transactions BROKERS TOPIC rate=N seconds=N
 *
 * Makes the topic. Prints one JSON object: messages, transactions, and the
 * milliseconds from due to committed: p50_ms, p90_ms, p99_ms, max_ms. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { CALL_MS = 10000, WARM = 20 };


static void check(rd_kafka_error_t *error) {
  if (error != NULL)
    bench_die("%s", rd_kafka_error_string(error));
}


static void transaction(rd_kafka_t *rk, const char *topic, int64_t from,
                        int64_t to) {
  check(rd_kafka_begin_transaction(rk));
  for (int64_t i = from; i < to; i++) {
    char value[96];
    int len = snprintf(value, sizeof value,
                       "{\"symbol\":\"BTCUSDT\",\"price\":\"61837.%08" PRId64
                       "\",\"timestamp\":1723161255.342}",
                       i % 100000000);
    bench_produce(rk, topic, RD_KAFKA_PARTITION_UA, "BTCUSDT", 7, value,
                  (size_t)len);
  }
  check(rd_kafka_commit_transaction(rk, CALL_MS));
}


int main(int argc, char **argv) {
  if (argc != 5 || strncmp(argv[3], "rate=", 5) != 0 ||
      strncmp(argv[4], "seconds=", 8) != 0)
    bench_die("usage: transactions BROKERS TOPIC rate=N seconds=N");
  int64_t rate = atoll(argv[3] + 5), total = rate * atoll(argv[4] + 8);
  double *ms = calloc((size_t)total, sizeof *ms);
  if (rate < 1 || total < 1 || ms == NULL)
    bench_die("rate and seconds are at least 1");
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", argv[1]);
  bench_set(conf, "transactional.id", argv[2]);
  bench_set(conf, "compression.type", "lz4");
  bench_set(conf, "linger.ms", "0");
  rd_kafka_t *rk = bench_client(RD_KAFKA_PRODUCER, conf);
  bench_topic(rk, argv[2], 3);
  check(rd_kafka_init_transactions(rk, CALL_MS));
  for (int64_t i = 0; i < WARM; i++)
    transaction(rk, argv[2], i, i + 1);
  double began = bench_now();
  int64_t sent = 0, transactions = 0;
  while (sent < total) {
    int64_t due = (int64_t)((bench_now() - began) * (double)rate) + 1;
    if (due > total)
      due = total;
    if (due <= sent) {
      bench_until(began + (double)sent / (double)rate);
      continue;
    }
    transaction(rk, argv[2], sent, due);
    double now = bench_now();
    for (int64_t i = sent; i < due; i++)
      ms[i] = (now - began - (double)i / (double)rate) * 1000;
    sent = due;
    transactions++;
  }
  double max = bench_quantile(ms, total, 1);
  printf("{\"messages\":%" PRId64 ",\"transactions\":%" PRId64
         ",\"p50_ms\":%.2f,\"p90_ms\":%.2f,\"p99_ms\":%.2f,\"max_ms\":%.2f}\n",
         total, transactions, bench_quantile(ms, total, 0.5),
         bench_quantile(ms, total, 0.9), bench_quantile(ms, total, 0.99), max);
  free(ms);
  rd_kafka_destroy(rk);
  return 0;
}
