"""A TCP proxy that fails on command.

One thread runs the event loop of all proxies; every public method may be called
from any thread and returns when the loop has done it. A proxy keeps its port
while its server comes and goes: clients see what a network would show them.
"""

import asyncio
import random
import re
import socket
import struct
import threading
import time

import wire

CHUNK = 65536
DIGIT = re.compile(rb'"price":"[0-9]+\.?')


class Loop:
    """The thread of the proxies."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, coroutine, timeout=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)


class Cut:
    """One COMMIT to be cut, and what became of it."""

    def __init__(self, when, reset, late_s):
        # before the server got it, after it has answered, in between, or late:
        # the server gets it when the client has long been told of the cut
        self.when = when
        self.reset = reset
        self.late_s = late_s
        self.done = threading.Event()
        self.outcome = None


class Link:
    """One client's connection and its counterpart to the server."""

    def __init__(self, proxy, up, down):
        self.proxy = proxy
        self.sides = {"up": up, "down": down}  # (reader, writer): client's, server's
        self.commands = wire.Commands() if proxy.mysql else None
        self.cut = self.answers = None
        self.swallow = proxy.swallow
        self.swallowed = False
        self.open = True

    def writer(self, direction):
        return self.sides["down" if direction == "up" else "up"][1]

    def close(self, reset):
        """End both connections: by FIN, or as if the peers had died."""
        if not self.open:
            return
        self.open = False
        for _, writer in self.sides.values():
            self.end(writer, reset)
        self.proxy.links.discard(self)

    @staticmethod
    def end(writer, reset):
        sock = writer.get_extra_info("socket")
        if reset and sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                            struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def pump(self, direction):
        proxy = self.proxy
        try:
            while self.open:
                data = await self.sides[direction][0].read(CHUNK)
                if not data or not self.open:
                    break
                proxy.bytes[direction] += len(data)
                await proxy.hold(len(data))
                if direction in self.swallow:
                    self.swallowed = True
                    continue
                if not await self.forward(direction, data):
                    return
        except (ConnectionError, OSError, asyncio.IncompleteReadError):
            pass
        self.close(False)

    async def forward(self, direction, data):
        """False when that was the end of the link."""
        if direction == "up" and self.commands:
            return await self.command(data)
        if direction == "down" and self.cut:
            return await self.answer(data)
        if direction == "down" and self.proxy.corrupt:
            data = self.proxy.corrupted(data)
        await self.send(direction, data)
        return True

    async def send(self, direction, data):
        writer = self.writer(direction)
        writer.write(data)
        await writer.drain()

    async def command(self, data):
        for packet, commits, moves in self.commands.feed(data):
            cut = self.proxy.take_cut(moves) if commits else None
            if cut is None:
                await self.send("up", packet)
                continue
            if cut.when == "before":
                self.close(cut.reset)
                self.settle(cut, "cut")
                return False
            self.cut, self.answers = cut, wire.Answers()
            if cut.when == "late":
                self.end(self.sides["up"][1], cut.reset)
                await asyncio.sleep(cut.late_s)
                await self.send("up", packet)
                return False
            await self.send("up", packet)
            if cut.when == "during":
                await asyncio.sleep(0)
                self.close(cut.reset)
                self.settle(cut, "cut")
                return False
        return True

    async def answer(self, data):
        """The server's OK reached us and goes no further."""
        verdict = self.answers.feed(data)
        cut = self.cut
        if verdict == "ok":
            self.close(cut.reset)
            self.settle(cut, "cut")
            return False
        self.held = getattr(self, "held", b"") + data
        if verdict == "error":
            self.cut = None
            self.settle(cut, "missed")
            await self.send("down", self.held)
            self.held = b""
        return True

    @staticmethod
    def settle(cut, outcome):
        cut.outcome = outcome
        cut.done.set()


