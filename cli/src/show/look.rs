//! What the shape of a text depends on, beside the data.

use std::io::{IsTerminal, stdout};

use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;
use raftup_proto::unit::UnixMillis;

/// Letters of an image's name in a table.
const IMAGE_SHOWN: usize = 60;

/// How a text is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The time that "2 minutes ago" counts from.
    pub(crate) now: UnixMillis,
    /// Columns of the terminal; none if it is none, and nothing is wrapped then.
    pub(crate) width: Option<u16>,
    /// With colours.
    pub(crate) colour: bool,
    /// Digests of images are left out.
    pub(crate) short: bool,
}

impl Look {
    /// The look for standard output as it is now.
    pub(crate) fn stdout() -> Self {
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let terminal = stdout().is_terminal();
        Self {
            now: UnixMillis(now),
            width: if terminal { comfy_table::Table::new().width() } else { None },
            colour: AutoStream::choice(&stdout()) != ColorChoice::Never,
            short: true,
        }
    }

    /// The same look, with digests of images if `full`.
    #[must_use]
    pub(crate) fn full(self, full: bool) -> Self {
        Self { short: !full, ..self }
    }

    /// An image as it is shown: in a short form without its digest, and of a long name the end.
    pub(super) fn image(self, image: &str) -> String {
        let name = match image.split_once('@') {
            Some((name, _)) if self.short && !name.is_empty() => name,
            Some(_) | None => image,
        };
        match name.char_indices().rev().nth(IMAGE_SHOWN) {
            Some((cut, _)) if self.short => format!("..{}", &name[cut..]),
            Some(_) | None => name.to_owned(),
        }
    }
}
