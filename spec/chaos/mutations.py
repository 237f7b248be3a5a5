"""Is the laboratory itself any good? A check is left out of the test build, and
rounds with the faults that matter to it are run until the tables are wrong.

  mutations.py [--seed TEXT] [--only NAME] [--rounds N]

For each mutation the round that caught it is run again without the mutation and
has to be good: it was the missing check that was seen, and nothing else. Exit
code 0 when each was caught within N rounds (default 5), 1 when one was not, 2
when the laboratory itself failed.
"""

import argparse
import os
import secrets
import signal
import sys

import main as laboratory
from arena import Arena
from plan import Event, Round
from produce import Producer
from servers import Servers

DEADLINE_S = 3600


def every(kind, seconds, start=1.0, end=13.0):
    """The same fault again and again."""
    count = int((end - start) / seconds)
    return [(start + i * seconds, kind) for i in range(count)]


# What each needs: the shape of the round, its faults, its fail points.
COMMON = {"producer": False, "test_build": True, "warm": True, "points": (),
          "partitions": 3, "rate": 500,
          "transactions": False, "tls": False, "lateness_ms": 86400000}
CASES = {
    # A zombie that was stopped with sealed deltas, and woke after its partitions
    # were claimed by another, has to find no row to move.
    "fencing": (dict(COMMON, instances=3, points=("commit.begin=stop",),
                     thaw_after=(4.0, 6.0)), []),
    # The row of an unknown outcome is waited for: a COMMIT may be on its way.
    "for-update": (dict(COMMON, instances=1), every("commit-cut-late", 1.0)),
    # A commit whose answer never came must not be made again.
    "commit-seq": (dict(COMMON, instances=1), every("commit-cut-after", 0.7)),
    # Who starts again begins where the results end.
    "position": (dict(COMMON, instances=2), every("kill", 2.0)),
    # A damaged record of the spool is not sent.
    "spool-checksum": (dict(COMMON, producer=True, torn_share=0.0), every("spool-torn", 4.0)),
}


def make_round(seed, number, name, mutated):
    fixed, events = CASES[name]
    plan = Round("%s/%s" % (seed, name), number, kinds=set(), **fixed)
    plan.points = fixed["points"]
    plan.mutation = name if mutated else None
    plan.events = [Event(at, kind, number * 1000 + i) for i, (at, kind) in enumerate(events)]
    return plan


def run(folder, servers, plan):
    kind = Producer if plan.producer else Arena
    arena = kind(laboratory.HOME, folder, servers, plan)
    try:
        return arena.run()
    except laboratory.TooLong:
        raise
    except Exception as error:  # the laboratory's own
        arena.outcome.void = "%s: %s" % (type(error).__name__, error)
        return arena.outcome


def describe(outcome):
    tally = outcome.tally
    text = "%d faults, %d lost, %d duplicated, %d wrong" % (
        sum(outcome.counts.values()), tally.lost, tally.duplicated,
        tally.wrong + len(outcome.findings))
    said = (outcome.findings + tally.said)[:1]
    return text + "".join("; first: " + s.splitlines()[0][:160] for s in said)


def hunt(servers, folder, options, name):
    """True when it was caught and the same round without it was good."""
    for number in range(options.rounds):
        plan = make_round(options.seed, number, name, True)
        outcome = run(os.path.join(folder, "mutation-%s-%d" % (name, number)), servers, plan)
        if outcome.void:
            print("%s: round %d: the laboratory failed: %s" % (name, number, outcome.void),
                  flush=True)
            continue
        if outcome.good():
            print("%s: round %d: not caught (%s)" % (name, number, describe(outcome)),
                  flush=True)
            continue
        print("%s: caught in round %d: %s" % (name, number, describe(outcome)), flush=True)
        control = run(os.path.join(folder, "control-%s-%d" % (name, number)), servers,
                      make_round(options.seed, number, name, False))
        print("%s: without the mutation: %s" % (name, describe(control)), flush=True)
        return control.good()
    print("%s: NOT caught within %d rounds" % (name, options.rounds), flush=True)
    return False


def main():
    parser = argparse.ArgumentParser(description="mutations of the test build")
    parser.add_argument("--seed", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.seed = options.seed or secrets.token_hex(4)
    print("chaos-mutations: seed %s" % options.seed, flush=True)
    folder = os.path.join(laboratory.HOME, "var/chaos")
    os.makedirs(folder, exist_ok=True)
    servers = Servers(laboratory.HOME, os.path.join(folder, "servers"), options.seed)
    signal.signal(signal.SIGALRM, laboratory.give_up)
    signal.signal(signal.SIGTERM, laboratory.give_up)
    signal.alarm(DEADLINE_S)
    names = options.only.split(",") if options.only else sorted(CASES)
    caught = []
    try:
        servers.up()
        caught = [name for name in names if hunt(servers, folder, options, name)]
    except (laboratory.TooLong, KeyboardInterrupt):
        print("chaos-mutations: stopped before its end")
        return 2
    finally:
        signal.alarm(0)
        servers.down()
    print("chaos-mutations: %d of %d caught" % (len(caught), len(names)))
    return 0 if len(caught) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
