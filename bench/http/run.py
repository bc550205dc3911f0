#!/usr/bin/env python3
"""Banyan beside HAProxy (twice: the noise), nginx and Envoy: one core each, one run, rounds interleaved.

The proxy under measure has the last core to itself; core 0 runs the load (load.c) and the upstream (nginx, 1 KiB).
Prints Markdown tables and writes all figures to target/bench/http.json. About six minutes with its defaults.

    cargo build --profile dist
    bench/http/run.py                        # everything
    bench/http/run.py --only cpu --rounds 9  # one part; see --help

Parts: cpu latency syscalls instructions idle (the default), and
  half        open loop at half load             routes      instructions with 100 routes and with 1,000
  bodies      answers of 1, 64 and 1,024 KiB     reload      a reload every 100 ms under load
  post        bodies of 1 and 64 KiB             idle15000   15,000 idle keep-alive connections
  websocket   echo over 64 tunnels               tunnels     9,000 idle tunnels
  tls         HTTP/1.1 over TLS, by h2load       http2       over TLS and in the clear, by h2load
  idlesecure  2,000 idle connections each over TLS and with HTTP/2
  chat        9,000 tunnels with a message each every ten seconds, and what a million would cost
  hostile     a good client's p99 beside each of eleven attacks
"""
import argparse
import json
import os
import pathlib
import re
import select
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import machine  # noqa: E402
import changes  # noqa: E402
import hostile  # noqa: E402
import payloads  # noqa: E402
import proxies  # noqa: E402
import secure  # noqa: E402
import tunnels  # noqa: E402

BASE = "haproxy"
LOAD_CORE, PROXY_CORE = 0, (os.cpu_count() or 1) - 1


def main():
    options = arguments()
    machine.programs("nginx", "haproxy", "cc", "taskset")
    if PROXY_CORE == LOAD_CORE:
        sys.exit("error: two cores are needed, one of them for the proxy alone")
    binary = machine.banyan_binary(options.banyan)
    place = machine.Workplace("http")
    bench = Bench(place, binary, options)
    report = {"machine": machine.describe(), "versions": proxies.versions(binary), "options": vars(options)}
    print(f"{report['machine']}\n" + "\n".join(f"{k}: {v}" for k, v in report["versions"].items()), flush=True)
    for part in options.only:
        head, rows, raw = PARTS[part](bench)
        report[part] = raw
        print(f"\n{part}\n\n" + machine.table(head, rows), flush=True)
    machine.CACHE.mkdir(parents=True, exist_ok=True)
    (machine.CACHE / "http.json").write_text(json.dumps(report, indent=1))


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--banyan", help="its executable; default target/dist/banyan")
    a.add_argument("--proxies", default="haproxy,haproxy#2,nginx,banyan,envoy", type=lambda s: s.split(","))
    a.add_argument("--only", default="cpu,latency,syscalls,instructions,idle", type=parts)
    a.add_argument("--rounds", type=int, default=7)
    a.add_argument("--seconds", type=float, default=3)
    a.add_argument("--conns", type=int, default=64)
    a.add_argument("--body", type=int, default=1024)
    a.add_argument("--load", type=float, default=0.3, help="of each proxy's own capacity, in the open loop")
    a.add_argument("--idle", type=int, default=10000)
    a.add_argument("--tunnels", type=int, default=9000)
    a.add_argument("--attacks", help="of `hostile`, by name and divided by commas; default all")
    a.add_argument("--counted", type=int, default=5000, help="requests under callgrind")
    return a.parse_args()


def parts(text):
    """Parts by name; `all` is every one."""
    names = list(PARTS) if text == "all" else text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part `{name}`; there are {', '.join(PARTS)}")
    return names


