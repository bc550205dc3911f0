//! All workers seen from outside, and the sockets that they share: how both follow the file, and how they stop.
//!
//! Every worker accepts from its own duplicate of the same descriptors. So a socket that comes is there for all before one that goes is closed,
//! workers come and go without any connection noticing, and another process can be given the same sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    listener::{Door, ListenerState},
    socket::{Given, bind},
    worker::{Shared, Worker},
};
use crate::error::StartError;

/// All workers and sockets.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    park_at_once: bool,
    team: Mutex<Team>,
}

struct Team {
    hands: Vec<Hand>,
    /// In the file's order.
    sockets: Vec<Listening>,
    /// Those that take nobody new any more.
    leaving: Vec<Hand>,
}

/// One worker.
struct Hand {
    index: usize,
    orders: UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

/// A socket and what its clients share.
struct Listening {
    listener: Arc<ListenerState>,
    socket: TcpListener,
}

/// What a worker is told.
pub(super) enum Order {
    /// Accept from this socket too, and say that it is so.
    Listen(Arc<ListenerState>, TcpListener, mpsc::Sender<io::Result<()>>),
    /// Close that one, when its queue is empty.
    Leave(Arc<ListenerState>),
    Stop(Stop),
}

/// How a worker ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// What is in flight may take until then.
    pub(crate) until: Instant,
    pub(crate) farewell: Farewell,
}

/// What becomes of connections that wait for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The next answer is their last one, and who asks nothing for a second is closed: nobody else is there to come to.
    Soon,
    /// The next answer is their last one, whenever that is: closing them meanwhile could meet a request that is on its way.
    Answered,
}

/// What is ready to be taken into the crew.
struct Staged {
    /// For each socket that is wanted: which old one serves.
    places: Vec<Option<usize>>,
    /// For the others; all workers accept from them.
    fresh: Vec<Listening>,
    /// They accept from all sockets that stay or come.
    hands: Vec<Hand>,
}

/// A wish of the file: an address, and how its clients are treated.
pub(crate) struct Wanted {
    pub(crate) bind: SocketAddr,
    pub(crate) door: Arc<Door>,
}

/// A worker's word takes no longer.
const WORD: Duration = Duration::from_secs(10);
/// What a surplus worker has in flight gets so long.
const LEAVE: Duration = Duration::from_secs(25);

// === impl Crew ===

