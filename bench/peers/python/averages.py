"""The job in plain Python: average per symbol and minute, into a table.

confluent-kafka, orjson (or json: PEER_JSON) and mysqlclient. The sums stay in
memory; offsets are committed after the rows, so a crash reads again from the
last commit (and would need its windows).
"""
import importlib
import sys
import time

from confluent_kafka import Consumer

import peer

FLUSH_S = 1.0


def main():
    wanted, prompt = peer.messages(), peer.prompt()
    loads = importlib.import_module(peer.setting("PEER_JSON", "orjson")).loads
    consumer = Consumer({
        "bootstrap.servers": peer.setting("PEER_BROKERS"), "group.id": peer.setting("PEER_NAME"),
        "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "fetch.wait.max.ms": 10 if prompt else 500, **peer.CONSUMER,
    })
    consumer.subscribe([peer.setting("PEER_TOPIC")])
    table, sums, changed, seen, due = peer.Table(), {}, set(), 0, 0
    units, size = peer.units, peer.WINDOW_MS

    def flush():
        for key in changed:
            table.put(key[0], key[1] * size, *sums[key])
        changed.clear()
        table.flush()

    while wanted == 0 or seen < wanted:
        messages = consumer.consume(10000, 0.002 if prompt else 0.1)
        if messages:
            peer.first()
        for m in messages:
            if m.error():
                sys.exit(str(m.error()))
            row = loads(m.value())
            key = row["symbol"], int(row["timestamp"]) * 1000 // size
            entry = sums.get(key)
            if entry is None:
                entry = sums[key] = [0, 0]
            entry[0] += units(row["price"])
            entry[1] += 1
            changed.add(key)
        seen += len(messages)
        now = time.time()
        if changed and (prompt or now >= due):
            due = now + FLUSH_S
            flush()
            consumer.commit(asynchronous=True)
    flush()
    consumer.commit(asynchronous=False)
    peer.done()
    consumer.close()


main()
