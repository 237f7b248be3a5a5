/* kafka_task.c - one piece of work on a detached thread, with a bounded wait.
 *
 * For calls of librdkafka that block as long as they like: the caller waits in
 * slices and may give up; the work then ends alone and frees itself. */
#include <errno.h>

#include "kafka.h"
#include "mono.h"
#include "thread.h"


void kafka_task_init(struct kafka_task *task, void (*run)(struct kafka_task *),
                     void (*free)(struct kafka_task *)) {
  task->run = run;
  task->free = free;
  task->done = 0;
  atomic_init(&task->refs, 1);
  pthread_mutex_init(&task->lock, NULL);
  mono_cond_init(&task->changed);
}


void kafka_task_release(struct kafka_task *task) {
  if (atomic_fetch_sub(&task->refs, 1) != 1)
    return;
  pthread_mutex_destroy(&task->lock);
  pthread_cond_destroy(&task->changed);
  task->free(task);
}


static void *task_thread(void *arg) {
  struct kafka_task *task = arg;
  task->run(task);
  pthread_mutex_lock(&task->lock);
  task->done = 1;
  pthread_cond_signal(&task->changed);
  pthread_mutex_unlock(&task->lock);
  kafka_task_release(task);
  return NULL;
}


void kafka_task_start(struct kafka_task *task) {
  atomic_fetch_add(&task->refs, 1);
  if (thread_start(NULL, 0, task_thread, task) != 0)
    task_thread(task);
}


int kafka_task_wait(struct kafka_task *task, int wait_ms) {
  struct timespec until = mono_timespec(mono_us() + (int64_t)wait_ms * 1000);
  pthread_mutex_lock(&task->lock);
  int err = 0;
  while (!task->done && err != ETIMEDOUT)
    err = pthread_cond_timedwait(&task->changed, &task->lock, &until);
  int done = task->done;
  pthread_mutex_unlock(&task->lock);
  return done;
}
