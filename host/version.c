/* version.c - host.version: what this process was built from and runs with. */
#include <curl/curl.h>
#include <gmp.h>
#include <librdkafka/rdkafka.h>
#include <microhttpd.h>
#include <mysql.h>
#include <readline/readline.h>
#include <sodium.h>
#include <zlib.h>

#include <lua.h>
#include <lauxlib.h>

#ifndef TIDEMILL_VERSION
#define TIDEMILL_VERSION "unknown"
#endif


/* mimalloc's, where it is linked: the Makefile's ALLOC decides. */
extern int mi_version(void) __attribute__((weak));

static void allocator(lua_State *L) {
  if (mi_version == NULL)
    return;
  int v = mi_version();
  lua_pushfstring(L, "%d.%d.%d", v / 100, v / 10 % 10, v % 10);
  lua_setfield(L, -2, "mimalloc");
}


/* version.all() -> {name = version}   of tidemill and each linked library */
static int version_all(lua_State *L) {
  const struct {
    const char *name, *version;
  } all[] = {{"tidemill", TIDEMILL_VERSION},
             {"lua", LUA_RELEASE},
             {"librdkafka", rd_kafka_version_str()},
             {"libcurl", curl_version_info(CURLVERSION_NOW)->version},
             {"libmariadb", mysql_get_client_info()},
             {"libmicrohttpd", MHD_get_version()},
             {"gmp", gmp_version},
             {"libsodium", sodium_version_string()},
             {"readline", rl_library_version},
             {"zlib", zlibVersion()}};
  lua_newtable(L);
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    lua_pushstring(L, all[i].version);
    lua_setfield(L, -2, all[i].name);
  }
  allocator(L);
  return 1;
}


int luaopen_host_version(lua_State *L);

int luaopen_host_version(lua_State *L) {
  static const luaL_Reg functions[] = {{"all", version_all}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
