#!/usr/bin/env python3
"""Banyan beside pg_recvlogical, PostgreSQL's own subscription and Debezium: the same log, the same Kafka, the same servers.

  backlog   every reader's slot is made first, then the transactions are written once (of one row, and of 1,000), then each
            reads them in turn, rounds interleaved. While Banyan's way to Kafka is timed, a lock on the target's table holds
            its applier; when all stands in Kafka the lock is let go and the way into the target is timed, as the JDBC
            sink's is, from a full topic.
  latency   commit -> visible at several rates from pgbench, until a reader of the target sees the row.
  commits   what a reader of the log costs who writes: commit times at 500 transactions a second.
  snapshot  the first copy of a large table, beside `COPY | COPY` and the subscription's.
  memory    the peak over one huge transaction, large values, and a Kafka that stands still.
  mariadb   the backlog from MariaDB.

Prints Markdown tables and writes all figures to target/bench/cdc.json.

    cargo build --profile dist
    bench/cdc/run.py                       # everything: about an hour
    bench/cdc/run.py --only backlog
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import machine  # noqa: E402
import backlog  # noqa: E402
import commits  # noqa: E402
import latency  # noqa: E402
import mariadb  # noqa: E402
import memory  # noqa: E402
import parts  # noqa: E402
import snapshot  # noqa: E402

PARTS = {"backlog": backlog, "latency": latency, "commits": commits, "snapshot": snapshot, "memory": memory, "mariadb": mariadb}


def main():
    options = arguments()
    machine.programs("initdb", "psql", "pgbench", "pg_recvlogical", "java")
    place = machine.Workplace("cdc")
    bench = Bench(place, options)
    report = {"machine": machine.describe(), "versions": bench.versions(), "options": vars(options)}
    print(f"{report['machine']}\n" + "\n".join(f"{k}: {v}" for k, v in report["versions"].items()), flush=True)
    machine.CACHE.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        head, rows, report[name] = PARTS[name].measure(bench)
        print(f"\n{name}\n\n" + machine.table(head, rows), flush=True)
        # A part that fails later leaves what was measured before it.
        (machine.CACHE / "cdc.json").write_text(json.dumps(report, indent=1))


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--banyan", help="its executable; default target/dist/banyan")
    a.add_argument("--peers", default="pg_recvlogical,banyan,subscription,debezium", type=lambda s: s.split(","))
    a.add_argument("--only", default=",".join(PARTS), type=lambda s: s.split(","))
    a.add_argument("--rows", type=int, default=200_000, help="of a backlog")
    a.add_argument("--sizes", type=numbers, default=[1, 1000], help="rows of a transaction of the backlog")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--debezium-rounds", type=int, default=3, help="of the slow ones: with schemas, and through the sink")
    a.add_argument("--rates", type=numbers, default=[500, 2000, 5000], help="transactions a second, for the latency")
    a.add_argument("--seconds", type=int, default=30, help="of the latency at each rate, and of each round of commits")
    a.add_argument("--snapshot-rows", type=int, default=5_000_000)
    a.add_argument("--transaction-rows", type=int, default=1_000_000, help="of the huge transaction")
    return a.parse_args()


class Bench:
    """The servers of one run, and what the parts share. A part's `measure` returns head, rows and raw figures."""

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

    def target(self, database):
        """A database of the target's server with the empty table, and a session in it."""
        self.admin.ask(f"CREATE DATABASE {database}")
        session = self.modern.session(database)
        session.ask(parts.TABLE)
        return session

    def banyan(self, name, **more):
        """A Banyan whose slots are made and whose first row came through; running."""
        target = self.target(name)
        banyan = parts.Banyan(self.place, self.binary, name, self.kafka, self.legacy, self.modern, name, **more)
        banyan.start()
        self.probe(lambda: banyan.process.poll() is None, target, banyan.process)
        return banyan, target

    def subscription(self, name):
        """PostgreSQL's own, whose first copy is complete; enabled."""
        target = self.target(name)
        target.ask(f"CREATE SUBSCRIPTION {name} CONNECTION '{self.legacy.url('shop')}' PUBLICATION yardstick")
        self.probe(lambda: True, target, self.modern.process)
        return target

    def probe(self, alive, target, process):
        """Writes one row now and waits until the target has every row there is."""
        self.written += 1
        self.source.ask(f"INSERT INTO payments VALUES (-{self.written}, 1, 1, 'probe', NULL, now())")
        wanted = self.source.ask(parts.CHECKSUM)

        def there():
            if not alive():
                sys.exit(f"error: it ended: {process.log.read_text(errors='replace')[-3000:]}")
            return target.ask(parts.CHECKSUM) == wanted
        parts.eventually(f"the first rows arrive (log: {process.log.read_text(errors='replace')[-2000:]})", there, 120)

    def rows_seen(self, target, first, last, wanted, seconds=600, said=parts.CHECKSUM):
        """When the first and the last of these ids were visible in the target; then every row must be there, by what `said` asks."""
        came = None
        end = time.monotonic() + seconds
        while True:
            top = target.number("SELECT max(id) FROM payments")
            if came is None and top >= first:
                came = time.monotonic()
            if top >= last:
                break
            if time.monotonic() > end:
                sys.exit(f"error: the target stands at {top} after {seconds} s")
            time.sleep(0.01)
        done = time.monotonic()
        parts.eventually("source and target are equal", lambda: target.ask(said) == wanted, 60)
        return came, done

    def sweep(self):
        """Whoever has read is gone; its slots go, so that nobody keeps the log for it, and the table is empty again."""
        for server in (self.source, self.admin):
            server.ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        self.source.ask("TRUNCATE payments; CHECKPOINT")


main()
