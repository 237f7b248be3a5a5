/* decode_bench.c - nanoseconds per message of the decoder alone.
 *
 * No Kafka, no Lua: batches of messages, decoded again and again on one thread.
 * The digits of each message differ, so that no branch is learnt by heart. One
 * line for each message shape: the median and the range of several rounds, and
 * as a control the cost of appending the same bytes to the batch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode.h"

enum { ROWS = 4096, TIMES = 64, ROUNDS = 15, TEXT_MAX = 8192 };

enum shape {
  PRICE_STRING,
  PRICE_NUMBER,
  OTHER_ORDER,
  ISO_TIME,
  TEN_FIELDS,
  HUNDRED_FIELDS,
  ESCAPED,
  NO_JSON,
  NO_PRICE,
  SHAPES
};

static const char *const names[SHAPES] = {
    "price is a string", "price is a number", "other order",
    "ISO time",          "ten fields",        "a hundred fields",
    "escaped symbol",    "bad: no JSON",      "bad: price is null"};

static const char *const symbols[] = {"BTCUSDT", "ETHUSDT", "SOLUSDT",
                                      "1000SHIBUSDT", "ADA-USD"};


static uint64_t random_next(void) {
  static uint64_t state = UINT64_C(20240809);
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}


static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}


static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}


static int hundred(char *out, const char *symbol, unsigned whole,
                   unsigned cents) {
  int n = sprintf(out, "{");
  for (int i = 0; i < 97; i++)
    n += sprintf(out + n, "\"field%03d\":\"some text of field %d\",", i, i);
  return n + sprintf(out + n,
                     "\"symbol\":\"%s\",\"price\":\"%u.%02u000000\","
                     "\"timestamp\":1723161255.342}",
                     symbol, whole, cents);
}


static int message(enum shape shape, char *out) {
  const char *symbol = symbols[random_next() % 5];
  unsigned whole = (unsigned)(random_next() % 100000);
  unsigned cents = (unsigned)(random_next() % 100);
  unsigned ms = (unsigned)(random_next() % 1000);
  switch (shape) {
  case PRICE_NUMBER:
    return sprintf(out,
                   "{\"symbol\":\"%s\",\"price\":%u.%02u,\"timestamp\":"
                   "1723161255%03u}",
                   symbol, whole, cents, ms);
  case OTHER_ORDER:
    return sprintf(out,
                   "{\"timestamp\": 1723161255.%03u, \"price\": "
                   "\"%u.%02u000000\", \"symbol\": \"%s\"}",
                   ms, whole, cents, symbol);
  case ISO_TIME:
    return sprintf(out,
                   "{\"symbol\":\"%s\",\"price\":\"%u.%02u000000\","
                   "\"timestamp\":\"2024-08-09T12:00:00.%03uZ\"}",
                   symbol, whole, cents, ms);
  case TEN_FIELDS:
    return sprintf(out,
                   "{\"e\":\"trade\",\"E\":1723161255343,\"symbol\":\"%s\","
                   "\"t\":3748654321,\"price\":\"%u.%02u000000\",\"q\":"
                   "\"0.00042000\",\"timestamp\":1723161255%03u,\"m\":true,"
                   "\"M\":true,\"x\":null}",
                   symbol, whole, cents, ms);
  case HUNDRED_FIELDS:
    return hundred(out, symbol, whole, cents);
  case ESCAPED:
    return sprintf(out,
                   "{\"symbol\":\"\\u0058%s\",\"price\":\"%u.%02u000000\","
                   "\"timestamp\":1723161255.%03u}",
                   symbol, whole, cents, ms);
  case NO_JSON:
    return sprintf(out, "<html><body>%u Unavailable</body>", whole);
  case NO_PRICE:
    return sprintf(out,
                   "{\"symbol\":\"%s\",\"price\":null,\"timestamp\":"
                   "1723161255.%03u}",
                   symbol, ms);
  default:
    return sprintf(out,
                   "{\"symbol\":\"%s\",\"price\":\"%u.%02u000000\","
                   "\"timestamp\":1723161255.%03u}",
                   symbol, whole, cents, ms);
  }
}


static void append(struct batch *b, const char *text, size_t n, int64_t i) {
  if (batch_add(b, 0, i, 0, "BTCUSDT", 7, text, n) != BATCH_OK)
    exit(1);
}


static void bench(const struct decoder *d, enum shape shape) {
  double ns[ROUNDS], copy[ROUNDS];
  struct batch from, b;
  char text[TEXT_MAX];
  size_t bytes = 0;
  batch_init(&from);
  batch_init(&b);
  for (int i = 0; i < ROWS; i++) {
    size_t n = (size_t)message(shape, text);
    append(&from, text, n, i);
    bytes += n;
  }
  for (int round = 0; round < ROUNDS; round++) {
    double decoded = 0, copied = 0;
    for (int time = 0; time < TIMES; time++) {
      double start = now_ns();
      batch_reset(&b);
      for (int i = 0; i < ROWS; i++) {
        struct span s = from.records[i].value;
        append(&b, batch_bytes(&from, s), s.len, i);
      }
      double filled = now_ns();
      if (decode_batch(d, &b) != BATCH_OK)
        exit(1);
      decoded += now_ns() - filled;
      copied += filled - start;
    }
    ns[round] = decoded / (TIMES * ROWS);
    copy[round] = copied / (TIMES * ROWS);
  }
  qsort(ns, ROUNDS, sizeof *ns, compare);
  qsort(copy, ROUNDS, sizeof *copy, compare);
  printf("%-18s %6zu bytes %7.1f ns (%.1f to %.1f), appending %.1f ns, %zu "
         "bad\n",
         names[shape], bytes / ROWS, ns[ROUNDS / 2], ns[0], ns[ROUNDS - 1],
         copy[ROUNDS / 2], b.fault_count);
  batch_free(&from);
  batch_free(&b);
}


int main(int argc, char **argv) {
  struct decoder d = {.count = 0};
  decoder_add(&d, "symbol", CELL_STRING)->max_chars = 32;
  struct field *price = decoder_add(&d, "price", CELL_DECIMAL);
  price->precision = 20;
  price->scale = 8;
  price->positive = 0;
  decoder_add(&d, "timestamp", CELL_TIME);
  int only = argc > 1 ? atoi(argv[1]) : -1;
  for (int shape = 0; shape < SHAPES; shape++)
    if (only < 0 || only == shape)
      bench(&d, (enum shape)shape);
  return 0;
}
