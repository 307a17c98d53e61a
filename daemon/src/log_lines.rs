//! The daemon's own log: one line an event on standard error, whatever is in its fields.
//!
//! Where standard error is systemd's journal, lines for people begin with the event's priority as the journal reads it, and
//! have no time of their own: the journal keeps one for each line.
//!
//! Holds: text of others, such as an engine's message, cannot begin a line and cannot control a terminal; libraries do not log
//! what they send where that has secrets in it.

use std::{
    fmt,
    io::{self, Write},
};

use raftup_proto::printable;
use rustix::fs::fstat;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Libraries that log no more than this: below it, requests to the engine with the environment of containers, and messages to
/// the kernel with the private keys of WireGuard.
const QUIET: [&str; 2] = ["bollard=info", "netlink_proto=info"];

/// Logs what `filter` lets pass from now on, as JSON or for people. Errors: it is no filter; the log was started before.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let form = match json {
        true => Form::Json,
        false if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => Form::Journal,
        false => Form::Text,
    };
    Ok(dispatch(filter, form, io::stderr)?.try_init()?)
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people, with times.
    Text,
    /// For people who read them in systemd's journal.
    Journal,
    /// For programs.
    Json,
}

/// Whether standard error is the journal that the variable `JOURNAL_STREAM` names, by device and inode. Source:
/// systemd.exec(5).
fn is_journal(named: Option<&str>) -> bool {
    let here = fstat(io::stderr()).map(|file| format!("{}:{}", file.st_dev, file.st_ino));
    here.is_ok_and(|here| named == Some(here.as_str()))
}

/// Priorities of syslog before each event, as `sd-daemon(3)` defines them.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(to, "<{priority}>")?;
        self.0.format_event(cx, to, event)
    }
}

fn dispatch<W: Write + 'static>(
    filter: &str,
    form: Form,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> Result<Dispatch, ParseError> {
    let mut filter = EnvFilter::try_new(filter)?;
    if filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO) {
        for limit in QUIET {
            filter = filter.add_directive(limit.parse()?);
        }
    }
    let json = form == Form::Json;
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || Lines { to: to(), json });
    // Parts outlive whoever reads their log.
    let lines = lines.log_internal_errors(false);
    let lines = lines.with_ansi(false);
    Ok(match form {
        Form::Json => Dispatch::new(lines.json().finish()),
        Form::Journal => Dispatch::new(
            lines.event_format(Journal(Format::default().with_ansi(false).without_time())).finish(),
        ),
        Form::Text => Dispatch::new(lines.finish()),
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

    fn logged(filter: &str, form: Form, act: impl FnOnce()) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        tracing::dispatcher::with_default(&dispatch(filter, form, move || to.clone()).unwrap(), act);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let nasty = "unhealthy\n2026-11-30T00:00:00Z  INFO all is well\r\u{1b}[2J\u{9b}31m\u{202e}\u{7f}";
        let act = || tracing::warn!(text = nasty, error = %nasty, debug = ?nasty, "{nasty}");
        for form in [Form::Text, Form::Journal, Form::Json] {
            let log = logged("info", form, act);
            assert_eq!(log.matches('\n').count(), 1, "{log:?}");
            let controls = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(log.contains("all is well") && !log.contains(controls), "{log:?}");
            if form == Form::Json {
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
            let log = logged(filter, Form::Text, act);
            assert!(log.contains("ours") && log.contains("connected"), "{log}");
            assert!(!log.contains("password") && !log.contains("private"), "{log}");
        }
        assert_eq!(logged("error", Form::Text, act), "", "nor more than the filter says");
    }

    #[test]
    fn the_journal_is_told_the_priority_and_no_second_time() {
        let act = || {
            tracing::error!("broken");
            tracing::warn!(node = 3, "odd");
            tracing::info!("done");
            tracing::debug!("detail");
        };
        let log = logged("debug", Form::Journal, act);
        let starts: Vec<&str> = log.lines().map(|line| line.split_inclusive('>').next().unwrap()).collect();
        assert_eq!(starts, ["<3>", "<4>", "<6>", "<7>"], "{log}");
        assert!(log.contains("WARN raftup_daemon::log_lines::tests: odd node=3\n"), "{log}");
        let year = |line: &str| line.contains("20") && line.contains('T') && line.contains('Z');
        assert!(!log.lines().any(year), "{log}");
        assert!(logged("debug", Form::Text, act).lines().all(year));
    }

    #[test]
    fn another_stream_than_the_named_one_is_no_journal() {
        let here = fstat(io::stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", here.st_dev, here.st_ino))));
        assert!(!is_journal(Some(&format!("{}:{}", here.st_dev, here.st_ino + 1))));
        assert!(!is_journal(None) && !is_journal(Some("")));
    }
}
