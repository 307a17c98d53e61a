//! Frames on a stream between two nodes, or within one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use raftup_proto::codec::{self, LENGTH_BYTES};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout},
};

use super::{error::FrameError, link::Hold};

/// Bytes that a stream within one process holds before its writer waits.
const LOCAL_BUFFER_BYTES: usize = 256 << 10;

/// Most bytes that are set aside for a frame before any of it has come.
const RESERVE_BYTES: usize = 64 << 10;

/// A stream to another node, both ways. Dropping it ends it.
#[derive(Debug)]
pub struct Stream {
    /// What this side says.
    pub send: Sender,
    /// What the other side says.
    pub recv: Receiver,
}

impl Stream {
    pub(super) fn quic(send: quinn::SendStream, recv: quinn::RecvStream, hold: Option<&Hold>) -> Self {
        Self {
            send: Sender { inner: Box::new(send), _hold: hold.cloned() },
            recv: Receiver {
                inner: Box::new(recv),
                buffer: BytesMut::new(),
                heard: Instant::now(),
                most: u64::MAX,
                _hold: hold.cloned(),
            },
        }
    }

    /// The two ends of a stream within one process; a node reaches itself so, and tests reach what they test.
    pub fn pair() -> (Self, Self) {
        let (a, b) = tokio::io::duplex(LOCAL_BUFFER_BYTES);
        (Self::local(a), Self::local(b))
    }

    fn local(end: tokio::io::DuplexStream) -> Self {
        let (read, write) = tokio::io::split(end);
        Self {
            send: Sender { inner: Box::new(write), _hold: None },
            recv: Receiver {
                inner: Box::new(read),
                buffer: BytesMut::new(),
                heard: Instant::now(),
                most: u64::MAX,
                _hold: None,
            },
        }
    }

    /// The same stream, from which no frame of more than `most` bytes is read, whatever the caller allows.
    pub(super) fn capped(mut self, most: u64) -> Self {
        self.recv.most = most;
        self
    }

    /// The two directions, to be used by two tasks.
    pub fn split(self) -> (Sender, Receiver) {
        (self.send, self.recv)
    }

    /// See [`Receiver::read_frame`].
    pub async fn read_frame<T: DeserializeOwned>(&mut self, cap: u64) -> Result<T, FrameError> {
        self.recv.read_frame(cap).await
    }

    /// As [`Self::read_frame`], all of it within `limit`.
    pub(super) async fn read_frame_within<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
        cap: u64,
    ) -> Result<T, FrameError> {
        let late = |_| FrameError::Lost { reason: format!("no whole frame came within {limit:?}") };
        timeout(limit, self.read_frame(cap)).await.map_err(late)?
    }

    /// See [`Sender::write_frame`].
    pub async fn write_frame<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        cap: u64,
    ) -> Result<(), FrameError> {
        self.send.write_frame(value, cap).await
    }
}

/// The direction away from this node. Dropping it ends the direction.
pub struct Sender {
    inner: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    _hold: Option<Hold>,
}

impl Sender {
    /// Writes one frame of at most `cap` bytes. Not cancel-safe: a part of the frame may have been written.
    pub async fn write_frame<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        cap: u64,
    ) -> Result<(), FrameError> {
        let bytes = codec::frame(value, cap)?;
        self.inner.write_all(&bytes).await.map_err(FrameError::lost)
    }

    /// As [`Sender::write_frame`]. Errors: also when the other side takes no byte for as long as `stall`; how long the
    /// whole frame takes does not matter.
    pub async fn write_frame_while_it_moves<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        cap: u64,
        stall: Duration,
    ) -> Result<(), FrameError> {
        let bytes = codec::frame(value, cap)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Ok(written) = timeout(stall, self.inner.write(rest)).await else {
                return Err(FrameError::Lost { reason: "the other side takes nothing any more".to_owned() });
            };
            match written.map_err(FrameError::lost)? {
                0 => return Err(FrameError::lost(io::ErrorKind::WriteZero.into())),
                size => rest = &rest[size..],
            }
        }
        Ok(())
    }

    /// Ends the direction; what was written is still delivered.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        self.inner.shutdown().await.map_err(FrameError::lost)
    }
}

/// The direction towards this node. Dropping it tells the other side to stop.
pub struct Receiver {
    inner: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// What was read and not asked for yet.
    buffer: BytesMut,
    /// When bytes came last.
    heard: Instant,
    /// Most bytes of one frame.
    most: u64,
    _hold: Option<Hold>,
}