class Proxy:
    """Listens at a port of its own and leads to another one."""

    def __init__(self, loop, target, mysql=False, seed=0, port=0):
        self.owner, self.target, self.mysql = loop, target, mysql
        self.random = random.Random(seed)
        self.links, self.cuts = set(), []
        self.bytes = {"up": 0, "down": 0}
        self.delay = self.rate = 0.0
        self.swallow = frozenset()
        self.corrupt = 0
        self.flipped = 0
        self.lock = threading.Lock()  # one lasting fault at a time
        self.server = None
        self.port = port
        loop.call(self.listen())

    async def listen(self):
        if self.server is None:
            self.server = await asyncio.start_server(
                self.accept, "127.0.0.1", self.port, backlog=64)
            self.port = self.server.sockets[0].getsockname()[1]

    async def unlisten(self):
        if self.server is not None:
            self.server.close()
            self.server = None

    async def accept(self, reader, writer):
        try:
            down = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        link = Link(self, (reader, writer), down)
        self.links.add(link)
        await asyncio.gather(link.pump("up"), link.pump("down"))

    async def hold(self, size):
        """Wait as a slow network would."""
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.rate:
            until = time.monotonic() + size / self.rate
            while self.rate and time.monotonic() < until:
                await asyncio.sleep(0.02)

    def corrupted(self, data):
        """Another digit in a price: nothing but a checksum can tell. Under TLS,
        where no price can be seen, another bit anywhere."""
        if self.corrupt == "tls":
            spot = self.random.randrange(len(data))
            self.flipped += 1
            return data[:spot] + bytes([data[spot] ^ 0x10]) + data[spot + 1:]
        places = [m.end() for m in DIGIT.finditer(data) if m.end() < len(data)]
        if not places:
            return data
        spot = self.random.choice(places)
        self.flipped += 1
        digit = b"7" if data[spot:spot + 1] != b"7" else b"3"
        return data[:spot] + digit + data[spot + 1:]

    def take_cut(self, moves):
        """The COMMIT of a claim or of the finaliser is let pass."""
        return self.cuts.pop(0) if moves and self.cuts else None

    # --- called from other threads ---

    def cut_commit(self, when, reset, wait, late_s=0.0):
        """Cut the next COMMIT of a data transaction. True when it was cut."""
        cut = Cut(when, reset, late_s)

        async def arm():
            self.cuts.append(cut)

        async def disarm():
            if cut in self.cuts:
                self.cuts.remove(cut)
            for link in list(self.links):
                if link.cut is cut:
                    link.close(True)
        self.owner.call(arm())
        if not cut.done.wait(wait):
            self.owner.call(disarm())
        return cut.outcome == "cut"

    def drop(self, reset, share=1.0):
        """End open connections; how many."""
        async def run():
            links = [k for k in self.links if self.random.random() < share]
            for link in links:
                link.close(reset)
            return len(links)
        return self.owner.call(run())

    def slow(self, delay=0.0, rate=0.0):
        async def run():
            self.delay, self.rate = delay, rate
            return len(self.links)
        return self.owner.call(run())

    def half_open(self, directions):
        """Swallow what passes in these directions, in open and new links."""
        async def run():
            self.swallow = frozenset(directions)
            for link in self.links:
                link.swallow = self.swallow
            return len(self.links)
        return self.owner.call(run())

    def whole_again(self):
        """The end of half-open: a peer that lost bytes answers with a reset."""
        async def run():
            self.swallow = frozenset()
            lost = [k for k in self.links if k.swallow]
            count = sum(k.swallowed for k in lost)
            for link in lost:
                link.close(True)
            return count
        return self.owner.call(run())

    def refuse(self, on):
        async def run():
            if not on:
                await self.listen()
                return 0
            await self.unlisten()
            links = list(self.links)
            for link in links:
                link.close(True)
            return len(links)
        return self.owner.call(run())

    def corrupting(self, how):
        """Corrupt from now on ("price", "tls") or stop (None); how many bytes
        were changed so far."""
        async def run():
            self.corrupt = how
            return self.flipped
        return self.owner.call(run())

    def heal(self):
        """An honest wire again."""
        self.slow()
        self.corrupting(None)
        self.whole_again()
        self.refuse(False)

    def close(self):
        async def run():
            await self.unlisten()
            for link in list(self.links):
                link.close(True)
        self.owner.call(run())
