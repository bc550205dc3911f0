#!/usr/bin/env python3
"""Banyan beside pg_recvlogical and Debezium: the same write-ahead log, the same Kafka, the same two PostgreSQL servers.

Backlog: every reader's slot is made first, then 200,000 single-row transactions are written once, then each reads them
in turn, rounds interleaved. While Banyan's way to Kafka is timed, a lock on the target's table holds its applier; when
all stands in Kafka the lock is let go and the way into the target is timed, as the JDBC sink's is, from a full topic.
Latency: 1,000 transactions a second from pgbench, until a reader of the target sees the row.
Prints Markdown tables and writes all figures to target/bench/cdc.json.

    cargo build --profile dist
    bench/cdc/run.py              # everything: about ten minutes
    bench/cdc/run.py --help
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import machine  # noqa: E402
import parts  # noqa: E402

# What a database says of its rows; equal on both sides when every row arrived whole.
CHECKSUM = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(p::text, 0)), 0) FROM public.payments p"
WAY, INTO, WHOLE = "into Kafka", "Kafka into the target", "WAL to target, whole way"


def main():
    options = arguments()
    machine.programs("initdb", "psql", "pgbench", "pg_recvlogical", "java")
    place = machine.Workplace("cdc")
    bench = Bench(place, options)
    report = {"machine": machine.describe(), "versions": bench.versions(), "options": vars(options)}
    print(f"{report['machine']}\n" + "\n".join(f"{k}: {v}" for k, v in report["versions"].items()), flush=True)
    for part in ("backlog", "latency"):
        if part in options.only:
            head, rows, raw = getattr(bench, part)()
            report[part] = raw
            print(f"\n{part}\n\n" + machine.table(head, rows), flush=True)
    machine.CACHE.mkdir(parents=True, exist_ok=True)
    (machine.CACHE / "cdc.json").write_text(json.dumps(report, indent=1))


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--banyan", help="its executable; default target/dist/banyan")
    a.add_argument("--peers", default="pg_recvlogical,banyan,debezium", type=lambda s: s.split(","))
    a.add_argument("--only", default="backlog,latency", type=lambda s: s.split(","))
    a.add_argument("--rows", type=int, default=200_000)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--debezium-rounds", type=int, default=3, help="of the slow ones: with schemas, and through the sink")
    a.add_argument("--rate", type=int, default=1000, help="transactions a second, for the latency")
    a.add_argument("--seconds", type=int, default=30, help="of the latency")
    return a.parse_args()


class Bench:
    """The servers of one run. Each part returns head, rows and raw figures."""

    def __init__(self, place, options):
        self.place, self.options = place, options
        self.binary = machine.banyan_binary(options.banyan) if "banyan" in options.peers else None
        self.legacy, self.modern = parts.Postgres(place, "legacy"), parts.Postgres(place, "modern")
        self.kafka = parts.Kafka(place)
        self.connect = parts.Connect(place, self.kafka) if "debezium" in options.peers else None
        self.legacy.session().ask("CREATE DATABASE shop")
        self.source = self.legacy.session("shop")
        self.source.ask(parts.TABLE + "; CREATE PUBLICATION yardstick FOR TABLE public.payments; CREATE SEQUENCE ids START 100000000")
        self.admin = self.modern.session()
        self.written = 0

    def versions(self):
        asked = {"PostgreSQL": ["psql", "--version"], "Java": ["java", "--version"]} | ({"Banyan": [self.binary, "--version"]} if self.binary else {})
        said = {k: subprocess.run(c, capture_output=True, text=True).stdout.splitlines()[0] for k, c in asked.items()}
        jars = {"Kafka": ("kafka", "kafka-server-common"), "Kafka Connect": ("debezium", "connect-runtime"), "Debezium": ("debezium", "debezium-core")}
        for name, (folder, jar) in jars.items():
            found = next((machine.CACHE / folder / "libs").glob(jar + "-[0-9]*.jar"), None)
            said[name] = found.stem[len(jar) + 1:] if found else "not used"
        return said

    # --- what is common to both parts

    def target(self, database):
        """A database of the target's server with the empty table, and a session in it."""
        self.admin.ask(f"CREATE DATABASE {database}")
        session = self.modern.session(database)
        session.ask(parts.TABLE)
        return session

    def banyan(self, name):
        """A Banyan whose slots are made and whose first row came through; running."""
        target = self.target(name)
        banyan = parts.Banyan(self.place, self.binary, name, self.kafka, self.legacy, self.modern, name)
        banyan.start()
        self.probe(lambda: banyan.process.poll() is None, target, banyan.process)
        return banyan, target

    def probe(self, alive, target, process):
        """Writes one row now and waits until the target has every row there is."""
        self.written += 1
        self.source.ask(f"INSERT INTO payments VALUES (-{self.written}, 1, 1, 'probe', NULL, now())")
        wanted = self.source.ask(CHECKSUM)

        def there():
            if not alive():
                sys.exit(f"error: it ended: {process.log.read_text(errors='replace')[-3000:]}")
            return target.ask(CHECKSUM) == wanted
        parts.eventually(f"the first rows arrive (log: {process.log.read_text(errors='replace')[-2000:]})", there, 60)

    def write_backlog(self, first):
        """Single-row transactions, one session, in the order of their ids."""
        rows = self.options.rows
        began = time.monotonic()
        self.source.ask("SET synchronous_commit = off")
        self.source.ask(f"""DO $$ BEGIN FOR i IN {first}..{first + rows - 1} LOOP
          INSERT INTO payments VALUES (i, i % 1000, i % 100000 / 100.0, 'captured', 'payment number ' || i, clock_timestamp()); COMMIT;
        END LOOP; END $$""")
        self.source.ask("SET synchronous_commit = on")
        self.source.ask("CHECKPOINT")
        print(f"{rows:,} transactions written in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        return self.source.ask("SELECT pg_current_wal_lsn()")

    def offsets(self, topic, complete, seconds=300):
        """Times and end offsets of a topic, every few ms until complete(offset)."""
        series = [(time.monotonic(), self.kafka.end(topic))]
        end = time.monotonic() + seconds
        while not complete(series[-1][1]):
            if time.monotonic() > end:
                sys.exit(f"error: {topic} stands at {series[-1][1]} after {seconds} s")
            time.sleep(0.005)
            series.append((time.monotonic(), self.kafka.end(topic)))
        return series

    def rows_seen(self, target, last, wanted, first_too=False, seconds=600):
        """When the first and the last row of the backlog were visible in the target; then every row must be there."""
        came = None
        end = time.monotonic() + seconds
        while True:
            top = target.number("SELECT max(id) FROM payments")
            if came is None and top >= last - self.options.rows + 1:
                came = time.monotonic()
            if top >= last:
                break
            if time.monotonic() > end:
                sys.exit(f"error: the target stands at {top} after {seconds} s")
            time.sleep(0.01)
        done = time.monotonic()
        parts.eventually("source and target are equal", lambda: target.ask(CHECKSUM) == wanted, 30)
        return came, done

    # --- the backlog

    def backlog(self):
        options = self.options
        use = {peer: peer in options.peers for peer in ("pg_recvlogical", "banyan", "debezium")}
        raw = {}
        banyans, sinks = [], []
        for r in range(options.rounds if use["pg_recvlogical"] else 0):
            self.source.ask(f"SELECT pg_create_logical_replication_slot('recv_{r}', 'pgoutput')")
        # One more Banyan than rounds: the last one goes the whole way without the lock.
        for r in range(options.rounds + 1 if use["banyan"] else 0):
            banyans.append(self.banyan(f"bench{r}"))
            banyans[-1][0].stop()
        for r in range(options.debezium_rounds if use["debezium"] else 0):
            for name, schemas in ((f"plain{r}", False), (f"full{r}", True)):
                self.connect.source(name, self.legacy, schemas)
                parts.eventually("its slot streams", lambda: self.source.ask(
                    f"SELECT active FROM pg_replication_slots WHERE slot_name = '{name}'") == "t", 60)
                time.sleep(1)
                self.connect.stop(name)
            sinks.append(self.target(f"sink{r}"))
        end_lsn = self.write_backlog(1)
        wanted = self.source.ask(CHECKSUM)
        for r in range(max(options.rounds, options.debezium_rounds)):
            if use["pg_recvlogical"] and r < options.rounds:
                note(raw, "pg_recvlogical -f /dev/null", self.recvlogical(f"recv_{r}", end_lsn))
            if use["banyan"] and r < options.rounds:
                note(raw, "Banyan", self.banyan_backlog(*banyans[r], wanted))
            if use["debezium"] and r < options.debezium_rounds:
                note(raw, "Debezium, no schemas", self.debezium_backlog(f"plain{r}"))
                note(raw, "Debezium, schemas", self.debezium_backlog(f"full{r}"))
                note(raw, "Debezium's JDBC sink", self.sink_backlog(f"full{r}", f"sink{r}", sinks[r], wanted))
        if use["banyan"]:
            note(raw, "Banyan", self.banyan_whole_way(*banyans[-1], wanted))
        if self.connect:
            pids = [self.connect.process.pid]
            note(raw, "Kafka Connect", {"rss_mib": machine.memory_kib(pids) / 1024, "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024})
        self.source.ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        ways = (WAY, INTO, WHOLE, "from start", "cpu_s", "rss_mib", "peak_mib")
        rows = [[name] + [spread(figures.get(way)) for way in ways] for name, figures in raw.items()]
        head = ["median (least–most)", f"{WAY}, rows/s", f"{INTO}, rows/s", f"{WHOLE}, rows/s", f"{WAY} from process start", "CPU s", "RSS MiB", "peak MiB"]
        return head, rows, raw

    def recvlogical(self, slot, end_lsn):
        command = ["pg_recvlogical", "-h", "127.0.0.1", "-p", self.legacy.port, "-U", "bench", "-d", "shop", "-S", slot, "--start", "--no-loop",
                   f"--endpos={end_lsn}", "-o", "proto_version=1", "-o", "publication_names=yardstick", "-f", "/dev/null"]
        began = time.monotonic()
        subprocess.run([str(c) for c in command], check=True, capture_output=True, timeout=300)
        return {WAY: self.options.rows / (time.monotonic() - began)}

    def banyan_backlog(self, banyan, target, wanted):
        """Into Kafka with the applier held by a lock, then into the target."""
        rows, last = self.options.rows, self.options.rows
        holder = self.modern.session(target.ask("SELECT current_database()"))
        holder.ask("BEGIN; LOCK TABLE public.payments IN EXCLUSIVE MODE")
        before = self.kafka.end(banyan.topic)
        began = time.monotonic()
        banyan.start()
        # A row is a record, and its transaction's end is one; that no more comes is looked at below.
        series = self.offsets(banyan.topic, lambda offset: offset >= before + 2 * rows)
        pids = banyan.pids()
        spent = machine.cpu_seconds(pids)
        figures = {WAY: pace(series, before, 2 * rows) / 2, "from start": rows / (series[-1][0] - began), "cpu_s": spent,
                   "held_mib": machine.memory_kib(pids) / 1024}
        time.sleep(1)
        figures["records_too_many"] = self.kafka.end(banyan.topic) - before - 2 * rows
        freed = time.monotonic()
        holder.ask("COMMIT")
        _, done = self.rows_seen(target, last, wanted)
        figures |= {INTO: rows / (done - freed), "rss_mib": machine.memory_kib(pids) / 1024, "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024,
                    "apply_cpu_s": machine.cpu_seconds(pids) - spent}
        banyan.stop()
        return figures

    def banyan_whole_way(self, banyan, target, wanted):
        began = time.monotonic()
        banyan.start()
        _, done = self.rows_seen(target, self.options.rows, wanted)
        pids = banyan.pids()
        figures = {WHOLE: self.options.rows / (done - began), "rss_mib": machine.memory_kib(pids) / 1024,
                   "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024}
        banyan.stop()
        return figures

    def debezium_backlog(self, name):
        rows, topic, pids = self.options.rows, f"{name}.public.payments", [self.connect.process.pid]
        before, spent = self.kafka.end(topic), machine.cpu_seconds(pids)
        began = time.monotonic()
        self.connect.resume(name)
        series = self.offsets(topic, lambda offset: offset >= before + rows)
        figures = {WAY: pace(series, before, rows), "from start": rows / (series[-1][0] - began), "cpu_s": machine.cpu_seconds(pids) - spent}
        self.connect.stop(name)
        return figures

    def sink_backlog(self, source, database, target, wanted):
        """From the first visible row to the last, so that Connect's own start is not held against it."""
        pids = [self.connect.process.pid]
        spent = machine.cpu_seconds(pids)
        self.connect.sink(f"jdbc_{database}", f"{source}.public.payments", self.modern, database)
        # What its source skipped, rows from before the slot, came with its snapshot: all rows are in the topic.
        came, done = self.rows_seen(target, self.options.rows, wanted)
        figures = {INTO: self.options.rows / (done - came), "cpu_s": machine.cpu_seconds(pids) - spent}
        self.connect.remove(f"jdbc_{database}")
        return figures

    # --- commit to visible

    def latency(self):
        raw = {}
        if "banyan" in self.options.peers:
            banyan, target = self.banyan("lag")
            raw["Banyan"] = self.visible(target, banyan.pids())
            banyan.stop()
        if "debezium" in self.options.peers:
            target = self.target("lagsink")
            self.connect.source("lagfull", self.legacy, True)
            self.connect.sink("lagjdbc", "lagfull.public.payments", self.modern, "lagsink")
            self.probe(lambda: True, target, self.connect.process)
            raw["Debezium and its JDBC sink"] = self.visible(target, [self.connect.process.pid])
            self.connect.remove("lagjdbc")
            self.connect.remove("lagfull")
        keys = ("tps", "p50", "p90", "p99", "p999", "most", "cpu_percent", "rss_mib", "peak_mib")
        rows = [[name] + [f"{r[k]:,.1f}" for k in keys] for name, r in raw.items()]
        return ["", "transactions/s", "p50 ms", "p90", "p99", "p99.9", "most", "CPU % of a core", "RSS MiB", "peak MiB"], rows, raw

    def visible(self, target, pids):
        """From the source's commit timestamp (taken before its flush) to when a session that looks every millisecond sees the row."""
        seconds, first = self.options.seconds, self.source.number("SELECT nextval('ids')")
        script = self.place.dir / "write.sql"
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
        wrote = subprocess.run(["pgbench", "-n", "-h", "127.0.0.1", "-p", str(self.legacy.port), "-U", "bench", "-R", str(self.options.rate),
                                "-c", "4", "-T", str(seconds), "-f", script, "shop"], check=True, capture_output=True, text=True, timeout=seconds + 60)
        spent, took = machine.cpu_seconds(pids) - spent, time.monotonic() - began
        target.answer()
        seen = times(target.ask("SELECT id, extract(epoch FROM at) FROM seen"))
        committed = times(self.source.ask(f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM payments WHERE id > {first}"))
        if missing := len(committed.keys() - seen.keys()):
            sys.exit(f"error: {missing} of {len(committed)} rows were not seen in the target within 5 s after the last write")
        # The first fifth is warm-up: a virtual machine of Java's compiles its code then.
        start = min(committed.values()) + seconds / 5
        late = sorted((seen[i] - at) * 1000 for i, at in committed.items() if at >= start)
        at = lambda q: late[min(int(q * len(late)), len(late) - 1)]
        return {"tps": float(re.search(r"tps = ([\d.]+)", wrote.stdout)[1]), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
                "most": late[-1], "rows": len(late), "cpu_percent": spent / took * 100, "rss_mib": machine.memory_kib(pids) / 1024,
                "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024}


def pace(series, before, records):
    """Records a second from when the first stood in Kafka to when the last did."""
    first = next(i for i, (_, offset) in enumerate(series) if offset > before)
    last = next(t for t, offset in series if offset >= before + records)
    return (before + records - series[first][1]) / max(last - series[first][0], 1e-9)


def times(lines):
    return {int(i): float(at) for i, at in (line.split("|") for line in lines.splitlines())}


def note(raw, name, figures):
    print(f"{name}: " + ", ".join(f"{k} {v:,.1f}" for k, v in figures.items()), file=sys.stderr, flush=True)
    for key, value in figures.items():
        raw.setdefault(name, {}).setdefault(key, []).append(value)


def spread(values):
    if not values:
        return "–"
    form = "{:,.0f}" if max(values) > 100 else "{:.1f}"
    text = form.format(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))}–{form.format(max(values))})"


main()
