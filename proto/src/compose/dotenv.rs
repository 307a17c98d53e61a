//! Files of `NAME=value` lines: `.env` and those of `env_file`.
//!
//! Owns: their syntax. A value without quotes ends before ` #` and is trimmed; in double quotes it may span lines,
//! with escapes; in single quotes it is literal. Variables are expanded outside of single quotes. A name alone takes
//! the value of the environment and is left out if there is none. `export` in front is allowed.
//!
//! Source: Compose documentation, ".env file syntax".

use std::collections::BTreeMap;

use super::{
    cx::{Cx, Place},
    interpolate::Scope,
    text::clip,
};

/// Whether values are expanded and unquoted, or taken as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Dotenv,
    Raw,
}

/// The variables of a file, the last one of a name. What is wrong is reported.
pub(super) fn parse(
    cx: &Cx<'_>,
    file: usize,
    text: &str,
    format: Format,
    env: &dyn Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut reader = Reader { cx, file, text, line: 1, format, env, found: BTreeMap::new() };
    while !reader.text.is_empty() {
        reader.entry();
    }
    reader.found
}

struct Reader<'a> {
    cx: &'a Cx<'a>,
    file: usize,
    /// What is still to be read; always at the start of a line.
    text: &'a str,
    line: u32,
    format: Format,
    env: &'a dyn Fn(&str) -> Option<String>,
    found: BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    /// Takes the next line, or more if quotes span them.
    fn entry(&mut self) {
        let (line, number) = (self.text.lines().next().unwrap_or_default(), self.line);
        let body = line.trim_start();
        if body.is_empty() || body.starts_with('#') {
            return self.skip(line.len());
        }
        let body = match body.strip_prefix("export") {
            Some(tail) if tail.starts_with([' ', '\t']) => tail.trim_start(),
            Some(_) | None => body,
        };
        let at = self.place(number, line.len() - body.len(), body.trim_end().len());
        let name_end = body.find(['=', ':']).unwrap_or(body.len());
        let name = body[..name_end].trim_end();
        if let Some(problem) = name_problem(name) {
            let help = "each line is `NAME=value`; comments begin with `#`".to_owned();
            self.cx.error(at, "", problem, Some(help));
            return self.skip(line.len());
        }
        if name_end == body.len() {
            if let Some(value) = self.get(name) {
                self.found.insert(name.to_owned(), value);
            }
            return self.skip(line.len());
        }
        let raw = &body[name_end + 1..];
        let value = raw.trim_start();
        let start = line.len() - value.len();
        match (self.format, value.chars().next()) {
            (Format::Dotenv, Some(quote @ ('"' | '\''))) => self.quoted(name, start, quote),
            (Format::Dotenv, _) => {
                let at = self.place(number, start, value.len());
                let value = before_comment(raw);
                if let Some(value) = self.expand(value, at) {
                    self.found.insert(name.to_owned(), value);
                }
                self.skip(line.len());
            }
            (Format::Raw, _) => {
                self.found.insert(name.to_owned(), raw.to_owned());
                self.skip(line.len());
            }
        }
    }

    /// Takes a value whose quote is `start` bytes on.
    fn quoted(&mut self, name: &str, start: usize, quote: char) {
        let inner = &self.text[start + 1..];
        let at = self.place(self.line, start, 1);
        let Some((value, length)) = unquote(inner, quote) else {
            self.cx.error(at, "", format!("the quote {quote} is not closed"), None);
            self.line += u32::try_from(inner.lines().count()).unwrap_or(u32::MAX);
            self.text = "";
            return;
        };
        let behind = inner[length..].lines().next().unwrap_or_default();
        let rest = behind.trim_start();
        if !rest.is_empty() && !rest.starts_with('#') {
            let message = format!("`{}` stands behind the closing quote", clip(rest.trim_end()));
            self.cx.error(at, "", message, None);
        }
        let value = if quote == '"' { self.expand(&value, at) } else { Some(value) };
        if let Some(value) = value {
            self.found.insert(name.to_owned(), value);
        }
        self.skip(start + 1 + length + behind.len());
    }

    fn expand(&self, text: &str, at: Place) -> Option<String> {
        let lookup = |name: &str| self.get(name);
        Scope::new(self.cx, &lookup).text(text, at, "")
    }

    /// A variable of the environment, or of the lines before.
    fn get(&self, name: &str) -> Option<String> {
        (self.env)(name).or_else(|| self.found.get(name).cloned())
    }

    /// Goes on behind `bytes` more, which end a line.
    fn skip(&mut self, bytes: usize) {
        let (taken, rest) = self.text.split_at(bytes);
        let rest = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')).unwrap_or(rest);
        let lines = taken.bytes().filter(|byte| *byte == b'\n').count() + 1;
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.text = rest;
    }

    fn place(&self, line: u32, before: usize, width: usize) -> Place {
        let head = self.text.get(..before).unwrap_or_default();
        let column = u32::try_from(head.chars().count() + 1).unwrap_or(u32::MAX);
        Place { file: self.file, line, column, width: u32::try_from(width).unwrap_or(u32::MAX), lines: 0 }
    }
}

fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a name is missing".to_owned());
    }
    let fits = |char: char| char.is_alphanumeric() || matches!(char, '_' | '.' | '-' | '[' | ']');
    (!name.chars().all(fits)).then(|| format!("`{}` cannot be the name of a variable", clip(name)))
}

/// What comes before ` #`, trimmed.
fn before_comment(value: &str) -> &str {
    let comment = value.char_indices().find(|(index, char)| {
        *char == '#' && value[..*index].chars().next_back().is_none_or(char::is_whitespace) && *index > 0
    });
    value[..comment.map_or(value.len(), |(index, _)| index)].trim()
}

/// The text up to the closing quote, and the bytes up to behind it. In double quotes `\$` becomes `$$`, for the
/// expansion that follows.
fn unquote(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            char if char == quote => return Some((value, index + 1)),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '$' => value.push_str("$$"),
                other @ ('"' | '\\') => value.push(other),
                other => value.extend(['\\', other]),
            },
            '\\' if text[index + 1..].starts_with('\'') => {
                chars.next();
                value.push('\'');
            }
            char => value.push(char),
        }
    }
    None
}
