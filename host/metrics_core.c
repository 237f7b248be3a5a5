/* metrics_core.c - counters, gauges, histograms. See metrics_core.h.
 *
 * Series are kept in one array sorted by name and labels: registration is rare
 * and rendering wants that order. The text is metrics_text.c's. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "metrics_core.h"
#include "metrics_impl.h"

static const double seconds_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025,
                                        0.05,  0.1,    0.25,  0.5,  1,
                                        2.5,   5,      10,    30,   60};

static pthread_once_t process_once = PTHREAD_ONCE_INIT;
static struct metrics *process_registry;


struct metrics *metrics_new(void) {
  struct metrics *m = calloc(1, sizeof *m);
  if (m != NULL && pthread_mutex_init(&m->lock, NULL) != 0) {
    free(m);
    m = NULL;
  }
  return m;
}


static void metric_free(struct metric *s) {
  if (s == NULL)
    return;
  free(s->name);
  free(s->help);
  for (size_t i = 0; i < s->nlabels; i++) {
    free((char *)s->labels[i].name);
    free((char *)s->labels[i].value);
  }
  free(s->bounds);
  free(s->buckets);
  free(s->sketch);
  free(s);
}


void metrics_free(struct metrics *m) {
  if (m == NULL)
    return;
  for (size_t i = 0; i < m->count; i++)
    metric_free(m->series[i]);
  free(m->series);
  pthread_mutex_destroy(&m->lock);
  free(m);
}


static void metrics_make_process(void) {
  process_registry = metrics_new();
}


struct metrics *metrics_process(void) {
  pthread_once(&process_once, metrics_make_process);
  return process_registry;
}


const char *metrics_error(int code) {
  switch (code) {
  case METRICS_NOMEM:
    return "out of memory";
  case METRICS_NAME:
    return "not a metric name (letters, digits, _ and :)";
  case METRICS_LABEL:
    return "a label name is not letters, digits and _, or stands twice";
  case METRICS_KIND:
    return "the name is taken by a metric of another kind";
  case METRICS_BOUNDS:
    return "bucket bounds must be finite, rising and the family's own";
  case METRICS_FULL:
    return "too many series (10000): a label has values without an end";
  default:
    return "no error";
  }
}


static int name_ok(const char *s, int colon) {
  if (!(*s == '_' || (colon && *s == ':') || (*s >= 'a' && *s <= 'z') ||
        (*s >= 'A' && *s <= 'Z')))
    return 0;
  for (; *s != '\0'; s++) {
    if (!(*s == '_' || (colon && *s == ':') || (*s >= 'a' && *s <= 'z') ||
          (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9')))
      return 0;
  }
  return 1;
}


static int label_order(const void *a, const void *b) {
  const struct metric_label *x = a, *y = b;
  return strcmp(x->name, y->name);
}


/* Sort `labels` and refuse bad names; "le" is the histogram's own. */
static int labels_check(struct metric_label *labels, size_t n) {
  qsort(labels, n, sizeof *labels, label_order);
  for (size_t i = 0; i < n; i++) {
    if (!name_ok(labels[i].name, 0) || strcmp(labels[i].name, "le") == 0 ||
        (i > 0 && strcmp(labels[i - 1].name, labels[i].name) == 0))
      return METRICS_LABEL;
  }
  return METRICS_OK;
}


static int series_order(const struct metric *s, const char *name,
                        const struct metric_label *labels, size_t n) {
  int d = strcmp(s->name, name);
  for (size_t i = 0; d == 0 && i < s->nlabels && i < n; i++) {
    d = strcmp(s->labels[i].name, labels[i].name);
    if (d == 0)
      d = strcmp(s->labels[i].value, labels[i].value);
  }
  if (d == 0 && s->nlabels != n)
    d = s->nlabels < n ? -1 : 1;
  return d;
}


/* The place of the series in the array; *found tells whether it is there. */
static size_t series_place(const struct metrics *m, const char *name,
                           const struct metric_label *labels, size_t n,
                           int *found) {
  size_t low = 0, high = m->count;
  *found = 0;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    int d = series_order(m->series[mid], name, labels, n);
    if (d == 0)
      *found = 1;
    if (d < 0)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}


/* A series of the same name, or NULL: a family has one kind and one help. */
static struct metric *family_of(const struct metrics *m, const char *name) {
  int found;
  size_t at = series_place(m, name, NULL, 0, &found);
  if (at < m->count && strcmp(m->series[at]->name, name) == 0)
    return m->series[at];
  return NULL;
}


