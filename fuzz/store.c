/* store.c - fuzzes the window store: every row must come out exactly once.
 *
 * The input makes a log of a few partitions, then plays a pipeline over it:
 * partitions are opened, read in batches, sealed, committed or rolled back,
 * settled or merged back, and lost in between, in any order. A database of the
 * target's adds what is committed. In the end it must hold what one reading of
 * each log from its first record gives, counted row by row without a store. */
#include "fuzz.h"
#include "upsert.h"

enum {
  PARTITIONS = 4,
  LOG_MAX = 40,
  GROUPS_MAX = 4096,
  INDEX = 2 * GROUPS_MAX,
  NOTES_MAX = 4096,
  WINDOWS = 3,
  PARTS = 6,
  CELLS = 4, /* time, value, text key, integer key */
  NOW = 4000,
  MAX_FUTURE = 200,
  VALUE_MAX = 1000
};

struct row {
  enum row_state state;
  int64_t offset; /* logs have holes */
  int64_t time_ms;
  decimal value;
  int64_t key; /* the text key is its digits */
};

/* The committed row of a key and window. */
struct group {
  size_t window;
  int64_t key, start_ms;
  int64_t count, late;
  decimal sum, product, min, max, first, last;
  struct place first_at, last_at;
};

struct database {
  struct group groups[GROUPS_MAX];
  uint16_t index[INDEX]; /* of a group, from 1; 0: none */
  size_t count;
  struct {
    enum note_kind kind;
    int32_t partition;
    int64_t offset, start_ms;
    unsigned window;
  } notes[NOTES_MAX];
  size_t note_count;
  int64_t counted, dead, late, too_late, dropped, skipped;
};

struct progress {
  int64_t position, watermark_ms, last_offset;
  uint64_t last_hash;
  int at_end;
};

enum flight { FLIGHT_NONE, FLIGHT_OPEN, FLIGHT_DONE, FLIGHT_FAILED };

static struct store store;
static struct row logs[PARTITIONS][LOG_MAX];
static size_t log_len[PARTITIONS], read_at[PARTITIONS];
static struct progress progress[PARTITIONS];
static struct database db, want;
static enum flight flight;
static struct sqltext whole, pieces;


/* --- the store and the logs, from the input --- */

static void store_make(struct bytes *b) {
  static const struct part parts[PARTS] = {
      {.op = PART_SUM, .cell = 1},
      {.op = PART_PRODUCT, .cell = 1, .cell_b = 1},
      {.op = PART_MIN, .cell = 1},
      {.op = PART_MAX, .cell = 1},
      {.op = PART_FIRST, .cell = 1},
      {.op = PART_LAST, .cell = 1}};
  store_init(&store);
  store.time_cell = 0;
  store.max_delay_ms = take_below(b, 50);
  store.max_future_ms = MAX_FUTURE;
  store.window_count = 1 + take_below(b, WINDOWS);
  for (size_t w = 0; w < store.window_count; w++) {
    struct window *win = &store.windows[w];
    win->size_ms = 1 + take_below(b, 200);
    win->hop_ms = win->size_ms;
    if (take_below(b, 2) == 0) {
      win->hop_ms = 1 + take_below(b, (unsigned)win->size_ms);
      if (win->size_ms / win->hop_ms > 6)
        win->hop_ms = win->size_ms / 6 + 1;
    }
    win->lateness_ms = take_below(b, 2) == 0 ? 0 : take_below(b, 100);
    win->key_integer = (int)take_below(b, 2);
    win->key_cell = win->key_integer ? 3 : 2;
    for (int i = 0; i < FLOOR_COUNT; i++)
      win->floors[i] = STORE_NO_TIME;
    if (take_below(b, 4) == 0)
      win->floors[take_below(b, FLOOR_COUNT)] = take_below(b, 600);
    memcpy(win->parts, parts, sizeof parts);
    win->part_count = PARTS;
    win->slots = parts_layout(win->parts, PARTS);
  }
}


