//! A value as YAML, in block style.
//!
//! Holds: what is written is read back as the same value, by this loader and by Go's.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::scalar;

/// Keys of the top level in the order that people write them; others follow.
const FIRST: [&str; 6] = ["name", "services", "networks", "volumes", "secrets", "configs"];

/// Keys that tell most about an element of a list; they come first.
const LEADING: [&str; 3] = ["type", "source", "target"];

/// The entries of a mapping, those of `first` before the others.
fn ordered<'a>(
    map: &'a Map<String, Value>,
    first: &'a [&str],
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let known = first.iter().filter_map(move |key| map.get_key_value(*key));
    known.chain(map.iter().filter(move |(key, _)| !first.contains(&key.as_str())))
}

/// A whole file.
pub(in super::super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => {
            ordered(map, &FIRST).for_each(|(key, value)| entry(&mut out, key, value, 0));
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_) => {
            inline(&mut out, value, 0);
            out.push('\n');
        }
    }
    out
}

fn entry(out: &mut String, key: &str, value: &Value, depth: usize) {
    indent(out, depth);
    out.push_str(&text(key));
    out.push(':');
    below(out, value, depth);
}

/// What stands behind `key:` or below it.
fn below(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            map.iter().for_each(|(key, value)| entry(out, key, value, depth + 1));
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|value| item(out, value, depth + 1));
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_) => {
            out.push(' ');
            inline(out, value, depth + 1);
            out.push('\n');
        }
    }
}

fn item(out: &mut String, value: &Value, depth: usize) {
    indent(out, depth);
    out.push('-');
    match value {
        Value::Object(map) if !map.is_empty() => {
            // The first key stands on the line of the dash.
            let mut inner = String::new();
            ordered(map, &LEADING).for_each(|(key, value)| entry(&mut inner, key, value, depth + 1));
            out.push(' ');
            out.push_str(inner.trim_start_matches(' '));
        }
        Value::Array(items) if !items.is_empty() => {
            let mut inner = String::new();
            items.iter().for_each(|value| item(&mut inner, value, depth + 1));
            out.push(' ');
            out.push_str(inner.trim_start_matches(' '));
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_) => {
            out.push(' ');
            inline(out, value, depth + 1);
            out.push('\n');
        }
    }
}

fn inline(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(on) => out.push_str(if *on { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(string) => match literal(string, depth) {
            Some(block) => out.push_str(&block),
            None => out.push_str(&text(string)),
        },
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Several lines as a literal block, if they can be one.
fn literal(string: &str, depth: usize) -> Option<String> {
    let body = string.trim_end_matches('\n');
    let odd = |char: char| {
        char != '\n' && (char.is_control() || matches!(char, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    if !body.contains('\n') || body.starts_with([' ', '\n']) || string.contains(odd) {
        return None;
    }
    let ends = match string.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    };
    let mut out = ends.to_owned();
    let kept = if ends == "|+" { string.strip_suffix('\n').unwrap_or(string) } else { body };
    for line in kept.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(&mut out, depth);
            out.push_str(line);
        }
    }
    Some(out)
}

/// A text, with quotes where it needs them.
fn text(string: &str) -> String {
    if is_plain(string) {
        return string.to_owned();
    }
    if string
        .chars()
        .all(|char| char == ' ' || !char.is_control() && !char.is_whitespace() && char != '\u{feff}')
    {
        let needs_escapes = string.contains(['"', '\\']);
        return if needs_escapes {
            format!("'{}'", string.replace('\'', "''"))
        } else {
            format!("\"{string}\"")
        };
    }
    let mut out = String::from("\"");
    for char in string.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            char if char.is_control() || char == '\u{feff}' || char != ' ' && char.is_whitespace() => {
                let _ = write!(out, "\\U{:08x}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

/// Whether a text can stand without quotes and is read as the text that it is.
fn is_plain(string: &str) -> bool {
    /// Words that YAML 1.1 or 1.2 reads as something else.
    const WORDS: [&str; 13] =
        ["null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "-.inf", "+.inf"];
    let Some(first) = string.chars().next() else { return false };
    let lower = string.to_ascii_lowercase();
    let typed = !matches!(scalar::typed(string), Value::String(_)) || WORDS.contains(&lower.as_str());
    // As a date or a number to base 60.
    let numeric = first.is_ascii_digit()
        && string.contains(['-', ':', '_'])
        && string
            .chars()
            .all(|char| char.is_ascii_digit() || matches!(char, '-' | ':' | '_' | '.' | 'T' | 'Z' | ' '));
    let starts =
        "-?:,[]{}#&*!|>'\"%@`~=<. ".contains(first) && !string.starts_with("./") && !string.starts_with("--");
    let inside = string.contains(": ") || string.contains(" #") || string.ends_with([':', ' ']);
    let odd = |char: char| char.is_control() || char == '\u{feff}' || char != ' ' && char.is_whitespace();
    !typed
        && !numeric
        && !starts
        && !inside
        && !string.contains(odd)
        && string != "---"
        && !string.starts_with("---")
}
