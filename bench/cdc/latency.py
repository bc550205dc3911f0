"""From the source's commit to where a reader of the target sees the row, at several rates."""
import re
import subprocess
import time

import machine
from figures import quantile, times

KEYS = ("tps", "p50", "p90", "p99", "p999", "most", "cpu_percent", "peak_mib")


def measure(bench):
    raw = {}
    for rate in bench.options.rates:
        for name, ways in (("Banyan", banyan), ("PostgreSQL's subscription", subscription), ("Debezium and its JDBC sink", debezium)):
            if ways.__name__ in bench.options.peers:
                raw[f"{name}, {rate:,}/s"] = ways(bench, rate)
    rows = [[name] + [f"{r[k]:,.1f}" if k in r else "–" for k in KEYS] + [r.get("unseen", 0)] for name, r in raw.items()]
    head = ["", "transactions/s", "p50 ms", "p90", "p99", "p99.9", "most", "CPU % of a core", "peak MiB", "rows not seen 5 s after the last"]
    bench.sweep()
    return head, rows, raw


def banyan(bench, rate):
    running, target = bench.banyan(f"lag{rate}")
    figures = visible(bench, rate, target, running.pids())
    running.stop()
    return figures


def subscription(bench, rate):
    name = f"lagsub{rate}"
    target = bench.subscription(name)
    # Its worker is a process of the target's server, and what it writes is the server's: no figures of its own.
    figures = visible(bench, rate, target, [])
    target.ask(f"DROP SUBSCRIPTION {name}")
    return {key: value for key, value in figures.items() if key not in ("cpu_percent", "peak_mib")}


def debezium(bench, rate):
    name, database = f"lagfull{rate}", f"lagsink{rate}"
    target = bench.target(database)
    bench.connect.source(name, bench.legacy, True)
    bench.connect.sink(f"jdbc_{database}", f"{name}.public.payments", bench.modern, database)
    bench.probe(lambda: True, target, bench.connect.process)
    figures = visible(bench, rate, target, [bench.connect.process.pid])
    bench.connect.remove(f"jdbc_{database}")
    bench.connect.remove(name)
    return figures


def visible(bench, rate, target, pids):
    """From the source's commit timestamp (taken before its flush) to when a session that looks every millisecond sees the row."""
    seconds, first = bench.options.seconds, bench.source.number("SELECT nextval('ids')")
    script = bench.place.dir / "write.sql"
    script.write_text("INSERT INTO payments VALUES (nextval('ids'), 7, 12.34, 'captured', 'one of many payments', clock_timestamp());\n")
    target.ask("CREATE UNLOGGED TABLE seen (id bigint PRIMARY KEY, at timestamptz NOT NULL)")
    target.tell(f"""DO $$ DECLARE stop timestamptz := clock_timestamp() + interval '{seconds + 6} s'; top bigint := {first};
      BEGIN WHILE clock_timestamp() < stop LOOP
        INSERT INTO seen SELECT p.id, clock_timestamp() FROM payments p
          WHERE p.id > top - 64 AND p.id > {first} AND NOT EXISTS (SELECT FROM seen s WHERE s.id = p.id);
        IF FOUND THEN SELECT max(id) INTO top FROM seen; END IF;
        PERFORM pg_sleep(0.001);
      END LOOP; END $$""")
    time.sleep(1)
    spent, began = machine.cpu_seconds(pids), time.monotonic()
    wrote = subprocess.run(["pgbench", "-n", "-h", "127.0.0.1", "-p", str(bench.legacy.port), "-U", "bench", "-R", str(rate), "-c", "4",
                            "-T", str(seconds), "-f", script, "shop"], check=True, capture_output=True, text=True, timeout=seconds + 60)
    spent, took = machine.cpu_seconds(pids) - spent, time.monotonic() - began
    target.answer()
    seen = times(target.ask("SELECT id, extract(epoch FROM at) FROM seen"))
    committed = times(bench.source.ask(f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM payments WHERE id > {first}"))
    # The first fifth is warm-up: a virtual machine of Java's compiles its code then.
    start = min(committed.values()) + seconds / 5
    late = sorted((seen[i] - at) * 1000 for i, at in committed.items() if at >= start and i in seen)
    figures = {"tps": float(re.search(r"tps = ([\d.]+)", wrote.stdout)[1]), "rows": len(late), "unseen": len(committed.keys() - seen.keys())}
    if late:
        figures |= {key: quantile(late, q) for key, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))} | {"most": late[-1]}
    return figures | {"cpu_percent": spent / took * 100, "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024}
