//! `$VAR`, `${VAR:-default}` and their kin in scalars.
//!
//! Owns: the syntax of Compose's interpolation and what an unset variable does. Leaves alone: keys, which are
//! never interpolated, and a `$` that begins no variable. Holds: text is expanded once (what a variable holds is not looked at again), only the branch
//! that is used is looked at, and all of a load yields at most [`EXPANDED_MAX`] bytes.
//!
//! Source: Compose Specification, "Interpolation".

use std::cell::Cell;

use super::{
    cx::{Cx, EXPANDED_MAX, Place},
    path::Path,
    text::clip,
    yaml::{Kind, Node},
};

/// Deepest nesting of `${A:-${B:-...}}`.
const DEPTH_MAX: usize = 16;

/// Where variables come from.
pub(super) struct Scope<'a> {
    cx: &'a Cx<'a>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// What is wrong in a text, and the part of it that is meant.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    part: String,
    message: String,
    help: Option<&'static str>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(cx: &'a Cx<'a>, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { cx, lookup }
    }

    /// Expands every scalar in `node`. One that cannot be expanded is reported, and what later steps say about it is not.
    pub(super) fn tree(&self, node: &mut Node, path: &mut Path) {
        match &mut node.kind {
            Kind::Null => {}
            Kind::Scalar(text) => {
                if text.contains('$')
                    && let Some(expanded) = self.text(text, node.at, &path.to_string())
                {
                    *text = expanded;
                }
            }
            Kind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_index(index);
                    self.tree(item, path);
                    path.pop();
                }
            }
            Kind::Map(map) => {
                for (key, entry) in map {
                    path.push(key);
                    self.tree(&mut entry.value, path);
                    path.pop();
                }
            }
        }
    }

    /// Expands one text; `None` if it was reported why not.
    pub(super) fn text(&self, text: &str, at: Place, path: &str) -> Option<String> {
        if !text.contains('$') {
            return Some(text.to_owned());
        }
        let missing = |name: &str| {
            if self.cx.is_news(name) {
                let place =
                    [format!("${{{name}"), format!("${name}")].map(|needle| self.cx.find(at, &needle));
                let place = if place[0] == at { place[1] } else { place[0] };
                let message = format!("the variable `{name}` is not set; it is taken as empty");
                self.cx.warn(place, path, message, Some(format!("set it, or write `${{{name}:-default}}`")));
            }
        };
        match expand(text, &Lookup { lookup: self.lookup, missing: &missing, left: &self.cx.expandable }, 0) {
            Ok(expanded) => Some(expanded),
            Err(fault) => {
                let place = self.cx.find(at, &fault.part);
                self.cx.error(place, path, fault.message, fault.help.map(str::to_owned));
                self.cx.silence(at);
                None
            }
        }
    }
}

struct Lookup<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    missing: &'a dyn Fn(&str),
    left: &'a Cell<usize>,
}

impl Lookup<'_> {
    fn push(&self, out: &mut String, text: &str) -> Result<(), Fault> {
        let left = self.left.get().checked_sub(text.len()).ok_or_else(|| Fault {
            part: "$".to_owned(),
            message: format!("the variables of this stack blow it up beyond {} MiB", EXPANDED_MAX >> 20),
            help: None,
        })?;
        self.left.set(left);
        out.push_str(text);
        Ok(())
    }
}

fn expand(text: &str, lookup: &Lookup<'_>, depth: usize) -> Result<String, Fault> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        lookup.push(&mut out, &rest[..dollar])?;
        let from = &rest[dollar..];
        let tail = &from[1..];
        rest = if let Some(tail) = tail.strip_prefix('$') {
            lookup.push(&mut out, "$")?;
            tail
        } else if let Some(tail) = tail.strip_prefix('{') {
            let end = closing(tail).ok_or_else(|| {
                fault(from, "is not closed", "close it with `}`, or write `$${` for a literal `${`")
            })?;
            if depth >= DEPTH_MAX {
                return Err(fault(from, "is nested too deep", ""));
            }
            braced(&from[..end + 3], &tail[..end], lookup, depth, &mut out)?;
            &tail[end + 1..]
        } else {
            let length = name_length(tail);
            if length == 0 {
                // As in `$(date)` or at the end of a password: Compose leaves it as it is.
                lookup.push(&mut out, "$")?;
            } else {
                let value = known(&tail[..length], lookup);
                lookup.push(&mut out, &value)?;
            }
            &tail[length..]
        };
    }
    lookup.push(&mut out, rest)?;
    Ok(out)
}

