/* store_test.c - what is late, what is counted, what a commit holds.
 *
 * A second, slow reading of the definitions walks the same log: the sums of all
 * settled buffers must be its sums, whatever was sealed, settled, merged back
 * or read twice in between. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "store.h"

enum { TIME, VALUE, KEY, CELLS };
enum { PARTITIONS = 3, SPAN = 2000, STARTS = 2 * SPAN };

static int64_t floor_to(int64_t t, int64_t step) {
  int64_t rest = t % step;
  return t - (rest < 0 ? rest + step : rest);
}


/* --- the definitions, once more --------------------------------------------
 */

struct fate {
  int64_t counted, dead, late, too_late, dropped, skipped;
};

struct model {
  int64_t size, hop, lateness, max_delay, max_future, floor;
  int64_t greatest[PARTITIONS];
  int64_t sum[2][STARTS], count[2][STARTS], revised[2][STARTS];
  struct fate fate;
  int64_t notes_dead, notes_late;
};

#define NEVER INT64_MIN


static void model_init(struct model *m) {
  memset(m, 0, sizeof *m);
  for (int p = 0; p < PARTITIONS; p++)
    m->greatest[p] = NEVER;
}


static void model_add(struct model *m, int p, enum row_state state, int key,
                      int64_t time, int64_t value, int64_t now) {
  if (state == ROW_SKIPPED) {
    m->fate.skipped++;
    return;
  }
  if (state == ROW_BAD || time > now + m->max_future) {
    m->fate.dead++;
    m->notes_dead++;
    return;
  }
  int64_t w = m->greatest[p] == NEVER ? NEVER : m->greatest[p] - m->max_delay;
  if (state == ROW_DROPPED) {
    m->fate.dropped++;
  } else {
    int counted = 0, late = 0;
    for (int64_t s = floor_to(time, m->hop); s + m->size > time; s -= m->hop) {
      int64_t end = s + m->size;
      int is_late = w != NEVER && w >= end;
      late |= is_late;
      if (s < m->floor || (is_late && w >= end + m->lateness)) {
        m->notes_late++;
        continue;
      }
      m->sum[key][s + SPAN] += value;
      m->count[key][s + SPAN]++;
      m->revised[key][s + SPAN] += is_late;
      counted = 1;
    }
    m->fate.counted += counted;
    m->fate.too_late += !counted;
    m->fate.late += counted && late;
  }
  if (m->greatest[p] == NEVER || time > m->greatest[p])
    m->greatest[p] = time;
}


/* --- the store under test ---------------------------------------------------
 */

struct totals {
  int64_t sum[2][STARTS], count[2][STARTS], revised[2][STARTS];
  struct fate fate;
  int64_t notes_dead, notes_late;
  int64_t position[PARTITIONS], watermark[PARTITIONS];
};


static void setup(struct store *s, const struct model *m) {
  store_init(s);
  s->time_cell = TIME;
  s->max_delay_ms = m->max_delay;
  s->max_future_ms = m->max_future;
  s->window_count = 1;
  struct window *win = &s->windows[0];
  win->size_ms = m->size;
  win->hop_ms = m->hop;
  win->lateness_ms = m->lateness;
  win->key_cell = KEY;
  for (int i = 0; i < FLOOR_COUNT; i++)
    win->floors[i] = STORE_NO_TIME;
  win->floors[FLOOR_ADOPTED] = m->floor;
  win->parts[0] = (struct part){.op = PART_SUM, .cell = VALUE};
  win->part_count = 1;
  win->slots = parts_layout(win->parts, 1);
}


