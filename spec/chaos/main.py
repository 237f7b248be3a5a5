"""The fault laboratory: rounds of faults against real servers, judged exactly.

  main.py [--seed TEXT] [--rounds N] [--minutes M] [--round N] [--kinds A,B]

Prints a line for each round, then a table, and last
`chaos: N faults, L lost, D duplicated, W wrong`. Exit code 0 when the last three
are 0, 1 when not, 2 when the laboratory itself failed. A finding that is not
about rows (an end of a process that nothing explains, a run that did not catch
up) counts as one wrong. Results are also in var/chaos/result.json; logs of
rounds that were not good stay in var/chaos/SEED-ROUND.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time

from arena import Arena
from plan import Round
from produce import Producer
from servers import Servers

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GRACE_S = 420  # for the last round, and for servers to start and stop
COLUMNS = ("times", "rows expected", "lost", "duplicated", "wrong")


class TooLong(Exception):
    """The run has reached its overall deadline."""


def arguments():
    parser = argparse.ArgumentParser(description="the fault laboratory")
    parser.add_argument("--seed", default="")
    parser.add_argument("--rounds", type=int, default=0, help="0: as many as fit")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--round", type=int, default=None, help="only this one")
    parser.add_argument("--kinds", default="", help="only these kinds of faults")
    return parser.parse_args()


class Report:
    """Sums over rounds, by kind of fault."""

    def __init__(self, seed):
        self.seed = seed
        self.kinds, self.cuts = {}, {}
        self.rounds, self.void = [], 0
        self.rows = self.lost = self.duplicated = self.wrong = 0

    def add(self, plan, outcome):
        wrong = outcome.tally.wrong + len(outcome.findings)
        tally = outcome.tally
        for kind, times in outcome.counts.items():
            line = self.kinds.setdefault(kind, [0, 0, 0, 0, 0])
            for i, value in enumerate((times, outcome.rows, tally.lost, tally.duplicated,
                                       wrong)):
                line[i] += value
            if kind.startswith("commit-cut"):
                cuts = self.cuts.setdefault(plan.database, {})
                cuts[kind] = cuts.get(kind, 0) + times
        self.rows += outcome.rows
        self.lost += tally.lost
        self.duplicated += tally.duplicated
        self.wrong += wrong
        self.void += outcome.void is not None
        self.rounds.append({
            "round": plan.number, "plan": str(plan), "faults": outcome.counts,
            "rows": outcome.rows, "lost": tally.lost, "duplicated": tally.duplicated,
            "wrong": wrong, "findings": outcome.findings, "void": outcome.void,
            "exits": outcome.ends, "seconds": round(outcome.seconds, 1)})

    def faults(self):
        return sum(line[0] for line in self.kinds.values())

    def line(self, plan, outcome):
        print("round %d: %s: %d faults, %d rows, %d lost, %d duplicated, %d wrong, %.0f s" % (
            plan.number, plan, sum(outcome.counts.values()), outcome.rows,
            outcome.tally.lost, outcome.tally.duplicated,
            outcome.tally.wrong + len(outcome.findings), outcome.seconds))
        for text in outcome.findings + outcome.tally.said[:8]:
            print("    " + text.replace("\n", "\n    "))
        if outcome.void:
            print("    the laboratory failed: " + outcome.void)
        if not outcome.good():
            print("    to repeat: make chaos SEED=%s ROUND=%d" % (self.seed, plan.number))
        sys.stdout.flush()

    def table(self):
        width = max([len(k) for k in self.kinds] + [5])
        print("\n%-*s %s" % (width, "fault", "  ".join(COLUMNS)))
        for kind in sorted(self.kinds):
            cells = [str(v).rjust(len(c)) for v, c in zip(self.kinds[kind], COLUMNS)]
            print("%-*s %s" % (width, kind, "  ".join(cells)))
        print("%d kinds, %d rounds, %d rows; a round's rows stand in the line of each kind "
              "it had" % (len(self.kinds), len(self.rounds), self.rows))
        for database in sorted(self.cuts):
            print("cuts at COMMIT, %s: %s" % (database, ", ".join(
                "%d %s" % (n, k[11:]) for k, n in sorted(self.cuts[database].items()))))

    def save(self, folder):
        path = os.path.join(folder, "result.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"seed": self.seed, "faults": self.faults(), "lost": self.lost,
                       "duplicated": self.duplicated, "wrong": self.wrong,
                       "rows": self.rows, "void": self.void, "kinds": {
                           k: dict(zip(COLUMNS, v)) for k, v in sorted(self.kinds.items())},
                       "commit_cuts": self.cuts, "rounds": self.rounds}, file, indent=1)


def rounds(options, report, folder, servers):
    """Round by round until the time is up."""
    until = time.monotonic() + options.minutes * 60
    kinds = set(options.kinds.split(",")) if options.kinds else None
    number = options.round or 0
    while True:
        plan = Round(options.seed, number, kinds)
        kind = Producer if plan.producer else Arena
        arena = kind(HOME, os.path.join(folder, "%s-%d" % (options.seed, number)),
                     servers, plan)
        try:
            arena.run()
        except TooLong:
            raise
        except Exception as error:
            arena.outcome.void = "%s: %s" % (type(error).__name__, error)
        report.add(plan, arena.outcome)
        report.line(plan, arena.outcome)
        report.save(folder)
        number += 1
        if options.round is not None or number == options.rounds:
            return
        if not options.rounds and time.monotonic() >= until:
            return


def give_up(*_):
    raise TooLong


def main():
    options = arguments()
    options.seed = options.seed or secrets.token_hex(4)
    folder = os.path.join(HOME, "var/chaos")
    os.makedirs(folder, exist_ok=True)
    print("chaos: seed %s; to repeat one round: make chaos SEED=%s ROUND=N" % (
        options.seed, options.seed), flush=True)
    report = Report(options.seed)
    servers = Servers(HOME, os.path.join(folder, "servers"), options.seed)
    signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGTERM, give_up)
    allowed = max(options.minutes * 60, options.rounds * 120)
    signal.alarm(int(allowed + GRACE_S))
    failed = None
    try:
        servers.up()
        rounds(options, report, folder, servers)
    except TooLong:
        failed = "stopped before its end"
    except KeyboardInterrupt:
        failed = "interrupted"
    finally:
        signal.alarm(0)
        servers.down()
    report.save(folder)
    report.table()
    # A round in which the laboratory's own producer or a server failed shows nothing. Few of them
    # are no failure of the run; one that is asked for is.
    if report.void > (0 if options.round is not None else 1 + len(report.rounds) // 10):
        failed = failed or "too many void rounds"
    if failed or report.void or not report.rounds:
        print("void rounds: %d of %d%s" % (report.void, len(report.rounds), failed and
              "; the laboratory itself failed: " + failed or ""))
    print("chaos: %d faults, %d lost, %d duplicated, %d wrong" % (
        report.faults(), report.lost, report.duplicated, report.wrong))
    if report.lost or report.duplicated or report.wrong:
        return 1
    return 2 if failed or len(report.rounds) <= report.void else 0


if __name__ == "__main__":
    sys.exit(main())
