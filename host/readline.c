/* readline.c - host.readline: lines from a terminal, with editing and history.
 *
 * GNU readline is driven through its event interface, so that waiting stays
 * here, in slices. Its callbacks only set flags in `session`: a finished line,
 * a TAB. Lua (the completion function) is called from this file's own loop,
 * when readline has returned. Readline's state is one per process, and so is
 * `session`; only the thread of the Lua state comes here.
 * What a shell does with a line is mill.repl's matter. */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <readline/readline.h>
#include <readline/history.h>

#include <lua.h>
#include <lauxlib.h>

#include "call.h"
#include "fail.h"
#include "interrupt.h"

enum { HISTORY_MAX = 1000, PROMPT_MAX = 4096 };

static struct {
  int ready;  /* readline is initialised */
  int done;   /* the line is finished; `line` NULL: end of input */
  char *line; /* malloced by readline, freed here */
  int tab;    /* TAB was pressed and not yet answered */
  int tabs;   /* TABs in a row that changed nothing */
  struct sigaction terminate; /* what SIGTERM does outside of a read */
  volatile sig_atomic_t terminated;
} session;


static void session_line(char *line) {
  session.line = line;
  session.done = 1;
  rl_callback_handler_remove();
}


static int session_tab(int count, int key) {
  (void)count;
  (void)key;
  session.tab = 1;
  return 0;
}


static int session_is_unset(const char *name) {
  const char *value = getenv(name);
  return value == NULL || *value == '\0';
}


/* Readline edits characters and not bytes only if the locale says so. A
 * machine that sets none at all is taken as UTF-8. */
static void session_locale(void) {
  if (session_is_unset("LC_ALL") && session_is_unset("LC_CTYPE") &&
      session_is_unset("LANG"))
    setlocale(LC_CTYPE, "C.UTF-8");
  else
    setlocale(LC_CTYPE, "");
}


static void session_init(void) {
  if (session.ready)
    return;
  session_locale();
  rl_readline_name = "tidemill";
  rl_outstream = isatty(STDOUT_FILENO) ? stdout : stderr;
  /* Its handlers restore the terminal and then pass a signal on to ours; they
   * stay installed while we wait. */
  rl_persistent_signal_handlers = 1;
  rl_initialize();
  rl_bind_key('\t', session_tab);
  using_history();
  stifle_history(HISTORY_MAX);
  session.ready = 1;
}


/* SIGTERM must not pass for a Ctrl-C, which only clears the line. */
static void session_terminate(int sig) {
  (void)sig;
  session.terminated = 1;
}


static void session_begin(const char *prompt) {
  session_init();
  free(session.line);
  session.line = NULL;
  session.done = session.tab = session.tabs = 0;
  session.terminated = 0;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = session_terminate;
  sigaction(SIGTERM, &action, &session.terminate);
  rl_callback_handler_install(prompt, session_line);
}


static void session_end(void) {
  rl_callback_handler_remove();
  sigaction(SIGTERM, &session.terminate, NULL);
}


/* Wait for a key and give it to readline. Returns 0, or the signal that
 * should end the line. */
static int session_step(void) {
  struct pollfd in = {.fd = fileno(rl_instream), .events = POLLIN};
  int n = poll(&in, 1, INTERRUPT_SLICE_MS);
  int sig = rl_pending_signal();
  rl_check_signals();
  if (sig == SIGTSTP) { /* stopped there, and now in the foreground again */
    rl_on_new_line();
    rl_redisplay();
  }
  if (n > 0 && sig == 0)
    rl_callback_read_char();
  if (session.terminated)
    return SIGTERM;
  return interrupt_pending() ? SIGINT : 0;
}


