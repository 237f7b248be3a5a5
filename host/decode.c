/* decode.c - turns the payloads of a batch into typed cells. See decode.h.
 *
 * Each payload is walked along the tree of field names (decode_plan.h); wanted
 * values are only remembered, so that of a repeated key the last counts and a
 * broken payload is told as such before any of its fields. Cells are made when
 * the whole payload is known to be sound. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "decode.h"
#include "decode_plan.h"
#include "scan.h"

enum { GOT_MAX = 40, GOT_SIZE = GOT_MAX + 8, SHORT_MAX = 128 };

/* Results of the steps below, beside BATCH_NOMEM and BATCH_FULL. */
enum { STEP_OK = BATCH_OK, STEP_FAULT = 1 };

/* What one payload gave. */
struct row {
  const struct decoder *d;
  const struct plan *plan;
  struct batch *b;
  size_t at; /* row number */
  struct scan scan;
  uint64_t seen;    /* fields whose value is in `values` */
  uint64_t outside; /* of those: the value is that of an outer key */
  uint64_t numbers; /* of those: a string that is exactly a number, and that
                       number is taken apart already */
  struct scan_value values[DECODE_MAX_FIELDS];
};


/* The key that was scanned into `key`, among those of `first`'s object. */
static int decode_find(const struct plan *plan, int first,
                       const struct scan_value *key) {
  char decoded[DECODE_NAME_MAX + 4];
  const char *name = key->text;
  size_t len = key->len;
  if (key->escaped) {
    const char *end = name + len;
    if (scan_unescape(name, end, decoded, sizeof decoded, &len) != end)
      return -1; /* too long for a field, or no characters at all */
    name = decoded;
  }
  int i = first;
  do {
    const struct node *n = &plan->nodes[i];
    if (n->len == len && memcmp(n->name, name, len) == 0)
      return i;
    i = n->next;
  } while (i != first);
  return -1;
}


/* The key whose opening quote is before `p`. *node is what it leads to, or -1;
 * `guess` is the key that came next in other messages. */
static const char *decode_key(struct row *r, const char *p, int guess,
                              int *node) {
  const struct node *n = &r->plan->nodes[guess];
  const char *end = r->scan.end;
  if ((size_t)(end - p) > n->len && p[n->len] == '"' && n->plain &&
      memcmp(p, n->name, n->len) == 0) {
    p += n->len + 1;
    *node = guess;
  } else {
    struct scan_value key;
    p = scan_string(&r->scan, p, &key);
    if (p == NULL)
      return NULL;
    *node = decode_find(r->plan, guess, &key);
  }
  p = scan_space(p, end);
  if (p == end || *p != ':')
    return scan_fail(&r->scan, p, "':'");
  return p + 1;
}


static const char *decode_object(struct row *r, const char *p, int first,
                                 int depth);


/* The value of field `i`. A string in which a number is wanted is read as a
 * number at once; only if it is none it is looked at again as a string. */
static const char *decode_leaf(struct row *r, const char *p, int i, int depth) {
  struct scan_value *v = &r->values[i];
  uint64_t bit = UINT64_C(1) << i;
  const char *end = r->scan.end, *wrong;
  r->seen |= bit;
  r->numbers &= ~bit;
  p = scan_space(p, end);
  if (p < end && *p == '"') {
    if (r->d->fields[i].type == CELL_STRING)
      return scan_string(&r->scan, p + 1, v);
    const char *after = number_scan(p + 1, end, &v->number, &wrong);
    if (after == NULL || after == end || *after != '"')
      return scan_string(&r->scan, p + 1, v);
    v->type = SCAN_STRING;
    v->text = p + 1;
    v->len = (size_t)(after - v->text);
    v->escaped = 0;
    v->wide = 0;
    r->numbers |= bit;
    return after + 1;
  }
  return scan_value(&r->scan, p, depth, v);
}


/* The value of a key that is on the way to fields. */
static const char *decode_value(struct row *r, const char *p,
                                const struct node *n, int depth) {
  struct scan_value outer;
  /* What an earlier value of the same key held is gone. */
  r->seen &= ~n->below;
  r->outside &= ~n->below;
  p = scan_space(p, r->scan.end);
  if (p < r->scan.end && *p == '{')
    return decode_object(r, p + 1, n->child, depth + 1);
  p = scan_value(&r->scan, p, depth, &outer);
  if (p == NULL)
    return NULL;
  r->seen |= n->below;
  r->outside |= n->below;
  for (uint64_t left = n->below; left != 0; left &= left - 1)
    r->values[__builtin_ctzll(left)] = outer;
  return p;
}


