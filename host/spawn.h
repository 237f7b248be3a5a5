/* spawn.h - start a program as a child process, by exec only.
 *
 * The child never runs Lua, library code or atexit handlers: it shares this
 * process's memory for the few async-signal-safe calls before exec, while the
 * parent stands still (as posix_spawn does, which cannot ask for a death
 * signal). Pure C; does not wait for the child and owns no descriptor. */
#ifndef HOST_SPAWN_H
#define HOST_SPAWN_H

#include <stddef.h>
#include <sys/types.h>

struct spawn_plan {
  const char *path; /* the program, with a slash */
  char **argv;
  char **envp;
  const char *cwd; /* NULL: ours */
  int fd[3];       /* what becomes 0, 1, 2; each >= 3 or a standard one */
  const int *pass; /* further descriptors, kept under their numbers */
  size_t npass;
  int group;        /* a process group of its own */
  int death_signal; /* sent to it when the thread that started it ends; 0: no */
};

/* Start it. 0 with *pid, or an errno; then *step names what failed. */
int spawn_start(const struct spawn_plan *plan, pid_t *pid, const char **step);

/* Where `name` is: itself when it has a slash, else found through PATH and then
 * /usr/local/sbin, /usr/sbin and /sbin, which a user's PATH lacks though the
 * database servers live there. 0, or an errno. */
int spawn_find(const char *name, char *path, size_t size);

#endif
