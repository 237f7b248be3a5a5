"""A round of the producer: exchange to topic, through the spool.

What was answered whole has to be in the topic once, and the answers of a symbol
in order. A process that is killed or frozen may not have synced what it had just
been given; those moments are remembered, and only answers of theirs may lack.
"""

import json
import os
import random
import re
import subprocess
import threading
import time

import exchange
import feed
from arena import CATCH_UP_S, FINISH_S, Arena
from fleet import Fleet

GRACE_S = 2.5  # the deadline of a request, and a sync on a loaded machine
EVERY_MS = 100
PRICE = re.compile(rb'"symbol":"(\w+)","price":"(\d+)\.')


class Producer(Arena):
    """An arena whose process is scripts/prices.lua."""

    def __init__(self, home, folder, servers, plan):
        super().__init__(home, folder, servers, plan)
        self.exchange = exchange.Exchange(plan.dice_seed)
        self.damaged = set()  # (answer, symbol) of damaged records
        self.moments = []  # (from, to) in which an answer may be lost
        self.spool = os.path.join(folder, "spool")
        self.mounted = False
        self.full_since = None  # the disk of the spool, until there is room again
        self.fillers, self.fill_lock = 0, threading.Lock()

    def command(self):
        settings = {"name": self.name, "topic": self.name, "every": "%dms" % EVERY_MS,
                    "symbols": ",".join(exchange.SYMBOLS), "endpoints": self.exchange.url(),
                    "spool": self.spool, "clock_every": "1h"}
        out = [self.binary, "run", "scripts/prices.lua", "--json"]
        for key, value in settings.items():
            out += ["--set", "%s=%s" % (key, value)]
        return out

    def environment(self):
        env = super().environment()
        conf = {"reconnect.backoff.max.ms": 500, "topic.metadata.refresh.interval.ms": 1000}
        if self.plan.tls:
            conf.update({"security.protocol": "ssl", "ssl.ca.location": self.servers.ca()})
        env["TIDEMILL_KAFKA_CONF"] = ",".join("%s=%s" % item for item in conf.items())
        env.pop("TIDEMILL_MYSQL")
        return env

    # --- for the faults ---

    def unsettled(self, since, until=None):
        """What was answered from then on may be lost."""
        self.moments.append((since - GRACE_S, (until or since) + 0.5))

    def mount(self):
        """A small disk for the spool, where mounting is allowed."""
        os.makedirs(self.spool, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", self.spool],
                              capture_output=True)
        self.mounted = done.returncode == 0

    def unmount(self):
        if self.mounted:
            subprocess.run(["umount", "-l", self.spool], capture_output=True)
            self.mounted = False

    def fill_disk(self, seconds):
        """Not a byte is left for a while."""
        self.fleet.filled = True
        with self.fill_lock:
            self.fillers += 1
            if self.fillers == 1:
                self.full_since = time.monotonic()
        # Several may fill it at the same time.
        path = os.path.join(self.spool, "filler-%d" % time.monotonic_ns())
        with open(path, "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass
        self.sleep(seconds)
        os.unlink(path)
        self.sleep(GRACE_S)  # what is in memory only is written with the next answer
        with self.fill_lock:
            self.fillers -= 1
            if self.fillers == 0:
                self.full_since = None

    def ended(self):
        """Who ends while the disk is full takes along what Kafka did not take
        since: it was nowhere but in its memory."""
        now = time.monotonic()
        self.unsettled(self.full_since or now, now)

    def segments(self):
        names = [os.path.join(self.spool, n) for n in os.listdir(self.spool)]
        found = []
        for name in names:
            if os.path.isfile(name):
                with open(name, "rb") as file:
                    if file.read(8) == b"TMSPOOL1":
                        found.append((os.path.getmtime(name), name))
        return [name for _, name in sorted(found)]

    def tear(self, dice):
        """What a crash in the middle of a write leaves: half a record. Or one of
        the newest records with another digit in it: only its checksum can tell,
        and nothing but that record may lack."""
        files = self.segments()
        if not files:
            return False
        with open(files[-1], "r+b") as file:
            data = file.read()
            if dice.random() < self.plan.torn_share:
                file.write(b"\xf5TM\xfa" + bytes([90, 0, 0, 0]) + dice.randbytes(30))
                return True
            found = list(PRICE.finditer(data))[-20:]
            if not found:
                return False
            record = dice.choice(found)
            self.damaged.add((int(record.group(2)), record.group(1).decode()))
            file.seek(record.start(2))
            file.write(b"9" if record.group(2)[:1] != b"9" else b"8")
            return True

    # --- the round ---

    def contest(self):
        outcome = self.outcome
        os.makedirs(self.folder, exist_ok=True)
        self.mount()
        self.topics.create(self.name, 3)
        self.fleet = Fleet(self.home, self.folder, self.environment(), self.command(),
                           random.Random(self.plan.dice_seed), self.plan.points, self.count)
        self.fleet.named = False
        self.fleet.thaw_after = self.plan.thaw_after
        self.fleet.on_end = self.ended
        self.fleet.begin("p")
        producer = self.fleet.instances["p"]
        producer.start()
        self.wait(lambda: len(self.exchange.answers) > 3, 30)
        try:
            self.inject()
        finally:
            for proxy in self.servers.proxies.values():
                proxy.heal()
            self.fleet.points = ()
        # The last of it: no more troubles, and time for the spool to be sent.
        self.exchange.share = 0
        last = len(self.exchange.answers) + 20
        self.wait(lambda: len(self.exchange.answers) > last, 60)
        self.wait(self.sent, CATCH_UP_S)
        self.unsettled(time.monotonic())
        self.fleet.finish(FINISH_S)
        outcome.findings += self.fleet.findings
        outcome.ends = self.fleet.ends
        for what, times in self.exchange.troubled.items():
            outcome.counts["exchange-" + what] = times
        log, _ = feed.read_back(self.servers.kafka(), self.name, 3)
        self.judge(log)

    def sent(self):
        """Has what was answered a while ago arrived?"""
        goal = len(self.exchange.answers) - 15
        try:
            log, _ = feed.read_back(self.servers.kafka(), self.name, 3, settle=False)
        except OSError:
            return False
        newest = max([number_of(value) or 0 for records in log.values()
                      for _, _, value in records] or [0])
        return newest >= goal

    def allowed(self, answer):
        return any(a <= answer.at <= b for a, b in self.moments)

    def judge(self, log):
        outcome, tally = self.outcome, self.outcome.tally
        answers = self.exchange.answers
        seen, newest = set(), {}
        for partition, records in log.items():
            for offset, _, value in records:
                row = json.loads(value)
                number, symbol = number_of(value), row["symbol"]
                where = "%s of answer %s at %d:%d" % (symbol, number, partition, offset)
                if (number is None or number >= len(answers)
                        or row["price"] != exchange.price(number, symbol)):
                    tally.note("wrong", 1, "nobody answered %s" % row)
                elif answers[number].whole is False:
                    tally.note("wrong", 1, where + " was not answered whole")
                elif (number, symbol) in seen:
                    tally.note("duplicated", 1, where)
                elif newest.get(symbol, -1) > number:
                    tally.note("wrong", 1, where + " is out of order")
                seen.add((number, symbol))
                newest[symbol] = max(newest.get(symbol, -1), number or 0)
        for answer in answers:
            if not answer.whole:
                continue
            outcome.rows += len(exchange.SYMBOLS)
            for symbol in exchange.SYMBOLS:
                key = (answer.number, symbol)
                if key not in seen and key not in self.damaged and not self.allowed(answer):
                    tally.note("lost", 1, "%s of answer %d" % (symbol, answer.number))

    def keep(self):
        self.exchange.close()
        self.unmount()
        super().keep()


def number_of(value):
    """The answer that a message's price names."""
    try:
        return int(json.loads(value)["price"].split(".")[0])
    except (ValueError, KeyError, TypeError):
        return None
