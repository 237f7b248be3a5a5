/* decode_test.c - payloads and the cells or the faults they give. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "decode.h"

/* What a good row of test_table must hold; price and qty at scale 8. */
struct want {
  const char *symbol;
  int64_t price;
  int64_t time_ms;
};


/* symbol, price decimal(20,8) > 0, timestamp: what the averages read. */
static struct decoder prices(void) {
  struct decoder d = {.count = 0};
  decoder_add(&d, "symbol", CELL_STRING)->max_chars = 10;
  strcpy(d.fields[0].max_column, "symbol");
  struct field *price = decoder_add(&d, "price", CELL_DECIMAL);
  price->precision = 20;
  price->scale = 8;
  price->positive = 1;
  price->most.set = 1;
  price->most.value = 100000000000000000; /* 10^9 */
  strcpy(price->most.column, "average_price");
  decoder_add(&d, "timestamp", CELL_TIME);
  return d;
}


static void add(struct batch *b, const char *text, size_t n) {
  CHECK(batch_add(b, 0, (int64_t)b->count, 0, NULL, 0, text, n) == BATCH_OK,
        "no memory");
}


#define BTC "\"symbol\":\"BTCUSDT\""
#define PRICE "\"price\":\"61837.63000000\""
#define TIME "\"timestamp\":1723161255.342"
#define GOOD                                                                   \
  { "BTCUSDT", 6183763000000, 1723161255342 }

static const struct {
  const char *text;
  struct want want;
} good[] = {
    {"{" BTC "," PRICE "," TIME "}", GOOD},
    {"{" TIME "," PRICE "," BTC "}", GOOD},
    {"{" BTC ",\"price\":61837.63," TIME "}", GOOD},
    {"{" BTC ",\"price\":6.183763e4," TIME "}", GOOD},
    {"{" BTC ",\"price\":\"6183763E-2\"," TIME "}", GOOD},
    {"{" BTC ",\"price\":1e-06," TIME "}", {"BTCUSDT", 100, 1723161255342}},
    {"{" BTC ",\"price\":\"1.2e-05\"," TIME "}",
     {"BTCUSDT", 1200, 1723161255342}},
    {"{" BTC ",\"price\":1000000000," TIME "}",
     {"BTCUSDT", 100000000000000000, 1723161255342}},
    {"\xEF\xBB\xBF \n{ \"symbol\" : \"BTCUSDT\" ,\t" PRICE " , " TIME " }\r\n",
     GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":1723161255342}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":1723161255342999}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":1723161255342999999}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"1723161255342\"}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"1723161255.3429\"}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":1.723161255342e9}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"2024-08-08T23:54:15.342Z\"}", GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"2024-08-09 01:54:15.342+02:00\"}",
     GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"2024-08-08 23:54:15\"}",
     {"BTCUSDT", 6183763000000, 1723161255000}},
    /* others' fields, of any kind, anywhere */
    {"{\"e\":null,\"x\":{\"symbol\":\"no\",\"price\":[{},{\"a\":[1]}]}," BTC
     ",\"M\":true," PRICE ",\"p\":\"-1\"," TIME ",\"z\":[]}",
     GOOD},
    {"{\"symbo\":1,\"symbols\":2,\"Symbol\":3," BTC "," PRICE "," TIME "}",
     GOOD},
    /* of a repeated key the last counts, whatever the first was */
    {"{\"symbol\":\"ETHUSDT\"," BTC "," PRICE "," TIME "}", GOOD},
    {"{\"price\":null," BTC "," PRICE "," TIME "}", GOOD},
    {"{\"price\":{\"price\":1}," BTC "," PRICE "," TIME "}", GOOD},
    /* escapes, in keys and in values */
    {"{\"s\\u0079mbol\":\"BTCUSDT\"," PRICE "," TIME "}", GOOD},
    {"{\"symbol\":\"BTC\\u0055SDT\"," PRICE "," TIME "}", GOOD},
    {"{" BTC ",\"price\":\"61837\\u002e63\"," TIME "}", GOOD},
    {"{" BTC ",\"price\":\"61837\\u002e6300000000000000000000000\"," TIME "}",
     GOOD},
    {"{" BTC "," PRICE ",\"timestamp\":\"2024\\u002d08-08T23:54:15.342Z\"}",
     GOOD},
    {"{\"symbol\":\"\\uD834\\uDD1E\\/\\n\"," PRICE "," TIME "}",
     {"\xF0\x9D\x84\x9E/\n", 6183763000000, 1723161255342}},
    {"{\"x\":\"\\uD800\",\"\\uDC00\":1," BTC "," PRICE "," TIME "}", GOOD},
    /* characters, not bytes */
    {"{\"symbol\":\"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82"
     "\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\"," PRICE
     "," TIME "}",
     {"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82"
      "\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC",
      6183763000000, 1723161255342}},
};

