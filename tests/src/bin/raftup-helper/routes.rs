//! What the server answers, and how it can be told to misbehave.
//!
//! ```text
//! /             who answers: {"task":..,"host":..,"version":..,"client":..}
//! /healthz      200, or 503 while unhealthy
//! /slow?ms=N    the answer of / after N ms
//! /stream?ms=N  a line every 100 ms, for N ms
//! /bytes?n=N    N bytes
//! /status?code=N
//! /burn?ms=N    uses one core
//! /eat?mb=N     takes memory and keeps it
//! /env?name=X   a variable of its environment
//! /file?path=P  a file of its own
//! /unhealthy, /healthy
//! /exit?code=N  answers, then ends
//! ```

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::http::{Head, answer};

const STREAM_STEP: Duration = Duration::from_millis(100);

/// What one instance says of itself, and the state that requests can change.
pub(crate) struct State {
    task: String,
    host: String,
    version: String,
    started: Instant,
    healthy_after: Duration,
    slow: Duration,
    unhealthy: AtomicBool,
    eaten: Mutex<Vec<Vec<u8>>>,
}

impl State {
    /// From the environment: `TASK_ID` or `RAFTUP_TASK_ID` (else the host name), `HELPER_VERSION`,
    /// `HELPER_SLOW_MS`, `HELPER_UNHEALTHY`, `HELPER_HEALTHY_AFTER_MS`.
    pub(crate) fn from_env() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let task =
            env::var("TASK_ID").or_else(|_| env::var("RAFTUP_TASK_ID")).unwrap_or_else(|_| host.clone());
        Self {
            task,
            host,
            version: env::var("HELPER_VERSION").unwrap_or_else(|_| "0".into()),
            started: Instant::now(),
            healthy_after: env_ms("HELPER_HEALTHY_AFTER_MS").unwrap_or_default(),
            slow: env_ms("HELPER_SLOW_MS").unwrap_or_default(),
            unhealthy: AtomicBool::new(env::var("HELPER_UNHEALTHY").is_ok_and(|value| value != "0")),
            eaten: Mutex::default(),
        }
    }

    /// One line that says who answers whom.
    pub(crate) fn line(&self, client: SocketAddr) -> String {
        format!(
            "{{\"task\":\"{}\",\"host\":\"{}\",\"version\":\"{}\",\"client\":\"{}\",\"port\":{}}}\n",
            self.task,
            self.host,
            self.version,
            client.ip(),
            client.port()
        )
    }

    fn healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed) && self.started.elapsed() >= self.healthy_after
    }

    /// Answers one request. `close` is what the answer says of the connection.
    pub(crate) fn respond(
        &self,
        request: &Head,
        client: SocketAddr,
        close: bool,
        to: &mut impl Write,
    ) -> std::io::Result<()> {
        let target = request.word(1);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let text = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
        let mut status = 200;
        let mut body = self.line(client);
        match path {
            "/healthz" => status = if self.healthy() { 200 } else { 503 },
            "/slow" => thread::sleep(Duration::from_millis(number("ms"))),
            "/stream" => return self.stream(Duration::from_millis(number("ms")), client, to),
            "/bytes" => body = "x".repeat(usize::try_from(number("n")).unwrap_or_default()),
            "/status" => status = u16::try_from(number("code")).unwrap_or(500),
            "/burn" => burn(Duration::from_millis(number("ms"))),
            "/eat" => self.eat(number("mb")),
            "/env" => body = env::var(text("name").unwrap_or_default()).unwrap_or_default(),
            "/file" => match fs::read_to_string(text("path").unwrap_or_default()) {
                Ok(content) => body = content,
                Err(error) => (status, body) = (404, error.to_string()),
            },
            "/unhealthy" => self.unhealthy.store(true, Ordering::Relaxed),
            "/healthy" => self.unhealthy.store(false, Ordering::Relaxed),
            "/exit" => {
                answer(to, status, true, &body)?;
                std::process::exit(i32::try_from(number("code")).unwrap_or(1));
            }
            _ => thread::sleep(self.slow),
        }
        answer(to, status, close, &body)
    }

    fn stream(&self, length: Duration, client: SocketAddr, to: &mut impl Write) -> std::io::Result<()> {
        let line = self.line(client);
        to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let start = Instant::now();
        while start.elapsed() < length {
            write!(to, "{:x}\r\n{line}\r\n", line.len())?;
            to.flush()?;
            thread::sleep(STREAM_STEP);
        }
        to.write_all(b"0\r\n\r\n")?;
        to.flush()
    }

    fn eat(&self, mebibytes: u64) {
        let bytes = usize::try_from(mebibytes << 20).unwrap_or_default();
        if let Ok(mut eaten) = self.eaten.lock() {
            // Not zero, or the kernel would not have to find the memory.
            eaten.push(vec![1; bytes]);
        }
    }
}

/// A number of milliseconds from the environment.
pub(crate) fn env_ms(name: &str) -> Option<Duration> {
    env::var(name).ok()?.parse().ok().map(Duration::from_millis)
}

fn burn(length: Duration) {
    let start = Instant::now();
    let mut number = 1u64;
    while start.elapsed() < length {
        number = std::hint::black_box(number.wrapping_mul(31).wrapping_add(7));
    }
}