/* From a few bytes of the input, so that the rest of it is what happens. */
static void logs_make(struct bytes *input) {
  static uint8_t noise[PARTITIONS * (LOG_MAX + 1) * 8];
  uint64_t x = take(input, 4) + 1;
  for (size_t i = 0; i < sizeof noise; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    noise[i] = (uint8_t)(x >> 32);
  }
  struct bytes rest = {noise, noise + sizeof noise}, *b = &rest;
  for (int p = 0; p < PARTITIONS; p++) {
    int64_t offset = take_below(b, 3), time_ms = take_below(b, 256);
    log_len[p] = take_below(input, LOG_MAX + 1);
    for (size_t i = 0; i < log_len[p]; i++) {
      unsigned kind = take_below(b, 256);
      struct row *r = &logs[p][i];
      r->state = kind % 16 == 0   ? ROW_BAD
                 : kind % 16 == 1 ? ROW_DROPPED
                 : kind % 16 == 2 ? ROW_SKIPPED
                                  : ROW_GOOD;
      r->offset = offset;
      offset += 1 + (kind / 16 == 15);
      time_ms += kind / 16;
      r->time_ms = time_ms - take_below(b, 256);
      if (r->time_ms < 0)
        r->time_ms = 0;
      if (kind == 255)
        r->time_ms += NOW;
      r->key = kind / 16 % 4;
      r->value = (decimal)take_below(b, VALUE_MAX) - VALUE_MAX / 2;
    }
  }
}


/* --- the database --- */

static int before(const struct place *a, const struct place *b) {
  return a->time_ms != b->time_ms       ? a->time_ms < b->time_ms
         : a->partition != b->partition ? a->partition < b->partition
                                        : a->offset < b->offset;
}


/* Where the index has, or would have, the group of a key and window. */
static uint16_t *database_find(struct database *d, const struct group *g) {
  size_t at = (size_t)(g->start_ms * 31 + g->key * 7) + g->window * 1013;
  for (;; at++) {
    uint16_t *i = &d->index[at % INDEX];
    const struct group *is = &d->groups[*i - (*i > 0)];
    if (*i == 0 || (is->window == g->window && is->key == g->key &&
                    is->start_ms == g->start_ms))
      return i;
  }
}


static void database_add(struct database *d, const struct group *g) {
  uint16_t *i = database_find(d, g);
  EXPECT(d->count < GROUPS_MAX, "too many groups");
  if (*i == 0) {
    *i = (uint16_t)++d->count;
    d->groups[*i - 1] = *g;
    return;
  }
  struct group *into = &d->groups[*i - 1];
  into->count += g->count;
  into->late += g->late;
  into->sum += g->sum;
  into->product += g->product;
  into->min = g->min < into->min ? g->min : into->min;
  into->max = g->max > into->max ? g->max : into->max;
  if (before(&g->first_at, &into->first_at)) {
    into->first = g->first;
    into->first_at = g->first_at;
  }
  if (before(&into->last_at, &g->last_at)) {
    into->last = g->last;
    into->last_at = g->last_at;
  }
}


static void database_note(struct database *d, enum note_kind kind,
                          int32_t partition, int64_t offset, unsigned window,
                          int64_t start_ms) {
  EXPECT(d->note_count < NOTES_MAX, "too many notes");
  size_t i = d->note_count++;
  d->notes[i].kind = kind;
  d->notes[i].partition = partition;
  d->notes[i].offset = offset;
  d->notes[i].window = window;
  d->notes[i].start_ms = start_ms;
}


/* --- what the logs come to, without a store --- */

static int64_t floor_to(int64_t a, int64_t step) {
  int64_t rest = a % step;
  return a - (rest < 0 ? rest + step : rest);
}


static void plain_good(int32_t p, const struct row *r, int64_t watermark_ms) {
  int added = 0, late = 0;
  for (size_t w = 0; w < store.window_count; w++) {
    const struct window *win = &store.windows[w];
    int64_t start = floor_to(r->time_ms, win->hop_ms);
    for (; start + win->size_ms > r->time_ms; start -= win->hop_ms) {
      int64_t end = start + win->size_ms;
      int over = watermark_ms != STORE_NO_TIME && watermark_ms >= end;
      int refused = over && watermark_ms - end >= win->lateness_ms;
      for (int i = 0; i < FLOOR_COUNT; i++)
        refused |= start < win->floors[i];
      late |= over;
      if (refused) {
        database_note(&want, NOTE_LATE, p, r->offset, (unsigned)w, start);
        continue;
      }
      struct place at = {r->time_ms, r->offset, p};
      struct group g = {w,
                        r->key,
                        start,
                        1,
                        over,
                        r->value,
                        r->value * r->value,
                        r->value,
                        r->value,
                        r->value,
                        r->value,
                        at,
                        at};
      database_add(&want, &g);
      added = 1;
    }
  }
  want.counted += added;
  want.too_late += !added;
  want.late += added && late;
}


