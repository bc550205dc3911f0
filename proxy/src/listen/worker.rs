//! The data plane's threads: one `current_thread` runtime each, all accepting from the same sockets, each with its own pools and counters.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

use super::{
    connection,
    snapshot::{Compiled, WorkerTable},
    turn::{Tick, Turn},
};
use crate::{error::StartError, metrics::Shards, observe::Recorder, upstream::UpstreamState};

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) current: ArcSwap<Compiled>,
    /// The generation of `current`, where every request looks.
    generation: AtomicU64,
    pub(crate) shards: Arc<Shards>,
    pub(crate) listeners: Vec<ListenerState>,
    pub(crate) workers: usize,
    pub(crate) recorder: Recorder,
    upstreams: Mutex<BTreeMap<String, Arc<UpstreamState>>>,
}

/// One listening socket.
pub(crate) struct ListenerState {
    pub(crate) bind: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Open connections over all workers.
    pub(crate) open: AtomicUsize,
    /// Of these, how many wait on the bare socket.
    pub(crate) idle: AtomicUsize,
}

/// One thread's state.
pub(crate) struct Worker {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    table: RefCell<Rc<WorkerTable>>,
    started: Instant,
    now: Cell<Tick>,
    turns: RefCell<Vec<(usize, Weak<Turn>)>>,
    draining: Cell<bool>,
    /// When set, the worker stops: what is in flight may take until then.
    stop: watch::Receiver<Option<Instant>>,
    /// Sweeps until the allocator has been nudged often enough since a connection was parked.
    nudges: Cell<u8>,
    /// Only in tests: park whenever it is allowed, without waiting a second.
    pub(super) park_at_once: bool,
    connections: TaskTracker,
}

/// All workers, seen from outside.
pub(crate) struct Crew {
    threads: Vec<JoinHandle<()>>,
    /// When set, workers stop: what is in flight may take until then.
    stop: watch::Sender<Option<Instant>>,
}

/// Enough sweeps for mimalloc, which keeps free pages for a second; the bytes are more than it keeps in a thread's own pages.
const NUDGES: u8 = 8;
const NUDGE_BYTES: usize = 4 << 20;
/// How long a worker waits when the process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        compiled: Compiled,
        shards: Arc<Shards>,
        listeners: Vec<ListenerState>,
        workers: usize,
        recorder: Recorder,
    ) -> Self {
        Self {
            generation: AtomicU64::new(compiled.generation),
            current: ArcSwap::from_pointee(compiled),
            shards,
            listeners,
            workers,
            recorder,
            upstreams: Mutex::default(),
        }
    }

    /// Requests that begin from now on see this config; those under way end with theirs.
    pub(crate) fn swap(&self, compiled: Compiled) {
        let generation = compiled.generation;
        self.current.store(Arc::new(compiled));
        self.follow();
        self.generation.store(generation, Ordering::Release);
    }

    /// Has every upstream's endpoints as the present config says.
    pub(crate) fn follow(&self) {
        for spec in &self.current.load().upstreams {
            self.upstream_state(&spec.name).follow(spec, None);
        }
    }

    pub(crate) fn upstream_state(&self, name: &str) -> Arc<UpstreamState> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let state = upstreams.entry(name.to_owned()).or_insert_with(|| Arc::new(UpstreamState::new(self.workers)));
        Arc::clone(state)
    }
}

// === impl Worker ===

impl Worker {
    fn new(index: usize, shared: Arc<Shared>, stop: watch::Receiver<Option<Instant>>, park_at_once: bool) -> Rc<Self> {
        let table = WorkerTable::new(shared.current.load_full(), &shared, index, None);
        Rc::new(Self {
            index,
            shared,
            table: RefCell::new(Rc::new(table)),
            started: Instant::now(),
            now: Cell::new(0),
            turns: RefCell::default(),
            draining: Cell::new(false),
            stop,
            nudges: Cell::new(0),
            park_at_once,
            connections: TaskTracker::new(),
        })
    }

    /// Milliseconds since the start, as of the last sweep.
    pub(crate) fn now(&self) -> Tick {
        self.now.get()
    }

    /// The present config; the same one for the whole of a request.
    pub(crate) fn table(&self) -> Rc<WorkerTable> {
        let table = self.table.borrow();
        if table.compiled.generation == self.shared.generation.load(Ordering::Acquire) {
            return Rc::clone(&table);
        }
        let fresh = WorkerTable::new(self.shared.current.load_full(), &self.shared, self.index, Some(&table));
        drop(table);
        let fresh = Rc::new(fresh);
        *self.table.borrow_mut() = Rc::clone(&fresh);
        fresh
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Comes back when the worker stops: with the moment by which all must have ended.
    pub(crate) async fn stops(&self) -> Instant {
        let mut stop = self.stop.clone();
        let until = stop.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        until.unwrap_or_else(Instant::now)
    }

    /// Runs something of a connection's, for as long as a drain may take.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        drop(self.connections.spawn_local(future));
    }

    /// A connection gave its buffers back.
    pub(super) fn parked(&self) {
        self.nudges.set(NUDGES);
    }

    /// An allocator hands memory back to the system only while it is asked for some, and an idle worker asks for none.
    fn nudge_allocator(&self) {
        if let Some(left) = self.nudges.get().checked_sub(1) {
            self.nudges.set(left);
            drop(std::hint::black_box(Vec::<u8>::with_capacity(NUDGE_BYTES)));
        }
    }

    /// From now on the sweep looks at this connection's deadlines.
    pub(super) fn watch(&self, listener: usize, turn: &Rc<Turn>) {
        self.turns.borrow_mut().push((listener, Rc::downgrade(turn)));
    }

