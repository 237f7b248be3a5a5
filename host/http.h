/* http.h - the two halves of host.http; nobody else includes it. */
#ifndef HOST_HTTP_H
#define HOST_HTTP_H

#include <lua.h>

/* http_client.c: http.client, http.escape, http.date */
void http_client_open(lua_State *L); /* creates the type [-0, +0] */
int http_client_new(lua_State *L);
int http_escape(lua_State *L);
int http_date(lua_State *L);

/* http_server.c: http.server */
void http_server_open(lua_State *L);
int http_server_new(lua_State *L);

/* 1 when `s` may stand as a header's name, or as its value. */
int http_name_ok(const char *s);
int http_value_ok(const char *s);

#endif
