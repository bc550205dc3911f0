#!/usr/bin/env python3
"""The shop at its peak: the monolith alone, and behind Banyan with the hot route moved, offered three times what it can serve.

The monolith is examples/legacy-app over a PostgreSQL of its own, with `CAPACITY` set: beyond so many pages at once it collapses. Payments are the hot
route; examples/payments-service answers them once they are moved. Prints Markdown tables, writes all figures to target/bench/peak.json.
About five minutes with its defaults.

    cargo build --release -p banyan -p legacy-app -p payments-service
    bench/peak/run.py
"""
import argparse
import asyncio
import json
import pathlib
import random
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "cdc"))
import machine  # noqa: E402
import parts  # noqa: E402

KEY = "0123456789abcdef0123456789abcdef"
# What a customer needs, besides the hot route; each is asked for in turn.
PAGES = ["/inventory", "/inventory/fig-tree", "/accounts", "/"]
HOT = "/payments"


def main():
    options = arguments()
    machine.programs("initdb", "postgres", "psql")
    place = machine.Workplace("peak")
    report = {"machine": machine.describe(), "options": vars(options)}
    print(report["machine"], flush=True)
    bench = Bench(place, options)

    best = report["best"] = bench.best()
    print(f"\nthe monolith's best: {best:.0f} good answers a second, with {options.capacity} pages at once; offered in the pulse: {3 * best:.0f}", flush=True)
    runs = [("monolith alone", None, 70), ("behind Banyan, nothing moved", 0, 70)]
    runs += [(f"{share} % of the load moved", 100, share) for share in options.shares]
    report["runs"], rows, alone = [], [], None
    for name, weight, share in runs:
        run = bench.peak(best, weight, share) | {"name": name}
        alone = run if weight is None else alone
        # What the monolith is still asked for, or can do; and what it is not asked for any more.
        moved = 3 * best * share / 100 if weight else 0
        possible = moved + min(best, 3 * best - moved)
        run["of possible"] = run["goodput"] / possible * 100
        less = (1 - run["downtime"] / alone["downtime"]) * 100 if alone["downtime"] else 0
        report["runs"].append(run)
        rows.append([name, f"{run['goodput']:.0f}", f"{run['of possible']:.0f} %", f"{run['customers']:.1f} %", run["downtime"],
                     "–" if weight is None else f"{less:.0f} %", *(f"{run[key]:.0f}" if run["goodput"] else "–" for key in ("p50", "p99"))])
        print(f"  {name}: {rows[-1][1:]}", file=sys.stderr, flush=True)
    head = ["in the pulse", "good answers/s", "of what is possible", "good, of all asked", "seconds down", "less than alone", "p50 ms of the good", "p99"]
    print("\n" + machine.table(head, rows), flush=True)
    machine.CACHE.mkdir(parents=True, exist_ok=True)
    (machine.CACHE / "peak.json").write_text(json.dumps(report, indent=1))


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--programs", default=str(machine.ROOT / "target" / "release"), help="the folder with banyan, legacy-app and payments-service")
    a.add_argument("--capacity", type=int, default=8, help="pages that the monolith serves at once")
    a.add_argument("--pulse", type=int, default=15, help="seconds at three times its capacity")
    a.add_argument("--calm", type=int, default=6, help="seconds at half its capacity, before and behind")
    a.add_argument("--patience", type=float, default=2.0, help="seconds after which a customer has gone: no good answer any more")
    a.add_argument("--shares", default="50,60,70,80", type=lambda s: [int(n) for n in s.split(",")])
    return a.parse_args()


