/* process.h - what the files of host.process share, and nobody else.
 *
 * process.c holds children and the module, process_wait.c waiting and signals,
 * process_info.c facts about processes and the terminal, process_fs.c files. */
#ifndef HOST_PROCESS_H
#define HOST_PROCESS_H

#include <stdint.h>

#include <lua.h>
#include <lauxlib.h>

extern const luaL_Reg process_wait_functions[];
extern const luaL_Reg process_info_functions[];
extern const luaL_Reg process_fs_functions[];

/* Create the metatables of process_fs.c. */
void process_fs_types(lua_State *L);

/* nil, "process: CODE: what: text", "CODE" for an errno. [-0, +3] */
int process_fail(lua_State *L, const char *what, int error);

/* The number of a signal given as "TERM", "SIGTERM" or an integer at `arg`;
 * raises when there is none. */
int process_signal(lua_State *L, int arg);

/* poll(2) of one descriptor in slices. Greater than 0: ready; 0: the time is
 * over or a signal came; below 0: minus an errno. */
int process_poll(lua_State *L, int fd, int events, int64_t timeout_ms);

#endif
