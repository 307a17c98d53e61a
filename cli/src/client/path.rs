//! Paths of the API, with whatever the user typed made safe.

use std::fmt::Write;

/// Where the native API begins.
const ROOT: &str = "/raftup/v1";

/// A path and its query, such as `/raftup/v1/tasks?service=shop_web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    queried: bool,
}

impl Path {
    /// The path of these segments below the API's root.
    pub(crate) fn new<const N: usize>(segments: [&str; N]) -> Self {
        let mut text = String::from(ROOT);
        for segment in segments {
            text.push('/');
            push_encoded(&mut text, segment);
        }
        Self { text, queried: false }
    }

    /// The same path with one more `key=value`.
    #[must_use]
    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.queried { '&' } else { '?' });
        self.queried = true;
        self.text.push_str(key);
        self.text.push('=');
        push_encoded(&mut self.text, value);
        self
    }

    /// The same path with one more `key=value`, if there is a value.
    #[must_use]
    pub(crate) fn query_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// The path as it is sent.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Everything but the unreserved characters of RFC 3986 becomes `%XX`; so do the segments `.` and `..`.
fn push_encoded(text: &mut String, part: &str) {
    let dots = matches!(part, "." | "..");
    for byte in part.bytes() {
        match byte {
            b'-' | b'_' | b'~' => text.push(char::from(byte)),
            b'.' if !dots => text.push('.'),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_encoded() {
        let path = Path::new(["services", "a/b ?", ".."]).query("since", "5").query_some("tail", None);
        assert_eq!(path.as_str(), "/raftup/v1/services/a%2Fb%20%3F/%2E%2E?since=5");
        assert_eq!(
            Path::new(["x"]).query("a", "1&2").query("b", "é").as_str(),
            "/raftup/v1/x?a=1%262&b=%C3%A9"
        );
    }
}
