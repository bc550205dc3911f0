"""The most that Banyan holds: over one huge transaction, over large values, and while Kafka stands still."""
import os
import signal
import time

import machine
import parts

LARGE_MIB, LARGE_COUNT, STILL = 20, 10, 20


def measure(bench):
    raw = {}
    if "banyan" in bench.options.peers:
        raw["at rest"] = case(bench, "memrest", lambda: None, 0)
        count = bench.options.transaction_rows
        raw[f"one transaction of {count:,} rows"] = case(bench, "memhuge", lambda: huge(bench, count), 0)
        raw[f"{LARGE_COUNT} values of {LARGE_MIB} MB, one transaction"] = case(bench, "memlarge", lambda: large(bench), LARGE_MIB)
        raw[f"Kafka stands still for {STILL} s, {bench.options.rows:,} rows meanwhile"] = case(bench, "memstill", lambda: still(bench), 0)
    rows = [[name, f"{r['peak_mib']:,.0f}", f"{r['bar_mib']:,.0f}", f"{r['seconds']:,.1f}"] for name, r in raw.items()]
    return ["", "peak MiB", "bar: 100 MiB + 4 × the largest value", "seconds until the target was equal"], rows, raw


def case(bench, name, write, largest):
    banyan, target = bench.banyan(name, more=", topics: {max_record: 64MiB}")
    began = time.monotonic()
    write()
    wanted = bench.source.ask(parts.CHECKSUM)
    parts.eventually("source and target are equal", lambda: target.ask(parts.CHECKSUM) == wanted, 600)
    figures = {"peak_mib": machine.memory_kib(banyan.pids(), "VmHWM") / 1024, "bar_mib": 100 + 4 * largest, "seconds": time.monotonic() - began}
    banyan.stop()
    bench.sweep()
    return figures


def huge(bench, count):
    bench.source.ask(f"""INSERT INTO payments SELECT n, n % 1000, n % 100000 / 100.0, 'captured', 'payment number ' || n, clock_timestamp()
      FROM generate_series(1, {count}) n""")


def large(bench):
    # Random enough that nobody packs it; letters, so that JSON escapes none.
    bench.source.ask(f"""INSERT INTO payments SELECT n, 1, 1, 'captured', (SELECT string_agg(md5(random()::text || n || i), '') FROM
      generate_series(1, {LARGE_MIB * 1_000_000 // 32}) i), clock_timestamp() FROM generate_series(1, {LARGE_COUNT}) n""")


def still(bench):
    os.kill(bench.kafka.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        huge(bench, bench.options.rows)
        time.sleep(max(0, STILL - (time.monotonic() - began)))
    finally:
        os.kill(bench.kafka.process.pid, signal.SIGCONT)
