/* mono.h - the machine's monotonic clock, for waiting: how long until a peer
 * has answered, how long a sync took.
 *
 * Not clock_core.h's, which tests move: who waits for a socket or a thread
 * waits in real time. Needs no Lua and nothing of ours. */
#ifndef HOST_MONO_H
#define HOST_MONO_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>


/* Microseconds since some moment of this boot. */
static inline int64_t mono_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}


/* The same in milliseconds. */
static inline int64_t mono_ms(void) {
  return mono_us() / 1000;
}


/* A moment of mono_us, as a condition of mono_cond_init waits for it. */
static inline struct timespec mono_timespec(int64_t us) {
  return (struct timespec){us / 1000000, us % 1000000 * 1000};
}


/* A condition whose timed waits are by this clock: nobody sets it. */
static inline void mono_cond_init(pthread_cond_t *cond) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(cond, &attr);
  pthread_condattr_destroy(&attr);
}

#endif
