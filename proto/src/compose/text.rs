//! Readings of a scalar's text: numbers, times, sizes, switches, command lines; and near misses of words.
//!
//! Owns: formats, without places. Each function answers what was read or what is wrong, as a message.

use std::time::Duration;

/// `text`, cut to a length that fits into a message, without control characters.
pub(super) fn clip(text: &str) -> String {
    const MAX: usize = 60;
    let mut shown: String =
        text.chars().take(MAX).map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A whole number from `min` to `max`: decimal, or with `0x` or `0o` as YAML 1.2 has it.
pub(super) fn whole(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let digits = text.trim();
    let read = match (digits.strip_prefix("0x"), digits.strip_prefix("0o")) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (_, Some(octal)) => u64::from_str_radix(octal, 8).ok(),
        (None, None) => digits.parse().ok(),
    };
    let bounds = || Err(format!("`{}` is not between {min} and {max}", clip(text)));
    match read {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(_) => bounds(),
        None => match digits.parse::<f64>() {
            Ok(value) if value < min as f64 || value > max as f64 => bounds(),
            Ok(_) | Err(_) => Err(format!("`{}` is not a whole number", clip(text))),
        },
    }
}

/// A switch. Besides YAML's own words those that older files use, as Compose does; the flag says that it was one.
pub(super) fn switch(text: &str) -> Result<(bool, bool), String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Ok((true, false)),
        "false" => Ok((false, false)),
        "1" | "t" | "y" | "yes" | "on" => Ok((true, true)),
        "0" | "f" | "n" | "no" | "off" => Ok((false, true)),
        _ => Err(format!("`{}` is neither `true` nor `false`", clip(text))),
    }
}

/// A time such as `1m30s`, `1.5h` or `500ms`. Source: Compose Specification, "Specifying durations".
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 9] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
        ("d", 86_400e9),
        ("w", 604_800e9),
    ];
    /// The engine counts nanoseconds in 63 bits.
    const MAX_NANOS: f64 = 9.2e18;
    let bad = || format!("`{}` is not a time such as `10s`, `1m30s` or `500ms`", clip(text));
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let factor = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
        nanos += number * factor;
        rest = tail;
    }
    if nanos > MAX_NANOS {
        return Err(format!("`{}` is longer than 292 years", clip(text)));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// A size such as `64m`, `1.5gb` or `64MiB`, in bytes; every unit counts in 1024s, as Docker's do.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is not a size such as `512m`, `1.5gb` or `64MiB`", clip(text));
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let power = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        "p" | "pb" | "pi" | "pib" => 5,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    let size = number * 1024_f64.powi(power);
    if size > i64::MAX as f64 {
        return Err(format!("`{}` is larger than any memory", clip(text)));
    }
    Ok(size as u64)
}

/// A number of CPUs such as `0.5`, in thousandths.
pub(super) fn cpu_millis(text: &str) -> Result<u64, String> {
    /// More cores than a machine has.
    const MAX: f64 = 65_536.0;
    match text.trim().parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && (0.0005..=MAX).contains(&cpus) => Ok((cpus * 1000.0).round() as u64),
        Ok(cpus) if cpus.is_finite() => Err(format!("`{}` is not between 0.001 and {MAX} CPUs", clip(text))),
        Ok(_) | Err(_) => Err(format!("`{}` is not a number of CPUs such as `0.5` or `2`", clip(text))),
    }
}

/// A command line cut into words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) words: Vec<String>,
    /// The first word that only a shell would understand, such as `&&`.
    pub(super) shell: Option<String>,
}

/// Cuts a command line into words: quotes and escapes as in a shell, nothing else of one.
pub(super) fn words(line: &str) -> Result<Words, String> {
    let mut found = Words { words: Vec::new(), shell: None };
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            char if char.is_whitespace() => found.push(word.take(), std::mem::take(&mut quoted)),
            '\'' => {
                quoted = true;
                quote(&mut chars, '\'', word.get_or_insert_default())?;
            }
            '"' => {
                quoted = true;
                quote(&mut chars, '"', word.get_or_insert_default())?;
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(escaped) => {
                    quoted = true;
                    word.get_or_insert_default().push(escaped);
                }
                None => return Err("the command ends in a lone `\\`".to_owned()),
            },
            char => word.get_or_insert_default().push(char),
        }
    }
    found.push(word, quoted);
    Ok(found)
}

impl Words {
    fn push(&mut self, word: Option<String>, quoted: bool) {
        const SHELL: [&str; 10] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1", "2>"];
        let Some(word) = word else { return };
        if !quoted && self.shell.is_none() && (SHELL.contains(&word.as_str()) || word.ends_with(';')) {
            self.shell = Some(word.clone());
        }
        self.words.push(word);
    }
}

