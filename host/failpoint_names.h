/* failpoint_names.h - every fail point and every mutation there is. A test
 * build refuses others, where they are asked for and where they are met.
 * Included by failpoint.c alone. */
#ifndef HOST_FAILPOINT_NAMES_H
#define HOST_FAILPOINT_NAMES_H

#include <stddef.h>

static const char *const failpoint_points[] = {
    /* a claim of all that wait: lib/mill/progress.lua, run.lua */
    "claim.before",    /* nothing is sent */
    "claim.locked",    /* the rows are locked and read */
    "claim.written",   /* owner and epochs are written, not committed */
    "claim.committed", /* the rows are ours, nothing is read yet */
    "claim.reading",   /* the partitions flow */
    /* a commit: lib/mill/commit.lua, committer.lua */
    "commit.begin",    /* the deltas are sealed, nothing is sent */
    "commit.compared", /* positions are moved, their counts are read */
    "commit.results",  /* the result rows are written, but for the last few */
    "commit.before",   /* the last few and COMMIT, one packet, are not sent */
    "commit.sent",     /* they are sent, no answer of them is awaited */
    "commit.after",    /* COMMIT is answered */
    "commit.settled",  /* the deltas are dropped, the next may begin */
    "resolve.locked",  /* the row of an unknown outcome is locked and read */
    /* a revocation: lib/mill/run.lua */
    "revoke.before",    /* Kafka takes partitions, nothing is done about it */
    "revoke.committed", /* what was uncommitted is committed */
    "revoke.after",     /* the partitions are given back */
    /* what else writes */
    "register.before", /* a new pipeline's rows are about to be written */
    "register.after", "finalise.locked", /* all progress rows are locked */
    "finalise.after",
    "gap.before", /* a gap is about to be recorded and gone over */
    "gap.after", "reset.locked",   /* going back: the rows are locked */
    "reset.deleted",               /* results are deleted */
    "reset.before",                /* all is written, COMMIT is not sent */
    "reset.after", "purge.stored", /* the floor is raised, nothing is deleted */
    /* the producer's spool: lib/mill/spool.lua, drain.lua */
    "spool.append",        /* a message is about to be written */
    "spool.sync",          /* a sync is over */
    "drain.begin",         /* messages are read, no transaction is begun */
    "drain.sent",          /* all of a transaction is handed to the client */
    "drain.before_commit", /* all of it is delivered */
    "drain.after_commit",  /* it is committed, the spool does not know yet */
    NULL};

static const char *const failpoint_mutations[] = {
    "fencing",        /* the compare-and-set finds its row whoever owns it */
    "for-update",     /* claims and unknown outcomes read without a lock */
    "commit-seq",     /* nobody looks at the commit's number */
    "position",       /* a commit does not move the position */
    "spool-checksum", /* a record of the spool is taken as it is */
    NULL};

#endif
