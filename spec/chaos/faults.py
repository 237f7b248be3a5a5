"""The kinds of faults: each a function of (round, dice) that tells whether it
really happened. Only what happened is counted.

A fault cleans up behind itself; `Arena.heal` in main.py mends whatever is left.
"""

import resource
import signal
import time

SESSION_TIMEOUT_S = 2.5
KINDS = {}


def kind(name):
    def register(function):
        KINDS[name] = function
        return function
    return register


# --- the wire to the database --------------------------------------------------


def commit_cut(when):
    def cut(arena, dice):
        return arena.database_proxy.cut_commit(
            when, dice.random() < 0.5, 20, dice.choice((0.05, 0.5, 1.5)))
    return cut


for moment in ("before", "after", "during", "late"):
    KINDS["commit-cut-" + moment] = commit_cut(moment)


def dropping(proxy, reset):
    def drop(arena, dice):
        return getattr(arena, proxy).drop(reset, dice.choice((1, 1, 0.5))) > 0
    return drop


def lasting(proxy, begin, end, shortest, longest):
    """A fault that lasts; one of them at a time in each proxy."""
    def last(arena, dice):
        wire = getattr(arena, proxy)
        seconds = dice.uniform(shortest, longest)
        with wire.lock:
            hit = begin(wire, dice)
            arena.sleep(seconds)
            passed = end(wire)
        return bool(hit or passed)
    return last


def delay(wire, dice):
    return wire.slow(delay=dice.uniform(0.02, 0.4))


def throttle(wire, dice):
    return wire.slow(rate=dice.choice((2000, 10000, 40000)))


def smooth(wire):
    wire.slow()


def half_open(wire, dice):
    return wire.half_open(dice.choice((("up",), ("down",), ("up", "down"))))


for target in ("database", "kafka"):
    short = "mysql" if target == "database" else "kafka"
    name = target + "_proxy"
    KINDS[short + "-cut"] = dropping(name, False)
    KINDS[short + "-reset"] = dropping(name, True)
    KINDS[short + "-delay"] = lasting(name, delay, smooth, 0.5, 2)
    KINDS[short + "-throttle"] = lasting(name, throttle, smooth, 0.5, 2)
    KINDS[short + "-half-open"] = lasting(
        name, half_open, lambda wire: wire.whole_again(), 0.3, 3)
    KINDS[short + "-refuse"] = lasting(
        name, lambda wire, dice: wire.refuse(True), lambda wire: wire.refuse(False), 0.1, 2)


def corrupting(how):
    def corrupt(arena, dice):
        wire = arena.kafka_proxy
        with wire.lock:
            before = wire.corrupting(how)
            deadline = time.monotonic() + 3
            while wire.flipped == before and time.monotonic() < deadline:
                arena.sleep(0.01)
            arena.sleep(dice.uniform(0, 0.1))
            return wire.corrupting(None) > before
    return corrupt


KINDS["kafka-corrupt"] = corrupting("price")
KINDS["kafka-tls-corrupt"] = corrupting("tls")


# --- our processes ---------------------------------------------------------------


def chosen(arena, dice):
    """A living instance that no other fault is busy with, locked; or None."""
    running = [i for i in arena.fleet.running() if i.alive()]
    dice.shuffle(running)
    for instance in running:
        if instance.busy.acquire(blocking=False):
            return instance
    return None


def on_instance(function):
    def act(arena, dice):
        instance = chosen(arena, dice)
        if instance is None:
            return False
        try:
            return function(arena, dice, instance)
        finally:
            instance.busy.release()
    return act


@kind("kill")
@on_instance
def kill(arena, dice, instance):
    return instance.kill(signal.SIGKILL, -signal.SIGKILL)


@kind("terminate")
@on_instance
def terminate(arena, dice, instance):
    # 3: not all could be committed; -15: it had no handler yet.
    starts = instance.starts
    if not instance.kill(signal.SIGTERM, 0, 3, -signal.SIGTERM):
        return False
    arena.unsettled(time.monotonic())  # an answer that it has not read yet is given up
    arena.wait(lambda: instance.starts > starts, 45)
    if instance.starts == starts:
        arena.fleet.findings.append("%s did not end within 45 s of SIGTERM" % instance.name)
    return True


