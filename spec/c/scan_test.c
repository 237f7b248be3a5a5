/* scan_test.c - the scanner against tables, every cut and change of documents,
 * and a plain recursive checker written apart from it.
 *
 * Texts are copied into memory of their exact size, so that the address
 * sanitizer sees a read beyond the end. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "scan.h"

static uint64_t seed = UINT64_C(20240813);


static uint64_t random_next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}


/* The verdict, NULL when valid, else the message. */
static const char *verdict(const char *text, size_t n) {
  static char why[SCAN_TEXT_MAX];
  struct scan s;
  char *copy = malloc(n > 0 ? n : 1);
  memcpy(copy, text, n);
  int ok = scan_valid(&s, copy, n);
  if (!ok)
    scan_explain(&s, why);
  free(copy);
  return ok ? NULL : why;
}


static void test_table(void) {
  static const struct {
    const char *text;
    const char *want;
  } cases[] = {
      {"{}", NULL},
      {"[]", NULL},
      {" \t\r\n[ ] \n", NULL},
      {"0", NULL},
      {"-0.0e-0", NULL},
      {"\"\"", NULL},
      {"null", NULL},
      {"\xEF\xBB\xBF{}", NULL},
      {"{\"a\":1,\"a\":2}", NULL},
      {"{\"\":{\"\":[{},[],\"\",null,true,false,1]}}", NULL},
      {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD834\\uDD1E\"", NULL},
      {"\"\\ud800\"", NULL}, /* text, though no character */
      {"\"\x7F\"", NULL},
      {"\"\xC3\xA9\xE2\x82\xAC\xF0\x9D\x84\x9E\xEF\xBF\xBF\"", NULL},
      {"", "byte 1: expected a value, got the end"},
      {" ", "byte 2: expected a value, got the end"},
      {"\xEF\xBB\xBF", "byte 4: expected a value, got the end"},
      {"\xEF\xBB\xBF\xEF\xBB\xBF{}", "byte 4: expected a value, got 0xEF"},
      {" \xEF\xBB\xBF{}", "byte 2: expected a value, got 0xEF"},
      {"<html>", "byte 1: expected a value, got '<'"},
      {"{", "byte 2: expected a key, got the end"},
      {"{a:1}", "byte 2: expected a key, got 'a'"},
      {"{'a':1}", "byte 2: expected a key, got '''"},
      {"{\"a\"}", "byte 5: expected ':', got '}'"},
      {"{\"a\":}", "byte 6: expected a value, got '}'"},
      {"{\"a\":1", "byte 7: expected ',' or '}', got the end"},
      {"{\"a\":1]", "byte 7: expected ',' or '}', got ']'"},
      {"{\"a\":1,}", "byte 8: expected a key, got '}'"},
      {"{\"a\":1 \"b\":2}", "byte 8: expected ',' or '}', got '\"'"},
      {"[1,]", "byte 4: expected a value, got ']'"},
      {"[1}", "byte 3: expected ',' or ']', got '}'"},
      {"[1 2]", "byte 4: expected ',' or ']', got '2'"},
      {"[,1]", "byte 2: expected a value, got ','"},
      {"]", "byte 1: expected a value, got ']'"},
      {"{} x", "byte 4: expected the end, got 'x'"},
      {"{}{}", "byte 3: expected the end, got '{'"},
      {"01", "byte 2: expected the end, got '1'"},
      {"-", "byte 2: expected a digit, got the end"},
      {"-a", "byte 2: expected a digit, got 'a'"},
      {"1.", "byte 3: expected a digit, got the end"},
      {"[1.e1]", "byte 4: expected a digit, got 'e'"},
      {"1e+", "byte 4: expected a digit, got the end"},
      {".5", "byte 1: expected a value, got '.'"},
      {"+1", "byte 1: expected a value, got '+'"},
      {"NaN", "byte 1: expected a value, got 'N'"},
      {"nan", "byte 2: expected true, false or null, got 'a'"},
      {"tru", "byte 4: expected true, false or null, got the end"},
      {"truE", "byte 4: expected true, false or null, got 'E'"},
      {"\"", "byte 2: expected '\"', got the end"},
      {"\"a", "byte 3: expected '\"', got the end"},
      {"\"\n\"", "byte 2: expected an escaped control character, got 0x0A"},
      {"\"\\", "byte 3: expected an escape, got the end"},
      {"\"\\x\"", "byte 3: expected an escape, got 'x'"},
      {"\"\\u12\"", "byte 6: expected a hexadecimal digit, got '\"'"},
      {"\"\\u12g4\"", "byte 6: expected a hexadecimal digit, got 'g'"},
      {"\"\xFF\"", "byte 2: not valid UTF-8 (0xFF)"},
      {"\"a\xC3\"", "byte 3: not valid UTF-8 (0xC3)"},
      {"\"\xC3", "byte 2: not valid UTF-8 (0xC3)"},
      {"[1]\xC2\xA0", "byte 4: expected the end, got 0xC2"},
      {"[1]\v", "byte 4: expected the end, got 0x0B"},
      {"/**/1", "byte 1: expected a value, got '/'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *got = verdict(cases[i].text, strlen(cases[i].text));
    const char *want = cases[i].want;
    CHECK(want == NULL ? got == NULL : got != NULL && strcmp(got, want) == 0,
          "%s gave: %s", cases[i].text, got != NULL ? got : "valid");
  }
  CHECK(verdict("{\"a\":1}\0", 8) != NULL, "NUL after the value");
  CHECK(verdict("\"\0\"", 3) != NULL, "NUL in a string");
}


static void test_depth(void) {
  enum { MANY = 100000 };
  char *text = malloc(MANY * 5);
  memset(text, '[', SCAN_DEPTH_MAX);
  memset(text + SCAN_DEPTH_MAX, ']', SCAN_DEPTH_MAX);
  CHECK(verdict(text, 2 * SCAN_DEPTH_MAX) == NULL, "the deepest");
  memset(text, '[', SCAN_DEPTH_MAX + 1);
  memset(text + SCAN_DEPTH_MAX + 1, ']', SCAN_DEPTH_MAX + 1);
  const char *why = verdict(text, 2 * SCAN_DEPTH_MAX + 2);
  CHECK(why != NULL &&
            strcmp(why, "byte 513: nested deeper than 512 levels") == 0,
        "%s", why != NULL ? why : "valid");
  memset(text, '[', MANY);
  CHECK(verdict(text, MANY) != NULL, "100000 opening brackets");
  for (int i = 0; i < MANY; i++)
    memcpy(text + 5 * i, "{\"a\":", 5);
  CHECK(verdict(text, MANY * 5) != NULL, "100000 opening braces");
  /* Objects and arrays by turns: the levels must not be mixed up. */
  char *p = text;
  for (int i = 0; i < 200; i++)
    p = stpcpy(p, "[{\"a\":");
  *p++ = '1';
  for (int i = 0; i < 200; i++)
    p = stpcpy(p, "}]");
  size_t n = (size_t)(p - text);
  CHECK(verdict(text, n) == NULL, "by turns");
  int wrong = 0;
  for (size_t i = n - 400; i < n; i++) {
    char was = text[i];
    text[i] = was == '}' ? ']' : '}';
    wrong += verdict(text, n) == NULL;
    text[i] = was;
  }
  CHECK(wrong == 0, "%d wrong closing brackets were accepted", wrong);
  free(text);
}


/* The byte that ends the plain part, at every place of a string: the wide
 * steps of the scanner must not miss it, nor look beyond the end. */
static void test_string_places(void) {
  static const char special[] = {'"', '\\', '\n', 0x01, 0x1F, '\x80', '\xFF'};
  int wrong = 0;
  for (size_t len = 0; len < 70; len++) {
    for (size_t at = 0; at <= len; at++) {
      for (size_t k = 0; k < sizeof special; k++) {
        char text[80];
        memset(text, 'x', sizeof text);
        text[0] = '"';
        text[1 + at] = special[k];
        text[2 + len] = '"';
        struct scan s;
        struct scan_value v;
        char *copy = malloc(len + 3);
        memcpy(copy, text, len + 3);
        scan_begin(&s, copy, len + 3);
        const char *p = scan_string(&s, copy + 1, &v);
        if (special[k] == '"') /* closes here */
          wrong += p != copy + at + 2 || v.len != at || v.escaped || v.wide;
        else if (special[k] == '\\') /* \x or \" */
          wrong += at < len ? p != NULL || s.at != copy + at + 2
                            : p != NULL || s.at != copy + len + 3;
        else
          wrong += p != NULL || s.at != copy + at + 1;
        free(copy);
      }
    }
  }
  CHECK(wrong == 0, "%d strings were scanned wrongly", wrong);
}


/* UTF-8 by the definition: decode, then see whether that is how the code point
 * is written. Returns the length of the character at `p`, 0: none. */
static size_t utf8_plain(const unsigned char *p, size_t n) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t len = p[0] < 0x80   ? 1
               : p[0] < 0xC0 ? 0
               : p[0] < 0xE0 ? 2
               : p[0] < 0xF0 ? 3
               : p[0] < 0xF8 ? 4
                             : 0;
  if (len <= 1 || len > n)
    return len > n ? 0 : len;
  uint32_t code = p[0] & (0xFFu >> (len + 1));
  for (size_t i = 1; i < len; i++) {
    if (p[i] < 0x80 || p[i] > 0xBF)
      return 0;
    code = code << 6 | (p[i] & 0x3F);
  }
  if (code < least[len] || code > 0x10FFFF ||
      (code >= 0xD800 && code <= 0xDFFF))
    return 0;
  return len;
}


