//! Progress: one live line a service on a terminal; elsewhere a plain line whenever something changed.
//!
//! Owns: standard error while a change is watched.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use raftup_proto::api::{ServiceProgress, UpdateState};

use super::{
    tell,
    text::{Text, line},
};

/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Where progress is shown.
pub(crate) enum Board {
    /// A terminal.
    Live(Live),
    /// A file, a pipe, a log of CI.
    Plain(Plain),
}

impl Board {
    /// The board for standard error. `removing` counts down to nothing, otherwise up to what is wanted.
    pub(crate) fn stderr(removing: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if stderr().is_terminal() && !dumb {
            Self::Live(Live::new(removing))
        } else {
            Self::Plain(Plain { removing, ..Plain::default() })
        }
    }

    /// Shows the newest state of the services of one of the changes that are watched.
    pub(crate) fn update(&mut self, change: usize, services: &[ServiceProgress]) {
        match self {
            Self::Live(live) => live.update(change, services),
            Self::Plain(plain) => {
                plain.update(change, services).into_iter().for_each(|line| tell(&line.into()))
            }
        }
    }

    /// Shows a remark.
    pub(crate) fn note(&mut self, text: &str) {
        match self {
            // Nobody is left to tell if the terminal is gone.
            Self::Live(live) => drop(live.lines.println(line(text))),
            Self::Plain(_) => tell(&Text::line(text)),
        }
    }

    /// Leaves the last state standing.
    pub(crate) fn close(self) {
        match self {
            Self::Live(live) => live.close(),
            Self::Plain(_) => {}
        }
    }
}

/// Services by the change they belong to and their name.
type Rows<T> = BTreeMap<(usize, String), T>;

/// Lines that are drawn over and over.
pub(crate) struct Live {
    removing: bool,
    lines: MultiProgress,
    rows: Rows<ProgressBar>,
    spinner: ProgressBar,
}

impl Live {
    fn new(removing: bool) -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let spinner = lines.add(ProgressBar::new_spinner().with_style(style("{spinner} {elapsed}")));
        spinner.enable_steady_tick(TICK);
        Self { removing, lines, rows: Rows::new(), spinner }
    }

    fn update(&mut self, change: usize, services: &[ServiceProgress]) {
        for service in services {
            let key = (change, service.name.clone());
            if !self.rows.contains_key(&key) {
                let template = if self.removing { "{prefix}  {wide_msg}" } else { ROW };
                let bar = ProgressBar::new(0).with_style(style(template).progress_chars("=> "));
                self.rows.insert(key.clone(), self.lines.insert_before(&self.spinner, bar));
            }
            if let Some(bar) = self.rows.get(&key) {
                bar.set_length(u64::from(service.desired));
                bar.set_position(u64::from(service.running));
                let message = if self.removing { left(service) } else { reasons(service).join("; ") };
                bar.set_message(line(message));
            }
        }
        for ((_, _), bar) in self
            .rows
            .iter()
            .filter(|((of, name), _)| *of == change && !services.iter().any(|s| s.name == *name))
        {
            bar.set_message("gone");
        }
        let width = self.rows.keys().map(|(_, name)| line(name).chars().count()).max().unwrap_or(0);
        for ((_, name), bar) in &self.rows {
            bar.set_prefix(format!("{:<width$}", line(name)));
        }
    }

    fn close(self) {
        self.spinner.finish_and_clear();
        self.rows.values().for_each(ProgressBar::abandon);
    }
}

/// A service on a terminal: its name, how many run, what it waits for.
const ROW: &str = "{prefix}  [{bar:20}] {pos}/{len}  {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Lines that are written once.
#[derive(Default)]
pub(crate) struct Plain {
    removing: bool,
    rows: Rows<ServiceProgress>,
}

impl Plain {
    /// The lines to write now: one for each service that changed.
    pub(super) fn update(&mut self, change: usize, services: &[ServiceProgress]) -> Vec<String> {
        let mut lines = Vec::new();
        for service in services {
            let key = (change, service.name.clone());
            if self.rows.get(&key) != Some(service) {
                lines.push(self.line(service));
                self.rows.insert(key, service.clone());
            }
        }
        let gone = |(of, name): &(usize, String)| *of == change && !services.iter().any(|s| s.name == *name);
        let gone: Vec<_> = self.rows.keys().filter(|key| gone(key)).cloned().collect();
        for key in gone {
            self.rows.remove(&key);
            lines.push(format!("{}: gone", key.1));
        }
        lines
    }

    fn line(&self, service: &ServiceProgress) -> String {
        let ServiceProgress { name, running, complete, desired, .. } = service;
        if self.removing {
            return format!("{name}: {}", left(service));
        }
        let reasons: String = reasons(service).iter().map(|reason| format!("; {reason}")).collect();
        match complete {
            0 => format!("{name}: {running}/{desired} running{reasons}"),
            _ if running == complete => format!("{name}: {complete}/{desired} complete{reasons}"),
            _ => format!(
                "{name}: {}/{desired} running, {complete} complete{reasons}",
                running.saturating_sub(*complete)
            ),
        }
    }
}

/// How the update stands, unless it is complete or just goes on, and what is waited for.
fn reasons(service: &ServiceProgress) -> Vec<String> {
    let plain = |state| matches!(state, UpdateState::Updating | UpdateState::Completed);
    let update = service.update.iter().filter(|update| !plain(update.state));
    let update = update.map(|update| format!("{}: {}", update.state, update.message));
    update.chain(service.waiting.iter().cloned()).collect()
}

fn left(service: &ServiceProgress) -> String {
    match service.running {
        0 => "stopped".to_owned(),
        running => {
            let waiting: String = service.waiting.iter().map(|reason| format!("; {reason}")).collect();
            format!("{running} still running{waiting}")
        }
    }
}
