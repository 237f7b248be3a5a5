/* gen.h - the deterministic messages of the benchmarks.
 *
 * The same options give the same messages in every run, so what a pipeline must
 * have in its table is known without reading the topic (expect.c). */
#ifndef BENCH_GEN_H
#define BENCH_GEN_H

#include <stddef.h>
#include <stdint.h>

enum { GEN_VALUE_MAX = 16384, GEN_KEY_MAX = 24 };

struct gen {
  int64_t messages, keys, partitions;
  int64_t start_ms;    /* event time of the first message */
  int64_t span_ms;     /* event time from first to last; 0: 1 ms a message */
  int64_t disorder_ms; /* a message is up to this much older than its place */
  int64_t bytes;       /* of a value, where its fields leave room; 0: as is */
  int64_t fields;      /* 3 to 100; the others are text that nobody asked for */
  int64_t brief;       /* names s, p, t and short numbers: 40 bytes a value */
  const char *compression;
  /* private */
  int64_t next;
  uint64_t state;
  char head[GEN_VALUE_MAX], tail[GEN_VALUE_MAX];
};

struct gen_message {
  char key[GEN_KEY_MAX];
  char value[GEN_VALUE_MAX];
  size_t key_len, len;
  int64_t number; /* of the key */
  int64_t ms;     /* event time */
  int64_t units;  /* price in 1e-8 */
};

/* Read KEY=VALUE options (messages, keys, partitions, start_ms, span_ms,
 * disorder_ms, bytes, fields, brief, compression); dies naming a wrong one. */
void gen_open(struct gen *g, int count, char **options);

/* The next message; 0 after the last. */
int gen_next(struct gen *g, struct gen_message *m);

/* The name of key number `k`; returns its length. */
size_t gen_key(int64_t k, char *out);

#endif
