//! Being told to stop.
//!
//! The standard library has no signals, and as the first process of a container there is no default action
//! either; so the static build (the one in images) installs a handler by hand, the only unsafe code here.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked this process to end.
pub(crate) fn asked_to_stop() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Listens for SIGTERM, SIGINT and SIGQUIT from now on, and calls `then` once when the first comes.
pub(crate) fn listen(then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    use std::{io::Read as _, os::unix::net::UnixStream};
    let (mut asked, ask) = UnixStream::pair()?;
    handler::install(ask);
    std::thread::spawn(move || {
        if asked.read_exact(&mut [0]).is_ok() {
            ASKED.store(true, Ordering::Relaxed);
            then();
        }
    });
    Ok(())
}

/// Without the C library at hand: whoever runs this build stops it with the default action.
#[cfg(not(target_feature = "crt-static"))]
mod handler {
    pub(super) fn install(ask: std::os::unix::net::UnixStream) {
        std::mem::forget(ask);
    }
}

#[cfg(target_feature = "crt-static")]
mod handler {
    use std::{
        os::{fd::IntoRawFd as _, unix::net::UnixStream},
        sync::atomic::{AtomicI32, Ordering},
    };

    static ASK: AtomicI32 = AtomicI32::new(-1);

    unsafe extern "C" {
        fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
        fn write(fd: i32, bytes: *const u8, count: usize) -> isize;
    }

    extern "C" fn note(_: i32) {
        // SAFETY: `write` may be called in a handler; the byte lives for ever, and so does the open socket.
        unsafe { write(ASK.load(Ordering::Relaxed), b"!".as_ptr(), 1) };
    }

    pub(super) fn install(ask: UnixStream) {
        ASK.store(ask.into_raw_fd(), Ordering::Relaxed);
        for number in [2, 3, 15] {
            // SAFETY: the C library's `signal`, with this signature; `note` does only what a handler may.
            unsafe { signal(number, note) };
        }
    }
}