static int utf8_string(const unsigned char *p, size_t n) {
  while (n > 0) {
    size_t len = utf8_plain(p, n);
    if (len == 0 || *p < 0x20 || *p == '"' || *p == '\\')
      return 0;
    p += len;
    n -= len;
  }
  return 1;
}


/* A string of the `n` bytes, against the definition. */
static int utf8_differs(const unsigned char *bytes, size_t n) {
  char text[6];
  struct scan s;
  text[0] = '"';
  memcpy(text + 1, bytes, n);
  text[n + 1] = '"';
  return scan_valid(&s, text, n + 2) != utf8_string(bytes, n);
}


/* All of 1 and 2 bytes from DEL on, and longer ones with chosen tails. No
 * backslash: escapes are another matter. */
static void test_utf8(void) {
  static const unsigned char tails[] = {0x00, 0x22, 0x7F, 0x80, 0x8F, 0x90,
                                        0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
  enum { TAILS = sizeof tails };
  int wrong = 0;
  for (unsigned lead = 0x7F; lead <= 0xFF; lead++) {
    for (unsigned second = 0; second <= 0xFF; second++) {
      unsigned char text[4] = {(unsigned char)lead, (unsigned char)second};
      if (second == '\\')
        continue;
      wrong += utf8_differs(text, 1) + utf8_differs(text, 2);
      for (int i = 0; i < TAILS * TAILS; i++) {
        text[2] = tails[i / TAILS];
        text[3] = tails[i % TAILS];
        wrong += utf8_differs(text, 3) + utf8_differs(text, 4);
      }
    }
  }
  CHECK(wrong == 0, "%d byte sequences", wrong);
}


/* --- a checker of its own: recursive, byte by byte, nothing shared --- */

struct plain {
  const unsigned char *p, *end;
  int depth;
};


static int plain_value(struct plain *x);


static void plain_space(struct plain *x) {
  while (x->p < x->end && strchr(" \t\r\n", *x->p) != NULL && *x->p != 0)
    x->p++;
}


static int plain_digits(struct plain *x) {
  const unsigned char *first = x->p;
  while (x->p < x->end && *x->p >= '0' && *x->p <= '9')
    x->p++;
  return x->p > first;
}


static int plain_number(struct plain *x) {
  if (*x->p == '-')
    x->p++;
  const unsigned char *first = x->p;
  if (!plain_digits(x) || (*first == '0' && x->p - first > 1))
    return 0;
  if (x->p < x->end && *x->p == '.') {
    x->p++;
    if (!plain_digits(x))
      return 0;
  }
  if (x->p < x->end && (*x->p == 'e' || *x->p == 'E')) {
    x->p++;
    if (x->p < x->end && (*x->p == '+' || *x->p == '-'))
      x->p++;
    return plain_digits(x);
  }
  return 1;
}


static int plain_string(struct plain *x) {
  if (x->p == x->end || *x->p++ != '"')
    return 0;
  while (x->p < x->end && *x->p != '"') {
    if (*x->p == '\\') {
      if (x->end - x->p < 2 || x->p[1] == 0 ||
          strchr("\"\\/bfnrtu", x->p[1]) == NULL)
        return 0;
      int hex = x->p[1] == 'u' ? 4 : 0;
      x->p += 2;
      for (; hex > 0; hex--, x->p++)
        if (x->p == x->end || *x->p == 0 ||
            strchr("0123456789abcdefABCDEF", *x->p) == NULL)
          return 0;
    } else {
      size_t len = utf8_plain(x->p, (size_t)(x->end - x->p));
      if (len == 0 || *x->p < 0x20)
        return 0;
      x->p += len;
    }
  }
  return x->p++ < x->end;
}


/* After the opening bracket. */
static int plain_list(struct plain *x, int close) {
  if (++x->depth > SCAN_DEPTH_MAX)
    return 0;
  plain_space(x);
  if (x->p < x->end && *x->p == close) {
    x->p++;
    x->depth--;
    return 1;
  }
  for (;;) {
    plain_space(x);
    if (close == '}') {
      if (!plain_string(x))
        return 0;
      plain_space(x);
      if (x->p == x->end || *x->p++ != ':')
        return 0;
    }
    if (!plain_value(x))
      return 0;
    plain_space(x);
    if (x->p == x->end)
      return 0;
    if (*x->p == close) {
      x->p++;
      x->depth--;
      return 1;
    }
    if (*x->p++ != ',')
      return 0;
  }
}


static int plain_value(struct plain *x) {
  static const char *const words[] = {"true", "false", "null"};
  plain_space(x);
  if (x->p == x->end)
    return 0;
  int c = *x->p;
  if (c == '{' || c == '[') {
    x->p++;
    return plain_list(x, c == '{' ? '}' : ']');
  }
  if (c == '"')
    return plain_string(x);
  for (int i = 0; i < 3; i++) {
    size_t len = strlen(words[i]);
    if ((size_t)(x->end - x->p) >= len && memcmp(x->p, words[i], len) == 0) {
      x->p += len;
      return 1;
    }
  }
  return (c == '-' || (c >= '0' && c <= '9')) && plain_number(x);
}


static int plain_valid(const char *text, size_t n) {
  const unsigned char *p = (const unsigned char *)text;
  struct plain x = {p, p + n, 0};
  if (n >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0)
    x.p += 3;
  if (!plain_value(&x))
    return 0;
  plain_space(&x);
  return x.p == x.end;
}


static const char *const documents[] = {
    "{\"symbol\":\"BTCUSDT\",\"price\":\"61837.63000000\",\"timestamp\":"
    "1723161255.342}",
    "\xEF\xBB\xBF { \"a\" : [ 1 , -2.5e+10 , true , false , null , \"x\\n"
    "\\u00e9\\ud834\\udd1e\" ] , \"b\" : { \"c\" : { } , \"d\" : [ ] } } \r\n",
    "[[[[{\"k\":[0,0.0,-0,1e1,1E-1]}]]],\"\xC3\xA9\xE2\x82\xAC\xF0\x9D\x84"
    "\x9E plain text that is longer than sixteen bytes\",[[],[],{}]]",
    "[\"\\\\\\\"\\/\\b\\f\\n\\r\\t\",\"\",{\"\":\"\"},12345678901234567890]",
};


static void same(const char *text, size_t n, int *wrong) {
  int ok = verdict(text, n) == NULL;
  if (ok == plain_valid(text, n))
    return;
  if ((*wrong)++ < 3)
    printf("  scanner says %d: %.*s\n", ok, (int)n, text);
}


/* Every beginning and every change of one byte. */
static void test_cuts_and_changes(void) {
  int wrong = 0;
  for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
    char text[256];
    size_t n = strlen(documents[i]);
    memcpy(text, documents[i], n);
    CHECK(verdict(text, n) == NULL, "document %zu", i);
    for (size_t cut = 0; cut < n; cut++)
      same(text, cut, &wrong);
    for (size_t at = 0; at < n; at++) {
      for (int c = 0; c < 256; c++) {
        text[at] = (char)c;
        same(text, n, &wrong);
      }
      text[at] = documents[i][at];
    }
  }
  CHECK(wrong == 0, "%d verdicts differ", wrong);
}


