"""What happens in a round: a function of the seed and the round's number alone.

So a round can be repeated without those before it. What the machine does in
between (which packet is on its way at that millisecond) cannot be repeated.
"""

import random

# What to wait between two of these, and how many to make of each in a round.
QUICK = ("commit-cut-before", "commit-cut-after", "commit-cut-during",
         "commit-cut-late", "mysql-cut",
         "mysql-reset", "kafka-cut", "kafka-reset", "kafka-corrupt")
LASTING = ("mysql-delay", "mysql-throttle", "mysql-half-open", "mysql-refuse",
           "kafka-delay", "kafka-throttle", "kafka-half-open", "kafka-refuse",
           "freeze", "memory-limit", "clock-jump")
HEAVY = ("kill", "terminate", "freeze-long", "join", "kill", "leave", "terminate", "kill",
         "grow", "freeze-long", "kill")
# At most one in a round: a server takes its time to come back.
SERVERS = ("broker-kill", "database-kill", "broker-stop", "database-stop")
PRODUCER = ("kafka-cut", "kafka-reset", "kafka-cut", "kafka-reset", "kafka-delay",
            "kafka-throttle", "kafka-half-open", "kafka-refuse", "freeze", "kill",
            "terminate", "disk-full", "spool-torn", "spool-torn", "disk-full")
PRODUCER_SERVERS = ("broker-kill", "broker-stop", "freeze-long", "freeze-long")
COMMIT = ("commit-cut-before", "commit-cut-after")
TLS_CORRUPT = "kafka-tls-corrupt"
# Where a process of the test build may end or stop by itself.
POINTS = (
    "claim.before", "claim.locked", "claim.written", "claim.committed", "claim.reading",
    "commit.begin", "commit.compared", "commit.results", "commit.before", "commit.sent",
    "commit.after", "commit.settled", "commit.begin", "commit.compared", "commit.sent",
    "resolve.locked", "revoke.before", "revoke.committed", "revoke.after",
    "register.before", "register.after", "finalise.locked", "finalise.after")


class Event:
    """One fault: when (seconds into the round), which, and its own dice."""

    __slots__ = ("at", "kind", "seed")

    def __init__(self, at, kind, seed):
        self.at, self.kind, self.seed = at, kind, seed

    def __repr__(self):
        return "%.2f %s" % (self.at, self.kind)


class Round:
    """Shape of the data, of the pipeline and of the fleet, and the faults."""

    def __init__(self, seed, number, kinds=None, **fixed):
        dice = random.Random("%s/%d" % (seed, number))
        self.seed, self.number = seed, number
        # Of eight rounds each combination of database, wire and server fault is one.
        self.database = ("mysql", "mariadb")[(number // 2 + number // 8) % 2]
        self.script = dice.choice(("averages", "outputs"))
        self.tls = number % 2 == 1
        self.partitions = dice.choice((1, 3, 3, 6))
        self.instances = dice.choice((1, 2, 3))
        self.strategy = dice.choice(("cooperative-sticky", "range", "roundrobin"))
        self.keyed = dice.random() < 0.6
        self.bad_share = dice.choice((0, 0.03, 0.12))
        self.disorder_ms = dice.choice((0, 400, 3000))
        self.max_delay_ms = dice.choice((0, 200, 1000))
        self.lateness_ms = dice.choice((500, 1500, 86400000))
        self.size_ms = dice.choice((200, 500, 1000))
        self.transactions = dice.random() < 0.3
        self.rate = dice.choice((200, 500, 1200))
        self.symbols = dice.choice((3, 8, 40))
        self.seconds = 14.0
        self.warm = dice.random() < 0.7  # else it has to start amid the faults
        self.dice_seed = dice.randrange(1 << 60)
        # Every third round is one of the test build, with fail points in it.
        self.test_build = number % 3 == 2
        self.points = POINTS if self.test_build and kinds is None else ()
        self.mutation = None
        self.torn_share = 0.5  # of the spool's damages: torn; the rest: another digit
        self.producer = number % 5 == 4
        self.thaw_after = (0.2, 1.0, 4.0, 4.5, 6.0)  # s, of who stopped at a fail point
        for name, value in fixed.items():
            setattr(self, name, value)
        self.events = self.faults(dice, kinds)

    def faults(self, dice, kinds):
        """Many quick ones, some that last, and two or three that hurt. The
        heavy ones go round by the round's number, so that all come up."""
        events = []

        def add(at, kind):
            if kind == "kafka-corrupt" and self.tls:
                kind = TLS_CORRUPT
            if kinds is None or kind in kinds:
                events.append(Event(at, kind, dice.randrange(1 << 60)))

        if self.producer:
            self.database = self.script = "producer"
            self.points = ()
            kinds_ = dice.sample(PRODUCER, len(PRODUCER))
            for step, name in enumerate(kinds_):
                add(1 + step * (self.seconds - 2) / len(kinds_), name)
            add(dice.uniform(1, self.seconds - 2),
                PRODUCER_SERVERS[self.number // 5 % 4])
            return sorted(events, key=lambda e: e.at)
        at = 1.0
        while at < self.seconds - 1:
            # Too many cuts of one wire, and nothing would be under way to be cut.
            share = dice.random()
            add(at, dice.choice(COMMIT) if share < 0.7 else dice.choice(QUICK))
            at += dice.uniform(0.1, 0.6)
        for step in range(5):
            kind = LASTING[(self.number * 5 + step) % len(LASTING)]
            add(dice.uniform(1, self.seconds - 2), kind)
        for step in range(2):
            kind = HEAVY[(self.number * 2 + step) % len(HEAVY)]
            add(dice.uniform(1, self.seconds - 2), kind)
        if self.number % 2 == 0:
            add(dice.uniform(1, self.seconds - 2), SERVERS[self.number // 2 % 4])
        if kinds:
            for kind in sorted(kinds):
                for _ in range(6 if kind in QUICK else 2):
                    add(dice.uniform(1, self.seconds - 2), kind)
        return sorted(events, key=lambda e: e.at)

    def __str__(self):
        if self.producer:
            return "producer%s%s" % (", test build" if self.test_build else "",
                                     ", TLS" if self.tls else "")
        return ("%s%s, %s, %d partitions %s, %d instances (%s), %d ms windows, "
                "disorder %d ms, max_delay %d ms, lateness %d ms, bad %d%%, %s%d/s" % (
                    self.database, ", test build" if self.test_build else "", self.script, self.partitions,
                    "keyed" if self.keyed else "unkeyed", self.instances,
                    self.strategy, self.size_ms, self.disorder_ms,
                    self.max_delay_ms, self.lateness_ms, self.bad_share * 100,
                    "transactions, " if self.transactions else "", self.rate))