/* The object whose brace is before `p`. Not deeper than the field names. */
static const char *decode_object(struct row *r, const char *p, int first,
                                 int depth) {
  const char *end = r->scan.end;
  int guess = first, node;
  p = scan_space(p, end);
  if (p < end && *p == '}')
    return p + 1;
  for (;;) {
    if (p == end || *p != '"')
      return scan_fail(&r->scan, p, "a key");
    p = decode_key(r, p + 1, guess, &node);
    if (p == NULL)
      return NULL;
    if (node >= 0) {
      const struct node *n = &r->plan->nodes[node];
      guess = n->next;
      p = n->child < 0 ? decode_leaf(r, p, n->field, depth)
                       : decode_value(r, p, n, depth);
    } else {
      struct scan_value other;
      p = scan_value(&r->scan, p, depth, &other);
    }
    if (p == NULL)
      return NULL;
    p = scan_space(p, end);
    if (p == end || (*p != ',' && *p != '}'))
      return scan_fail(&r->scan, p, "',' or '}'");
    if (*p++ == '}')
      return p;
    p = scan_space(p, end);
  }
}


/* What came, for people: cut, and without control characters. */
static void decode_got(const struct scan_value *v, char *out) {
  size_t n = v->len < GOT_MAX ? v->len : GOT_MAX;
  if (n < v->len)
    while (n > 0 && ((unsigned char)v->text[n] & 0xC0) == 0x80)
      n--;
  const char *quote = v->type == SCAN_STRING ? "\"" : "";
  int len = snprintf(out, GOT_SIZE, "%s%.*s%s%s", quote, (int)n, v->text,
                     n < v->len ? "..." : "", quote);
  for (int i = 0; i < len; i++)
    if ((unsigned char)out[i] < 0x20 || out[i] == 0x7F)
      out[i] = ' ';
}


/* Mark the row bad: `code` and "TEXT, got VALUE". */
__attribute__((cold, format(printf, 5, 6))) static int
decode_fault(struct row *r, const struct field *f, const struct scan_value *v,
             const char *code, const char *fmt, ...) {
  char text[136], got[GOT_SIZE];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  decode_got(v, got);
  int err = batch_fault(r->b, r->at, code, f != NULL ? f->path : "$",
                        "%s, got %s", text, got);
  return err != BATCH_OK ? err : STEP_FAULT;
}


/* A short string without its escapes, and the number it may be. */
struct plain_text {
  char text[SHORT_MAX];
  size_t len;
  struct number number; /* its digits are in `text` */
};


/* Decode the escapes of a string into `out`; 0 when it is too long for what is
 * wanted, or no text. */
static int decode_plain(const struct scan_value *v, struct plain_text *out) {
  const char *end = v->text + v->len;
  return scan_unescape(v->text, end, out->text, sizeof out->text, &out->len) ==
         end;
}


/* The number that is field `i`: a JSON number, or a string that holds exactly
 * one. NULL: neither. */
static const struct number *decode_number(const struct row *r, size_t i,
                                          struct plain_text *room) {
  const struct scan_value *v = &r->values[i];
  const char *wrong;
  if (v->type == SCAN_NUMBER || (r->numbers >> i) & 1)
    return &v->number;
  if (v->type != SCAN_STRING || !v->escaped || !decode_plain(v, room))
    return NULL;
  const char *end = room->text + room->len;
  if (number_scan(room->text, end, &room->number, &wrong) != end)
    return NULL;
  return &room->number;
}


/* The bound that v is beyond: what the table's column holds; or NULL. */
static const struct field_bound *decode_beyond(const struct field *f,
                                               decimal v) {
  if (f->most.set && v > f->most.value)
    return &f->most;
  return f->least.set && v < f->least.value ? &f->least : NULL;
}


__attribute__((cold)) static int decode_column(struct row *r,
                                               const struct field *f,
                                               const struct scan_value *v,
                                               const struct field_bound *past) {
  char text[DECIMAL_TEXT_MAX];
  const char *word = past == &f->most ? "most" : "least";
  decimal_format(past->value, f->type == CELL_DECIMAL ? f->scale : 0, text);
  if (past->column[0] == '\0')
    return decode_fault(r, f, v, "column", "expected at %s %s", word, text);
  return decode_fault(r, f, v, "column", "column '%.60s' holds at %s %s",
                      past->column, word, text);
}


