/* decode_plan.c - the names of a decoder's fields. See decode_plan.h; adding a
 * field (decode.h) is here too, because the tree sets what names may be. */
#include <string.h>

#include "decimal.h"
#include "decode_plan.h"


/* Are they one name, or does one look inside the value of the other? */
static int decoder_clash(const char *a, const char *b) {
  while (*a != '\0' && *a == *b) {
    a++;
    b++;
  }
  return (*a == '\0' && (*b == '\0' || *b == '.')) || (*b == '\0' && *a == '.');
}


struct field *decoder_add(struct decoder *d, const char *name,
                          enum cell_type type) {
  size_t len = strlen(name);
  int parts = 1;
  if (d->count == DECODE_MAX_FIELDS || len == 0 || len > DECODE_NAME_MAX ||
      name[0] == '.' || name[len - 1] == '.' || strstr(name, "..") != NULL)
    return NULL;
  for (size_t i = 0; i < len; i++)
    parts += name[i] == '.';
  if (parts > DECODE_PARTS_MAX)
    return NULL;
  for (size_t i = 0; i < d->count; i++)
    if (decoder_clash(d->fields[i].name, name))
      return NULL;
  struct field *f = &d->fields[d->count++];
  memset(f, 0, sizeof *f);
  memcpy(f->name, name, len + 1);
  memcpy(f->path, "$.", 2);
  memcpy(f->path + 2, name, len + 1);
  f->type = type;
  f->precision = DECIMAL_MAX_PRECISION;
  return f;
}


/* Such a name is compared before the key is checked: it must be valid JSON. */
static int plan_plain(const char *name, size_t len) {
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)name[i];
    if (c < 0x20 || c >= 0x7F || c == '"' || c == '\\')
      return 0;
  }
  return 1;
}


/* The node of key `name` inside `parent`, made if need be. */
static int plan_key(struct plan *plan, int parent, const char *name,
                    size_t len) {
  struct node *nodes = plan->nodes;
  int first = nodes[parent].child;
  if (first >= 0) {
    int i = first;
    do {
      if (nodes[i].len == len && memcmp(nodes[i].name, name, len) == 0)
        return i;
      i = nodes[i].next;
    } while (i != first);
  }
  int made = plan->count++, last = first;
  nodes[made] = (struct node){.name = name,
                              .len = len,
                              .child = -1,
                              .next = made,
                              .plain = plan_plain(name, len)};
  if (first < 0) {
    nodes[parent].child = made;
    return made;
  }
  while (nodes[last].next != first)
    last = nodes[last].next;
  nodes[last].next = made;
  nodes[made].next = first;
  return made;
}


void plan_make(struct plan *plan, const struct decoder *d) {
  plan->nodes[0] = (struct node){.name = "", .child = -1};
  plan->count = 1;
  for (size_t i = 0; i < d->count; i++) {
    const char *name = d->fields[i].name;
    int node = 0;
    for (;;) {
      size_t len = strcspn(name, ".");
      node = plan_key(plan, node, name, len);
      if (name[len] == '\0')
        break;
      plan->nodes[node].below |= UINT64_C(1) << i;
      name += len + 1;
    }
    plan->nodes[node].field = (int)i;
  }
}
