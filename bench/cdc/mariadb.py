"""The backlog from MariaDB: single-row transactions into Kafka beside Debezium, and into PostgreSQL."""
import subprocess
import sys
import time

import machine
import parts
from figures import note, pace, rows

WAY, INTO = "into Kafka", "Kafka into the target"
TABLE = """CREATE TABLE shop.payments (id bigint PRIMARY KEY, account bigint NOT NULL, amount decimal(12,2) NOT NULL,
  status varchar(20) NOT NULL, note text, at timestamp(6) NOT NULL)"""
# Equal on both sides when every row arrived whole: each says its rows in the same words.
SUM = "SELECT count(*) || ' ' || coalesce(sum(id), 0) || ' ' || coalesce(sum(amount), 0) || ' ' || coalesce(sum(length(note)), 0) FROM public.payments"


def measure(bench):
    machine.programs("mariadbd", "mariadb-install-db", "mariadb")
    server, raw = parts.MariaDb(bench.place), {}
    server.ask(f"CREATE DATABASE shop; {TABLE}")
    count, rounds = bench.options.rows, bench.options.rounds
    banyans, peers = [], []
    for r in range(rounds if "banyan" in bench.options.peers else 0):
        name = f"my_{r}"
        banyan = parts.Banyan(bench.place, bench.binary, name, bench.kafka, server, bench.modern, name, table="{legacy: shop.payments, modern: public.payments}")
        target = bench.target(name)
        banyan.start()
        arrives(server, target, -1 - r, banyan)
        banyan.stop()
        banyans.append((banyan, target))
    for r in range(bench.options.debezium_rounds if "debezium" in bench.options.peers else 0):
        name = f"myplain{r}"
        bench.connect.mariadb(name, server, 7_000 + r, bench.kafka)
        topic = f"{name}.shop.payments"
        parts.eventually("its first rows arrive", lambda: bench.kafka.end(topic) > 0 or not server.number("SELECT count(*) FROM shop.payments"), 60)
        time.sleep(2)
        bench.connect.stop(name)
        peers.append((name, topic))
    began = time.monotonic()
    server.ask(f"""SET GLOBAL innodb_flush_log_at_trx_commit = 2; SET GLOBAL sync_binlog = 0;
      DELIMITER //
      CREATE PROCEDURE shop.fill() BEGIN DECLARE i INT DEFAULT 1; WHILE i <= {count} DO
        INSERT INTO shop.payments VALUES (i, i % 1000, i % 100000 / 100.0, 'captured', concat('payment number ', i), now(6)); SET i = i + 1;
      END WHILE; END //
      DELIMITER ;
      CALL shop.fill()""")
    print(f"{count:,} transactions written in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    wanted = server.ask("SELECT concat(count(*), ' ', sum(id), ' ', sum(amount), ' ', sum(char_length(note))) FROM shop.payments")
    for r in range(max(len(banyans), len(peers))):
        if r < len(banyans):
            note(raw, "Banyan", banyan_backlog(bench, *banyans[r], wanted))
        if r < len(peers):
            note(raw, "Debezium, no schemas", debezium_backlog(bench, *peers[r]))
    bench.sweep()
    return ["median (least–most)", f"{WAY}, rows/s", f"{INTO}, rows/s", "CPU s a million into Kafka", "peak MiB"], \
        rows(raw, (WAY, INTO, "cpu_s_per_million", "peak_mib")), raw


def arrives(server, target, row, banyan):
    server.ask(f"INSERT INTO shop.payments VALUES ({row}, 1, 1, 'probe', NULL, now(6))")

    def there():
        if banyan.process.poll() is not None:
            sys.exit(f"error: it ended: {banyan.process.log.read_text(errors='replace')[-3000:]}")
        return target.number(f"SELECT count(*) FROM payments WHERE id = {row}") == 1
    parts.eventually("the first row arrives", there, 120)


def banyan_backlog(bench, banyan, target, wanted):
    count = bench.options.rows
    holder = bench.modern.session(target.ask("SELECT current_database()"))
    holder.ask("BEGIN; LOCK TABLE public.payments IN EXCLUSIVE MODE")
    before = bench.kafka.end(banyan.topic)
    banyan.start()
    series = bench.kafka.offsets(banyan.topic, lambda offset: offset >= before + 2 * count)
    pids = banyan.pids()
    figures = {WAY: pace(series, before, 2 * count) / 2, "cpu_s_per_million": machine.cpu_seconds(pids) / count * 1e6}
    freed = time.monotonic()
    holder.ask("COMMIT")
    _, done = bench.rows_seen(target, 1, count, wanted, said=SUM)
    figures |= {INTO: count / (done - freed), "peak_mib": machine.memory_kib(pids, "VmHWM") / 1024}
    banyan.stop()
    return figures


def debezium_backlog(bench, name, topic):
    count, pids = bench.options.rows, [bench.connect.process.pid]
    before, spent = bench.kafka.end(topic), machine.cpu_seconds(pids)
    bench.connect.resume(name)
    series = bench.kafka.offsets(topic, lambda offset: offset >= before + count)
    figures = {WAY: pace(series, before, count), "cpu_s_per_million": (machine.cpu_seconds(pids) - spent) / count * 1e6}
    bench.connect.remove(name)
    return figures
