/* http_message.c - requests and answers as memory. See http_message.h. */
#include <stdlib.h>
#include <string.h>

#include <microhttpd.h>

#include "http_message.h"


int http_pairs_add(struct http_pairs *p, const char *name, const char *value) {
  if (p->count == p->cap) {
    size_t cap = p->cap > 0 ? p->cap * 2 : 8;
    struct http_pair *grown = realloc(p->at, cap * sizeof *grown);
    if (grown == NULL)
      return -1;
    p->at = grown;
    p->cap = cap;
  }
  struct http_pair pair = {strdup(name), strdup(value != NULL ? value : "")};
  if (pair.name == NULL || pair.value == NULL) {
    free(pair.name);
    free(pair.value);
    return -1;
  }
  p->at[p->count++] = pair;
  return 0;
}


void http_pairs_free(struct http_pairs *p) {
  for (size_t i = 0; i < p->count; i++) {
    free(p->at[i].name);
    free(p->at[i].value);
  }
  free(p->at);
  p->at = NULL;
  p->count = p->cap = 0;
}


void http_answer_free(struct http_answer *a) {
  if (a == NULL)
    return;
  http_pairs_free(&a->headers);
  free(a->body);
  free(a);
}


void http_inbound_free(struct http_inbound *r) {
  if (r == NULL)
    return;
  http_answer_free(r->answer);
  http_pairs_free(&r->query);
  http_pairs_free(&r->headers);
  free(r->method);
  free(r->path);
  free(r->body);
  free(r);
}


struct http_inbound *http_inbound_new(struct http_daemon *d, const char *path,
                                      const char *method) {
  struct http_inbound *r = calloc(1, sizeof *r);
  if (r == NULL)
    return NULL;
  r->daemon = d;
  r->method = strdup(method);
  r->path = strdup(path);
  if (r->method == NULL || r->path == NULL) {
    http_inbound_free(r);
    return NULL;
  }
  return r;
}


struct http_answer *http_answer_text(unsigned status, const char *text) {
  struct http_answer *a = calloc(1, sizeof *a);
  if (a == NULL)
    return NULL;
  a->status = status;
  a->truncate = -1;
  a->len = strlen(text);
  a->body = strdup(text);
  if (a->body == NULL) {
    free(a);
    a = NULL;
  }
  return a;
}


/* The source of a body of unknown length, or of one that ends too early. */
struct cut {
  char *body;
  size_t len;
  int whole;
};


static ssize_t cut_read(void *user, uint64_t pos, char *buf, size_t max) {
  struct cut *c = user;
  if (pos >= c->len)
    return c->whole ? MHD_CONTENT_READER_END_OF_STREAM
                    : MHD_CONTENT_READER_END_WITH_ERROR;
  size_t n = c->len - (size_t)pos;
  if (n > max)
    n = max;
  memcpy(buf, c->body + pos, n);
  return (ssize_t)n;
}


static void cut_free(void *user) {
  struct cut *c = user;
  free(c->body);
  free(c);
}


static struct MHD_Response *response_cut(struct http_answer *a) {
  struct cut *c = malloc(sizeof *c);
  if (c == NULL)
    return NULL;
  c->body = a->body;
  c->whole = a->truncate < 0 || (uint64_t)a->truncate >= a->len;
  c->len = c->whole ? a->len : (size_t)a->truncate;
  a->body = NULL;
  struct MHD_Response *response = MHD_create_response_from_callback(
      a->chunked ? MHD_SIZE_UNKNOWN : a->len, 4096, cut_read, c, cut_free);
  if (response == NULL)
    cut_free(c);
  return response;
}


static struct MHD_Response *response_whole(struct http_answer *a) {
  struct MHD_Response *response = MHD_create_response_from_buffer(
      a->len, a->body,
      a->body != NULL ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
  if (response != NULL)
    a->body = NULL;
  return response;
}


struct MHD_Response *http_answer_response(struct http_answer *a) {
  int cut = a->truncate >= 0 && (uint64_t)a->truncate < a->len;
  struct MHD_Response *response =
      cut || a->chunked ? response_cut(a) : response_whole(a);
  if (response == NULL)
    return NULL;
  for (size_t i = 0; i < a->headers.count; i++)
    MHD_add_response_header(response, a->headers.at[i].name,
                            a->headers.at[i].value);
  return response;
}
