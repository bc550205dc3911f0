//! The HTTP/2 connections of one worker to one endpoint: few, shared, and another one only when the streams run out.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
};

use tokio::sync::Mutex;

use super::{Exchange, Leg, Link, Session, pool::Local};
use crate::{error::Fault, listen::Tick};

#[derive(Default)]
pub(super) struct Sessions {
    all: RefCell<Vec<Rc<Session>>>,
    /// Held by who connects: the others wait for what comes of it, instead of opening a connection each.
    gate: Mutex<()>,
    /// How many attempts have ended, and why the last one failed.
    tried: Cell<(u64, Option<Fault>)>,
    /// It was left to the peer, and it chose HTTP/1.1.
    is_plain: Cell<bool>,
}

/// What a new connection turned out to speak.
pub(super) enum Made {
    One(Link),
    Shared(Rc<Session>),
}

// === impl Sessions ===

impl Sessions {
    /// A stream on a connection that has one left.
    pub(super) fn take(&self, local: &Rc<Local>) -> Option<Exchange> {
        let mut all = self.all.borrow_mut();
        if all.is_empty() {
            return None;
        }
        all.retain(|session| !session.is_over());
        all.iter().find_map(|session| session.exchange(local))
    }

    /// A stream on a connection that was made meanwhile, or on a new one.
    pub(super) async fn open(
        &self,
        local: &Rc<Local>,
        connect: impl Future<Output = Result<Made, Fault>>,
    ) -> Result<Leg, Fault> {
        if self.is_plain.get() {
            return connect.await.and_then(|made| self.keep(made, local));
        }
        let (before, _) = self.tried.get();
        let only = self.gate.lock().await;
        if let Some(exchange) = self.take(local) {
            return Ok(Leg::Shared(exchange));
        }
        match self.tried.get() {
            // Whoever waited with us would fail one after the other.
            (now, Some(fault)) if now != before => return Err(fault),
            _ if self.is_plain.get() => drop(only),
            (now, _) => {
                let made = connect.await;
                self.tried.set((now + 1, made.as_ref().err().copied()));
                return made.and_then(|made| self.keep(made, local));
            }
        }
        connect.await.and_then(|made| self.keep(made, local))
    }

    /// A connection that was just made, for its first request.
    pub(super) fn keep(&self, made: Made, local: &Rc<Local>) -> Result<Leg, Fault> {
        self.is_plain.set(matches!(made, Made::One(_)));
        match made {
            Made::One(link) => Ok(Leg::One(link)),
            Made::Shared(session) => {
                let exchange = session.exchange(local);
                self.all.borrow_mut().push(session);
                exchange.map(Leg::Shared).ok_or(Fault::Reset)
            }
        }
    }

    /// Streams that are open stay so; no more are opened.
    pub(super) fn clear(&self) {
        self.all.borrow_mut().clear();
    }

    /// Closes what was idle for too long.
    pub(super) fn sweep(&self, now: Tick, most: Tick) {
        self.all.borrow_mut().retain(|session| !session.is_idle(now, most) && !session.is_over());
    }
}
