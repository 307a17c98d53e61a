//! The daemon's own log: one line an event on standard error, whatever is in its fields.
//!
//! Holds: text of others, such as an engine's message, cannot begin a line and cannot control a terminal; libraries do not log
//! what they send where that has secrets in it.

use std::io::{self, Write};

use raftup_proto::printable;
use tracing::Dispatch;
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
    util::SubscriberInitExt,
};

/// Libraries that log no more than this: below it, requests to the engine with the environment of containers, and messages to
/// the kernel with the private keys of WireGuard.
const QUIET: [&str; 2] = ["bollard=info", "netlink_proto=info"];

/// Logs what `filter` lets pass from now on, as JSON or for people. Errors: it is no filter; the log was started before.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    Ok(dispatch(filter, json, io::stderr)?.try_init()?)
}

fn dispatch<W: Write + 'static>(
    filter: &str,
    json: bool,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> Result<Dispatch, ParseError> {
    let mut filter = EnvFilter::try_new(filter)?;
    if filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO) {
        for limit in QUIET {
            filter = filter.add_directive(limit.parse()?);
        }
    }
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Lines { to: to(), json });
    // Parts outlive whoever reads their log.
    let lines = lines.log_internal_errors(false);
    Ok(if json {
        Dispatch::new(lines.json().finish())
    } else {
        Dispatch::new(lines.with_ansi(false).finish())
    })
}

/// Writes each event, which comes in one piece, as one line.
struct Lines<W> {
    to: W,
    json: bool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.json { printable::json(line) } else { printable::line(line) };
        self.to.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, json: bool, act: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        tracing::dispatcher::with_default(&dispatch(filter, json, move || to.clone()).unwrap(), act);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let nasty = "unhealthy\n2026-11-30T00:00:00Z  INFO all is well\r\u{1b}[2J\u{9b}31m\u{202e}\u{7f}";
        let act = || tracing::warn!(text = nasty, error = %nasty, debug = ?nasty, "{nasty}");
        for json in [false, true] {
            let log = logged("info", json, act);
            assert_eq!(log.matches('\n').count(), 1, "{log:?}");
            let controls = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(log.contains("all is well") && !log.contains(controls), "{log:?}");
            if json {
                let value: serde_json::Value = serde_json::from_str(&log).unwrap();
                assert_eq!(value["fields"]["text"], nasty);
            }
        }
    }

    #[test]
    fn no_filter_makes_libraries_log_what_they_send() {
        let act = || {
            tracing::debug!(target: "bollard::docker", "a password in an environment");
            tracing::trace!(target: "netlink_proto::codecs", "a private key");
            tracing::info!(target: "bollard::docker", "connected");
            tracing::trace!("ours");
        };
        for filter in ["trace", "debug,bollard=trace,netlink_proto=trace,raftup_daemon=trace"] {
            let log = logged(filter, false, act);
            assert!(log.contains("ours") && log.contains("connected"), "{log}");
            assert!(!log.contains("password") && !log.contains("private"), "{log}");
        }
        assert_eq!(logged("error", false, act), "", "nor more than the filter says");
    }
}