static int decode_decimal(struct row *r, size_t i, union cell *cell) {
  const struct field *f = &r->d->fields[i];
  const struct scan_value *v = &r->values[i];
  struct plain_text room;
  const struct number *n = decode_number(r, i, &room);
  if (n == NULL)
    return decode_fault(r, f, v, "type", "expected a decimal");
  decimal value = 0;
  int err = decimal_of(n, f->precision, f->scale, &value);
  if (err == DECIMAL_RANGE)
    return decode_fault(r, f, v, "range", "beyond decimal(%d,%d)", f->precision,
                        f->scale);
  if (err == DECIMAL_DIGITS)
    return decode_fault(r, f, v, "digits",
                        "more than %d digits after the point", f->scale);
  if (f->positive && value <= 0)
    return decode_fault(r, f, v, "range", "expected more than 0");
  const struct field_bound *past = decode_beyond(f, value);
  if (past != NULL)
    return decode_column(r, f, v, past);
  cell->number = value;
  return STEP_OK;
}


static int decode_integer(struct row *r, size_t i, union cell *cell) {
  const struct field *f = &r->d->fields[i];
  const struct scan_value *v = &r->values[i];
  struct plain_text room;
  const struct number *n = decode_number(r, i, &room);
  if (n == NULL)
    return decode_fault(r, f, v, "type", "expected an integer");
  decimal value = 0;
  int err = decimal_of(n, DECIMAL_MAX_PRECISION, 0, &value);
  if (err == DECIMAL_DIGITS)
    return decode_fault(r, f, v, "digits", "expected a whole number");
  if (err == DECIMAL_RANGE || value > INT64_MAX || value < INT64_MIN)
    return decode_fault(r, f, v, "range", "beyond 64 bits");
  if (f->positive && value <= 0)
    return decode_fault(r, f, v, "range", "expected more than 0");
  const struct field_bound *past = decode_beyond(f, value);
  if (past != NULL)
    return decode_column(r, f, v, past);
  cell->integer = (int64_t)value;
  return STEP_OK;
}


static int decode_time(struct row *r, size_t i, union cell *cell) {
  const struct field *f = &r->d->fields[i];
  const struct scan_value *v = &r->values[i];
  int err = MOMENT_SYNTAX;
  if (v->type == SCAN_NUMBER || (r->numbers >> i) & 1) {
    err = moment_of(&v->number, f->unit, &cell->integer);
  } else if (v->type != SCAN_STRING) {
    return decode_fault(r, f, v, "type", "expected a time");
  } else if (!v->escaped) {
    err = moment_parse(v->text, v->len, f->unit, &cell->integer);
  } else {
    struct plain_text room;
    if (decode_plain(v, &room))
      err = moment_parse(room.text, room.len, f->unit, &cell->integer);
  }
  if (err != MOMENT_OK)
    return decode_fault(r, f, v, "time", "%s", moment_explain(err));
  return STEP_OK;
}


/* Characters of valid UTF-8. */
static size_t decode_chars(const char *p, size_t len) {
  size_t n = 0;
  for (size_t i = 0; i < len; i++)
    n += ((unsigned char)p[i] & 0xC0) != 0x80;
  return n;
}


/* A string whose bytes are in place, with `chars` characters or fewer. */
static int decode_limit(struct row *r, const struct field *f,
                        const struct scan_value *v, size_t chars) {
  if (f->max_chars == 0 || chars <= f->max_chars)
    return STEP_OK;
  if (f->max_column[0] == '\0')
    return decode_fault(r, f, v, "column", "expected at most %u characters",
                        f->max_chars);
  return decode_fault(r, f, v, "column",
                      "column '%.60s' holds at most %u characters",
                      f->max_column, f->max_chars);
}


/* A string without escapes stays where it is. */
static int decode_string(struct row *r, size_t i, union cell *cell) {
  const struct field *f = &r->d->fields[i];
  const struct scan_value *v = &r->values[i];
  if (v->type != SCAN_STRING)
    return decode_fault(r, f, v, "type", "expected a string");
  if (v->len == 0)
    return decode_fault(r, f, v, "empty",
                        "expected a string that is not empty");
  cell->text.at = (uint32_t)(v->text - r->b->arena);
  cell->text.len = (uint32_t)v->len;
  if (f->max_chars == 0 || v->escaped || v->len <= f->max_chars)
    return STEP_OK;
  return decode_limit(r, f, v,
                      v->wide ? decode_chars(v->text, v->len) : v->len);
}


/* The cell holds a string with escapes: append what they mean to the arena,
 * piece by piece, because the arena moves while it grows. */
