/* ubsan_report.c - writes what UBSan found to a file, one for each process.
 *
 * Linked into the program of `make asan` alone. AddressSanitizer writes its
 * reports to `log_path`; UBSan beside it only to stderr, where the finding of
 * a command that a spec expects to fail would be lost. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void __ubsan_on_report(void);
void __ubsan_get_current_report_data(const char **kind, const char **message,
                                     const char **file, unsigned *line,
                                     unsigned *column, char **address);


void __ubsan_on_report(void) {
  const char *folder = getenv("TIDEMILL_REPORTS");
  const char *kind, *message, *file;
  unsigned line, column;
  char *address, path[4096];
  if (folder == NULL)
    return;
  __ubsan_get_current_report_data(&kind, &message, &file, &line, &column,
                                  &address);
  snprintf(path, sizeof path, "%s/report.ub.%d", folder, (int)getpid());
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0)
    return;
  dprintf(fd, "%s:%u:%u: %s: %s\n", file, line, column, kind, message);
  close(fd);
}