static int bounds_check(const double *bounds, size_t n) {
  if (n > METRICS_MAX_BOUNDS)
    return METRICS_BOUNDS;
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(bounds[i]) || (i > 0 && bounds[i] <= bounds[i - 1]))
      return METRICS_BOUNDS;
  }
  return METRICS_OK;
}


static int bounds_same(const struct metric *s, const double *bounds, size_t n) {
  if (s->nbounds != n)
    return 0;
  for (size_t i = 0; i < n; i++) {
    if (s->bounds[i] < bounds[i] || s->bounds[i] > bounds[i])
      return 0;
  }
  return 1;
}


static int histogram_init(struct metric *s, const double *bounds, size_t n) {
  s->bounds = malloc((n + 1) * sizeof *s->bounds);
  s->buckets = calloc(n + 1, sizeof *s->buckets);
  s->sketch = calloc(SKETCH_CELLS, sizeof *s->sketch);
  if (s->bounds == NULL || s->buckets == NULL || s->sketch == NULL)
    return METRICS_NOMEM;
  if (n > 0)
    memcpy(s->bounds, bounds, n * sizeof *bounds);
  s->nbounds = n;
  return METRICS_OK;
}


static struct metric *metric_new(enum metric_kind kind, const char *name,
                                 const char *help,
                                 const struct metric_label *labels,
                                 size_t nlabels, const double *bounds,
                                 size_t nbounds) {
  struct metric *s = calloc(1, sizeof *s);
  if (s == NULL)
    return NULL;
  s->kind = kind;
  s->name = strdup(name);
  s->help = strdup(help != NULL ? help : "");
  int ok = s->name != NULL && s->help != NULL;
  for (size_t i = 0; ok && i < nlabels; i++) {
    s->labels[i].name = strdup(labels[i].name);
    s->labels[i].value = strdup(labels[i].value);
    s->nlabels = i + 1;
    ok = s->labels[i].name != NULL && s->labels[i].value != NULL;
  }
  if (ok && kind == METRIC_HISTOGRAM)
    ok = histogram_init(s, bounds, nbounds) == METRICS_OK;
  if (!ok) {
    metric_free(s);
    s = NULL;
  }
  return s;
}


static int series_insert(struct metrics *m, size_t at, struct metric *s) {
  if (m->count == m->cap) {
    size_t cap = m->cap > 0 ? m->cap * 2 : 64;
    struct metric **grown = realloc(m->series, cap * sizeof(struct metric *));
    if (grown == NULL)
      return METRICS_NOMEM;
    m->series = grown;
    m->cap = cap;
  }
  memmove(m->series + at + 1, m->series + at,
          (m->count - at) * sizeof(struct metric *));
  m->series[at] = s;
  m->count++;
  return METRICS_OK;
}


/* Under the lock, with checked arguments. */
static int series_get(struct metrics *m, enum metric_kind kind,
                      const char *name, const char *help,
                      const struct metric_label *labels, size_t nlabels,
                      const double *bounds, size_t nbounds,
                      struct metric **out) {
  struct metric *family = family_of(m, name);
  if (family != NULL && family->kind != kind)
    return METRICS_KIND;
  if (kind == METRIC_HISTOGRAM && bounds == NULL) {
    bounds = family != NULL ? family->bounds : seconds_bounds;
    nbounds = family != NULL ? family->nbounds
                             : sizeof seconds_bounds / sizeof *seconds_bounds;
  }
  if (kind == METRIC_HISTOGRAM && family != NULL &&
      !bounds_same(family, bounds, nbounds))
    return METRICS_BOUNDS;
  int found;
  size_t at = series_place(m, name, labels, nlabels, &found);
  if (found) {
    *out = m->series[at];
    return METRICS_OK;
  }
  if (m->count >= METRICS_MAX_SERIES)
    return METRICS_FULL;
  struct metric *s =
      metric_new(kind, name, family != NULL ? family->help : help, labels,
                 nlabels, bounds, nbounds);
  if (s == NULL)
    return METRICS_NOMEM;
  int rc = series_insert(m, at, s);
  if (rc != METRICS_OK)
    metric_free(s);
  else
    *out = s;
  return rc;
}


