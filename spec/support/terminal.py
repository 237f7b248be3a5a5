"""Drives a program on a pseudo terminal, for specs of the shell.

Reads one JSON object from stdin: argv, columns, rows, steps. A step is
{"expect": text} (wait until the output after the last match contains it),
{"send": text} or {"signal": number}. Prints one JSON object: ok, output (all
that came, without escape sequences and carriage returns), status (exit status, -signal, or null when it had to be killed) and,
when not ok, the step that failed. Each wait has a deadline, none is a sleep.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

ESCAPES = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|\r")
DEADLINE = float(os.environ.get("TERMINAL_DEADLINE", "30"))


def main():
    plan = json.load(sys.stdin)
    size = struct.pack("HHHH", plan.get("rows", 24), plan.get("columns", 80), 0, 0)
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.execvp(plan["argv"][0], plan["argv"])
    output, raw, at, failed = "", b"", 0, None

    def pump(timeout):
        """Takes what there is; False at the end."""
        nonlocal output, raw
        if not select.select([fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b""
        raw += data
        output = ESCAPES.sub("", raw.decode("utf-8", "replace"))
        return data != b""

    for step in plan["steps"]:
        if "send" in step:
            os.write(fd, step["send"].encode())
        elif "signal" in step:
            os.kill(pid, step["signal"])
        else:
            until, going = time.monotonic() + DEADLINE, True
            while step["expect"] not in output[at:]:
                if not going or time.monotonic() > until:
                    failed = step
                    break
                going = pump(0.2)
            if failed:
                break
            at = output.index(step["expect"], at) + len(step["expect"])
    status, until = None, time.monotonic() + DEADLINE
    going = True
    while failed is None and time.monotonic() < until:
        if going:
            going = pump(0.2)
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        if not going:
            time.sleep(0.02)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(json.dumps({"ok": failed is None and status is not None, "output": output,
                      "status": status, "failed": failed}))


main()
