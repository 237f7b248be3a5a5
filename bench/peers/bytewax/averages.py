"""The job on Bytewax, one worker: average per symbol and minute, into a table.

Batches are parsed at once (orjson). A stateful step keeps each symbol's
windows and gives those that changed once a second: a late message changes its
row, as in the other programs. (fold_window, which lets go of a window 2 s
after its end, was a little slower here.)
"""
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

import peer

FLUSH = timedelta(seconds=1)
BATCH = 10000


def parse(batch, loads=orjson.loads, units=peer.units, size_s=peer.WINDOW_MS // 1000):
    peer.first()
    rows = (loads(m.value) for m in batch)
    return [(r["symbol"], (int(r["timestamp"]) // size_s, units(r["price"]))) for r in rows]


class Sums(op.StatefulBatchLogic):
    """Sum and count by window of one symbol."""

    def __init__(self, resumed):
        self.windows, self.changed, self.due = resumed or {}, set(), None

    def on_batch(self, values):
        windows = self.windows
        for key, price in values:
            entry = windows.get(key)
            if entry is None:
                entry = self.open(key)
            entry[0] += price
            entry[1] += 1
            self.changed.add(key)
        self.due = self.due or datetime.now(timezone.utc) + FLUSH
        return [], self.RETAIN

    def open(self, key):
        kept = max([key, *self.windows]) - peer.GRACE_MS // peer.WINDOW_MS
        for old in [k for k in self.windows if k < kept and k not in self.changed]:
            del self.windows[old]
        return self.windows.setdefault(key, [0, 0])

    def rows(self):
        out = [(k, *self.windows[k]) for k in self.changed]
        self.changed.clear()
        self.due = None
        return out

    def on_notify(self):
        return self.rows(), self.RETAIN

    def on_eof(self):
        return self.rows(), self.RETAIN

    def notify_at(self):
        return self.due

    def snapshot(self):
        return {k: list(entry) for k, entry in self.windows.items()}


class Rows(StatelessSinkPartition):
    def __init__(self):
        self.table = peer.Table()

    def write_batch(self, items):
        for symbol, (key, total, n) in items:
            self.table.put(symbol, key * peer.WINDOW_MS, total, n)
        self.table.flush()


class Sink(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Rows()


def flow():
    it = Dataflow("averages")
    source = KafkaSource(
        [peer.setting("PEER_BROKERS")], [peer.setting("PEER_TOPIC")],
        tail=peer.messages() == 0, batch_size=BATCH,
        add_config=peer.CONSUMER)
    ticks = op.flat_map_batch("parse", op.input("prices", it, source), parse)
    op.output("table", op.stateful_batch("sums", ticks, Sums), Sink())
    return it


run_main(flow())
peer.done()
