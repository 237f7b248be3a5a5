#!/usr/bin/env python3
"""What the tables must hold after a pipeline has read a topic to its end.

An independent computation for the specs: the standard library only, whole
numbers throughout, nothing shared with tidemill but the definitions it is
judged by. One process reads one topic with kcat (read committed unless told
otherwise) and prints one JSON object.

    oracle.py < PARAMETERS       parameters are one JSON object:

  brokers, topic      what to read; or dump: a file written by kcat with FORMAT
  isolation           read_committed (default) or read_uncommitted
  stages              a list, one for each result table: size_ms, hop_ms (none:
                      tumbling), max_delay_ms, lateness_ms
  now_ms, future_ms   rows stamped later than now_ms + future_ms are bad
  max_symbol          characters that the symbol column holds (default 32)
  adopted_until_ms    windows that start before it belong to adopted rows
  tombstones          skip: a null payload is no row and no error
  signed              true: a price may be 0 or less
  quantity            true: a field qty decimal(20,8) is required besides; for
                      min, max, first, last, vwap and deviations
  idle                {partition: ms}: an idle clock that has advanced so far
  lines               true: keep one line for each record and what became of it

Numbers are written as text with 8 decimals. Times are milliseconds.

The definitions, in the order in which they are applied to each record of a
partition, in offset order:

  bad      not one JSON object with a symbol, a price > 0 and a time; it moves
           nothing
  W        greatest time of the partition's earlier good rows, less max_delay
  late     for window [s, e): W >= e; it is counted, and revision + 1
  too late for window [s, e): W >= e + lateness; it is not counted
  final    end <= the least W of the partitions that have one

In the counts a message is too late when all its windows refused it, for
whatever reason, and otherwise late when one of them had ended before it.
"""

import hashlib
import json
import re
import subprocess
import sys

FORMAT = "%p %o %T %K %S\\n%k%s\\n"

SCALE = 8
PRECISION = 20

NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?",
                    re.ASCII)
STAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?", re.ASCII)
LAST_MS = 253402300799999
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Bad(Exception):
    """A record that is no row: what is wrong, and with which field."""

    def __init__(self, reason, field=None):
        super().__init__(reason)
        self.reason = reason
        self.field = field


class Number:
    """A JSON number as it was written."""

    __slots__ = ("text",)

    def __init__(self, text):
        self.text = text


# --- numbers and times -------------------------------------------------------


def split_number(text):
    """(whole number, power of ten) of a JSON number, exactly; or None."""
    found = NUMBER.fullmatch(text)
    if not found:
        return None
    sign, whole, fraction, exponent = found.groups()
    fraction = fraction or ""
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return 0, 0
    bare = digits.rstrip("0")
    power = len(digits) - len(bare) - len(fraction)
    if exponent:
        if len(exponent) > 9:
            # Far out of range either way; the sign of the exponent decides.
            power = -10 ** 9 if exponent[0] == "-" else 10 ** 9
        else:
            power += int(exponent)
    if len(bare) > 4000:
        return None
    value = int(bare)
    return (-value if sign else value), power


def scaled(text, precision, scale):
    """The number times 10^scale; None when it is not one or does not fit."""
    parts = split_number(text)
    if parts is None:
        return None
    value, power = parts
    if value == 0:
        return 0
    power += scale
    if power < 0 or power > precision:
        return None  # `value` ends in no zero: a digit beyond the scale
    value *= 10 ** power
    return value if abs(value) < 10 ** precision else None


def time_number_ms(text):
    """Seconds, ms, us or ns, told apart by magnitude, floored to ms."""
    parts = split_number(text)
    if parts is None:
        return None
    value, power = parts
    if value == 0:
        return 0
    if len(str(abs(value))) + power > 20:
        return None
    if power < -60:
        return -1 if value < 0 else 0
    over, under = 10 ** max(power, 0), 10 ** max(-power, 0)
    value *= over
    size = abs(value)
    if size < 10 ** 11 * under:
        return value * 1000 // under
    if size < 10 ** 14 * under:
        return value // under
    if size < 10 ** 17 * under:
        return value // (under * 1000)
    return value // (under * 1000000)


