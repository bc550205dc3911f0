"""The real parts of the measurement: PostgreSQL, Apache Kafka, Debezium on Kafka Connect, Banyan. Each on ports of its own.

PostgreSQL is the machine's; Kafka and Debezium are fetched once by Maven into target/bench/.
"""
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

import machine

HERE = pathlib.Path(__file__).resolve().parent
TABLE = """CREATE TABLE public.payments (id bigint PRIMARY KEY, account bigint NOT NULL, amount numeric(12,2) NOT NULL,
  status text NOT NULL, note text, at timestamptz NOT NULL)"""

# What a database says of its rows; equal on both sides when every row arrived whole.
CHECKSUM = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(p::text, 0)), 0) FROM public.payments p"


class Postgres:
    """A server of the machine's PostgreSQL on a data directory of its own: durable commits, logical WAL."""

    kind = "postgres"

    def __init__(self, place, name):
        self.port = machine.free_port()
        folder = place.dir / name
        folder.mkdir()
        # PostgreSQL refuses to run as root.
        other = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if other:
            shutil.chown(folder, "nobody", "nogroup")
        command = [machine.find("initdb"), "-D", folder / "data", "-U", "bench", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **other)
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "wal_level": "logical",
                    "max_replication_slots": 60, "max_wal_senders": 60, "max_connections": 200, "shared_buffers": "256MB",
                    "max_wal_size": "8GB", "checkpoint_timeout": "30min", "track_commit_timestamp": "on", "autovacuum": "off"}
        command = [machine.find("postgres"), "-D", folder / "data"] + [f"--{k}={v}" for k, v in settings.items()]
        self.process = place.start(command, cwd="/", **other)
        machine.wait_port(self.port, self.process)
        self.place = place
        end = time.monotonic() + 15
        while subprocess.run(["psql", "-XAtqc", "SELECT 1", self.url()], capture_output=True).returncode and time.monotonic() < end:
            time.sleep(0.1)

    def url(self, database="postgres"):
        return f"postgres://bench:x@127.0.0.1:{self.port}/{database}"

    def session(self, database="postgres"):
        return Session(self.place, self.url(database))


