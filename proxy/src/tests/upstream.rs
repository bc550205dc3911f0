//! An upstream that does on each connection what a script says, and keeps every byte that it was sent.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Seen,
    _accepts: JoinSet<()>,
}

/// What came, by connection.
type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// One connection to the upstream.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    /// Which connection it is, from 0.
    pub(crate) number: usize,
    seen: Seen,
    buffer: Vec<u8>,
}

// === impl Upstream ===

impl Upstream {
    /// Runs the script on every connection; an error ends the connection.
    pub(crate) async fn scripted<F>(script: impl Fn(Wire) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let mut accepts = JoinSet::new();
        let all = Arc::clone(&seen);
        accepts.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let wire = script(Wire { stream, number, seen: Arc::clone(&all), buffer: Vec::new() });
                wires.spawn(async move { drop(wire.await) });
            }
        });
        Self { address, seen, _accepts: accepts }
    }

    /// Answers every request with the same bytes.
    pub(crate) async fn answering(answer: &'static str) -> Self {
        Self::scripted(move |mut wire| async move {
            loop {
                wire.request().await?;
                wire.send(answer).await?;
            }
        })
        .await
    }

    /// Answers 200 with its name as the body.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::scripted(move |mut wire| async move {
            loop {
                wire.request().await?;
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())).await?;
            }
        })
        .await
    }

    /// All bytes of all connections, in the order of the connections.
    pub(crate) fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().concat()).into_owned()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

// === impl Wire ===

impl Wire {
    /// The head of the next request.
    pub(crate) async fn head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return Ok(String::from_utf8(head).unwrap());
            }
            self.more().await?;
        }
    }

    /// The next request, with its body.
    pub(crate) async fn request(&mut self) -> io::Result<(String, Vec<u8>)> {
        let head = self.head().await?;
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if let Some(at) = lower.find("\r\ncontent-length:") {
            let length: usize = lower[at + 17..].lines().next().unwrap().trim().parse().unwrap();
            body = self.take(length).await?;
        } else if lower.contains("\r\ntransfer-encoding:") {
            // The last chunk's line, which is not the end of another one's (`10`), and the end of the trailers.
            let has_last =
                |buffer: &[u8]| buffer.starts_with(b"0\r\n") || buffer.windows(5).any(|window| window == b"\r\n0\r\n");
            while !(self.buffer.ends_with(b"\r\n\r\n") && has_last(&self.buffer)) {
                self.more().await?;
            }
            body = std::mem::take(&mut self.buffer);
        }
        Ok((head, body))
    }

    pub(crate) async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Whatever has come.
    pub(crate) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    async fn more(&mut self) -> io::Result<()> {
        let before = self.buffer.len();
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seen.lock().unwrap()[self.number].extend_from_slice(&self.buffer[before..]);
        Ok(())
    }
}