/* Length of what all candidates begin with. */
static size_t tab_common(lua_State *L, int list, lua_Unsigned count) {
  size_t common = 0;
  lua_rawgeti(L, list, 1);
  const char *first = lua_tolstring(L, -1, &common);
  for (lua_Unsigned i = 2; i <= count; i++) {
    lua_rawgeti(L, list, (lua_Integer)i);
    const char *text = lua_tostring(L, -1);
    size_t n = 0;
    while (n < common && text[n] == first[n])
      n++;
    common = n;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  while (common > 0 && ((unsigned char)first[common] & 0xC0) == 0x80)
    common--; /* not in the middle of a character */
  return common;
}


/* Show the candidates below the line. The strings stay Lua's: the array that
 * readline wants holds pointers to them (its slot 0 is not shown). */
static void tab_list(lua_State *L, int list, lua_Unsigned count) {
  char **texts = calloc((size_t)count + 2, sizeof *texts);
  if (texts == NULL)
    return;
  static char none[] = "";
  int longest = 0;
  texts[0] = none;
  for (lua_Unsigned i = 1; i <= count; i++) {
    size_t n;
    lua_rawgeti(L, list, (lua_Integer)i);
    texts[i] = (char *)(size_t)lua_tolstring(L, -1, &n); /* it only reads */
    longest = (int)n > longest ? (int)n : longest;
    lua_pop(L, 1); /* the table keeps it */
  }
  rl_display_match_list(texts, (int)count, longest);
  rl_forced_update_display();
  free(texts);
}


/* Replace the word that starts at byte `from` by what the candidates have in
 * common, or list them on the second TAB. */
static void tab_apply(lua_State *L, int list, lua_Integer from) {
  lua_Unsigned count = lua_rawlen(L, list);
  for (lua_Unsigned i = 1; i <= count; i++) {
    int type = lua_rawgeti(L, list, (lua_Integer)i);
    lua_pop(L, 1);
    if (type != LUA_TSTRING)
      return;
  }
  if (count == 0 || from < 0 || from > rl_point) {
    rl_ding();
    return;
  }
  size_t common = tab_common(L, list, count);
  int grows = (lua_Integer)common > rl_point - from;
  if (!grows && count > 1) {
    if (++session.tabs > 1)
      tab_list(L, list, count);
    else
      rl_ding();
    return;
  }
  lua_rawgeti(L, list, 1);
  char *text = strndup(lua_tostring(L, -1), common);
  lua_pop(L, 1);
  if (text == NULL)
    return;
  rl_begin_undo_group();
  rl_delete_text((int)from, rl_point);
  rl_point = (int)from;
  rl_insert_text(text);
  rl_end_undo_group();
  rl_redisplay();
  free(text);
  session.tabs = count > 1;
}


static int tab_blank(void) {
  for (int i = 0; i < rl_point; i++)
    if (rl_line_buffer[i] != ' ' && rl_line_buffer[i] != '\t')
      return 0;
  return 1;
}


/* Answer a TAB: ask the Lua function at index 2. Its errors are swallowed:
 * a half-typed line must not be lost to one. [-0, +0] */
static void tab_complete(lua_State *L) {
  session.tab = 0;
  if (lua_isnil(L, 2) || tab_blank()) {
    rl_insert_text("  ");
    rl_redisplay();
    return;
  }
  lua_pushvalue(L, 2);
  lua_pushlstring(L, rl_line_buffer, (size_t)rl_point);
  if (call_protected(L, 1, 2) == LUA_OK && lua_istable(L, -2) &&
      lua_isinteger(L, -1))
    tab_apply(L, lua_absindex(L, -2), lua_tointeger(L, -1) - 1);
  lua_settop(L, 2);
}


/* read(prompt [, complete])  --> line | nil (end of input) | false
 * Reads and edits one line on the terminal; false when Ctrl-C cleared it.
 * On TAB complete(text before the cursor) is called; it returns an array of
 * words and the position in the text that they replace from. */
static int readline_read(lua_State *L) {
  size_t len = 0;
  const char *prompt = luaL_checklstring(L, 1, &len);
  /* Readline's time grows with the square, and nothing ends it. */
  luaL_argcheck(L, len <= PROMPT_MAX, 1, "a prompt of more than 4096 bytes");
  lua_settop(L, 2);
  if (!lua_isnil(L, 2))
    luaL_checktype(L, 2, LUA_TFUNCTION);
  interrupt_reset();
  session_begin(prompt);
  int sig = 0;
  while (!session.done && (sig = session_step()) == 0) {
    if (session.tab)
      tab_complete(L);
    else if (rl_last_func != session_tab)
      session.tabs = 0;
  }
  session_end();
  if (session.done) {
    lua_pushstring(L, session.line); /* NULL pushes nil */
    return 1;
  }
  fputc('\n', rl_outstream);
  fflush(rl_outstream);
  interrupt_reset();
  if (sig == SIGINT)
    lua_pushboolean(L, 0);
  else
    lua_pushnil(L); /* SIGTERM: as if the input ended */
  return 1;
}


/* call(f, ...)  --> true, results | false, message, interrupted
 * Calls f protected, with a traceback in the message. Ctrl-C ends f, and the
 * interrupt is forgotten afterwards. */
static int readline_call(lua_State *L) {
  luaL_checkany(L, 1);
  interrupt_reset();
  int status = call_protected(L, lua_gettop(L) - 1, LUA_MULTRET);
  int interrupted = interrupt_pending();
  interrupt_reset();
  lua_pushboolean(L, status == LUA_OK);
  lua_insert(L, 1);
  if (status == LUA_OK)
    return lua_gettop(L);
  lua_pushboolean(L, interrupted);
  return 3;
}


/* loop(step)   Calls step() until it returns false or nil. A Ctrl-C that hits
 * the loop's own work (printing, saving) starts the next round; an error of
 * step is raised. */
static int readline_loop(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  for (;;) {
    lua_settop(L, 1);
    lua_pushvalue(L, 1);
    int status = call_protected(L, 0, 1);
    int interrupted = interrupt_pending();
    interrupt_reset();
    if (status == LUA_OK && !lua_toboolean(L, -1))
      return 0;
    if (status != LUA_OK && !interrupted)
      return lua_error(L);
  }
}


/* add(text)  --> boolean
 * Adds to the history in memory; false when it only repeats the newest. */
static int readline_add(lua_State *L) {
  const char *text = luaL_checkstring(L, 1);
  session_init();
  HIST_ENTRY *last = history_get(history_base + history_length - 1);
  int fresh = last == NULL || strcmp(last->line, text) != 0;
  if (fresh)
    add_history(text);
  lua_pushboolean(L, fresh);
  return 1;
}


/* history()  --> array of the entries in memory, oldest first */
static int readline_history(lua_State *L) {
  session_init();
  HIST_ENTRY **entries = history_list();
  lua_newtable(L);
  for (lua_Integer i = 0; entries != NULL && entries[i] != NULL; i++) {
    lua_pushstring(L, entries[i]->line);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}


/* append(path, text)  --> true | nil, message, "IO"
 * Appends text to a file that only its owner can read, in one write, so that
 * several shells can share it. */
static int readline_append(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  size_t n;
  const char *text = luaL_checklstring(L, 2, &n);
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return fail(L, "readline", "IO", "%s: %s", path, strerror(errno));
  int bad = fchmod(fd, 0600) != 0;
  ssize_t written = bad ? -1 : write(fd, text, n);
  int why = errno;
  close(fd);
  if (written < 0)
    return fail(L, "readline", "IO", "%s: %s", path, strerror(why));
  if ((size_t)written != n)
    return fail(L, "readline", "IO", "%s: the disk is full", path);
  lua_pushboolean(L, 1);
  return 1;
}


static const luaL_Reg functions[] = {{"read", readline_read},
                                     {"call", readline_call},
                                     {"loop", readline_loop},
                                     {"add", readline_add},
                                     {"history", readline_history},
                                     {"append", readline_append},
                                     {NULL, NULL}};

int luaopen_host_readline(lua_State *L);

int luaopen_host_readline(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
