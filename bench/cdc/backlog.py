"""A backlog that every reader finds in the same log: transactions of one row, and of many."""
import subprocess
import sys
import time

import machine
import parts
from figures import note, pace, rows

WAY, INTO, WHOLE = "into Kafka", "Kafka into the target", "log to target, whole way"


def measure(bench):
    raw = {}
    for size in bench.options.sizes:
        one_size(bench, size, raw)
        bench.sweep()
    ways = (WAY, INTO, WHOLE, "from start", "cpu_s_per_million", "apply_cpu_s_per_million", "peak_mib")
    head = ["median (least–most)", f"{WAY}, rows/s", f"{INTO}, rows/s", f"{WHOLE}, rows/s", f"{WAY} from process start",
            "CPU s a million into Kafka", "CPU s a million into the target", "peak MiB"]
    return head, rows(raw, ways), raw


def one_size(bench, size, raw):
    options = bench.options
    use = {peer: peer in options.peers for peer in ("pg_recvlogical", "banyan", "subscription", "debezium")}
    say = lambda name, figures: note(raw, f"{name}, transactions of {size:,}", figures)
    banyans, sinks, subscriptions = [], [], []
    for r in range(options.rounds if use["pg_recvlogical"] else 0):
        bench.source.ask(f"SELECT pg_create_logical_replication_slot('recv_{size}_{r}', 'pgoutput')")
    # One more Banyan than rounds: the last one goes the whole way without the lock.
    for r in range(options.rounds + 1 if use["banyan"] else 0):
        banyans.append(bench.banyan(f"b{size}_{r}"))
        banyans[-1][0].stop()
    for r in range(options.rounds if use["subscription"] else 0):
        name = f"sub{size}_{r}"
        subscriptions.append((name, bench.subscription(name)))
        subscriptions[-1][1].ask(f"ALTER SUBSCRIPTION {name} DISABLE")
    for r in range(options.debezium_rounds if use["debezium"] else 0):
        for name, schemas in ((f"plain{size}_{r}", False), (f"full{size}_{r}", True)):
            bench.connect.source(name, bench.legacy, schemas)
            parts.eventually("its slot streams", lambda: bench.source.ask(
                f"SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'") == "t", 60)
            time.sleep(1)
            bench.connect.stop(name)
        sinks.append(bench.target(f"sink{size}_{r}"))
    end_lsn = write(bench, size)
    wanted = bench.source.ask(parts.CHECKSUM)
    for r in range(max(options.rounds, options.debezium_rounds)):
        if use["pg_recvlogical"] and r < options.rounds:
            say("pg_recvlogical -f /dev/null", recvlogical(bench, f"recv_{size}_{r}", end_lsn))
        if use["banyan"] and r < options.rounds:
            say("Banyan", banyan_backlog(bench, *banyans[r], wanted, size))
        if use["subscription"] and r < options.rounds:
            say("PostgreSQL's subscription", subscription_backlog(bench, *subscriptions[r], wanted))
        if use["debezium"] and r < options.debezium_rounds:
            say("Debezium, no schemas", debezium_backlog(bench, f"plain{size}_{r}"))
            say("Debezium, schemas", debezium_backlog(bench, f"full{size}_{r}"))
            say("Debezium's JDBC sink", sink_backlog(bench, f"full{size}_{r}", f"sink{size}_{r}", sinks[r], wanted))
    if use["banyan"]:
        say("Banyan", whole_way(bench, *banyans[-1], wanted))
    if bench.connect:
        say("Kafka Connect", {"peak_mib": machine.memory_kib([bench.connect.process.pid], "VmHWM") / 1024})
        for r in range(options.debezium_rounds):
            for name in (f"plain{size}_{r}", f"full{size}_{r}"):
                bench.connect.remove(name)
        time.sleep(2)


