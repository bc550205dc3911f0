"""TLS and HTTP/2 to clients, by h2load: HTTP/1.1 over TLS, HTTP/2 over TLS, and HTTP/2 in the clear by prior knowledge."""
import re
import socket
import ssl
import statistics
import subprocess
import time

import machine
import proxies
from attacks import DATA, HEADERS, SETTINGS, block, frame, greeting

CONNECTIONS, STREAMS = 32, 8
# Of those that are silent.
IDLE = 2000
# How a client speaks, and how the proxy listens for that.
WAYS = {
    "tls": {"HTTP/1.1 over TLS": (["--h1"], "https", True)},
    "http2": {
        "HTTP/2 over TLS": (["-m", str(STREAMS)], "https", True),
        "HTTP/2 in the clear": (["-m", str(STREAMS)], "http", False),
    },
}


def tls(bench):
    """Keep-alive connections over TLS."""
    return rounds(bench, WAYS["tls"])


def http2(bench):
    """Many streams on few connections."""
    return rounds(bench, WAYS["http2"])


def idle(bench):
    """What an idle connection holds over TLS, and with HTTP/2: a fresh process, N connections, one request each, then silence."""
    files = certificate(bench)
    raw = {}
    for way, (more, scheme, is_tls) in (WAYS["tls"] | WAYS["http2"]).items():
        protocol = "http/1.1" if "--h1" in more else "h2"
        raw[way] = {}
        for name in (name for name in bench.names if "#" not in name):
            process, port = bench.start(name, tls=files if is_tls else None, http2=protocol == "h2")
            ask(port, scheme, more, 1)
            time.sleep(3)
            pids = machine.tree(process.pid)
            before = machine.memory_kib(pids)
            open_ones = [connect(port, is_tls, protocol) for _ in range(IDLE)]
            time.sleep(8)
            raw[way][name] = (machine.memory_kib(pids) - before) / IDLE
            for one in open_ones:
                one.close()
            bench.place.stop(process)
    names = [name for name in bench.names if "#" not in name]
    return ["KiB an idle connection", *names], [[way, *(f"{of[name]:.2f}" for name in names)] for way, of in raw.items()], raw


def connect(port, is_tls, protocol):
    """A connection whose one request was answered."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if is_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([protocol])
        plain = context.wrap_socket(plain, server_hostname="shop.example")
    if protocol == "http/1.1":
        plain.sendall(f"GET {proxies.MEASURED_PATH} HTTP/1.1\r\nHost: shop.example\r\nx-user-id: u1\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += receive(plain)
        return plain
    plain.sendall(greeting() + frame(HEADERS, 5, 1, block("GET", proxies.MEASURED_PATH, is_tls)))
    got, ended = b"", False
    while not ended:
        got += receive(plain)
        while len(got) >= 9 and len(got) >= 9 + int.from_bytes(got[:3], "big"):
            length, kind, flags = int.from_bytes(got[:3], "big"), got[3], got[4]
            got = got[9 + length:]
            if kind == SETTINGS and not flags & 1:
                plain.sendall(frame(SETTINGS, 1, 0))
            ended |= kind in (HEADERS, DATA) and bool(flags & 1)
    return plain


def receive(sock):
    got = sock.recv(65536)
    if not got:
        raise SystemExit("error: a connection was closed before its answer was whole")
    return got


def certificate(bench):
    """One file with key and certificate, as HAProxy wants it, and one of each."""
    folder = bench.place.dir
    cert, key, both = folder / "cert.pem", folder / "key.pem", folder / "both.pem"
    if not both.exists():
        machine.programs("openssl")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example", "-keyout", key, "-out", cert],
                       check=True, capture_output=True)
        both.write_bytes(cert.read_bytes() + key.read_bytes())
    return {"cert": cert, "key": key, "both": both}


def rounds(bench, ways):
    machine.programs("h2load")
    files = certificate(bench)
    names = [name for name in bench.names if "#" not in name]
    raw = {way: {name: [] for name in names} for way in ways}
    for way, (more, scheme, is_tls) in ways.items():
        live = {name: bench.start(name, tls=files if is_tls else None, http2=True) for name in names}
        for turn in range(bench.options.rounds + 1):
            for name, (process, port) in live.items():
                pids = machine.tree(process.pid)
                before = machine.cpu_seconds(pids)
                got = ask(port, scheme, more, bench.options.seconds if turn else 1)
                spent = machine.cpu_seconds(pids) - before
                if turn:
                    raw[way][name].append({"cpu_us": spent / got["requests"] * 1e6, "rps": got["rps"]})
        for process, _ in live.values():
            bench.place.stop(process)
    rows = []
    for way, all_names in raw.items():
        base = all_names.get("haproxy", all_names[names[0]])
        for name, all_rounds in all_names.items():
            beside = statistics.median(r["cpu_us"] / b["cpu_us"] for r, b in zip(all_rounds, base))
            middle = lambda key: statistics.median(r[key] for r in all_rounds)
            rows.append([name, way, f"{middle('cpu_us'):.2f}", f"{beside:.2f}", f"{middle('rps'):,.0f}"])
    return ["proxy", "client", "CPU µs/request", "× haproxy", "requests/s"], rows, raw


def ask(port, scheme, more, seconds):
    """One run of h2load on the load's core; every answer must be a 2xx."""
    command = ["taskset", "-c", "0", "h2load", "-t", "1", "-c", CONNECTIONS, "-D", max(1, round(seconds)), *more,
               "-H", "x-user-id: u1", f"{scheme}://127.0.0.1:{port}{proxies.MEASURED_PATH}"]
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300).stdout
    done = re.search(r"^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", out, re.M)
    codes = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out, re.M)
    rate = re.search(r"^finished in [^,]+, ([\d.]+) req/s", out, re.M)
    if not (done and codes and rate) or int(done[2]) == 0 or int(done[3]) or any(int(codes[i]) for i in (2, 3, 4)):
        raise SystemExit(f"error: wrong answers from port {port}:\n{out}")
    return {"requests": int(done[2]), "rps": float(rate[1])}