/* Add the sealed buffers to the totals, as a commit would. */
static void commit(struct store *s, struct totals *t) {
  for (int p = 0; p < PARTITIONS; p++) {
    struct partition *part = store_partition(s, p);
    if (part == NULL || !part->sealed)
      continue;
    struct buffer *buf = &part->buffers[!part->active];
    for (size_t i = 0; i < buf->tables[0].count; i++) {
      const struct delta *d = delta_at(&buf->tables[0], i);
      int key = *delta_key(&buf->tables[0], d) == 'B';
      t->sum[key][d->start_ms + SPAN] += (int64_t)d->slots[0];
      t->count[key][d->start_ms + SPAN] += d->count;
      t->revised[key][d->start_ms + SPAN] += d->late;
    }
    for (const struct note *n = buf->notes.first; n != NULL; n = n->next)
      *(n->kind == NOTE_DEAD ? &t->notes_dead : &t->notes_late) += 1;
    t->fate.counted += buf->counted;
    t->fate.dead += buf->dead;
    t->fate.late += buf->late;
    t->fate.too_late += buf->too_late;
    t->fate.dropped += buf->dropped;
    t->fate.skipped += buf->skipped;
    CHECK(buf->position >= t->position[p], "the position goes back");
    t->position[p] = buf->position;
    t->watermark[p] = buf->watermark_ms;
  }
}


/* One record of the log. */
struct event {
  int partition, key;
  enum row_state state;
  int64_t offset, time, value;
};


static void put(struct batch *b, const struct event *e) {
  size_t i = b->count;
  CHECK(batch_add(b, e->partition, e->offset, e->offset, NULL, 0,
                  e->key ? "B" : "A", 1) == BATCH_OK,
        "no memory");
  b->records[i].state = (uint8_t)e->state;
}


static void fill(struct batch *b, const struct event *const *events) {
  CHECK(batch_widen(b, CELLS) == BATCH_OK, "no memory");
  for (size_t i = 0; i < b->count; i++) {
    union cell *row = batch_row(b, i);
    row[TIME].integer = events[i]->time;
    row[VALUE].number = events[i]->value;
    row[KEY].text = b->records[i].value;
    if (events[i]->state == ROW_BAD) {
      b->records[i].state = ROW_GOOD;
      batch_fault(b, i, "type", "$.x", "bad");
    }
  }
}


static enum row_state random_state(void) {
  int n = rand() % 20;
  return n == 0   ? ROW_BAD
         : n == 1 ? ROW_DROPPED
         : n == 2 ? ROW_SKIPPED
                  : ROW_GOOD;
}


/* A crash: what is not committed is forgotten, and read again from there. */
static void crash(struct store *s, const struct model *m, struct totals *t,
                  int64_t *next) {
  store_free(s);
  setup(s, m);
  for (int p = 0; p < PARTITIONS; p++) {
    CHECK(store_open(s, p, t->position[p], t->watermark[p], 0) == STORE_OK,
          "no memory");
    next[p] = t->position[p];
  }
}


static void same(const struct model *m, const struct totals *t) {
  CHECK(memcmp(m->sum, t->sum, sizeof m->sum) == 0, "sums");
  CHECK(memcmp(m->count, t->count, sizeof m->count) == 0, "counts");
  CHECK(memcmp(m->revised, t->revised, sizeof m->revised) == 0, "revisions");
  CHECK(memcmp(&m->fate, &t->fate, sizeof m->fate) == 0, "fates");
  CHECK(m->notes_dead == t->notes_dead, "dead letters: %lld, %lld",
        (long long)m->notes_dead, (long long)t->notes_dead);
  CHECK(m->notes_late == t->notes_late, "late notes: %lld, %lld",
        (long long)m->notes_late, (long long)t->notes_late);
  for (int p = 0; p < PARTITIONS; p++) {
    int64_t w =
        m->greatest[p] == NEVER ? STORE_NO_TIME : m->greatest[p] - m->max_delay;
    CHECK(t->watermark[p] == w, "watermark of %d", p);
  }
}


enum { LOG = 400, NOW = 900 };

static struct event logs[PARTITIONS][LOG];


