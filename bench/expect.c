/* expect.c - what the result table must hold for a topic of fill.c.
 *
 *   expect [window=MS] [KEY=VALUE ...]     options: see gen.h
 *
 * Computed from the generator alone, with 128-bit integers. Prints one JSON
 * object: rows, samples, and digest, the sum over all rows of the CRC-32 of
 * "symbol,window start in us,samples,average", which SQL computes as well. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "bench.h"
#include "gen.h"

struct cell {
  int64_t key, window, samples;
  __int128 sum;
};

struct table {
  struct cell *cells;
  uint64_t size, used;
};


static struct cell *table_at(struct table *t, int64_t key, int64_t window) {
  uint64_t h = ((uint64_t)key * 0x9E3779B97F4A7C15u) ^
               ((uint64_t)window * 0xC2B2AE3D27D4EB4Fu);
  uint64_t i = (h ^ h >> 29) & (t->size - 1);
  while (t->cells[i].samples > 0 &&
         (t->cells[i].key != key || t->cells[i].window != window))
    i = (i + 1) & (t->size - 1);
  return &t->cells[i];
}


static void table_grow(struct table *t, uint64_t size) {
  struct table old = *t;
  t->size = size;
  t->cells = calloc(size, sizeof *t->cells);
  if (t->cells == NULL)
    bench_die("out of memory");
  for (uint64_t i = 0; i < old.size; i++)
    if (old.cells[i].samples > 0)
      *table_at(t, old.cells[i].key, old.cells[i].window) = old.cells[i];
  free(old.cells);
}


static uint64_t cell_digest(const struct cell *c, int64_t size_ms, int brief) {
  char key[GEN_KEY_MAX], text[128];
  if (brief)
    snprintf(key, sizeof key, "%" PRIx64, c->key);
  else
    gen_key(c->key, key);
  __int128 n = c->samples;
  int64_t average = (int64_t)((c->sum * 2 + n) / (n * 2)); /* half up */
  int len = snprintf(text, sizeof text,
                     "%s,%" PRId64 ",%" PRId64 ",%" PRId64 ".%08" PRId64, key,
                     c->window * size_ms * 1000, c->samples,
                     average / 100000000, average % 100000000);
  return crc32(crc32(0, Z_NULL, 0), (const Bytef *)text, (uInt)len);
}


int main(int argc, char **argv) {
  static struct gen g;
  static struct gen_message m;
  struct table t = {NULL, 0, 0};
  int64_t size_ms = 60000, first = 1;
  if (argc > 1 && strncmp(argv[1], "window=", 7) == 0) {
    size_ms = atoll(argv[1] + 7);
    first = 2;
  }
  if (size_ms < 1)
    bench_die("window: a number of milliseconds");
  gen_open(&g, argc - (int)first, argv + first);
  table_grow(&t, 1024);
  while (gen_next(&g, &m)) {
    if (t.used * 2 >= t.size)
      table_grow(&t, t.size * 2);
    struct cell *c = table_at(&t, m.number, m.ms / size_ms);
    t.used += c->samples == 0;
    c->key = m.number;
    c->window = m.ms / size_ms;
    c->samples++;
    c->sum += m.units;
  }
  uint64_t digest = 0;
  for (uint64_t i = 0; i < t.size; i++)
    if (t.cells[i].samples > 0)
      digest += cell_digest(&t.cells[i], size_ms, (int)g.brief);
  printf("{\"rows\":%" PRIu64 ",\"samples\":%" PRId64 ",\"digest\":%" PRIu64
         "}\n",
         t.used, g.messages, digest);
  free(t.cells);
  return 0;
}
