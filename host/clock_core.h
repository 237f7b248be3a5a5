/* clock_core.h - wall and monotonic time, replaceable in tests.
 *
 * The two are distinct types, so that a deadline is never compared with a
 * timestamp. A test that fixes the wall clock or moves time forward does it for
 * C and Lua alike; what waits for a peer waits in real time (mono.h). Safe to
 * read from any thread; does not sleep and knows no time zones. */
#ifndef HOST_CLOCK_CORE_H
#define HOST_CLOCK_CORE_H

#include <stdint.h>

/* Since the Unix epoch, UTC. May jump. */
struct clock_wall {
  int64_t ms;
};

/* Since some moment of this boot. Never goes back. */
struct clock_mono {
  int64_t us;
};

struct clock_wall clock_wall_now(void);
struct clock_mono clock_mono_now(void);

/* How long the machine has slept since its boot, in ms: the monotonic clock
 * stood still meanwhile. */
int64_t clock_asleep_ms(void);

/* The wall clock stands at `ms` until it is fixed anew, moved or released. */
void clock_wall_fix(int64_t ms);

/* The wall clock is the machine's again. */
void clock_wall_release(void);

/* The wall clock is the machine's plus `ms`, which may be negative: as if
 * somebody had set it. Monotonic time is not touched. */
void clock_wall_shift(int64_t ms);

/* Move both clocks forward by `ms`, which must not be negative. */
void clock_advance(int64_t ms);

#endif
