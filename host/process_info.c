/* process_info.c - host.process: facts about this process, others and the
 * terminal, read from the kernel when asked. Changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "mono.h"
#include "process.h"

enum { PROC_TEXT_MAX = 8192, PROC_START_FIELD = 22 };


static int info_pid_arg(lua_State *L) {
  lua_Integer pid = luaL_optinteger(L, 1, getpid());
  luaL_argcheck(L, pid > 0 && pid <= INT_MAX, 1, "must be one process");
  return (int)pid;
}


/* Read a small kernel file into `text`. Its length, or minus an errno. */
static ssize_t info_read(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  size_t used = 0;
  ssize_t n = 0;
  while (used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0)
    used += (size_t)n;
  int error = errno;
  close(fd);
  text[used] = '\0';
  return n < 0 ? -error : (ssize_t)used;
}


static ssize_t info_read_pid(int pid, const char *file, char *text,
                             size_t size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
  return info_read(path, text, size);
}


/* Push line `name` of /proc/PID/status in kB, or nil. [-0, +1] */
static int info_push_kb(lua_State *L, const char *name) {
  char text[PROC_TEXT_MAX];
  int pid = info_pid_arg(L);
  const char *line = NULL;
  if (info_read_pid(pid, "status", text, sizeof text) > 0)
    line = strstr(text, name);
  if (line == NULL) /* gone, or a zombie, which has no memory left */
    lua_pushnil(L);
  else
    lua_pushinteger(L, strtoll(line + strlen(name), NULL, 10));
  return 1;
}


/* process.rss_kb([pid]) -> integer | nil   resident memory now */
static int process_rss_kb(lua_State *L) {
  return info_push_kb(L, "\nVmRSS:");
}


/* process.peak_rss_kb([pid]) -> integer | nil   its greatest value */
static int process_peak_rss_kb(lua_State *L) {
  return info_push_kb(L, "\nVmHWM:");
}


/* The text after the command name of /proc/PID/stat, which begins with the
 * state; the name itself may hold anything. NULL: no such process. */
static const char *info_stat(int pid, char *text, size_t size) {
  if (info_read_pid(pid, "stat", text, size) <= 0)
    return NULL;
  const char *close = strrchr(text, ')');
  return close != NULL && close[1] == ' ' ? close + 2 : NULL;
}


/* process.alive(pid) -> boolean   false for one that ended and waits for its
 * parent */
static int process_alive(lua_State *L) {
  char text[1024];
  luaL_checkinteger(L, 1);
  const char *stat = info_stat(info_pid_arg(L), text, sizeof text);
  lua_pushboolean(L, stat != NULL && *stat != 'Z' && *stat != 'X');
  return 1;
}


/* process.started([pid]) -> integer | nil   when it started, in clock ticks
 * since boot: with the boot id and the pid it names one process for ever */
static int process_started(lua_State *L) {
  char text[1024];
  const char *stat = info_stat(info_pid_arg(L), text, sizeof text);
  for (int field = 3; stat != NULL && field < PROC_START_FIELD; field++) {
    stat = strchr(stat, ' ');
    stat = stat != NULL ? stat + 1 : NULL;
  }
  if (stat == NULL)
    lua_pushnil(L);
  else
    lua_pushinteger(L, strtoll(stat, NULL, 10));
  return 1;
}


/* process.cmdline(pid) -> string | nil   its arguments, parted by spaces */
static int process_cmdline(lua_State *L) {
  char text[PROC_TEXT_MAX];
  ssize_t n = info_read_pid(info_pid_arg(L), "cmdline", text, sizeof text);
  if (n <= 0) {
    lua_pushnil(L);
    return 1;
  }
  if (text[n - 1] == '\0')
    n--;
  for (ssize_t i = 0; i < n; i++)
    if (text[i] == '\0')
      text[i] = ' ';
  lua_pushlstring(L, text, (size_t)n);
  return 1;
}


/* process.pid() -> integer */
static int process_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}


/* process.uid() -> integer   the effective user */
static int process_uid(lua_State *L) {
  lua_pushinteger(L, geteuid());
  return 1;
}


/* process.hostname() -> string */
static int process_hostname(lua_State *L) {
  char name[HOST_NAME_MAX + 1];
  if (gethostname(name, sizeof name) != 0)
    return process_fail(L, "hostname", errno);
  lua_pushstring(L, name);
  return 1;
}


/* process.boot_id() -> string   where a pid means the same process: it changes
 * with each boot of the machine, and with the PID namespace, as in a container.
 */
static int process_boot_id(lua_State *L) {
  static const char path[] = "/proc/sys/kernel/random/boot_id";
  char text[128];
  struct stat names;
  ssize_t n = info_read(path, text, sizeof text);
  if (n < 0)
    return process_fail(L, path, (int)-n);
  text[strcspn(text, "\n")] = '\0';
  if (stat("/proc/self/ns/pid", &names) != 0)
    names.st_ino = 0; /* a kernel without them */
  lua_pushfstring(L, "%s/%I", text, (LUAI_UACINT)names.st_ino);
  return 1;
}


/* process.home() -> string   the folder that holds lib/ */
static int process_home(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "tidemill.home");
  return 1;
}


/* process.uptime_ms() -> number   since this process was started */
static int process_uptime_ms(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "tidemill.started_us");
  lua_pushnumber(L, (lua_Number)(mono_us() - lua_tointeger(L, -1)) / 1000.0);
  return 1;
}


/* process.exe() -> string   the program that runs */
static int process_exe(lua_State *L) {
  char path[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n < 0)
    return process_fail(L, "/proc/self/exe", errno);
  lua_pushlstring(L, path, (size_t)n);
  return 1;
}


static int info_fd_arg(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "is no descriptor");
  return (int)fd;
}


/* process.isatty(fd) -> boolean */
static int process_isatty(lua_State *L) {
  lua_pushboolean(L, isatty(info_fd_arg(L)));
  return 1;
}


/* process.winsize(fd) -> columns, rows | nil, message, code   a terminal that
 * does not know its size fails with ENODATA */
static int process_winsize(lua_State *L) {
  struct winsize size;
  if (ioctl(info_fd_arg(L), TIOCGWINSZ, &size) != 0)
    return process_fail(L, "window size", errno);
  if (size.ws_col == 0)
    return process_fail(L, "window size", ENODATA);
  lua_pushinteger(L, size.ws_col);
  lua_pushinteger(L, size.ws_row);
  return 2;
}


/* process.cpus() -> integer   processors online */
static int process_cpus(lua_State *L) {
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  lua_pushinteger(L, n > 0 ? n : 1);
  return 1;
}


const luaL_Reg process_info_functions[] = {
    {"rss_kb", process_rss_kb},   {"peak_rss_kb", process_peak_rss_kb},
    {"alive", process_alive},     {"started", process_started},
    {"cmdline", process_cmdline}, {"pid", process_pid},
    {"uid", process_uid},         {"hostname", process_hostname},
    {"boot_id", process_boot_id}, {"home", process_home},
    {"exe", process_exe},         {"uptime_ms", process_uptime_ms},
    {"isatty", process_isatty},   {"winsize", process_winsize},
    {"cpus", process_cpus},       {NULL, NULL}};
