/* upsert_test.c - sealed deltas as the rows of an INSERT: merged, in the order
 * of the key's bytes, every value exact, in pages. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "upsert.h"

enum { TIME, PRICE, QTY, KEY, CELLS };
enum { P_SUM, P_PRODUCT, P_QTY, P_SQUARES, P_MIN, P_FIRST, P_LAST, PARTS };

static const struct part parts[PARTS] = {
    [P_SUM] = {.op = PART_SUM, .cell = PRICE},
    [P_PRODUCT] = {.op = PART_PRODUCT, .cell = PRICE, .cell_b = QTY},
    [P_QTY] = {.op = PART_PRODUCT, .cell = QTY, .cell_b = -1},
    [P_SQUARES] = {.op = PART_PRODUCT, .cell = PRICE, .cell_b = PRICE},
    [P_MIN] = {.op = PART_MIN, .cell = PRICE},
    [P_FIRST] = {.op = PART_FIRST, .cell = PRICE},
    [P_LAST] = {.op = PART_LAST, .cell = PRICE},
};


static void setup(struct store *s, int64_t size_ms) {
  store_init(s);
  s->time_cell = TIME;
  s->max_future_ms = INT64_MAX / 4;
  s->window_count = 1;
  struct window *win = &s->windows[0];
  win->size_ms = win->hop_ms = size_ms;
  win->lateness_ms = INT64_MAX / 4;
  win->key_cell = KEY;
  for (int i = 0; i < FLOOR_COUNT; i++)
    win->floors[i] = STORE_NO_TIME;
  memcpy(win->parts, parts, sizeof parts);
  win->part_count = PARTS;
  win->slots = parts_layout(win->parts, PARTS);
}


/* Count one row: price and qty have two decimals. */
static void row(struct store *s, int32_t partition, int64_t offset,
                int64_t time_ms, const char *key, size_t len, int64_t price,
                int64_t qty) {
  struct batch b;
  struct tally t;
  if (store_partition(s, partition) == NULL)
    store_open(s, partition, 0, STORE_NO_TIME, 0);
  batch_init(&b);
  CHECK(batch_add(&b, partition, offset, 0, NULL, 0, key, len) == BATCH_OK,
        "no memory");
  CHECK(batch_widen(&b, CELLS) == BATCH_OK, "no memory");
  union cell *cells = batch_row(&b, 0);
  cells[TIME].integer = time_ms;
  cells[PRICE].number = price;
  cells[QTY].number = qty;
  cells[KEY].text = b.records[0].value;
  CHECK(store_add(s, &b, 0, &t) == STORE_OK && t.counted == 1, "not counted");
  batch_free(&b);
}


/* The rows of these columns from `from` on, NUL-ended; free it. */
static char *render(const struct store *s, const struct out *outs, size_t n,
                    int64_t final_ms, size_t from, size_t max_rows,
                    size_t max_bytes, size_t *next) {
  struct merged m;
  struct sqltext sql = {0};
  CHECK(merged_init(&m, s, 0) == 0, "no memory");
  *next = upsert_render(&m, &s->windows[0], outs, n, final_ms, from, max_rows,
                        max_bytes, &sql);
  CHECK(sqltext_add(&sql, "", 1) == 0, "no memory");
  merged_free(&m);
  return sql.bytes;
}


static void expect(const struct store *s, const struct out *outs, size_t n,
                   int64_t final_ms, const char *want) {
  size_t next;
  char *text = render(s, outs, n, final_ms, 0, 1000, 1 << 20, &next);
  CHECK(strcmp(text, want) == 0, "%s", text);
  free(text);
}


