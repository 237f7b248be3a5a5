/* produce.c - the control of the producer: send messages that are made already,
 * as fast as librdkafka takes them, and wait until all are acknowledged. The
 * time begins when the first one is.
 *
 *   produce BROKERS TOPIC [conf:KEY=VALUE ...] [KEY=VALUE ...]
 *
 * Makes the topic. Options with `conf:` are librdkafka's, the others gen.h's.
 * Prints one JSON object: messages, seconds, messages_per_second. */
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "gen.h"

enum { KEPT = 10000 };

struct kept {
  char key[GEN_KEY_MAX], *value;
  size_t key_len, len;
};

static int64_t delivered;


static void produce_report(rd_kafka_t *rk, const rd_kafka_message_t *m,
                           void *op) {
  (void)rk;
  (void)op;
  delivered += m->err == RD_KAFKA_RESP_ERR_NO_ERROR;
}


int main(int argc, char **argv) {
  static struct gen g;
  static struct gen_message m;
  static struct kept kept[KEPT];
  if (argc < 3)
    bench_die("usage: produce BROKERS TOPIC [conf:K=V ...] [KEY=VALUE ...]");
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  bench_set(conf, "bootstrap.servers", argv[1]);
  int at = 3;
  for (; at < argc && strncmp(argv[at], "conf:", 5) == 0; at++) {
    char *equals = strchr(argv[at], '=');
    if (equals == NULL)
      bench_die("'%s' is not conf:KEY=VALUE", argv[at]);
    *equals = '\0';
    bench_set(conf, argv[at] + 5, equals + 1);
  }
  gen_open(&g, argc - at, argv + at);
  int count = 0;
  for (; count < KEPT && gen_next(&g, &m); count++) {
    memcpy(kept[count].key, m.key, m.key_len);
    kept[count].key_len = m.key_len;
    kept[count].value = malloc(m.len);
    if (kept[count].value == NULL)
      bench_die("out of memory");
    memcpy(kept[count].value, m.value, m.len);
    kept[count].len = m.len;
  }
  rd_kafka_conf_set_dr_msg_cb(conf, produce_report);
  rd_kafka_t *rk = bench_client(RD_KAFKA_PRODUCER, conf);
  bench_topic(rk, argv[2], (int)g.partitions);
  /* The first waits for the topic and the producer's id. */
  bench_produce(rk, argv[2], RD_KAFKA_PARTITION_UA, kept[0].key,
                kept[0].key_len, kept[0].value, kept[0].len);
  rd_kafka_flush(rk, 120000);
  double began = bench_now();
  for (int64_t i = 1; i < g.messages; i++) {
    const struct kept *k = &kept[i % count];
    bench_produce(rk, argv[2], RD_KAFKA_PARTITION_UA, k->key, k->key_len,
                  k->value, k->len);
    if (i % 1000 == 0)
      rd_kafka_poll(rk, 0);
  }
  rd_kafka_flush(rk, 120000);
  double seconds = bench_now() - began;
  rd_kafka_destroy(rk);
  if (delivered != g.messages)
    bench_die("%" PRId64 " of %" PRId64 " delivered", delivered, g.messages);
  printf("{\"messages\":%" PRId64 ",\"seconds\":%.3f,"
         "\"messages_per_second\":%.0f}\n",
         delivered, seconds, (double)delivered / seconds);
  return 0;
}
