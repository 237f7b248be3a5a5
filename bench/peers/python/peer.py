"""What the Python programs of bench/peers share: settings, prices as whole
numbers of 1e-8, and a table of averages written in batches. No framework is
named here.

A row holds the whole of its window so far and is written over: after a crash a
system that reads again does not add twice.
"""
import json
import os
import sys
import time

import MySQLdb

WINDOW_MS = 60_000
GRACE_MS = 86_400_000

# Of librdkafka. A fetcher that finds the queue full sleeps for 1 s unless it is
# told otherwise; plain Python waited three quarters of its time for it.
CONSUMER = {
    "isolation.level": "read_committed", "queued.max.messages.kbytes": 16384,
    "fetch.queue.backoff.ms": 10,
}

started = time.time()
first_at = None


def setting(name, otherwise=None):
    """A setting of the environment; one without a default must be there."""
    value = os.environ.get(name, otherwise)
    if value is None:
        sys.exit(name + " is not set")
    return value


def messages():
    """How many messages end the run; 0: it goes on."""
    return int(setting("PEER_MESSAGES", "0"))


def prompt():
    """Is every change to be visible at once?"""
    return setting("PEER_PROMPT", "0") == "1"


def units(price):
    """A price's text as a whole number of 1e-8."""
    whole, _, part = price.partition(".")
    return int(whole + part.ljust(8, "0"))


def first():
    """The first message has come."""
    global first_at
    first_at = first_at or time.time()


def done():
    """All is in the table: say how long it took."""
    print(json.dumps({
        "messages": messages(), "first_message_ms": int((first_at - started) * 1000),
        "warm_messages_per_second": round(messages() / (time.time() - first_at))}), flush=True)


class Table:
    """Rows are kept until flush, the newest of each symbol and window."""

    def __init__(self):
        self.db = MySQLdb.connect(
            host=setting("PEER_HOST"), port=int(setting("PEER_PORT")), user=setting("PEER_USER"),
            password=setting("PEER_PASSWORD"), database=setting("PEER_DATABASE"))
        self.sql = (
            "insert into " + setting("PEER_TABLE") + " (symbol, start_time, average_price, samples)"
            " values (%s, %s, %s, %s) on duplicate key update"
            " average_price = values(average_price), samples = values(samples)")
        self.rows = {}

    def put(self, symbol, start_ms, total, n):
        self.rows[symbol, start_ms] = total, n

    def flush(self):
        if self.rows:
            self.db.cursor().executemany(self.sql, [
                _row(*key, *sums) for key, sums in self.rows.items()])
            self.db.commit()
            self.rows.clear()


def _row(symbol, start_ms, total, n):
    average = (2 * total + n) // (2 * n)  # half up
    start = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(start_ms // 1000))
    return symbol, start, "%d.%08d" % divmod(average, 10**8), n
