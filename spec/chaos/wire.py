"""As much of MySQL's protocol as it takes to find COMMIT in a connection.

A client's packet whose sequence number is 0 begins a command; everything of the
login has another number. What cannot be read (a connection that turned to TLS)
is passed on unread and never cut at a COMMIT.
"""

import re

QUERY = 0x03
MORE_RESULTS = 0x0008
COMMIT = re.compile(rb"(?:^|;)\s*commit\s*;?\s*$", re.IGNORECASE)
ADVANCES = re.compile(
    rb"update\s+mill_progress\s+set\s+(?:position|watermark_ms)\b", re.IGNORECASE)
BEGINS = re.compile(rb"^\s*start\s+transaction", re.IGNORECASE)
TLS_REQUEST = 0x0800


class Packets:
    """Cuts a stream into whole packets, headers included."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        self.buffer += data
        out = []
        while len(self.buffer) >= 4:
            size = 4 + int.from_bytes(self.buffer[:3], "little")
            if len(self.buffer) < size:
                break
            out.append(bytes(self.buffer[:size]))
            del self.buffer[:size]
        return out


class Commands:
    """What a client says: which of its packets commit, and what they commit."""

    def __init__(self):
        self.packets = Packets()
        self.opaque = False
        self.moves = False

    def feed(self, data):
        """[(packet, is it a COMMIT, does that COMMIT move positions)]"""
        if self.opaque:
            return [(data, False, False)]
        out = []
        for packet in self.packets.feed(data):
            out.append((packet,) + self.judge(packet))
        if self.opaque and self.packets.buffer:
            out.append((bytes(self.packets.buffer), False, False))
            self.packets.buffer.clear()
        return out

    def judge(self, packet):
        if packet[3] != 0:
            if packet[3] == 1 and len(packet) == 36 and packet[5] & TLS_REQUEST >> 8:
                self.opaque = True
            return False, False
        if len(packet) < 5 or packet[4] != QUERY:
            return False, False
        sql = packet[5:]
        if BEGINS.match(sql):
            self.moves = False
        if ADVANCES.search(sql):
            self.moves = True
        # Only what is answered by plain OKs can be waited for.
        if not COMMIT.search(sql[-64:]) or re.search(rb"(?:^|;)\s*select", sql, re.I):
            return False, False
        moves, self.moves = self.moves, False
        return True, moves


def length_coded(packet, at):
    """(value, offset behind it) of a length-coded number."""
    first = packet[at]
    size = {0xfc: 2, 0xfd: 3, 0xfe: 8}.get(first, 0)
    if size == 0:
        return first, at + 1
    return int.from_bytes(packet[at + 1:at + 1 + size], "little"), at + 1 + size


class Answers:
    """The answer to a COMMIT that is being waited for."""

    def __init__(self):
        self.packets = Packets()

    def feed(self, data):
        """"ok" when the last answer says it is committed, "error" when another
        came, None when it is not all there yet."""
        for packet in self.packets.feed(data):
            if packet[4] != 0:
                return "error"
            _, at = length_coded(packet, 5)
            _, at = length_coded(packet, at)
            if not int.from_bytes(packet[at:at + 2], "little") & MORE_RESULTS:
                return "ok"
        return None