static void make_log(struct model *m) {
  for (int p = 0; p < PARTITIONS; p++) {
    int64_t at = 0;
    for (int i = 0; i < LOG; i++) {
      at += rand() % 3;
      int64_t back = rand() % 4 == 0 ? rand() % 300 : rand() % 20;
      logs[p][i] = (struct event){.partition = p,
                                  .key = rand() % 2,
                                  .state = random_state(),
                                  .offset = i,
                                  .time = at - back,
                                  .value = rand() % 1000 - 300};
      if (rand() % 50 == 0)
        logs[p][i].time = NOW + rand() % 100;
      model_add(m, p, logs[p][i].state, logs[p][i].key, logs[p][i].time,
                logs[p][i].value, NOW);
    }
  }
}


/* Read the next records of random partitions, now and then some again. */
static void read_some(struct store *s, int64_t *next) {
  struct batch b;
  struct tally tally;
  const struct event *events[100];
  int n = 0, wanted = 1 + rand() % 100;
  batch_init(&b);
  while (n < wanted) {
    int p = rand() % PARTITIONS;
    int64_t at = next[p];
    if (rand() % 30 == 0 && at > 0)
      at = rand() % at; /* a record we had: stale */
    if (at >= LOG)
      break;
    events[n++] = &logs[p][at];
    put(&b, &logs[p][at]);
    if (at == next[p])
      next[p]++;
  }
  fill(&b, events);
  CHECK(store_add(s, &b, NOW, &tally) == STORE_OK, "no memory");
  batch_free(&b);
}


static int behind(const int64_t *next) {
  for (int p = 0; p < PARTITIONS; p++)
    if (next[p] < LOG)
      return 1;
  return 0;
}


static void play(const struct model *m, struct totals *t) {
  struct store s;
  int64_t next[PARTITIONS] = {0};
  setup(&s, m);
  for (int p = 0; p < PARTITIONS; p++) {
    t->watermark[p] = STORE_NO_TIME;
    store_open(&s, p, 0, STORE_NO_TIME, 0);
  }
  do {
    read_some(&s, next);
    switch (rand() % 8) {
    case 0: /* a commit that succeeds, while more is read */
      store_seal(&s, 0);
      read_some(&s, next);
      commit(&s, t);
      store_settle(&s);
      break;
    case 1: /* one that fails: merged back */
      store_seal(&s, 0);
      read_some(&s, next);
      CHECK(store_unseal(&s) == STORE_OK, "no memory");
      break;
    case 2:
      if (rand() % 4 == 0)
        crash(&s, m, t, next);
      break;
    default:
      break;
    }
  } while (behind(next));
  store_seal(&s, 0);
  commit(&s, t);
  store_settle(&s);
  CHECK(store_seal(&s, 0) == 0, "nothing is left");
  store_free(&s);
}


static void test_against_the_definitions(void) {
  static const int64_t shapes[][2] = {{10, 10}, {60, 60}, {50, 20}, {30, 7}};
  for (int round = 0; round < 200; round++) {
    static struct model m;
    static struct totals t;
    model_init(&m);
    memset(&t, 0, sizeof t);
    m.size = shapes[round % 4][0];
    m.hop = shapes[round % 4][1];
    m.lateness = rand() % 3 * 40;
    m.max_delay = rand() % 3 * 10;
    m.max_future = 20;
    m.floor = round % 5 == 0 ? 200 : STORE_NO_TIME;
    make_log(&m);
    play(&m, &t);
    same(&m, &t);
  }
}


/* --- single facts ------------------------------------------------------------
 */

/* Feed good rows of one partition at these times; returns the tally. */
static struct tally feed(struct store *s, int64_t offset, const int64_t *times,
                         size_t n) {
  struct batch b;
  struct tally tally;
  struct event e[16];
  const struct event *p[16];
  batch_init(&b);
  for (size_t i = 0; i < n; i++) {
    e[i] = (struct event){.offset = offset + (int64_t)i, .time = times[i]};
    p[i] = &e[i];
    put(&b, &e[i]);
  }
  fill(&b, p);
  CHECK(store_add(s, &b, NOW, &tally) == STORE_OK, "no memory");
  batch_free(&b);
  return tally;
}


static const struct model minute = {.size = 60,
                                    .hop = 60,
                                    .lateness = 100,
                                    .max_delay = 10,
                                    .max_future = 1000,
                                    .floor = STORE_NO_TIME};


