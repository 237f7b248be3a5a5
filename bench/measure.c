/* measure.c - run a program and tell what it and all its children took.
 *
 *   measure REPORT PROGRAM [ARG ...]
 *
 * The program's output goes where ours would. REPORT gets one JSON object:
 * seconds (wall), cpu_seconds (user and system, children included),
 * peak_rss_mb (the greatest sum over all processes alive at once, looked at
 * every 10 ms, or the greatest of a single one, whichever is more), status.
 * Orphans of the program are adopted, so that nothing escapes the count. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { EVERY_US = 10000, DEPTH_MAX = 16 };


static double rss_of(long pid) {
  char path[64];
  long pages = 0, size = 0;
  snprintf(path, sizeof path, "/proc/%ld/statm", pid);
  FILE *f = fopen(path, "r");
  if (f == NULL)
    return 0;
  if (fscanf(f, "%ld %ld", &size, &pages) != 2)
    pages = 0;
  fclose(f);
  return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576;
}


/* Resident memory of the children of `pid` and of theirs. */
static double rss_below(long pid, int depth) {
  char path[320];
  double sum = 0;
  snprintf(path, sizeof path, "/proc/%ld/task", pid);
  DIR *tasks = opendir(path);
  if (tasks == NULL || depth == DEPTH_MAX) {
    if (tasks != NULL)
      closedir(tasks);
    return 0;
  }
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    snprintf(path, sizeof path, "/proc/%ld/task/%s/children", pid,
             task->d_name);
    FILE *f = task->d_name[0] == '.' ? NULL : fopen(path, "r");
    long child;
    while (f != NULL && fscanf(f, "%ld", &child) == 1)
      sum += rss_of(child) + rss_below(child, depth + 1);
    if (f != NULL)
      fclose(f);
  }
  closedir(tasks);
  return sum;
}


int main(int argc, char **argv) {
  if (argc < 3)
    bench_die("usage: measure REPORT PROGRAM [ARG ...]");
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  double began = bench_now(), seconds = 0, peak = 0;
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    _exit(127);
  }
  int status = 1, left = 1;
  while (left) {
    int how;
    struct rusage u;
    double now = rss_below(getpid(), 0);
    if (now > peak)
      peak = now;
    pid_t pid = wait4(-1, &how, WNOHANG, &u);
    if (pid == 0) {
      usleep(EVERY_US);
      continue;
    }
    left = pid > 0;
    if (left && (double)u.ru_maxrss / 1024 > peak)
      peak = (double)u.ru_maxrss / 1024;
    if (pid == child) {
      seconds = bench_now() - began;
      status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    }
  }
  struct rusage all;
  getrusage(RUSAGE_CHILDREN, &all);
  FILE *report = fopen(argv[1], "w");
  if (report == NULL)
    bench_die("%s: %s", argv[1], strerror(errno));
  fprintf(report,
          "{\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"peak_rss_mb\":%.1f,"
          "\"status\":%d}\n",
          seconds,
          (double)(all.ru_utime.tv_sec + all.ru_stime.tv_sec) +
              (double)(all.ru_utime.tv_usec + all.ru_stime.tv_usec) / 1e6,
          peak, status);
  return fclose(report) == 0 ? status : 1;
}
