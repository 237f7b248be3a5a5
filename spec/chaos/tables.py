"""The database's side of a round: its own database, and the comparing of its
tables with what they must hold, row by row."""

import hashlib
import time

import pymysql

COLLATION = {"mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}
MS = "timestampdiff(microsecond, '1970-01-01', %s) div 1000"
AVERAGES = ("average_price", "price_sum", "samples", "revision")
OUTPUTS = AVERAGES + ("low", "high", "open", "close", "turnover", "volume", "vwap",
                      "squares", "deviation")
MORE = """alter table %s
  add low decimal(20,8), add high decimal(20,8), add open decimal(20,8),
  add open_at binary(20), add close decimal(20,8), add close_at binary(20),
  add turnover decimal(65,16), add volume decimal(38,8), add vwap decimal(20,8),
  add squares decimal(65,16), add deviation decimal(20,8)"""
PAYLOAD = 65536


class Tally:
    """What a comparison found; `said` describes the first differences."""

    def __init__(self):
        self.lost = self.duplicated = self.wrong = 0
        self.said = []

    def note(self, kind, count, text):
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.said) < 40:
            self.said.append("%s: %s" % (kind, text))

    def bad(self):
        return self.lost + self.duplicated + self.wrong


class Database:
    """One database on one server, made for a round."""

    def __init__(self, flavor, address, name):
        self.flavor, self.address, self.name = flavor, address, name

    def connect(self, database):
        host, port, user, password, ca = self.address
        return pymysql.connect(
            host=host, port=port, user=user, password=password, database=database,
            connect_timeout=10, read_timeout=30, ssl={"ca": ca}, autocommit=True)

    def query(self, sql, *values, database=True):
        """Rows of one statement; tried again while the server comes back."""
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = self.connect(self.name if database else None)
                try:
                    with connection.cursor() as cursor:
                        cursor.execute(sql, values or None)
                        return cursor.fetchall()
                finally:
                    connection.close()
            except pymysql.err.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def create(self):
        self.query("create database `%s`" % self.name, database=False)

    def drop(self):
        self.query("drop database if exists `%s`" % self.name, database=False)

    def make_table(self, name, more):
        self.query("create table %s like moving_averages" % name)
        self.query("alter table %s modify start_time datetime(3) not null, "
                   "modify end_time datetime(3) not null" % name)
        if more:
            self.query(MORE % name)

    # --- what is there ---

    def results(self, table):
        columns = OUTPUTS if table.script != "averages" else AVERAGES
        rows = self.query("select symbol, %s, %s, is_final, %s from %s" % (
            MS % "start_time", MS % "end_time", ", ".join("`%s`" % c for c in columns),
            table.name))
        out = {}
        for row in rows:
            value = {c: row[4 + i] if isinstance(row[4 + i], int) else str(row[4 + i])
                     for i, c in enumerate(columns)}
            value.update(end=row[2], is_final=row[3])
            out[(row[0], row[1])] = value
        return out

    def late(self, table):
        rows = self.query(
            "select `partition`, `offset`, window_start_ms, reason, row_key, time_ms, "
            "window_end_ms, lateness_ms from mill_late where result_table = %s", table.name)
        return [(row[:3], row[3:]) for row in rows]

    def dead(self):
        rows = self.query("select `partition`, `offset`, code, payload, payload_length, "
                          "payload_sha256 from mill_dead_letters where kind = 'message'")
        return [(row[:2], row[2:]) for row in rows]

    def progress(self):
        rows = self.query("select `partition`, position, watermark_ms, last_offset, "
                          "commit_seq, epoch from mill_progress")
        return {row[0]: row[1:] for row in rows}

    def open_windows(self, tables):
        return sum(self.query("select count(*) from %s where is_final = 0" % t.name)[0][0]
                   for t in tables)


def compare(database, expected):
    """A Tally over every table of the round."""
    tally = Tally()
    for table in expected.tables:
        compare_results(tally, table.name, table.results(), database.results(table))
        compare_once(tally, "mill_late of " + table.name, table.late,
                     database.late(table), None)
    compare_once(tally, "mill_dead_letters", expected.dead, database.dead(), same_letter)
    compare_progress(tally, expected, database.progress())
    return tally


def compare_results(tally, name, wanted, found):
    for key in sorted(set(wanted) | set(found)):
        want, have = wanted.get(key), found.get(key)
        where = "%s %s %d" % (name, key[0], key[1])
        if have is None:
            tally.note("lost", want["samples"], where + " is not there")
        elif want is None:
            tally.note("duplicated", have["samples"] or 1, where + " should not be there")
        elif want != have:
            more = (have["samples"] or 0) - want["samples"]
            differ = ", ".join("%s %s instead of %s" % (c, have[c], want[c])
                               for c in want if want[c] != have[c])
            kind = "duplicated" if more > 0 else "lost" if more < 0 else "wrong"
            tally.note(kind, abs(more) or 1, "%s: %s" % (where, differ))


def compare_once(tally, name, wanted, found, same):
    """Rows that are there once each, whatever order they came in."""
    seen = set()
    for key, value in found:
        if key in seen or key not in wanted:
            tally.note("duplicated", 1, "%s %s" % (name, key))
        elif not (same or tuple.__eq__)(wanted[key], value):
            tally.note("wrong", 1, "%s %s: %s instead of %s" % (
                name, key, value, wanted[key]))
        seen.add(key)
    for key in wanted:
        if key not in seen:
            tally.note("lost", 1, "%s %s is not there" % (name, key))


def same_letter(wanted, value):
    code, payload = wanted
    bytes_ = payload or b""
    return (value[0] == code and value[2] == len(bytes_)
            and value[3] == hashlib.sha256(bytes_).digest()
            and (value[1] or b"") == bytes_[:PAYLOAD])


def compare_progress(tally, expected, found):
    for partition, end in expected.ends.items():
        row = found.get(partition)
        if row is None:
            tally.note("wrong", 1, "partition %d has no progress" % partition)
            continue
        want = (end, expected.watermarks[partition], expected.last[partition])
        if tuple(row[:3]) != want:
            tally.note("wrong", 1, "progress of partition %d: position, watermark, last "
                       "offset %s instead of %s" % (partition, row[:3], want))
    for partition in set(found) - set(expected.ends):
        tally.note("wrong", 1, "progress of partition %d that is not there" % partition)
