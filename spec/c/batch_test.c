/* batch_test.c - forgetting one partition leaves the others as they were.
 *
 * A batch of random partitions, cells and faults is compared with a list that
 * was made without the forgotten rows. */
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "check.h"

enum { ROWS = 200, PARTITIONS = 4, WIDTH = 3 };


static void fill(struct batch *b, unsigned seed) {
  srand(seed);
  int rows = rand() % ROWS;
  batch_reset(b);
  for (int i = 0; i < rows; i++) {
    char text[16];
    int n = snprintf(text, sizeof text, "v%d", i);
    CHECK(batch_add(b, rand() % PARTITIONS, i, i, NULL, 0, text, (size_t)n) ==
              BATCH_OK,
          "memory");
  }
  CHECK(batch_widen(b, WIDTH) == BATCH_OK, "memory");
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < WIDTH; c++)
      batch_row(b, (size_t)i)[c].integer = i * 10 + c;
  for (int i = 0; i < rows; i++)
    if (rand() % 3 == 0)
      CHECK(batch_fault(b, (size_t)i, "json", "$", "row %d", i) == BATCH_OK,
            "memory");
  for (int i = 0; i < PARTITIONS; i++)
    CHECK(batch_end(b, i, 1000 + i) == BATCH_OK, "memory");
}


/* Every row is what its offset says, in rising order; how many. */
static size_t sound(const struct batch *b) {
  for (size_t i = 0; i < b->count; i++) {
    const struct record *r = &b->records[i];
    char text[40];
    int n = snprintf(text, sizeof text, "v%d", (int)r->offset);
    CHECK(i == 0 || r->offset > b->records[i - 1].offset, "row %zu", i);
    CHECK(r->value.len == (size_t)n &&
              memcmp(batch_bytes(b, r->value), text, (size_t)n) == 0,
          "row %zu", i);
    for (int c = 0; c < WIDTH; c++)
      CHECK(batch_row(b, i)[c].integer == r->offset * 10 + c, "row %zu", i);
    const struct fault *f = batch_fault_of(b, i);
    CHECK((f != NULL) == (r->state == ROW_BAD), "row %zu", i);
    snprintf(text, sizeof text, "row %d", (int)r->offset);
    CHECK(f == NULL || strcmp(f->text, text) == 0, "row %zu", i);
  }
  return b->count;
}


int main(void) {
  struct batch b, other;
  batch_init(&b);
  batch_init(&other);
  for (unsigned seed = 1; seed <= 300; seed++) {
    fill(&b, seed);
    size_t left = sound(&b), faults = b.fault_count;
    for (int32_t p = 0; p < PARTITIONS; p++) {
      for (size_t i = 0; i < b.count; i++) {
        left -= b.records[i].partition == p;
        faults -= b.records[i].partition == p && b.records[i].state == ROW_BAD;
      }
      batch_forget(&b, p);
      CHECK(sound(&b) == left, "partition %d", p);
      CHECK(b.fault_count == faults, "partition %d", p);
      CHECK(b.end_count == (size_t)(PARTITIONS - 1 - p), "partition %d", p);
      batch_forget(&b, p); /* once more changes nothing */
      CHECK(sound(&b) == left, "partition %d", p);
      batch_swap(&b, &other);
      CHECK(b.count == 0 && sound(&other) == left, "swap");
      batch_swap(&b, &other);
    }
    CHECK(left == 0 && faults == 0, "seed %u", seed);
  }
  batch_free(&b);
  batch_free(&other);
  return check_done();
}
