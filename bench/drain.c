/* drain.c - the control: one consumer reads a topic to its end and does
 * nothing else.
 *
 *   drain BROKERS TOPIC PARTITIONS [KEY=VALUE ...]
 *
 * Uses rd_kafka_consume_batch_queue. Prints one JSON object:
 * messages, seconds, messages_per_second, cpu_seconds, peak_rss_mb. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { BATCH = 10000 };


static rd_kafka_t *drain_open(int argc, char **argv) {
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", argv[1]);
  bench_set(conf, "group.id", "bench-drain");
  bench_set(conf, "enable.partition.eof", "true");
  bench_set(conf, "enable.auto.commit", "false");
  bench_set(conf, "auto.offset.reset", "error");
  bench_set(conf, "isolation.level", "read_committed");
  for (int i = 4; i < argc; i++) {
    char *equals = strchr(argv[i], '=');
    if (equals == NULL)
      bench_die("'%s' is not KEY=VALUE", argv[i]);
    *equals = '\0';
    bench_set(conf, argv[i], equals + 1);
  }
  return bench_client(RD_KAFKA_CONSUMER, conf);
}


int main(int argc, char **argv) {
  if (argc < 4)
    bench_die("usage: drain BROKERS TOPIC PARTITIONS [KEY=VALUE ...]");
  double began = bench_now();
  int partitions = atoi(argv[3]), ended = 0;
  rd_kafka_t *rk = drain_open(argc, argv);
  rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
  bench_assign(rk, argv[2], partitions);
  static rd_kafka_message_t *messages[BATCH];
  int64_t count = 0;
  while (ended < partitions) {
    ssize_t n = rd_kafka_consume_batch_queue(queue, 100, messages, BATCH);
    for (ssize_t i = 0; i < n; i++) {
      if (messages[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR)
        count++;
      else if (messages[i]->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
        ended++;
      else
        bench_die("%s", rd_kafka_message_errstr(messages[i]));
      rd_kafka_message_destroy(messages[i]);
    }
  }
  double seconds = bench_now() - began;
  printf("{\"messages\":%" PRId64 ",\"seconds\":%.3f,"
         "\"messages_per_second\":%.0f,\"cpu_seconds\":%.3f,"
         "\"peak_rss_mb\":%.1f}\n",
         count, seconds, (double)count / seconds, bench_cpu(), bench_rss_mb());
  rd_kafka_queue_destroy(queue);
  rd_kafka_consumer_close(rk);
  rd_kafka_destroy(rk);
  return 0;
}
