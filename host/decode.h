/* decode.h - turns the payloads of a batch into typed cells, strictly.
 *
 * A decoder is a list of fields: name in the JSON object, type, limits. One
 * pass over each payload checks that it is RFC 8259 JSON and takes the fields;
 * a row that lacks one, or has it in another form, is marked bad with a fault
 * that names its JSON path. Pure C; a decoder is read-only while it decodes,
 * so threads may share one, each with a batch of its own. */
#ifndef HOST_DECODE_H
#define HOST_DECODE_H

#include <stddef.h>
#include <stdint.h>

#include "batch.h"
#include "moment.h" /* enum time_unit */

enum { DECODE_MAX_FIELDS = 64, DECODE_NAME_MAX = 61, DECODE_PARTS_MAX = 8 };

/* The least or greatest value of a number, and the column that sets it. */
struct field_bound {
  decimal value; /* at the field's scale */
  uint8_t set;   /* 0: no bound */
  char column[64];
};

struct field {
  char path[64];       /* "$.price", for faults */
  char name[64];       /* key in the object; "data.price" looks inside data */
  enum cell_type type; /* the cell it fills; cell number = field number */
  uint8_t precision;   /* decimal */
  uint8_t scale;       /* decimal */
  uint8_t positive;    /* decimal, integer: a value <= 0 is a fault */
  enum time_unit unit; /* time */
  uint32_t max_chars;  /* string: more characters are a fault; 0: no limit */
  char max_column[64]; /* ... which names this column */
  struct field_bound least, most; /* decimal, integer: beyond is a fault */
};

struct decoder {
  struct field fields[DECODE_MAX_FIELDS];
  size_t count;
  size_t extra; /* cells behind the fields, for values that Lua computes */
  int skip_tombstones; /* a null payload is ROW_SKIPPED instead of bad */
};

/* Add a field. Returns it, to be completed, or NULL: too many fields; a name
 * that is taken, or looks inside another field or the other way round; longer
 * than DECODE_NAME_MAX bytes, of more than DECODE_PARTS_MAX parts, or with an
 * empty part. A decimal begins as decimal(38,0). */
struct field *decoder_add(struct decoder *d, const char *name,
                          enum cell_type type);

/* Decode every record of `b` that is still ROW_GOOD. Returns BATCH_OK,
 * BATCH_NOMEM or BATCH_FULL; after the latter two the batch is half decoded. */
int decode_batch(const struct decoder *d, struct batch *b);

#endif
