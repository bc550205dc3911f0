//! The data plane's threads: one `current_thread` runtime each, all accepting from the same sockets, each with its own pools and counters.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::pin,
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc::UnboundedReceiver, watch},
    task::JoinSet,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    connection,
    crew::{Farewell, Order, Stop},
    listener::{ListenerState, OpenClient},
    snapshot::{Compiled, WorkerTable, patience},
    socket::BACKLOG,
    turn::{Tick, Turn},
};
use crate::{metrics::Shards, observe::Recorder, upstream::UpstreamState};

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) current: ArcSwap<Compiled>,
    /// The generation of `current`, where every request looks.
    generation: AtomicU64,
    pub(crate) shards: Arc<Shards>,
    /// In the file's order.
    pub(crate) listeners: ArcSwap<Vec<Arc<ListenerState>>>,
    /// Those that are closed, while there are connections that came through them.
    left: Mutex<Vec<Arc<ListenerState>>>,
    /// At the start; there may be more or fewer by now.
    workers: usize,
    pub(crate) recorder: Recorder,
    upstreams: Mutex<BTreeMap<String, Arc<UpstreamState>>>,
}

/// The connections and streams of one listener.
type Turns = (Arc<ListenerState>, Vec<Weak<Turn>>);

/// One thread's state.
pub(crate) struct Worker {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    table: RefCell<Rc<WorkerTable>>,
    started: Instant,
    now: Cell<Tick>,
    turns: RefCell<Vec<Turns>>,
    /// When set, the worker stops, so.
    farewell: Cell<Option<Farewell>>,
    /// ... and what is in flight may take until then.
    stop: watch::Sender<Option<Instant>>,
    /// Sweeps until the allocator has been nudged often enough since a connection was parked.
    nudges: Cell<u8>,
    /// Only in tests: park whenever it is allowed, without waiting a second.
    pub(super) park_at_once: bool,
    connections: TaskTracker,
}

/// Enough sweeps for mimalloc, which keeps free pages for a second; the bytes are more than it keeps in a thread's own pages.
const NUDGES: u8 = 8;
const NUDGE_BYTES: usize = 4 << 20;
/// Who asks nothing for so many milliseconds is closed when the process ends: a client that is about to ask does it sooner.
const LAST_REQUEST: Tick = 1000;
/// How long a worker waits when the process has no descriptor left.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

// === impl Shared ===

