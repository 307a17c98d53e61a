//! Scalars of a compose file as values of the normalised one.
//!
//! Owns: the types that YAML gives to plain scalars, as Go's reader does, and how times are written.

use std::time::Duration;

use serde_json::{Number, Value};

/// A plain scalar by its looks: number, truth value, or text.
pub(super) fn typed(text: &str) -> Value {
    match text {
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Some(number) = whole(text) {
        return Value::Number(number.into());
    }
    match float(text) {
        Some(number) => number,
        None => Value::String(text.to_owned()),
    }
}

/// A whole number: decimal, `0x`, `0o`, `0b`, or octal with a leading zero; `_` may part digits.
pub(super) fn whole(text: &str) -> Option<i64> {
    let plain: String = text.chars().filter(|char| *char != '_').collect();
    let (sign, digits) = match plain.strip_prefix(['-', '+']) {
        Some(digits) => (if plain.starts_with('-') { -1 } else { 1 }, digits),
        None => (1, plain.as_str()),
    };
    let alike = |char: char| char.is_ascii_alphanumeric();
    if !digits.starts_with(|char: char| char.is_ascii_digit()) || !digits.chars().all(alike) {
        return None;
    }
    let radix = |prefix: &str, radix| digits.strip_prefix(prefix).map(|digits| (digits, radix));
    let (digits, radix) = radix("0x", 16)
        .or(radix("0o", 8))
        .or(radix("0b", 2))
        .or(digits.strip_prefix('0').filter(|rest| !rest.is_empty()).map(|rest| (rest, 8)))
        .unwrap_or((digits, 10));
    i64::from_str_radix(digits, radix).ok().map(|number| sign * number)
}

fn float(text: &str) -> Option<Value> {
    let looks = |char: char| char.is_ascii_digit() || matches!(char, '.' | '-' | '+' | 'e' | 'E' | '_');
    let begins =
        text.trim_start_matches(['-', '+']).starts_with(|char: char| char.is_ascii_digit() || char == '.');
    if !begins || !text.chars().all(looks) || !text.contains(|char: char| char.is_ascii_digit()) {
        return None;
    }
    number(text.replace('_', "").parse().ok()?)
}

/// A number, whole if it is.
pub(super) fn number(value: f64) -> Option<Value> {
    /// Whole numbers up to here are exact.
    const EXACT: f64 = 9e15;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Some(Value::Number((value as i64).into()));
    }
    Number::from_f64(value).map(Value::Number)
}

/// A time as Go writes it: `1h0m0s`, `1m30s`, `1.5s`, `500ms`.
pub(super) fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let part = |unit: u128, name: &str| {
        let mut text = format!("{}", nanos / unit);
        let rest = nanos % unit;
        if rest > 0 {
            let width = unit.to_string().len() - 1;
            text += format!(".{rest:0width$}").trim_end_matches('0');
        }
        text + name
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => part(1, "ns"),
        1_000..1_000_000 => part(1_000, "µs"),
        1_000_000..1_000_000_000 => part(1_000_000, "ms"),
        _ => {
            let minutes = time.as_secs() / 60;
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let rest = Duration::from_nanos(u64::try_from(nanos % 60_000_000_000).unwrap_or(0));
            let mut seconds = rest.as_secs().to_string();
            if rest.subsec_nanos() > 0 {
                seconds += format!(".{:09}", rest.subsec_nanos()).trim_end_matches('0');
            }
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        for (text, expected) in [
            ("1", "1"),
            ("-1", "-1"),
            ("0644", "420"),
            ("0o17", "15"),
            ("0x10", "16"),
            ("1_000", "1000"),
            ("1.50", "1.5"),
            (".5", "0.5"),
            ("1e3", "1000"),
            ("True", "true"),
            ("yes", "\"yes\""),
            ("1.2.3", "\"1.2.3\""),
            ("-", "\"-\""),
            (".", "\".\""),
            ("e", "\"e\""),
            ("089", "89"),
            ("0-3", "\"0-3\""),
        ] {
            assert_eq!(typed(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        for (millis, expected) in [
            (0, "0s"),
            (500, "500ms"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(time(Duration::from_millis(millis)), expected);
        }
        assert_eq!(time(Duration::from_micros(1500)), "1.5ms");
    }
}
