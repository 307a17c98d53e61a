//! One object, a field a line: `Name:   value`.

use std::fmt::Display;

use super::text::{Text, line};

/// Fields in the order they were put.
#[derive(Default)]
pub(super) struct Fields {
    rows: Vec<(&'static str, Vec<String>)>,
}

impl Fields {
    /// A field with one value.
    #[must_use]
    pub(super) fn put(self, name: &'static str, value: impl Display) -> Self {
        self.list(name, [value])
    }

    /// A field with one value, if there is one.
    #[must_use]
    pub(super) fn some(self, name: &'static str, value: Option<impl Display>) -> Self {
        self.list(name, value)
    }

    /// A field with one value a line; left out without any.
    #[must_use]
    pub(super) fn list<T: Display>(
        mut self,
        name: &'static str,
        values: impl IntoIterator<Item = T>,
    ) -> Self {
        let values: Vec<String> = values.into_iter().map(line).collect();
        if !values.is_empty() {
            self.rows.push((name, values));
        }
        self
    }

    /// The text, one line a value, with a line end.
    pub(super) fn render(self) -> Text {
        let width = self.rows.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
        let mut text = String::new();
        for (name, values) in self.rows {
            let mut label = format!("{name}:");
            for value in values {
                text.push_str(format!("{label:<width$}  {value}").trim_end());
                text.push('\n');
                label.clear();
            }
        }
        Text::of_parts(text)
    }
}
