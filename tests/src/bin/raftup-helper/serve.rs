//! The server: HTTP and UDP on one port, a line per TCP connection on the next.
//!
//! Asked to stop, it takes what already waits in the queue, accepts no more, tells clients on open connections
//! to go away with their next answer, and ends when all are done or the patience is over.

use std::{
    env,
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Failure,
    http::Head,
    routes::{State, env_ms},
    signal,
};

/// How often the end looks for open connections.
const STEP: Duration = Duration::from_millis(5);
/// How often an idle connection looks whether the server is stopping.
const LOOK: Duration = Duration::from_millis(250);
/// How long an idle connection may send one more request after the stop.
const IDLE_PATIENCE: Duration = Duration::from_secs(2);

/// Serves until it is asked to stop.
///
/// Environment: `HELPER_PORT` (8080), `HELPER_START_MS` before it listens, `HELPER_EXIT` a status to end with
/// after `HELPER_EXIT_AFTER_MS`, `HELPER_STOP_MS` added at the end, `HELPER_IGNORE_TERM`.
pub(crate) fn run() -> Result<(), Failure> {
    let port: u16 = env::var("HELPER_PORT").ok().map_or(Ok(8080), |port| port.parse())?;
    if env::var("HELPER_IGNORE_TERM").is_err() {
        // A connection of our own wakes those that wait for one.
        signal::listen(move || {
            for port in [port, port + 1] {
                let _ = TcpStream::connect(("127.0.0.1", port));
            }
        })?;
    }
    if let Some(wait) = env_ms("HELPER_START_MS") {
        thread::sleep(wait);
    }
    if let Some(code) = env::var("HELPER_EXIT").ok().and_then(|code| code.parse().ok()) {
        let after = env_ms("HELPER_EXIT_AFTER_MS").unwrap_or_default();
        thread::spawn(move || {
            thread::sleep(after);
            println!("exiting with {code} as told");
            std::process::exit(code);
        });
    }
    let state = Arc::new(State::from_env());
    let http = TcpListener::bind(("0.0.0.0", port))?;
    let lines = TcpListener::bind(("0.0.0.0", port + 1))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port))?;
    println!("serving on {port}");

    let open = Arc::new(AtomicUsize::new(0));
    let udp_state = state.clone();
    thread::spawn(move || serve_udp(&datagrams, &udp_state));
    let line_state = state.clone();
    let line = thread::spawn(move || accept(&lines, |stream, client| say_line(stream, client, &line_state)));
    accept(&http, |stream, client| {
        let (state, open) = (state.clone(), open.clone());
        open.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            // A client that went away is no error of ours.
            let _ = converse(&stream, client, &state);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    })?;
    drop(http);
    println!("stopping: {} connections open", open.load(Ordering::Relaxed));
    while open.load(Ordering::Relaxed) > 0 {
        thread::sleep(STEP);
    }
    thread::sleep(env_ms("HELPER_STOP_MS").unwrap_or_default());
    line.join().map_err(|_| "the line server panicked")??;
    println!("stopped");
    Ok(())
}

/// Accepts until the stop, and then what waits in the queue.
fn accept(listener: &TcpListener, mut serve: impl FnMut(TcpStream, SocketAddr)) -> Result<(), Failure> {
    loop {
        let stopping = signal::asked_to_stop();
        listener.set_nonblocking(stopping)?;
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(false)?;
                serve(stream, client);
            }
            Err(_) if stopping => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn say_line(mut stream: TcpStream, client: SocketAddr, state: &State) {
    // A client that went away is no error of ours.
    let _ = stream.write_all(state.line(client).as_bytes());
}

fn serve_udp(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 2048];
    while let Ok((_, client)) = socket.recv_from(&mut buffer) {
        // Lost like any datagram.
        let _ = socket.send_to(state.line(client).as_bytes(), client);
    }
}

/// Answers requests on one connection until either side has enough.
fn converse(stream: &TcpStream, client: SocketAddr, state: &State) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::new(stream);
    let mut to = stream;
    while wait_for_data(stream)? {
        let Some(request) = Head::read(&mut from)? else { return Ok(()) };
        request.body(&mut from, false, &mut std::io::sink())?;
        let close = request.wants_close() || signal::asked_to_stop();
        state.respond(&request, client, close, &mut to)?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a next request comes: not at the end of the stream, nor long after the stop.
fn wait_for_data(stream: &TcpStream) -> Result<bool, Failure> {
    let mut stopping_since = None;
    stream.set_read_timeout(Some(LOOK))?;
    let more = loop {
        match stream.peek(&mut [0]) {
            Ok(length) => break length > 0,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        if signal::asked_to_stop() {
            let since = *stopping_since.get_or_insert_with(Instant::now);
            if since.elapsed() > IDLE_PATIENCE {
                break false;
            }
        }
    };
    stream.set_read_timeout(None)?;
    Ok(more)
}
