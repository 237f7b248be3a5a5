/* control.h - what the two files of host.control share: frames, addresses.
 *
 * A frame is four bytes of length, most significant first, and a text. */
#ifndef HOST_CONTROL_H
#define HOST_CONTROL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include <lua.h>
#include <lauxlib.h>

enum { CONTROL_HEAD = 4, CONTROL_ANSWER_MAX = 1 << 24 };

struct control_frame {
  unsigned char head[CONTROL_HEAD];
  char *bytes;
  size_t need; /* bytes of the text */
  size_t done; /* moved so far, the head's as well */
};

/* nil, "control: CODE: path: text", CODE */
int control_fail(lua_State *L, const char *path, int error);

/* An address of `path` + `suffix` by way of its folder's descriptor, which is
 * returned, so that a long path is none; `name` is the last part. -1: errno. */
int control_address(const char *path, const char *suffix,
                    struct sockaddr_un *at, char *name, size_t size);

/* A connection, not blocking, or -1 with an errno. */
int control_connect(const char *path);

/* Make a frame of a text. 0, or -1: out of memory. */
int control_frame(struct control_frame *f, const char *text, size_t size);

/* Move what can be moved now: 1 whole, 0 not yet, -1 the peer is gone or sends
 * more than `most`. */
int control_send(int fd, struct control_frame *f);
int control_receive(int fd, struct control_frame *f, size_t most);
int control_complete(const struct control_frame *f);

/* control.ask, see control_call.c */
int control_ask(lua_State *L);

#endif