def write(bench, size):
    """Transactions of so many rows, one session, in the order of their ids."""
    count = bench.options.rows
    began = time.monotonic()
    bench.source.ask("SET synchronous_commit = off")
    bench.source.ask(f"""DO $$ BEGIN FOR i IN 0..{count // size - 1} LOOP
      INSERT INTO payments SELECT n, n % 1000, n % 100000 / 100.0, 'captured', 'payment number ' || n, clock_timestamp()
        FROM generate_series(i * {size} + 1, (i + 1) * {size}) n; COMMIT;
    END LOOP; END $$""")
    bench.source.ask("SET synchronous_commit = on")
    bench.source.ask("CHECKPOINT")
    print(f"{count:,} rows written in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return bench.source.ask("SELECT pg_current_wal_lsn()")


def recvlogical(bench, slot, end_lsn):
    command = ["pg_recvlogical", "-h", "127.0.0.1", "-p", bench.legacy.port, "-U", "bench", "-d", "shop", "-S", slot, "--start", "--no-loop",
               f"--endpos={end_lsn}", "-o", "proto_version=1", "-o", "publication_names=yardstick", "-f", "/dev/null"]
    began = time.monotonic()
    subprocess.run([str(c) for c in command], check=True, capture_output=True, timeout=300)
    return {WAY: bench.options.rows / (time.monotonic() - began)}


def banyan_backlog(bench, banyan, target, wanted, size):
    """Into Kafka with the applier held by a lock, then into the target."""
    count = bench.options.rows
    # A row is a record, and a transaction's end is one; that no more comes is looked at below.
    records = count + count // size
    holder = bench.modern.session(target.ask("SELECT current_database()"))
    holder.ask("BEGIN; LOCK TABLE public.payments IN EXCLUSIVE MODE")
    before = bench.kafka.end(banyan.topic)
    began = time.monotonic()
    banyan.start()
    series = bench.kafka.offsets(banyan.topic, lambda offset: offset >= before + records)
    pids = banyan.pids()
    spent = machine.cpu_seconds(pids)
    figures = {WAY: pace(series, before, records) * count / records, "from start": count / (series[-1][0] - began),
               "cpu_s_per_million": spent / count * 1e6}
    time.sleep(1)
    figures["records_too_many"] = bench.kafka.end(banyan.topic) - before - records
    spent, freed = machine.cpu_seconds(pids), time.monotonic()
    holder.ask("COMMIT")
    _, done = bench.rows_seen(target, 1, count, wanted)
    figures |= {INTO: count / (done - freed), "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024,
                "apply_cpu_s_per_million": (machine.cpu_seconds(pids) - spent) / count * 1e6}
    banyan.stop()
    return figures


def whole_way(bench, banyan, target, wanted):
    began = time.monotonic()
    banyan.start()
    _, done = bench.rows_seen(target, 1, bench.options.rows, wanted)
    figures = {WHOLE: bench.options.rows / (done - began)}
    banyan.stop()
    return figures


def subscription_backlog(bench, name, target, wanted):
    """From the word that lets it go on to the last row: it starts a process, too."""
    began = time.monotonic()
    target.ask(f"ALTER SUBSCRIPTION {name} ENABLE")
    _, done = bench.rows_seen(target, 1, bench.options.rows, wanted)
    target.ask(f"DROP SUBSCRIPTION {name}")
    return {WHOLE: bench.options.rows / (done - began)}


def debezium_backlog(bench, name):
    count, topic, pids = bench.options.rows, f"{name}.public.payments", [bench.connect.process.pid]
    before, spent = bench.kafka.end(topic), machine.cpu_seconds(pids)
    began = time.monotonic()
    bench.connect.resume(name)
    series = bench.kafka.offsets(topic, lambda offset: offset >= before + count)
    figures = {WAY: pace(series, before, count), "from start": count / (series[-1][0] - began),
               "cpu_s_per_million": (machine.cpu_seconds(pids) - spent) / count * 1e6}
    bench.connect.stop(name)
    return figures


def sink_backlog(bench, source, database, target, wanted):
    """From the first visible row to the last, so that Connect's own start is not held against it."""
    pids = [bench.connect.process.pid]
    spent = machine.cpu_seconds(pids)
    bench.connect.sink(f"jdbc_{database}", f"{source}.public.payments", bench.modern, database)
    # What its source skipped, rows from before the slot, came with its snapshot: all rows are in the topic.
    came, done = bench.rows_seen(target, 1, bench.options.rows, wanted)
    count = bench.options.rows
    figures = {INTO: count / (done - came), "apply_cpu_s_per_million": (machine.cpu_seconds(pids) - spent) / count * 1e6}
    bench.connect.remove(f"jdbc_{database}")
    return figures
