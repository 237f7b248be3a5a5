/* scan.c - a strict one-pass scanner of RFC 8259 JSON. See scan.h.
 *
 * Strings are most of a message, so their plain bytes are looked at 16 or 8 at
 * a time; everything else goes byte by byte. No byte at or after the end is
 * read: a payload may end where its memory does. */
#include <stdio.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "scan.h"

#define ONES UINT64_C(0x0101010101010101)
#define HIGH UINT64_C(0x8080808080808080)


const char *scan_fail(struct scan *s, const char *p, const char *expected) {
  s->at = p;
  s->expected = expected;
  s->error = SCAN_SYNTAX;
  return NULL;
}


const char *scan_begin(struct scan *s, const char *text, size_t n) {
  s->start = text;
  s->end = text + n;
  s->at = text;
  s->expected = "";
  s->error = SCAN_OK;
  if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
    return text + 3;
  return text;
}


static inline int scan_special(unsigned char c) {
  return c < 0x20 || c == '"' || c == '\\' || c >= 0x80;
}


/* The first byte that may not simply stand in a string: quote, backslash,
 * control character, or the start of a multi-byte character. */
static inline const char *scan_plain(const char *p, const char *end) {
#ifdef __SSE2__
  const __m128i quote = _mm_set1_epi8('"'), back = _mm_set1_epi8('\\');
  const __m128i control = _mm_set1_epi8(0x1F);
  while (end - p >= 16) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i hit =
        _mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, back));
    hit = _mm_or_si128(hit, _mm_cmpeq_epi8(_mm_min_epu8(x, control), x));
    int mask = _mm_movemask_epi8(_mm_or_si128(hit, x));
    if (mask != 0)
      return p + __builtin_ctz((unsigned)mask);
    p += 16;
  }
#endif
  while (end - p >= 8) {
    uint64_t x;
    memcpy(&x, p, 8);
    uint64_t quotes = x ^ ONES * '"', backs = x ^ ONES * '\\';
    /* A byte's high bit is set when it is below; a borrow may mark a byte
     * after a real hit too, which the loop below sorts out. */
    uint64_t hit = (quotes - ONES) | (backs - ONES) | (x - ONES * 0x20) | x;
    if ((hit & HIGH) != 0)
      break;
    p += 8;
  }
  while (p < end && !scan_special((unsigned char)*p))
    p++;
  return p;
}


/* The multi-byte characters from `p` on. No overlong forms, no surrogates,
 * nothing beyond U+10FFFF. */
static const char *scan_utf8(struct scan *s, const char *p) {
  while (p < s->end && (unsigned char)*p >= 0x80) {
    const unsigned char *u = (const unsigned char *)p;
    unsigned char low = 0x80, high = 0xBF;
    int more;
    if (*u >= 0xC2 && *u <= 0xDF) {
      more = 1;
    } else if ((*u & 0xF0) == 0xE0) {
      more = 2;
      low = *u == 0xE0 ? 0xA0 : low;
      high = *u == 0xED ? 0x9F : high;
    } else if (*u >= 0xF0 && *u <= 0xF4) {
      more = 3;
      low = *u == 0xF0 ? 0x90 : low;
      high = *u == 0xF4 ? 0x8F : high;
    } else {
      break;
    }
    if (s->end - p <= more || u[1] < low || u[1] > high)
      break;
    if ((more > 1 && (u[2] & 0xC0) != 0x80) ||
        (more > 2 && (u[3] & 0xC0) != 0x80))
      break;
    p += more + 1;
  }
  if (p == s->end || (unsigned char)*p < 0x80)
    return p;
  s->at = p;
  s->error = SCAN_UTF8;
  return NULL;
}


static inline int scan_hex(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}


/* The escape whose backslash is at `p`. */
static const char *scan_escape(struct scan *s, const char *p) {
  p++;
  if (p == s->end)
    return scan_fail(s, p, "an escape");
  if (*p != 'u') {
    if (memchr("\"\\/bfnrt", *p, 8) == NULL)
      return scan_fail(s, p, "an escape");
    return p + 1;
  }
  p++;
  for (int i = 0; i < 4; i++, p++)
    if (p == s->end || scan_hex(*p) < 0)
      return scan_fail(s, p, "a hexadecimal digit");
  return p;
}


