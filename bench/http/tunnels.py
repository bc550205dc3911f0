"""WebSockets: echo at saturation, what an idle tunnel holds, and many tunnels that talk now and then."""
import pathlib
import select
import socket
import subprocess
import time

import machine
import proxies

PATH = proxies.MEASURED_PATH
UPGRADE = (f"GET {PATH} HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-user-id: u1\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode()
# A masked text frame of two bytes.
FRAME = b"\x81\x82\0\0\0\0hi"
MESSAGE = 128
# Each tunnel says something every so many seconds.
TALK_EVERY = 10


def kinds(bench):
    return [name for name in bench.names if "#" not in name]


def websocket(bench):
    """64 tunnels, each sends its next message when the last has come back."""
    raw = {name: [] for name in kinds(bench)}
    live = {name: bench.start(name, upstream=bench.far_end()) for name in raw}
    for _ in range(bench.options.rounds):
        for name, (process, port) in live.items():
            pids = machine.tree(process.pid)
            before = machine.cpu_seconds(pids)
            got = bench.load(port, "--seconds", bench.options.seconds, "--ws", MESSAGE, body=MESSAGE)
            spent = machine.cpu_seconds(pids) - before
            raw[name].append({"cpu_us": spent / got["requests"] * 1e6, "rps": got["requests"] / got["seconds"], "p50": got["p50"], "p99": got["p99"]})
    for process, _ in live.values():
        bench.place.stop(process)
    middle = lambda rounds, key: sorted(r[key] for r in rounds)[len(rounds) // 2]
    rows = [[name, *(f"{middle(rounds, key):,.{digits}f}" for key, digits in (("cpu_us", 2), ("rps", 0), ("p50", 0), ("p99", 0)))]
            for name, rounds in raw.items()]
    return ["proxy", "CPU µs/message and back", "messages/s", "p50 µs", "p99 µs"], rows, raw


def idle(bench):
    """Fresh process, N tunnels, one message each, then silence."""
    raw = {}
    for name in kinds(bench):
        process, port = bench.start(name, upstream=bench.far_end())
        time.sleep(2)
        pids = machine.tree(process.pid)
        before = machine.memory_kib(pids)
        tunnels = Tunnels(port, bench.options.tunnels)
        echoed = tunnels.talk()
        time.sleep(6)
        after, cpu = machine.memory_kib(pids), machine.cpu_seconds(pids)
        time.sleep(5)
        cpu = machine.cpu_seconds(pids) - cpu
        alive = tunnels.talk()
        tunnels.close()
        bench.place.stop(process)
        raw[name] = {"kib": (after - before) / bench.options.tunnels, "echoed": echoed, "still": alive, "idle_cpu_percent": cpu / 5 * 100}
    rows = [[name, f"{r['kib']:.2f}", f"{r['idle_cpu_percent']:.1f}", r["echoed"], r["still"]] for name, r in raw.items()]
    return ["proxy", "KiB an idle tunnel", "CPU % of a core while all are idle", "echoed", "still echoed"], rows, raw


def chat(bench):
    """N tunnels, each with a message every ten seconds, open loop."""
    raw, count = {}, bench.options.tunnels
    for name in kinds(bench):
        process, port = bench.start(name, upstream=bench.far_end())
        time.sleep(2)
        pids = machine.tree(process.pid)
        empty = machine.memory_kib(pids)
        seconds = max(10, int(bench.options.seconds * bench.options.rounds))
        command = ["taskset", "-c", "0", bench.loader, port, PATH, "--conns", count, "--ws", MESSAGE, "--rate", count / TALK_EVERY, "--seconds", seconds]
        talking = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
        # The opening is not measured: from when all tunnels are there.
        wait_for_tunnels(pids, count)
        time.sleep(1)
        before, began = machine.cpu_seconds(pids), time.monotonic()
        time.sleep(seconds - 3)
        spent, took = machine.cpu_seconds(pids) - before, time.monotonic() - began
        memory = machine.memory_kib(pids)
        got = machine.json_line(talking.communicate(timeout=120)[0])
        bench.place.stop(process)
        if got["failed"]:
            raise SystemExit(f"error: {name} lost messages: {got}")
        raw[name] = {"kib": (memory - empty) / count, "cpu_percent": spent / took * 100, "p50": got["p50"], "p99": got["p99"], "messages": got["requests"],
                     "million_gib": (memory - empty) / count * 1e6 / 2**20, "million_cores": spent / took * 1e6 / count}
    rows = [[name, f"{r['kib']:.2f}", f"{r['cpu_percent']:.1f}", f"{r['p50']:.0f}", f"{r['p99']:.0f}", r["messages"], f"{r['million_gib']:.1f}", f"{r['million_cores']:.1f}"]
            for name, r in raw.items()]
    head = ["proxy", "KiB a tunnel", "CPU % of a core", "p50 µs", "p99 µs", "messages", "a million: GiB", "a million: cores"]
    return head, rows, raw


def wait_for_tunnels(pids, count):
    """Until the proxy has both ends of all of them open."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if sum(len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())) for pid in pids) >= 2 * count:
            return
        time.sleep(0.2)
    raise SystemExit("error: not all tunnels were opened within a minute")


class Tunnels:
    """N tunnels, opened one after the other."""

    def __init__(self, port, count):
        self.sockets = {}
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", port), 30)
            s.sendall(UPGRADE)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = s.recv(4096)
                if not part:
                    raise SystemExit("error: no 101")
                head += part
            if not head.startswith(b"HTTP/1.1 101"):
                raise SystemExit(f"error: no 101: {head[:80]}")
            self.sockets[s.fileno()] = s

    def talk(self, at_once=64):
        """One message on every tunnel; how many came back."""
        poll = select.epoll()
        waiting, left, whole = list(self.sockets), {}, 0
        end = time.monotonic() + 60
        while (waiting or left) and time.monotonic() < end:
            while waiting and len(left) < at_once:
                fd = waiting.pop()
                self.sockets[fd].sendall(FRAME)
                poll.register(fd, select.EPOLLIN)
                left[fd] = len(FRAME)
            for fd, _ in poll.poll(1, 1024):
                got = self.sockets[fd].recv(4096)
                left[fd] -= len(got)
                if not got or left[fd] <= 0:
                    whole += left[fd] == 0
                    poll.unregister(fd)
                    del left[fd]
        return whole

    def close(self):
        for s in self.sockets.values():
            s.close()
