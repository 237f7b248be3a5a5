/* delta_test.c - deltas against plain loops over the same rows.
 *
 * Each aggregate of random rows, split at random into tables that are merged in
 * any order, must be what one pass over the rows gives. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "delta.h"

enum { SUM, PRODUCT, BARE, MIN, MAX, FIRST, LAST, INTEGER, PARTS };
enum { ROWS = 3000, KEYS = 5, WINDOWS = 3, TABLES = 4 };

static struct part parts[PARTS] = {
    [SUM] = {.op = PART_SUM, .cell = 0},
    [PRODUCT] = {.op = PART_PRODUCT, .cell = 0, .cell_b = 1},
    [BARE] = {.op = PART_PRODUCT, .cell = 0, .cell_b = -1},
    [MIN] = {.op = PART_MIN, .cell = 0},
    [MAX] = {.op = PART_MAX, .cell = 0},
    [FIRST] = {.op = PART_FIRST, .cell = 0},
    [LAST] = {.op = PART_LAST, .cell = 0},
    [INTEGER] = {.op = PART_SUM, .cell = 2, .integer = 1},
};

struct row {
  int key;
  int64_t start_ms;
  union cell cells[3];
  struct place at;
  int late;
};

static const char *const keys[KEYS] = {"A", "a", "AB", "A\0B", ""};
static const size_t key_lens[KEYS] = {1, 1, 2, 3, 0};


static struct row random_row(int64_t offset) {
  struct row r = {.key = rand() % KEYS,
                  .start_ms = 60000 * (rand() % WINDOWS - 1),
                  .late = rand() % 3 == 0};
  /* The greatest decimal(20,8), and both signs. */
  decimal big = (decimal)99999999999 * 1000000000 + 999999999;
  r.cells[0].number = rand() % 10 == 0 ? big : rand() % 1000 - 500;
  if (rand() % 2)
    r.cells[0].number = -r.cells[0].number;
  r.cells[1].number = rand() % 200 - 100;
  r.cells[2].integer = rand() % 100 - 50;
  /* Few times and partitions: places are often told apart by the offset. */
  r.at = (struct place){rand() % 4, offset, rand() % 3};
  return r;
}


static int before(const struct place *a, const struct place *b) {
  if (a->time_ms != b->time_ms)
    return a->time_ms < b->time_ms;
  if (a->partition != b->partition)
    return a->partition < b->partition;
  return a->offset < b->offset;
}


static int same_place(struct place a, struct place b) {
  return !before(&a, &b) && !before(&b, &a);
}


static decimal low_bits(const struct delta *d, const struct part *p) {
  struct wide w;
  memcpy(&w, &d->slots[p->slot], sizeof w);
  return (decimal)(((unsigned __int128)w.limb[1] << 64) | w.limb[0]);
}


static void add(struct delta_table *t, const struct row *r) {
  size_t len = key_lens[r->key];
  uint64_t hash = delta_hash(keys[r->key], len, r->start_ms);
  struct delta *d = delta_find(t, hash, keys[r->key], len, r->start_ms);
  CHECK(d != NULL, "no memory");
  if (d != NULL)
    delta_add(d, parts, PARTS, r->cells, &r->at, r->late);
}


/* One pass over the rows of one key and window. */
struct plain {
  int64_t count, late;
  decimal sum, product, min, max, first, last, integer;
  struct place first_at, last_at;
};


static struct plain plain_of(const struct row *rows, int key, int64_t start) {
  struct plain p = {0};
  for (int i = 0; i < ROWS; i++) {
    const struct row *r = &rows[i];
    if (r->key != key || r->start_ms != start)
      continue;
    decimal v = r->cells[0].number;
    p.sum += v;
    p.product += v * r->cells[1].number;
    p.integer += r->cells[2].integer;
    if (p.count == 0 || v < p.min)
      p.min = v;
    if (p.count == 0 || v > p.max)
      p.max = v;
    if (p.count == 0 || before(&r->at, &p.first_at)) {
      p.first = v;
      p.first_at = r->at;
    }
    if (p.count == 0 || before(&p.last_at, &r->at)) {
      p.last = v;
      p.last_at = r->at;
    }
    p.count++;
    p.late += r->late;
  }
  return p;
}


