/* decode.c - fuzzes host/decode.c with a fixed decoder.
 *
 * The first byte chooses fields, the rest is payloads between NULs. Each row's
 * cells and fault are compared with a search for one name at a time, which
 * knows no tree of names, no guess of the next key, and copies every text. */
#include "decode.h"
#include "fuzz.h"
#include "scan.h"

enum { FIELDS = 7, ROWS_MAX = 8 };

/* One field's outcome by the slow way; *code NULL: good. */
struct slow {
  const char *code;
  int vague; /* an escaped text too long for what is wanted */
  union cell cell;
  char *text; /* strings: the value */
  size_t len;
};


static void decoder_make(struct decoder *d, unsigned mask) {
  static const struct field fields[FIELDS] = {
      {.name = "symbol", .type = CELL_STRING, .max_chars = 8},
      {.name = "price",
       .type = CELL_DECIMAL,
       .precision = 20,
       .scale = 8,
       .positive = 1},
      {.name = "data.qty",
       .type = CELL_DECIMAL,
       .precision = 10,
       .scale = 2,
       .least = {.value = 0, .set = 1},
       .most = {.value = 50000, .set = 1}},
      {.name = "id", .type = CELL_INTEGER, .least = {.value = -128, .set = 1}},
      {.name = "time", .type = CELL_TIME},
      {.name = "data.n.s", .type = CELL_STRING},
      {.name = "data.n.at", .type = CELL_TIME, .unit = TIME_MS},
  };
  memset(d, 0, sizeof *d);
  for (int i = 0; i < FIELDS; i++) {
    if (((mask >> i) & 1) == 0)
      continue;
    struct field *f = decoder_add(d, fields[i].name, fields[i].type);
    EXPECT(f != NULL, "%s", fields[i].name);
    f->precision = fields[i].precision;
    f->scale = fields[i].scale;
    f->positive = fields[i].positive;
    f->max_chars = fields[i].max_chars;
    f->least = fields[i].least;
    f->most = fields[i].most;
    f->unit = fields[i].unit;
  }
  d->skip_tombstones = (mask >> 7) & 1;
}


/* A copy of the string's characters; NULL when it has a lone surrogate. */
static char *string_copy(const struct scan_value *v, size_t *len) {
  const char *end = v->text + v->len;
  char *out = malloc(v->len + 4);
  if (scan_unescape(v->text, end, out, v->len + 4, len) != end) {
    free(out);
    return NULL;
  }
  return out;
}


/* The last value of key `name` in a valid object; 0 when it has none. */
static int object_find(const struct scan_value *object, const char *name,
                       size_t name_len, struct scan_value *out) {
  struct scan s;
  struct scan_value key, v;
  int found = 0;
  scan_begin(&s, object->text, object->len);
  const char *p = scan_space(object->text + 1, s.end);
  while (*p != '}') {
    size_t len = 0;
    p = scan_string(&s, scan_space(p, s.end) + 1, &key);
    p = scan_value(&s, scan_space(p, s.end) + 1, 0, &v);
    char *text = string_copy(&key, &len);
    if (text != NULL && len == name_len && memcmp(text, name, len) == 0) {
      *out = v;
      found = 1;
    }
    free(text);
    p = scan_space(p, s.end);
    p += *p == ',';
  }
  return found;
}


/* Walk the dotted name; a fault's code, or NULL and the value. */
static const char *path_find(const struct scan_value *top, const char *name,
                             struct scan_value *out) {
  *out = *top;
  for (;;) {
    size_t len = strcspn(name, ".");
    struct scan_value object = *out;
    if (object.type != SCAN_OBJECT)
      return "type";
    if (!object_find(&object, name, len, out))
      return "missing";
    if (name[len] == '\0')
      return NULL;
    name += len + 1;
  }
}


static const char *number_code(int err) {
  return err == DECIMAL_OK       ? NULL
         : err == DECIMAL_SYNTAX ? "type"
         : err == DECIMAL_RANGE  ? "range"
                                 : "digits";
}


static const char *slow_number(const struct field *f, const char *text,
                               size_t len, union cell *cell) {
  int integer = f->type == CELL_INTEGER;
  decimal v = 0;
  const char *code = number_code(decimal_parse(
      text, len, integer ? 38 : f->precision, integer ? 0 : f->scale, &v));
  if (code != NULL)
    return code;
  if (integer && (v > INT64_MAX || v < INT64_MIN))
    return "range";
  if (f->positive && v <= 0)
    return "range";
  if ((f->least.set && v < f->least.value) ||
      (f->most.set && v > f->most.value))
    return "column";
  if (integer)
    cell->integer = (int64_t)v;
  else
    cell->number = v;
  return NULL;
}


static const char *slow_string(const struct field *f, const char *text,
                               size_t len) {
  uint32_t chars = 0;
  if (len == 0)
    return "empty";
  for (size_t i = 0; i < len; i++)
    chars += ((unsigned char)text[i] & 0xC0) != 0x80;
  return f->max_chars > 0 && chars > f->max_chars ? "column" : NULL;
}


