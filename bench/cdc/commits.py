"""What it costs who writes that somebody reads the log: the source's own commit times at 500 transactions a second."""
import statistics
import subprocess

from figures import note, quantile, rows

RATE = 500


def measure(bench):
    raw = {}
    banyan, _ = bench.banyan("commits") if "banyan" in bench.options.peers else (None, None)
    if banyan:
        banyan.stop()
    bench.source.ask("SELECT pg_create_logical_replication_slot('commits', 'pgoutput')")
    for _ in range(bench.options.rounds):
        note(raw, "nobody reads", commits(bench))
        if "pg_recvlogical" in bench.options.peers:
            command = ["pg_recvlogical", "-h", "127.0.0.1", "-p", bench.legacy.port, "-U", "bench", "-d", "shop", "-S", "commits", "--start",
                       "-o", "proto_version=1", "-o", "publication_names=yardstick", "-f", "/dev/null"]
            reader = bench.place.start(command)
            note(raw, "pg_recvlogical -f /dev/null", commits(bench))
            bench.place.stop(reader)
        if banyan:
            banyan.start()
            note(raw, "Banyan, the whole way", commits(bench))
            banyan.stop()
    if banyan and "pg_recvlogical" in bench.options.peers:
        pairs = zip(raw["Banyan, the whole way"]["p99"], raw["pg_recvlogical -f /dev/null"]["p99"])
        raw["Banyan, the whole way"]["p99_over_recvlogical"] = [statistics.median(ours / theirs for ours, theirs in pairs)]
    bench.sweep()
    head = ["median (least–most)", "p50 ms", "p99 ms", "p99.9 ms", "p99 over pg_recvlogical's, median of rounds"]
    return head, rows(raw, ("p50", "p99", "p999", "p99_over_recvlogical")), raw


def commits(bench):
    """Milliseconds that a transaction took from when it was begun: what it waited for its turn does not count."""
    seconds, folder = bench.options.seconds, bench.place.dir / "pgbench"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("log.*"):
        old.unlink()
    script = folder / "write.sql"
    script.write_text("INSERT INTO payments VALUES (nextval('ids'), 7, 12.34, 'captured', 'one of many payments', clock_timestamp());\n")
    subprocess.run(["pgbench", "-n", "-h", "127.0.0.1", "-p", str(bench.legacy.port), "-U", "bench", "-R", str(RATE), "-c", "4", "-T", str(seconds),
                    "-l", "--log-prefix", str(folder / "log"), "-f", script, "shop"], check=True, capture_output=True, timeout=seconds + 60)
    took = []
    for log in folder.glob("log.*"):
        for line in log.read_text().splitlines():
            fields = line.split()
            # client, number, microseconds, script, second, microsecond, lag behind its turn
            took.append((int(fields[2]) - int(fields[6])) / 1000)
    took.sort()
    return {"p50": quantile(took, 0.5), "p99": quantile(took, 0.99), "p999": quantile(took, 0.999)}