static const struct {
  const char *text, *code, *path, *fault;
} bad[] = {
    {"null", "type", "$", "expected an object, got null"},
    {"[{" BTC "," PRICE "," TIME "}]", "type", "$",
     "expected an object, got "
     "[{\"symbol\":\"BTCUSDT\",\"price\":\"61837.6300..."},
    {"\"text\"", "type", "$", "expected an object, got \"text\""},
    {"17", "type", "$", "expected an object, got 17"},
    {" ", "json", "$", "byte 2: expected a value, got the end"},
    {"<html>", "json", "$", "byte 1: expected a value, got '<'"},
    {"{" BTC "," PRICE "," TIME, "json", "$",
     "byte 72: expected ',' or '}', got the end"},
    {"{" BTC "," PRICE "," TIME "}}", "json", "$",
     "byte 73: expected the end, got '}'"},
    {"{" BTC "," PRICE ",\"timestamp\":1723161255.}", "json", "$",
     "byte 69: expected a digit, got '}'"},
    {"{" BTC "," PRICE ",}", "json", "$", "byte 46: expected a key, got '}'"},
    {"{" BTC "," PRICE "," TIME ",\"x\":\"\xFF\"}", "utf8", "$",
     "byte 78: not valid UTF-8 (0xFF)"},
    {"{" BTC ",\"x\xC0\x80\":1}", "utf8", "$",
     "byte 23: not valid UTF-8 (0xC0)"},
    {"{}", "missing", "$.symbol", "the field is missing"},
    {"{" BTC "," TIME "}", "missing", "$.price", "the field is missing"},
    {"{" BTC "," PRICE "}", "missing", "$.timestamp", "the field is missing"},
    {"{\"code\":-1121,\"msg\":\"Invalid symbol.\"}", "missing", "$.symbol",
     "the field is missing"},
    {"{\"symbol\":null," PRICE "," TIME "}", "type", "$.symbol",
     "expected a string, got null"},
    {"{\"symbol\":7," PRICE "," TIME "}", "type", "$.symbol",
     "expected a string, got 7"},
    {"{\"symbol\":\"\"," PRICE "," TIME "}", "empty", "$.symbol",
     "expected a string that is not empty, got \"\""},
    {"{\"symbol\":\"BTCUSDTBTCU\"," PRICE "," TIME "}", "column", "$.symbol",
     "column 'symbol' holds at most 10 characters, got \"BTCUSDTBTCU\""},
    {"{\"symbol\":\"BTCUSDT\\u002dBTC\"," PRICE "," TIME "}", "column",
     "$.symbol",
     "column 'symbol' holds at most 10 characters, got \"BTCUSDT\\u002dBTC\""},
    {"{\"symbol\":\"a\\uD800b\"," PRICE "," TIME "}", "utf8", "$.symbol",
     "a surrogate without its partner, got \"a\\uD800b\""},
    {"{" BTC ",\"price\":null," TIME "}", "type", "$.price",
     "expected a decimal, got null"},
    {"{" BTC ",\"price\":true," TIME "}", "type", "$.price",
     "expected a decimal, got true"},
    {"{" BTC ",\"price\":\"\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"\""},
    {"{" BTC ",\"price\":\"NaN\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"NaN\""},
    {"{" BTC ",\"price\":\"Infinity\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"Infinity\""},
    {"{" BTC ",\"price\":\"61837,63\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"61837,63\""},
    {"{" BTC ",\"price\":\" 1\"," TIME "}", "type", "$.price",
     "expected a decimal, got \" 1\""},
    {"{" BTC ",\"price\":\"+1\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"+1\""},
    {"{" BTC ",\"price\":\"1\\n\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"1\\n\""},
    {"{" BTC ",\"price\":\"0x1F\"," TIME "}", "type", "$.price",
     "expected a decimal, got \"0x1F\""},
    {"{" BTC ",\"price\":{\"a\":\n1}," TIME "}", "type", "$.price",
     "expected a decimal, got {\"a\": 1}"},
    {"{" BTC ",\"price\":[1]," TIME "}", "type", "$.price",
     "expected a decimal, got [1]"},
    {"{" BTC
     ",\"price\":\"1234567890123456789012345678901234567\xC3\xA9xyz\"," TIME
     "}",
     "type", "$.price",
     "expected a decimal, got "
     "\"1234567890123456789012345678901234567\xC3\xA9x..."
     "\""},
    {"{" BTC
     ",\"price\":\"123456789012345678901234567890123456789\xC3\xA9xyz\"," TIME
     "}",
     "type", "$.price",
     "expected a decimal, got \"123456789012345678901234567890123456789...\""},
    {"{" BTC ",\"price\":-1," TIME "}", "range", "$.price",
     "expected more than 0, got -1"},
    {"{" BTC ",\"price\":\"0.00000000\"," TIME "}", "range", "$.price",
     "expected more than 0, got \"0.00000000\""},
    {"{" BTC ",\"price\":-0," TIME "}", "range", "$.price",
     "expected more than 0, got -0"},
    {"{" BTC ",\"price\":0.000000001," TIME "}", "digits", "$.price",
     "more than 8 digits after the point, got 0.000000001"},
    {"{" BTC ",\"price\":1e12," TIME "}", "range", "$.price",
     "beyond decimal(20,8), got 1e12"},
    {"{" BTC ",\"price\":1e999999999," TIME "}", "range", "$.price",
     "beyond decimal(20,8), got 1e999999999"},
    {"{" BTC ",\"price\":1e-999999999," TIME "}", "digits", "$.price",
     "more than 8 digits after the point, got 1e-999999999"},
    {"{" BTC ",\"price\":1000000000.00000001," TIME "}", "column", "$.price",
     "column 'average_price' holds at most 1000000000.00000000, got "
     "1000000000.00000001"},
    {"{" BTC "," PRICE ",\"price\":null," TIME "}", "type", "$.price",
     "expected a decimal, got null"},
    {"{" BTC "," PRICE ",\"timestamp\":null}", "type", "$.timestamp",
     "expected a time, got null"},
    {"{" BTC "," PRICE ",\"timestamp\":\"\"}", "time", "$.timestamp",
     "not a time, got \"\""},
    {"{" BTC "," PRICE ",\"timestamp\":\"yesterday\"}", "time", "$.timestamp",
     "not a time, got \"yesterday\""},
    {"{" BTC "," PRICE ",\"timestamp\":\"2024-02-30T00:00:00Z\"}", "time",
     "$.timestamp",
     "no such date or time of day, got \"2024-02-30T00:00:00Z\""},
    {"{" BTC "," PRICE ",\"timestamp\":\"2016-12-31T23:59:60Z\"}", "time",
     "$.timestamp",
     "no such date or time of day, got \"2016-12-31T23:59:60Z\""},
    {"{" BTC "," PRICE ",\"timestamp\":-1}", "time", "$.timestamp",
     "before 1970 or after the year 9999, got -1"},
    {"{" BTC "," PRICE ",\"timestamp\":1e300}", "time", "$.timestamp",
     "before 1970 or after the year 9999, got 1e300"},
    {"{" BTC "," PRICE ",\"timestamp\":false}", "type", "$.timestamp",
     "expected a time, got false"},
    {"{" BTC "," PRICE ",\"timestamp\":[]}", "type", "$.timestamp",
     "expected a time, got []"},
    /* a broken payload is told before a wrong field */
    {"{" BTC ",\"price\":null," TIME "", "json", "$",
     "byte 60: expected ',' or '}', got the end"},
};


