/* failpoint.c - host.failpoint: a test build can be stopped at named places,
 * made to leave a check out, and have its wall clock set. Not in an ordinary
 * build: `make faults` links it into ./tidemill-faults. The environment says
 * what to do; anything in it that is not understood ends the process (exit 2)
 * with the names there are (failpoint_names.h).
 *
 *   TIDEMILL_FAILPOINT=POINT=ACTION[,POINT=ACTION...]
 *     ACTION is one of kill (SIGKILL to itself), stop (SIGSTOP to itself; go
 *     on with SIGCONT), exit (status 70, nothing is closed), error (the call
 *     fails), cut (at commit.sent: the connection is closed before the answer
 *     is read) and sleep:MS. It is taken at the first time the process comes
 * by; with :N (kill:3, sleep:50:3) at the Nth time only; with :N+ from the Nth
 * on; with :P% each time with that chance, drawn from TIDEMILL_FAILPOINT_SEED
 * (a number, default 0) and thus repeatable. sleep and error without a count
 * are taken every time. TIDEMILL_MUTATION=NAME[,NAME...]   these checks are
 * left out TIDEMILL_CLOCK_FILE=PATH   a file that holds milliseconds, such as
 *     -3600000: the wall clock is off by so much, while the file says so. It
 *     is looked at every 20 ms; write another and rename it over this one.
 *     Monotonic time is not touched; no file, or no number in it, means 0. */
#ifndef TIDEMILL_FAULTS
#error "failpoint.c belongs to the test build: make faults"
#endif

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "clock_core.h"
#include "failpoint.h"
#include "failpoint_names.h"
#include "thread.h"

enum {
  RULES_MAX = 64,
  MUTATIONS_MAX = 32,
  STATUS_USAGE = 2,
  STATUS_EXIT = 70,
  CLOCK_LOOK_MS = 20
};

enum action { ACT_KILL, ACT_STOP, ACT_EXIT, ACT_ERROR, ACT_CUT, ACT_SLEEP };

static const char *const action_names[] = {"kill", "stop",  "exit", "error",
                                           "cut",  "sleep", NULL};

struct rule {
  const char *point; /* in failpoint_points */
  enum action action;
  long sleep_ms;
  long from; /* taken at hits from..to */
  long to;
  long chance; /* in percent; 0: not by chance */
  atomic_long hits;
};

/* Written before main, read by every thread. */
static struct rule rules[RULES_MAX];
static int rules_count;
static char mutations[MUTATIONS_MAX];
static _Atomic uint64_t failpoint_random;


__attribute__((noreturn, format(printf, 1, 3))) static void
failpoint_refuse(const char *fmt, const char *const *names, ...) {
  va_list args;
  fputs("tidemill: ", stderr);
  va_start(args, names);
  vfprintf(stderr, fmt, args);
  va_end(args);
  for (int i = 0; names != NULL && names[i] != NULL; i++)
    fprintf(stderr, "%s%s", i == 0 ? "; there are " : ", ", names[i]);
  fputc('\n', stderr);
  _exit(STATUS_USAGE);
}


static int failpoint_index(const char *const *names, const char *name) {
  for (int i = 0; names[i] != NULL; i++)
    if (strcmp(names[i], name) == 0)
      return i;
  return -1;
}


/* A number at *at, which moves behind it; -1: there is none. */
static long failpoint_number(char **at) {
  char *end;
  if (**at < '0' || **at > '9')
    return -1;
  errno = 0;
  long value = strtol(*at, &end, 10);
  *at = end;
  return errno == 0 ? value : -1;
}


