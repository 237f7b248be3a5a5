"""An exchange of the laboratory's own, in which no two answers hold one price.

So every price in the topic tells which answer it came from, and an answer that
was delivered as a whole can be looked for. Some answers are cut off, late,
refused or no JSON: of those nothing may arrive, or arrive twice.
"""

import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT")


class Answer:
    """One answer: when it was given, and whether it was given whole: False, True
    when the next request came on its connection, else None: nobody knows."""

    __slots__ = ("number", "at", "whole")

    def __init__(self, number):
        self.number, self.at, self.whole = number, None, False


def price(number, symbol):
    return "%d.%08d" % (number, SYMBOLS.index(symbol) + 1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    last = None  # answer of this connection

    def log_message(self, *_):
        pass

    def reply(self, status, body, declared=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-MBX-USED-WEIGHT-1M", "4")
        self.send_header("Content-Length", str(declared or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        if self.last:
            self.last.whole = True
            self.last = None
        url = urlsplit(self.path)
        try:
            if url.path == "/api/v3/time":
                now = json.dumps({"serverTime": int(time.time() * 1000)})
                self.reply(200, now.encode())
            elif url.path == "/api/v3/ticker/price":
                self.prices(parse_qs(url.query))
            else:
                self.reply(404, b'{"code":-1100,"msg":"no such page"}')
        except OSError:
            self.close_connection = True

    def prices(self, query):
        exchange = self.server.exchange
        asked = json.loads(unquote(query["symbols"][0]))
        answer = exchange.begin()
        rows = [{"symbol": s, "price": price(answer.number, s)} for s in asked]
        body = json.dumps(rows, separators=(",", ":")).encode()
        trouble = exchange.trouble()
        if trouble == "status":
            self.reply(500, b'{"code":-1001,"msg":"Internal error"}')
        elif trouble == "html":
            self.reply(200, b"<html>busy</html>")
        elif trouble == "cut":
            self.reply(200, body[:len(body) // 2], declared=len(body))
            self.close_connection = True
        else:
            if trouble == "late":
                time.sleep(2.2)
            answer.whole = None
            self.reply(200, body)
            answer.at = time.monotonic()
            self.last = answer


class Server(ThreadingHTTPServer):
    """A client that is killed is no error."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Exchange:
    """Serves until it is closed; `answers` is what it gave."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.lock = threading.Lock()
        self.answers = []
        self.troubled = {}
        self.share = 0.04
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.exchange = self
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self):
        return "http://127.0.0.1:%d" % self.server.server_address[1]

    def begin(self):
        with self.lock:
            answer = Answer(len(self.answers))
            self.answers.append(answer)
            return answer

    def trouble(self):
        with self.lock:
            if self.dice.random() >= self.share:
                return None
            what = self.dice.choice(("status", "html", "cut", "late"))
            self.troubled[what] = self.troubled.get(what, 0) + 1
            return what

    def close(self):
        self.server.shutdown()
        self.server.server_close()
