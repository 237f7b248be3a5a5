"""The job on Quix Streams: average per symbol and minute, into a table.

Sums are in its RocksDB and in a changelog topic; current() gives a window each
time it changes, and the sink writes the newest of each at a checkpoint, once a
second.
"""
from quixstreams import Application
from quixstreams.sinks.base import BaseSink

import peer


def event_time(value, headers, timestamp, timestamp_type):
    peer.first()
    return round(value["timestamp"] * 1000)


def begin(value):
    return [peer.units(value["price"]), 1]


def add(sums, value):
    return [sums[0] + peer.units(value["price"]), sums[1] + 1]


class Rows(BaseSink):
    def setup(self):
        self.table = peer.Table()

    def add(self, value, key, timestamp, headers, topic, partition, offset):
        self.table.put(key, value["start"], *value["value"])

    def flush(self):
        self.table.flush()


def main():
    app = Application(
        broker_address=peer.setting("PEER_BROKERS"), consumer_group=peer.setting("PEER_NAME"),
        auto_offset_reset="earliest", commit_interval=1.0, state_dir=peer.setting("PEER_DIR"),
        consumer_extra_config=peer.CONSUMER, loglevel="WARNING")
    prices = app.topic(peer.setting("PEER_TOPIC"), key_deserializer="str",
                       value_deserializer="json", timestamp_extractor=event_time)
    windows = app.dataframe(prices).tumbling_window(peer.WINDOW_MS, grace_ms=peer.GRACE_MS)
    windows.reduce(add, begin).current().sink(Rows())
    app.run(count=peer.messages(), collect=False)
    peer.done()


main()
