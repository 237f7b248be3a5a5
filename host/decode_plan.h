/* decode_plan.h - the names of a decoder's fields as a tree of keys.
 *
 * decode.c makes it once a batch and walks every payload along it. It points
 * into the decoder, which must not change meanwhile. */
#ifndef HOST_DECODE_PLAN_H
#define HOST_DECODE_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "decode.h"

/* A key that is a field's, or on the way to fields inside its value. */
struct node {
  const char *name;
  size_t len;
  uint64_t below; /* fields inside the value, as bits */
  int field;      /* when child < 0 */
  int child;      /* first key inside the value; -1: none */
  int next;       /* next key of the same object; the last goes to the first */
  int plain;      /* the name stands in JSON as it is, without escapes */
};

enum { NODES_MAX = 1 + DECODE_MAX_FIELDS * DECODE_PARTS_MAX };

struct plan {
  struct node nodes[NODES_MAX];
  int count;
};

/* nodes[0] is the payload itself; its name is empty. */
void plan_make(struct plan *plan, const struct decoder *d);

#endif
