"""A good client beside an attacker: its p99 without, with and again without each attack, and what the proxy's memory grows by.

The good client is an open loop at a share of the capacity, each of its answers checked. The attacker (attacks.py) shares core 0 with it and with
the upstream, and both go before it (as root alone); it is there without an attack, too, so that what its process takes counts on both sides.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import attacks
import machine

CONNECTION_LIMIT = 1000
LOAD_CORE = 0


def hostile(bench):
    """Each attack in turn on each proxy; those over HTTP/2 on Banyan alone, which speaks it on the same port."""
    rows, raw = [], {}
    for name in bench.names:
        if "#" not in name:
            more, raw[name] = attacked(bench, name)
            rows += more
    return ["proxy", "attack", "connections/s", "KiB/s", "p99 µs without", "with", "ratio", "second without / first", "CPU %", "RSS + MiB",
            "the attacker is answered"], rows, raw


def attacked(bench, proxy):
    """A/B/A as often as there are rounds."""
    options = bench.options
    wanted = options.attacks.split(",") if options.attacks else [name for name in attacks.ATTACKS if name != "nothing"]
    if proxy != "banyan":
        wanted = [name for name in wanted if not issubclass(attacks.ATTACKS[name], attacks.Http2)]
    process, port = bench.start(proxy, **({"connections": CONNECTION_LIMIT} if proxy == "banyan" else {}))
    got = bench.load(port, "--seconds", 2)
    rate = got["requests"] / got["seconds"] * options.load
    pids = machine.tree(process.pid)
    machine.goes_first(machine.tree(bench.upstream.pid))
    # This script, too, stays away from the measured core.
    os.sched_setaffinity(0, {LOAD_CORE})
    raw = {"rate": rate, "attacks": {}}

    def good(attack):
        """p99 beside an attack, how busy the proxy was in percent of a core, and what the attacker says."""
        beside = Beside(attack, port, options.seconds, pids)
        cpu = machine.cpu_seconds(pids)
        got = bench.load(port, "--seconds", options.seconds, "--rate", f"{rate:.0f}", prefix=("chrt", "--fifo", "1"))
        busy = (machine.cpu_seconds(pids) - cpu) / got["seconds"] * 100
        return got["p99"], busy, beside.end()

    for name in wanted:
        rounds = []
        for _ in range(options.rounds):
            before, idle, _ = good("nothing")
            memory = machine.memory_kib(pids, "VmRSS")
            during, busy, said = good(name)
            after, _, _ = good("nothing")
            rounds.append(said | {"before": before, "during": during, "after": after, "cpu": busy - idle,
                                      "grown_mib": (said["most_kib"] - memory) / 1024})
            # Whatever is still open is closed by now, or soon.
            time.sleep(1)
        raw["attacks"][name] = rounds
    bench.place.stop(process)
    middle = lambda rounds, key: statistics.median(one[key] for one in rounds)
    rows = []
    for name, rounds in raw["attacks"].items():
        quiet = [statistics.mean((one["before"], one["after"])) for one in rounds]
        ratio = statistics.median(one["during"] / base for one, base in zip(rounds, quiet))
        noise = statistics.median(one["after"] / one["before"] for one in rounds)
        answers = {}
        for one in rounds:
            for answer, count in one["answers"].items():
                answers[answer] = answers.get(answer, 0) + count
        per_second = lambda key: middle(rounds, key) / options.seconds
        rows.append([proxy, name, f"{per_second('opened'):,.0f}", f"{per_second('bytes') / 1024:,.0f}", f"{statistics.median(quiet):.0f}",
                     f"{middle(rounds, 'during'):.0f}", f"{ratio:.2f}", f"{noise:.2f}", f"{middle(rounds, 'cpu'):+.1f}", f"{middle(rounds, 'grown_mib'):.1f}",
                     ", ".join(f"{answer} × {count}" for answer, count in sorted(answers.items(), key=lambda one: -one[1])) or "none is closed"])
    return rows, raw


class Beside:
    """An attack that runs while something else is done, and the most memory that Banyan has meanwhile."""

    def __init__(self, name, port, seconds, pids):
        command = ["nice", "-n", "19", "taskset", "-c", str(LOAD_CORE), sys.executable, pathlib.Path(attacks.__file__), name, port, seconds, CONNECTION_LIMIT]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        # Python's own start is over before anything is measured.
        self.process.stdout.readline()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.pids, self.most, self.over = pids, 0, threading.Event()
        self.watch = threading.Thread(target=self.look)
        self.watch.start()

    def look(self):
        while not self.over.wait(0.2):
            self.most = max(self.most, machine.memory_kib(self.pids, "VmRSS"))

    def end(self):
        said, _ = self.process.communicate(timeout=60)
        self.over.set()
        self.watch.join()
        if self.process.returncode:
            sys.exit("error: the attacker failed")
        return json.loads(said) | {"most_kib": self.most}
