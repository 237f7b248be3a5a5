/* metrics_impl.h - what metrics_core.c and metrics_text.c share; nobody else
 * includes it. */
#ifndef HOST_METRICS_IMPL_H
#define HOST_METRICS_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "metrics_core.h"

/* The sketch of a histogram: each power of two in SKETCH_STEPS equal steps. */
enum {
  SKETCH_STEPS = 32,
  SKETCH_LOW = -30,
  SKETCH_HIGH = 34,
  SKETCH_CELLS = (SKETCH_HIGH - SKETCH_LOW) * SKETCH_STEPS
};

struct metric {
  enum metric_kind kind;
  char *name;
  char *help;
  struct metric_label labels[METRICS_MAX_LABELS]; /* sorted, owned */
  size_t nlabels;
  _Atomic int64_t count; /* a counter's value, a histogram's observations */
  _Atomic double value;  /* a gauge's value, a histogram's sum */
  double *bounds;
  size_t nbounds;
  _Atomic uint64_t *buckets; /* nbounds + 1, the last is +Inf */
  _Atomic uint64_t *sketch;
};

struct metrics {
  pthread_mutex_t lock;
  struct metric **series; /* sorted by name, then labels */
  size_t count;
  size_t cap;
};

#endif
