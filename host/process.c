/* process.c - host.process: child processes, and the module's table.
 *
 * A child is started by exec only (spawn.c), held by a pidfd, and gone when its
 * handle is: closing the handle of a running child kills it and takes its
 * status. Waits are bounded and stop at a signal. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"
#include "field.h"
#include "handle.h"
#include "interrupt.h"
#include "opts.h"
#include "process.h"
#include "spawn.h"

#define CHILD_TYPE "child process"

enum { CHILD_READ_MAX = 65536, CHILD_FD_MAX = 16, FIRST_FD = 3 };

extern char **environ;

struct child {
  struct handle h;
  pid_t pid;
  int pidfd;   /* -1: none */
  int pipe[3]; /* our ends; -1: none */
  int ended;   /* status and usage are known */
  int status;
  struct rusage usage;
};

/* Descriptors of a plan that are closed again when the child has them. */
struct plan_fds {
  int theirs[3];
  int ours[3];
};


int process_fail(lua_State *L, const char *what, int error) {
  const char *code = strerrorname_np(error);
  return fail(L, "process", code != NULL ? code : "UNKNOWN", "%s: %s", what,
              strerror(error));
}


static void child_close_fd(int *fd) {
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}


/* 1 when the child has ended and its status was taken. */
static int child_reap(struct child *c, int flags) {
  if (c->ended)
    return 1;
  pid_t pid;
  do
    pid = wait4(c->pid, &c->status, flags, &c->usage);
  while (pid < 0 && errno == EINTR);
  if (pid == 0)
    return 0;
  c->ended = 1; /* ECHILD: somebody ignores SIGCHLD; it is gone all the same */
  return 1;
}


static void child_close(struct handle *h) {
  struct child *c = (struct child *)h;
  for (int i = 0; i < 3; i++)
    child_close_fd(&c->pipe[i]);
  if (c->pid > 0 && !child_reap(c, WNOHANG)) {
    kill(c->pid, SIGKILL); /* ours and not reaped: the number is not reused */
    child_reap(c, 0);
  }
  child_close_fd(&c->pidfd);
}


/* The strings of array `idx` as a NULL-terminated vector owned by a new
 * userdata on the stack; the table keeps the strings. [-0, +1, m] */
static char **child_vector(lua_State *L, int idx, const char *what) {
  lua_Integer n = (lua_Integer)lua_rawlen(L, idx);
  char **v = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *v, 0);
  for (lua_Integer i = 1; i <= n; i++) {
    size_t len = 0;
    if (lua_rawgeti(L, idx, i) != LUA_TSTRING)
      luaL_error(L, "option '%s' must hold strings, entry %d is a %s", what,
                 (int)i, luaL_typename(L, -1));
    const char *s = lua_tolstring(L, -1, &len);
    if (strlen(s) != len)
      luaL_error(L, "option '%s': entry %d contains a NUL", what, (int)i);
    memcpy(&v[i - 1], &s, sizeof s); /* exec takes char *, and writes nothing */
    lua_pop(L, 1);
  }
  v[n] = NULL;
  return v;
}


/* Push an array of "NAME=value": our environment with the names of the table
 * at `env` replaced; a value of false takes a name away. [-0, +1, m] */
static void child_environment(lua_State *L, int env) {
  env = lua_absindex(L, env);
  lua_newtable(L);
  lua_Integer n = 0;
  for (char **e = environ; *e != NULL; e++) {
    const char *eq = strchr(*e, '=');
    if (eq == NULL)
      continue;
    lua_pushlstring(L, *e, (size_t)(eq - *e));
    int replaced = lua_rawget(L, env) != LUA_TNIL;
    lua_pop(L, 1);
    if (!replaced) {
      lua_pushstring(L, *e);
      lua_rawseti(L, -2, ++n);
    }
  }
  lua_pushnil(L);
  while (lua_next(L, env)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "option 'env' must have names as keys");
    if (lua_isstring(L, -1)) {
      lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
      lua_rawseti(L, -4, ++n);
    } else if (!lua_isboolean(L, -1) || lua_toboolean(L, -1)) {
      luaL_error(L, "option 'env': %s must be a string or false",
                 lua_tostring(L, -2));
    }
    lua_pop(L, 1);
  }
}


