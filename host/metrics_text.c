/* metrics_text.c - the registry as Prometheus text. See metrics_core.h.
 *
 * Pure C. The registry's lock is held while the text grows; series are never
 * removed, so a counter may move between two lines but no line is torn. */
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "metrics_core.h"
#include "metrics_impl.h"

struct text {
  char *bytes;
  size_t used, cap;
  int failed;
};


static int text_room(struct text *t, size_t more) {
  if (t->failed)
    return 0;
  if (t->cap - t->used <= more) {
    size_t cap = t->cap > 0 ? t->cap : 4096;
    while (cap - t->used <= more)
      cap *= 2;
    char *grown = realloc(t->bytes, cap);
    if (grown == NULL) {
      t->failed = 1;
      return 0;
    }
    t->bytes = grown;
    t->cap = cap;
  }
  return 1;
}


static void text_bytes(struct text *t, const char *s, size_t n) {
  if (text_room(t, n)) {
    memcpy(t->bytes + t->used, s, n);
    t->used += n;
    t->bytes[t->used] = '\0';
  }
}


static void text_str(struct text *t, const char *s) {
  text_bytes(t, s, strlen(s));
}


__attribute__((format(printf, 2, 3))) static void
text_fmt(struct text *t, const char *fmt, ...) {
  char line[256];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  text_str(t, line);
}


/* A label's value: backslash, quote and newline are escaped; help text knows
 * no quote. */
static void text_escaped(struct text *t, const char *s, int quote) {
  for (; *s != '\0'; s++) {
    if (*s == '\\')
      text_str(t, "\\\\");
    else if (*s == '\n')
      text_str(t, "\\n");
    else if (*s == '"' && quote)
      text_str(t, "\\\"");
    else
      text_bytes(t, s, 1);
  }
}


/* The shortest of the usual forms that reads back the same. */
static void text_number(struct text *t, double x) {
  char buf[40];
  if (isnan(x)) {
    text_str(t, "NaN");
    return;
  }
  if (isinf(x)) {
    text_str(t, x > 0 ? "+Inf" : "-Inf");
    return;
  }
  snprintf(buf, sizeof buf, "%.15g", x);
  double back = strtod(buf, NULL);
  if (back < x || back > x)
    snprintf(buf, sizeof buf, "%.17g", x);
  text_str(t, buf);
}


/* name + suffix {labels,le="bound"} */
static void text_series(struct text *t, const struct metric *s,
                        const char *suffix, const double *le) {
  text_str(t, s->name);
  text_str(t, suffix);
  if (s->nlabels > 0 || le != NULL)
    text_str(t, "{");
  for (size_t i = 0; i < s->nlabels; i++) {
    if (i > 0)
      text_str(t, ",");
    text_str(t, s->labels[i].name);
    text_str(t, "=\"");
    text_escaped(t, s->labels[i].value, 1);
    text_str(t, "\"");
  }
  if (le != NULL) {
    text_str(t, s->nlabels > 0 ? ",le=\"" : "le=\"");
    text_number(t, *le);
    text_str(t, "\"");
  }
  text_str(t, s->nlabels > 0 || le != NULL ? "} " : " ");
}


static void text_histogram(struct text *t, const struct metric *s) {
  uint64_t sum = 0;
  for (size_t i = 0; i <= s->nbounds; i++) {
    double le = i < s->nbounds ? s->bounds[i] : (double)INFINITY;
    sum += atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
    text_series(t, s, "_bucket", &le);
    text_fmt(t, "%" PRIu64 "\n", sum);
  }
  text_series(t, s, "_sum", NULL);
  text_number(t, metric_sum(s));
  text_str(t, "\n");
  /* The same number as the +Inf bucket, whatever was observed meanwhile. */
  text_series(t, s, "_count", NULL);
  text_fmt(t, "%" PRIu64 "\n", sum);
}


