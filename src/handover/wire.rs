//! Lines of JSON over a Unix socket, each with one descriptor at most (`SCM_RIGHTS`, unix(7)). It blocks, within bounds: at either end a thread
//! of its own talks.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt::socket_peercred,
};

use super::Message;

/// One end of it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    read: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// More than any message needs.
const LONGEST: usize = 16 * 1024;
/// More sockets than anybody listens on.
const MOST: usize = 4096;
/// For what is written: the other end reads all the time.
const WRITE: Duration = Duration::from_secs(5);

// === impl Wire ===

impl Wire {
    /// # Errors
    /// When the other end belongs to another user: a descriptor is what it opens.
    pub(super) fn try_new(stream: UnixStream) -> anyhow::Result<Self> {
        let (theirs, ours) = (socket_peercred(&stream)?.uid, rustix::process::geteuid());
        let (theirs_id, ours_id) = (theirs.as_raw(), ours.as_raw());
        ensure!(
            theirs == ours || theirs.is_root(),
            "the process at the other end belongs to user {theirs_id}, this one to {ours_id}; both must be the same user's"
        );
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE))?;
        Ok(Self { stream, read: Vec::new(), descriptors: VecDeque::new() })
    }

    pub(super) fn say(&self, message: &Message, with: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let with = with.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &with {
            ensure!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "no place for a descriptor");
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
        (&self.stream).write_all(&line[sent..])?;
        Ok(())
    }

    /// The next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// When it says nothing in this time, or what nobody understands.
    pub(super) fn hear(&mut self, within: Duration) -> anyhow::Result<Option<Message>> {
        let until = Instant::now() + within;
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).context("it says what this version does not know");
            }
            ensure!(self.read.len() < LONGEST, "it says more than this version reads");
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it said nothing for {within:?}");
            }
            self.stream.set_read_timeout(Some(left))?;
            if self.receive()? == Some(0) {
                return Ok(None);
            }
        }
    }

    /// How many bytes came; `None` when it was waited for too long.
    fn receive(&mut self) -> anyhow::Result<Option<usize>> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let came = match recvmsg(&self.stream, into, &mut control, RecvFlags::CMSG_CLOEXEC).map_err(io::Error::from) {
            Ok(came) => came.bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        ensure!(self.descriptors.len() <= MOST, "it sends more descriptors than anybody listens on");
        self.read.extend_from_slice(&bytes[..came]);
        Ok(Some(came))
    }

    /// What came with the message that was heard last; they come in order.
    pub(super) fn descriptor(&mut self) -> anyhow::Result<OwnedFd> {
        self.descriptors.pop_front().context("a socket came without its descriptor")
    }

    /// Waits until the other end is gone.
    pub(super) fn ends(mut self) {
        if self.stream.set_read_timeout(None).is_ok() {
            while self.receive().is_ok_and(|came| came != Some(0)) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd as _};

    use super::*;
    use crate::handover::Role;

    fn pair() -> [Wire; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [one, other].map(|stream| Wire::try_new(stream).unwrap())
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn sockets_arrive_each_with_its_message() {
        let [near, mut far] = pair();
        let sockets: Vec<_> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for socket in &sockets {
            let bind = socket.local_addr().unwrap();
            near.say(&Message::Socket { role: Role::Listener, bind }, Some(socket.as_fd())).unwrap();
        }
        near.say(&Message::Ready, None).unwrap();
        for _ in &sockets {
            let Some(Message::Socket { bind, .. }) = far.hear(SOON).unwrap() else { panic!() };
            assert_eq!(TcpListener::from(far.descriptor().unwrap()).local_addr().unwrap(), bind);
        }
        assert!(matches!(far.hear(SOON).unwrap(), Some(Message::Ready)));
        assert!(far.descriptor().is_err());
        drop(near);
        assert!(far.hear(SOON).unwrap().is_none());
    }

    #[test]
    fn silence_nonsense_and_endless_lines_are_errors() {
        let [near, mut far] = pair();
        assert!(far.hear(Duration::from_millis(20)).is_err());
        (&near.stream).write_all(b"{\"say\": \"sing\"}\n").unwrap();
        assert!(far.hear(SOON).is_err());
        (&near.stream).write_all(&[b'x'; 2 * LONGEST]).unwrap();
        assert!(far.hear(SOON).is_err());
    }

    #[test]
    fn what_a_later_version_says_besides_is_passed_over() {
        let [near, mut far] = pair();
        (&near.stream)
            .write_all(b"{\"say\": \"hello\", \"protocol\": 7, \"version\": \"9\", \"pid\": 1, \"more\": {}}\n")
            .unwrap();
        assert!(matches!(far.hear(SOON).unwrap(), Some(Message::Hello { protocol: 7, .. })));
    }
}