/* Make `fd` at least 3: a parent started without standard streams would
 * otherwise hand out 0, 1 or 2, and they are overwritten one by one. */
static int child_lift(int fd) {
  if (fd < 0 || fd >= FIRST_FD)
    return fd;
  int lifted = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD);
  int error = errno;
  close(fd);
  errno = error;
  return lifted;
}


static int child_open_pipe(struct plan_fds *fds, int i) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return -1;
  int ours = child_lift(ends[i == 0 ? 1 : 0]);
  int theirs = child_lift(ends[i == 0 ? 0 : 1]);
  fds->ours[i] = ours;
  fds->theirs[i] = theirs;
  if (ours < 0 || theirs < 0)
    return -1;
  return fcntl(ours, F_SETFL, O_NONBLOCK);
}


/* One standard stream of the plan: "inherit", "null", "pipe", "stdout" (for
 * stderr: the same as stdout), or a file. 0, or -1 with errno. */
static int child_stream(struct spawn_plan *plan, struct plan_fds *fds, int i,
                        const char *how) {
  int flags = i == 0 ? O_RDONLY : O_WRONLY;
  plan->fd[i] = i;
  if (strcmp(how, "inherit") == 0)
    return 0;
  if (i == 2 && strcmp(how, "stdout") == 0) {
    plan->fd[i] = plan->fd[1];
    return 0;
  }
  if (strcmp(how, "pipe") == 0) {
    if (child_open_pipe(fds, i) != 0)
      return -1;
  } else if (strcmp(how, "null") == 0) {
    fds->theirs[i] = child_lift(open("/dev/null", flags | O_CLOEXEC));
  } else {
    if (i > 0)
      flags |= O_APPEND | O_CREAT;
    fds->theirs[i] = child_lift(open(how, flags | O_CLOEXEC, 0644));
  }
  plan->fd[i] = fds->theirs[i];
  return fds->theirs[i] < 0 ? -1 : 0;
}


/* Read `pass_fds` of the options at 1 into `pass`; returns their number. */
static size_t child_pass(lua_State *L, int *pass) {
  if (!opts_table(L, 1, "pass_fds"))
    return 0;
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  if (n > CHILD_FD_MAX)
    luaL_error(L, "option 'pass_fds' holds at most %d", (int)CHILD_FD_MAX);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    lua_Integer fd = luaL_checkinteger(L, -1);
    if (fd < FIRST_FD || fd > INT_MAX)
      luaL_error(L, "option 'pass_fds': %I is no descriptor above 2", fd);
    pass[i - 1] = (int)fd;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return (size_t)n;
}


/* Start the plan and give what it opened to `c`. 0 or an errno. */
static int child_start(struct child *c, struct spawn_plan *plan,
                       const char *const how[3], const char **step) {
  struct plan_fds fds = {{-1, -1, -1}, {-1, -1, -1}};
  int error = 0;
  *step = "standard streams";
  for (int i = 0; i < 3 && error == 0; i++)
    if (child_stream(plan, &fds, i, how[i]) != 0) {
      error = errno;
      *step = how[i];
    }
  if (error == 0)
    error = spawn_start(plan, &c->pid, step);
  for (int i = 0; i < 3; i++)
    child_close_fd(&fds.theirs[i]);
  if (error != 0) {
    c->pid = 0;
    for (int i = 0; i < 3; i++)
      child_close_fd(&fds.ours[i]);
    return error;
  }
  memcpy(c->pipe, fds.ours, sizeof c->pipe);
  /* Until we reap it the number is the child's, also when it ended already. */
  c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
  *step = "pidfd";
  return c->pidfd < 0 ? errno : 0;
}


/* process.spawn{ argv = {program, ...}, env = {NAME = "value" | false},
 *   cwd =, stdin =, stdout =, stderr = "inherit" | "null" | "pipe" | file,
 *   pass_fds = {fd, ...}, group = bool, death_signal = "KILL" | "TERM" | "" }
 * -> child | nil, message, code
 * stderr may be "stdout" as well; files are appended to. `group`: a process
 * group of its own, so that a terminal's Ctrl-C does not reach it. It dies with
 * us: `death_signal` (KILL unless told otherwise, "" for none) is sent when
 * this process ends in any way. stdin is "null" unless told. */
