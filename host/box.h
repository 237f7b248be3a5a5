/* box.h - the batch as a Lua value that several modules accept, and work on it
 * that one module lends another.
 *
 * Modules never include each other; what they hand over are these types. */
#ifndef HOST_BOX_H
#define HOST_BOX_H

#include <stdatomic.h>

#include <lua.h>

#include "batch.h"
#include "handle.h"

#define BOX_BATCH "batch"

/* Push a new empty batch. handle_type(L, BOX_BATCH, ...) came before. */
void box_new(lua_State *L);

/* The open batch at `arg`; raises otherwise. The batch stays owned by Lua. */
struct batch *box_batch(lua_State *L, int arg);

/* What a module does with a batch, lent to the threads of another: the decoder
 * of host.json, to the reader of host.kafka. It is read-only meanwhile, so
 * several threads may run it, each on a batch of its own. */
struct box_work {
  atomic_int refs;
  int (*run)(const struct box_work *work, struct batch *b); /* BATCH_... */
  void (*free)(struct box_work *work);
};

/* Handles that own such work begin like this. */
struct box_worker {
  struct handle h;
  struct box_work *work;
};

/* Say that handles of `type` are workers. [-0, +0] */
void box_worker_type(lua_State *L, const char *type);

/* The work of the open worker at `arg`, kept until box_work_release; raises
 * otherwise. */
struct box_work *box_work_keep(lua_State *L, int arg);

/* The last one frees. */
void box_work_release(struct box_work *work);

#endif
