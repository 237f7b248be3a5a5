"""A rude client of a TCP port or a unix socket, for specs of servers' limits.

  rude.py [--user UID] WHERE STEP...      WHERE: a port of 127.0.0.1, or a path; as that user (root may)

Steps, in order:
  send:TEXT      send it; \\r, \\n, \\0 and \\xHH are understood
  fill:COUNT     send COUNT times the letter x
  drip:MS:TEXT   send TEXT for ever, a byte every MS ms, until the peer closes
  shut           send no more
  read:MS        receive until the peer closes, at most so long
  hold:COUNT     open COUNT more connections that say nothing, and go on
  wait           say "ready" and wait for the end of stdin

Prints one JSON object: text (received; its beginning), size, closed (by the peer), ms (it took), held (connections of
hold that are still open); or only denied, where the path may not be entered.
"""
import codecs
import json
import os
import select
import socket
import sys
import time


def connect(where):
    if where.isdigit():
        s = socket.create_connection(("127.0.0.1", int(where)), 10)
    else:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        s.connect(where)
    return s


def closed_by_peer(s, seconds):
    """Whether the peer closes within the time; what it sends meanwhile is appended to `got`."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if not select.select([s], [], [], max(0, left))[0]:
            return False
        try:
            data = s.recv(65536)
        except OSError:
            return True
        if not data:
            return True
        got.append(data)


got = []
codecs.lookup("unicode_escape")  # its module is loaded now: another user may not be able to
if sys.argv[1] == "--user":
    uid = int(sys.argv[2])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    del sys.argv[1:3]
where, steps = sys.argv[1], sys.argv[2:]
began = time.monotonic()
try:
    main, more, closed = connect(where), [], False
except PermissionError:
    print(json.dumps({"denied": True}))
    sys.exit(0)
for step in steps:
    word, _, rest = step.partition(":")
    try:
        if word == "send":
            main.sendall(rest.encode().decode("unicode_escape").encode("latin-1"))
        elif word == "fill":
            for _ in range(int(rest) // 1000):
                main.sendall(b"x" * 1000)
        elif word == "drip":
            pause, _, text = rest.partition(":")
            data = text.encode().decode("unicode_escape").encode("latin-1")
            n = 0
            while not closed:
                main.sendall(data[n % len(data):n % len(data) + 1])
                n += 1
                closed = closed_by_peer(main, int(pause) / 1000)
        elif word == "shut":
            main.shutdown(socket.SHUT_WR)
        elif word == "read":
            closed = closed_by_peer(main, int(rest) / 1000)
        elif word == "hold":
            more = [connect(where) for _ in range(int(rest))]
        elif word == "wait":
            print("ready", flush=True)
            sys.stdin.read()
    except OSError:
        closed = True
held = len(more)
for s in more:
    held -= closed_by_peer(s, 0)
print(json.dumps({
    "text": b"".join(got)[:65536].decode("latin-1"), "size": sum(map(len, got)), "closed": closed, "held": held,
    "ms": int((time.monotonic() - began) * 1000),
}))
