//! Tables in Docker's manner: upper-case headers, three blanks between columns, no lines.

use std::fmt::Display;

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Width, presets};

use super::{Look, Text, text::line};

/// Blanks between two columns.
const GAP: u16 = 3;
/// Least width of a column that is wrapped.
const WRAP_MIN: u16 = 24;

/// Rows under a header.
pub(super) struct Table {
    inner: comfy_table::Table,
    columns: usize,
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// It does not.
    Plain,
    /// On the way.
    Waiting,
    /// Wrong.
    Bad,
}

/// A cell.
pub(super) fn cell(text: impl Display, tone: Tone) -> Cell {
    let cell = Cell::new(line(text));
    match tone {
        Tone::Plain => cell,
        Tone::Waiting => cell.fg(comfy_table::Color::Yellow),
        Tone::Bad => cell.fg(comfy_table::Color::Red),
    }
}

impl Table {
    pub(super) fn new<const N: usize>(header: [&str; N]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING).set_header(header);
        Self { inner, columns: N }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.inner.add_row(cells);
    }

    /// The text. On a terminal the last column is wrapped, the others keep their width; elsewhere nothing is.
    pub(super) fn render(mut self, look: Look) -> Text {
        self.inner.force_no_tty();
        if look.colour {
            self.inner.enforce_styling();
        }
        if let Some(width) = look.width {
            self.inner.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        for (index, column) in self.inner.column_iter_mut().enumerate() {
            let last = index + 1 == self.columns;
            column.set_padding((0, if last { 0 } else { GAP }));
            column.set_constraint(if last {
                ColumnConstraint::LowerBoundary(Width::Fixed(WRAP_MIN))
            } else {
                ColumnConstraint::ContentWidth
            });
        }
        Text::of_parts(self.inner.trim_fmt())
    }
}
