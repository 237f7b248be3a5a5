/* fill.c - a deterministic topic for the benchmarks.
 *
 *   fill BROKERS TOPIC [KEY=VALUE ...]     options: see gen.h
 *
 * Makes the topic and fills it, keyed by symbol. Ends with status 0 only if
 * every message was delivered. Without brokers (BROKERS is -) the messages are
 * printed, a key, a tab and a value a line. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "gen.h"

static int64_t undelivered;


static void fill_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *op) {
  (void)rk;
  (void)op;
  undelivered += m->err != RD_KAFKA_RESP_ERR_NO_ERROR;
}


int main(int argc, char **argv) {
  static struct gen g;
  static struct gen_message m;
  if (argc < 3)
    bench_die("usage: fill BROKERS TOPIC [KEY=VALUE ...]");
  gen_open(&g, argc - 3, argv + 3);
  if (strcmp(argv[1], "-") == 0) {
    while (gen_next(&g, &m))
      printf("%s\t%s\n", m.key, m.value);
    return 0;
  }
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", argv[1]);
  bench_set(conf, "compression.type", g.compression);
  bench_set(conf, "partitioner", "murmur2_random");
  bench_set(conf, "linger.ms", "50");
  bench_set(conf, "batch.num.messages", "10000");
  bench_set(conf, "queue.buffering.max.messages", "500000");
  bench_set(conf, "enable.idempotence", "true");
  rd_kafka_conf_set_dr_msg_cb(conf, fill_report);
  rd_kafka_t *rk = bench_client(RD_KAFKA_PRODUCER, conf);
  bench_topic(rk, argv[2], (int)g.partitions);
  while (gen_next(&g, &m)) {
    bench_produce(rk, argv[2], RD_KAFKA_PARTITION_UA, m.key, m.key_len, m.value,
                  m.len);
    if (g.next % 1000 == 0)
      rd_kafka_poll(rk, 0);
  }
  rd_kafka_flush(rk, 120000);
  int64_t left = rd_kafka_outq_len(rk);
  rd_kafka_destroy(rk);
  if (left > 0 || undelivered > 0)
    bench_die("%" PRId64 " messages were not delivered", left + undelivered);
  return 0;
}