impl Shared {
    pub(crate) fn new(compiled: Compiled, shards: Arc<Shards>, workers: usize, recorder: Recorder) -> Self {
        Self {
            generation: AtomicU64::new(compiled.generation),
            current: ArcSwap::from_pointee(compiled),
            shards,
            listeners: ArcSwap::default(),
            left: Mutex::default(),
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

    /// These listen now, and no others.
    pub(super) fn listens_on(&self, listeners: Vec<Arc<ListenerState>>) {
        let listeners = Arc::new(listeners);
        let old = self.listeners.swap(Arc::clone(&listeners));
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|listener| listener.count().0 > 0);
        left.extend(old.iter().filter(|old| !listeners.iter().any(|kept| Arc::ptr_eq(kept, old))).cloned());
    }

    /// Open clients' connections, and how many of them hold no buffer.
    pub(crate) fn clients(&self) -> (usize, usize) {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = self.listeners.load();
        let counts = listeners.iter().chain(left.iter()).map(|listener| listener.count());
        counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    /// Has every upstream's endpoints as the present config says.
    pub(crate) fn follow(&self) {
        let current = self.current.load();
        for spec in &current.upstreams {
            self.upstream_state(&spec.name).follow(spec, None);
        }
        // One that is gone from the file is forgotten when a later reload finds nobody who still uses it.
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let is_named = |name: &str| current.upstreams.iter().any(|spec| *spec.name == *name);
        upstreams.retain(|name, state| Arc::strong_count(state) > 1 || is_named(name));
    }

    /// Of how many upstreams something is known.
    #[cfg(test)]
    pub(crate) fn known_upstreams(&self) -> usize {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn upstream_state(&self, name: &str) -> Arc<UpstreamState> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let state = upstreams.entry(name.to_owned()).or_insert_with(|| Arc::new(UpstreamState::new(self.workers)));
        Arc::clone(state)
    }
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(index: usize, shared: Arc<Shared>, park_at_once: bool) -> Rc<Self> {
        let table = WorkerTable::new(shared.current.load_full(), &shared, index, None);
        Rc::new(Self {
            index,
            shared,
            table: RefCell::new(Rc::new(table)),
            started: Instant::now(),
            now: Cell::new(0),
            turns: RefCell::default(),
            farewell: Cell::new(None),
            stop: watch::Sender::new(None),
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
        self.farewell.get().is_some()
    }

    /// Comes back when the worker stops: with the moment by which all must have ended.
    pub(crate) async fn stops(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        let until = stop.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        until.unwrap_or_else(Instant::now)
    }

    /// Runs something of a connection's or a request's, for as long as a drain may take.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
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
    pub(super) fn watch(&self, turn: &Rc<Turn>) {
        let mut turns = self.turns.borrow_mut();
        let (listener, turn) = (turn.peer().listener(), Rc::downgrade(turn));
        match turns.iter_mut().find(|(of, _)| Arc::ptr_eq(of, listener)) {
            Some((_, turns)) => turns.push(turn),
            None => turns.push((Arc::clone(listener), vec![turn])),
        }
    }

    fn tick(&self) {
        #[expect(clippy::cast_possible_truncation, reason = "wraps after 49 days, as all who compare expect")]
        self.now.set(self.started.elapsed().as_millis() as Tick);
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            let table = self.table();
            let every = table.compiled.sweep_every();
            tokio::time::sleep(every).await;
            self.tick();
            let now = self.now();
            self.turns.borrow_mut().retain_mut(|(listener, turns)| {
                let mut patience = patience(&listener.door().limits, every);
                if self.farewell.get() == Some(Farewell::Soon) {
                    patience.idle = patience.idle.min(LAST_REQUEST);
                }
                turns.retain(|turn| {
                    turn.upgrade().is_some_and(|turn| {
                        turn.sweep(now, patience);
                        true
                    })
                });
                !turns.is_empty()
            });
            for upstream in &table.upstreams {
                upstream.sweep(now);
            }
            self.nudge_allocator();
        }
    }

    /// Accepts from a socket until it is to be closed.
    async fn accept(self: Rc<Self>, listener: Arc<ListenerState>, socket: TcpListener, leaves: CancellationToken) {
        let mut leaves = pin!(leaves.cancelled());
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = &mut leaves => break,
            };
            match accepted {
                Ok((stream, peer)) => self.greet(&listener, stream, peer),
                // The client changed its mind.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => tokio::time::sleep(OUT_OF_DESCRIPTORS).await,
            }
            // One at a time, so that connections spread over the workers that are awake.
            tokio::task::yield_now().await;
        }
        // Whoever is in the queue by now came in time. The system is asked itself: the runtime may not have heard of them yet.
        for _ in 0..BACKLOG {
            match SockRef::from(&socket).accept() {
                Ok((stream, peer)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream.into()));
                    if let (Ok(stream), Some(peer)) = (stream, peer.as_socket()) {
                        self.greet(&listener, stream, peer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => break,
            }
        }
    }

    fn greet(self: &Rc<Self>, listener: &Arc<ListenerState>, stream: TcpStream, peer: SocketAddr) {
        let open = OpenClient::new(listener);
        if listener.count().0 > listener.door().limits.connections {
            return;
        }
        drop(stream.set_nodelay(true));
        self.spawn(connection::serve(stream, peer, Rc::clone(self), open));
    }

    /// Does as it is told, until it is told to stop and everything has ended or the time is over.
    pub(super) async fn run(self: Rc<Self>, mut orders: UnboundedReceiver<Order>) {
        let mut sweeping = JoinSet::new();
        sweeping.spawn_local(Rc::clone(&self).sweep());
        let accepting = TaskTracker::new();
        let mut doors: Vec<(Arc<ListenerState>, DropGuard)> = Vec::new();
        let mut stop = loop {
            match orders.recv().await {
                Some(Order::Listen(listener, socket, tell)) => {
                    let begun = TcpListener::from_std(socket).map(|socket| {
                        let leaves = CancellationToken::new();
                        let accept = Rc::clone(&self).accept(Arc::clone(&listener), socket, leaves.clone());
                        drop(accepting.spawn_local(accept));
                        doors.push((listener, leaves.drop_guard()));
                    });
                    // Whoever asked may be gone.
                    drop(tell.send(begun));
                }
                Some(Order::Leave(gone)) => doors.retain(|(listener, _)| !Arc::ptr_eq(listener, &gone)),
                Some(Order::Stop(stop)) => break stop,
                None => break Stop { until: Instant::now(), farewell: Farewell::Soon },
            }
        };
        drop(doors);
        accepting.close();
        accepting.wait().await;
        self.connections.close();
        loop {
            self.drains(stop);
            tokio::select! {
                // Whoever is left after that is cut off with the runtime.
                _ = tokio::time::timeout_at(stop.until.into(), self.connections.wait()) => break,
                Some(Order::Stop(again)) = orders.recv() => stop = again,
            }
        }
        sweeping.shutdown().await;
    }

    fn drains(&self, stop: Stop) {
        self.farewell.set(Some(stop.farewell));
        self.stop.send_replace(Some(stop.until));
        let turns = self.turns.borrow();
        let turns: Vec<_> = turns.iter().flat_map(|(_, turns)| turns).filter_map(Weak::upgrade).collect();
        turns.iter().for_each(|turn| turn.wake());
    }
}