static void slow_field(const struct field *f, const struct scan_value *top,
                       struct slow *out) {
  struct scan_value v;
  memset(out, 0, sizeof *out);
  out->code = path_find(top, f->name, &v);
  if (out->code != NULL)
    return;
  int string = v.type == SCAN_STRING;
  if (string) {
    out->text = string_copy(&v, &out->len);
    out->vague = v.escaped && out->len >= 120;
  } else if (v.type == SCAN_NUMBER && f->type != CELL_STRING) {
    out->text = malloc(v.len + 1);
    out->len = v.len;
    memcpy(out->text, v.text, v.len);
  } else {
    out->code = "type";
    return;
  }
  if (f->type == CELL_STRING)
    out->code =
        out->text == NULL ? "utf8" : slow_string(f, out->text, out->len);
  else if (f->type != CELL_TIME)
    out->code = out->text == NULL
                    ? "type"
                    : slow_number(f, out->text, out->len, &out->cell);
  else if (out->text == NULL || moment_parse(out->text, out->len, f->unit,
                                             &out->cell.integer) != MOMENT_OK)
    out->code = "time";
}


static void check_cell(const struct batch *b, const struct field *f,
                       const union cell *cell, const struct slow *slow) {
  if (f->type == CELL_STRING)
    EXPECT(cell->text.len == slow->len &&
               memcmp(batch_bytes(b, cell->text), slow->text, slow->len) == 0,
           "%s", f->path);
  else if (f->type == CELL_DECIMAL)
    EXPECT(cell->number == slow->cell.number, "%s", f->path);
  else
    EXPECT(cell->integer == slow->cell.integer, "%s", f->path);
}


static void check_fields(const struct decoder *d, const struct batch *b,
                         size_t row, const struct scan_value *top) {
  const struct fault *fault = batch_fault_of(b, row);
  int bad = 0, vague = 0, told = 0;
  for (size_t i = 0; i < d->count; i++) {
    const struct field *f = &d->fields[i];
    struct slow slow;
    slow_field(f, top, &slow);
    bad |= slow.code != NULL;
    vague |= slow.vague && f->type != CELL_STRING;
    if (fault == NULL && !vague) {
      EXPECT(slow.code == NULL, "%s should be %s", f->path, slow.code);
      check_cell(b, f, &batch_row(b, row)[i], &slow);
    } else if (fault != NULL && strcmp(fault->path, f->path) == 0) {
      told = slow.vague ||
             (slow.code != NULL && strcmp(fault->code, slow.code) == 0);
      EXPECT(told, "%s: %s (%s), not %s", f->path, fault->code, fault->text,
             slow.code != NULL ? slow.code : "good");
    }
    free(slow.text);
  }
  EXPECT(vague || (fault != NULL) == bad, "a row is good or bad");
  EXPECT(fault == NULL || told, "a fault of no field: %s", fault->path);
}


static void check_row(const struct decoder *d, const struct batch *b,
                      size_t row, const char *text, size_t len) {
  const struct fault *fault = batch_fault_of(b, row);
  struct scan s;
  struct scan_value top;
  EXPECT((fault != NULL) == (b->records[row].state == ROW_BAD), "fault");
  if (len == 0) {
    EXPECT(fault != NULL && strcmp(fault->code, "empty") == 0, "empty");
    return;
  }
  if (!scan_valid(&s, text, len)) {
    EXPECT(fault != NULL && strcmp(fault->path, "$") == 0 &&
               strcmp(fault->code, s.error == SCAN_UTF8 ? "utf8" : "json") == 0,
           "not JSON, but %s", fault != NULL ? fault->text : "good");
    return;
  }
  scan_value(&s, scan_begin(&s, text, len), 0, &top);
  if (top.type != SCAN_OBJECT)
    EXPECT(fault != NULL && strcmp(fault->code, "type") == 0, "no object");
  else
    check_fields(d, b, row, &top);
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct decoder d;
  struct batch b;
  struct bytes rest = {data, data + size};
  const char *texts[ROWS_MAX];
  size_t lens[ROWS_MAX];
  unsigned mask = (unsigned)take(&rest, 1);
  decoder_make(&d, mask % (1 << FIELDS) != 0 ? mask : mask | 1);
  batch_init(&b);
  const char *p = (const char *)rest.p, *end = (const char *)rest.end;
  while (b.count < ROWS_MAX && p < end) {
    const char *stop = memchr(p, '\0', (size_t)(end - p));
    size_t row = b.count;
    texts[row] = p;
    lens[row] = (size_t)((stop != NULL ? stop : end) - p);
    EXPECT(batch_add(&b, 0, (int64_t)row, 0, NULL, 0, p, lens[row]) == BATCH_OK,
           "no memory");
    p = stop != NULL ? stop + 1 : end;
  }
  EXPECT(decode_batch(&d, &b) == BATCH_OK, "no memory");
  for (size_t i = 0; i < b.count; i++)
    check_row(&d, &b, i, texts[i], lens[i]);
  batch_free(&b);
  return 0;
}
