/* notes.c - rows that a commit reports instead of counting. See notes.h. */
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "notes.h"


static uint32_t note_cut(uint32_t len) {
  return len < NOTE_PAYLOAD_MAX ? len : NOTE_PAYLOAD_MAX;
}


struct note *notes_add(struct notes *n, enum note_kind kind,
                       const struct batch *b, const struct record *r,
                       const char *row_key, size_t row_key_len,
                       const struct note *same) {
  uint32_t key_len = note_cut(r->key.len);
  uint32_t value_len = note_cut(r->value.len);
  size_t size = sizeof(struct note) + key_len + value_len + row_key_len;
  struct note *note = malloc(size);
  if (note == NULL)
    return NULL;
  memset(note, 0, sizeof *note);
  note->kind = kind;
  note->partition = r->partition;
  note->offset = r->offset;
  note->stamp_ms = r->stamp_ms;
  note->null_key = r->null_key;
  note->null_value = r->null_value;
  note->key_len = key_len;
  note->value_len = value_len;
  note->value_total = r->value.len;
  note->row_key_len = (uint32_t)row_key_len;
  memcpy(note->bytes, batch_bytes(b, r->key), key_len);
  memcpy(note->bytes + key_len, batch_bytes(b, r->value), value_len);
  if (row_key_len > 0)
    memcpy(note->bytes + key_len + value_len, row_key, row_key_len);
  if (same != NULL)
    memcpy(note->hash, same->hash, sizeof note->hash);
  else
    crypto_hash_sha256(note->hash,
                       (const unsigned char *)batch_bytes(b, r->value),
                       r->value.len);
  if (n->last != NULL)
    n->last->next = note;
  else
    n->first = note;
  n->last = note;
  n->count++;
  n->bytes += size;
  return note;
}


const struct note *notes_at(struct notes *n, size_t number) {
  if (number >= n->count)
    return NULL;
  if (n->at == NULL || number < n->at_number) {
    n->at = n->first;
    n->at_number = 0;
  }
  for (; n->at_number < number; n->at_number++)
    n->at = n->at->next;
  return n->at;
}


void notes_prepend(struct notes *n, struct notes *from) {
  if (from->count == 0)
    return;
  from->last->next = n->first;
  n->first = from->first;
  n->at = NULL;
  if (n->last == NULL)
    n->last = from->last;
  n->count += from->count;
  n->bytes += from->bytes;
  memset(from, 0, sizeof *from);
}


void notes_free(struct notes *n) {
  struct note *note = n->first;
  while (note != NULL) {
    struct note *next = note->next;
    free(note);
    note = next;
  }
  memset(n, 0, sizeof *n);
}
