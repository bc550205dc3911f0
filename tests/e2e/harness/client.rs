//! An HTTP/1.1 client that sends exactly the bytes it is given and shows exactly the bytes that came back.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long any one read may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// One connection.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    /// Read and not yet given out.
    ahead: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and header lines as they came, with the empty line.
    pub(crate) head: Vec<u8>,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// The trailer lines of a chunked body as they came.
    pub(crate) trailers: Vec<u8>,
}

/// Why there was no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before its first byte.
    Before,
    /// In its head.
    Head,
    /// In its body.
    Body,
    /// Nothing came for 15 seconds.
    Silence,
}

// === impl Raw ===

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).await.unwrap_or_else(|e| panic!("{addr}: {e}"))
    }

    /// The same where a refusal, or a reset right away, is what is to be seen.
    pub(crate) async fn try_connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
        Self::once(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await
    }

    /// One request, as bytes, on a connection of its own.
    pub(crate) async fn once(addr: SocketAddr, request: &str) -> Answer {
        let mut raw = Self::connect(addr).await;
        raw.send(request).await;
        raw.answer().await.unwrap_or_else(|cut| panic!("no whole answer ({cut:?}) to {request:?}"))
    }

    /// Sends bytes, and forgives a far end that closed meanwhile: what it answered can still be read.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the far end reads").ok();
    }

    /// Ends our half; the answer can still come.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.ok();
    }

    /// Goes with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().ok();
    }

    /// The next answer, to a request that was no HEAD.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Cut> {
        self.answer_to("GET").await
    }

    /// The next answer to a request with this method. An interim answer (1xx) is an answer of its own.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Result<Answer, Cut> {
        let head = self.until(b"\r\n\r\n").await?;
        let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {:?}", String::from_utf8_lossy(&head)));
        let mut answer = Answer { status, head, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|te| te.to_ascii_lowercase().contains("chunked")) {
            self.chunks(&mut answer).await?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().expect("a content-length is a number");
            answer.body = self.exactly(length).await?;
        } else {
            answer.body = self.rest().await?;
        }
        Ok(answer)
    }

    /// All that comes until the far end closes; a reset counts as closing.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Cut> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Exactly so many bytes, as a tunnel gives them.
    pub(crate) async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Cut> {
        while self.ahead.len() < length {
            if !self.more().await? {
                return Err(Cut::Body);
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Whether the far end closes within `at_most`, without sending anything more.
    pub(crate) async fn is_closed_within(&mut self, at_most: Duration) -> bool {
        matches!(timeout(at_most, self.more()).await, Ok(Ok(false)))
    }

    async fn chunks(&mut self, answer: &mut Answer) -> Result<(), Cut> {
        loop {
            let line = self.until(b"\r\n").await.map_err(|_| Cut::Body)?;
            let digits = String::from_utf8_lossy(&line);
            let digits = digits.trim_end().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("chunk size {digits:?}: {e}"));
            if size == 0 {
                break;
            }
            answer.body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
        }
        loop {
            let line = self.until(b"\r\n").await.map_err(|_| Cut::Body)?;
            if line == b"\r\n" {
                return Ok(());
            }
            answer.trailers.extend(line);
        }
    }

    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Cut> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            if !self.more().await? {
                return Err(if self.ahead.is_empty() { Cut::Before } else { Cut::Head });
            }
        }
    }

    /// False at the end of the stream.
    async fn more(&mut self) -> Result<bool, Cut> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.ahead)).await.map_err(|_| Cut::Silence)?;
        Ok(read.is_ok_and(|n| n > 0))
    }
}

// === impl Answer ===

impl Answer {
    /// The first header of that name, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// All headers of that name, whatever its case.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        headers(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }
}

/// The values of a header in a head as it came.
pub(super) fn headers<'h>(head: &'h [u8], name: &str) -> Vec<&'h str> {
    let lines = std::str::from_utf8(head).expect("a head of UTF-8").split("\r\n").skip(1);
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}