const char *scan_string(struct scan *s, const char *p, struct scan_value *v) {
  v->type = SCAN_STRING;
  v->text = p;
  v->escaped = 0;
  v->wide = 0;
  for (;;) {
    p = scan_plain(p, s->end);
    if (p == s->end)
      return scan_fail(s, p, "'\"'");
    if (*p == '"')
      break;
    if (*p == '\\') {
      v->escaped = 1;
      p = scan_escape(s, p);
    } else if ((unsigned char)*p >= 0x80) {
      v->wide = 1;
      p = scan_utf8(s, p);
    } else {
      return scan_fail(s, p, "an escaped control character");
    }
    if (p == NULL)
      return NULL;
  }
  v->len = (size_t)(p - v->text);
  return p + 1;
}


static const char *scan_word(struct scan *s, const char *p, const char *word,
                             enum scan_type type, struct scan_value *v) {
  v->type = type;
  v->text = p;
  v->len = strlen(word);
  for (; *word != '\0'; word++, p++)
    if (p == s->end || *p != *word)
      return scan_fail(s, p, "true, false or null");
  return p;
}


/* A value that holds no others. */
static const char *scan_scalar(struct scan *s, const char *p,
                               struct scan_value *v) {
  if (p == s->end)
    return scan_fail(s, p, "a value");
  switch (*p) {
  case '"':
    return scan_string(s, p + 1, v);
  case 't':
    return scan_word(s, p, "true", SCAN_TRUE, v);
  case 'f':
    return scan_word(s, p, "false", SCAN_FALSE, v);
  case 'n':
    return scan_word(s, p, "null", SCAN_NULL, v);
  default:
    break;
  }
  if (*p != '-' && (unsigned char)(*p - '0') > 9)
    return scan_fail(s, p, "a value");
  const char *wrong;
  v->type = SCAN_NUMBER;
  v->text = p;
  p = number_scan(p, s->end, &v->number, &wrong);
  if (p == NULL)
    return scan_fail(s, wrong, "a digit");
  v->len = (size_t)(p - v->text);
  return p;
}


/* A key and its colon; `p` may be white space before them. */
static const char *scan_key(struct scan *s, const char *p) {
  struct scan_value key;
  p = scan_space(p, s->end);
  if (p == s->end || *p != '"')
    return scan_fail(s, p, "a key");
  p = scan_string(s, p + 1, &key);
  if (p == NULL)
    return NULL;
  p = scan_space(p, s->end);
  if (p == s->end || *p != ':')
    return scan_fail(s, p, "':'");
  return p + 1;
}


/* What is open: one bit for each level, set for an object. */
struct scan_stack {
  uint64_t objects[SCAN_DEPTH_MAX / 64 + 1];
  int depth;
  int floor;
};


static inline int stack_object(const struct scan_stack *k) {
  return (k->objects[k->depth / 64] >> (k->depth % 64)) & 1;
}


/* The bracket at `p` opens. Returns where its first value stands, or, when it
 * is empty, its closing bracket. */
static const char *scan_open(struct scan *s, const char *p,
                             struct scan_stack *k) {
  if (k->depth == SCAN_DEPTH_MAX) {
    s->at = p;
    s->error = SCAN_DEPTH;
    return NULL;
  }
  uint64_t bit = UINT64_C(1) << (++k->depth % 64);
  if (*p == '{')
    k->objects[k->depth / 64] |= bit;
  else
    k->objects[k->depth / 64] &= ~bit;
  return scan_space(p + 1, s->end);
}


/* After a value: close what closes here. Returns where the next value stands,
 * or the byte after the outermost bracket. */
static const char *scan_close(struct scan *s, const char *p,
                              struct scan_stack *k) {
  while (k->depth > k->floor) {
    int object = stack_object(k);
    p = scan_space(p, s->end);
    if (p < s->end && *p == ',')
      return object ? scan_key(s, p + 1) : p + 1;
    if (p == s->end || *p != (object ? '}' : ']'))
      return scan_fail(s, p, object ? "',' or '}'" : "',' or ']'");
    k->depth--;
    p++;
  }
  return p;
}


