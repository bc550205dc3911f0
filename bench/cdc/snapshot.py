"""The first copy of a large table, beside `COPY | COPY` and the first copy of PostgreSQL's subscription, and where its time goes."""
import subprocess
import time

import machine
import parts
from figures import note, rows

KEYS = ("rows/s", "over copy", "kafka rows/s", "banyan cpu", "kafka cpu", "source cpu", "target cpu", "peak_mib")


def measure(bench):
    count, raw = bench.options.snapshot_rows, {}
    bench.source.ask(f"""INSERT INTO payments SELECT n, n % 1000, n % 100000 / 100.0, 'captured', 'payment number ' || n, clock_timestamp()
      FROM generate_series(1, {count}) n""")
    bench.source.ask("VACUUM (FREEZE, ANALYZE) payments")
    bench.source.ask("CHECKPOINT")
    wanted = bench.source.ask(parts.CHECKSUM)
    for r in range(min(bench.options.rounds, 3)):
        copied = copy(bench, f"copy_{r}", wanted)
        note(raw, "COPY | COPY", {"rows/s": count / copied})
        if "subscription" in bench.options.peers:
            note(raw, "PostgreSQL's subscription", {"rows/s": count / subscription(bench, f"snapsub_{r}", wanted)})
        if "banyan" in bench.options.peers:
            figures = banyan(bench, f"snap_{r}", wanted)
            note(raw, "Banyan", figures | {"over copy": figures["rows/s"] / (count / copied) * 100})
        bench.admin.ask("CHECKPOINT")
    bench.sweep()
    head = ["median (least–most)", "rows/s", "% of COPY | COPY", "into Kafka, rows/s", "CPU s: Banyan", "Kafka", "source", "target", "peak MiB"]
    return head, rows(raw, KEYS), raw


def copy(bench, database, wanted):
    target = bench.target(database)
    began = time.monotonic()
    source = subprocess.Popen(["psql", "-XAtqc", "COPY public.payments TO STDOUT", bench.legacy.url("shop")], stdout=subprocess.PIPE)
    subprocess.run(["psql", "-XAtqc", "COPY public.payments FROM STDIN", bench.modern.url(database)], stdin=source.stdout, check=True)
    took = time.monotonic() - began
    source.wait()
    return done(bench, target, wanted, took, database)


def subscription(bench, name, wanted):
    target = bench.target(name)
    began = time.monotonic()
    target.ask(f"CREATE SUBSCRIPTION {name} CONNECTION '{bench.legacy.url('shop')}' PUBLICATION yardstick")
    parts.eventually("the copy is complete", lambda: target.ask("SELECT srsubstate FROM pg_subscription_rel") == "r", 600)
    took = time.monotonic() - began
    target.ask(f"DROP SUBSCRIPTION {name}")
    return done(bench, target, wanted, took, name)


def banyan(bench, name, wanted):
    """From the process's start to where the position says that the table is loaded."""
    count = bench.options.snapshot_rows
    target = bench.target(name)
    running = parts.Banyan(bench.place, bench.binary, name, bench.kafka, bench.legacy, bench.modern, name)
    servers = {"kafka cpu": bench.kafka.process.pid, "source cpu": bench.legacy.process.pid, "target cpu": bench.modern.process.pid}
    before = {key: spent(pid) for key, pid in servers.items()}
    began = time.monotonic()
    running.start()
    in_kafka = None
    end = began + 1200
    while target.number("SELECT max(id) FROM payments") < count:
        if time.monotonic() > end or running.process.poll() is not None:
            raise SystemExit(f"error: the copy does not end: {running.process.log.read_text(errors='replace')[-2000:]}")
        if in_kafka is None and bench.kafka.end(running.topic) > count:
            in_kafka = time.monotonic()
        time.sleep(0.02)
    phase = "SELECT phase FROM banyan.position WHERE flow = 'legacy_to_modern'"
    parts.eventually("the table is loaded", lambda: target.ask(phase) == "stream", 120, 0.02)
    took = time.monotonic() - began
    pids = running.pids()
    figures = {"rows/s": count / took, "kafka rows/s": count / ((in_kafka or time.monotonic()) - began), "banyan cpu": machine.cpu_seconds(pids),
               "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024}
    figures |= {key: spent(pid) - before[key] for key, pid in servers.items()}
    running.stop()
    done(bench, target, wanted, took, name)
    return figures


def spent(pid):
    """Of a server and its processes that there are; what has ended counts where the server has waited for it."""
    return machine.cpu_seconds(machine.tree(pid)) + machine.children_seconds(pid)


def done(bench, target, wanted, took, database):
    """Every row must be there; then the database goes, so that the next finds the same disk."""
    if target.ask(parts.CHECKSUM) != wanted:
        raise SystemExit(f"error: {database} is not equal to the source")
    target.end()
    parts.eventually("nobody is in it", lambda: bench.admin.ask(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'") == "0", 30)
    bench.admin.ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
    bench.admin.ask(f"DROP DATABASE {database}")
    return took