static void check_good(const struct batch *b, size_t row,
                       const struct want *want) {
  const union cell *cells = batch_row(b, row);
  const struct fault *f = batch_fault_of(b, row);
  CHECK(b->records[row].state == ROW_GOOD, "row %zu: %s", row,
        f != NULL ? f->text : "");
  if (b->records[row].state != ROW_GOOD)
    return;
  size_t len = strlen(want->symbol);
  CHECK(cells[0].text.len == len &&
            memcmp(batch_bytes(b, cells[0].text), want->symbol, len) == 0,
        "row %zu: symbol %.*s", row, (int)cells[0].text.len,
        batch_bytes(b, cells[0].text));
  CHECK(cells[1].number == want->price, "row %zu: price %lld", row,
        (long long)cells[1].number);
  CHECK(cells[2].integer == want->time_ms, "row %zu: time %lld", row,
        (long long)cells[2].integer);
}


/* All of them in one batch, good and bad by turns, several times over, so that
 * the arena moves while strings are decoded. */
static void test_table(void) {
  enum { GOODS = sizeof good / sizeof *good, BADS = sizeof bad / sizeof *bad };
  struct decoder d = prices();
  struct batch b;
  batch_init(&b);
  for (int round = 0; round < 20; round++) {
    for (size_t i = 0; i < GOODS + BADS; i++) {
      const char *text = i < GOODS ? good[i].text : bad[i - GOODS].text;
      add(&b, text, strlen(text));
    }
  }
  CHECK(decode_batch(&d, &b) == BATCH_OK, "no memory");
  CHECK(b.width == 3 && b.fault_count == 20 * BADS, "%zu faults",
        b.fault_count);
  for (size_t row = 0; row < b.count; row++) {
    size_t i = row % (GOODS + BADS);
    if (i < GOODS) {
      check_good(&b, row, &good[i].want);
      continue;
    }
    const struct fault *f = batch_fault_of(&b, row);
    i -= GOODS;
    CHECK(b.records[row].state == ROW_BAD && f != NULL, "%s was accepted",
          bad[i].text);
    if (f != NULL)
      CHECK(strcmp(f->code, bad[i].code) == 0 &&
                strcmp(f->path, bad[i].path) == 0 &&
                strcmp(f->text, bad[i].fault) == 0,
            "%s gave %s at %s: %s", bad[i].text, f->code, f->path, f->text);
  }
  batch_free(&b);
}


