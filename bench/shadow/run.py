#!/usr/bin/env python3
"""What shadowing costs the answering path: p99 and CPU a request with a shadow of 0, 10 and 100 percent, and of 100 percent with a shadow upstream that hangs.

Open loop at 30 % of what Banyan takes without a shadow, rounds interleaved, `0 %` twice: its spread is the noise. Banyan has the last core to itself,
background included; core 0 runs the load (../http/load.c) and the upstream (nginx, 1 KiB), which answers the copies too. Bar: p99 within 5 % of 0 %, or within
the noise. Writes all figures to target/bench/shadow.json.

    cargo build --profile dist
    bench/shadow/run.py                     # about three minutes; on a machine that does nothing else
"""
import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "http")]
import machine  # noqa: E402
import proxies  # noqa: E402

LOAD_CORE, PROXY_CORE = 0, (os.cpu_count() or 1) - 1
PATH, BODY = "/pay/items/1", 1024
# Name, percent, and whether the shadow's upstream hangs. Beside the one that is called so, somebody else asks the upstream as often as a shadow would: what
# the second half of its work costs on the core that it shares with the load, without any of it being Banyan's.
BESIDE = "0 %, upstream busy"
CASES = [("0 %", 0, False), ("0 % again", 0, False), (BESIDE, 0, False), ("10 %", 10, False), ("100 %", 100, False), ("100 %, hangs", 100, True)]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--seconds", type=float, default=3, help="a round")
    options.add_argument("--load", type=float, default=0.3, help="share of the capacity")
    options.add_argument("--conns", type=int, default=64)
    options.add_argument("--banyan", help="the binary; default target/dist/banyan")
    options = options.parse_args()
    machine.programs("nginx", "cc", "taskset")
    if PROXY_CORE == LOAD_CORE:
        sys.exit("error: two cores are needed, one of them for Banyan alone")
    binary, place = machine.banyan_binary(options.banyan), machine.Workplace("shadow")
    loader = place.dir / "load"
    subprocess.run(["cc", "-O2", "-o", loader, HERE.parent / "http" / "load.c", "-lm"], check=True)
    upstream, hung = machine.free_port(), hanging()
    process = place.start(proxies.upstream(place.dir, upstream, BODY), LOAD_CORE)
    machine.wait_port(upstream, process)
    live = {}
    for number, (name, percent, hangs) in enumerate(CASES):
        port, folder = machine.free_port(), place.dir / str(number)
        folder.mkdir()
        (folder / "routes.yaml").write_text(f"""version: 1
workers: 1
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: {{bind: "127.0.0.1:{machine.free_port()}"}}
state: {{dir: "{folder}/state"}}
upstreams:
  monolith: {{endpoints: ["http://127.0.0.1:{upstream}"]}}
  service: {{endpoints: ["http://127.0.0.1:{hung if hangs else upstream}"]}}
default: monolith
routes:
  - {{name: pay, match: {{path_prefix: /pay}}, legacy: monolith, modern: service, shadow: {{percent: {percent}}}, compare: {{}}}}
""")
        process = place.start([binary, "run", "-c", folder / "routes.yaml"], PROXY_CORE)
        machine.wait_port(port, process)
        live[name] = (process, port)

    def words(port, *more):
        return [str(part) for part in ["taskset", "-c", LOAD_CORE, loader, port, PATH, "--conns", options.conns, "--seconds", options.seconds, *more]]

    def load(port, *more):
        ran = subprocess.run(words(port, *more), capture_output=True, text=True, timeout=600)
        figures = json.loads(ran.stdout) if not ran.returncode else sys.exit(f"error: the loader failed: {ran.stderr}")
        if figures["failed"] or figures["not_200"]:
            sys.exit(f"error: wrong answers: {figures}")
        return figures

    print(machine.describe(), flush=True)
    got = load(live["0 %"][1])
    rate = got["requests"] / got["seconds"] * options.load
    raw = {name: [] for name, *_ in CASES}
    for turn in range(options.rounds):
        for name, *_ in CASES if turn % 2 == 0 else CASES[::-1]:
            process, port = live[name]
            pids = machine.tree(process.pid)
            before = machine.cpu_seconds(pids)
            other = subprocess.Popen(words(upstream, "--rate", f"{rate:.0f}"), stdout=subprocess.DEVNULL) if name == BESIDE else None
            got = load(port, "--rate", f"{rate:.0f}")
            if other and other.wait():
                sys.exit("error: the loader beside failed")
            spent = machine.cpu_seconds(pids) - before
            raw[name].append(got | {"cpu_us": spent / got["requests"] * 1e6, "rss_mib": machine.memory_kib(pids) / 1024})
    middle = lambda name, key: statistics.median(round[key] for round in raw[name])
    base, again = middle("0 %", "p99"), middle("0 % again", "p99")
    noise = abs(again - base) / base
    rows = [[name, *(f"{middle(name, key):.0f}" for key in ("p50", "p99", "p999")), f"{middle(name, 'p99') / base:.2f}",
             f"{middle(name, 'cpu_us'):.1f}", f"{middle(name, 'rss_mib'):.1f}"] for name, *_ in CASES]
    print(f"\n{rate:,.0f} requests/s\n\n" + machine.table(["shadow", "p50 µs", "p99", "p99.9", "p99 × 0 %", "CPU µs/request", "RSS MiB"], rows))
    worst = max(middle(name, "p99") / base - 1 for name, percent, _ in CASES if percent)
    print(f"\nbar: p99 within 5 % or the noise ({noise:.0%}): {'met' if worst <= max(0.05, noise) else 'missed'}, {worst:+.0%} at worst")
    (machine.CACHE / "shadow.json").write_text(json.dumps({"machine": machine.describe(), "rate": rate, "results": raw}, indent=1))


def hanging():
    """A port that takes every connection and request, and answers none."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    kept = []

    def accept():
        while True:
            kept.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


if __name__ == "__main__":
    main()
