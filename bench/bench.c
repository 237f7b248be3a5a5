/* bench.c - what the control programs share. See bench.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "bench.h"


void bench_die(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  fputs("bench: ", stderr);
  vfprintf(stderr, fmt, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}


void bench_set(rd_kafka_conf_t *conf, const char *key, const char *value) {
  char err[512];
  if (rd_kafka_conf_set(conf, key, value, err, sizeof err) != RD_KAFKA_CONF_OK)
    bench_die("%s", err);
}


rd_kafka_t *bench_client(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
  char err[512];
  rd_kafka_t *rk = rd_kafka_new(type, conf, err, sizeof err);
  if (rk == NULL)
    bench_die("%s", err);
  return rk;
}


void bench_topic(rd_kafka_t *rk, const char *name, int partitions) {
  char err[512];
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_NewTopic_t *topic =
      rd_kafka_NewTopic_new(name, partitions, 1, err, sizeof err);
  if (topic == NULL)
    bench_die("topic %s: %s", name, err);
  rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
  if (event == NULL || rd_kafka_event_error(event))
    bench_die("cannot create topic %s", name);
  size_t n;
  const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(
      rd_kafka_event_CreateTopics_result(event), &n);
  if (n != 1 || rd_kafka_topic_result_error(results[0]))
    bench_die("cannot create topic %s: %s", name,
              rd_kafka_topic_result_error_string(results[0]));
  rd_kafka_event_destroy(event);
  rd_kafka_NewTopic_destroy(topic);
  rd_kafka_queue_destroy(queue);
}


void bench_assign(rd_kafka_t *rk, const char *topic, int partitions) {
  rd_kafka_topic_partition_list_t *list =
      rd_kafka_topic_partition_list_new(partitions);
  for (int32_t p = 0; p < partitions; p++)
    rd_kafka_topic_partition_list_add(list, topic, p)->offset =
        RD_KAFKA_OFFSET_BEGINNING;
  rd_kafka_poll_set_consumer(rk);
  if (rd_kafka_assign(rk, list) != RD_KAFKA_RESP_ERR_NO_ERROR)
    bench_die("cannot assign");
  rd_kafka_topic_partition_list_destroy(list);
}


void bench_produce(rd_kafka_t *rk, const char *topic, int32_t partition,
                   const char *key, size_t key_len, const char *value,
                   size_t len) {
  for (;;) {
    rd_kafka_resp_err_t err = rd_kafka_producev(
        rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
        RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE((void *)value, len),
        RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
      return;
    if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
      bench_die("produce: %s", rd_kafka_err2str(err));
    rd_kafka_poll(rk, 5);
  }
}


uint64_t bench_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}


double bench_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}


double bench_cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
         (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}


double bench_rss_mb(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)u.ru_maxrss / 1024;
}


static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}


double bench_quantile(double *values, int64_t n, double q) {
  if (n == 0)
    return 0;
  qsort(values, (size_t)n, sizeof *values, compare);
  return values[(int64_t)(q * (double)(n - 1) + 0.5)];
}


void bench_until(double when) {
  struct timespec ts = {(time_t)when,
                        (long)((when - (double)(time_t)when) * 1e9)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) != 0)
    ;
}