/* The object or array at `p`. */
static const char *scan_nested(struct scan *s, const char *p, int depth) {
  struct scan_stack k = {.depth = depth, .floor = depth};
  struct scan_value v;
  do {
    p = scan_space(p, s->end);
    if (p < s->end && (*p == '{' || *p == '[')) {
      int object = *p == '{';
      p = scan_open(s, p, &k);
      if (p == NULL)
        return NULL;
      if (p == s->end || *p != (object ? '}' : ']')) {
        if (object)
          p = scan_key(s, p);
        continue;
      }
      k.depth--;
      p++;
    } else {
      p = scan_scalar(s, p, &v);
    }
    if (p != NULL)
      p = scan_close(s, p, &k);
  } while (p != NULL && k.depth > k.floor);
  return p;
}


const char *scan_value(struct scan *s, const char *p, int depth,
                       struct scan_value *v) {
  p = scan_space(p, s->end);
  if (p == s->end || (*p != '{' && *p != '['))
    return scan_scalar(s, p, v);
  v->type = *p == '{' ? SCAN_OBJECT : SCAN_ARRAY;
  v->text = p;
  p = scan_nested(s, p, depth);
  if (p != NULL)
    v->len = (size_t)(p - v->text);
  return p;
}


const char *scan_finish(struct scan *s, const char *p) {
  p = scan_space(p, s->end);
  if (p != s->end)
    return scan_fail(s, p, "the end");
  return p;
}


int scan_valid(struct scan *s, const char *text, size_t n) {
  struct scan_value v;
  const char *p = scan_value(s, scan_begin(s, text, n), 0, &v);
  return p != NULL && scan_finish(s, p) != NULL;
}


size_t scan_place(const struct scan *s) {
  return (size_t)(s->at - s->start) + 1;
}


void scan_explain(const struct scan *s, char *out) {
  char got[16];
  size_t place = scan_place(s);
  unsigned char c = s->at < s->end ? (unsigned char)*s->at : 0;
  if (s->at == s->end)
    snprintf(got, sizeof got, "the end");
  else if (c > 0x20 && c < 0x7F)
    snprintf(got, sizeof got, "'%c'", c);
  else
    snprintf(got, sizeof got, "0x%02X", c);
  if (s->error == SCAN_DEPTH)
    snprintf(out, SCAN_TEXT_MAX, "byte %zu: nested deeper than %d levels",
             place, SCAN_DEPTH_MAX);
  else if (s->error == SCAN_UTF8)
    snprintf(out, SCAN_TEXT_MAX, "byte %zu: not valid UTF-8 (%s)", place, got);
  else
    snprintf(out, SCAN_TEXT_MAX, "byte %zu: expected %s, got %s", place,
             s->expected, got);
}


static unsigned unescape_hex4(const char *p) {
  unsigned code = 0;
  for (int i = 0; i < 4; i++)
    code = code << 4 | (unsigned)scan_hex(p[i]);
  return code;
}


/* Write `code` as UTF-8; returns the number of bytes. */
static size_t unescape_put(unsigned code, char *out) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  if (code < 0x800) {
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = (char)(0xE0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 0x3F));
    out[2] = (char)(0x80 | (code & 0x3F));
    return 3;
  }
  out[0] = (char)(0xF0 | code >> 18);
  out[1] = (char)(0x80 | (code >> 12 & 0x3F));
  out[2] = (char)(0x80 | (code >> 6 & 0x3F));
  out[3] = (char)(0x80 | (code & 0x3F));
  return 4;
}


/* The \u escape at `p`, with its partner if it is a surrogate. */
static const char *unescape_unicode(const char *p, const char *end, char *out,
                                    size_t *used) {
  unsigned code = unescape_hex4(p + 2);
  p += 6;
  if (code >= 0xD800 && code <= 0xDFFF) {
    if (code >= 0xDC00 || end - p < 6 || p[0] != '\\' || p[1] != 'u')
      return NULL;
    unsigned low = unescape_hex4(p + 2);
    if (low < 0xDC00 || low > 0xDFFF)
      return NULL;
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    p += 6;
  }
  *used += unescape_put(code, out + *used);
  return p;
}


const char *scan_unescape(const char *p, const char *end, char *out, size_t cap,
                          size_t *len) {
  static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
  size_t used = 0;
  while (p < end && cap - used >= 4) {
    if (*p != '\\') {
      out[used++] = *p++;
    } else if (p[1] == 'u') {
      p = unescape_unicode(p, end, out, &used);
      if (p == NULL)
        return NULL;
    } else {
      const char *known = strchr(from, p[1]);
      out[used++] = known != NULL ? to[known - from] : p[1];
      p += 2;
    }
  }
  *len = used;
  return p;
}
