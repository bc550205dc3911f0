//! Real Apache Kafka: broker and controller in one process, from jars that `tests/run` fetched.

use std::{
    env,
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};

use super::{
    Wire, ports,
    watchdog::{self, Signal, Watched},
};

static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::dedicated);

/// One broker. Restarts keep port and data.
#[derive(Debug)]
pub(crate) struct Kafka {
    folder: PathBuf,
    port: u16,
    /// The way in for a client that a test wants to cut off: its own listener, which names the wire as its address.
    wire: Wire,
    /// No file of it may grow beyond so many KiB.
    largest_file: Mutex<Option<u32>>,
    process: Mutex<Option<Watched>>,
}

/// What a broker has beside the usual.
#[derive(Debug, Default)]
pub(crate) struct More {
    /// Name, port and protocol of each.
    pub(crate) listeners: Vec<(&'static str, u16, &'static str)>,
    /// Lines of `server.properties`; they win over the usual ones.
    pub(crate) properties: String,
    /// Of the formatting: `--add-scram` and its values.
    pub(crate) arguments: Vec<String>,
}

/// One record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
}

// === impl Kafka ===

impl Kafka {
    /// The broker that all tests of this process share; topics carry each test's own names.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// A broker for one test, which may stop or kill it.
    pub(crate) fn dedicated() -> Self {
        Self::with(&More::default())
    }

    /// The same with more.
    pub(crate) fn with(more: &More) -> Self {
        let [port, controller] = [(); 2].map(|()| ports::reserve());
        let quorum = format!("controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n");
        let mut arguments = vec!["--standalone".to_owned()];
        arguments.extend(more.arguments.iter().cloned());
        let kafka =
            Self::node(1, port, controller, &format!("{quorum}{}", more.properties), &more.listeners, &arguments);
        kafka.start();
        kafka
    }