static void plain_log(int32_t p) {
  int64_t watermark_ms = STORE_NO_TIME;
  for (size_t i = 0; i < log_len[p]; i++) {
    const struct row *r = &logs[p][i];
    int timed = r->state == ROW_GOOD || r->state == ROW_DROPPED;
    if (r->state == ROW_BAD || (timed && r->time_ms - NOW > MAX_FUTURE)) {
      database_note(&want, NOTE_DEAD, p, r->offset, 0, 0);
      want.dead++;
      continue;
    }
    want.skipped += r->state == ROW_SKIPPED;
    want.dropped += r->state == ROW_DROPPED;
    if (r->state == ROW_GOOD)
      plain_good(p, r, watermark_ms);
    if (timed && (watermark_ms == STORE_NO_TIME ||
                  r->time_ms - store.max_delay_ms > watermark_ms))
      watermark_ms = r->time_ms - store.max_delay_ms;
  }
}


/* --- the pipeline --- */

/* Claim: what the database says, and from there on the log. */
static void play_open(int32_t p) {
  const struct partition *part = store_partition(&store, p);
  if (part != NULL && part->sealed && flight == FLIGHT_OPEN)
    return; /* a claim waits for the transaction */
  const struct progress *at = &progress[p];
  EXPECT(store_open(&store, p, at->position, at->watermark_ms, at->at_end) ==
             STORE_OK,
         "no memory");
  read_at[p] = 0;
  if (at->last_offset >= 0)
    store_verify(&store, p, at->last_offset, at->last_hash);
}


static void batch_row_add(struct batch *b, int32_t p, const struct row *r) {
  char text[32];
  int n = snprintf(text, sizeof text, "%lld", (long long)r->key);
  int null = r->state == ROW_SKIPPED || (r->state == ROW_BAD && r->key == 0);
  EXPECT(batch_add(b, p, r->offset, r->offset, NULL, 0, null ? NULL : text,
                   (size_t)n) == BATCH_OK,
         "no memory");
}


/* Some records of a partition, from where the last ones ended. */
static void play_read(struct bytes *b, struct batch *batch, int32_t p,
                      const struct row **rows) {
  size_t n = take_below(b, 12);
  /* A consumer may give records again. */
  if (take_below(b, 16) == 0 && read_at[p] > 0)
    read_at[p] -= 1 + take_below(b, (unsigned)read_at[p]);
  for (; n > 0 && read_at[p] < log_len[p]; n--) {
    rows[batch->count] = &logs[p][read_at[p]++];
    batch_row_add(batch, p, rows[batch->count]);
  }
  if (read_at[p] == log_len[p] && log_len[p] > 0)
    EXPECT(batch_end(batch, p, logs[p][log_len[p] - 1].offset + 1) == BATCH_OK,
           "no memory");
}


static void batch_cells(struct batch *batch, const struct row *const *rows) {
  EXPECT(batch_widen(batch, CELLS) == BATCH_OK, "no memory");
  for (size_t i = 0; i < batch->count; i++) {
    batch->records[i].state = (uint8_t)rows[i]->state;
    union cell *cells = batch_row(batch, i);
    cells[0].integer = rows[i]->time_ms;
    cells[1].number = rows[i]->value;
    cells[2].text = batch->records[i].value;
    cells[3].integer = rows[i]->key;
    if (rows[i]->state == ROW_BAD) {
      batch->records[i].state = ROW_GOOD;
      EXPECT(batch_fault(batch, i, "json", "$", "bad") == BATCH_OK, "memory");
    }
  }
}


static void play_add(struct bytes *b, unsigned partitions) {
  const struct row *rows[PARTITIONS * 16];
  struct batch batch;
  struct tally t;
  batch_init(&batch);
  for (int32_t p = 0; p < PARTITIONS; p++)
    if ((partitions >> p) & 1)
      play_read(b, &batch, p, rows);
  batch_cells(&batch, rows);
  EXPECT(store_add(&store, &batch, NOW, &t) == STORE_OK, "no memory");
  EXPECT(t.counted + t.dead + t.too_late + t.dropped + t.skipped + t.stale ==
             (int64_t)batch.count,
         "rows without a fate");
  for (int32_t p = 0; p < PARTITIONS; p++) {
    const struct partition *part = store_partition(&store, p);
    EXPECT(part == NULL || !part->mismatch, "its own record not recognised");
  }
  batch_free(&batch);
}