static void test_rows_are_merged_and_in_order(void) {
  static const struct out outs[] = {
      {.kind = OUT_KEY},
      {.kind = OUT_START},
      {.kind = OUT_END},
      {.kind = OUT_SUM, .part = P_SUM, .scale = 2},
      {.kind = OUT_COUNT}};
  struct store s;
  setup(&s, 60000);
  row(&s, 2, 0, 60000, "b", 1, 100, 1);
  row(&s, 0, 0, 60001, "B", 1, 250, 1);
  row(&s, 1, 0, 0, "b", 1, 1, 1);
  row(&s, 0, 1, 119999, "b", 1, -50, 1);
  row(&s, 1, 1, 59999, "ab", 2, 7, 1);
  row(&s, 1, 2, 0, "a", 1, 9, 1);
  store_seal(&s, 0);
  expect(&s, outs, 5, 0,
         "('B','1970-01-01 00:01:00','1970-01-01 00:02:00',2.50,1),"
         "('a','1970-01-01 00:00:00','1970-01-01 00:01:00',0.09,1),"
         "('ab','1970-01-01 00:00:00','1970-01-01 00:01:00',0.07,1),"
         "('b','1970-01-01 00:00:00','1970-01-01 00:01:00',0.01,1),"
         "('b','1970-01-01 00:01:00','1970-01-01 00:02:00',0.50,2)");
  store_free(&s);
}


static void test_only_sealed_rows(void) {
  static const struct out outs[] = {{.kind = OUT_COUNT}};
  struct store s;
  setup(&s, 60000);
  row(&s, 0, 0, 0, "a", 1, 1, 1);
  expect(&s, outs, 1, 0, "");
  store_seal(&s, 0);
  row(&s, 0, 1, 0, "a", 1, 1, 1);
  expect(&s, outs, 1, 0, "(1)");
  store_free(&s);
}


static void test_final_and_late(void) {
  static const struct out outs[] = {{.kind = OUT_FINAL}, {.kind = OUT_LATE}};
  struct store s;
  setup(&s, 1000);
  row(&s, 0, 0, 1500, "a", 1, 1, 1); /* [1000, 2000) */
  row(&s, 0, 1, 2500, "a", 1, 1, 1); /* [2000, 3000): W is 1500 */
  row(&s, 0, 2, 1999, "a", 1, 1, 1); /* late: W is 2500 */
  store_seal(&s, 0);
  expect(&s, outs, 2, 1999, "(0,1),(0,0)");
  expect(&s, outs, 2, 2000, "(1,1),(0,0)");
  expect(&s, outs, 2, 3000, "(1,1),(1,0)");
  expect(&s, outs, 2, INT64_MIN, "(0,1),(0,0)");
  store_free(&s);
}


static void test_derived_values(void) {
  static const struct out outs[] = {
      {.kind = OUT_AVG, .part = P_SUM, .scale = 2, .column_scale = 2},
      {.kind = OUT_AVG, .part = P_SUM, .scale = 2, .column_scale = 4},
      {.kind = OUT_RATIO,
       .part = P_PRODUCT,
       .part_b = P_QTY,
       .scale = 4,
       .scale_b = 2,
       .column_scale = 3},
      {.kind = OUT_STDDEV,
       .part = P_SUM,
       .part_b = P_SQUARES,
       .scale = 2,
       .scale_b = 4,
       .column_scale = 3},
      {.kind = OUT_STDDEV_SAMP,
       .part = P_SUM,
       .part_b = P_SQUARES,
       .scale = 2,
       .scale_b = 4,
       .column_scale = 3},
      {.kind = OUT_VALUE, .part = P_MIN, .scale = 2},
      {.kind = OUT_SUM, .part = P_PRODUCT, .scale = 4}};
  struct store s;
  setup(&s, 60000);
  row(&s, 0, 0, 0, "a", 1, 101, 100);
  row(&s, 1, 0, 0, "a", 1, 102, 300);
  row(&s, 0, 1, 0, "n", 1, -101, 50);
  row(&s, 0, 2, 0, "n", 1, -102, -50);
  row(&s, 0, 3, 0, "one", 3, 5, 1);
  store_seal(&s, 0);
  /* 1.015 and -1.015 are ties at two digits; the quantities of n are 0. */
  expect(&s, outs, 7, 0,
         "(1.02,1.0150,1.018,0.005,0.007,1.01,4.0700),"
         "(-1.02,-1.0150,null,0.005,0.007,-1.02,0.0050),"
         "(0.05,0.0500,0.050,0.000,null,0.05,0.0005)");
  store_free(&s);
}