/// Takes what stands between quotes; a backslash is itself between single ones.
fn quote(chars: &mut std::str::Chars<'_>, end: char, word: &mut String) -> Result<(), String> {
    while let Some(char) = chars.next() {
        match char {
            char if char == end => return Ok(()),
            '\\' if end == '"' => match chars.next() {
                Some('\n') => {}
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            char => word.push(char),
        }
    }
    Err(format!("the quote {end} is not closed"))
}

/// The word of `words` that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words are not typing errors of anything that is offered.
    const LONGEST: usize = 40;
    if text.len() > LONGEST {
        return None;
    }
    let lower = text.to_ascii_lowercase().replace('-', "_");
    let most = (text.chars().count() / 3).clamp(1, 2);
    let near =
        words.into_iter().map(|word| (distance(&lower, &word.to_ascii_lowercase().replace('-', "_")), word));
    near.filter(|(far, _)| *far <= most).min().map(|(_, word)| word)
}

/// Insertions, deletions, changes and swaps of neighbours that lead from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for row in 0..=from.len() {
        for column in 0..=to.len() {
            rows[row][column] = match (row, column) {
                (0, other) | (other, 0) => other,
                (row, column) => {
                    let same = from[row - 1] == to[column - 1];
                    let mut best = (rows[row - 1][column - 1] + usize::from(!same))
                        .min(rows[row - 1][column] + 1)
                        .min(rows[row][column - 1] + 1);
                    if row > 1
                        && column > 1
                        && from[row - 1] == to[column - 2]
                        && from[row - 2] == to[column - 1]
                    {
                        best = best.min(rows[row - 2][column - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("1h5m30s20ms", 3_930_020),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "10x", "-5s", "1..5s", "1s5", " ", "99999999999w", "1e3s", "10 s"] {
            assert!(duration(text).is_err(), "{text}: {:?}", duration(text));
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("1024", 1024),
            ("64m", 64 << 20),
            ("1.5gb", 3 << 29),
            ("64MiB", 64 << 20),
            ("2k", 2048),
            ("10 MB", 10 << 20),
            ("300b", 300),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "m", "12x", "-1m", "1.2.3m", "9999999p", "64mm"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(whole("17", 0, 20), Ok(17));
        assert_eq!(whole("0x10", 0, 20), Ok(16));
        assert_eq!(whole("1e9", 0, 10_000), Err("`1e9` is not between 0 and 10000".to_owned()));
        assert_eq!(whole("-1", 0, 10), Err("`-1` is not between 0 and 10".to_owned()));
        assert_eq!(whole("1.5", 0, 10), Err("`1.5` is not a whole number".to_owned()));
        assert_eq!(whole("many", 0, 10), Err("`many` is not a whole number".to_owned()));
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("2"), Ok(2000));
        for text in ["0", "-1", "NaN", "inf", "", "1,5", "0.0001"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
        assert_eq!(switch("TRUE"), Ok((true, false)));
        assert_eq!(switch("off"), Ok((false, true)));
        assert!(switch("maybe").is_err());
    }

    #[test]
    fn command_lines() {
        let cut = |line: &str| words(line).map(|words| words.words);
        let list = |words: &[&str]| Ok(words.iter().map(ToString::to_string).collect());
        assert_eq!(cut("redis-server --dir /data"), list(&["redis-server", "--dir", "/data"]));
        assert_eq!(cut(r#"sh -c "echo \"a b\" 'c' \d""#), list(&["sh", "-c", r#"echo "a b" 'c' \d"#]));
        assert_eq!(cut(r"a\ b '' 'x\y'"), list(&["a b", "", r"x\y"]));
        assert_eq!(cut("one \\\n  two\n"), list(&["one", "two"]));
        assert_eq!(cut(""), list(&[]));
        assert!(cut("echo 'a").is_err());
        assert!(cut("echo \\").is_err());
        assert_eq!(words("a && b").map(|words| words.shell), Ok(Some("&&".to_owned())));
        assert_eq!(words("echo a; echo b").map(|words| words.shell), Ok(Some("a;".to_owned())));
        assert_eq!(words("sh -c 'a && b'").map(|words| words.shell), Ok(None));
    }

    #[test]
    fn near_misses() {
        let keys = ["image", "command", "environment", "ports"];
        assert_eq!(nearest("enviroment", keys), Some("environment"));
        assert_eq!(nearest("imgae", keys), Some("image"));
        assert_eq!(nearest("port", keys), Some("ports"));
        assert_eq!(nearest("replicas", keys), None);
    }
}