/* Documents put together from pieces, most of them nearly right. */
static void test_random(void) {
  static const char *const pieces[] = {
      "{",    "}",        "[",          "]",     ",",       ":",     "\"a\"",
      "\"\"", "1",        "-0.5",       "1e9",   "01",      "true",  "null",
      " ",    "\n",       "\"\\",       "\\u12", "\"",      "false", "{}",
      "[]",   "\xC3\xA9", "\xFF",       "-",     "{\"a\":", "[1,",   "\"b\":2}",
      "e",    ".",        "\"\\ud800\""};
  int wrong = 0, valid = 0;
  for (int i = 0; i < 300000; i++) {
    char text[512];
    size_t n = 0;
    int count = (int)(random_next() % 14);
    for (int k = 0; k < count; k++) {
      const char *piece =
          pieces[random_next() % (sizeof pieces / sizeof *pieces)];
      memcpy(text + n, piece, strlen(piece));
      n += strlen(piece);
    }
    valid += verdict(text, n) == NULL;
    same(text, n, &wrong);
  }
  for (int i = 0; i < 300000; i++) {
    char text[256];
    const char *from =
        documents[random_next() % (sizeof documents / sizeof *documents)];
    size_t n = strlen(from);
    memcpy(text, from, n);
    for (int k = (int)(random_next() % 3); k >= 0; k--) {
      size_t a = random_next() % n, b = random_next() % n;
      char c = text[a];
      text[a] = text[b];
      text[b] = c;
    }
    valid += verdict(text, n) == NULL;
    same(text, n, &wrong);
  }
  CHECK(wrong == 0, "%d of 600000 verdicts differ", wrong);
  CHECK(valid > 1000, "%d documents were valid", valid);
}