static void test_in_place(void) {
  struct decoder d = prices();
  struct batch b;
  batch_init(&b);
  add(&b, good[0].text, strlen(good[0].text));
  size_t used = b.arena_used;
  CHECK(decode_batch(&d, &b) == BATCH_OK && b.arena_used == used,
        "a plain string was copied");
  CHECK(batch_row(&b, 0)[0].text.at == b.records[0].value.at + 11, "at %u",
        batch_row(&b, 0)[0].text.at);
  batch_free(&b);
}


static void test_whole_payloads(void) {
  struct decoder d = prices();
  for (int skip = 0; skip < 2; skip++) {
    struct batch b;
    batch_init(&b);
    d.skip_tombstones = skip;
    CHECK(batch_add(&b, 0, 0, 0, "k", 1, NULL, 0) == BATCH_OK, "memory");
    add(&b, "", 0);
    add(&b, "{\0}", 3);
    CHECK(decode_batch(&d, &b) == BATCH_OK, "no memory");
    const struct fault *f = batch_fault_of(&b, 0);
    if (skip)
      CHECK(b.records[0].state == ROW_SKIPPED && f == NULL, "not skipped");
    else
      CHECK(f != NULL && strcmp(f->code, "null") == 0 &&
                strcmp(f->path, "$") == 0 &&
                strcmp(f->text, "the payload is null") == 0,
            "null");
    f = batch_fault_of(&b, 1);
    CHECK(f != NULL && strcmp(f->code, "empty") == 0, "empty");
    f = batch_fault_of(&b, 2);
    CHECK(f != NULL && strcmp(f->text, "byte 2: expected a key, got 0x00") == 0,
          "%s", f != NULL ? f->text : "accepted");
    batch_free(&b);
  }
}


