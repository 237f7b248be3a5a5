/* store_flight_test.c - a partition that is lost while its buffer is under way.
 *
 * Its sealed rows belong to a transaction whose position is moved already: they
 * must stay in it until it is settled, whatever happens to the partition. */
#include <string.h>

#include "check.h"
#include "upsert.h"

enum { MINUTE = 60000 };

static struct part parts[] = {{.op = PART_SUM, .cell = 1}};


static void begin(struct store *s) {
  store_init(s);
  s->max_future_ms = INT64_MAX / 4;
  s->window_count = 1;
  s->windows[0] = (struct window){.size_ms = MINUTE, .hop_ms = MINUTE};
  for (int i = 0; i < FLOOR_COUNT; i++)
    s->windows[0].floors[i] = STORE_NO_TIME;
  s->windows[0].key_cell = 2;
  memcpy(s->windows[0].parts, parts, sizeof parts);
  s->windows[0].part_count = 1;
  s->windows[0].slots = parts_layout(s->windows[0].parts, 1);
}


/* One good row: time, value, key "A". */
static void row(struct store *s, int32_t partition, int64_t offset,
                int64_t value) {
  struct batch b;
  struct tally t;
  batch_init(&b);
  CHECK(batch_add(&b, partition, offset, 0, NULL, 0, "A", 1) == BATCH_OK,
        "no memory");
  CHECK(batch_widen(&b, 3) == BATCH_OK, "no memory");
  batch_row(&b, 0)[0].integer = 1000;
  batch_row(&b, 0)[1].number = value;
  batch_row(&b, 0)[2].text = b.records[0].value;
  CHECK(store_add(s, &b, 0, &t) == STORE_OK, "no memory");
  batch_free(&b);
}


/* The sum of the sealed rows; -1: there are none. */
static int64_t sealed_sum(const struct store *s) {
  struct merged m;
  int64_t sum = -1;
  CHECK(merged_init(&m, s, 0) == 0, "no memory");
  if (m.count == 1)
    sum = (int64_t)merged_row(&m, 0)->slots[0];
  merged_free(&m);
  return sum;
}


static void test_drop_keeps_what_is_sealed(void) {
  struct store s;
  begin(&s);
  store_open(&s, 0, 0, STORE_NO_TIME, 0);
  store_open(&s, 1, 0, STORE_NO_TIME, 0);
  row(&s, 0, 0, 5);
  row(&s, 1, 0, 7);
  CHECK(store_seal(&s, 0) == 2, "both changed");
  row(&s, 0, 1, 100);
  store_drop(&s, 0);
  CHECK(sealed_sum(&s) == 12, "the transaction has both: %lld",
        (long long)sealed_sum(&s));
  row(&s, 0, 2, 1000);
  store_settle(&s);
  CHECK(store_seal(&s, 0) == 0, "nothing of the lost partition is left");
  store_free(&s);
}


static void test_unseal_forgets_the_lost(void) {
  struct store s;
  begin(&s);
  store_open(&s, 0, 0, STORE_NO_TIME, 0);
  store_open(&s, 1, 0, STORE_NO_TIME, 0);
  row(&s, 0, 0, 5);
  row(&s, 1, 0, 7);
  store_seal(&s, 0);
  store_drop(&s, 0);
  CHECK(store_unseal(&s) == STORE_OK, "no memory");
  CHECK(store_seal(&s, 0) == 1, "the other one");
  CHECK(sealed_sum(&s) == 7, "only the other one");
  store_free(&s);
}


/* Claimed again: the claim has waited for the transaction, so what was sealed
 * is in the position it read, or never will be. */
static void test_open_forgets_the_sealed(void) {
  struct store s;
  begin(&s);
  store_open(&s, 0, 0, STORE_NO_TIME, 0);
  row(&s, 0, 0, 5);
  store_seal(&s, 0);
  store_drop(&s, 0);
  store_open(&s, 0, 0, STORE_NO_TIME, 0);
  row(&s, 0, 0, 5);
  CHECK(store_unseal(&s) == STORE_OK, "no memory");
  CHECK(store_seal(&s, 0) == 1, "sealed");
  CHECK(sealed_sum(&s) == 5, "once");
  store_free(&s);
}


int main(void) {
  test_drop_keeps_what_is_sealed();
  test_unseal_forgets_the_lost();
  test_open_forgets_the_sealed();
  return check_done();
}
