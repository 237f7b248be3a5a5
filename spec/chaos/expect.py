"""What the tables must hold: computed from what was produced, exactly.

Nothing here is shared with tidemill but the definitions. Prices and quantities
are whole numbers of 10^-8; averages are fractions until they are rounded, half
away from zero, as the columns are defined.
"""

from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

UNIT = 10 ** 8
WIDE = Context(prec=120)
CENT = Decimal(1).scaleb(-8)


def rounded(value):
    """A fraction >= 0 as text with 8 decimals, half up."""
    whole = (value.numerator * UNIT * 2 + value.denominator) // (2 * value.denominator)
    return decimal_text(whole, 8)


def decimal_text(value, scale):
    whole, rest = divmod(value, 10 ** scale)
    return "%d.%0*d" % (whole, scale, rest)


class Window:
    """One key in one window: every row that is in it."""

    def __init__(self):
        self.rows = []
        self.revision = 0

    def columns(self, script):
        prices = [row.price for _, row in self.rows]
        total = sum(prices)
        out = {
            "average_price": rounded(Fraction(total, len(prices) * UNIT)),
            "price_sum": decimal_text(total, 8), "samples": len(prices),
            "revision": self.revision,
        }
        if script != "averages":
            out.update(self.more(prices, total))
        return out

    def more(self, prices, total):
        # By event time, then partition, then offset.
        order = sorted((row.ms, at, row.price) for at, row in self.rows)
        turnover = sum(row.price * row.qty for _, row in self.rows)
        volume = sum(row.qty for _, row in self.rows)
        squares = sum(p * p for p in prices)
        count = len(prices)
        variance = WIDE.divide(Decimal(count * squares - total * total),
                               Decimal(count * count * UNIT * UNIT))
        return {
            "low": decimal_text(min(prices), 8), "high": decimal_text(max(prices), 8),
            "open": decimal_text(order[0][2], 8), "close": decimal_text(order[-1][2], 8),
            "turnover": decimal_text(turnover, 16), "volume": decimal_text(volume, 8),
            "vwap": rounded(Fraction(turnover, volume * UNIT)),
            "squares": decimal_text(squares, 16),
            "deviation": str(variance.sqrt(WIDE).quantize(CENT, ROUND_HALF_UP, WIDE)),
        }


class Table:
    """One result table; `late` are its rows of mill_late."""

    def __init__(self, name, script, size_ms, hop_ms, max_delay_ms, lateness_ms):
        self.name, self.script = name, script
        self.size, self.hop = size_ms, hop_ms
        self.max_delay, self.lateness = max_delay_ms, lateness_ms
        self.windows, self.late = {}, {}

    def add(self, at, row, greatest):
        """`greatest`: event time of the partition's good rows before this one."""
        start = row.ms // self.hop * self.hop
        while start + self.size > row.ms:
            self.put(at, row, start, greatest)
            start -= self.hop

    def put(self, at, row, start, greatest):
        end = start + self.size
        mark = None if greatest is None else greatest - self.max_delay
        if mark is not None and mark >= end + self.lateness:
            self.late[at + (start,)] = ("too-late", row.symbol, row.ms, end, mark - end)
            return
        window = self.windows.setdefault((row.symbol, start), Window())
        window.rows.append((at, row))
        if mark is not None and mark >= end:
            window.revision += 1

    def results(self):
        return {key: dict(window.columns(self.script), end=key[1] + self.size, is_final=1)
                for key, window in self.windows.items()}


class Expected:
    """All tables of a round. `log`: {partition: [(offset, row), ...]} in the
    order of the log; `ends`: {partition: next offset}."""

    def __init__(self, tables, log, ends, max_delay_ms):
        self.tables, self.ends = tables, ends
        self.dead, self.watermarks, self.last = {}, {}, {}
        self.rows = 0
        for partition in ends:
            greatest = None
            self.watermarks[partition] = self.last[partition] = None
            for offset, row in log.get(partition, ()):
                self.rows += 1
                self.last[partition] = offset
                if row.bad:
                    self.dead[(partition, offset)] = (row.bad, row.payload)
                    continue
                for table in tables:
                    table.add((partition, offset), row, greatest)
                greatest = row.ms if greatest is None else max(greatest, row.ms)
                self.watermarks[partition] = greatest - max_delay_ms
