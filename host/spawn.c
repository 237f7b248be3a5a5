/* spawn.c - start a program as a child process. See spawn.h. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

enum { SPAWN_STACK = 64 * 1024, SPAWN_FIRST_FD = 3, SPAWN_FAILED = 127 };

/* The child leaves its frames by exec and never unwinds them: a sanitizer would
 * keep their marks in the memory that is the parent's too. */
#define IN_CHILD __attribute__((no_sanitize("address", "undefined")))

/* What parent and child share while the child has not called exec. */
struct spawn_call {
  const struct spawn_plan *plan;
  pid_t parent;
  sigset_t mask;
  int error;
  const char *step;
};


/* Libraries open descriptors without the flag; none may reach the child. */
IN_CHILD static void spawn_seal(void) {
  if (syscall(SYS_close_range, SPAWN_FIRST_FD, ~0U, CLOSE_RANGE_CLOEXEC) == 0)
    return;
  struct rlimit limit;
  rlim_t end = 1024;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 65536)
    end = limit.rlim_cur;
  for (int fd = SPAWN_FIRST_FD; (rlim_t)fd < end; fd++)
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}


IN_CHILD static void spawn_reset_signals(const sigset_t *mask) {
  for (int sig = 1; sig < NSIG; sig++) {
    struct sigaction action;
    if (sigaction(sig, NULL, &action) != 0)
      continue;
    /* SIGHUP ignored is a wish of whoever used nohup; ours are not. */
    if (action.sa_handler == SIG_IGN && sig != SIGPIPE)
      continue;
    if (action.sa_handler == SIG_DFL)
      continue;
    action.sa_handler = SIG_DFL;
    action.sa_flags = 0;
    sigaction(sig, &action, NULL);
  }
  sigprocmask(SIG_SETMASK, mask, NULL);
}


IN_CHILD static int spawn_wire(const struct spawn_plan *plan) {
  for (int i = 0; i < SPAWN_FIRST_FD; i++)
    if (plan->fd[i] != i && dup2(plan->fd[i], i) < 0)
      return -1;
  spawn_seal();
  for (size_t i = 0; i < plan->npass; i++)
    if (fcntl(plan->pass[i], F_SETFD, 0) < 0)
      return -1;
  return 0;
}


/* The child's few steps; returns only when one failed. */
IN_CHILD static void spawn_steps(struct spawn_call *call) {
  const struct spawn_plan *plan = call->plan;
  call->step = "death signal";
  if (plan->death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, plan->death_signal) != 0)
      return;
    errno = ESRCH;
    if (getppid() != call->parent) /* it died before we asked */
      return;
  }
  call->step = "process group";
  if (plan->group && setpgid(0, 0) != 0)
    return;
  call->step = "folder";
  if (plan->cwd != NULL && chdir(plan->cwd) != 0)
    return;
  call->step = "descriptors";
  if (spawn_wire(plan) != 0)
    return;
  spawn_reset_signals(&call->mask);
  call->step = "exec";
  execve(plan->path, plan->argv, plan->envp);
}


IN_CHILD static int spawn_child(void *data) {
  struct spawn_call *call = data;
  errno = 0;
  spawn_steps(call);
  call->error = errno != 0 ? errno : EINVAL;
  _exit(SPAWN_FAILED);
}


int spawn_start(const struct spawn_plan *plan, pid_t *pid, const char **step) {
  _Alignas(16) char stack[SPAWN_STACK];
  struct spawn_call call = {.plan = plan, .parent = getpid(), .step = "clone"};
  sigset_t all;
  sigset_t old;
  /* No handler of ours may run in the child: it shares our memory. */
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  sigemptyset(&call.mask);
  *pid = clone(spawn_child, stack + sizeof stack,
               CLONE_VM | CLONE_VFORK | SIGCHLD, &call);
  if (*pid < 0)
    call.error = errno;
  sigprocmask(SIG_SETMASK, &old, NULL);
  *step = call.step;
  if (*pid > 0 && call.error != 0)
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
      continue;
  return call.error;
}


static int spawn_runnable(const char *path) {
  struct stat st;
  if (stat(path, &st) != 0)
    return errno;
  if (S_ISDIR(st.st_mode))
    return EACCES;
  return access(path, X_OK) == 0 ? 0 : errno;
}


int spawn_find(const char *name, char *path, size_t size) {
  if (strchr(name, '/') != NULL) {
    if ((size_t)snprintf(path, size, "%s", name) >= size)
      return ENAMETOOLONG;
    return spawn_runnable(path);
  }
  const char *dirs[] = {getenv("PATH"), "/usr/local/sbin:/usr/sbin:/sbin"};
  int error = ENOENT;
  for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
    const char *dir = dirs[i] != NULL ? dirs[i] : "";
    while (*dir != '\0') {
      size_t n = strcspn(dir, ":");
      int len = snprintf(path, size, "%.*s/%s", (int)n, dir, name);
      if (n > 0 && len > 0 && (size_t)len < size) {
        int found = spawn_runnable(path);
        if (found == 0)
          return 0;
        if (found == EACCES)
          error = EACCES;
      }
      dir += n + (dir[n] == ':');
    }
  }
  return error;
}
