/* metrics_core.h - counters, gauges and histograms, and their Prometheus text.
 *
 * Pure C and safe from any thread: values are atomics, the list is guarded by
 * one mutex. A series lives as long as its registry, so a pointer to one may
 * be kept. The process has one registry, metrics_process(); the HTTP server
 * renders it on its own thread without entering Lua. */
#ifndef HOST_METRICS_CORE_H
#define HOST_METRICS_CORE_H

#include <stddef.h>
#include <stdint.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

enum {
  METRICS_OK = 0,
  METRICS_NOMEM = -1,
  METRICS_NAME = -2,   /* not [a-zA-Z_:][a-zA-Z0-9_:]* */
  METRICS_LABEL = -3,  /* a bad label name, or one that stands twice */
  METRICS_KIND = -4,   /* the name is taken by another kind of metric */
  METRICS_BOUNDS = -5, /* not finite, not rising, or unlike the family's */
  METRICS_FULL = -6    /* METRICS_MAX_SERIES: labels without an end */
};

enum {
  METRICS_MAX_SERIES = 10000,
  METRICS_MAX_LABELS = 16,
  METRICS_MAX_BOUNDS = 64
};

struct metrics; /* a registry */
struct metric;  /* one series: a name and its labels */

struct metric_label {
  const char *name;
  const char *value;
};

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

/* The registry of this process, made at the first call; NULL: no memory. */
struct metrics *metrics_process(void);

/* The series of that name and those labels, made when it is new. `bounds` are
 * the upper bounds of a histogram's buckets without +Inf; NULL takes bounds
 * that suit seconds, or those the family has. The help text of the first call
 * stays. Returns METRICS_OK or a negative code. */
int metrics_get(struct metrics *m, enum metric_kind kind, const char *name,
                const char *help, const struct metric_label *labels,
                size_t nlabels, const double *bounds, size_t nbounds,
                struct metric **out);

const char *metrics_error(int code);

/* A counter only grows: `n` must not be negative. */
void metric_count(struct metric *s, int64_t n);
int64_t metric_counted(const struct metric *s);

void metric_set(struct metric *s, double x);
void metric_add(struct metric *s, double x);
double metric_value(const struct metric *s);

/* A NaN is not observed. */
void metric_observe(struct metric *s, double x);
int64_t metric_observations(const struct metric *s);
double metric_sum(const struct metric *s);

/* The value below which the share `q` (0..1) of the observations lies, from a
 * sketch of its own that is finer than the buckets: within 1.6 % of the true
 * value between 1e-9 and 1e10; 0 when nothing was observed. */
double metric_quantile(const struct metric *s, double q);

enum metric_kind metric_kind(const struct metric *s);
const char *metric_name(const struct metric *s);
size_t metric_labels(const struct metric *s, const struct metric_label **out);

/* Up to `max` series into `out`, ordered by name and then by labels; returns
 * how many there are in all. */
size_t metrics_list(struct metrics *m, struct metric **out, size_t max);

/* All series as Prometheus text (version 0.0.4), to be freed; NULL: no memory.
 * With `self` the process's own memory, CPU time, descriptors and start. */
char *metrics_render(struct metrics *m, int self, size_t *len);

#endif