static void text_metric(struct text *t, const struct metric *s, int first) {
  static const char *const kinds[] = {"counter", "gauge", "histogram"};
  if (first) {
    if (s->help[0] != '\0') {
      text_str(t, "# HELP ");
      text_str(t, s->name);
      text_str(t, " ");
      text_escaped(t, s->help, 0);
      text_str(t, "\n");
    }
    text_str(t, "# TYPE ");
    text_str(t, s->name);
    text_str(t, " ");
    text_str(t, kinds[s->kind]);
    text_str(t, "\n");
  }
  if (s->kind == METRIC_HISTOGRAM) {
    text_histogram(t, s);
    return;
  }
  text_series(t, s, "", NULL);
  if (s->kind == METRIC_COUNTER)
    text_fmt(t, "%" PRId64, metric_counted(s));
  else
    text_number(t, metric_value(s));
  text_str(t, "\n");
}


static void text_self(struct text *t, const char *name, const char *kind,
                      const char *help, double value) {
  text_fmt(t, "# HELP %s %s\n# TYPE %s %s\n%s ", name, help, name, kind, name);
  text_number(t, value);
  text_str(t, "\n");
}


/* Open descriptors, -1 when /proc does not tell. */
static int self_descriptors(void) {
  DIR *dir = opendir("/proc/self/fd");
  if (dir == NULL)
    return -1;
  int n = -1; /* the one of the folder itself */
  while (readdir(dir) != NULL)
    n++;
  closedir(dir);
  return n - 2; /* . and .. */
}


/* Resident bytes and the start in seconds since 1970; 0 when not told. */
static void self_memory_start(double *rss, double *start) {
  char stat[1024];
  *rss = *start = 0;
  FILE *f = fopen("/proc/self/stat", "re");
  if (f == NULL)
    return;
  size_t n = fread(stat, 1, sizeof stat - 1, f);
  fclose(f);
  stat[n] = '\0';
  const char *p = strrchr(stat, ')'); /* the name may hold anything */
  unsigned long long ticks = 0;
  long pages = 0;
  struct timespec wall, boot;
  if (p == NULL ||
      sscanf(p + 1,
             " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d "
             "%*d %*d %*d %*d %llu %*u %ld",
             &ticks, &pages) != 2)
    return;
  clock_gettime(CLOCK_REALTIME, &wall);
  clock_gettime(CLOCK_BOOTTIME, &boot);
  *rss = (double)pages * (double)sysconf(_SC_PAGESIZE);
  double booted = (double)(wall.tv_sec - boot.tv_sec) +
                  (double)(wall.tv_nsec - boot.tv_nsec) / 1e9;
  double tick = (double)sysconf(_SC_CLK_TCK);
  /* To a tick: the two clocks are read one after the other. */
  *start = floor(booted * tick + 0.5) / tick + (double)ticks / tick;
}


static void text_process(struct text *t) {
  struct rusage use;
  double rss, start;
  getrusage(RUSAGE_SELF, &use);
  self_memory_start(&rss, &start);
  text_self(t, "process_cpu_seconds_total", "counter",
            "User and system CPU time in seconds.",
            (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
  text_self(t, "process_open_fds", "gauge", "Open file descriptors.",
            self_descriptors());
  text_self(t, "process_resident_memory_bytes", "gauge",
            "Resident memory in bytes.", rss);
  text_self(t, "process_start_time_seconds", "gauge",
            "Start of the process in seconds since 1970.", start);
}


char *metrics_render(struct metrics *m, int self, size_t *len) {
  struct text t = {NULL, 0, 0, 0};
  text_str(&t, "");
  pthread_mutex_lock(&m->lock);
  for (size_t i = 0; i < m->count; i++) {
    int first =
        i == 0 || strcmp(m->series[i - 1]->name, m->series[i]->name) != 0;
    text_metric(&t, m->series[i], first);
  }
  pthread_mutex_unlock(&m->lock);
  if (self)
    text_process(&t);
  if (t.failed) {
    free(t.bytes);
    return NULL;
  }
  *len = t.used;
  return t.bytes;
}
