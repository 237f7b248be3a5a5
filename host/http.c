/* http.c - host.http: puts the client and the server into one module.
 *
 * The client (http_client.c) is libcurl's, the server (http_server.c over
 * http_daemon.c) libmicrohttpd's; they share nothing but the name. */
#include <string.h>

#include <lua.h>
#include <lauxlib.h>

#include "http.h"

int luaopen_host_http(lua_State *L);


int http_name_ok(const char *s) {
  if (*s == '\0')
    return 0;
  for (; *s != '\0'; s++) {
    if (*s <= ' ' || *s > '~' || strchr("()<>@,;:\\\"/[]?={}", *s) != NULL)
      return 0;
  }
  return 1;
}


/* No control character: a line break would start another header. */
int http_value_ok(const char *s) {
  for (; *s != '\0'; s++) {
    if (((unsigned char)*s < ' ' && *s != '\t') || *s == 127)
      return 0;
  }
  return 1;
}


static const luaL_Reg http_functions[] = {{"client", http_client_new},
                                          {"server", http_server_new},
                                          {"escape", http_escape},
                                          {"date", http_date},
                                          {NULL, NULL}};


int luaopen_host_http(lua_State *L) {
  http_client_open(L);
  http_server_open(L);
  luaL_newlib(L, http_functions);
  return 1;
}
