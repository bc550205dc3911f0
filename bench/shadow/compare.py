#!/usr/bin/env python3
"""How fast two JSON answers are compared, on one core: Banyan, beside serde_json::Value's equality (which says yes or no, not where) and Python's deepdiff
(which says where, and is what one would write).

Of 1, 10 and 100 KiB; the two answers have the same members in another order with other white space, and differ in one amount, as a new service's do.
`same` has the same bytes on both sides, which nobody needs to take apart. MB/s count the bytes of both sides. Bar: 100 MB/s a core.

    cargo build --release -p banyan-proxy --example compare_throughput
    bench/shadow/compare.py                 # about a minute; deepdiff is fetched into target/bench
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import venv

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import machine  # noqa: E402

BAR = 100
DEEPDIFF = "deepdiff==8.6.1"
PEER = """
import json, sys, time
from deepdiff import DeepDiff
for left, right, seconds in zip(sys.argv[2::2], sys.argv[3::2], [float(sys.argv[1])] * 99):
    left, right = open(left, "rb").read(), open(right, "rb").read()
    best, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        DeepDiff(json.loads(left), json.loads(right))
        best = max(best, (len(left) + len(right)) / (time.perf_counter() - began) / 1e6)
    print(best)
"""


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=3, help="a size and program")
    options.add_argument("--binary", default=str(machine.ROOT / "target/release/examples/compare_throughput"))
    options = options.parse_args()
    if not pathlib.Path(options.binary).exists():
        sys.exit(f"error: no {options.binary}\nhint: cargo build --release -p banyan-proxy --example compare_throughput")
    place = machine.Workplace("shadow")
    pairs = {}
    for kib in (1, 10, 100):
        pairs[f"{kib} KiB"] = pair(place.dir, kib)
    pairs["100 KiB, same"] = [pairs["100 KiB"][0]] * 2
    files = [str(file) for pair in pairs.values() for file in pair]
    core = ["taskset", "-c", str((os.cpu_count() or 1) - 1)]
    print(machine.describe(), flush=True)
    ours = run([*core, options.binary, str(options.seconds), *files])
    peer = run([*core, deepdiff(), "-c", PEER, str(options.seconds), *files])
    rows, raw = [], {}
    for (name, _), mine, theirs in zip(pairs.items(), ours, peer):
        banyan, value = map(float, mine.split()[-2:])
        raw[name] = {"banyan": banyan, "serde_json": value, "deepdiff": float(theirs)}
        rows.append([name, f"{banyan:,.0f}", f"{value:,.0f}", f"{banyan / value:.2f}", f"{float(theirs):.1f}", f"{banyan / float(theirs):,.0f}"])
    print("\n" + machine.table(["bodies", "Banyan MB/s", "serde_json MB/s", "×", "deepdiff MB/s", "×"], rows))
    worst = min(row["banyan"] for row in raw.values())
    print(f"\nbar {BAR} MB/s: {'met' if worst >= BAR else 'missed'}, {worst:,.0f} at worst")
    out = machine.CACHE / "shadow-compare.json"
    out.write_text(json.dumps({"machine": machine.describe(), "results": raw}, indent=1))


def pair(folder, kib):
    """A page of payments as one side writes it, and as the other does."""
    dice = random.Random(kib)
    payments = []
    while len(json.dumps(payments)) < kib * 1024 - 150:
        payments.append({
            "id": dice.randrange(10**9), "account": f"acc-{dice.randrange(10**6)}", "amount": f"{dice.randrange(10**5) / 100:.2f}", "currency": "EUR",
            "state": dice.choice(["booked", "pending"]), "note": "für Ä & Co, zwölf Stück", "tags": ["a", "b"], "fee": dice.randrange(500) / 100,
            "booked_at": "2026-11-26T12:00:00Z", "reversed": None})
    control = json.dumps({"payments": payments, "next": None}, ensure_ascii=False)
    payments[len(payments) // 2]["fee"] = 99.5
    reordered = [dict(sorted(one.items())) for one in payments]
    candidate = json.dumps({"next": None, "payments": reordered}, ensure_ascii=False, separators=(",", ":"))
    files = [folder / f"{kib}-{side}.json" for side in ("control", "candidate")]
    for file, text in zip(files, (control, candidate)):
        file.write_text(text)
    return files


def deepdiff():
    """A Python that has it."""
    home = machine.CACHE / "deepdiff"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", DEEPDIFF], check=True)
    return str(python)


def run(command):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if ran.returncode:
        sys.exit(f"error: {command[2]} failed: {ran.stderr[-2000:]}")
    return ran.stdout.splitlines()


if __name__ == "__main__":
    main()