    fn tick(&self) {
        #[expect(clippy::cast_possible_truncation, reason = "wraps after 49 days, as all who compare expect")]
        self.now.set(self.started.elapsed().as_millis() as Tick);
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            let table = self.table();
            tokio::time::sleep(table.sweep_every).await;
            self.tick();
            let now = self.now();
            self.turns.borrow_mut().retain(|(listener, turn)| match turn.upgrade() {
                Some(turn) => {
                    if let Some(patience) = table.patience.get(*listener) {
                        turn.sweep(now, *patience);
                    }
                    true
                }
                None => false,
            });
            for upstream in &table.upstreams {
                upstream.sweep(now);
            }
            self.nudge_allocator();
        }
    }

    async fn accept(self: Rc<Self>, listener: usize, socket: Rc<tokio::net::TcpListener>, stop: Stop) {
        let mut stop = stop.0;
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = stop.changed() => break,
            };
            self.greet(listener, accepted).await;
            // One at a time, so that connections spread over the workers that are awake.
            tokio::task::yield_now().await;
        }
        // Whoever is in the queue by now came in time.
        while let Some(accepted @ Ok(_)) = socket.accept().now_or_never() {
            self.greet(listener, accepted).await;
        }
    }

    async fn greet(self: &Rc<Self>, listener: usize, accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => {
                let open = OpenClient::new(&self.shared, listener);
                let limit =
                    self.shared.current.load().doors.get(listener).map_or(usize::MAX, |door| door.limits.connections);
                if open.count() > limit {
                    return;
                }
                drop(stream.set_nodelay(true));
                let serving = connection::serve(stream, peer, Rc::clone(self), open);
                self.connections.spawn_local(serving);
            }
            // The client changed its mind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(OUT_OF_DESCRIPTORS).await,
        }
    }

    async fn run(self: Rc<Self>, sockets: Vec<Rc<tokio::net::TcpListener>>) {
        let mut loops = JoinSet::new();
        loops.spawn_local(Rc::clone(&self).sweep());
        for (listener, socket) in sockets.iter().enumerate() {
            loops.spawn_local(Rc::clone(&self).accept(listener, Rc::clone(socket), Stop(self.stop.clone())));
        }
        drop(sockets);
        let until = self.stops().await;
        self.draining.set(true);
        // The accepting loops end by themselves, once their queues are empty.
        tokio::task::yield_now().await;
        let turns: Vec<_> = self.turns.borrow().iter().filter_map(|(_, turn)| turn.upgrade()).collect();
        turns.iter().for_each(|turn| turn.wake());
        drop(turns);
        self.connections.close();
        // Whoever is left after that is cut off with the runtime.
        drop(tokio::time::timeout_at(until.into(), self.connections.wait()).await);
        loops.shutdown().await;
    }
}

struct Stop(watch::Receiver<Option<Instant>>);

/// Counts a client's connection for as long as it is open.
pub(super) struct OpenClient {
    shared: Arc<Shared>,
    listener: usize,
}

/// Counts it as idle for as long as it waits.
pub(super) struct IdleClient<'o>(&'o OpenClient);

// === impl OpenClient ===

impl OpenClient {
    fn new(shared: &Arc<Shared>, listener: usize) -> Self {
        shared.listeners[listener].open.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), listener }
    }

    fn count(&self) -> usize {
        self.shared.listeners[self.listener].open.load(Ordering::Relaxed)
    }
}

impl OpenClient {
    pub(super) fn listener(&self) -> usize {
        self.listener
    }

    pub(super) fn idles(&self) -> IdleClient<'_> {
        self.shared.listeners[self.listener].idle.fetch_add(1, Ordering::Relaxed);
        IdleClient(self)
    }
}

impl Drop for IdleClient<'_> {
    fn drop(&mut self) {
        self.0.shared.listeners[self.0.listener].idle.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.shared.listeners[self.listener].open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Crew ===

impl Crew {
    /// Starts all workers; each accepts from every socket.
    pub(crate) fn start(shared: &Arc<Shared>, sockets: &[TcpListener], park_at_once: bool) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(None);
        let mut crew = Self { threads: Vec::new(), stop };
        for index in 0..shared.workers {
            let sockets = sockets.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
            let sockets = sockets.map_err(StartError::Worker)?;
            let (shared, stopping) = (Arc::clone(shared), stopping.clone());
            let (tell, told) = std::sync::mpsc::channel();
            let body = move || match runtime_with(sockets) {
                Ok((runtime, sockets)) => {
                    drop(tell.send(Ok(())));
                    let worker = Worker::new(index, shared, stopping, park_at_once);
                    runtime.block_on(worker.run(sockets));
                }
                Err(error) => drop(tell.send(Err(error))),
            };
            let thread = std::thread::Builder::new().name(format!("banyan-http-{index}")).spawn(body);
            crew.threads.push(thread.map_err(StartError::Worker)?);
            told.recv().map_err(io::Error::other).and_then(|told| told).map_err(StartError::Worker)?;
        }
        Ok(crew)
    }

    /// Whether every worker still runs.
    pub(crate) fn is_whole(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Stops accepting, lets what is in flight finish, and comes back when all is done or the time is over.
    pub(crate) async fn drain(self, at_most: Duration) {
        self.stop.send_replace(Some(Instant::now() + at_most));
        let joined = tokio::task::spawn_blocking(move || {
            self.threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        drop(joined.await);
    }
}

type Prepared = (tokio::runtime::LocalRuntime, Vec<Rc<tokio::net::TcpListener>>);

fn runtime_with(sockets: Vec<TcpListener>) -> io::Result<Prepared> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let entered = runtime.enter();
    let sockets = sockets.into_iter().map(|socket| tokio::net::TcpListener::from_std(socket).map(Rc::new));
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    drop(entered);
    Ok((runtime, sockets))
}