class Bench:
    """The proxies of one run, and the parts of the measurement. Each part returns head, rows and raw figures."""

    def __init__(self, place, binary, options):
        self.place, self.binary, self.options = place, binary, options
        self.loader = place.dir / "load"
        source = pathlib.Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", self.loader, source], check=True)
        self.upstream_port = machine.free_port()
        self.upstream = place.start(proxies.upstream(place.dir, self.upstream_port, options.body), LOAD_CORE)
        machine.wait_port(self.upstream_port, self.upstream)
        self.names = [n for n in options.proxies if n != "envoy" or proxies.envoy_binary()]
        if len(self.names) < len(options.proxies):
            print("Envoy is left out: no binary (ENVOY=/path/to/envoy)", file=sys.stderr)
        self.live = {}
        self.capacity = {}
        self.echo_port = None

    def start(self, name, wrapper=(), seconds=30, single=False, upstream=None, **more):
        """A proxy of that kind on the measured core; `#2` is the same kind once more. In front of nginx, or of another upstream."""
        folder = self.place.dir / f"{name}-{machine.free_port()}"
        folder.mkdir()
        port = machine.free_port()
        kind = name.split("#")[0]
        if kind == "banyan":
            more["binary"] = self.binary
        command = getattr(proxies, kind)(folder, port, upstream or self.upstream_port, single=single, **more)
        process = self.place.start(list(wrapper) + command, PROXY_CORE)
        machine.wait_port(port, process, seconds)
        return process, port

    def far_end(self):
        """The upstream for tunnels and for bodies (echo.c); started once."""
        if not self.echo_port:
            binary = self.place.dir / "echo"
            subprocess.run(["cc", "-O2", "-o", binary, pathlib.Path(__file__).with_name("echo.c")], check=True)
            self.echo_port = machine.free_port()
            machine.wait_port(self.echo_port, self.place.start([binary, self.echo_port], LOAD_CORE))
        return self.echo_port

    def all_started(self):
        for name in self.names:
            if name not in self.live:
                self.live[name] = self.start(name)
        return self.live.items()

    def load(self, port, *more, prefix=(), conns=None, path=proxies.MEASURED_PATH, body=None):
        """One run of the loader on its core; every answer must be a 200 with the whole body."""
        command = [*prefix, "taskset", "-c", str(LOAD_CORE), self.loader, str(port), path,
                   "--conns", str(conns or self.options.conns), *[str(m) for m in more]]
        ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
        if ran.returncode:
            sys.exit(f"error: the loader failed on port {port}: {ran.stderr}")
        figures = json.loads(ran.stdout)
        wrong = figures["failed"] or figures["not_200"]
        if wrong or figures["body_bytes"] < figures["requests"] * (self.options.body if body is None else body):
            sys.exit(f"error: wrong answers from port {port}: {figures}")
        return figures | {"stderr": ran.stderr}

    def cpu(self):
        """Closed loop at saturation: CPU a request, requests a second, memory."""
        raw = {name: [] for name in self.names}
        for _, (_, port) in self.all_started():
            self.load(port, "--seconds", 1)
        for turn in range(self.options.rounds):
            order = self.names if turn % 2 == 0 else self.names[::-1]
            for name in order:
                process, port = self.live[name]
                pids = machine.tree(process.pid)
                before = machine.cpu_seconds(pids)
                got = self.load(port, "--seconds", self.options.seconds)
                spent = machine.cpu_seconds(pids) - before
                raw[name].append({"cpu_us": spent / got["requests"] * 1e6, "rps": got["requests"] / got["seconds"],
                                  "p50": got["p50"], "p99": got["p99"], "rss_mib": machine.memory_kib(pids) / 1024})
        rows = []
        for name, rounds in raw.items():
            self.capacity[name] = middle(rounds, "rps")
            # The ratio of each round to HAProxy's beside it, then their median: what the machine does meanwhile cancels out.
            beside = statistics.median(r["cpu_us"] / b["cpu_us"] for r, b in zip(rounds, raw.get(BASE, rounds)))
            spread = f"{min(r['cpu_us'] for r in rounds):.1f}–{max(r['cpu_us'] for r in rounds):.1f}"
            rows.append([name, f"{middle(rounds, 'cpu_us'):.2f}", spread, f"{beside:.2f}", f"{middle(rounds, 'rps'):,.0f}",
                         f"{middle(rounds, 'p50'):.0f}", f"{middle(rounds, 'p99'):.0f}", f"{middle(rounds, 'rss_mib'):.1f}"])
        head = ["proxy", "CPU µs/request", "least–most", f"× {BASE}", "requests/s", "p50 µs", "p99 µs", "RSS MiB"]
        return head, rows, raw

    def half(self):
        """Open loop at half of each proxy's own capacity."""
        return self.latency(0.5)

    def latency(self, share=None):
        """Open loop at a share of each proxy's own capacity."""
        raw = {name: [] for name in self.names}
        for name, (_, port) in self.all_started():
            if name not in self.capacity:
                got = self.load(port, "--seconds", 2)
                self.capacity[name] = got["requests"] / got["seconds"]
        for _ in range(self.options.rounds):
            for name in self.names:
                process, port = self.live[name]
                rate = self.capacity[name] * (share or self.options.load)
                pids = machine.tree(process.pid)
                before = machine.cpu_seconds(pids)
                got = self.load(port, "--seconds", self.options.seconds, "--rate", f"{rate:.0f}")
                spent = machine.cpu_seconds(pids) - before
                raw[name].append(got | {"rate": rate, "cpu_us": spent / got["requests"] * 1e6})
        rows = [[name, f"{rounds[0]['rate']:,.0f}", f"{middle(rounds, 'cpu_us'):.2f}", *(f"{middle(rounds, q):.0f}" for q in ("p50", "p90", "p99", "p999")),
                 f"{min(r['p99'] for r in rounds):.0f}–{max(r['p99'] for r in rounds):.0f}"] for name, rounds in raw.items()]
        return ["proxy", "requests/s", "CPU µs/request", "p50 µs", "p90", "p99", "p99.9", "p99 least–most"], rows, raw

    def syscalls(self):
        """Counted by the kernel's tracepoint where perf may use it, else by strace. Closed loop, and open at the same share."""
        counter = perf_counts if perf_works() else strace_counts
        raw = {}
        for name, (process, port) in self.all_started():
            self.load(port, "--requests", 2000)
            pids = machine.tree(process.pid)
            raw[name] = {"closed": counter(self, pids, port, 40000)}
            if name in self.capacity and counter is perf_counts:
                raw[name]["open"] = counter(self, pids, port, 20000, "--rate", f"{self.capacity[name] * self.options.load:.0f}")
        rows = [[name, f"{r['closed']:.2f}", f"{r['open']:.2f}" if "open" in r else "–"] for name, r in raw.items()]
        return ["proxy", "syscalls/request, closed loop", "open loop"], rows, raw

    def counted(self, name, **more):
        """User-space instructions a request of one proxy, by callgrind on a fixed count of requests after a warm-up."""
        machine.programs("valgrind")
        out = self.place.dir / f"callgrind-{name}-{machine.free_port()}"
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        process, port = self.start(name, valgrind, seconds=120, single=True, **more)
        self.load(port, "--requests", 500, conns=16)
        control = lambda *what: subprocess.run(["callgrind_control", *what, str(process.pid)], check=True, capture_output=True)
        control("--instr=on")
        self.load(port, "--requests", self.options.counted, conns=16)
        control("--dump")
        self.place.stop(process, seconds=60)
        totals = re.findall(r"^totals: (\d+)", "".join(f.read_text() for f in self.place.dir.glob(out.name + "*")), re.M)
        return max(map(int, totals)) / self.options.counted

    def instructions(self):
        """The same for all; Envoy does not run under callgrind."""
        raw = {name: self.counted(name) for name in self.names if name != "envoy" and "#" not in name}
        rows = [[name, f"{n:,.0f}", f"{n / raw[BASE]:.2f}" if BASE in raw else "–"] for name, n in raw.items()]
        return ["proxy", "instructions/request", f"× {BASE}"], rows, raw

    def idle15000(self):
        """The same for as many as a process may have descriptors for."""
        return self.idle(15000)

    def idle(self, count=None):
        """What one idle keep-alive connection holds: fresh process, N connections, one request each, then silence."""
        raw = {}
        count = count or self.options.idle
        for name in self.names:
            if "#" in name:
                continue
            process, port = self.start(name)
            self.load(port, "--requests", 2000, conns=16)
            time.sleep(3)
            pids = machine.tree(process.pid)
            before = machine.memory_kib(pids)
            crowd = Crowd(port, count, self.options.body)
            crowd.ask(at_once=64)
            time.sleep(5)
            after = machine.memory_kib(pids)
            crowd.ask(at_once=count // 5)
            time.sleep(8)
            burst = machine.memory_kib(pids)
            alive = crowd.ask(at_once=64)
            crowd.close()
            self.place.stop(process)
            raw[name] = {"kib": (after - before) / count, "kib_after_burst": (burst - before) / count, "still_answered": alive}
        rows = [[name, f"{r['kib']:.2f}", f"{r['kib_after_burst']:.2f}", r["still_answered"]] for name, r in raw.items()]
        return ["proxy", "KiB an idle connection", "8 s after a burst on a fifth at once", "still answered"], rows, raw


class Crowd:
    """N keep-alive connections that ask now and then."""

    def __init__(self, port, n, body):
        self.body = body
        self.request = f"GET {proxies.MEASURED_PATH} HTTP/1.1\r\nHost: shop.example\r\nx-user-id: u1\r\n\r\n".encode()
        self.sockets = {}
        for _ in range(n):
            s = socket.create_connection(("127.0.0.1", port), 10)
            s.setblocking(False)
            self.sockets[s.fileno()] = s

    def ask(self, at_once):
        """One request on every connection, at most so many under way; how many were answered whole."""
        poll = select.epoll()
        waiting = list(self.sockets)
        got = {}
        whole = 0
        end = time.monotonic() + 120
        while (waiting or got) and time.monotonic() < end:
            while waiting and len(got) < at_once:
                fd = waiting.pop()
                self.sockets[fd].send(self.request)
                poll.register(fd, select.EPOLLIN)
                got[fd] = b""
            for fd, _ in poll.poll(1, 1024):
                try:
                    part = self.sockets[fd].recv(65536)
                except OSError:
                    part = b""
                got[fd] += part
                head, _, rest = got[fd].partition(b"\r\n\r\n")
                if part and len(rest) < self.body:
                    continue
                whole += head.startswith(b"HTTP/1.1 200") and len(rest) == self.body
                poll.unregister(fd)
                del got[fd]
        return whole

    def close(self):
        for s in self.sockets.values():
            s.close()


PARTS = {part: getattr(Bench, part) for part in ("cpu", "latency", "half", "syscalls", "instructions", "idle", "idle15000")} | {
    "bodies": payloads.bodies, "post": payloads.post, "routes": changes.routes, "reload": changes.reload,
    "tls": secure.tls, "http2": secure.http2, "idlesecure": secure.idle, "websocket": tunnels.websocket, "tunnels": tunnels.idle, "chat": tunnels.chat, "hostile": hostile.hostile,
}


def middle(rounds, key):
    return statistics.median(r[key] for r in rounds)


def perf_works():
    if not machine.find("perf"):
        return False
    return subprocess.run(["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"], capture_output=True).returncode == 0


def perf_counts(bench, pids, port, requests, *more):
    out = bench.place.dir / "perf.txt"
    prefix = ["perf", "stat", "-x,", "-o", out, "-e", "raw_syscalls:sys_enter", "-p", ",".join(map(str, pids)), "--"]
    bench.load(port, "--requests", requests, *more, prefix=prefix)
    return int(re.search(r"^(\d+),", out.read_text(), re.M)[1]) / requests


def strace_counts(bench, pids, port, requests, *more):
    machine.programs("strace")
    out = bench.place.dir / "strace.txt"
    command = ["strace", "-c", "-f", "-o", out] + [p for pid in pids for p in ("-p", str(pid))]
    tracer = bench.place.start(command)
    time.sleep(1)
    bench.load(port, "--requests", requests, *more)
    bench.place.stop(tracer, sign=2)
    return int(re.search(r"(\d+)\s+(?:\d+\s+)?total", out.read_text())[1]) / requests


main()
