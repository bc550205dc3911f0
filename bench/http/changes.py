"""What more routes cost, and what reloads cost those who are being served. Banyan alone: the others do neither in the same way."""
import pathlib
import re
import threading
import time
import urllib.request

import machine
import proxies

MANY = 1000
EVERY = 0.1


def routes(bench):
    """Instructions a request with a hundred routes and with a thousand."""
    raw = {count: bench.counted("banyan", routes=count) for count in (proxies.ROUTES, MANY)}
    rows = [[f"{count:,}", f"{n:,.0f}", f"{(n / raw[proxies.ROUTES] - 1) * 100:+.1f} %"] for count, n in raw.items()]
    return ["routes", "instructions/request", f"against {proxies.ROUTES}"], rows, raw


def reload(bench):
    """The file is replaced every 100 ms, each time with other weights, while every answer is checked; beside the same without."""
    process, port = bench.start("banyan")
    file = pathlib.Path(process.args[-1])
    admin = re.search(r'admin: {bind: "([^"]+)"', file.read_text())[1]
    seconds = bench.options.seconds * bench.options.rounds
    bench.load(port, "--seconds", 1)
    raw = {"still": run(bench, process, port, seconds)}
    before, stop = accepted(admin), threading.Event()
    editor = threading.Thread(target=edit, args=(file, stop))
    editor.start()
    try:
        raw["reloading"] = run(bench, process, port, seconds)
    finally:
        stop.set()
        editor.join()
    raw["reloading"]["reloads"] = accepted(admin) - before
    bench.place.stop(process)
    if raw["reloading"]["reloads"] < seconds:
        raise SystemExit(f"error: only {raw['reloading']['reloads']:.0f} reloads in {seconds:.0f} s")
    rows = [[name, f"{r.get('reloads', 0):.0f}", r["requests"], r["failed"] + r["not_200"], f"{r['rps']:,.0f}", f"{r['cpu_us']:.2f}", f"{r['p99']:.0f}"]
            for name, r in raw.items()]
    return ["banyan", "reloads", "requests", "failed", "requests/s", "CPU µs/request", "p99 µs"], rows, raw


def run(bench, process, port, seconds):
    pids = machine.tree(process.pid)
    before = machine.cpu_seconds(pids)
    # Ends the script when one request fails.
    got = bench.load(port, "--seconds", seconds)
    return got | {"cpu_us": (machine.cpu_seconds(pids) - before) / got["requests"] * 1e6, "rps": got["requests"] / got["seconds"]}


def edit(file, stop):
    """As editors do: another file, renamed over it."""
    text, turn = file.read_text(), 0
    while not stop.wait(EVERY):
        turn += 1
        draft = file.with_name(".routes.yaml.new")
        draft.write_text(text.replace("weight: 50", f"weight: {50 + turn % 2}"))
        draft.rename(file)


def accepted(admin):
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=10).read().decode()
    return float(re.search(r'^banyan_config_reloads_total{result="accepted"} (\S+)', text, re.M)[1])
