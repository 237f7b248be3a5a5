/* process_fs.c - host.process: files and folders, and locks held by a process.
 *
 * What io and os of Lua lack: atomic replacement, folders, facts about a file,
 * and a lock that the kernel takes away when its holder ends in any way. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <lua.h>
#include <lauxlib.h>

#include "fail.h"
#include "field.h"
#include "handle.h"
#include "opts.h"
#include "process.h"
#include "spawn.h"

#define LOCK_TYPE "lock"
#define DIR_TYPE "folder listing"

enum { FS_FILE_MODE = 0644, FS_FOLDER_MODE = 0755 };

struct lock {
  struct handle h;
  int fd;
};

struct listing {
  struct handle h;
  DIR *dir;
};


/* Write all of it and make it durable if `sync`. 0 or an errno. */
static int fs_write(int fd, const char *text, size_t len, int sync) {
  while (len > 0) {
    ssize_t n = write(fd, text, len);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno;
    text += n;
    len -= (size_t)n;
  }
  if (sync && fsync(fd) != 0)
    return errno;
  return 0;
}


/* A rename is durable once its folder is. 0 or an errno. */
static int fs_sync_folder(const char *path) {
  char folder[PATH_MAX];
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  if (slash == NULL)
    snprintf(folder, sizeof folder, ".");
  else
    slash[slash == folder] = '\0'; /* keep the slash of the root */
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error;
}


/* Into a device, a pipe or a terminal. It is never replaced: who names
 * /dev/null wants nothing kept, and may be root. 0 or an errno. */
static int fs_write_to(const char *path, const char *text, size_t len) {
  int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0)
    return errno;
  int error = fs_write(fd, text, len, 0);
  if (close(fd) != 0 && error == 0)
    error = errno;
  return error;
}


static int fs_replace(const char *path, const char *text, size_t len,
                      mode_t mode, int sync) {
  char temp[PATH_MAX];
  struct stat st;
  if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
    return fs_write_to(path, text, len);
  int n = snprintf(temp, sizeof temp, "%s.%d.tmp", path, (int)getpid());
  if (n < 0 || (size_t)n >= sizeof temp)
    return ENAMETOOLONG;
  unlink(temp); /* of an earlier process with our pid */
  int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0)
    return errno;
  int error = fs_write(fd, text, len, sync);
  if (close(fd) != 0 && error == 0)
    error = errno;
  if (error == 0 && rename(temp, path) != 0)
    error = errno;
  if (error != 0)
    unlink(temp);
  else if (sync)
    error = fs_sync_folder(path);
  return error;
}


/* process.atomic_write(path, text [, { mode = 0644, sync = true }])
 * -> true | nil, message, code
 * A reader sees the old file or the new one. With sync it is durable when this
 * returns; status files, which nobody needs after a crash, go without. What is
 * no file, such as /dev/null or a pipe, is written to and not replaced. */
static int process_atomic_write(lua_State *L) {
  static const char *const known[] = {"mode", "sync", NULL};
  size_t len = 0;
  const char *path = luaL_checkstring(L, 1);
  const char *text = luaL_checklstring(L, 2, &len);
  int64_t mode = FS_FILE_MODE;
  int sync = 1;
  if (!lua_isnoneornil(L, 3)) {
    opts_check(L, 3, known);
    mode = opts_int(L, 3, "mode", FS_FILE_MODE, 0, 0777);
    sync = opts_bool(L, 3, "sync", 1);
  }
  int error = fs_replace(path, text, len, (mode_t)mode, sync);
  if (error != 0)
    return process_fail(L, path, error);
  lua_pushboolean(L, 1);
  return 1;
}


/* process.mkdir_p(path [, mode = 0755]) -> true | nil, message, code */
static int process_mkdir_p(lua_State *L) {
  char path[PATH_MAX];
  const char *whole = luaL_checkstring(L, 1);
  mode_t mode = (mode_t)luaL_optinteger(L, 2, FS_FOLDER_MODE);
  if ((size_t)snprintf(path, sizeof path, "%s", whole) >= sizeof path)
    return process_fail(L, whole, ENAMETOOLONG);
  for (char *p = path; *p != '\0'; p++) {
    if (p == path || *p != '/')
      continue;
    *p = '\0';
    if (mkdir(path, FS_FOLDER_MODE) != 0 && errno != EEXIST)
      return process_fail(L, path, errno);
    *p = '/';
  }
  struct stat st;
  if (mkdir(path, mode) != 0 && errno != EEXIST)
    return process_fail(L, path, errno);
  if (stat(path, &st) != 0)
    return process_fail(L, path, errno);
  if (!S_ISDIR(st.st_mode))
    return process_fail(L, path, ENOTDIR);
  lua_pushboolean(L, 1);
  return 1;
}


static void listing_close(struct handle *h) {
  closedir(((struct listing *)h)->dir);
}


/* process.list(path) -> { name, ... } in no order, without . and ..
 * | nil, message, code */
static int process_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct listing *l = handle_new(L, sizeof *l, DIR_TYPE);
  l->dir = opendir(path);
  if (l->dir == NULL)
    return process_fail(L, path, errno);
  l->h.close = listing_close;
  lua_newtable(L);
  lua_Integer n = 0;
  const struct dirent *entry;
  errno = 0;
  while ((entry = readdir(l->dir)) != NULL) {
    const char *name = entry->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
      continue;
    lua_pushstring(L, name);
    lua_rawseti(L, -2, ++n);
  }
  handle_close(&l->h);
  return 1;
}