def freezing(shortest, longest):
    @on_instance
    def freeze(arena, dice, instance):
        if not instance.kill(signal.SIGSTOP):
            return False
        process = instance.process
        instance.frozen = True
        began = time.monotonic()
        try:
            arena.sleep(dice.uniform(shortest, longest))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
            instance.frozen = False
            arena.unsettled(began, time.monotonic())
        return True
    return freeze


KINDS["freeze"] = freezing(0.1, 1.2)
KINDS["freeze-long"] = freezing(SESSION_TIMEOUT_S + 1, SESSION_TIMEOUT_S + 4)


@kind("memory-limit")
@on_instance
def memory_limit(arena, dice, instance):
    """No more address space than it has, or little more, for a moment. Being
    out of memory may end it (1, abort, SIGSEGV: a stack that cannot grow, 127:
    its libraries were still being loaded, 2: a fail point that could not be set);
    it must not be wrong."""
    pid = instance.process.pid
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    try:
        with open("/proc/%d/statm" % pid, encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        instance.expected.update((1, 2, 3, 127, -signal.SIGABRT, -signal.SIGSEGV))
        soft = size + dice.choice((0, 1 << 20, 16 << 20))
        resource.prlimit(pid, resource.RLIMIT_AS, (soft, unlimited[1]))
        arena.sleep(dice.uniform(0.3, 1.5))
        if instance.process is not None and instance.process.pid == pid:
            resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
    except (ProcessLookupError, FileNotFoundError):
        pass
    return True


@kind("clock-jump")
def clock_jump(arena, dice):
    """Every process's wall clock is wrong for a while; in three years' error all
    rows lie in the future. Only the test build can be told so."""
    if not arena.plan.test_build:
        return False
    off = dice.choice((-94608000000, -3600000, -40000, -700, 700, 40000, 86400000))
    with arena.clock_lock:
        arena.set_clock(off)
        arena.sleep(dice.uniform(0.3, 3))
        arena.set_clock(0)
    return True


@kind("join")
def join(arena, dice):
    return arena.add_instance()


@kind("leave")
@on_instance
def leave(arena, dice, instance):
    if len(arena.fleet.running()) < 2:
        return False
    instance.wanted = False
    return instance.kill(signal.SIGTERM, 0, 3, 130, -signal.SIGTERM)  # 130: asked twice


# --- the producer's ---------------------------------------------------------------


@kind("disk-full")
def disk_full(arena, dice):
    if not arena.mounted:
        return False
    arena.fill_disk(dice.uniform(0.5, 3))
    return True


@kind("spool-torn")
@on_instance
def spool_torn(arena, dice, instance):
    """Kafka is away, so that what is torn was not sent before."""
    with arena.kafka_proxy.lock:
        arena.kafka_proxy.refuse(True)
        try:
            arena.sleep(1.5)
            with instance.lock:
                instance.kill(signal.SIGKILL, -signal.SIGKILL)
                if instance.process is not None:
                    instance.process.wait()
                return arena.tear(dice)
        finally:
            arena.kafka_proxy.refuse(False)


# --- the servers -------------------------------------------------------------------


def away(server, kill_it):
    def stop(arena, dice):
        name = arena.plan.database if server == "database" else server
        with arena.server_locks[name]:
            arena.servers.ends(name, kill_it)
            try:
                arena.sleep(dice.uniform(0, 2))
            finally:
                arena.servers.begins(name)
        return True
    return stop


KINDS["broker-kill"] = away("kafka", True)
KINDS["broker-stop"] = away("kafka", False)
KINDS["database-kill"] = away("database", True)
KINDS["database-stop"] = away("database", False)


@kind("grow")
def grow(arena, dice):
    return arena.grow(dice.randrange(1, 3))
