/* gen.c - the deterministic messages of the benchmarks. See gen.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "gen.h"


static int64_t *gen_number(struct gen *g, const char *name) {
  const struct {
    const char *name;
    int64_t *at;
  } numbers[] = {{"messages", &g->messages},
                 {"keys", &g->keys},
                 {"partitions", &g->partitions},
                 {"start_ms", &g->start_ms},
                 {"span_ms", &g->span_ms},
                 {"disorder_ms", &g->disorder_ms},
                 {"bytes", &g->bytes},
                 {"fields", &g->fields},
                 {"brief", &g->brief}};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    if (strcmp(numbers[i].name, name) == 0)
      return numbers[i].at;
  return NULL;
}


/* Text fields that nobody asked for, half of them before the wanted ones. */
static void gen_filler(struct gen *g) {
  static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz0123456789";
  int64_t extra = g->fields - 3;
  if (extra <= 0 || g->brief)
    return;
  int64_t room = (g->bytes - 76) / extra - 11; /* name, quotes, comma */
  int64_t most = GEN_VALUE_MAX * 3 / 4 / extra - 11;
  size_t len = (size_t)(room < 1 ? 1 : room > most ? most : room);
  uint64_t state = 1234567;
  char *out = g->head;
  for (int64_t i = 0; i < extra; i++) {
    if (i == extra / 2)
      out = g->tail;
    out += i < extra / 2 ? sprintf(out, "\"f%03" PRId64 "\":\"", i)
                         : sprintf(out, ",\"f%03" PRId64 "\":\"", i);
    for (size_t c = 0; c < len; c++)
      *out++ = letters[bench_random(&state) % (sizeof letters - 1)];
    out += sprintf(out, i < extra / 2 ? "\"," : "\"");
  }
}


void gen_open(struct gen *g, int count, char **options) {
  memset(g, 0, sizeof *g);
  g->messages = 1000000;
  g->keys = 5;
  g->partitions = 3;
  g->fields = 3;
  g->start_ms = 1723161240000; /* a full minute */
  g->compression = "lz4";
  for (int i = 0; i < count; i++) {
    char name[32];
    const char *equals = strchr(options[i], '=');
    if (equals == NULL || equals - options[i] >= (int)sizeof name)
      bench_die("'%s' is not KEY=VALUE", options[i]);
    snprintf(name, sizeof name, "%.*s", (int)(equals - options[i]), options[i]);
    int64_t *number = gen_number(g, name);
    if (strcmp(name, "compression") == 0)
      g->compression = equals + 1;
    else if (number != NULL)
      *number = atoll(equals + 1);
    else
      bench_die("unknown option '%s'", name);
  }
  if (g->messages < 1 || g->keys < 1 || g->partitions < 1 || g->fields < 3 ||
      g->fields > 100 || g->bytes > GEN_VALUE_MAX / 2)
    bench_die("messages, keys, partitions >= 1; fields 3..100; bytes <= %d",
              GEN_VALUE_MAX / 2);
  g->state = 88172645463325252u;
  gen_filler(g);
}


size_t gen_key(int64_t k, char *out) {
  static const char *const names[] = {"BTCUSDT", "ETHUSDT", "SOLUSDT",
                                      "BNBUSDT", "ADAUSDT"};
  if (k < 5)
    return (size_t)snprintf(out, GEN_KEY_MAX, "%s", names[k]);
  return (size_t)snprintf(out, GEN_KEY_MAX, "K%06" PRId64 "USDT", k);
}


int gen_next(struct gen *g, struct gen_message *m) {
  if (g->next >= g->messages)
    return 0;
  int64_t i = g->next++;
  uint64_t r = bench_random(&g->state);
  unsigned whole = (unsigned)(r >> 40) % 90000 + 1;
  unsigned part = (unsigned)(r >> 8) % 100000000;
  m->number = (int64_t)(r % (uint64_t)g->keys);
  m->key_len = gen_key(m->number, m->key);
  m->ms =
      g->start_ms +
      (g->span_ms > 0 ? (int64_t)((__int128)i * g->span_ms / g->messages) : i);
  if (g->disorder_ms > 0)
    m->ms -= (int64_t)(r >> 16) % g->disorder_ms;
  if (g->brief) {
    m->key_len = (size_t)snprintf(m->key, sizeof m->key, "%" PRIx64, m->number);
    m->units = (int64_t)(whole % 1000) * 100000000;
    m->len = (size_t)snprintf(m->value, sizeof m->value,
                              "{\"s\":\"%s\",\"p\":%u,\"t\":%" PRId64 "}",
                              m->key, whole % 1000, m->ms);
    return 1;
  }
  m->units = (int64_t)whole * 100000000 + part;
  m->len = (size_t)snprintf(
      m->value, sizeof m->value,
      "{%s\"symbol\":\"%s\",\"price\":\"%u.%08u\",\"timestamp\":%" PRId64
      ".%03d%s}",
      g->head, m->key, whole, part, m->ms / 1000, (int)(m->ms % 1000), g->tail);
  return 1;
}