static const char *fs_type(mode_t mode) {
  if (S_ISREG(mode))
    return "file";
  if (S_ISDIR(mode))
    return "dir";
  if (S_ISLNK(mode))
    return "link";
  if (S_ISSOCK(mode))
    return "socket";
  if (S_ISFIFO(mode))
    return "fifo";
  return "device";
}


/* process.stat(path) -> { type = "file" | "dir" | "link" | "socket" | "fifo" |
 *   "device", size =, mtime_ms =, mode =, uid =, inode = } | nil, message, code
 * Does not follow a link at the end of the path. */
static int process_stat(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat st;
  if (lstat(path, &st) != 0)
    return process_fail(L, path, errno);
  lua_createtable(L, 0, 6);
  lua_pushstring(L, fs_type(st.st_mode));
  lua_setfield(L, -2, "type");
  field_int(L, "size", st.st_size);
  field_int(L, "mtime_ms",
            (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000);
  field_int(L, "mode", st.st_mode & 07777);
  field_int(L, "uid", st.st_uid);
  field_int(L, "inode", (lua_Integer)st.st_ino);
  return 1;
}


/* process.realpath(path) -> string | nil, message, code */
static int process_realpath(lua_State *L) {
  char real[PATH_MAX];
  const char *path = luaL_checkstring(L, 1);
  if (realpath(path, real) == NULL)
    return process_fail(L, path, errno);
  lua_pushstring(L, real);
  return 1;
}


/* process.which(name) -> path | nil, message, code   a program, through PATH
 * and the sbin folders */
static int process_which(lua_State *L) {
  char path[PATH_MAX];
  const char *name = luaL_checkstring(L, 1);
  int error = spawn_find(name, path, sizeof path);
  if (error != 0)
    return process_fail(L, name, error);
  lua_pushstring(L, path);
  return 1;
}


/* process.mkdtemp(prefix) -> path | nil, message, code   a new private folder
 */
static int process_mkdtemp(lua_State *L) {
  char path[PATH_MAX];
  const char *prefix = luaL_checkstring(L, 1);
  if ((size_t)snprintf(path, sizeof path, "%sXXXXXX", prefix) >= sizeof path)
    return process_fail(L, prefix, ENAMETOOLONG);
  if (mkdtemp(path) == NULL)
    return process_fail(L, prefix, errno);
  lua_pushstring(L, path);
  return 1;
}


/* process.disk(path) -> { total =, free = } in bytes | nil, message, code
 * `free` is what a user without privileges may still write. */
static int process_disk(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct statvfs fs;
  if (statvfs(path, &fs) != 0)
    return process_fail(L, path, errno);
  lua_createtable(L, 0, 2);
  field_int(L, "total", (lua_Integer)(fs.f_blocks * fs.f_frsize));
  field_int(L, "free", (lua_Integer)(fs.f_bavail * fs.f_frsize));
  return 1;
}


static void lock_close(struct handle *h) {
  struct lock *lock = (struct lock *)h;
  /* The file stays: removing it would let two hold "the" lock at once. */
  if (ftruncate(lock->fd, 0) != 0)
    errno = 0; /* the text is a courtesy; the lock is what counts */
  close(lock->fd);
}


/* The holder wrote its pid into the file; 0: it did not yet. */
static long lock_holder(int fd) {
  char text[32];
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = '\0';
  return strtol(text, NULL, 10);
}


/* process.lock(path) -> lock | nil, message, "LOCKED", pid of the holder | nil
 * | nil, message, code
 * Held until lock:close() or the end of this process, however it ends; children
 * do not inherit it. */
static int process_lock(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct lock *lock = handle_new(L, sizeof *lock, LOCK_TYPE);
  lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, FS_FILE_MODE);
  if (lock->fd < 0)
    return process_fail(L, path, errno);
  if (flock(lock->fd, LOCK_EX | LOCK_NB) != 0) {
    int error = errno;
    long pid = lock_holder(lock->fd);
    close(lock->fd);
    if (error != EWOULDBLOCK)
      return process_fail(L, path, error);
    if (pid == 0)
      return fail(L, "process", "LOCKED", "%s is held by another process",
                  path);
    int n =
        fail(L, "process", "LOCKED", "%s is held by process %ld", path, pid);
    lua_pushinteger(L, pid);
    return n + 1;
  }
  lock->h.close = lock_close;
  char text[32];
  int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
  if (ftruncate(lock->fd, 0) != 0 ||
      pwrite(lock->fd, text, (size_t)len, 0) != len) {
    int error = errno;
    handle_close(&lock->h);
    return process_fail(L, path, error);
  }
  return 1;
}


static const luaL_Reg no_methods[] = {{NULL, NULL}};


void process_fs_types(lua_State *L) {
  handle_type(L, LOCK_TYPE, no_methods);
  handle_type(L, DIR_TYPE, no_methods);
}


const luaL_Reg process_fs_functions[] = {{"atomic_write", process_atomic_write},
                                         {"mkdir_p", process_mkdir_p},
                                         {"list", process_list},
                                         {"stat", process_stat},
                                         {"realpath", process_realpath},
                                         {"which", process_which},
                                         {"mkdtemp", process_mkdtemp},
                                         {"disk", process_disk},
                                         {"lock", process_lock},
                                         {NULL, NULL}};
