/* keys_test.c - a store of many keys against plain arrays: tables that are far
 * larger than the cache's share, keys short and long, with what they have in
 * common at their start, several windows and partitions, in batches. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "upsert.h"

enum { KEY, PRICE, TIME, CELLS };
enum { KEYS = 6000, ROWS = 90000, BATCH = 999, PARTITIONS = 3, WINDOWS = 2 };

static const int64_t size_ms[WINDOWS] = {60000, 90000};

struct name {
  char bytes[64];
  size_t len;
};

/* Names that differ early, late, by a zero byte or only in length. */
static struct name names[KEYS];
static int64_t sums[WINDOWS][KEYS][2], counts[WINDOWS][KEYS][2];


static void make_names(void) {
  for (int i = 0; i < KEYS; i++) {
    struct name *n = &names[i];
    n->len = (size_t)sprintf(n->bytes, "K%05d", i / 3);
    if (i % 3 == 1)
      n->bytes[n->len++] = '\0';
    if (i % 3 == 2)
      n->len += (size_t)sprintf(n->bytes + n->len, "%0*d", 1 + i % 31, 0);
  }
}


static void setup(struct store *s) {
  store_init(s);
  s->time_cell = TIME;
  s->cells = CELLS;
  s->max_future_ms = INT64_MAX / 4;
  s->window_count = WINDOWS;
  for (int w = 0; w < WINDOWS; w++) {
    struct window *win = &s->windows[w];
    win->size_ms = win->hop_ms = size_ms[w];
    win->lateness_ms = INT64_MAX / 4;
    win->key_cell = KEY;
    for (int i = 0; i < FLOOR_COUNT; i++)
      win->floors[i] = STORE_NO_TIME;
    win->parts[0] = (struct part){.op = PART_SUM, .cell = PRICE};
    win->part_count = 1;
    win->slots = parts_layout(win->parts, 1);
  }
  for (int p = 0; p < PARTITIONS; p++)
    CHECK(store_open(s, p, 0, STORE_NO_TIME, 0) == STORE_OK, "no memory");
}


/* One batch of random rows, some of them bad or dropped. */
static void put(struct store *s, int64_t *offsets) {
  struct batch b;
  struct tally t;
  int key[BATCH], good = 0;
  batch_init(&b);
  for (int i = 0; i < BATCH; i++) {
    int p = rand() % PARTITIONS;
    const struct name *n = &names[key[i] = rand() % KEYS];
    CHECK(batch_add(&b, p, offsets[p]++, 0, NULL, 0, n->bytes, n->len) ==
              BATCH_OK,
          "no memory");
  }
  CHECK(batch_widen(&b, CELLS) == BATCH_OK, "no memory");
  for (size_t i = 0; i < BATCH; i++) {
    union cell *cells = batch_row(&b, i);
    int price = rand() % 1000, ms = rand() % 120000;
    cells[KEY].text = b.records[i].value;
    cells[PRICE].number = price;
    cells[TIME].integer = ms;
    if (rand() % 50 == 0) {
      b.records[i].state = ROW_DROPPED;
      continue;
    }
    good++;
    for (int w = 0; w < WINDOWS; w++) {
      sums[w][key[i]][ms / size_ms[w]] += price;
      counts[w][key[i]][ms / size_ms[w]]++;
    }
  }
  CHECK(store_add(s, &b, 0, &t) == STORE_OK && t.counted == good,
        "not counted");
  batch_free(&b);
}


static int before(const struct name *a, const struct name *b) {
  size_t len = a->len < b->len ? a->len : b->len;
  int order = memcmp(a->bytes, b->bytes, len);
  return order < 0 || (order == 0 && a->len < b->len);
}


static int by_name(const void *a, const void *b) {
  const struct name *x = &names[*(const int *)a], *y = &names[*(const int *)b];
  return before(y, x) - before(x, y);
}


/* The sealed rows of a window are those of the arrays, in order. */
static void compare(const struct store *s, int w) {
  static int order[KEYS];
  struct merged m;
  size_t at = 0, wrong = 0;
  for (int i = 0; i < KEYS; i++)
    order[i] = i;
  qsort(order, KEYS, sizeof *order, by_name);
  CHECK(merged_init(&m, s, (size_t)w) == 0, "no memory");
  for (int i = 0; i < KEYS; i++) {
    const struct name *n = &names[order[i]];
    for (int start = 0; start < 2; start++) {
      int64_t count = counts[w][order[i]][start];
      if (count == 0)
        continue;
      if (at == m.count) {
        wrong++;
        continue;
      }
      const struct delta *d = merged_row(&m, at++);
      wrong += d->key_len != n->len || d->count != count ||
               memcmp(delta_key(&m.table, d), n->bytes, n->len) != 0 ||
               d->start_ms != start * size_ms[w] ||
               d->slots[0] != sums[w][order[i]][start];
    }
  }
  CHECK(wrong == 0 && at == m.count, "window %d: %zu of %zu rows are wrong", w,
        wrong, m.count);
  merged_free(&m);
}


int main(void) {
  struct store s;
  int64_t offsets[PARTITIONS] = {0};
  size_t rows, bytes;
  srand(20240809);
  make_names();
  setup(&s);
  for (int i = 0; i < ROWS / BATCH; i++)
    put(&s, offsets);
  store_size(&s, &rows, &bytes);
  CHECK(delta_far(&s.partitions[0]->buffers[0].tables[0]),
        "the tables are too small for this test: %zu bytes", bytes);
  CHECK(store_seal(&s, 0) == PARTITIONS, "not sealed");
  CHECK(store_unseal(&s) == STORE_OK, "no memory");
  CHECK(store_seal(&s, 0) == PARTITIONS, "not sealed again");
  for (int w = 0; w < WINDOWS; w++)
    compare(&s, w);
  store_settle(&s);
  store_free(&s);
  return check_done();
}
