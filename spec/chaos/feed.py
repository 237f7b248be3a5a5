"""Writes the topic, and so knows what is in it.

Each record carries its number in a header. After a round the log is read back
past every proxy and held against what was sent: a record that was acknowledged
must be there, one of an aborted transaction must not, and one whose outcome was
never told may be. So what the tables are judged by is what really was produced.
"""

import json
import random
import threading
import time

import confluent_kafka as ck
from confluent_kafka import admin as kafka_admin

START_MS = 1723161600000
# What makes a payload a bad row: the code that tidemill must give it.
BAD = (
    ("json", b'{"symbol":"A","price":'), ("json", b"not json at all"),
    ("utf8", b'{"symbol":"\xff\xfe","price":"1","qty":"1","timestamp":1723161600}'),
    ("null", None), ("empty", b""),
    ("missing", b'{"symbol":"A","qty":"1","timestamp":1723161600}'),
    ("type", b'{"symbol":7,"price":"1","qty":"1","timestamp":1723161600}'),
    ("time", b'{"symbol":"A","price":"1","qty":"1","timestamp":"yesterday"}'),
    ("range", b'{"symbol":"A","price":"-1","qty":"1","timestamp":1723161600}'),
    ("digits", b'{"symbol":"A","price":"1.123456789","qty":"1","timestamp":1723161600}'),
    ("future", b'{"symbol":"A","price":"1","qty":"1","timestamp":4102444800}'),
)


class Row:
    """One record: what it says, and where it landed."""

    __slots__ = ("number", "symbol", "price", "qty", "ms", "bad", "payload", "fate")

    def __init__(self, number):
        self.number = number
        self.bad = None
        self.fate = "unknown"  # acknowledged, aborted, unknown


def text(value):
    return "%d.%08d" % divmod(value, 10 ** 8)


class Feed:
    """Produces at a steady rate in a thread of its own until stopped."""

    def __init__(self, brokers, topic, plan):
        self.brokers, self.topic, self.plan = brokers, topic, plan
        self.dice = random.Random(plan.dice_seed)
        self.partitions = plan.partitions
        self.rows = []
        self.stopping = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def make_row(self, elapsed_ms):
        dice, plan = self.dice, self.plan
        row = Row(len(self.rows))
        self.rows.append(row)
        if dice.random() < plan.bad_share:
            row.bad, row.payload = dice.choice(BAD)
            row.symbol = "A"
            return row
        row.symbol = "S%d" % dice.randrange(plan.symbols)
        row.price = dice.randrange(1, 10 ** 13)
        row.qty = dice.randrange(1, 10 ** 11)
        row.ms = START_MS + int(elapsed_ms) - dice.randrange(plan.disorder_ms + 1)
        row.payload = json.dumps(
            {"symbol": row.symbol, "price": text(row.price), "qty": text(row.qty),
             "timestamp": row.ms}, separators=(",", ":")).encode()
        return row

    def partition_of(self, row):
        if self.plan.keyed:
            return sum(row.symbol.encode()) % self.partitions
        return self.dice.randrange(self.partitions)

    def producer(self):
        conf = {"bootstrap.servers": self.brokers, "acks": "all", "linger.ms": 5,
                "enable.idempotence": True, "message.timeout.ms": 120000,
                "reconnect.backoff.max.ms": 500, "log_level": 2,
                "topic.metadata.refresh.interval.ms": 1000}
        if self.plan.transactions:
            conf.update({"transactional.id": self.topic, "transaction.timeout.ms": 30000,
                         "message.timeout.ms": 25000})
        return ck.Producer(conf)

    def send(self, producer, row):
        def delivered(error, _):
            if error is None:
                row.fate = "acknowledged"
        try:
            self.produce(producer, row, delivered)
        except ck.KafkaException as failure:
            # A partition that was just made, and that it has not heard of.
            if failure.args[0].code() != ck.KafkaError._UNKNOWN_PARTITION:
                raise
            row.fate = "aborted"

    def produce(self, producer, row, delivered):
        producer.produce(
            self.topic, value=row.payload,
            key=row.symbol.encode() if self.plan.keyed else None,
            partition=self.partition_of(row), on_delivery=delivered,
            headers=[("n", str(row.number).encode())])

    def run(self):
        try:
            if self.plan.transactions:
                self.run_transactions()
            else:
                self.run_plain()
        except Exception as error:  # reported by the round
            self.error = error

    def due(self, began, sent):
        """How many rows the clock asks for, and the time in ms."""
        elapsed = time.monotonic() - began
        return int(elapsed * self.plan.rate) - sent, elapsed * 1000

    def run_plain(self):
        producer, began, sent = self.producer(), time.monotonic(), 0
        while not self.stopping.is_set():
            count, elapsed = self.due(began, sent)
            for _ in range(count):
                self.send(producer, self.make_row(elapsed))
            sent += count
            producer.poll(0.02)
        if producer.flush(100) > 0:
            raise OSError("the lab's own records were not delivered in time")

    def run_transactions(self):
        producer, began, sent = None, time.monotonic(), 0
        while not self.stopping.is_set():
            if producer is None:
                producer = self.producer()
                retry(lambda p=producer: p.init_transactions(10))
            count, elapsed = self.due(began, sent)
            batch = [self.make_row(elapsed) for _ in range(count)]
            sent += count
            if not self.transaction(producer, batch, self.dice.random() < 0.25):
                producer = None
            self.stopping.wait(0.05)
        if producer is not None:
            producer.flush(10)

    def transaction(self, producer, batch, abort):
        """False when the producer is of no more use."""
        try:
            producer.begin_transaction()
            for row in batch:
                self.send(producer, row)
            producer.flush(30)
            if abort:
                retry(lambda: producer.abort_transaction(10))
            else:
                retry(lambda: producer.commit_transaction(10))
        except ck.KafkaException as failure:
            # Whether it was committed is looked up in the log.
            for row in batch:
                row.fate = "unknown"
            if not failure.args[0].txn_requires_abort():
                return False
            try:
                retry(lambda: producer.abort_transaction(10))
            except ck.KafkaException:
                return False
            return True
        if abort:
            for row in batch:
                row.fate = "aborted"
        return True

    def stop(self):
        self.stopping.set()
        self.thread.join(120)
        if self.thread.is_alive():
            raise OSError("the lab's own producer does not end")
        if self.error:
            raise self.error