impl Receiver {
    /// Reads one frame of at most `cap` bytes. Cancel-safe: what was read so far is kept for the next call.
    ///
    /// Errors: [`FrameError::Closed`] at the end of the stream between two frames; anything else is final too.
    pub async fn read_frame<T: DeserializeOwned>(&mut self, cap: u64) -> Result<T, FrameError> {
        loop {
            if let Some(body) = self.take_frame(cap.min(self.most))? {
                return Ok(codec::decode(&body, cap)?);
            }
            if self.inner.read_buf(&mut self.buffer).await.map_err(FrameError::lost)? == 0 {
                return Err(if self.buffer.is_empty() {
                    FrameError::Closed
                } else {
                    FrameError::cut_short()
                });
            }
            self.heard = Instant::now();
        }
    }

    /// When bytes of a frame were read last, whether it is whole by now or not.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The next frame's body if all of it is there; else makes room for more of it.
    fn take_frame(&mut self, cap: u64) -> Result<Option<BytesMut>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let whole = LENGTH_BYTES + codec::frame_size(*length, cap)?;
        if self.buffer.len() < whole {
            self.buffer.reserve((whole - self.buffer.len()).min(RESERVE_BYTES));
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(whole);
        frame.advance(LENGTH_BYTES);
        Ok(Some(frame))
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, out);
        }
        let size = out.remaining().min(self.buffer.len());
        out.put_slice(&self.buffer[..size]);
        self.buffer.advance(size);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sender {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, out)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_a_cancelled_read() {
        let (mut near, mut far) = Stream::pair();
        let bytes = codec::frame("hello", 64).unwrap();
        near.send.write_all(&bytes[..3]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), far.read_frame::<String>(64)).await;
        assert!(early.is_err(), "only a part has come");
        near.send.write_all(&bytes[3..]).await.unwrap();
        assert_eq!(far.read_frame::<String>(64).await.unwrap(), "hello");
    }

    /// A large frame takes as long as it takes; one that nobody takes does not.
    #[tokio::test(start_paused = true)]
    async fn writes_go_on_while_bytes_move() {
        let (mut near, mut far) = Stream::pair();
        let (large, cap, stall) = (vec![7_u8; 4 * LOCAL_BUFFER_BYTES], 64 << 20, Duration::from_secs(2));
        let write = near.send.write_frame_while_it_moves(&large, cap, stall);
        let read = async {
            let mut part = vec![0; LOCAL_BUFFER_BYTES / 4];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                far.recv.inner.read_exact(&mut part).await.unwrap();
                far.recv.buffer.extend_from_slice(&part);
            }
            far.read_frame::<Vec<u8>>(cap).await.unwrap()
        };
        let (written, read) = tokio::join!(write, read);
        written.unwrap();
        assert_eq!(read, large);
        let begun = Instant::now();
        let stuck = near.send.write_frame_while_it_moves(&large, cap, stall).await;
        assert!(matches!(stuck, Err(FrameError::Lost { .. })), "{stuck:?}");
        assert!(begun.elapsed() < 2 * stall);
    }

    #[tokio::test]
    async fn ends_and_excesses_are_told_apart() {
        let (mut near, mut far) = Stream::pair();
        near.write_frame("hello", 64).await.unwrap();
        assert!(matches!(far.read_frame::<String>(3).await, Err(FrameError::Codec(_))));
        let (mut near, mut far) = Stream::pair();
        near.write_frame(&7_u8, 64).await.unwrap();
        near.send.write_all(&[0, 0]).await.unwrap();
        drop(near);
        assert_eq!(far.read_frame::<u8>(64).await.unwrap(), 7);
        assert!(matches!(far.read_frame::<u8>(64).await, Err(FrameError::Lost { .. })));
        let (near, mut far) = Stream::pair();
        drop(near);
        assert!(matches!(far.read_frame::<u8>(64).await, Err(FrameError::Closed)));
    }

    #[tokio::test]
    async fn bytes_after_a_frame_are_not_lost() {
        let (mut near, mut far) = Stream::pair();
        near.write_frame(&1_u8, 64).await.unwrap();
        near.send.write_all(b"GET /").await.unwrap();
        drop(near);
        assert_eq!(far.read_frame::<u8>(64).await.unwrap(), 1);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "GET /");
    }
}