/// Expands what stands between `${` and its `}`.
fn braced(
    whole: &str,
    inner: &str,
    lookup: &Lookup<'_>,
    depth: usize,
    out: &mut String,
) -> Result<(), Fault> {
    let (name, tail) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Err(fault(whole, "names no variable", "write `$${` for a literal `${`"));
    }
    if tail.is_empty() {
        return lookup.push(out, &known(name, lookup));
    }
    let (full, operator, word) = match tail.strip_prefix(':') {
        Some(tail) => (true, tail.chars().next(), tail.get(1..)),
        None => (false, tail.chars().next(), tail.get(1..)),
    };
    // With a colon, an empty value counts as none.
    let value = (lookup.lookup)(name).filter(|value| !full || !value.is_empty());
    let word = || expand(word.unwrap_or_default(), lookup, depth + 1);
    match (operator, value) {
        (Some('-' | '?'), Some(value)) => lookup.push(out, &value),
        (Some('-'), None) => {
            out.push_str(&word()?);
            Ok(())
        }
        (Some('+'), Some(_)) => {
            out.push_str(&word()?);
            Ok(())
        }
        (Some('+'), None) => Ok(()),
        (Some('?'), None) => {
            let reason = word()?;
            let colon = if reason.is_empty() { "" } else { ": " };
            let message = format!("the variable `{name}` has to be set{colon}{}", clip(&reason));
            Err(Fault { part: whole.to_owned(), message, help: None })
        }
        (Some(_) | None, _) => Err(fault(
            whole,
            "is not understood",
            "after the name comes one of `:-` `-` `:?` `?` `:+` `+`, or `}`",
        )),
    }
}

fn known(name: &str, lookup: &Lookup<'_>) -> String {
    (lookup.lookup)(name).unwrap_or_else(|| {
        (lookup.missing)(name);
        String::new()
    })
}

/// Where the brace is that closes what is already open.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut open, mut index) = (0, 0);
    while let Some(byte) = bytes.get(index) {
        match (byte, bytes.get(index + 1)) {
            (b'$', Some(b'$')) => index += 1,
            (b'$', Some(b'{')) => {
                open += 1;
                index += 1;
            }
            (b'}', _) if open == 0 => return Some(index),
            (b'}', _) => open -= 1,
            _ => {}
        }
        index += 1;
    }
    None
}

/// Bytes of the variable's name at the start of `text`.
fn name_length(text: &str) -> usize {
    match text.bytes().next() {
        Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {}
        _ => return 0,
    }
    text.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_').unwrap_or(text.len())
}

fn fault(part: &str, message: &str, help: &'static str) -> Fault {
    let part = part.lines().next().unwrap_or_default();
    Fault {
        part: part.to_owned(),
        message: format!("`{}` {message}", clip(part)),
        help: (!help.is_empty()).then_some(help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".to_owned()),
            _ => None,
        };
        let lookup = Lookup { lookup: &lookup, missing: &|_| {}, left: &Cell::new(1000) };
        expand(text, &lookup, 0).map_err(|fault| fault.message)
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$A-${A}b", "a-ab"),
            ("$$A $${A}", "$A ${A}"),
            ("[$NONE]", "[]"),
            ("${NONE:-x}${NONE-y}${EMPTY:-z}${EMPTY-w}", "xyz"),
            ("${A:-x}${A-x}${A:?x}${A?x}${EMPTY?x}", "aaaa"),
            ("${A:+x}${A+y}${EMPTY:+x}${EMPTY+z}${NONE+w}", "xyz"),
            ("${NONE:-${EMPTY:-${A}!}}", "a!"),
            ("${NONE:-$A$$}", "a$"),
            ("${DOLLAR}", "$A"),
            ("${NONE:-a}b}", "ab}"),
            ("${A:-${B:?never looked at}}", "a"),
            ("é$A", "éa"),
            ("$(date) $? $1 $# $@ $", "$(date) $? $1 $# $@ $"),
            ("$$(date)$$", "$(date)$"),
            ("${NONE:-$(date)}${A:+$}", "$(date)$"),
            ("$é$A$", "$éa$"),
            ("${NONE:-{a}}", "{a}"),
            ("${NONE:-a-b:-c}${NONE-:?d}", "a-b:-c:?d"),
            ("${A:-}}${NONE:-}${NONE-}", "a}"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("${NONE:?set it}", "the variable `NONE` has to be set: set it"),
            ("${EMPTY:?}", "the variable `EMPTY` has to be set"),
            ("${1}", "`${1}` names no variable"),
            ("${ A}", "`${ A}` names no variable"),
            ("${A:=x}", "`${A:=x}` is not understood"),
            ("$$${A", "`${A` is not closed"),
            ("${A", "`${A` is not closed"),
            ("${}", "`${}` names no variable"),
            ("${A!x}", "`${A!x}` is not understood"),
            ("${A:}", "`${A:}` is not understood"),
            ("${A é}", "`${A é}` is not understood"),
        ] {
            assert_eq!(run(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        assert!(run(&"${NONE:-".repeat(500)).is_err());
        let nested = format!("{}{}", "${NONE:-".repeat(100), "}".repeat(100));
        assert!(run(&nested).is_err_and(|message| message.contains("too deep")));
        assert!(run(&"$A$A$A$A$A$A$A$A".repeat(200)).is_err_and(|message| message.contains("blow")));
    }
}
