/* decode_plan_test.c - field names: which may be, and how messages spell them.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "decode.h"


static void add(struct batch *b, const char *text, size_t n) {
  CHECK(batch_add(b, 0, (int64_t)b->count, 0, NULL, 0, text, n) == BATCH_OK,
        "no memory");
}


static void one(const struct decoder *d, struct batch *b, const char *text) {
  batch_reset(b);
  add(b, text, strlen(text));
  CHECK(decode_batch(d, b) == BATCH_OK, "no memory");
}


static const char *first_fault(const struct batch *b) {
  static char out[256];
  if (b->fault_count == 0)
    return "good";
  snprintf(out, sizeof out, "%s %s: %s", b->faults[0].code, b->faults[0].path,
           b->faults[0].text);
  return out;
}


static void test_names(void) {
  struct decoder d = {.count = 0};
  char name[64];
  memset(name, 'x', sizeof name);
  name[DECODE_NAME_MAX + 1] = '\0';
  CHECK(decoder_add(&d, name, CELL_STRING) == NULL, "too long");
  name[DECODE_NAME_MAX] = '\0';
  CHECK(decoder_add(&d, name, CELL_STRING) != NULL, "longest");
  CHECK(strlen(d.fields[0].path) == 63, "%s", d.fields[0].path);
  CHECK(decoder_add(&d, name, CELL_STRING) == NULL, "twice");
  CHECK(decoder_add(&d, "", CELL_STRING) == NULL, "empty");
  CHECK(decoder_add(&d, ".a", CELL_STRING) == NULL, "empty first part");
  CHECK(decoder_add(&d, "a.", CELL_STRING) == NULL, "empty last part");
  CHECK(decoder_add(&d, "a..b", CELL_STRING) == NULL, "empty part");
  struct decoder other = {.count = 0};
  CHECK(decoder_add(&other, "data.price", CELL_STRING) != NULL, "nested");
  CHECK(decoder_add(&other, "data", CELL_STRING) == NULL, "around it");
  CHECK(decoder_add(&other, "data.price.x", CELL_STRING) == NULL, "inside");
  CHECK(decoder_add(&other, "data.prices", CELL_STRING) != NULL, "beside");
  CHECK(decoder_add(&other, "dat", CELL_STRING) != NULL, "shorter");
  CHECK(decoder_add(&d, "1.2.3.4.5.6.7.8.9", CELL_STRING) == NULL, "parts");
  for (int i = 1; i < DECODE_MAX_FIELDS; i++) {
    snprintf(name, sizeof name, "%d.b.c.d.e.f.g.h", i);
    CHECK(decoder_add(&d, name, CELL_INTEGER) != NULL, "%s", name);
  }
  CHECK(decoder_add(&d, "one more", CELL_STRING) == NULL, "too many");
}


/* The largest plan there is, with its values in the other order. */
static void test_many_fields(void) {
  struct decoder d = {.count = 0};
  struct batch b;
  char name[64], *text = malloc(65536), *p = text;
  batch_init(&b);
  for (int i = 0; i < DECODE_MAX_FIELDS; i++) {
    snprintf(name, sizeof name, "%d.b.c.d.e.f.g.h", i);
    decoder_add(&d, name, CELL_INTEGER);
  }
  *p++ = '{';
  for (int i = DECODE_MAX_FIELDS - 1; i >= 0; i--)
    p += sprintf(p,
                 "\"%d\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":{\"g\":{\"h\":%d}}"
                 "}}}}},",
                 i, i * 7);
  strcpy(p, "\"x\":1}");
  one(&d, &b, text);
  CHECK(b.fault_count == 0, "%s", first_fault(&b));
  int wrong = 0;
  for (int i = 0; i < DECODE_MAX_FIELDS && b.fault_count == 0; i++)
    wrong += batch_row(&b, 0)[i].integer != i * 7;
  CHECK(wrong == 0, "%d cells", wrong);
  free(text);
  batch_free(&b);
}


/* Keys that a message may spell in several ways. */
static void test_odd_names(void) {
  static const char *const names[] = {"a\"b", "a\\b", "\xC3\xA9", "a b", "/"};
  static const char *const keys[] = {"a\\\"b", "a\\\\b", "\xC3\xA9", "a b",
                                     "/"};
  static const char *const spelt[] = {"\\u0061\\\"b", "a\\u005cb", "\\u00e9",
                                      "a\\u0020b", "\\/"};
  struct batch b;
  batch_init(&b);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct decoder d = {.count = 0};
    char text[128];
    decoder_add(&d, names[i], CELL_INTEGER);
    snprintf(text, sizeof text, "{\"%s\":4}", keys[i]);
    one(&d, &b, text);
    CHECK(b.fault_count == 0, "%s: %s", text, first_fault(&b));
    snprintf(text, sizeof text, "{\"%s\":4}", spelt[i]);
    one(&d, &b, text);
    CHECK(b.fault_count == 0, "%s: %s", text, first_fault(&b));
  }
  /* A name that is not UTF-8 must not let such a key pass. */
  struct decoder d = {.count = 0};
  decoder_add(&d, "\xFF", CELL_INTEGER);
  one(&d, &b, "{\"\xFF\":4}");
  CHECK(strcmp(first_fault(&b), "utf8 $: byte 3: not valid UTF-8 (0xFF)") == 0,
        "%s", first_fault(&b));
  batch_free(&b);
}


int main(void) {
  test_names();
  test_many_fields();
  test_odd_names();
  return check_done();
}
