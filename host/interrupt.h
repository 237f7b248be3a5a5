/* interrupt.h - SIGINT, SIGTERM, SIGHUP, seen by everything that runs or waits.
 *
 * Two modes. Raising (the default): the first signal raises "interrupted" in
 * the running Lua code and again after every pcall until the stack is unwound;
 * waits stop early. Graceful (a pipeline asks for it): the first signal is only
 * recorded, for the pipeline to commit and close; the second ends the process
 * at once with status 130. A supervisor, which has children and a terminal to
 * put in order, asks for the counted mode: there the third one does. */
#ifndef HOST_INTERRUPT_H
#define HOST_INTERRUPT_H

#include <stdint.h>

#include <lua.h>

enum { INTERRUPT_SLICE_MS = 100 }; /* the longest wait between two looks */
enum { INTERRUPT_COUNTED = 2 };    /* for interrupt_graceful */

/* Install the signal handlers; ignore SIGPIPE. Once, from main. */
void interrupt_install(void);

/* Give `L` the count hook; before any script code, so coroutines inherit it. */
void interrupt_hook(lua_State *L);

/* 0: nothing, 1: a first signal came, 2: more. */
int interrupt_level(void);

/* 1 when the current wait should end early: a signal came. */
int interrupt_pending(void);

/* 0: raising, 1: graceful, INTERRUPT_COUNTED: counted. */
void interrupt_graceful(int mode);
void interrupt_reset(void);

/* 1 when interrupt_check would raise: what waits puts its affairs in order
 * first. */
int interrupt_raising(void);

/* Besides, raise from `deadline_ms` of the monotonic clock on, in every mode;
 * 0 takes the limit away. For code that must not hold up a stream. */
void interrupt_limit(int64_t deadline_ms);
int interrupt_late(void);

/* Act as if the signal came; for tests and for a control command. */
void interrupt_raise(void);

/* Raise "interrupted" now if one is pending in the raising mode. [-0, +0, v] */
void interrupt_check(lua_State *L);

#endif
