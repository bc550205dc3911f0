//! What costs an HTTP/2 client nothing is bounded: it is told to calm down, and everybody else is served.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Bench, Setup, Upstream, eventually,
    http2::{ask, connect, request},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ENHANCE_YOUR_CALM: u32 = 0xb;
const PATIENCE: Duration = Duration::from_secs(10);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET http://a/`: three entries of HPACK's static table, and `:authority: a`.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// Sends, and gives the error code of the GOAWAY that comes; `None` when the connection ended without one.
async fn goaway(bench: &Bench, sends: &[u8]) -> Option<u32> {
    let stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let bytes = [PREFACE, &frame(4, 0, 0, &[]), sends].concat();
    // It may be closed while this goes on.
    let writes = tokio::spawn(async move {
        drop(write.write_all(&bytes).await);
        write
    });
    let mut code = None;
    timeout(PATIENCE, async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            if head[3] == 7 {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    })
    .await
    .expect("the end of the connection");
    drop(writes.await);
    code
}

async fn bench() -> (Bench, Upstream) {
    let upstream = Upstream::named("one").await;
    (Setup::new(upstream.address).start(), upstream)
}

#[tokio::test]
async fn floods_are_answered_with_enhance_your_calm() {
    let (bench, _upstream) = bench().await;
    let opened = frame(1, 4, 1, GET);
    let block = frame(1, 0, 1, GET);
    for (flood, bytes) in [
        ("PING", frame(6, 0, 0, &[0; 8]).repeat(2000)),
        ("SETTINGS", frame(4, 0, 0, &[]).repeat(2000)),
        ("empty DATA", [opened, frame(0, 0, 1, &[]).repeat(2000)].concat()),
        ("CONTINUATION", [block, frame(9, 0, 1, &[]).repeat(2000)].concat()),
        (
            "rapid reset",
            (0..2000u32)
                .flat_map(|at| [frame(1, 4 | 1, 2 * at + 1, GET), frame(3, 0, 2 * at + 1, &[0, 0, 0, 8])].concat())
                .collect(),
        ),
    ] {
        assert_eq!(goaway(&bench, &bytes).await, Some(ENHANCE_YOUR_CALM), "{flood}");
    }
    // A well-behaved client is served as before.
    let (sender, _) = connect(&bench).await;
    assert_eq!(ask(&sender, request("GET", "/")).await.unwrap().1, "one");
    eventually("nothing is left of them", || bench.proxy.status().connections == 1).await;
}

#[tokio::test]
async fn resets_that_come_slowly_one_by_one_are_counted_too() {
    let upstream = Upstream::scripted(|mut wire| async move { wire.take(usize::MAX).await.map(drop) }).await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.resets = 5).start();
    let (sender, ended) = connect(&bench).await;
    for _ in 0..50 {
        let Ok(mut sender) = sender.clone().ready().await else { break };
        let Ok((answer, mut stream)) = sender.send_request(request("GET", "/"), true) else { break };
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    let ended = timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!(ended.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_head_that_is_not_finished_ends_the_connection() {
    let upstream = Upstream::named("one").await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.head_time = Duration::from_millis(200)).start();
    // A block without its end; half a frame; half a preface is another test's.
    for slow in [frame(1, 0, 1, GET), frame(1, 4, 1, GET)[..11].to_vec()] {
        goaway(&bench, &slow).await;
    }
    let mut half = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    half.write_all(&PREFACE[..9]).await.unwrap();
    assert_eq!(timeout(PATIENCE, half.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let upstream = Upstream::scripted(|mut wire| async move { wire.take(usize::MAX).await.map(drop) }).await;
    let bench = Setup::new(upstream.address).limits(|limits| limits.streams = 3).start();
    let stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let streams: Vec<u8> = (0..4u32).flat_map(|at| frame(1, 4 | 1, 2 * at + 1, GET)).collect();
    write.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &streams].concat()).await.unwrap();
    let refused = timeout(PATIENCE, async {
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            read.read_exact(&mut payload).await.unwrap();
            if head[3] == 3 {
                return (u32::from_be_bytes(head[5..9].try_into().unwrap()), payload);
            }
        }
    });
    // REFUSED_STREAM: safe to send again.
    assert_eq!(refused.await.unwrap(), (7, vec![0, 0, 0, 7]));
}

#[tokio::test]
async fn a_header_bomb_is_refused() {
    let (bench, upstream) = bench().await;
    // One long entry in HPACK's table, then a reference of one byte to it, again and again: 4 KiB of head become megabytes.
    let mut bomb = GET.to_vec();
    bomb.extend([0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 127 + 0x21 + (0x1e << 7)]);
    bomb.extend(vec![0xbe; 4000]);
    let mut stream = TcpStream::connect(bench.proxy.local_addrs()[0]).await.unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4 | 1, 1, &bomb)].concat()).await.unwrap();
    let mut head = [0; 9];
    let answered = timeout(PATIENCE, async {
        while stream.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            // An answer of its own (431), a reset or a GOAWAY: all of them refuse it.
            if matches!(head[3], 1 | 3 | 7) {
                return true;
            }
        }
        true
    });
    assert!(answered.await.unwrap());
    assert_eq!(upstream.connections(), 0);
    let (sender, _) = connect(&bench).await;
    assert_eq!(ask(&sender, request("GET", "/")).await.unwrap().1, "one");
}