class MariaDb:
    """A server of the machine's MariaDB on a data directory of its own, with the log that capture needs."""

    kind = "mysql"

    def __init__(self, place):
        self.port = machine.free_port()
        folder = place.dir / "mariadb"
        folder.mkdir()
        other = ["--user=nobody"] if os.geteuid() == 0 else []
        if other:
            shutil.chown(folder, "nobody", "nogroup")
        subprocess.run([machine.find("mariadb-install-db"), "--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}",
                        "--auth-root-authentication-method=normal", "--skip-test-db", *other], check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.process = place.start([
            machine.find("mariadbd"), "--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}", f"--socket={folder}/s",
            f"--pid-file={folder}/pid", f"--port={self.port}", "--bind-address=127.0.0.1", "--log-bin=binlog", "--server-id=1",
            "--binlog-format=ROW", "--binlog-row-image=FULL", "--binlog-row-metadata=FULL", "--character-set-server=utf8mb4",
            "--skip-name-resolve", "--innodb-buffer-pool-size=256M", "--max-allowed-packet=64M", *other], cwd="/")
        machine.wait_port(self.port, self.process)
        self.ask("CREATE USER bench@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO bench@'%'")

    def url(self, database):
        return f"mysql://bench:x@127.0.0.1:{self.port}/{database}"

    def ask(self, sql):
        """The answer's lines as one text; ends the script on an error."""
        said = subprocess.run([machine.find("mariadb"), "-h", "127.0.0.1", "-P", str(self.port), "-u", "root", "-BN"], input=sql,
                              capture_output=True, text=True)
        if said.returncode:
            sys.exit(f"error: mariadb: {said.stderr}")
        return said.stdout.strip()

    def number(self, sql):
        return int(self.ask(sql) or 0)


class Session:
    """One connection, through psql: no driver is needed, and asking takes a round trip."""

    def __init__(self, place, url):
        self.psql = subprocess.Popen(["psql", "-XAtq", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     text=True, bufsize=1, start_new_session=True)
        self.psql.log = os.devnull
        place.running.append(self.psql)

    def ask(self, sql):
        """The answer's lines as one text; ends the script on an error."""
        self.tell(sql)
        return self.answer()

    def tell(self, sql):
        """Sends it without waiting; `answer` waits."""
        self.psql.stdin.write(sql.strip().rstrip(";") + "\n;\n\\echo -end-\n")
        self.psql.stdin.flush()

    def answer(self):
        lines = []
        for line in self.psql.stdout:
            if line == "-end-\n":
                break
            lines.append(line.rstrip("\n"))
        text = "\n".join(lines)
        if "ERROR:" in text or self.psql.poll() is not None:
            sys.exit(f"error: psql: {text}")
        return text

    def number(self, sql):
        return int(self.ask(sql) or 0)

    def end(self):
        self.psql.stdin.close()
        self.psql.wait(10)


class Kafka:
    """One broker that is its own controller."""

    def __init__(self, place):
        libs = fetched("kafka")
        folder = place.dir / "kafka"
        folder.mkdir()
        self.port = machine.free_port()
        controller = machine.free_port()
        conf = folder / "server.properties"
        conf.write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
num.partitions=1
""")
        classes = ["-cp", f"{libs}/*"]
        cluster = subprocess.run(["java", *classes, "kafka.tools.StorageTool", "random-uuid"], check=True, capture_output=True, text=True)
        subprocess.run(["java", *classes, "kafka.tools.StorageTool", "format", "-t", cluster.stdout.strip().splitlines()[-1], "-c", conf,
                        "--standalone"], check=True, capture_output=True)
        self.process = place.start(["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", *classes, "kafka.Kafka", conf], cwd=folder)
        machine.wait_port(self.port, self.process, 60)
        self.socket = None

    def end(self, topic):
        """The end offset of partition 0, by ListOffsets version 1 on a connection that is kept: cheap enough to ask every few ms."""
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), 10)
        name = topic.encode()
        body = struct.pack(">hhih5s", 2, 1, 7, 5, b"bench") + struct.pack(">ii", -1, 1)
        body += struct.pack(">h", len(name)) + name + struct.pack(">iiq", 1, 0, -1)
        self.socket.sendall(struct.pack(">i", len(body)) + body)
        answer = self.take(struct.unpack(">i", self.take(4))[0])
        error, _, offset = struct.unpack(">hqq", answer[-18:])
        return offset if error == 0 else 0

    def offsets(self, topic, complete, seconds=600):
        """Times and end offsets of a topic, every few ms until complete(offset)."""
        series = [(time.monotonic(), self.end(topic))]
        end = time.monotonic() + seconds
        while not complete(series[-1][1]):
            if time.monotonic() > end:
                sys.exit(f"error: {topic} stands at {series[-1][1]} after {seconds} s")
            time.sleep(0.005)
            series.append((time.monotonic(), self.end(topic)))
        return series

    def take(self, n):
        got = b""
        while len(got) < n:
            part = self.socket.recv(n - len(got))
            if not part:
                sys.exit("error: Kafka closed the connection")
            got += part
        return got


class Connect:
    """Kafka Connect with Debezium; its connectors by REST."""

    def __init__(self, place, kafka):
        libs = fetched("debezium")
        folder = place.dir / "connect"
        (folder / "plug").mkdir(parents=True)
        self.port = machine.free_port()
        (folder / "connect.properties").write_text(f"""bootstrap.servers=127.0.0.1:{kafka.port}
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
offset.storage.file.filename={folder}/offsets
offset.flush.interval.ms=1000
listeners=http://127.0.0.1:{self.port}
plugin.path={folder}/plug
plugin.discovery=hybrid_warn
""")
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        self.process = place.start(["java", "-Xmx1g", "-cp", f"{libs}/*", main, folder / "connect.properties"], cwd=folder)
        machine.wait_port(self.port, self.process, 120)
        eventually("Kafka Connect answers", lambda: self.rest("GET", "/connectors") == [], 60)

    def rest(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers={"Content-Type": "application/json"},
                                         data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return {"error": error.code, "text": error.read().decode(errors="replace")[:2000]}
        except urllib.error.URLError as error:
            return {"error": str(error)}

    def source(self, name, postgres, schemas):
        """A source connector in state RUNNING whose slot streams; its topic is `name.public.payments`."""
        converter = {f"{part}.converter": "org.apache.kafka.connect.json.JsonConverter" for part in ("key", "value")}
        converter |= {f"{part}.converter.schemas.enable": str(schemas).lower() for part in ("key", "value")}
        self.create(name, converter | {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput",
            "database.hostname": "127.0.0.1", "database.port": str(postgres.port), "database.user": "bench", "database.password": "x",
            "database.dbname": "shop", "topic.prefix": name, "table.include.list": "public.payments", "slot.name": name,
            "publication.name": "debezium", "publication.autocreate.mode": "filtered", "max.batch.size": "8192", "max.queue.size": "32768",
            "poll.interval.ms": "5", "producer.override.linger.ms": "5"})

    def mariadb(self, name, server, number, kafka):
        """The same of a MariaDB, without schemas; its topic is `name.shop.payments`."""
        converter = {f"{part}.converter": "org.apache.kafka.connect.json.JsonConverter" for part in ("key", "value")}
        converter |= {f"{part}.converter.schemas.enable": "false" for part in ("key", "value")}
        self.create(name, converter | {
            "connector.class": "io.debezium.connector.mariadb.MariaDbConnector", "database.hostname": "127.0.0.1",
            "database.port": str(server.port), "database.user": "bench", "database.password": "x", "database.server.id": str(number),
            "topic.prefix": name, "database.include.list": "shop", "table.include.list": "shop.payments",
            "schema.history.internal.kafka.bootstrap.servers": f"127.0.0.1:{kafka.port}",
            "schema.history.internal.kafka.topic": f"{name}.history", "max.batch.size": "8192", "max.queue.size": "32768",
            "poll.interval.ms": "5", "producer.override.linger.ms": "5"})

    def sink(self, name, topic, postgres, database):
        """A JDBC sink of that topic; it needs records with schemas."""
        converter = {f"{part}.converter": "org.apache.kafka.connect.json.JsonConverter" for part in ("key", "value")}
        converter |= {f"{part}.converter.schemas.enable": "true" for part in ("key", "value")}
        self.create(name, converter | {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "topics": topic,
            "connection.url": f"jdbc:postgresql://127.0.0.1:{postgres.port}/{database}", "connection.username": "bench",
            "connection.password": "x", "insert.mode": "upsert", "primary.key.mode": "record_key", "delete.enabled": "true",
            "schema.evolution": "basic", "collection.name.format": "payments", "batch.size": "500"})

    def create(self, name, config):
        made = self.rest("POST", "/connectors", {"name": name, "config": config})
        if "error" in made:
            sys.exit(f"error: connector {name}: {made}")
        self.wait(name, "RUNNING")

    def stop(self, name):
        """Ends the connector's task, so that nothing is read ahead; `resume` starts it again."""
        self.rest("PUT", f"/connectors/{name}/stop")
        self.wait(name, "STOPPED")

    def resume(self, name):
        self.rest("PUT", f"/connectors/{name}/resume")

    def remove(self, name):
        self.rest("DELETE", f"/connectors/{name}")

    def wait(self, name, state):
        def reached():
            status = self.rest("GET", f"/connectors/{name}/status")
            tasks = [t["state"] for t in status.get("tasks", [])]
            if "FAILED" in tasks:
                sys.exit(f"error: connector {name}: {status['tasks'][0].get('trace', '')[:2000]}")
            return status.get("connector", {}).get("state") == state and (state == "STOPPED" and not tasks or tasks == [state])
        eventually(f"{name} is {state}", reached, 60)


class Banyan:
    """`banyan run --only connectors` with one sync of one table; one install a round, so that all read the same WAL."""

    def __init__(self, place, binary, install, kafka, legacy, modern, database, table="public.payments", more=""):
        self.place, self.binary = place, binary
        self.topic = f"{install}.payments.legacy_to_modern"
        self.folder = place.dir / install
        self.folder.mkdir()
        self.process = None
        self.admin = machine.free_port()
        unused = machine.free_port()
        (self.folder / "routes.yaml").write_text(f"""version: 1
install: {install}
listeners:
  - {{bind: "127.0.0.1:{unused}"}}
admin: {{bind: "127.0.0.1:{self.admin}"}}
state: {{dir: {self.folder}/state}}
upstreams:
  monolith: {{endpoints: ["http://127.0.0.1:{unused}"]}}
default: monolith
kafka: {{brokers: "127.0.0.1:{kafka.port}"{more}}}
syncs:
  payments:
    owner: legacy
    legacy: {{{legacy.kind}: "{legacy.url('shop')}"}}
    modern: {{{modern.kind}: "{modern.url(database)}"}}
    tables:
      - {table}
""")

    def start(self):
        self.process = self.place.start([self.binary, "run", "--only", "connectors", "-c", self.folder / "routes.yaml"], cwd=self.folder)

    def stop(self):
        self.place.stop(self.process)

    def pids(self):
        return machine.tree(self.process.pid)


def fetched(name):
    """The folder of the jars that `<name>-pom.xml` names, fetched once."""
    folder = machine.CACHE / name
    libs = folder / "libs"
    wanted = (HERE / f"{name}-pom.xml").read_text()
    if not libs.exists() or not (folder / "pom.xml").exists() or (folder / "pom.xml").read_text() != wanted:
        machine.programs("mvn")
        print(f"fetching the jars of {name} (75 to 110 MB, once)", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(wanted)
        shutil.rmtree(libs, ignore_errors=True)
        subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libs}.partial", "-DincludeScope=runtime"],
                       cwd=folder, check=True)
        pathlib.Path(f"{libs}.partial").rename(libs)
    return libs


def eventually(what, holds, seconds, every=0.1):
    """Waits for it, bounded."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"error: waited {seconds} s in vain: {what}")
        time.sleep(every)