/* Places compare as bytes: time, then partition, then offset. */
static void test_places(void) {
  static const struct out outs[] = {
      {.kind = OUT_VALUE, .part = P_FIRST, .scale = 2},
      {.kind = OUT_PLACE, .part = P_FIRST},
      {.kind = OUT_VALUE, .part = P_LAST, .scale = 2},
      {.kind = OUT_PLACE, .part = P_LAST}};
  struct store s;
  setup(&s, 60000);
  row(&s, 2, 7, 16, "a", 1, 1, 1);
  row(&s, 1, 9, 16, "a", 1, 2, 1);
  row(&s, 1, 10, 17, "a", 1, 3, 1);
  row(&s, 2, 8, 17, "a", 1, 4, 1);
  row(&s, 2, 9, -1, "b", 1, 5, 1);
  store_seal(&s, 0);
  expect(&s, outs, 4, 0,
         "(0.02,x'8000000000000010800000018000000000000009',"
         "0.04,x'8000000000000011800000028000000000000008'),"
         "(0.05,x'7fffffffffffffff800000028000000000000009',"
         "0.05,x'7fffffffffffffff800000028000000000000009')");
  store_free(&s);
}


static void test_pages(void) {
  static const struct out outs[] = {{.kind = OUT_KEY}};
  struct store s;
  setup(&s, 60000);
  for (int i = 0; i < 10; i++)
    row(&s, 0, i, 0, (char[]){(char)('0' + i)}, 1, 1, 1);
  store_seal(&s, 0);
  size_t next;
  char *text = render(&s, outs, 1, 0, 0, 4, 1 << 20, &next);
  CHECK(next == 4 && strcmp(text, "('0'),('1'),('2'),('3')") == 0, "%s", text);
  free(text);
  text = render(&s, outs, 1, 0, next, 4, 11, &next);
  CHECK(next == 6 && strcmp(text, "('4'),('5')") == 0, "%s", text);
  free(text);
  text = render(&s, outs, 1, 0, next, 1000, 1, &next);
  CHECK(next == 7 && strcmp(text, "('6')") == 0, "one at least: %s", text);
  free(text);
  text = render(&s, outs, 1, 0, next, 1000, 1 << 20, &next);
  CHECK(next == 10 && strcmp(text, "('7'),('8'),('9')") == 0, "%s", text);
  free(text);
  text = render(&s, outs, 1, 0, next, 1000, 1 << 20, &next);
  CHECK(next == 10 && *text == '\0', "nothing is left: %s", text);
  free(text);
  store_free(&s);
}