/* A megabyte of nothing, and a megabyte that is a symbol. */
static void test_large(void) {
  enum { LARGE = 1 << 20 };
  struct decoder d = prices();
  struct batch b;
  char *text = malloc(LARGE + 256);
  batch_init(&b);
  memset(text, 'x', LARGE);
  add(&b, text, LARGE);
  char *p = stpcpy(text, "{\"symbol\":\"");
  memset(p, 'y', LARGE);
  strcpy(p + LARGE, "\"," PRICE "," TIME "}");
  add(&b, text, strlen(text));
  memset(p, '\\', LARGE);
  add(&b, text, strlen(text));
  d.fields[0].max_chars = 0;
  CHECK(decode_batch(&d, &b) == BATCH_OK, "no memory");
  CHECK(b.records[0].state == ROW_BAD, "junk");
  CHECK(b.records[1].state == ROW_GOOD && batch_row(&b, 1)[0].text.len == LARGE,
        "a long symbol");
  struct span s = batch_row(&b, 2)[0].text;
  int wrong = s.len != LARGE / 2;
  for (size_t i = 0; i < s.len; i++)
    wrong += batch_bytes(&b, s)[i] != '\\';
  CHECK(b.records[2].state == ROW_GOOD && wrong == 0, "a long escaped symbol");
  batch_free(&b);
  free(text);
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


static void test_integers(void) {
  static const struct {
    const char *text, *fault;
    int64_t want;
  } cases[] = {
      {"{\"n\":0}", "good", 0},
      {"{\"n\":-5}", "good", -5},
      {"{\"n\":1e3}", "good", 1000},
      {"{\"n\":5.0}", "good", 5},
      {"{\"n\":50e-1}", "good", 5},
      {"{\"n\":\"3748654321\"}", "good", 3748654321},
      {"{\"n\":1723161254087896568}", "good", 1723161254087896568},
      {"{\"n\":9223372036854775807}", "good", INT64_MAX},
      {"{\"n\":-9223372036854775808}", "good", INT64_MIN},
      {"{\"n\":9223372036854775808}",
       "range $.n: beyond 64 bits, got 9223372036854775808", 0},
      {"{\"n\":-9223372036854775809}",
       "range $.n: beyond 64 bits, got -9223372036854775809", 0},
      {"{\"n\":1e400}", "range $.n: beyond 64 bits, got 1e400", 0},
      {"{\"n\":5.5}", "digits $.n: expected a whole number, got 5.5", 0},
      {"{\"n\":\"\"}", "type $.n: expected an integer, got \"\"", 0},
      {"{\"n\":\"1f\"}", "type $.n: expected an integer, got \"1f\"", 0},
      {"{\"n\":true}", "type $.n: expected an integer, got true", 0},
  };
  struct decoder d = {.count = 0};
  struct batch b;
  batch_init(&b);
  decoder_add(&d, "n", CELL_INTEGER);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    one(&d, &b, cases[i].text);
    CHECK(strcmp(first_fault(&b), cases[i].fault) == 0, "%s", first_fault(&b));
    if (b.fault_count == 0)
      CHECK(batch_row(&b, 0)[0].integer == cases[i].want, "%s", cases[i].text);
  }
  d.fields[0].positive = 1;
  d.fields[0].most = (struct field_bound){.value = 2147483647, .set = 1};
  one(&d, &b, "{\"n\":0}");
  CHECK(strcmp(first_fault(&b), "range $.n: expected more than 0, got 0") == 0,
        "%s", first_fault(&b));
  one(&d, &b, "{\"n\":2147483648}");
  CHECK(strcmp(first_fault(&b),
               "column $.n: expected at most 2147483647, got 2147483648") == 0,
        "%s", first_fault(&b));
  one(&d, &b, "{\"n\":2147483647}");
  CHECK(b.fault_count == 0, "%s", first_fault(&b));
  d.fields[0].positive = 0;
  d.fields[0].least = (struct field_bound){.value = -128, .set = 1};
  one(&d, &b, "{\"n\":-129}");
  CHECK(strcmp(first_fault(&b),
               "column $.n: expected at least -128, got -129") == 0,
        "%s", first_fault(&b));
  one(&d, &b, "{\"n\":-128}");
  CHECK(b.fault_count == 0, "%s", first_fault(&b));
  batch_free(&b);
}


