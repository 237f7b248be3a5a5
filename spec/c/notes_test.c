/* notes_test.c - what a dead letter keeps of a record without any byte.
 *
 * A batch of tombstones without keys has no arena: the bytes to be noted were
 * copied from NULL, which UBSan and fuzz/store.c tell of. */
#include <string.h>

#include "check.h"
#include "notes.h"


static void test_nothing_to_keep(void) {
  struct batch b;
  struct notes notes = {0};
  batch_init(&b);
  CHECK(batch_add(&b, 3, 7, 11, NULL, 0, NULL, 0) == BATCH_OK, "no memory");
  CHECK(b.arena == NULL, "no byte was added");
  CHECK(batch_bytes(&b, b.records[0].value) != NULL, "bytes to copy from");
  struct note *n =
      notes_add(&notes, NOTE_DEAD, &b, &b.records[0], NULL, 0, NULL);
  CHECK(n != NULL && n->key_len == 0 && n->value_len == 0, "empty");
  CHECK(n != NULL && n->null_key && n->null_value, "null, not empty");
  CHECK(n != NULL && n->hash[0] == 0xE3 && n->hash[31] == 0x55,
        "SHA-256 of nothing");
  notes_free(&notes);
  batch_free(&b);
}


static void test_by_number(void) {
  struct batch b;
  struct notes notes = {0}, more = {0};
  batch_init(&b);
  for (int i = 0; i < 5; i++)
    CHECK(batch_add(&b, 0, i, 0, NULL, 0, "v", 1) == BATCH_OK, "no memory");
  for (int i = 0; i < 5; i++)
    CHECK(notes_add(i < 2 ? &more : &notes, NOTE_LATE, &b, &b.records[i], NULL,
                    0, NULL) != NULL,
          "no memory");
  static const size_t numbers[] = {0, 1, 2, 1, 0, 2};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const struct note *n = notes_at(&notes, numbers[i]);
    CHECK(n != NULL && n->offset == 2 + (int64_t)numbers[i], "another note");
  }
  CHECK(notes_at(&notes, 3) == NULL && notes_at(&more, 2) == NULL, "no note");
  notes_prepend(&notes, &more);
  CHECK(notes_at(&notes, 2)->offset == 2 && notes_at(&notes, 4)->offset == 4,
        "counted from the new first");
  CHECK(notes_at(&more, 0) == NULL, "empty");
  const struct note *n =
      notes_add(&notes, NOTE_LATE, &b, &b.records[4], "k", 1, notes.last);
  CHECK(n != NULL &&
            memcmp(n->hash, notes_at(&notes, 4)->hash, sizeof n->hash) == 0,
        "the hash of the same record");
  notes_free(&notes);
  batch_free(&b);
}


int main(void) {
  test_nothing_to_keep();
  test_by_number();
  return check_done();
}
