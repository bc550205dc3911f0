//! Several slices into one socket. hyper hands over a head and its body as two; for a kilobyte or so, copying them together and calling
//! `send` costs the kernel less than `writev` does, whose list of slices it must copy and check first.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, net::TcpStream};

/// From here on the copy would cost more than the list.
const COPIED_BYTES: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(COPIED_BYTES));
}

/// Writes as much of the slices as the socket takes, in one call.
pub(crate) fn poll_write(
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = slices {
        return stream.poll_write(cx, only);
    }
    if slices.iter().map(|slice| slice.len()).sum::<usize>() > COPIED_BYTES {
        return stream.poll_write_vectored(cx, slices);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        slices.iter().for_each(|slice| scratch.extend_from_slice(slice));
        stream.poll_write(cx, scratch)
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn slices_of_any_size_arrive_in_their_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut sent = Vec::new();
        for body in [0, 1, 1024, COPIED_BYTES - 4, COPIED_BYTES, 3 * COPIED_BYTES] {
            let (head, body) = (b"head".to_vec(), vec![b'b'; body]);
            for slices in [&[IoSlice::new(&head), IoSlice::new(&body)][..], &[IoSlice::new(&head)]] {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let written = poll_fn(|cx| poll_write(Pin::new(&mut near), cx, slices)).await.unwrap();
                assert_eq!(written, all.len());
                sent.extend(all);
            }
        }
        near.shutdown().await.unwrap();
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert!(came == sent, "{} bytes came of {}", came.len(), sent.len());
    }
}
