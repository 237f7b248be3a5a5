/* kafka_leave.h - a static member's LeaveGroup. Private to host.kafka.
 *
 * librdkafka never sends it: a static member is meant to come back. One that
 * will not would keep its partitions from the others until the session timeout,
 * so this sends the one request (LeaveGroup v3) over a connection of its own,
 * to a listener without TLS and SASL only. */
#ifndef HOST_KAFKA_LEAVE_H
#define HOST_KAFKA_LEAVE_H

#include "kafka.h"

struct kafka_leave; /* who leaves which group, and where its coordinator is */

/* Look everything up while the member is still in the group, waiting no longer
 * than `wait_ms`. NULL, with *err set: it cannot be done. */
struct kafka_leave *kafka_leave_prepare(struct kafka_client *client,
                                        int wait_ms, rd_kafka_resp_err_t *err);

/* Send it once the member has stopped: otherwise it would join again. Frees
 * `leave`. Returns 0 or the error. */
rd_kafka_resp_err_t kafka_leave_send(struct kafka_leave *leave, int wait_ms);

#endif
