/* bench.h - what the control programs share. */
#ifndef BENCH_H
#define BENCH_H

#include <librdkafka/rdkafka.h>
#include <stdint.h>

/* Print a message and exit with status 1. */
void bench_die(const char *fmt, ...)
    __attribute__((format(printf, 1, 2), noreturn));

/* Set a librdkafka option, or die naming it. */
void bench_set(rd_kafka_conf_t *conf, const char *key, const char *value);

/* A client that owns `conf`, or die. */
rd_kafka_t *bench_client(rd_kafka_type_t type, rd_kafka_conf_t *conf);

/* Make a topic with one replica, or die. */
void bench_topic(rd_kafka_t *rk, const char *name, int partitions);

/* Give a consumer partitions 0 to `partitions` - 1 from their beginning, or
 * die. */
void bench_assign(rd_kafka_t *rk, const char *topic, int partitions);

/* Send a copy, waiting while the queue is full, or die. */
void bench_produce(rd_kafka_t *rk, const char *topic, int32_t partition,
                   const char *key, size_t key_len, const char *value,
                   size_t len);

/* xorshift64: the same numbers in every run. */
uint64_t bench_random(uint64_t *state);

/* Monotonic seconds. */
double bench_now(void);

/* CPU seconds of this process, user and system. */
double bench_cpu(void);

/* Peak resident memory of this process in MB. */
double bench_rss_mb(void);

/* The `q` quantile (0..1) of `n` values; sorts them. */
double bench_quantile(double *values, int64_t n, double q);

/* Sleep until bench_now() is `when`. */
void bench_until(double when);

#endif
