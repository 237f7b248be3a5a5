/* thread.h - a thread of ours. Signals belong to the main thread: a new one
 * begins with all of them blocked. Needs no Lua and nothing of ours. */
#ifndef HOST_THREAD_H
#define HOST_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>


/* Start `run(arg)`. With `thread` it is to be joined, with NULL it ends alone.
 * `stack_bytes` 0 is the system's stack. Returns 0 or an errno. */
static inline int thread_start(pthread_t *thread, size_t stack_bytes,
                               void *(*run)(void *), void *arg) {
  sigset_t all, before;
  pthread_attr_t attr;
  pthread_t own;
  pthread_attr_init(&attr);
  if (stack_bytes > 0)
    pthread_attr_setstacksize(&attr, stack_bytes);
  if (thread == NULL)
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int err = pthread_create(thread == NULL ? &own : thread, &attr, run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return err;
}

#endif