/* Names with dots look inside objects, and only there. */
static void test_nested(void) {
  static const struct {
    const char *text, *fault;
    int64_t price, time_ms;
  } cases[] = {
      {"{\"data\":{\"price\":1,\"at\":{\"ms\":5}},\"n\":2}", "good", 1, 5},
      {"{\"n\":2,\"data\":{\"x\":{},\"at\":{\"ms\":5},\"price\":1}}", "good", 1,
       5},
      {"{\"data\":1,\"n\":2,\"data\":{\"price\":1,\"at\":{\"ms\":5}}}", "good",
       1, 5},
      {"{\"data\":{\"at\":7,\"at\":{\"ms\":5},\"price\":1},\"n\":2}", "good", 1,
       5},
      {"{\"n\":2,\"d\\u0061ta\":{\"price\":1,\"at\":{\"ms\":5}}}", "good", 1,
       5},
      {"{\"n\":2,\"price\":1,\"ms\":5}",
       "missing $.data.price: the field is missing", 0, 0},
      {"{\"n\":2,\"data.price\":1,\"data\":{\"at\":{\"ms\":5}}}",
       "missing $.data.price: the field is missing", 0, 0},
      {"{\"n\":2,\"data\":{}}", "missing $.data.price: the field is missing", 0,
       0},
      {"{\"data\":{\"price\":1,\"at\":{\"ms\":5}},\"n\":2,\"data\":{}}",
       "missing $.data.price: the field is missing", 0, 0},
      {"{\"data\":{\"price\":1,\"at\":{\"ms\":5}},\"n\":2,\"data\":null}",
       "type $.data.price: expected an object around it, got null", 0, 0},
      {"{\"n\":2,\"data\":[{\"price\":1}]}",
       "type $.data.price: expected an object around it, got [{\"price\":1}]",
       0, 0},
      {"{\"n\":2,\"data\":{\"price\":1,\"at\":\"5\"}}",
       "type $.data.at.ms: expected an object around it, got \"5\"", 0, 0},
      {"{\"n\":2,\"data\":{\"price\":1,\"at\":{\"ms\":5}}",
       "json $: byte 40: expected ',' or '}', got the end", 0, 0},
      {"{\"n\":2,\"data\":{\"price\":1,\"at\":{\"ms\":5]}}",
       "json $: byte 38: expected ',' or '}', got ']'", 0, 0},
  };
  struct decoder d = {.count = 0};
  struct batch b;
  batch_init(&b);
  decoder_add(&d, "data.price", CELL_DECIMAL);
  decoder_add(&d, "n", CELL_INTEGER);
  decoder_add(&d, "data.at.ms", CELL_TIME)->unit = TIME_MS;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    one(&d, &b, cases[i].text);
    CHECK(strcmp(first_fault(&b), cases[i].fault) == 0, "%s gave %s",
          cases[i].text, first_fault(&b));
    if (b.fault_count == 0)
      CHECK(batch_row(&b, 0)[0].number == cases[i].price &&
                batch_row(&b, 0)[1].integer == 2 &&
                batch_row(&b, 0)[2].integer == cases[i].time_ms,
            "%s", cases[i].text);
  }
  batch_free(&b);
}


