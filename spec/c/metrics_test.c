/* metrics_test.c - the metrics registry from several threads, and its text. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "metrics_core.h"

enum { THREADS = 4, ROUNDS = 20000 };


static void *hammer(void *user) {
  struct metrics *m = user;
  struct metric *c, *g, *h;
  struct metric_label label = {"x", "1"};
  for (int i = 0; i < ROUNDS; i++) {
    if (metrics_get(m, METRIC_COUNTER, "c_total", "", &label, 1, NULL, 0, &c) ||
        metrics_get(m, METRIC_GAUGE, "g", "", NULL, 0, NULL, 0, &g) ||
        metrics_get(m, METRIC_HISTOGRAM, "h", "", NULL, 0, NULL, 0, &h))
      return NULL;
    metric_count(c, 1);
    metric_add(g, 0.5);
    metric_observe(h, 0.25);
  }
  return m;
}


static void test_threads(void) {
  struct metrics *m = metrics_new();
  struct metric *s = NULL;
  struct metric_label label = {"x", "1"};
  pthread_t threads[THREADS];
  size_t len = 0;
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, hammer, m);
  for (int i = 0; i < 50; i++)
    free(metrics_render(m, 0, &len)); /* while they run */
  for (int i = 0; i < THREADS; i++) {
    void *ok = NULL;
    pthread_join(threads[i], &ok);
    CHECK(ok != NULL, "thread %d failed", i);
  }
  metrics_get(m, METRIC_COUNTER, "c_total", "", &label, 1, NULL, 0, &s);
  CHECK(metric_counted(s) == THREADS * ROUNDS, "%lld",
        (long long)metric_counted(s));
  metrics_get(m, METRIC_GAUGE, "g", "", NULL, 0, NULL, 0, &s);
  CHECK(metric_value(s) == THREADS * ROUNDS * 0.5, "%f", metric_value(s));
  metrics_get(m, METRIC_HISTOGRAM, "h", "", NULL, 0, NULL, 0, &s);
  CHECK(metric_observations(s) == THREADS * ROUNDS, "%lld",
        (long long)metric_observations(s));
  metrics_free(m);
}


static void test_order(void) {
  static const char want[] = "# TYPE a gauge\na 0\na{k=\"1\"} 0\n"
                             "a{k=\"1\",z=\"0\"} 0\na{k=\"2\"} 0\n"
                             "# TYPE ab gauge\nab 0\n# TYPE b gauge\nb 0\n";
  struct metrics *m = metrics_new();
  struct metric *s;
  struct metric_label k1 = {"k", "1"}, k2 = {"k", "2"};
  struct metric_label both[] = {{"z", "0"}, {"k", "1"}};
  size_t len = 0;
  metrics_get(m, METRIC_GAUGE, "b", NULL, NULL, 0, NULL, 0, &s);
  metrics_get(m, METRIC_GAUGE, "a", NULL, &k2, 1, NULL, 0, &s);
  metrics_get(m, METRIC_GAUGE, "ab", NULL, NULL, 0, NULL, 0, &s);
  metrics_get(m, METRIC_GAUGE, "a", NULL, both, 2, NULL, 0, &s);
  metrics_get(m, METRIC_GAUGE, "a", NULL, NULL, 0, NULL, 0, &s);
  metrics_get(m, METRIC_GAUGE, "a", NULL, &k1, 1, NULL, 0, &s);
  char *text = metrics_render(m, 0, &len);
  CHECK(strcmp(text, want) == 0, "got\n%s", text);
  CHECK(len == strlen(want), "%zu", len);
  free(text);
  metrics_free(m);
}


static void test_limits(void) {
  struct metrics *m = metrics_new();
  struct metric *s;
  char value[16];
  struct metric_label label = {"n", value};
  struct metric_label twice[] = {{"a", "1"}, {"a", "2"}};
  int rc = METRICS_OK;
  for (int i = 0; i < METRICS_MAX_SERIES && rc == METRICS_OK; i++) {
    snprintf(value, sizeof value, "%d", i * 7919 % 100003);
    rc = metrics_get(m, METRIC_GAUGE, "many", NULL, &label, 1, NULL, 0, &s);
  }
  CHECK(rc == METRICS_OK, "%s", metrics_error(rc));
  snprintf(value, sizeof value, "new");
  rc = metrics_get(m, METRIC_GAUGE, "many", NULL, &label, 1, NULL, 0, &s);
  CHECK(rc == METRICS_FULL, "%s", metrics_error(rc));
  snprintf(value, sizeof value, "0");
  rc = metrics_get(m, METRIC_GAUGE, "many", NULL, &label, 1, NULL, 0, &s);
  CHECK(rc == METRICS_OK, "an old series is still there");
  rc = metrics_get(m, METRIC_GAUGE, "many", NULL, twice, 2, NULL, 0, &s);
  CHECK(rc == METRICS_LABEL, "%s", metrics_error(rc));
  metrics_free(m);
}


int main(void) {
  test_threads();
  test_order();
  test_limits();
  return check_done();
}