int metrics_get(struct metrics *m, enum metric_kind kind, const char *name,
                const char *help, const struct metric_label *labels,
                size_t nlabels, const double *bounds, size_t nbounds,
                struct metric **out) {
  struct metric_label sorted[METRICS_MAX_LABELS];
  if (!name_ok(name, 1))
    return METRICS_NAME;
  if (nlabels > METRICS_MAX_LABELS)
    return METRICS_LABEL;
  if (nlabels > 0)
    memcpy(sorted, labels, nlabels * sizeof *labels);
  int rc = labels_check(sorted, nlabels);
  if (rc == METRICS_OK && bounds != NULL)
    rc = bounds_check(bounds, nbounds);
  if (rc != METRICS_OK)
    return rc;
  pthread_mutex_lock(&m->lock);
  rc = series_get(m, kind, name, help, sorted, nlabels, bounds, nbounds, out);
  pthread_mutex_unlock(&m->lock);
  return rc;
}


void metric_count(struct metric *s, int64_t n) {
  atomic_fetch_add_explicit(&s->count, n, memory_order_relaxed);
}


int64_t metric_counted(const struct metric *s) {
  return atomic_load_explicit(&s->count, memory_order_relaxed);
}


void metric_set(struct metric *s, double x) {
  atomic_store_explicit(&s->value, x, memory_order_relaxed);
}


void metric_add(struct metric *s, double x) {
  double old = atomic_load_explicit(&s->value, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(
      &s->value, &old, old + x, memory_order_relaxed, memory_order_relaxed))
    ;
}


double metric_value(const struct metric *s) {
  return atomic_load_explicit(&s->value, memory_order_relaxed);
}


/* 0 holds everything too small, zero and below; the last everything too big. */
static size_t sketch_cell(double x) {
  int e;
  if (!(x > 0))
    return 0;
  double f = frexp(x, &e); /* x = f * 2^e, f in [0.5, 1) */
  if (e < SKETCH_LOW)
    return 0;
  if (e >= SKETCH_HIGH)
    return SKETCH_CELLS - 1;
  return (size_t)(e - SKETCH_LOW) * SKETCH_STEPS +
         (size_t)((f - 0.5) * 2 * SKETCH_STEPS);
}


static double sketch_middle(size_t cell) {
  int e = SKETCH_LOW + (int)(cell / SKETCH_STEPS);
  double step = (double)(cell % SKETCH_STEPS) + 0.5;
  return ldexp(0.5 + step / (2 * SKETCH_STEPS), e);
}


void metric_observe(struct metric *s, double x) {
  if (isnan(x))
    return;
  size_t i = 0;
  while (i < s->nbounds && x > s->bounds[i])
    i++;
  atomic_fetch_add_explicit(&s->buckets[i], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&s->sketch[sketch_cell(x)], 1,
                            memory_order_relaxed);
  metric_add(s, x);
  atomic_fetch_add_explicit(&s->count, 1, memory_order_relaxed);
}


int64_t metric_observations(const struct metric *s) {
  return metric_counted(s);
}


double metric_sum(const struct metric *s) {
  return metric_value(s);
}


double metric_quantile(const struct metric *s, double q) {
  uint64_t total = 0, seen = 0;
  for (size_t i = 0; i < SKETCH_CELLS; i++)
    total += atomic_load_explicit(&s->sketch[i], memory_order_relaxed);
  if (total == 0)
    return 0;
  double want = ceil(q * (double)total);
  uint64_t rank = want < 1 ? 1 : (uint64_t)want;
  for (size_t i = 0; i < SKETCH_CELLS; i++) {
    seen += atomic_load_explicit(&s->sketch[i], memory_order_relaxed);
    if (seen >= rank)
      return i == 0 ? 0 : sketch_middle(i);
  }
  return sketch_middle(SKETCH_CELLS - 1);
}


enum metric_kind metric_kind(const struct metric *s) {
  return s->kind;
}


const char *metric_name(const struct metric *s) {
  return s->name;
}


size_t metric_labels(const struct metric *s, const struct metric_label **out) {
  *out = s->labels;
  return s->nlabels;
}


size_t metrics_list(struct metrics *m, struct metric **out, size_t max) {
  pthread_mutex_lock(&m->lock);
  size_t n = m->count;
  if (max > 0)
    memcpy(out, m->series, (n < max ? n : max) * sizeof(struct metric *));
  pthread_mutex_unlock(&m->lock);
  return n;
}