static void compare(struct delta_table *t, const struct row *rows) {
  for (int key = 0; key < KEYS; key++) {
    for (int w = 0; w < WINDOWS; w++) {
      int64_t start = 60000 * (w - 1);
      struct plain p = plain_of(rows, key, start);
      size_t len = key_lens[key], had = t->count;
      struct delta *d = delta_find(t, delta_hash(keys[key], len, start),
                                   keys[key], len, start);
      CHECK(d != NULL && t->count == had, "key %d is missing", key);
      if (d == NULL)
        continue;
      CHECK(d->count == p.count && d->late == p.late, "counts");
      CHECK(d->slots[parts[SUM].slot] == p.sum, "sum");
      CHECK(low_bits(d, &parts[PRODUCT]) == p.product, "sum of products");
      CHECK(low_bits(d, &parts[BARE]) == p.sum, "wide sum");
      CHECK(d->slots[parts[MIN].slot] == p.min, "min");
      CHECK(d->slots[parts[MAX].slot] == p.max, "max");
      CHECK(d->slots[parts[FIRST].slot] == p.first, "first");
      CHECK(d->slots[parts[LAST].slot] == p.last, "last");
      CHECK(d->slots[parts[INTEGER].slot] == p.integer, "integers");
      CHECK(same_place(delta_place(d, &parts[FIRST]), p.first_at), "place");
      CHECK(same_place(delta_place(d, &parts[LAST]), p.last_at), "place");
    }
  }
  CHECK(t->count == KEYS * WINDOWS, "%zu rows", t->count);
}


static void test_any_split_gives_the_same(void) {
  static struct row rows[ROWS];
  unsigned slots = parts_layout(parts, PARTS);
  for (int round = 0; round < 20; round++) {
    struct delta_table t[TABLES];
    for (int i = 0; i < TABLES; i++)
      delta_init(&t[i], slots);
    for (int i = 0; i < ROWS; i++) {
      rows[i] = random_row(i);
      add(&t[rand() % TABLES], &rows[i]);
    }
    int into = rand() % TABLES;
    for (int i = 0; i < TABLES; i++)
      if (i != into)
        CHECK(delta_absorb(&t[into], &t[i], parts, PARTS) == DELTA_OK,
              "no memory");
    compare(&t[into], rows);
    for (int i = 0; i < TABLES; i++)
      delta_free(&t[i]);
  }
}


/* Many keys: the index and the rows grow, and every key is found again. */
static void test_growth(void) {
  enum { MANY = 50000 };
  struct part one = {.op = PART_SUM, .cell = 0};
  struct delta_table t;
  struct place at = {0};
  delta_init(&t, parts_layout(&one, 1));
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < MANY; i++) {
      char key[32];
      union cell cell = {.number = i};
      size_t len = (size_t)snprintf(key, sizeof key, "key-%d", i);
      struct delta *d = delta_find(&t, delta_hash(key, len, i), key, len, i);
      CHECK(d != NULL, "no memory");
      if (d == NULL)
        return;
      delta_add(d, &one, 1, &cell, &at, 0);
    }
  }
  CHECK(t.count == MANY, "%zu keys", t.count);
  int wrong = 0;
  for (size_t i = 0; i < t.count; i++) {
    const struct delta *d = delta_at(&t, i);
    wrong += d->count != 2 || d->slots[0] != 2 * d->start_ms;
  }
  CHECK(wrong == 0, "%d keys are wrong", wrong);
  delta_clear(&t);
  CHECK(t.count == 0, "cleared");
  struct delta *d = delta_find(&t, delta_hash("x", 1, 0), "x", 1, 0);
  CHECK(d != NULL && d->count == 0 && d->slots[0] == 0, "empty again");
  delta_free(&t);
}


/* The same hash is not the same key. */
static void test_equal_hashes(void) {
  struct part one = {.op = PART_SUM, .cell = 0};
  struct delta_table t;
  delta_init(&t, parts_layout(&one, 1));
  CHECK(delta_find(&t, 7, "a", 1, 0) != NULL, "no memory");
  CHECK(delta_find(&t, 7, "b", 1, 0) != NULL, "no memory");
  CHECK(delta_find(&t, 7, "a", 1, 60000) != NULL, "no memory");
  CHECK(delta_find(&t, 7, "ab", 2, 0) != NULL, "no memory");
  CHECK(t.count == 4, "%zu keys", t.count);
  CHECK(delta_find(&t, 7, "b", 1, 0) == delta_at(&t, 1), "found again");
  delta_free(&t);
}


/* Every partition has such tables: what one commit needed is not kept for good.
 */
static void test_clear_gives_back(void) {
  struct delta_table t;
  delta_init(&t, 1);
  size_t len = 64 << 10;
  char *key = malloc(len);
  CHECK(key != NULL, "no memory");
  memset(key, 'k', len);
  for (uint32_t i = 0; i < 200; i++) {
    memcpy(key, &i, sizeof i);
    CHECK(delta_find(&t, delta_hash(key, len, 0), key, len, 0) != NULL, "none");
  }
  CHECK(t.keys_cap >= 200 * len, "kept so far");
  delta_clear(&t);
  CHECK(t.keys_cap + t.rows_cap * t.stride <= 4 << 20, "%zu bytes of keys kept",
        t.keys_cap);
  CHECK(delta_find(&t, 1, "a", 1, 0) != NULL && t.count == 1, "of use still");
  delta_free(&t);
  free(key);
}


int main(void) {
  srand(20240809);
  test_any_split_gives_the_same();
  test_growth();
  test_equal_hashes();
  test_clear_gives_back();
  return check_done();
}
