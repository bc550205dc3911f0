"""What both measurements need of this machine: programs, processes that end with the script, CPU and memory of them.

Not for measuring: what is compared with what stands in http/ and cdc/.
"""
import atexit
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "target" / "bench"

# The Debian or Ubuntu package that holds a program.
PACKAGES = {
    "nginx": "nginx-light", "haproxy": "haproxy", "cc": "gcc libc6-dev", "valgrind": "valgrind", "perf": "linux-perf",
    "strace": "strace", "h2load": "nghttp2-client", "openssl": "openssl", "java": "default-jre-headless", "mvn": "maven", "psql": "postgresql-client",
    "pg_recvlogical": "postgresql-client", "mariadbd": "mariadb-server-core", "mariadb-install-db": "mariadb-server-core", "mariadb": "mariadb-client-core", "pgbench": "postgresql", "initdb": "postgresql", "taskset": "util-linux",
}


def programs(*names):
    """Ends the script, saying what to install, unless every program is there."""
    missing = [name for name in names if not find(name)]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        sys.exit(f"error: not found: {', '.join(missing)}\nhint: apt-get install --no-install-recommends {packages}")


def find(name):
    """A program on the path, or among PostgreSQL's own, which Debian keeps off the path; else None."""
    servers = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    return shutil.which(name) or next((str(d / name) for d in servers if (d / name).exists()), None)


def banyan_binary(given):
    """The Banyan to measure: the one given, else that of the `dist` profile, which bars are meant for."""
    binary = pathlib.Path(given) if given else ROOT / "target" / "dist" / "banyan"
    if not binary.exists():
        sys.exit(f"error: no {binary}\nhint: cargo build --profile dist, or --banyan FILE")
    return str(binary.resolve())


def describe():
    """One line: processor, cores, memory, kernel."""
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, load {os.getloadavg()[0]:.2f} at the start"


def free_port():
    """A port of loopback that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, process, seconds=30):
    """Until something listens there; ends the script when the process dies before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    tail = pathlib.Path(process.log).read_text(errors="replace")[-2000:]
    sys.exit(f"error: nothing listens on {port}: {' '.join(map(str, process.args))}\n{tail}")


class Workplace:
    """A temporary folder and the processes of one run; both are gone when the script ends, however it ends."""

    def __init__(self, name):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"banyan-bench-{name}-"))
        self.dir.chmod(0o755)
        self.running = []
        atexit.register(self.clean)
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, lambda *_: sys.exit(1))
        # 10,000 idle connections want more descriptors than the usual 1,024.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def start(self, command, core=None, **more):
        """A process in a group of its own, its output in a file of the folder."""
        command = (["taskset", "-c", str(core)] if core is not None else []) + [str(c) for c in command]
        log = self.dir / f"process-{len(self.running)}.log"
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(log, "wb"), stderr=subprocess.STDOUT,
                                   start_new_session=True, **more)
        process.log = log
        self.running.append(process)
        return process

    def stop(self, process, sign=signal.SIGTERM, seconds=15):
        """Ends one process and what it started."""
        for attempt in (sign, signal.SIGKILL):
            try:
                os.killpg(process.pid, attempt)
            except ProcessLookupError:
                pass
            try:
                process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue

    def clean(self):
        for process in reversed(self.running):
            if process.poll() is None:
                self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)


def tree(pid):
    """A process and all below it."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            for child in (task / "children").read_text().split():
                pids += tree(int(child))
        except FileNotFoundError:
            pass
    return pids


def cpu_seconds(pids):
    """User and system time of all threads, those that have ended too; in steps of a hundredth of a second."""
    total = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except FileNotFoundError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


def children_seconds(pid):
    """The same of those that it has started and waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def goes_first(pids):
    """Lets these run whenever they can, whatever else would (SCHED_FIFO). Niceness is not enough: with the kernel's autogroups it counts
    within a session alone, and a waking process need not wait less for it."""
    for pid in pids:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))


def memory_kib(pids, key="Rss"):
    """Resident memory now, or its peak with `key="VmHWM"`, summed."""
    total = 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/{'status' if key.startswith('Vm') else 'smaps_rollup'}").read_text()
        except FileNotFoundError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith(key + ":")), 0)
    return total


def json_line(text):
    """What a loader printed."""
    if not text.strip():
        sys.exit("error: the loader printed nothing")
    return json.loads(text)


def table(head, rows):
    """Markdown, as it goes into README.md."""
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])
