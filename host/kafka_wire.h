/* kafka_wire.h - one request and its answer over a connection of one's own, for
 * what librdkafka has no call for. Private to host.kafka.
 *
 * Plaintext only, without SASL; to be used on a thread of its own, since a
 * host's name may take long to be found. Every `until` is of mono_ms. */
#ifndef HOST_KAFKA_WIRE_H
#define HOST_KAFKA_WIRE_H

#include "kafka.h"

enum { KAFKA_NAME_MAX = 512, KAFKA_WIRE_MAX = 4 * KAFKA_NAME_MAX };

/* A request being written, or an answer being read; Kafka's integers are
 * big-endian. */
struct kafka_wire {
  unsigned char bytes[KAFKA_WIRE_MAX];
  size_t used; /* of an answer: how much was taken */
  size_t size; /* of an answer */
  int bad;     /* an answer was shorter than what was taken */
};

/* Begin a request. Names that follow are shorter than KAFKA_NAME_MAX. */
void kafka_wire_begin(struct kafka_wire *m, uint32_t api, uint32_t version);
void kafka_wire_put_int(struct kafka_wire *m, uint32_t value, int size);
void kafka_wire_put(struct kafka_wire *m, const char *text);

/* A connected non-blocking socket, or -1. */
int kafka_wire_connect(const char *host, const char *port, int64_t until);

/* Send the request; the same `m` then holds the answer, behind its correlation
 * id. 0 or an error. */
rd_kafka_resp_err_t kafka_wire_ask(int fd, struct kafka_wire *m, int64_t until);

/* Take from an answer; beyond its end: 0 or empty, and bad is set. */
uint32_t kafka_wire_int(struct kafka_wire *m, int size);
int16_t kafka_wire_error(struct kafka_wire *m);
void kafka_wire_text(struct kafka_wire *m, char text[KAFKA_NAME_MAX]);

#endif