/* Rows that an earlier stage settled are left alone. */
static void test_settled_rows(void) {
  struct decoder d = prices();
  struct batch b;
  batch_init(&b);
  for (int i = 0; i < 4; i++)
    add(&b, i == 3 ? "{}" : good[0].text, strlen(i == 3 ? "{}" : good[0].text));
  batch_fault(&b, 1, "type", "$", "%s", "mine");
  b.records[2].state = ROW_DROPPED;
  CHECK(decode_batch(&d, &b) == BATCH_OK, "no memory");
  CHECK(decode_batch(&d, &b) == BATCH_OK, "twice");
  CHECK(b.records[0].state == ROW_GOOD, "good");
  CHECK(strcmp(batch_fault_of(&b, 1)->text, "mine") == 0, "bad");
  CHECK(b.records[2].state == ROW_DROPPED, "dropped");
  CHECK(b.records[3].state == ROW_BAD && b.fault_count == 2, "%zu faults",
        b.fault_count);
  batch_free(&b);
}


/* The batch's arena has no room for what an escape means. */
static void test_full(void) {
  struct decoder d = prices();
  struct batch b;
  batch_init(&b);
  const char *text = "{\"symbol\":\"BTC\\u0055SDT\"," PRICE "," TIME "}";
  add(&b, text, strlen(text));
  size_t used = b.arena_used;
  b.arena_used = UINT32_MAX - 3;
  CHECK(decode_batch(&d, &b) == BATCH_FULL, "not told");
  b.arena_used = used;
  CHECK(decode_batch(&d, &b) == BATCH_OK && b.fault_count == 0, "again");
  batch_free(&b);
}


#ifndef __SANITIZE_ADDRESS__ /* which has a realloc of its own */

static long allocations_left = -1; /* -1: no limit */
static long allocations;           /* none under valgrind, which has its own */

void *__libc_realloc(void *p, size_t n);


void *realloc(void *p, size_t n) {
  allocations++;
  if (allocations_left == 0)
    return NULL;
  if (allocations_left > 0)
    allocations_left--;
  return __libc_realloc(p, n);
}


/* Refuse the first, the second, ... allocation: each failure is told, nothing
 * leaks, and the same batch decodes once there is memory again. */
static void test_no_memory(void) {
  static const char escaped[] =
      "{\"symbol\":\"BTC\\u0055SDT\"," PRICE "," TIME "}";
  struct decoder d = prices();
  int steps = 0, err = BATCH_NOMEM;
  for (; err != BATCH_OK && steps < 100; steps++) {
    struct batch b;
    batch_init(&b);
    for (int i = 0; i < 400; i++)
      add(&b, i % 2 ? escaped : "{}", i % 2 ? sizeof escaped - 1 : 2);
    allocations_left = steps;
    err = decode_batch(&d, &b);
    allocations_left = -1;
    CHECK(err == BATCH_OK || err == BATCH_NOMEM, "step %d gave %d", steps, err);
    CHECK(decode_batch(&d, &b) == BATCH_OK && b.fault_count == 200,
          "step %d: %zu faults", steps, b.fault_count);
    check_good(&b, 1, &good[0].want);
    check_good(&b, 399, &good[0].want);
    batch_free(&b);
  }
  CHECK(err == BATCH_OK && (steps > 4 || allocations == 0), "%d steps", steps);
}

#endif


int main(void) {
#ifndef __SANITIZE_ADDRESS__
  test_no_memory();
#endif
  test_table();
  test_in_place();
  test_whole_payloads();
  test_large();
  test_integers();
  test_nested();
  test_settled_rows();
  test_full();
  return check_done();
}