/* One sealed row of window `w`, through the numbers that SQL is made of. */
static void commit_row(const struct merged *m, size_t w,
                       const struct delta *d) {
  const struct part *parts = store.windows[w].parts;
  char key[32], product[WIDE_TEXT_MAX];
  snprintf(key, sizeof key, "%.*s", (int)d->key_len, delta_key(&m->table, d));
  wide_format((const struct wide *)(const void *)&d->slots[parts[1].slot], 0,
              product);
  struct group g = {.window = w,
                    .key = atoll(key),
                    .start_ms = d->start_ms,
                    .count = d->count,
                    .late = d->late,
                    .sum = d->slots[parts[0].slot],
                    .product = atoll(product),
                    .min = d->slots[parts[2].slot],
                    .max = d->slots[parts[3].slot],
                    .first = d->slots[parts[4].slot],
                    .last = d->slots[parts[5].slot],
                    .first_at = delta_place(d, &parts[4]),
                    .last_at = delta_place(d, &parts[5])};
  EXPECT(g.count > 0, "an empty row");
  database_add(&db, &g);
}


/* The statement in pieces has the rows of the statement in one. */
static void check_render(const struct merged *m, size_t w, size_t max_rows) {
  static const struct out outs[] = {{.kind = OUT_KEY},
                                    {.kind = OUT_START, .fraction = 3},
                                    {.kind = OUT_COUNT},
                                    {.kind = OUT_AVG, .column_scale = 4},
                                    {.kind = OUT_PLACE, .part = 4}};
  const struct window *win = &store.windows[w];
  size_t count = sizeof outs / sizeof *outs;
  whole.len = pieces.len = 0;
  if (m->count == 0)
    return;
  EXPECT(upsert_render(m, win, outs, count, 0, 0, SIZE_MAX, SIZE_MAX, &whole) ==
             m->count,
         "rows left");
  for (size_t from = 0; from < m->count;) {
    if (from > 0)
      sqltext_add(&pieces, ",", 1);
    size_t next = upsert_render(m, win, outs, count, 0, from, max_rows,
                                SIZE_MAX, &pieces);
    EXPECT(next > from && next - from <= max_rows, "%zu rows", next - from);
    from = next;
  }
  EXPECT(whole.len == pieces.len &&
             memcmp(whole.bytes, pieces.bytes, whole.len) == 0,
         "pieces");
}


/* The transaction: rows, notes, counters and positions, all at once. */
static void play_commit(struct bytes *b) {
  for (size_t w = 0; w < store.window_count; w++) {
    struct merged m;
    EXPECT(merged_init(&m, &store, w) == 0, "no memory");
    for (size_t i = 0; i < m.count; i++)
      commit_row(&m, w, merged_row(&m, i));
    check_render(&m, w, 1 + take_below(b, 8));
    merged_free(&m);
  }
  for (int32_t p = 0; p < PARTITIONS; p++) {
    const struct partition *part = store_partition(&store, p);
    if (part == NULL || !part->sealed)
      continue;
    const struct buffer *buf = &part->buffers[!part->active];
    int64_t last = -1;
    for (const struct note *n = buf->notes.first; n != NULL; n = n->next) {
      EXPECT(n->offset >= last, "notes out of order");
      last = n->offset;
      database_note(&db, n->kind, n->partition, n->offset, n->window,
                    n->start_ms);
    }
    db.counted += buf->counted;
    db.dead += buf->dead;
    db.late += buf->late;
    db.too_late += buf->too_late;
    db.dropped += buf->dropped;
    db.skipped += buf->skipped;
    EXPECT(buf->position >= progress[p].position, "a position went back");
    progress[p].position = buf->position;
    progress[p].watermark_ms = buf->watermark_ms;
    progress[p].at_end = buf->at_end;
    if (buf->last_offset >= 0) {
      progress[p].last_offset = buf->last_offset;
      progress[p].last_hash = buf->last_hash;
    }
  }
  flight = FLIGHT_DONE;
}


/* The host learns how the transaction ended. */
static void play_outcome(void) {
  if (flight == FLIGHT_DONE)
    store_settle(&store);
  else if (flight == FLIGHT_FAILED)
    EXPECT(store_unseal(&store) == STORE_OK, "no memory");
  else
    return;
  flight = FLIGHT_NONE;
}