static void test_unescape(void) {
  static const struct {
    const char *text, *want; /* NULL: refused */
  } cases[] = {
      {"", ""},
      {"plain", "plain"},
      {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
      {"BTC\\u002dUSDT", "BTC-USDT"},
      {"\\u00e9\\u20AC\\uD834\\uDD1E", "\xC3\xA9\xE2\x82\xAC\xF0\x9D\x84\x9E"},
      {"\\uD800\\uDC00", "\xF0\x90\x80\x80"},
      {"\\uDBFF\\uDFFF", "\xF4\x8F\xBF\xBF"},
      {"\\uFFFF", "\xEF\xBF\xBF"},
      {"\xC3\xA9\\n", "\xC3\xA9\n"},
      {"\\uD800", NULL},
      {"\\uD800x", NULL},
      {"\\uD800\\n", NULL},
      {"\\uD800\\u0041", NULL},
      {"\\uD800\\uD800", NULL},
      {"\\uDC00", NULL},
      {"\\uDC00\\uD800", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t n = strlen(cases[i].text), total = 0, len;
    char *text = malloc(n > 0 ? n : 1), out[64];
    memcpy(text, cases[i].text, n);
    /* In pieces of 4 bytes, the smallest that are allowed. */
    const char *p = text, *end = text + n;
    while (p != NULL && p < end) {
      p = scan_unescape(p, end, out + total, 4, &len);
      if (p != NULL)
        total += len;
    }
    out[total] = '\0';
    CHECK(cases[i].want == NULL ? p == NULL
                                : p == end && strcmp(out, cases[i].want) == 0,
          "%s became %s", cases[i].text, out);
    free(text);
  }
  char out[8];
  size_t len;
  static const char nul[] = "a\\u0000b";
  const char *p = scan_unescape(nul, nul + 8, out, 8, &len);
  CHECK(p != NULL && len == 3 && memcmp(out, "a\0b", 3) == 0, "NUL");
}


int main(void) {
  const char *given = getenv("CHECK_SEED");
  if (given != NULL)
    seed = strtoull(given, NULL, 0) | 1;
  printf("scan_test: seed %llu\n", (unsigned long long)seed);
  test_table();
  test_depth();
  test_string_places();
  test_utf8();
  test_cuts_and_changes();
  test_random();
  test_unescape();
  return check_done();
}
