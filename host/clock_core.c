/* clock_core.c - wall and monotonic time. See clock_core.h. */
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "clock_core.h"

/* A wall clock is either the machine's plus `wall_shift`, or fixed. */
static atomic_int wall_fixed;
static _Atomic int64_t wall_value;
static _Atomic int64_t wall_shift;
static _Atomic int64_t mono_shift_us;


static int64_t clock_read_us(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}


struct clock_wall clock_wall_now(void) {
  struct clock_wall wall;
  if (atomic_load_explicit(&wall_fixed, memory_order_acquire))
    wall.ms = atomic_load(&wall_value);
  else
    wall.ms = clock_read_us(CLOCK_REALTIME) / 1000 + atomic_load(&wall_shift);
  return wall;
}


struct clock_mono clock_mono_now(void) {
  struct clock_mono mono = {clock_read_us(CLOCK_MONOTONIC) +
                            atomic_load(&mono_shift_us)};
  return mono;
}


int64_t clock_asleep_ms(void) {
  int64_t mono = clock_read_us(CLOCK_MONOTONIC);
  return (clock_read_us(CLOCK_BOOTTIME) - mono) / 1000;
}


void clock_wall_fix(int64_t ms) {
  atomic_store(&wall_value, ms);
  atomic_store_explicit(&wall_fixed, 1, memory_order_release);
}


void clock_wall_release(void) {
  atomic_store(&wall_shift, 0);
  atomic_store(&wall_fixed, 0);
}


void clock_wall_shift(int64_t ms) {
  atomic_store(&wall_shift, ms);
  atomic_store(&wall_fixed, 0);
}


void clock_advance(int64_t ms) {
  if (atomic_load(&wall_fixed))
    atomic_fetch_add(&wall_value, ms);
  else
    atomic_fetch_add(&wall_shift, ms);
  atomic_fetch_add(&mono_shift_us, ms * 1000);
}
