"""One round: its database, topic, processes and faults, and the judgement."""

import json
import os
import random
import shutil
import subprocess
import threading
import time
import uuid

import faults
import feed
import tables
from expect import Expected, Table
from fleet import Fleet, Instance

CATCH_UP_S = 120
FINISH_S = 60
EVENT_S = 90
GROW_S = 75  # longer than the client keeps a request


class Outcome:
    """What a round showed."""

    def __init__(self, number):
        self.number = number
        self.counts = {}
        self.rows = 0
        self.tally = tables.Tally()
        self.findings = []
        self.ends = {}
        self.void = None
        self.seconds = 0.0

    def good(self):
        return not self.void and not self.findings and not self.tally.bad()


class Arena:
    """What faults act on."""

    def __init__(self, home, folder, servers, plan):
        self.home, self.folder = home, folder
        self.servers, self.plan = servers, plan
        self.binary = os.path.join(
            home, "tidemill-faults" if plan.test_build else "tidemill")
        self.name = "chaos_%d_%s" % (plan.number, uuid.uuid4().hex[:8])
        flavor = "mysql" if plan.producer else plan.database
        self.database = tables.Database(flavor, servers.database(flavor), self.name)
        self.database_proxy = servers.proxies[flavor]
        self.kafka_proxy = servers.proxies["kafka-tls" if plan.tls else "kafka"]
        self.topics = feed.Topics(servers.kafka())
        self.feed = feed.Feed(servers.kafka(), self.name, plan)
        self.server_locks = {n: threading.Lock() for n in ("kafka", "mysql", "mariadb")}
        self.outcome = Outcome(plan.number)
        self.count_lock, self.clock_lock = threading.Lock(), threading.Lock()
        self.grown, self.growing = threading.Lock(), None
        self.fleet = None
        self.stop = threading.Event()

    # --- making it ---

    def environment(self):
        host, port, user, password, ca = self.database.address
        conf = {"session.timeout.ms": int(faults.SESSION_TIMEOUT_S * 1000),
                "heartbeat.interval.ms": 400, "check.crcs": "true",
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 1000,
                "partition.assignment.strategy": self.plan.strategy}
        if self.plan.tls:
            conf.update({"security.protocol": "ssl", "ssl.ca.location": ca})
        env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
        env.update({
            "TIDEMILL_HOME": self.home,
            "TIDEMILL_VAR": self.folder,
            "TIDEMILL_KAFKA": "127.0.0.1:%d" % self.kafka_proxy.port,
            "TIDEMILL_KAFKA_CONF": ",".join("%s=%s" % item for item in conf.items()),
            "TIDEMILL_MYSQL": "mysql://%s:%s@%s:%d/%s" % (
                user, password, host, self.database_proxy.port, self.name)})
        if self.plan.test_build:
            env["TIDEMILL_CLOCK_FILE"] = os.path.join(self.folder, "clock")
        if self.plan.mutation:
            env["TIDEMILL_MUTATION"] = self.plan.mutation
        return env

    def make_tables(self):
        """The result tables of the round, empty, and what they are to hold."""
        plan = self.plan
        made = [Table("one", plan.script, plan.size_ms, plan.size_ms, plan.max_delay_ms,
                      plan.lateness_ms)]
        if plan.script == "outputs":
            made.append(Table("two", "averages", plan.size_ms * 4, plan.size_ms,
                              plan.max_delay_ms, plan.lateness_ms))
        self.database.create()
        env = self.environment()
        env["TIDEMILL_MYSQL"] = env["TIDEMILL_MYSQL"].replace(
            ":%d/" % self.database_proxy.port, ":%d/" % self.database.address[1])
        done = subprocess.run([self.binary, "migrate"], env=env, cwd=self.home,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120)
        if done.returncode != 0:
            raise OSError("migrate: " + done.stderr)
        for table in made:
            self.database.make_table(table.name, table.script == "outputs")
        return made

    def command(self):
        plan = self.plan
        settings = {"topic": self.name, "name": self.name, "max_delay": "%dms" % plan.max_delay_ms,
                    "lateness": "%dms" % plan.lateness_ms, "idle": "1s",
                    "size": "%dms" % plan.size_ms}
        if plan.script == "averages":
            script = "scripts/averages.lua"
            settings.update(table="one", commit_every="200ms")
        else:
            script = "spec/chaos/pipeline.lua"
            settings.update(first="one", second="two", hop="%dms" % plan.size_ms,
                            wide="%dms" % (plan.size_ms * 4))
        out = [self.binary, "run", script, "--json"]
        for key, value in settings.items():
            out += ["--set", "%s=%s" % (key, value)]
        return out

    # --- for the faults ---

    def sleep(self, seconds):
        self.stop.wait(seconds)

    def wait(self, done, seconds):
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.05)

    def add_instance(self):
        for name in "abc":
            known = self.fleet.instances.get(name)
            if known is None:
                self.fleet.instances[name] = known = Instance(self.fleet, name)
            if not known.wanted:
                known.wanted = True  # the supervisor starts it
                return True
        return False

    def unsettled(self, since, until=None):
        """Of a producer: what it is given meanwhile may be lost."""

    def set_clock(self, off_ms):
        path = os.path.join(self.folder, "clock")
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write("%d\n" % off_ms)
        os.replace(path + ".new", path)

    def count(self, kind):
        with self.count_lock:
            counts = self.outcome.counts
            counts[kind] = counts.get(kind, 0) + 1

    def grow(self, more):
        """Once in a round."""
        if not self.grown.acquire(blocking=False):
            return False
        total = self.plan.partitions + more
        future = self.topics.grow(self.name, total)
        self.growing = future, total
        try:
            future.result(15)
        except Exception:
            return False  # the broker was away; whether it took it is seen at the end
        self.feed.partitions = total
        return True

    def partitions(self):
        """How many the topic has in the end."""
        if self.growing:
            future, total = self.growing
            try:
                future.result(GROW_S)
                self.wait(lambda: self.topics.led(self.name, total), 30)
            except Exception:
                pass  # refused, or never sent
        return len(self.topics.admin.list_topics(self.name, 30).topics[self.name].partitions)

    # --- the round itself ---

    def inject(self):
        """All faults of the plan, each in a thread, at their moments. Rows come
        in and fail points are met until the round's time is up."""
        threads, began = [], time.monotonic()
        for event in self.plan.events:
            time.sleep(max(0.0, began + event.at - time.monotonic()))
            thread = threading.Thread(target=self.one_fault, args=(event,), daemon=True)
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, began + self.plan.seconds - time.monotonic()))
        deadline = time.monotonic() + EVENT_S
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if any(t.is_alive() for t in threads):
            raise OSError("a fault of the laboratory does not end")

    def one_fault(self, event):
        try:
            happened = faults.KINDS[event.kind](self, random.Random(event.seed))
        except Exception as error:  # the laboratory's own
            with self.count_lock:
                self.outcome.void = "%s: %r" % (event.kind, error)
            return
        if happened:
            self.count(event.kind)

    def has_committed(self):
        return any(row[3] > 0 for row in self.database.progress().values())

    def caught_up(self, ends, made):
        progress = self.database.progress()
        return (all(p in progress and progress[p][0] == end for p, end in ends.items())
                and self.database.open_windows(made) == 0)

    def run(self):
        began = time.monotonic()
        os.makedirs(self.folder, exist_ok=True)
        try:
            self.contest()
        finally:
            if self.fleet:
                self.fleet.abandon()
            self.outcome.seconds = time.monotonic() - began
            self.keep()
        return self.outcome

    def contest(self):
        outcome = self.outcome
        made = self.make_tables()
        self.topics.create(self.name, self.plan.partitions)
        self.fleet = Fleet(self.home, self.folder, self.environment(), self.command(),
                           random.Random(self.plan.dice_seed), self.plan.points, self.count)
        self.fleet.thaw_after = self.plan.thaw_after
        self.feed.thread.start()
        self.fleet.begin("abc"[:self.plan.instances])
        for instance in list(self.fleet.instances.values()):
            instance.start()
        if self.plan.warm:
            self.wait(self.has_committed, 20)
        self.inject()
        for proxy in self.servers.proxies.values():
            proxy.heal()
        self.fleet.points = ()
        self.feed.stop()
        log, ends = feed.read_back(self.servers.kafka(), self.name, self.partitions())
        expected = Expected(made, feed.judge(self.feed.rows, log), ends,
                            self.plan.max_delay_ms)
        outcome.rows = expected.rows
        if not self.fleet.running():
            self.add_instance()
        self.wait(lambda: self.caught_up(ends, made), CATCH_UP_S)
        if not self.caught_up(ends, made):
            outcome.findings.append("not caught up after %d s: positions %s of %s, %d windows "
                                    "open" % (CATCH_UP_S, self.database.progress(), ends,
                                              self.database.open_windows(made)))
        self.fleet.finish(FINISH_S)
        outcome.findings += self.fleet.findings + self.fenced_by_nobody()
        outcome.ends = self.fleet.ends
        outcome.tally = tables.compare(self.database, expected)

    def fenced_by_nobody(self):
        """Where one process ran all the time, nobody can have fenced it."""
        instances = list(self.fleet.instances.values())
        if len(instances) != 1 or instances[0].starts != 1:
            return []
        return ["fenced with nobody else there: " + line
                for line in instances[0].said().splitlines() if "fenced" in line][:1]

    def keep(self):
        """The logs of a good round are of no use; those of another are kept."""
        outcome = self.outcome
        if outcome.good():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.database.drop()
            self.topics.delete(self.name)
            return
        with open(os.path.join(self.folder, "round.json"), "w", encoding="utf-8") as file:
            json.dump({"seed": self.plan.seed, "round": self.plan.number,
                       "plan": str(self.plan), "events": [repr(e) for e in self.plan.events],
                       "counts": outcome.counts, "findings": outcome.findings,
                       "void": outcome.void, "differences": outcome.tally.said,
                       "exits": outcome.ends, "database": self.name}, file, indent=1)