/* What follows an action: ":N", ":N+", ":P%" or nothing. 0, or -1. */
static int failpoint_when(struct rule *rule, char *at) {
  int often = rule->action == ACT_SLEEP || rule->action == ACT_ERROR;
  rule->from = 1;
  rule->to = often ? __LONG_MAX__ : 1;
  if (*at == '\0')
    return 0;
  if (*at++ != ':')
    return -1;
  long n = failpoint_number(&at);
  if (n < 1)
    return -1;
  if (strcmp(at, "%") == 0) {
    rule->chance = n;
    return n <= 100 ? 0 : -1;
  }
  rule->from = n;
  rule->to = *at == '+' ? __LONG_MAX__ : n;
  return strcmp(at, "+") == 0 || *at == '\0' ? 0 : -1;
}


/* One "POINT=ACTION..."; `text` is written to. */
static void failpoint_rule(char *text) {
  static const char form[] =
      "TIDEMILL_FAILPOINT: '%s': write POINT=ACTION[:N], POINT=ACTION[:N+] or "
      "POINT=ACTION[:P%%], with sleep:MS for sleep";
  char whole[128];
  snprintf(whole, sizeof whole, "%s", text);
  if (rules_count == RULES_MAX)
    failpoint_refuse("TIDEMILL_FAILPOINT: more than %d", NULL, RULES_MAX);
  struct rule *rule = &rules[rules_count++];
  char *at = strchr(text, '=');
  if (at == NULL)
    failpoint_refuse(form, NULL, whole);
  *at++ = '\0';
  int point = failpoint_index(failpoint_points, text);
  if (point < 0)
    failpoint_refuse("TIDEMILL_FAILPOINT: no fail point '%s'", failpoint_points,
                     text);
  rule->point = failpoint_points[point];
  char *rest = at + strcspn(at, ":");
  char end = *rest;
  *rest = '\0';
  int action = failpoint_index(action_names, at);
  if (action < 0)
    failpoint_refuse("TIDEMILL_FAILPOINT: no action '%s'", action_names, at);
  *rest = end;
  rule->action = (enum action)action;
  if (rule->action == ACT_SLEEP) {
    if (*rest++ != ':' || (rule->sleep_ms = failpoint_number(&rest)) < 0)
      failpoint_refuse(form, NULL, whole);
  }
  if (failpoint_when(rule, rest) != 0)
    failpoint_refuse(form, NULL, whole);
}


static void failpoint_mutation(char *text) {
  int i = failpoint_index(failpoint_mutations, text);
  if (i < 0)
    failpoint_refuse("TIDEMILL_MUTATION: no mutation '%s'", failpoint_mutations,
                     text);
  mutations[i] = 1;
}


static void failpoint_each(const char *variable, void (*take)(char *)) {
  const char *value = getenv(variable);
  if (value == NULL || *value == '\0')
    return;
  char *copy = strdup(value), *state = NULL;
  if (copy == NULL)
    failpoint_refuse("%s: out of memory", NULL, variable);
  for (char *item = strtok_r(copy, ", ", &state); item != NULL;
       item = strtok_r(NULL, ", ", &state))
    take(item);
  free(copy);
}


/* The milliseconds in the clock's file, 0 when there are none. */
static int64_t failpoint_clock_read(const char *path) {
  FILE *file = fopen(path, "re");
  long long ms = 0;
  if (file == NULL)
    return 0;
  if (fscanf(file, "%lld", &ms) != 1)
    ms = 0;
  fclose(file);
  return ms;
}


static void *failpoint_clock(void *path) {
  static const struct timespec look = {0, CLOCK_LOOK_MS * 1000000};
  for (;;) {
    clock_wall_shift(failpoint_clock_read(path));
    nanosleep(&look, NULL);
  }
  return NULL;
}


/* A thread looks at the file for ever. */
static void failpoint_clock_start(void) {
  char *path = getenv("TIDEMILL_CLOCK_FILE");
  if (path == NULL || *path == '\0')
    return;
  clock_wall_shift(failpoint_clock_read(path)); /* before anyone asks */
  int err = thread_start(NULL, 0, failpoint_clock, path);
  if (err != 0)
    failpoint_refuse("TIDEMILL_CLOCK_FILE: %s", NULL, strerror(err));
}