static void play(struct bytes *b) {
  unsigned step = take_below(b, 256);
  int32_t p = (int32_t)(step / 16 % PARTITIONS);
  switch (step % 16) {
  case 0:
    store_drop(&store, p);
    break;
  case 1:
  case 2:
    play_open(p);
    break;
  case 3:
  case 4:
    if (flight == FLIGHT_NONE && store_seal(&store, take_below(b, 12)) > 0)
      flight = FLIGHT_OPEN;
    break;
  case 5:
  case 6:
    if (flight == FLIGHT_OPEN)
      play_commit(b);
    break;
  case 7:
    if (flight == FLIGHT_OPEN)
      flight = FLIGHT_FAILED;
    break;
  case 8:
  case 9:
    play_outcome();
    break;
  default:
    play_add(b, step / 16);
  }
}


/* Whatever happened: claim all, read all, commit all. */
static void play_out(struct bytes *b) {
  if (flight == FLIGHT_OPEN)
    flight = FLIGHT_FAILED;
  play_outcome();
  for (int32_t p = 0; p < PARTITIONS; p++) {
    play_open(p);
    do {
      struct bytes all = {(const uint8_t *)"\x0B\x01", NULL};
      all.end = all.p + 2;
      play_add(&all, 1u << p);
    } while (read_at[p] < log_len[p]);
  }
  while (store_seal(&store, take_below(b, 12)) > 0) {
    play_commit(b);
    play_outcome();
  }
}


/* --- the comparison --- */

static int same_group(const struct group *a, const struct group *b) {
  return a->count == b->count && a->late == b->late && a->sum == b->sum &&
         a->product == b->product && a->min == b->min && a->max == b->max &&
         a->first == b->first && a->last == b->last;
}


static void check_groups(void) {
  EXPECT(db.count == want.count, "%zu rows, not %zu", db.count, want.count);
  for (size_t i = 0; i < want.count; i++) {
    const struct group *g = &want.groups[i];
    uint16_t k = *database_find(&db, g);
    EXPECT(k > 0, "a row is lost");
    const struct group *is = &db.groups[k - 1];
    EXPECT(same_group(g, is),
           "window %zu, key %lld, start %lld: %lld rows, not %lld", g->window,
           (long long)g->key, (long long)g->start_ms, (long long)is->count,
           (long long)g->count);
  }
}


static void check_notes(void) {
  EXPECT(db.note_count == want.note_count, "%zu notes, not %zu", db.note_count,
         want.note_count);
  for (size_t i = 0; i < want.note_count; i++) {
    size_t k = 0;
    while (k < db.note_count &&
           (db.notes[k].kind != want.notes[i].kind ||
            db.notes[k].partition != want.notes[i].partition ||
            db.notes[k].offset != want.notes[i].offset ||
            db.notes[k].window != want.notes[i].window ||
            db.notes[k].start_ms != want.notes[i].start_ms))
      k++;
    EXPECT(k < db.note_count, "a note is lost");
  }
}


static void database_clear(struct database *d) {
  memset(d->index, 0, sizeof d->index);
  d->count = d->note_count = 0;
  d->counted = d->dead = d->late = 0;
  d->too_late = d->dropped = d->skipped = 0;
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct bytes b = {data, data + size};
  database_clear(&db);
  database_clear(&want);
  flight = FLIGHT_NONE;
  for (int p = 0; p < PARTITIONS; p++) {
    progress[p] =
        (struct progress){.watermark_ms = STORE_NO_TIME, .last_offset = -1};
    read_at[p] = 0;
  }
  store_make(&b);
  logs_make(&b);
  for (int32_t p = 0; p < PARTITIONS; p++)
    plain_log(p);
  unsigned claimed = take_below(&b, 1 << PARTITIONS);
  for (int32_t p = 0; p < PARTITIONS; p++)
    if ((claimed >> p) & 1)
      play_open(p);
  while (b.p < b.end)
    play(&b);
  play_out(&b);
  check_groups();
  check_notes();
  EXPECT(db.counted == want.counted && db.dead == want.dead &&
             db.late == want.late && db.too_late == want.too_late &&
             db.dropped == want.dropped && db.skipped == want.skipped,
         "counters");
  store_free(&store);
  return 0;
}
