//! Where a value is in the model, such as `services.web.ports[0]`, and patterns of such places.

use std::fmt;

use super::text::clip;

/// The way from the top of a tree to one of its values.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The path of the keys.
    pub(super) fn of<const N: usize>(keys: [&str; N]) -> Self {
        Self { steps: keys.iter().map(|key| Step::Key((*key).to_owned())).collect() }
    }

    pub(super) fn push(&mut self, key: &str) {
        self.steps.push(Step::Key(key.to_owned()));
    }

    pub(super) fn push_index(&mut self, index: usize) {
        self.steps.push(Step::Index(index));
    }

    pub(super) fn pop(&mut self) {
        self.steps.pop();
    }

    /// Whether the pattern stands for this path: keys with dots between them, `*` for any key or index.
    pub(super) fn matches(&self, pattern: &str) -> bool {
        let mut parts = pattern.split('.');
        let fits = |step: &Step| match (parts.next(), step) {
            (Some("*"), _) => true,
            (Some(part), Step::Key(key)) => part == key,
            (Some(_), Step::Index(_)) | (None, _) => false,
        };
        self.steps.iter().all(fits) && pattern.split('.').count() == self.steps.len()
    }

    /// The path inside of a service, if it leads into one.
    pub(super) fn below_service(&self) -> Option<Self> {
        let first = Step::Key("services".to_owned());
        (self.steps.len() > 2 && self.steps[0] == first).then(|| Self { steps: self.steps[2..].to_vec() })
    }

    /// Whether a key on the way, or the last one, belongs to an extension.
    pub(super) fn in_extension(&self) -> bool {
        // Keys of these mappings are the user's own names, which may begin like an extension.
        let named = |index: usize| match self.steps.get(index.wrapping_sub(1)) {
            Some(Step::Key(above)) => matches!(
                above.as_str(),
                "services" | "networks" | "volumes" | "environment" | "labels" | "options" | "driver_opts"
            ),
            Some(Step::Index(_)) | None => false,
        };
        let extends = |(index, step): (usize, &Step)| match step {
            Step::Key(key) => key.starts_with("x-") && (index == 0 || !named(index)),
            Step::Index(_) => false,
        };
        self.steps.iter().enumerate().any(extends)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{}", clip(key))?,
                Step::Key(key) => write!(f, ".{}", clip(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