def days_from_epoch(year, month, day):
    """Days from 1970-01-01 to the date of the Gregorian calendar."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12:
        return None
    longest = 29 if leap and month == 2 else MONTH_DAYS[month - 1]
    if year < 1 or not 1 <= day <= longest:
        return None
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - 719162
    days += sum(MONTH_DAYS[:month - 1]) + (1 if leap and month > 2 else 0)
    return days + day - 1


def time_text_ms(text):
    """A written time, or a number in quotes."""
    found = STAMP.fullmatch(text)
    if not found:
        return time_number_ms(text)
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    days = days_from_epoch(year, month, day)
    if days is None or hour > 23 or minute > 59 or second > 59:
        return None
    ms = ((days * 24 + hour) * 60 + minute) * 60000 + second * 1000
    ms += int(((found.group(7) or "") + "000")[:3])
    zone = found.group(8)
    if zone and zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[-2:] if zone[3:] else 0)
        if hours > 23 or minutes > 59:
            return None
        offset = (hours * 60 + minutes) * 60000
        ms += offset if zone[0] == "-" else -offset
    return ms


def rounded(numerator, denominator):
    """Quotient rounded half away from zero."""
    sign = -1 if numerator < 0 else 1
    return sign * ((2 * abs(numerator) + denominator) // (2 * denominator))


def written(value, scale=SCALE):
    sign = "-" if value < 0 else ""
    whole, rest = divmod(abs(value), 10 ** scale)
    return "%s%d.%0*d" % (sign, whole, scale, rest)


# --- a record becomes a row --------------------------------------------------


def refuse_constant(name):
    raise Bad("JSON has no %s" % name)


def parse_json(payload):
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise Bad("not UTF-8")
    if text.startswith("\ufeff"):
        text = text[1:]
        if text.startswith("\ufeff"):
            raise Bad("two byte order marks")
    try:
        # Strict but for what the hooks see: NaN and Infinity are refused.
        return json.loads(text, parse_float=Number, parse_int=Number,
                          parse_constant=refuse_constant)
    except ValueError as error:
        raise Bad("not JSON: %s" % error)
    except RecursionError:
        raise Bad("too deep")


def decimal_field(row, name):
    value = row.get(name)
    if isinstance(value, Number):
        value = value.text
    if not isinstance(value, str):
        raise Bad("%s is no number" % name, name)
    value = scaled(value, PRECISION, SCALE)
    if value is None:
        raise Bad("%s is no decimal(%d,%d)" % (name, PRECISION, SCALE), name)
    return value


def decode(payload, options):
    """(symbol, price, ms, qty) of a good row; raises Bad."""
    if payload is None:
        raise Bad("null payload")
    if payload == b"":
        raise Bad("empty payload")
    row = parse_json(payload)
    if not isinstance(row, dict):
        raise Bad("not a JSON object")
    symbol = row.get("symbol")
    if not isinstance(symbol, str) or symbol == "":
        raise Bad("symbol is no text", "symbol")
    if any("\ud800" <= c <= "\udfff" for c in symbol):
        raise Bad("symbol has half a character", "symbol")
    if len(symbol) > options.get("max_symbol", 32):
        raise Bad("symbol is too long", "symbol")
    price = decimal_field(row, "price")
    if price <= 0 and not options.get("signed"):
        raise Bad("price is not above 0", "price")
    stamp = row.get("timestamp")
    if isinstance(stamp, Number):
        ms = time_number_ms(stamp.text)
    elif isinstance(stamp, str):
        ms = time_text_ms(stamp)
    else:
        ms = None
    if ms is None or not 0 <= ms <= LAST_MS:
        raise Bad("timestamp is no time of 1970 to 9999", "timestamp")
    now = options.get("now_ms")
    if now is not None and ms > now + options.get("future_ms", 60000):
        raise Bad("timestamp lies in the future", "timestamp")
    qty = decimal_field(row, "qty") if options.get("quantity") else None
    return symbol, price, ms, qty


# --- windows -----------------------------------------------------------------


class Window:
    """What is known of one symbol in one window."""

    __slots__ = ("samples", "sum", "revision", "least", "greatest", "first",
                 "last", "squares", "quantity", "turnover")

    def __init__(self):
        self.samples = self.sum = self.revision = self.squares = 0
        self.quantity = self.turnover = 0
        self.least = self.greatest = self.first = self.last = None

    def add(self, price, position, qty, late):
        self.samples += 1
        self.sum += price
        self.revision += late
        if qty is None:
            return
        self.squares += price * price
        self.quantity += qty
        self.turnover += price * qty
        if self.least is None or price < self.least:
            self.least = price
        if self.greatest is None or price > self.greatest:
            self.greatest = price
        if self.first is None or position < self.first[0]:
            self.first = (position, price)
        if self.last is None or position > self.last[0]:
            self.last = (position, price)


def square_root(numerator, denominator):
    """10^8 times the square root of a quotient, rounded half up, exactly."""
    whole = isqrt(numerator * 10 ** (2 * SCALE) * 4 // denominator)
    return (whole + 1) // 2


def isqrt(n):
    if n == 0:
        return 0
    x = 1 << (n.bit_length() + 1) // 2
    while True:
        y = (x + n // x) // 2
        if y >= x:
            return x
        x = y


class Stage:
    """One result table."""

    def __init__(self, options):
        self.size = options["size_ms"]
        self.hop = options.get("hop_ms") or self.size
        self.max_delay = options.get("max_delay_ms", 2000)
        self.lateness = options.get("lateness_ms", 86400000)
        self.windows = {}
        self.refused = []
        self.rows = self.late = self.too_late = 0

    def starts(self, ms):
        """Starts of the windows that hold a time, aligned to the epoch."""
        start = ms // self.hop * self.hop
        found = []
        while start + self.size > ms:
            found.append(start)
            start -= self.hop
        return reversed(found)

    def add(self, greatest, record, row, adopted_until):
        partition, offset = record
        symbol, price, ms, qty = row
        w = None if greatest is None else greatest - self.max_delay
        counted = late = 0
        for start in self.starts(ms):
            end = start + self.size
            if adopted_until is not None and start < adopted_until:
                reason, over = "adopted", None
            elif w is not None and w >= end + self.lateness:
                reason, over = "too-late", w - end
                late += 1
            else:
                reason = None
            if reason:
                self.refused.append([reason, partition, offset, symbol, ms,
                                     start, end, over])
                continue
            is_late = w is not None and w >= end
            window = self.windows.get((symbol, start))
            if window is None:
                window = self.windows[(symbol, start)] = Window()
            window.add(price, (ms, partition, offset), qty, is_late)
            counted += 1
            late += is_late
        if counted:
            self.rows += 1
            self.late += late > 0
        else:
            self.too_late += 1

    def final_ms(self, greatest, idle):
        marks = [g - self.max_delay for g in greatest.values()]
        if idle:
            marks = [max(g - self.max_delay, idle.get(str(p), g - self.max_delay))
                     for p, g in greatest.items()]
        return min(marks) if marks else None

    def report(self, greatest, options):
        final = self.final_ms(greatest, options.get("idle"))
        results = []
        for (symbol, start), w in sorted(self.windows.items()):
            row = [symbol, start, start + self.size,
                   written(rounded(w.sum, w.samples)), written(w.sum),
                   w.samples, w.revision,
                   int(final is not None and start + self.size <= final)]
            if options.get("quantity"):
                row += self.further(w)
            results.append(row)
        return {
            "results": results,
            "late_rows": sorted(self.refused, key=lambda r: (r[1], r[2], r[5])),
            "counted": self.rows, "late": self.late, "too_late": self.too_late,
            "final_ms": final,
            "watermarks": {p: g - self.max_delay for p, g in greatest.items()},
        }

    @staticmethod
    def further(w):
        n = w.samples
        spread = n * w.squares - w.sum * w.sum
        unit = 10 ** (2 * SCALE)
        return [
            written(w.least), written(w.greatest), written(w.first[1]),
            written(w.last[1]),
            written(rounded(w.turnover, w.quantity)) if w.quantity else None,
            written(square_root(spread, n * n * unit)),
            written(square_root(spread, n * (n - 1) * unit)) if n > 1 else None,
        ]


# --- the log -----------------------------------------------------------------


def exactly(stream, size):
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the dump ends within a record")
    return data


def records(stream):
    """(partition, offset, stamp, key, value) of a dump in FORMAT."""
    while True:
        head = stream.readline()
        if not head:
            return
        partition, offset, stamp, key_size, size = map(int, head.split())
        key = exactly(stream, key_size) if key_size >= 0 else None
        value = exactly(stream, size) if size >= 0 else None
        if exactly(stream, 1) != b"\n":
            raise ValueError("the dump is not in the format expected")
        yield partition, offset, stamp, key, value


def compute(stream, options):
    stages = [Stage(o) for o in options["stages"]]
    greatest, last, dead, lines = {}, {}, [], []
    adopted = options.get("adopted_until_ms")
    consumed = skipped = 0
    for partition, offset, _, _, value in records(stream):
        if offset <= last.get(partition, -1):
            raise ValueError("partition %d: offset %d came after %d"
                             % (partition, offset, last[partition]))
        last[partition] = offset
        consumed += 1
        if value is None and options.get("tombstones") == "skip":
            skipped += 1
            continue
        try:
            row = decode(value, options)
        except Bad as bad:
            dead.append([partition, offset, bad.reason, bad.field,
                         len(value or b""),
                         hashlib.sha256(value or b"").hexdigest()])
            if options.get("lines"):
                lines.append([partition, offset, "bad"])
            continue
        if options.get("lines"):
            lines.append([partition, offset, row[0], written(row[1]), row[2]])
        known = greatest.get(partition)
        for stage in stages:
            stage.add(known, (partition, offset), row, adopted)
        if known is None or row[2] > known:
            greatest[partition] = row[2]
    report = {
        "consumed": consumed, "skipped": skipped, "dead": sorted(dead),
        "last": last, "stages": [s.report(greatest, options) for s in stages],
    }
    if options.get("lines"):
        report["lines"] = lines
    return report


def read_topic(options):
    argv = ["kcat", "-C", "-q", "-e", "-b", options["brokers"], "-t",
            options["topic"], "-o", "beginning", "-f", FORMAT, "-X",
            "isolation.level=" + options.get("isolation", "read_committed"),
            "-X", "check.crcs=true"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as kcat:
        report = compute(kcat.stdout, options)
    if kcat.returncode != 0:
        raise OSError("kcat ended with %d" % kcat.returncode)
    return report


def main():
    options = json.load(sys.stdin)
    if "dump" in options:
        with open(options["dump"], "rb") as stream:
            report = compute(stream, options)
    else:
        report = read_topic(options)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