static int process_spawn(lua_State *L) {
  static const char *const known[] = {
      "argv",   "env",      "cwd",   "stdin",        "stdout",
      "stderr", "pass_fds", "group", "death_signal", NULL};
  opts_check(L, 1, known);
  lua_settop(L, 1);
  struct child *c = handle_new(L, sizeof *c, CHILD_TYPE);
  c->pidfd = c->pipe[0] = c->pipe[1] = c->pipe[2] = -1;
  int pass[CHILD_FD_MAX];
  char path[PATH_MAX];
  struct spawn_plan plan = {.path = path, .pass = pass};
  const char *const how[3] = {opts_str(L, 1, "stdin", "null"),
                              opts_str(L, 1, "stdout", "inherit"),
                              opts_str(L, 1, "stderr", "inherit")};
  plan.npass = child_pass(L, pass);
  plan.cwd = opts_str(L, 1, "cwd", NULL);
  plan.group = opts_bool(L, 1, "group", 0);
  lua_pushstring(L, opts_str(L, 1, "death_signal", "KILL"));
  if (*lua_tostring(L, -1) != '\0')
    plan.death_signal = process_signal(L, -1);
  if (!opts_table(L, 1, "argv") || lua_rawlen(L, -1) < 1)
    return luaL_error(L, "option 'argv' must name a program");
  plan.argv = child_vector(L, lua_gettop(L), "argv");
  if (!opts_table(L, 1, "env"))
    lua_newtable(L);
  child_environment(L, -1);
  plan.envp = child_vector(L, lua_gettop(L), "env");
  int error = spawn_find(plan.argv[0], path, sizeof path);
  if (error != 0)
    return process_fail(L, plan.argv[0], error);
  const char *step = NULL;
  c->h.close = child_close;
  error = child_start(c, &plan, how, &step);
  if (error != 0) {
    handle_close(&c->h);
    lua_pushfstring(L, "%s (%s)", plan.argv[0], step);
    return process_fail(L, lua_tostring(L, -1), error);
  }
  lua_settop(L, 2);
  return 1;
}


/* child:pid() -> integer */
static int child_pid(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  lua_pushinteger(L, c->pid);
  return 1;
}


static const char *const child_names[] = {"stdin", "stdout", "stderr", NULL};


/* child:fd([stream]) -> integer | nil   the pidfd, readable when the child has
 * ended; or our end of the pipe "stdin", "stdout" or "stderr" */
static int child_fd(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  int fd = c->pidfd;
  if (!lua_isnoneornil(L, 2))
    fd = c->pipe[luaL_checkoption(L, 2, NULL, child_names)];
  if (fd < 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, fd);
  return 1;
}


static int64_t child_tv_ms(struct timeval tv) {
  return (int64_t)tv.tv_sec * 1000 + tv.tv_usec / 1000;
}


/* Push how the child ended. [-0, +1, m] */
static void child_push_status(lua_State *L, const struct child *c) {
  lua_createtable(L, 0, 5);
  if (WIFSIGNALED(c->status)) {
    field_int(L, "signal", WTERMSIG(c->status));
    lua_pushstring(L, sigabbrev_np(WTERMSIG(c->status)));
    lua_setfield(L, -2, "signal_name");
  } else {
    field_int(L, "code", WEXITSTATUS(c->status));
  }
  field_int(L, "peak_rss_kb", c->usage.ru_maxrss);
  field_int(L, "user_ms", child_tv_ms(c->usage.ru_utime));
  field_int(L, "system_ms", child_tv_ms(c->usage.ru_stime));
}


/* child:wait([timeout_ms]) -> { code = | signal =, signal_name =,
 *   peak_rss_kb =, user_ms =, system_ms = } | nil when it still runs
 * Without a timeout it looks once. A signal to us ends the wait early. The peak
 * counts what the child shared with us before exec, so it is never below our
 * own; process.peak_rss_kb(pid) of a running child is its own alone. */