class Bench:
    def __init__(self, place, options):
        self.place, self.options = place, options
        self.programs = pathlib.Path(options.programs)
        for program in ("banyan", "legacy-app", "payments-service"):
            if not (self.programs / program).exists():
                sys.exit(f"error: no {self.programs / program}\nhint: cargo build --release -p banyan -p legacy-app -p payments-service")
        postgres = parts.Postgres(place, "postgres")
        session = postgres.session()
        for database in ("shop", "payments"):
            session.ask(f"CREATE DATABASE {database}")
        self.urls = {name: postgres.url(name) for name in ("shop", "payments")}
        service = self.service("payments-service", "payments")
        self.service_port = service[1]
        # Both sides know the same payments.
        filled = "INSERT INTO payments (account_id, amount) SELECT 1, 19.90 FROM generate_series(1, 100)"
        postgres.session("payments").ask(filled)

    def service(self, program, database, **more):
        port = machine.free_port()
        environment = {"BIND": f"127.0.0.1:{port}", "DATABASE_URL": self.urls[database], "SESSION_KEY": KEY, **more}
        process = self.place.start([self.programs / program], env=environment)
        machine.wait_port(port, process)
        return process, port

    def monolith(self):
        return self.service("legacy-app", "shop", CAPACITY=str(self.options.capacity))

    def banyan(self, monolith, weight):
        port, admin = machine.free_port(), machine.free_port()
        state = self.place.dir / f"state-{port}"
        file = self.place.dir / f"routes-{port}.yaml"
        file.write_text(f"""version: 1
workers: 2
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: {{bind: "127.0.0.1:{admin}"}}
state: {{dir: "{state}"}}
upstreams:
  monolith:
    endpoints: ["http://127.0.0.1:{monolith}"]
    limits: {{adaptive: true, queue: 50, queue_time: 500ms}}
  payments: {{endpoints: ["http://127.0.0.1:{self.service_port}"], circuit: {{}}}}
default: monolith
routes:
  - {{name: payments, match: {{path_prefix: {HOT}}}, legacy: monolith, modern: payments, weight: {weight}}}
""")
        process = self.place.start([self.programs / "banyan", "run", "-c", file])
        machine.wait_port(port, process)
        return process, port

    def best(self):
        """Good answers a second with as many clients as suit the monolith; the best of three."""
        process, port = self.monolith()
        rates = [asyncio.run(closed(port, self.options.capacity, 4)) for _ in range(3)]
        self.place.stop(process)
        return max(rates)

    def peak(self, best, weight, share):
        """One pulse. `weight` None: no Banyan at all."""
        started = [self.monolith()]
        if weight is not None:
            started.append(self.banyan(started[0][1], weight))
        o = self.options
        load = Load(started[-1][1], share, o.patience)
        phases = [(o.calm, best / 2), (o.pulse, 3 * best), (o.calm + 4, best / 2)]
        asyncio.run(load.run(phases))
        for process, _ in reversed(started):
            self.place.stop(process)
        return load.verdict(o.calm, o.pulse)


class Load:
    """Customers come whether or not the shop is well: an open loop, each on a connection that was idle or on a new one."""

    def __init__(self, port, share, patience):
        self.port, self.share, self.patience = port, share, patience
        self.idle = []
        # When it was due, whether it was answered well, how long it took.
        self.asked = []
        self.random = random.Random(7)

    async def run(self, phases):
        began, due, tasks = time.monotonic(), 0.0, set()
        end = 0.0
        for seconds, rate in phases:
            due, end = max(due, end), end + seconds
            while due < end:
                wait = began + due - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                task = asyncio.ensure_future(self.customer(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due += self.random.expovariate(rate)
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()

    def page(self):
        return f"{HOT}/{self.random.randint(1, 20)}" if self.random.random() * 100 < self.share else self.random.choice(PAGES)

    async def customer(self, due):
        began, link, good = time.monotonic(), [], False

        async def visit():
            link.extend(self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port))
            return await ask(*link, self.page())

        try:
            good = await asyncio.wait_for(visit(), self.patience)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError):
            for writer in link[1:]:
                writer.close()
        else:
            self.idle.append(tuple(link))
        self.asked.append((due, good, time.monotonic() - began))

    def verdict(self, calm, pulse):
        seconds = {}
        for due, good, _ in self.asked:
            seconds.setdefault(int(due), []).append(good)
        down = sum(1 for answers in seconds.values() if sum(answers) < 0.99 * len(answers))
        inside = [(good, took) for due, good, took in self.asked if calm <= due < calm + pulse]
        times = sorted(took * 1000 for good, took in inside if good) or [float("nan")]
        return {
            "asked": len(inside), "goodput": sum(good for good, _ in inside) / pulse,
            "customers": 100 * sum(good for good, _ in inside) / len(inside), "downtime": down,
            "p50": statistics.median(times), "p99": times[int(len(times) * 0.99) - 1 if len(times) > 1 else 0],
            "by second": {second: [sum(answers), len(answers)] for second, answers in sorted(seconds.items())},
        }


async def ask(reader, writer, page):
    """One request; whether it was answered 200, with the whole body read."""
    writer.write(f"GET {page} HTTP/1.1\r\nHost: shop\r\nAccept: application/json\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if "content-length:" in head:
        await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
    elif "chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return head.split(" ")[1] == "200"


async def closed(port, clients, seconds):
    """Good answers a second when each client asks again as soon as it is answered."""
    good, end = 0, time.monotonic() + seconds + 1

    async def client(number):
        nonlocal good
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pages = [f"{HOT}/1", *PAGES]
        while time.monotonic() < end:
            answer = await ask(reader, writer, pages[number % len(pages)])
            number += 1
            good += answer and time.monotonic() > end - seconds
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return good / seconds


if __name__ == "__main__":
    main()