__attribute__((constructor)) static void failpoint_start(void) {
  const char *seed = getenv("TIDEMILL_FAILPOINT_SEED");
  atomic_init(&failpoint_random,
              seed != NULL ? (uint64_t)strtoull(seed, NULL, 10) : 0);
  failpoint_each("TIDEMILL_FAILPOINT", failpoint_rule);
  failpoint_each("TIDEMILL_MUTATION", failpoint_mutation);
  failpoint_clock_start();
}


/* splitmix64: 0..99, the same for the same seed and number of calls. */
static long failpoint_draw(void) {
  uint64_t z = atomic_fetch_add(&failpoint_random, 0x9e3779b97f4a7c15) +
               0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (long)((z ^ (z >> 31)) % 100);
}


static int failpoint_due(struct rule *rule) {
  long hit = atomic_fetch_add(&rule->hits, 1) + 1;
  if (rule->chance > 0)
    return failpoint_draw() < rule->chance;
  return hit >= rule->from && hit <= rule->to;
}


static int failpoint_act(const struct rule *rule) {
  struct timespec nap = {rule->sleep_ms / 1000,
                         (rule->sleep_ms % 1000) * 1000000};
  switch (rule->action) {
  case ACT_KILL:
    kill(getpid(), SIGKILL);
    for (;;)
      pause();
  case ACT_STOP:
    kill(getpid(), SIGSTOP);
    return 0;
  case ACT_EXIT:
    _exit(STATUS_EXIT);
  case ACT_ERROR:
    return FAILPOINT_ERROR;
  case ACT_CUT:
    return FAILPOINT_CUT;
  case ACT_SLEEP:
    while (nanosleep(&nap, &nap) != 0 && errno == EINTR)
      continue;
  }
  return 0;
}


int failpoint_hit(const char *name) {
  int fails = 0;
  if (failpoint_index(failpoint_points, name) < 0)
    failpoint_refuse("no fail point '%s'", failpoint_points, name);
  for (int i = 0; i < rules_count; i++)
    if (strcmp(rules[i].point, name) == 0 && failpoint_due(&rules[i]))
      fails |= failpoint_act(&rules[i]);
  return fails;
}


int failpoint_off(const char *name) {
  int i = failpoint_index(failpoint_mutations, name);
  if (i < 0)
    failpoint_refuse("no mutation '%s'", failpoint_mutations, name);
  return mutations[i];
}


/* failpoint.hit(name) -> boolean   come by a fail point; raises where it is to
 * fail, true where a connection is to be cut */
static int failpoint_lua_hit(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  int act = failpoint_hit(name);
  if (act & FAILPOINT_ERROR)
    return luaL_error(L, "fail point %s", name);
  lua_pushboolean(L, act & FAILPOINT_CUT);
  return 1;
}


/* failpoint.off(name) -> boolean   is this check to be left out? */
static int failpoint_lua_off(lua_State *L) {
  lua_pushboolean(L, failpoint_off(luaL_checkstring(L, 1)));
  return 1;
}


static int failpoint_list(lua_State *L, const char *const *names) {
  lua_newtable(L);
  for (int i = 0; names[i] != NULL; i++) {
    lua_pushstring(L, names[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}


/* failpoint.points() -> { name, ... } */
static int failpoint_lua_points(lua_State *L) {
  return failpoint_list(L, failpoint_points);
}


/* failpoint.mutations() -> { name, ... } */
static int failpoint_lua_mutations(lua_State *L) {
  return failpoint_list(L, failpoint_mutations);
}


static const luaL_Reg failpoint_functions[] = {
    {"hit", failpoint_lua_hit},
    {"off", failpoint_lua_off},
    {"points", failpoint_lua_points},
    {"mutations", failpoint_lua_mutations},
    {NULL, NULL}};


int luaopen_host_failpoint(lua_State *L);


int luaopen_host_failpoint(lua_State *L) {
  luaL_newlib(L, failpoint_functions);
  return 1;
}