static int child_wait(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  int64_t timeout = luaL_optinteger(L, 2, 0);
  if (!c->ended && timeout > 0)
    process_poll(L, c->pidfd, POLLIN, timeout);
  if (!child_reap(c, WNOHANG)) {
    lua_pushnil(L);
    return 1;
  }
  child_push_status(L, c);
  return 1;
}


/* child:kill([signal = "TERM"]) -> true | nil, message, code   (ESRCH: ended)
 */
static int child_kill(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  int sig = lua_isnoneornil(L, 2) ? SIGTERM : process_signal(L, 2);
  if (c->ended)
    return process_fail(L, "kill", ESRCH);
  if (syscall(SYS_pidfd_send_signal, c->pidfd, sig, NULL, 0) != 0)
    return process_fail(L, "kill", errno);
  lua_pushboolean(L, 1);
  return 1;
}


/* child:read([stream = "stdout" [, timeout_ms = 0 [, max = 65536]]])
 * -> bytes | "" when nothing came | nil at the end | nil, message, code */
static int child_read(lua_State *L) {
  static char buffer[CHILD_READ_MAX]; /* one Lua thread; copied out at once */
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  int i = luaL_checkoption(L, 2, "stdout", child_names);
  int64_t timeout = luaL_optinteger(L, 3, 0);
  lua_Integer max = luaL_optinteger(L, 4, CHILD_READ_MAX);
  luaL_argcheck(L, i > 0, 2, "stdin is written to");
  luaL_argcheck(L, max >= 1 && max <= CHILD_READ_MAX, 4, "must be 1..65536");
  if (c->pipe[i] < 0) {
    lua_pushnil(L);
    return 1;
  }
  if (timeout > 0)
    process_poll(L, c->pipe[i], POLLIN, timeout);
  ssize_t n = read(c->pipe[i], buffer, (size_t)max);
  if (n == 0) {
    child_close_fd(&c->pipe[i]);
    lua_pushnil(L);
    return 1;
  }
  if (n < 0 && errno != EAGAIN && errno != EINTR)
    return process_fail(L, "read", errno);
  lua_pushlstring(L, buffer, n > 0 ? (size_t)n : 0);
  return 1;
}


/* child:write(bytes [, timeout_ms = 0]) -> integer written, which may be fewer
 * | nil, message, code   (EPIPE: the child closed its end) */
static int child_write(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  size_t len = 0;
  const char *bytes = luaL_checklstring(L, 2, &len);
  int64_t timeout = luaL_optinteger(L, 3, 0);
  if (c->pipe[0] < 0)
    return process_fail(L, "write", EPIPE);
  if (timeout > 0)
    process_poll(L, c->pipe[0], POLLOUT, timeout);
  ssize_t n = write(c->pipe[0], bytes, len);
  if (n < 0 && errno != EAGAIN && errno != EINTR)
    return process_fail(L, "write", errno);
  lua_pushinteger(L, n > 0 ? n : 0);
  return 1;
}


/* child:close_stdin()   the child reads the end of its input */
static int child_close_stdin(lua_State *L) {
  struct child *c = handle_check(L, 1, CHILD_TYPE);
  child_close_fd(&c->pipe[0]);
  return 0;
}


static const luaL_Reg child_methods[] = {{"pid", child_pid},
                                         {"fd", child_fd},
                                         {"wait", child_wait},
                                         {"kill", child_kill},
                                         {"read", child_read},
                                         {"write", child_write},
                                         {"close_stdin", child_close_stdin},
                                         {NULL, NULL}};

static const luaL_Reg process_functions[] = {{"spawn", process_spawn},
                                             {NULL, NULL}};


int luaopen_host_process(lua_State *L);


int luaopen_host_process(lua_State *L) {
  signal(SIGCHLD, SIG_DFL); /* ignored by our parent, no child had a status */
  handle_type(L, CHILD_TYPE, child_methods);
  process_fs_types(L);
  luaL_newlib(L, process_functions);
  luaL_setfuncs(L, process_wait_functions, 0);
  luaL_setfuncs(L, process_info_functions, 0);
  luaL_setfuncs(L, process_fs_functions, 0);
  return 1;
}