static void test_quotes(void) {
  static const struct {
    const char *bytes;
    size_t len;
    const char *want;
  } cases[] = {
      {"", 0, "''"},
      {"BTC", 3, "'BTC'"},
      {"a'b", 3, "'a\\'b'"},
      {"a\\", 2, "'a\\\\'"},
      {"a\0b", 3, "'a\\0b'"},
      {"\xe2\x82\xbf", 3, "'\xe2\x82\xbf'"},
      {"'); drop table t; --", 20, "'\\'); drop table t; --'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sqltext t = {0};
    CHECK(sqltext_quote(&t, cases[i].bytes, cases[i].len) == 0, "no memory");
    CHECK(t.len == strlen(cases[i].want) &&
              memcmp(t.bytes, cases[i].want, t.len) == 0,
          "%.*s", (int)t.len, t.bytes);
    free(t.bytes);
  }
}


static void test_datetimes(void) {
  static const struct {
    int64_t ms;
    int fraction;
    const char *want;
  } cases[] = {
      {0, 0, "1970-01-01 00:00:00"},
      {1723161599999, 3, "2024-08-08 23:59:59.999"},
      {1723161600000, 3, "2024-08-09 00:00:00.000"},
      {1723161600100, 1, "2024-08-09 00:00:00.1"},
      {951782400000, 0, "2000-02-29 00:00:00"},
      {4107542400000, 0, "2100-03-01 00:00:00"},
      {-1000, 0, "1969-12-31 23:59:59"},
      {253402300799999, 3, "9999-12-31 23:59:59.999"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sqltext t = {0};
    CHECK(sqltext_datetime(&t, cases[i].ms, cases[i].fraction) == 0, "memory");
    CHECK(t.len == strlen(cases[i].want) &&
              memcmp(t.bytes, cases[i].want, t.len) == 0,
          "%.*s", (int)t.len, t.bytes);
    free(t.bytes);
  }
}


/* The packed value at `at` is this text, or NULL; returns what is behind it. */
static const char *unpacked(const char *at, const char *want, size_t len) {
  uint32_t have;
  memcpy(&have, at, sizeof have);
  at += sizeof have;
  if (want == NULL) {
    CHECK(have == UINT32_MAX, "%u bytes for NULL", have);
    return at;
  }
  CHECK(have == len && memcmp(at, want, len) == 0, "%.*s", (int)have, at);
  return at + have;
}


static void test_packed_rows(void) {
  static const struct out outs[] = {
      {.kind = OUT_KEY},
      {.kind = OUT_START, .fraction = 3},
      {.kind = OUT_SUM, .part = P_SUM, .scale = 2},
      {.kind = OUT_PLACE, .part = P_FIRST},
      {.kind = OUT_RATIO,
       .part = P_PRODUCT,
       .part_b = P_QTY,
       .scale = 4,
       .scale_b = 2,
       .column_scale = 2}};
  struct store s;
  struct merged m;
  struct sqltext rows = {0};
  setup(&s, 60000);
  row(&s, 0, 0, 1, "a'\\", 3, -150, 200);
  row(&s, 0, 1, 2, "b", 1, 700, 0);
  store_seal(&s, 0);
  CHECK(merged_init(&m, &s, 0) == 0, "no memory");
  CHECK(upsert_pack(&m, &s.windows[0], outs, 5, 0, 0, 1, 1 << 20, &rows) == 1,
        "one row");
  CHECK(upsert_pack(&m, &s.windows[0], outs, 5, 0, 1, 9, 1, &rows) == 2,
        "the other");
  const char *at = rows.bytes;
  at = unpacked(at, "a'\\", 3);
  at = unpacked(at, "1970-01-01 00:00:00.000", 23);
  at = unpacked(at, "-1.50", 5);
  at = unpacked(at, "\x80\0\0\0\0\0\0\x01\x80\0\0\0\x80\0\0\0\0\0\0\0", 20);
  at = unpacked(at, "-1.50", 5);
  at = unpacked(at, "b", 1);
  at = unpacked(at, "1970-01-01 00:00:00.000", 23);
  at = unpacked(at, "7.00", 4);
  at = unpacked(at, "\x80\0\0\0\0\0\0\x02\x80\0\0\0\x80\0\0\0\0\0\0\x01", 20);
  at = unpacked(at, NULL, 0);
  CHECK(at == rows.bytes + rows.len, "more behind the last");
  free(rows.bytes);
  merged_free(&m);
  store_free(&s);
}


int main(void) {
  test_rows_are_merged_and_in_order();
  test_only_sealed_rows();
  test_final_and_late();
  test_derived_values();
  test_places();
  test_pages();
  test_quotes();
  test_datetimes();
  test_packed_rows();
  return check_done();
}
