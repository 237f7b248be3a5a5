/* tsan_threads.c - lets ThreadSanitizer see what it has no interceptors for.
 *
 * Linked into the program of `make tsan` alone. librdkafka takes its threads,
 * locks and conditions from C11's <threads.h>, which the sanitizer does not
 * know: a thread it never saw begin crashes in its own code, and a lock it
 * does not see orders nothing. glibc's C11 types are its POSIX types; these
 * definitions, found before those of the C library, say so. `clone` is taken
 * by the sanitizer for a fork, after which it lets no thread begin; ours
 * shares its memory and soon calls exec, so it goes to the C library. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <threads.h>

extern int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
/* The sanitizer's own, called here because calls from librdkafka are left out
 * (tools/tsan.supp). */
extern int __interceptor_pthread_rwlock_rdlock(pthread_rwlock_t *lock);
extern int __interceptor_pthread_rwlock_wrlock(pthread_rwlock_t *lock);
extern int __interceptor_pthread_rwlock_unlock(pthread_rwlock_t *lock);

struct start {
  thrd_start_t run;
  void *arg;
};


static int result(int err) {
  switch (err) {
  case 0:
    return thrd_success;
  case ENOMEM:
    return thrd_nomem;
  case ETIMEDOUT:
    return thrd_timedout;
  case EBUSY:
    return thrd_busy;
  default:
    return thrd_error;
  }
}


static void *run(void *arg) {
  struct start s = *(struct start *)arg;
  free(arg);
  return (void *)(long)s.run(s.arg);
}


int thrd_create(thrd_t *thread, thrd_start_t fn, void *arg) {
  struct start *s = malloc(sizeof *s);
  if (s == NULL)
    return thrd_nomem;
  s->run = fn;
  s->arg = arg;
  int err = pthread_create(thread, NULL, run, s);
  if (err != 0)
    free(s);
  return result(err);
}


int thrd_join(thrd_t thread, int *code) {
  void *value = NULL;
  int err = pthread_join(thread, &value);
  if (err == 0 && code != NULL)
    *code = (int)(long)value;
  return result(err);
}


int mtx_init(mtx_t *m, int type) {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  if (type & mtx_recursive)
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
  int err = pthread_mutex_init((pthread_mutex_t *)m, &attr);
  pthread_mutexattr_destroy(&attr);
  return result(err);
}


int mtx_lock(mtx_t *m) {
  return result(pthread_mutex_lock((pthread_mutex_t *)m));
}


int mtx_unlock(mtx_t *m) {
  return result(pthread_mutex_unlock((pthread_mutex_t *)m));
}


void mtx_destroy(mtx_t *m) {
  pthread_mutex_destroy((pthread_mutex_t *)m);
}


int cnd_init(cnd_t *c) {
  return result(pthread_cond_init((pthread_cond_t *)c, NULL));
}


int cnd_signal(cnd_t *c) {
  return result(pthread_cond_signal((pthread_cond_t *)c));
}


int cnd_broadcast(cnd_t *c) {
  return result(pthread_cond_broadcast((pthread_cond_t *)c));
}


int cnd_wait(cnd_t *c, mtx_t *m) {
  return result(pthread_cond_wait((pthread_cond_t *)c, (pthread_mutex_t *)m));
}


int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *until) {
  return result(
      pthread_cond_timedwait((pthread_cond_t *)c, (pthread_mutex_t *)m, until));
}


void cnd_destroy(cnd_t *c) {
  pthread_cond_destroy((pthread_cond_t *)c);
}


int pthread_rwlock_rdlock(pthread_rwlock_t *lock) {
  return __interceptor_pthread_rwlock_rdlock(lock);
}


int pthread_rwlock_wrlock(pthread_rwlock_t *lock) {
  return __interceptor_pthread_rwlock_wrlock(lock);
}


int pthread_rwlock_unlock(pthread_rwlock_t *lock) {
  return __interceptor_pthread_rwlock_unlock(lock);
}


int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...) {
  return __clone(fn, stack, flags, arg);
}
