/* store_bench.c - nanoseconds per message of the window store alone.
 *
 * No Kafka, no Lua: decoded batches of random keys go into a store that holds
 * them already, so what is measured is finding the row and adding to it, not
 * making it. One line for each number of keys: the median and the range of
 * several rounds, the cost of a message that makes a row, and of a row on its
 * way to a statement (merged, put in order, as text).
 *
 *   store_bench [PARTITIONS [WINDOWS [KEYS]]]    3, 1, and 5 to 1,000,000 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "upsert.h"

enum { ROWS = 4096, ROUNDS = 9, MESSAGES = 1 << 20, OUTS = 8 };

static const int64_t minute = 60000, begin_ms = INT64_C(1723161240000);

static const struct out outs[OUTS] = {
    {.kind = OUT_KEY},   {.kind = OUT_START},
    {.kind = OUT_END},   {.kind = OUT_SUM, .part = 0, .scale = 8},
    {.kind = OUT_COUNT}, {.kind = OUT_AVG, .scale = 8, .column_scale = 8},
    {.kind = OUT_LATE},  {.kind = OUT_FINAL}};


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


static void need(int ok, const char *what) {
  if (ok)
    return;
  fprintf(stderr, "store_bench: %s\n", what);
  exit(1);
}


/* A store with `windows` kinds of window, each with one sum. */
static void make_store(struct store *s, int partitions, int windows) {
  store_init(s);
  s->max_future_ms = INT64_MAX / 4;
  s->time_cell = 2;
  s->cells = 3;
  s->window_count = (size_t)windows;
  for (int w = 0; w < windows; w++) {
    struct window *win = &s->windows[w];
    win->size_ms = win->hop_ms = minute << w;
    win->lateness_ms = minute << 20;
    for (int i = 0; i < FLOOR_COUNT; i++)
      win->floors[i] = STORE_NO_TIME;
    win->parts[0] = (struct part){.op = PART_SUM, .cell = 1};
    win->part_count = 1;
    win->slots = parts_layout(win->parts, 1);
  }
  for (int p = 0; p < partitions; p++)
    need(store_open(s, p, 0, STORE_NO_TIME, 0) == STORE_OK, "store_open");
}


/* Message `i` of key `k`; partitions come in runs, as from a fetch, and each
 * has its own keys. */
static void append(struct batch *b, int64_t *offsets, int partitions,
                   size_t keys, size_t i, size_t k) {
  char key[32];
  int p = (int)(i / 256) % partitions;
  k = k % keys / (size_t)partitions * (size_t)partitions + (size_t)p;
  size_t len = (size_t)snprintf(key, sizeof key, "K%06zuUSDT", k);
  need(batch_add(b, p, offsets[p]++, begin_ms, key, len, key, len) == BATCH_OK,
       "batch_add");
}


/* What the decoder does: a text, a number and a time. */
static void fill_cells(struct batch *b) {
  need(batch_widen(b, 3) == BATCH_OK, "batch_widen");
  for (size_t i = 0; i < b->count; i++) {
    union cell *cells = batch_row(b, i);
    cells[0].text = b->records[i].key;
    cells[1].number = (decimal)(random_next() % 10000000000);
    cells[2].integer = begin_ms + (int64_t)(random_next() % 60000);
  }
}


/* Time of `messages` messages in ns each; random keys, or one after the other
 * from the first. */
static double add(struct store *s, int64_t *offsets, int partitions,
                  size_t keys, size_t messages, int random) {
  struct batch b;
  struct tally t;
  double ns = 0;
  batch_init(&b);
  for (size_t done = 0; done < messages;) {
    batch_reset(&b);
    for (; b.count < ROWS && done < messages; done++)
      append(&b, offsets, partitions, keys, done,
             random ? random_next() % keys : done);
    fill_cells(&b);
    double start = now_ns();
    need(store_add(s, &b, begin_ms, &t) == STORE_OK, "store_add");
    ns += now_ns() - start;
    need((size_t)t.counted == b.count, "a row was not counted");
  }
  batch_free(&b);
  return ns / (double)messages;
}


/* Time of a row from the sealed buffers into text, in ns. */
static double render(struct store *s, size_t *rows) {
  struct sqltext sql = {0};
  struct merged m;
  need(store_seal(s, 0) > 0, "store_seal");
  double start = now_ns();
  need(merged_init(&m, s, 0) == 0, "merged_init");
  double merged = now_ns() - start;
  for (size_t at = 0; at < m.count;) {
    sql.len = 0;
    at = upsert_render(&m, &s->windows[0], outs, OUTS, 0, at, 2000, 1 << 20,
                       &sql);
    need(at > 0, "upsert_render");
  }
  double ns = now_ns() - start;
  *rows = m.count;
  printf(", merged and in order %.0f, as text %.0f ns a row\n",
         merged / (double)m.count, (ns - merged) / (double)m.count);
  merged_free(&m);
  free(sql.bytes);
  store_settle(s);
  return ns / (double)*rows;
}


static void bench(size_t keys, int partitions, int windows) {
  double ns[ROUNDS];
  struct store s;
  int64_t *offsets = calloc((size_t)partitions, sizeof *offsets);
  need(offsets != NULL, "out of memory");
  make_store(&s, partitions, windows);
  size_t rows, bytes, made = keys * 4 < 4096 ? 4096 : keys * 4;
  double first = add(&s, offsets, partitions, keys, made, 0);
  for (int i = 0; i < ROUNDS; i++)
    ns[i] = add(&s, offsets, partitions, keys, MESSAGES, 1);
  store_size(&s, &rows, &bytes);
  qsort(ns, ROUNDS, sizeof *ns, compare);
  printf("%8zu keys %7.1f ns (%.1f to %.1f), filling %.1f, %zu bytes a row",
         rows / (size_t)windows, ns[ROUNDS / 2], ns[0], ns[ROUNDS - 1], first,
         bytes / rows);
  render(&s, &rows);
  store_free(&s);
  free(offsets);
}


int main(int argc, char **argv) {
  int partitions = argc > 1 ? atoi(argv[1]) : 3;
  int windows = argc > 2 ? atoi(argv[2]) : 1;
  need(partitions > 0 && windows > 0 && windows <= 8, "PARTITIONS WINDOWS");
  if (argc > 3) {
    bench((size_t)atoi(argv[3]), partitions, windows);
    return 0;
  }
  for (size_t keys = 5; keys <= 1000000; keys *= keys == 5 ? 20 : 10)
    bench(keys, partitions, windows);
  return 0;
}