static int decode_escapes(struct row *r, const struct field *f,
                          union cell *cell) {
  struct batch *b = r->b;
  struct span raw = cell->text, piece, whole = {0, 0};
  size_t from = raw.at, end = (size_t)raw.at + raw.len, chars = 0;
  struct scan_value v = {.type = SCAN_STRING};
  while (from < end) {
    char decoded[256];
    size_t len;
    const char *p = scan_unescape(b->arena + from, b->arena + end, decoded,
                                  sizeof decoded, &len);
    v.text = b->arena + raw.at;
    v.len = raw.len;
    if (p == NULL)
      return decode_fault(r, f, &v, "utf8", "a surrogate without its partner");
    from = (size_t)(p - b->arena);
    int err = batch_text(b, decoded, len, &piece);
    if (err != BATCH_OK)
      return err;
    if (whole.len == 0)
      whole.at = piece.at;
    whole.len += piece.len;
    chars += decode_chars(decoded, len);
  }
  v.text = b->arena + raw.at;
  cell->text = whole;
  return decode_limit(r, f, &v, chars);
}


static int decode_field(struct row *r, size_t i, union cell *cell) {
  const struct field *f = &r->d->fields[i];
  const struct scan_value *v = &r->values[i];
  if (((r->seen >> i) & 1) == 0) {
    int err =
        batch_fault(r->b, r->at, "missing", f->path, "the field is missing");
    return err != BATCH_OK ? err : STEP_FAULT;
  }
  if ((r->outside >> i) & 1)
    return decode_fault(r, f, v, "type", "expected an object around it");
  switch (f->type) {
  case CELL_STRING:
    return decode_string(r, i, cell);
  case CELL_DECIMAL:
    return decode_decimal(r, i, cell);
  case CELL_INTEGER:
    return decode_integer(r, i, cell);
  default:
    return decode_time(r, i, cell);
  }
}


/* Scan one payload into `r`. Faults of the payload as a whole come from here.
 */
static int decode_payload(struct row *r, struct span value) {
  const char *text = batch_bytes(r->b, value);
  struct scan_value top = {.type = SCAN_OBJECT};
  r->seen = 0;
  r->outside = 0;
  r->numbers = 0;
  const char *p = scan_begin(&r->scan, text, value.len);
  p = scan_space(p, r->scan.end);
  if (p < r->scan.end && *p == '{' && r->plan->nodes[0].child >= 0)
    p = decode_object(r, p + 1, r->plan->nodes[0].child, 1);
  else
    p = scan_value(&r->scan, p, 0, &top);
  if (p == NULL || scan_finish(&r->scan, p) == NULL) {
    char why[SCAN_TEXT_MAX];
    scan_explain(&r->scan, why);
    int err =
        batch_fault(r->b, r->at, r->scan.error == SCAN_UTF8 ? "utf8" : "json",
                    "$", "%s", why);
    return err != BATCH_OK ? err : STEP_FAULT;
  }
  if (top.type != SCAN_OBJECT)
    return decode_fault(r, NULL, &top, "type", "expected an object");
  return STEP_OK;
}


static int decode_row(struct row *r, struct span value) {
  union cell *cells = batch_row(r->b, r->at);
  uint64_t escaped = 0;
  int err = decode_payload(r, value);
  for (size_t i = 0; i < r->d->count && err == STEP_OK; i++) {
    err = decode_field(r, i, &cells[i]);
    if (err == STEP_OK && r->d->fields[i].type == CELL_STRING &&
        r->values[i].escaped)
      escaped |= UINT64_C(1) << i;
  }
  /* Last, because the remembered values point into the arena. */
  for (; escaped != 0 && err == STEP_OK; escaped &= escaped - 1) {
    int i = __builtin_ctzll(escaped);
    err = decode_escapes(r, &r->d->fields[i], &cells[i]);
  }
  return err;
}


int decode_batch(const struct decoder *d, struct batch *b) {
  struct plan plan;
  struct row r;
  plan_make(&plan, d);
  r.d = d;
  r.plan = &plan;
  r.b = b;
  int err = batch_widen(b, d->count + d->extra);
  for (size_t i = 0; i < b->count && err >= BATCH_OK; i++) {
    struct record *record = &b->records[i];
    if (record->state != ROW_GOOD)
      continue;
    r.at = i;
    if (record->null_value && d->skip_tombstones)
      record->state = ROW_SKIPPED;
    else if (record->null_value)
      err = batch_fault(b, i, "null", "$", "the payload is null");
    else if (record->value.len == 0)
      err = batch_fault(b, i, "empty", "$", "the payload is empty");
    else
      err = decode_row(&r, record->value);
  }
  return err < BATCH_OK ? err : BATCH_OK;
}
