"""Larger messages: answers of 1, 64 and 1,024 KiB, and POSTs of 1 and 64 KiB, at saturation."""
import statistics

import machine
import proxies


def bodies(bench):
    """Answers from files of the upstream."""
    runs = {f"{kib} KiB": (proxies.sized_path(kib), kib * 1024, 64 if kib < 1024 else 16, ()) for kib in proxies.SIZES}
    return rounds(bench, runs)


def post(bench):
    """Bodies that the upstream reads to their end before it answers: a static server answers at once, and then a connection is over."""
    runs = {f"{kib} KiB": (proxies.MEASURED_PATH, None, 64, ("--post", kib * 1024)) for kib in (1, 64)}
    live = {name: bench.start(name, upstream=bench.far_end()) for name in bench.names}
    figures = rounds(bench, runs, live.items())
    for process, _ in live.values():
        bench.place.stop(process)
    return figures


def rounds(bench, runs, live=None):
    """CPU a request and requests a second for each kind of run, rounds interleaved over the proxies."""
    raw = {name: {kind: [] for kind in runs} for name in bench.names}
    live = live or bench.all_started()
    for turn in range(bench.options.rounds):
        for name, (process, port) in list(live) if turn % 2 == 0 else reversed(list(live)):
            for kind, (path, body, conns, more) in runs.items():
                if turn == 0:
                    bench.load(port, "--seconds", 0.5, *more, conns=conns, path=path, body=body)
                pids = machine.tree(process.pid)
                before = machine.cpu_seconds(pids)
                got = bench.load(port, "--seconds", bench.options.seconds, *more, conns=conns, path=path, body=body)
                spent = machine.cpu_seconds(pids) - before
                raw[name][kind].append({"cpu_us": spent / got["requests"] * 1e6, "rps": got["requests"] / got["seconds"], "p99": got["p99"]})
    base = raw.get("haproxy", raw[bench.names[0]])
    rows = []
    for name, kinds in raw.items():
        for kind, all_rounds in kinds.items():
            beside = statistics.median(r["cpu_us"] / b["cpu_us"] for r, b in zip(all_rounds, base[kind]))
            middle = lambda key: statistics.median(r[key] for r in all_rounds)
            rows.append([name, kind, f"{middle('cpu_us'):.1f}", f"{beside:.2f}", f"{middle('rps'):,.0f}", f"{middle('p99'):.0f}"])
    return ["proxy", "body", "CPU µs/request", "× haproxy", "requests/s", "p99 µs"], rows, raw
