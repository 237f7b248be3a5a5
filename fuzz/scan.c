/* scan.c - fuzzes host/scan.c against a plain recursive reader of RFC 8259.
 *
 * The verdict must be the reader's; a failure must name the first byte that no
 * valid text can have there; unescaping must not depend on the room given. */
#include "fuzz.h"
#include "scan.h"

struct plain {
  const unsigned char *p, *end;
  int depth;
};

static int plain_value(struct plain *r);


static void plain_space(struct plain *r) {
  while (r->p < r->end && memchr(" \t\r\n", *r->p, 4) != NULL)
    r->p++;
}


static int plain_is(struct plain *r, int c) {
  if (r->p == r->end || *r->p != c)
    return 0;
  r->p++;
  return 1;
}


/* One character of UTF-8, by what its bits amount to. */
static int plain_character(struct plain *r) {
  static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
  unsigned c = *r->p++;
  int more = c < 0x80 ? 0 : c >> 5 == 6 ? 1 : c >> 4 == 14 ? 2 : 3;
  if (c >= 0x80 && (c < 0xC0 || c >= 0xF8))
    return 0;
  uint32_t code = more == 0 ? c : c & (0x3Fu >> more);
  for (int i = 0; i < more; i++) {
    if (r->p == r->end || (*r->p & 0xC0) != 0x80)
      return 0;
    code = code << 6 | (*r->p++ & 0x3F);
  }
  return code >= least[more] && code <= 0x10FFFF &&
         (code < 0xD800 || code > 0xDFFF);
}


static int plain_string(struct plain *r) {
  if (!plain_is(r, '"'))
    return 0;
  while (r->p < r->end && *r->p != '"') {
    if (*r->p < 0x20)
      return 0;
    if (*r->p != '\\') {
      if (!plain_character(r))
        return 0;
      continue;
    }
    if (++r->p == r->end)
      return 0;
    if (*r->p == 'u') {
      r->p++;
      for (int i = 0; i < 4; i++, r->p++)
        if (r->p == r->end || *r->p == '\0' ||
            strchr("0123456789abcdefABCDEF", *r->p) == NULL)
          return 0;
    } else if (*r->p == '\0' || strchr("\"\\/bfnrt", *r->p) == NULL) {
      return 0;
    } else {
      r->p++;
    }
  }
  return plain_is(r, '"');
}


static int plain_number(struct plain *r) {
  const unsigned char *first = r->p;
  mpq_t value;
  struct said said;
  while (r->p < r->end && *r->p != '\0' &&
         strchr("+-.0123456789eE", *r->p) != NULL)
    r->p++;
  mpq_init(value);
  int kind =
      number_value((const char *)first, (const char *)r->p, value, &said);
  mpq_clear(value);
  return kind != NUMBER_NONE;
}


static int plain_items(struct plain *r, int object, int close) {
  r->p++;
  if (++r->depth > SCAN_DEPTH_MAX)
    return 0;
  plain_space(r);
  if (!plain_is(r, close)) {
    do {
      plain_space(r);
      if (object) {
        if (!plain_string(r))
          return 0;
        plain_space(r);
        if (!plain_is(r, ':'))
          return 0;
      }
      if (!plain_value(r))
        return 0;
      plain_space(r);
    } while (plain_is(r, ','));
    if (!plain_is(r, close))
      return 0;
  }
  r->depth--;
  return 1;
}


static int plain_word(struct plain *r, const char *word) {
  size_t n = strlen(word);
  if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0)
    return 0;
  r->p += n;
  return 1;
}


static int plain_value(struct plain *r) {
  plain_space(r);
  if (r->p == r->end)
    return 0;
  switch (*r->p) {
  case '{':
    return plain_items(r, 1, '}');
  case '[':
    return plain_items(r, 0, ']');
  case '"':
    return plain_string(r);
  case 't':
    return plain_word(r, "true");
  case 'f':
    return plain_word(r, "false");
  case 'n':
    return plain_word(r, "null");
  default:
    return plain_number(r);
  }
}


static int plain_valid(const uint8_t *data, size_t size) {
  struct plain r = {data, data + size, 0};
  if (size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0)
    r.p += 3;
  if (!plain_value(&r))
    return 0;
  plain_space(&r);
  return r.p == r.end;
}


/* Unescape with room for `cap` bytes at a time; the length, or -1. */
static long unescape(const struct scan_value *v, size_t cap, char *out) {
  const char *p = v->text, *end = v->text + v->len;
  char *room = malloc(cap);
  size_t used = 0, len;
  while (p != NULL && p < end) {
    p = scan_unescape(p, end, room, cap, &len);
    if (p != NULL) {
      memcpy(out + used, room, len);
      used += len;
    }
  }
  free(room);
  return p == NULL ? -1 : (long)used;
}


static void check_strings(const char *text, size_t n) {
  struct scan s;
  struct scan_value v;
  scan_begin(&s, text, n);
  int left = 8;
  for (size_t i = 0; i < n && left > 0; i++) {
    if (text[i] != '"')
      continue;
    left--;
    if (scan_string(&s, text + i + 1, &v) == NULL)
      continue;
    char *once = malloc(v.len + 8), *pieces = malloc(v.len + 8);
    long len = unescape(&v, v.len + 4, once);
    long again = unescape(&v, 4, pieces);
    EXPECT(len == again, "%ld and %ld bytes", len, again);
    EXPECT(len <= 0 || memcmp(once, pieces, (size_t)len) == 0, "pieces");
    EXPECT(v.escaped || len == (long)v.len, "changed without an escape");
    struct plain r = {(const unsigned char *)once,
                      (const unsigned char *)once + (len > 0 ? len : 0), 0};
    while (r.p < r.end)
      EXPECT(plain_character(&r), "unescaped text is not UTF-8");
    free(once);
    free(pieces);
  }
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *text = (const char *)data;
  struct scan s, cut;
  char why[SCAN_TEXT_MAX];
  int valid = scan_valid(&s, text, size);
  EXPECT(valid == plain_valid(data, size), "scan says %d", valid);
  if (!valid) {
    size_t place = scan_place(&s);
    EXPECT(place >= 1 && place <= size + 1, "place %zu", place);
    scan_explain(&s, why);
    EXPECT(strncmp(why, "byte ", 5) == 0, "%s", why);
    /* What stands before the place is not to blame. */
    char *before = malloc(place);
    memcpy(before, text, place - 1);
    if (!scan_valid(&cut, before, place - 1))
      EXPECT(scan_place(&cut) == place, "%zu, cut there: %zu", place,
             scan_place(&cut));
    free(before);
  }
  check_strings(text, size);
  return 0;
}