static void test_edges_of_lateness(void) {
  struct store s;
  setup(&s, &minute);
  store_open(&s, 0, 0, STORE_NO_TIME, 0);
  /* W is 59 after 69: a row of [0,60) is in time; 60 after 70: it is late. */
  struct tally t = feed(&s, 0, (int64_t[]){69, 5}, 2);
  CHECK(t.counted == 2 && t.late == 0, "late %lld", (long long)t.late);
  t = feed(&s, 2, (int64_t[]){70, 5}, 2);
  CHECK(t.counted == 2 && t.late == 1, "late %lld", (long long)t.late);
  /* W = 159: late; W = 160 = 60 + lateness: too late. */
  t = feed(&s, 4, (int64_t[]){169, 5}, 2);
  CHECK(t.counted == 2 && t.late == 1, "late %lld", (long long)t.late);
  t = feed(&s, 6, (int64_t[]){170, 5}, 2);
  CHECK(t.counted == 1 && t.too_late == 1 && t.late == 0, "too late %lld",
        (long long)t.too_late);
  store_free(&s);
}


static void test_ends_and_holes(void) {
  struct store s;
  struct batch b;
  struct tally t;
  setup(&s, &minute);
  store_open(&s, 0, 5, STORE_NO_TIME, 0);
  batch_init(&b);
  batch_end(&b, 0, 5);
  store_add(&s, &b, NOW, &t);
  CHECK(store_seal(&s, 0) == 1, "an end reached is news");
  const struct partition *p = store_partition(&s, 0);
  CHECK(p->buffers[!p->active].position == 5, "position");
  CHECK(p->buffers[!p->active].at_end == 1, "at its end");
  store_settle(&s);
  store_add(&s, &b, NOW, &t);
  CHECK(store_seal(&s, 0) == 0, "the same end is none");
  feed(&s, 8, (int64_t[]){1}, 1); /* offsets 5 to 7 are a hole */
  CHECK(p->at_end == 0 && p->next == 9, "a row: next %lld", (long long)p->next);
  batch_reset(&b);
  batch_end(&b, 0, 12); /* control records up to 12 */
  store_add(&s, &b, NOW, &t);
  CHECK(store_seal(&s, 0) == 1, "changed");
  CHECK(p->buffers[!p->active].position == 12, "behind the control records");
  CHECK(p->buffers[!p->active].last_offset == 8, "the last record");
  store_settle(&s);
  batch_reset(&b);
  batch_end(&b, 0, 3);
  store_add(&s, &b, NOW, &t);
  CHECK(p->next == 12 && store_seal(&s, 0) == 0, "an old end says nothing");
  batch_free(&b);
  store_free(&s);
}


static void test_another_record_is_a_mismatch(void) {
  for (int same_record = 0; same_record < 2; same_record++) {
    struct store s;
    struct batch b;
    setup(&s, &minute);
    store_open(&s, 0, 8, 0, 0);
    batch_init(&b);
    batch_add(&b, 0, 7, 7, NULL, 0, same_record ? "A" : "other",
              same_record ? 1 : 5);
    struct batch known;
    batch_init(&known);
    batch_add(&known, 0, 7, 7, NULL, 0, "A", 1);
    store_verify(&s, 0, 7, store_record_hash(&known, &known.records[0]));
    struct tally t;
    batch_widen(&b, CELLS);
    store_add(&s, &b, NOW, &t);
    CHECK(t.stale == 1, "it is not counted again");
    CHECK(store_partition(&s, 0)->mismatch == !same_record, "recognised");
    t = feed(&s, 8, (int64_t[]){1}, 1);
    CHECK(t.counted == same_record, "nothing of another log is counted");
    batch_free(&known);
    batch_free(&b);
    store_free(&s);
  }
}


int main(void) {
  srand(20240809);
  test_against_the_definitions();
  test_edges_of_lateness();
  test_ends_and_holes();
  test_another_record_is_a_mismatch();
  return check_done();
}