def retry(call, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ck.KafkaException as failure:
            if not failure.args[0].retriable() or time.monotonic() > deadline:
                raise


class Topics:
    """Makes and removes topics, past every proxy."""

    def __init__(self, brokers):
        self.admin = kafka_admin.AdminClient({"bootstrap.servers": brokers,
                                              "log_level": 2})
        self.brokers = brokers

    @staticmethod
    def wait(futures, seconds):
        for future in futures.values():
            future.result(seconds)

    def create(self, name, partitions):
        topic = kafka_admin.NewTopic(name, partitions, 1)
        self.wait(self.admin.create_topics([topic]), 30)
        deadline = time.monotonic() + 30
        while not self.led(name, partitions) and time.monotonic() < deadline:
            time.sleep(0.02)

    def led(self, name, partitions):
        """Do the brokers tell of the topic, with a leader for each partition?"""
        found = self.admin.list_topics(name, timeout=10).topics.get(name)
        return (found is not None and found.error is None
                and [p.leader >= 0 for p in found.partitions.values()] == [True] * partitions)

    def grow(self, name, partitions):
        """A future: the request waits within the client while the broker is away."""
        wanted = kafka_admin.NewPartitions(name, partitions)
        return self.admin.create_partitions([wanted])[name]

    def delete(self, name):
        self.wait(self.admin.delete_topics([name]), 30)


def read_back(brokers, topic, partitions, deadline_s=90, settle=True):
    """({partition: [(offset, number, payload)]}, {partition: end}), read
    committed; with `settle` once no transaction is open any more."""
    consumer = ck.Consumer({
        "bootstrap.servers": brokers, "group.id": "lab", "enable.auto.commit": False,
        "isolation.level": "read_committed", "check.crcs": True, "log_level": 2,
        "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    deadline = time.monotonic() + deadline_s
    try:
        wanted = [ck.TopicPartition(topic, p, 0) for p in range(partitions)]
        ends = settled_ends(brokers, consumer, wanted, deadline) if settle else {}
        # A transaction of who was killed may have taken all of that time to end.
        deadline = time.monotonic() + 60
        consumer.assign(wanted)
        log, open_ = {p: [] for p in range(partitions)}, set(range(partitions))
        while open_:
            if time.monotonic() > deadline:
                raise OSError("the log could not be read back in time")
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                if error is not None:
                    if error.code() == ck.KafkaError._PARTITION_EOF:
                        open_.discard(message.partition())
                    continue
                number = int(dict(message.headers() or ()).get("n", -1))
                log[message.partition()].append(
                    (message.offset(), number, message.value()))
        return log, ends
    finally:
        consumer.close()


def settled_ends(brokers, committed, wanted, deadline):
    other = ck.Consumer({"bootstrap.servers": brokers, "group.id": "lab",
                         "isolation.level": "read_uncommitted", "log_level": 2})
    try:
        while True:
            ends = {w.partition: committed.get_watermark_offsets(w, 10)[1] for w in wanted}
            last = {w.partition: other.get_watermark_offsets(w, 10)[1] for w in wanted}
            if ends == last:
                return ends
            if time.monotonic() > deadline:
                raise OSError("a transaction of the lab's own stays open")
            time.sleep(0.1)
    finally:
        other.close()


def judge(rows, log):
    """The log as rows, after it was held against what was sent."""
    seen, out = set(), {}
    for partition, records in log.items():
        out[partition] = []
        for offset, number, payload in records:
            row = rows[number]
            if number in seen or row.fate == "aborted" or payload != row.payload:
                raise OSError("record %d of the lab is not in the log as sent" % number)
            seen.add(number)
            out[partition].append((offset, row))
    for row in rows:
        if row.fate == "acknowledged" and row.number not in seen:
            raise OSError("record %d of the lab was lost by the broker" % row.number)
    return out
