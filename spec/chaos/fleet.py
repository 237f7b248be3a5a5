"""The processes of a round, and the supervisor that starts them again.

Each end of a process has to be explained by something that was done to it or to
its servers; what is not is a finding, whatever the tables say.
"""

import os
import re
import signal
import subprocess
import threading
import time

# A producer cannot be started without room for its spool, and says so.
FULL = re.compile(r"the spool (\S+ cannot be opened: spool: NOSPACE|cannot be locked: process: ENOSPC)")

# Exit 3 is for servers that are away. Not for a statement that they refuse.
AWAY = re.compile(
    r"refused|gone away|Lost connection|lost connection|cannot connect|Can't connect|"
    r"not reached|no answer|does not answer|[Tt]imed out|TIMED_OUT|TIMEOUT|REFUSED|GONE|reset by peer|"
    r"transport failure|_TRANSPORT|NOT_LEADER|shutdown in progress|BROKER|All broker|broker|handshake")
EXIT_POINT = 70
ACTIONS = ("kill", "kill", "stop", "stop", "exit")
STATEMENT = re.compile(r"statement: |cannot find out")


class Instance:
    """One name of the group: a process, its ends, its next start."""

    def __init__(self, fleet, name):
        self.fleet, self.name = fleet, name
        self.process = None
        self.wanted = False
        self.killed = self.frozen = False  # by a fault, not by a fail point
        self.point = None  # (fail point, its action)
        self.thaw_at = None
        self.failures = 0
        self.expected = set()
        self.lock = threading.RLock()
        self.starts = 0
        self.next_start = 0.0
        self.busy = threading.Lock()  # one fault at a time

    def log_path(self):
        return os.path.join(self.fleet.folder, "%s.log" % self.name)

    def start(self):
        with self.lock:
            self.wanted = True
            self.killed = self.frozen = False
            self.thaw_at = None
            env, self.point = self.fleet.environment()
            self.expected = {"kill": {-signal.SIGKILL}, "exit": {EXIT_POINT}}.get(
                self.point and self.point[1], set())
            self.starts += 1
            with open(self.log_path(), "ab") as log:
                self.began = log.tell()
                self.process = subprocess.Popen(
                    self.fleet.argv(self.name), env=env, cwd=self.fleet.home,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self, number, *codes):
        """Send a signal after which these exit codes are no surprise."""
        with self.lock:
            if not self.alive():
                return False
            self.expected.update(codes)
            self.killed = self.killed or number == signal.SIGKILL
            self.process.send_signal(number)
            return True

    def said(self):
        """What this process has said since it was started."""
        with open(self.log_path(), "rb") as log:
            log.seek(self.began)
            return log.read().decode("utf-8", "replace")

    def stopped(self):
        try:
            with open("/proc/%d/stat" % self.process.pid, encoding="ascii") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def thaw(self, now):
        """A fail point has stopped it: go on, some after their session's end."""
        if self.frozen or not self.point or self.point[1] != "stop" or not self.alive():
            return
        if self.thaw_at is None:
            if self.stopped():
                self.fleet.count("failpoint-stop")
                self.thaw_at = now + self.fleet.dice.choice(self.fleet.thaw_after)
        elif now >= self.thaw_at:
            self.thaw_at = now + 0.5
            self.process.send_signal(signal.SIGCONT)

    def look(self, now):
        """Start again what has ended."""
        with self.lock:
            self.thaw(now)
            if self.process is not None and self.process.poll() is not None:
                code = self.process.returncode
                self.fleet.ended(self, code)
                self.process = None
                self.failures = self.failures + 1 if code == 3 else 0
                self.next_start = now + min(0.1 * 2 ** self.failures, 1.0)
            if self.process is None and self.wanted and now >= self.next_start:
                self.start()


class Fleet:
    """All instances of a pipeline."""

    def __init__(self, home, folder, env, command, dice, points, count):
        self.home, self.folder, self.env = home, folder, env
        self.command = command
        self.dice, self.points, self.count = dice, points, count
        self.thaw_after = ()
        self.named = True
        self.filled = False  # was there no room on the disk of the spool?
        self.on_end = lambda: None  # called when a process has ended
        self.instances = {}
        self.findings, self.ends = [], {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def environment(self):
        """What the next process gets, and the fail point in it."""
        if not self.points:
            return self.env, None
        point, action = self.dice.choice(self.points), self.dice.choice(ACTIONS)
        if "=" in point:
            point, _, action = point.partition("=")
        often = point.startswith("commit") or point.startswith("finalise")
        nth = self.dice.randrange(1, 20 if often else 4)
        env = dict(self.env)
        env["TIDEMILL_FAILPOINT"] = "%s=%s:%d" % (point, action, nth)
        return env, (point, action)

    def argv(self, name):
        return self.command + (["--instance", name] if self.named else [])

    def begin(self, names):
        for name in names:
            self.instances[name] = Instance(self, name)
        self.thread.start()

    def watch(self):
        while not self.over.wait(0.05):
            for instance in list(self.instances.values()):
                try:
                    instance.look(time.monotonic())
                except OSError as error:
                    self.findings.append("%s cannot be looked after: %s" % (
                        instance.name, error))

    def ended(self, instance, code):
        """Was that to be expected?"""
        self.on_end()
        said = instance.said()
        last = [line for line in said.splitlines() if line.strip()][-1:] or [""]
        self.ends[code] = self.ends.get(code, 0) + 1
        if instance.point and not instance.killed:
            if code == -signal.SIGKILL and instance.point[1] == "kill":
                self.count("failpoint-kill")
            elif code == EXIT_POINT:
                self.count("failpoint-exit")
        if code in instance.expected:
            return
        if code == -signal.SIGTERM and not said.strip():
            return  # just started again, it had no handler yet
        if code == 3 and not STATEMENT.search(said[-2000:]) and AWAY.search(said[-2000:]):
            return
        if code == 1 and self.filled and FULL.search(said[-2000:]):
            return
        self.findings.append("%s ended with %d: %s" % (
            instance.name, code, "\n".join(said.splitlines()[-12:]) or last[0]))

    def running(self):
        return [i for i in self.instances.values() if i.wanted]

    def finish(self, seconds):
        """Every instance is asked to end, and does."""
        self.over.set()
        self.thread.join(10)
        for instance in self.instances.values():
            instance.wanted = False
            instance.kill(signal.SIGCONT)
            instance.kill(signal.SIGTERM, 0)
        deadline = time.monotonic() + seconds
        for instance in self.instances.values():
            if instance.process is None:
                continue
            while instance.alive() and time.monotonic() < deadline:
                if instance.point and instance.stopped():
                    instance.process.send_signal(signal.SIGCONT)
                time.sleep(0.02)
            if instance.alive():
                self.findings.append("%s did not end within %d s of SIGTERM" % (
                    instance.name, seconds))
                instance.kill(signal.SIGKILL, -signal.SIGKILL)
                instance.process.wait()
            self.ended(instance, instance.process.returncode)

    def abandon(self):
        """Nothing is left behind, whatever happened."""
        self.over.set()
        for instance in self.instances.values():
            if instance.alive():
                instance.process.kill()
                instance.process.wait()