    /// One of a cluster, formatted and not started.
    pub(super) fn node(
        id: usize,
        port: u16,
        controller: u16,
        more: &str,
        listeners: &[(&str, u16, &str)],
        arguments: &[String],
    ) -> Self {
        let folder = watchdog::folder("kafka");
        let behind = ports::reserve();
        let wire = Wire::to(behind);
        let list = |part: fn(&str, u16, &str) -> String| -> String {
            listeners.iter().map(|(name, port, protocol)| format!(",{}", part(name, *port, protocol))).collect()
        };
        fs::write(
            folder.join("server.properties"),
            format!(
                "process.roles=broker,controller\n\
                 node.id={id}\n\
                 listeners=DIRECT://127.0.0.1:{port},WIRED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}{}\n\
                 advertised.listeners=DIRECT://127.0.0.1:{port},WIRED://127.0.0.1:{}{}\n\
                 inter.broker.listener.name=DIRECT\n\
                 controller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,DIRECT:PLAINTEXT,WIRED:PLAINTEXT{}\n\
                 log.dirs={}\n\
                 log.retention.check.interval.ms=1000\n\
                 broker.heartbeat.interval.ms=200\n\
                 broker.session.timeout.ms=1500\n\
                 auto.create.topics.enable=false\n\
                 offsets.topic.replication.factor=1\n\
                 offsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor=1\n\
                 transaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\n\
                 num.partitions=1\n\
                 {more}",
                list(|name, port, _| format!("{name}://127.0.0.1:{port}")),
                wire.port(),
                // By name: certificates are for names.
                list(|name, port, _| format!("{name}://localhost:{port}")),
                list(|name, _, protocol| format!("{name}:{protocol}")),
                folder.join("data").display(),
            ),
        )
        .unwrap();
        let kafka = Self { folder, port, wire, largest_file: Mutex::default(), process: Mutex::default() };
        // Any id will do: nobody else's cluster is near.
        let format = ["kafka.tools.StorageTool", "format", "-t", "QmFueWFuVGVzdHMAAAAAAA", "-c", "server.properties"];
        kafka.tool(&[&format[..], &arguments.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        kafka
    }

    /// Runs a class of Kafka's to its end, and gives what it printed.
    pub(crate) fn tool(&self, arguments: &[&str]) -> String {
        let done = java(None).args(arguments).current_dir(&self.folder).output().expect("java runs");
        let told = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {told}");
        told
    }

    /// From its next start on, no file may grow beyond so many KiB, as on a full disk: a write that would is refused (`EFBIG` in the place of
    /// `ENOSPC`, for which nobody's rights are needed). None: the disk has room again.
    pub(crate) fn limit_files(&self, largest: Option<u32>) {
        *self.largest_file.lock().unwrap() = largest;
    }

    /// Whether its process runs.
    pub(crate) fn runs(&self) -> bool {
        self.process.lock().unwrap().as_mut().is_some_and(|running| running.exited().is_none())
    }

    /// For `kafka: {brokers: …}`.
    pub(crate) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same through the wire.
    pub(crate) fn brokers_through_wire(&self) -> String {
        format!("127.0.0.1:{}", self.wire.port())
    }

    /// Cuts and pauses those who came in by [`Self::brokers_through_wire`].
    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Starts it on its port and its data; no effect when it runs.
    pub(crate) fn start(&self) {
        self.launch();
        self.answers();
    }

    /// The same without waiting for it.
    pub(super) fn launch(&self) {
        let mut process = self.process.lock().unwrap();
        if process.as_mut().is_some_and(|running| running.exited().is_none()) {
            return;
        }
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        *process = Some(Watched::spawn(
            java(*self.largest_file.lock().unwrap())
                .args(["kafka.Kafka", "server.properties"])
                .current_dir(&self.folder)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log),
            Signal::Kill,
        ));
    }

    /// Waits until it answers.
    pub(super) fn answers(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                self.runs() && Instant::now() < end,
                "Kafka on port {} did not start:\n{}",
                self.port,
                watchdog::tail(&self.log(), 30)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        // It accepts before it has read its metadata; what follows needs a broker that answers.
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        while consumer.fetch_metadata(None, Duration::from_secs(1)).map_or(true, |all| all.brokers().is_empty()) {
            assert!(Instant::now() < end, "Kafka does not answer:\n{}", watchdog::tail(&self.log(), 30));
        }
    }

    /// Polite stop.
    pub(crate) fn stop(&self) {
        self.end(Signal::Term);
    }

    /// kill -9.
    pub(crate) fn kill(&self) {
        self.end(Signal::Kill);
    }

    fn end(&self, signal: Signal) {
        if let Some(mut running) = self.process.lock().unwrap().take() {
            running.end(signal, Duration::from_secs(60));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(running) = self.process.lock().unwrap().as_mut() {
            running.signal(signal);
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// A librdkafka configuration that reaches this broker.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    /// Makes a topic with settings such as `("retention.ms", "1000")`.
    pub(crate) async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let made = self.admin().create_topics([&new], &AdminOptions::new()).await.expect("Kafka answers");
        made.into_iter().for_each(|one| drop(one.expect("the topic is made")));
    }

    /// Deletes a topic with all that stands in it.
    pub(crate) async fn delete_topic(&self, topic: &str) {
        let gone = self.admin().delete_topics(&[topic], &AdminOptions::new()).await.expect("Kafka answers");
        gone.into_iter().for_each(|one| drop(one.expect("the topic is deleted")));
    }

    /// One setting of a topic as it is in force.
    pub(crate) async fn setting(&self, topic: &str, name: &str) -> Option<String> {
        let asked = [ResourceSpecifier::Topic(topic)];
        let mut shown = self.admin().describe_configs(&asked, &AdminOptions::new()).await.expect("Kafka answers");
        let shown = shown.pop().expect("one answer").expect("the settings are shown");
        shown.get(name).and_then(|entry| entry.value.clone())
    }

    /// Changes settings of a topic; those not named fall back to the broker's.
    pub(crate) async fn alter_topic(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in settings {
            change = change.set(key, value);
        }
        let done = self.admin().alter_configs([&change], &AdminOptions::new()).await.expect("Kafka answers");
        done.into_iter().for_each(|one| drop(one.expect("the settings are taken")));
    }

    /// Deletes the head of partition 0, as retention would, up to but without `offset`.
    pub(crate) async fn delete_before(&self, topic: &str, offset: i64) {
        let mut upto = TopicPartitionList::new();
        upto.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("an offset");
        self.admin().delete_records(&upto, &AdminOptions::new()).await.expect("the head is deleted");
    }

    /// Which broker leads partition 0 of a topic.
    pub(super) fn leader(&self, topic: &str) -> Option<usize> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        let all = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).ok()?;
        usize::try_from(all.topics().first()?.partitions().first()?.leader()).ok()
    }

    /// First and next offset of partition 0; `None` when there is no such topic.
    pub(crate) fn ends(&self, topic: &str) -> Option<(i64, i64)> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).ok()
    }

    /// All records that stand in partition 0 now.
    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        self.records_of(topic, 0)
    }

    /// The same of all partitions, each with its partition's number; none when there is no such topic.
    pub(crate) fn all_records(&self, topic: &str) -> Vec<(i32, Record)> {
        let consumer: BaseConsumer = self.client().create().expect("a consumer");
        let all = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("Kafka answers");
        let partitions = all.topics().first().map_or(0, |topic| topic.partitions().len());
        let of = |partition| self.records_of(topic, partition).into_iter().map(move |record| (partition, record));
        (0..i32::try_from(partitions).expect("a number")).flat_map(of).collect()
    }

    fn records_of(&self, topic: &str, partition: i32) -> Vec<Record> {
        let consumer: BaseConsumer = self.client().set("group.id", "test").create().expect("a consumer");
        let until = Instant::now() + Duration::from_secs(10);
        let (low, end) = loop {
            match consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)) {
                Ok(ends) => break ends,
                // Of a topic that was just made, some partition may have no leader yet.
                Err(error) => assert!(Instant::now() < until, "{topic}: {error}"),
            }
        };
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, partition, Offset::Offset(low)).expect("an offset");
        consumer.assign(&all).expect("an assignment");
        let mut records = Vec::new();
        while records.last().map_or(low, |last: &Record| last.offset + 1) < end {
            let message = consumer.poll(Duration::from_secs(10)).expect("a record within 10 s").expect("a record");
            let headers = message.headers().map(|all| {
                all.iter().map(|one| (one.key.to_owned(), one.value.unwrap_or_default().to_vec())).collect()
            });
            records.push(Record {
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                headers: headers.unwrap_or_default(),
                timestamp: message.timestamp().to_millis().unwrap_or_default(),
            });
        }
        records
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // A poisoned lock here would turn one failed test into an aborted run.
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn java(largest_file: Option<u32>) -> Command {
    let jars = env::var_os("BANYAN_TEST_KAFKA_LIBS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-cache/kafka/libs"), PathBuf::from);
    assert!(
        fs::read_dir(&jars).is_ok_and(|mut files| files.next().is_some()),
        "no Kafka jars in {}: run ./tests/run, which fetches them, or name their folder in BANYAN_TEST_KAFKA_LIBS",
        jars.display()
    );
    let java = env::var_os("JAVA_HOME").map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java"));
    let mut command = match largest_file {
        // The shell's own limit, in blocks of 512 bytes, holds for what it becomes; nobody's rights are needed.
        Some(kib) => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -f {} && exec \"$@\"", kib * 2), "java"]).arg(java);
            command
        }
        None => Command::new(java),
    };
    // A small heap and the quick compiler: it starts in 1.5 s and leaves the cores to the tests.
    command.args([
        "-Xmx384m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]);
    // Made by tests/run; one that does not fit is passed over.
    let classes = jars.with_file_name("classes.jsa");
    if classes.is_file() {
        let mut archive = std::ffi::OsString::from("-XX:SharedArchiveFile=");
        archive.push(classes);
        command.arg(archive);
    }
    command.arg("-cp").arg(jars.join("*"));
    command
}