impl Crew {
    /// Binds every socket that was not given, and starts all workers on them.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        wanted: Vec<Wanted>,
        workers: usize,
        given: Vec<Given>,
        park_at_once: bool,
    ) -> Result<Self, StartError> {
        let team = Team { hands: Vec::new(), sockets: Vec::new(), leaving: Vec::new() };
        let crew = Self { shared: Arc::clone(shared), park_at_once, team: Mutex::new(team) };
        crew.follow_with(wanted, workers, given, || ())?;
        Ok(crew)
    }

    /// Has the sockets and workers that a file wants. New ones accept before old ones stop. `between`: what is to happen when nothing can go
    /// wrong any more, and nothing is closed yet. Waits for every worker's word; not for the answering path.
    ///
    /// # Errors
    /// When an address cannot be listened on, or a worker cannot be made; nothing has changed then.
    pub(crate) fn follow(&self, wanted: Vec<Wanted>, workers: usize, between: impl FnOnce()) -> Result<(), StartError> {
        self.follow_with(wanted, workers, Vec::new(), between)
    }

    fn follow_with(
        &self,
        wanted: Vec<Wanted>,
        workers: usize,
        mut given: Vec<Given>,
        between: impl FnOnce(),
    ) -> Result<(), StartError> {
        let mut team = self.team();
        team.forget_ended();
        let mut old: Vec<Option<Listening>> = std::mem::take(&mut team.sockets).into_iter().map(Some).collect();
        let staged = self.stage(&mut team, &wanted, &old, workers, &mut given);
        let Staged { places, fresh, hands } = match staged {
            Ok(staged) => staged,
            Err(error) => {
                team.sockets = old.into_iter().flatten().collect();
                return Err(error);
            }
        };
        // From here on nothing fails.
        let mut fresh = fresh.into_iter();
        for (place, wanted) in places.into_iter().zip(wanted) {
            let kept = place.and_then(|place| old[place].take());
            if let Some(kept) = &kept {
                kept.listener.follow(wanted.door);
            }
            team.sockets.extend(kept.or_else(|| fresh.next()));
        }
        team.hands.extend(hands);
        self.shared.listens_on(team.sockets.iter().map(|one| Arc::clone(&one.listener)).collect());
        between();
        for gone in old.into_iter().flatten() {
            gone.listener.leaves();
            team.tell(|| Order::Leave(Arc::clone(&gone.listener)));
        }
        let stop = Stop { until: Instant::now() + LEAVE, farewell: Farewell::Answered };
        while team.hands.len() > workers {
            let Some(surplus) = team.hands.pop() else { break };
            surplus.tell(Order::Stop(stop));
            team.leaving.push(surplus);
        }
        Ok(())
    }

    /// All that can fail.
    fn stage(
        &self,
        team: &mut Team,
        wanted: &[Wanted],
        old: &[Option<Listening>],
        workers: usize,
        given: &mut Vec<Given>,
    ) -> Result<Staged, StartError> {
        let (mut places, mut fresh) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let is_same = |(place, old): (usize, &Option<Listening>)| {
                let is_it = old.as_ref().is_some_and(|old| old.listener.bind == wanted.bind);
                is_it && !places.contains(&Some(place))
            };
            let place = old.iter().enumerate().find_map(|one| is_same(one).then_some(one.0));
            if place.is_none() {
                let given = given.iter().position(|given| given.bind == wanted.bind).map(|at| given.swap_remove(at));
                let socket = given.map_or_else(|| bind(wanted.bind), |given| Ok(given.socket))?;
                let local = socket.local_addr().unwrap_or(wanted.bind);
                let listener = Arc::new(ListenerState::new(wanted.bind, local, Arc::clone(&wanted.door)));
                fresh.push(Listening { listener, socket });
            }
            places.push(place);
        }
        let mut hands = Vec::new();
        let begun = (|| {
            for hand in &team.hands {
                fresh.iter().try_for_each(|one| hand.listens(one))?;
            }
            for _ in team.hands.len()..workers {
                let hand = self.hire(team.free_index(&hands))?;
                let stays = |(place, _): &(usize, &Option<Listening>)| places.contains(&Some(*place));
                let kept = old.iter().enumerate().filter(stays).filter_map(|(_, old)| old.as_ref());
                let begun = kept.chain(&fresh).try_for_each(|one| hand.listens(one));
                hands.push(hand);
                begun?;
            }
            Ok(())
        })();
        if let Err(cause) = begun {
            for one in &fresh {
                team.tell(|| Order::Leave(Arc::clone(&one.listener)));
            }
            let stop = Stop { until: Instant::now() + LEAVE, farewell: Farewell::Answered };
            hands.iter().for_each(|hand| hand.tell(Order::Stop(stop)));
            team.leaving.extend(hands);
            return Err(StartError::Worker(cause));
        }
        Ok(Staged { places, fresh, hands })
    }

    /// One more worker; it listens on nothing yet.
    fn hire(&self, index: usize) -> io::Result<Hand> {
        let (orders, told) = unbounded_channel();
        let (shared, park_at_once) = (Arc::clone(&self.shared), self.park_at_once);
        let (tell, begun) = mpsc::channel();
        let body = move || work(index, shared, told, park_at_once, &tell);
        let thread = std::thread::Builder::new().name(format!("banyan-http-{index}")).spawn(body)?;
        begun.recv().map_err(io::Error::other)??;
        Ok(Hand { index, orders, thread })
    }

    /// Where it listens, in the file's order.
    pub(crate) fn local_addrs(&self) -> Vec<SocketAddr> {
        self.team().sockets.iter().map(|one| one.listener.local).collect()
    }

    /// The sockets themselves, for another process.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Given>> {
        let team = self.team();
        let given = |one: &Listening| Ok(Given { bind: one.listener.bind, socket: one.socket.try_clone()? });
        team.sockets.iter().map(given).collect()
    }

    /// Whether every worker still runs.
    pub(crate) fn is_whole(&self) -> bool {
        self.team().hands.iter().all(|hand| !hand.thread.is_finished())
    }

    /// Stops accepting, lets what is in flight finish, and comes back when all is done or the time is over.
    pub(crate) async fn stop(self, stop: Stop) {
        let Team { hands, leaving, sockets } = self.team.into_inner().unwrap_or_else(PoisonError::into_inner);
        drop(sockets);
        let all: Vec<Hand> = hands.into_iter().chain(leaving).collect();
        all.iter().for_each(|hand| hand.tell(Order::Stop(stop)));
        let joined = tokio::task::spawn_blocking(move || {
            all.into_iter().for_each(|hand| drop(hand.thread.join()));
        });
        drop(joined.await);
    }

    fn team(&self) -> MutexGuard<'_, Team> {
        self.team.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's thread.
fn work(
    index: usize,
    shared: Arc<Shared>,
    orders: UnboundedReceiver<Order>,
    park_at_once: bool,
    tell: &mpsc::Sender<io::Result<()>>,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            let worker = Worker::new(index, shared, park_at_once);
            drop(tell.send(Ok(())));
            runtime.block_on(worker.run(orders));
        }
        Err(error) => drop(tell.send(Err(error))),
    }
}

// === impl Team ===

impl Team {
    fn tell(&self, order: impl Fn() -> Order) {
        self.hands.iter().for_each(|hand| hand.tell(order()));
    }

    /// The lowest that no thread has: what a worker counts has one writer.
    fn free_index(&self, more: &[Hand]) -> usize {
        let taken = |index| self.hands.iter().chain(&self.leaving).chain(more).any(|hand| hand.index == index);
        (0..).find(|index| !taken(*index)).unwrap_or_default()
    }

    fn forget_ended(&mut self) {
        self.leaving.retain(|hand| !hand.thread.is_finished());
    }
}

// === impl Hand ===

impl Hand {
    /// One whose thread is gone hears nothing; `is_whole` tells.
    fn tell(&self, order: Order) {
        drop(self.orders.send(order));
    }

    /// Comes back when it accepts from that socket.
    fn listens(&self, on: &Listening) -> io::Result<()> {
        let (tell, told) = mpsc::channel();
        self.tell(Order::Listen(Arc::clone(&on.listener), on.socket.try_clone()?, tell));
        match told.recv_timeout(WORD) {
            Ok(begun) => begun,
            // A worker that has died accepts nothing.
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "a worker does not answer"))
            }
        }
    }
}
