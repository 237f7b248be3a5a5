/* digest.c - host.digest: SHA-256 and random bytes, by libsodium.
 *
 * For checksums of files and payloads and for run ids; not for encryption,
 * which is host.seal's. Output is lower-case hexadecimal. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"
#include "handle.h"
#include "interrupt.h"

#define DIGEST_TYPE "digest"

enum { DIGEST_CHUNK = 65536, RANDOM_MAX = 1024 };

struct digest {
  struct handle h;
  crypto_hash_sha256_state state;
};


/* [-0, +1] */
static void digest_push(lua_State *L, const unsigned char *hash) {
  char hex[crypto_hash_sha256_BYTES * 2 + 1];
  sodium_bin2hex(hex, sizeof hex, hash, crypto_hash_sha256_BYTES);
  lua_pushstring(L, hex);
}


/* digest.sha256_hex(bytes) -> 64 hexadecimal digits */
static int digest_sha256_hex(lua_State *L) {
  size_t n = 0;
  const char *bytes = luaL_checklstring(L, 1, &n);
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(hash, (const unsigned char *)bytes, n);
  digest_push(L, hash);
  return 1;
}


/* Hash what is left of `fd`. 0, an errno, or EINTR when a signal came. */
static int digest_fd(int fd, unsigned char *hash) {
  unsigned char chunk[DIGEST_CHUNK];
  crypto_hash_sha256_state state;
  int level = interrupt_level();
  crypto_hash_sha256_init(&state);
  for (;;) {
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n == 0)
      break;
    if (n > 0)
      crypto_hash_sha256_update(&state, chunk, (unsigned long long)n);
    else if (errno != EINTR)
      return errno;
    if (interrupt_level() != level)
      return EINTR;
  }
  crypto_hash_sha256_final(&state, hash);
  return 0;
}


/* digest.file(path) -> 64 hexadecimal digits | nil, message, code
 * Reads the file in pieces; a signal ends it with code INTERRUPTED. */
static int digest_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  unsigned char hash[crypto_hash_sha256_BYTES];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  int error = errno;
  if (fd >= 0) {
    error = digest_fd(fd, hash);
    close(fd);
  }
  interrupt_check(L);
  if (fd >= 0 && error == EINTR)
    return fail(L, "digest", "INTERRUPTED", "%s: interrupted", path);
  if (error != 0)
    return fail(L, "digest", strerrorname_np(error), "%s: %s", path,
                strerror(error));
  digest_push(L, hash);
  return 1;
}


static void digest_close(struct handle *h) {
  struct digest *d = (struct digest *)h;
  sodium_memzero(&d->state, sizeof d->state);
}


/* digest.sha256() -> digest   an incremental SHA-256 */
static int digest_sha256(lua_State *L) {
  struct digest *d = handle_new(L, sizeof *d, DIGEST_TYPE);
  crypto_hash_sha256_init(&d->state);
  d->h.close = digest_close;
  return 1;
}


/* digest:add(bytes) -> digest */
static int digest_add(lua_State *L) {
  struct digest *d = handle_check(L, 1, DIGEST_TYPE);
  size_t n = 0;
  const char *bytes = luaL_checklstring(L, 2, &n);
  crypto_hash_sha256_update(&d->state, (const unsigned char *)bytes, n);
  lua_settop(L, 1);
  return 1;
}


/* digest:hex() -> 64 hexadecimal digits of all that was added; closes it */
static int digest_hex(lua_State *L) {
  struct digest *d = handle_check(L, 1, DIGEST_TYPE);
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256_final(&d->state, hash);
  handle_close(&d->h);
  digest_push(L, hash);
  return 1;
}


/* digest.random_hex(n) -> 2n hexadecimal digits of n random bytes, 1..1024 */
static int digest_random_hex(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 1 && n <= RANDOM_MAX, 1, "must be 1..1024");
  unsigned char bytes[RANDOM_MAX];
  char hex[RANDOM_MAX * 2 + 1];
  randombytes_buf(bytes, (size_t)n);
  sodium_bin2hex(hex, sizeof hex, bytes, (size_t)n);
  lua_pushstring(L, hex);
  return 1;
}


static const luaL_Reg digest_methods[] = {
    {"add", digest_add}, {"hex", digest_hex}, {NULL, NULL}};

static const luaL_Reg digest_functions[] = {{"sha256_hex", digest_sha256_hex},
                                            {"sha256", digest_sha256},
                                            {"file", digest_file},
                                            {"random_hex", digest_random_hex},
                                            {NULL, NULL}};


int luaopen_host_digest(lua_State *L);


int luaopen_host_digest(lua_State *L) {
  if (sodium_init() < 0)
    return luaL_error(L, "libsodium could not start: no random source");
  handle_type(L, DIGEST_TYPE, digest_methods);
  luaL_newlib(L, digest_functions);
  return 1;
}
