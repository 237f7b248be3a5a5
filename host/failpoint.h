/* failpoint.h - named places at which a test build stops, and checks that it
 * leaves out on request. In an ordinary build both macros are constants and
 * nothing of failpoint.c is linked; what they do and how they are asked for
 * is told there. Any thread may come by. */
#ifndef HOST_FAILPOINT_H
#define HOST_FAILPOINT_H

#ifdef TIDEMILL_FAULTS

/* What the one who comes by is to do; may be both. */
enum { FAILPOINT_ERROR = 1, FAILPOINT_CUT = 2 };

/* Come by the point `name`. 0, or what is to be done there. */
int failpoint_hit(const char *name);

/* Is the mutation `name` asked for? */
int failpoint_off(const char *name);

#define FAILPOINT(name) failpoint_hit(name)
#define FAILPOINT_OFF(name) failpoint_off(name)

#else

#define FAILPOINT(name) 0
#define FAILPOINT_OFF(name) 0

#endif

#endif
