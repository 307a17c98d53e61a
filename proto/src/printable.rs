//! Text of others, such as the output of a health check or a host name, for terminals and logs; pure.
//!
//! Characters that a terminal obeys instead of showing them are escaped as in Rust's strings: `\u{1b}`. Holds: escaped text
//! has no control characters, and nothing that changes the direction of what follows or cannot be seen.

use std::borrow::Cow;

/// `text` as part of one line: line ends are escaped as well.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_active, |c| c.escape_default().to_string())
}

/// `text` of several lines: line ends and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_active(c) && !matches!(c, '\n' | '\t'), |c| c.escape_default().to_string())
}

/// JSON that says the same and has no such character: JSON itself escapes those below U+0020 only. Line ends between values
/// stay.
pub fn json(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| is_active(c) && !matches!(c, '\n' | '\t' | '\r'),
        |c| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        },
    )
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_bad(c) { out.push_str(&escape(c)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether a terminal obeys the character instead of showing it: controls (C0, DEL, C1), and characters of Unicode that
/// reorder, break or hide text: directional marks, embeddings, overrides and isolates, separators of lines and paragraphs,
/// blanks without width, tags.
pub fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, shown) in [
            ("plain, ünïcödé, 漢字, 👩‍💻", "plain, ünïcödé, 漢字, 👩‍💻"),
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("a\r\nb\tc\u{b}\u{c}\u{8}\0", "a\\r\\nb\\tc\\u{b}\\u{c}\\u{8}\\u{0}"),
            ("del\u{7f} csi\u{9b}31m nel\u{85}", "del\\u{7f} csi\\u{9b}31m nel\\u{85}"),
            ("\u{202e}gpj.exe\u{2066}\u{200f}", "\\u{202e}gpj.exe\\u{2066}\\u{200f}"),
            ("\u{2028}\u{feff}\u{e0041}\u{200b}", "\\u{2028}\\u{feff}\\u{e0041}\\u{200b}"),
        ] {
            assert_eq!(line(text), shown);
        }
        assert_eq!(lines("one\n\ttwo\r\u{1b}[1m\n"), "one\n\ttwo\\r\\u{1b}[1m\n");
    }

    #[test]
    fn json_says_the_same() {
        let value = "\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{e0041} \"quoted\" \n";
        let text = serde_json::to_string_pretty(&[value]).unwrap();
        let safe = json(&text);
        assert!(!safe.chars().any(|c| is_active(c) && c != '\n'), "{safe:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&safe).unwrap(), [value]);
    }

    proptest! {
        #[test]
        fn nothing_active_is_left(text in any::<String>()) {
            prop_assert!(!line(&text).contains(is_active));
            let once = line(&text).into_owned();
            prop_assert_eq!(line(&once), once.as_str());
            let json = json(&serde_json::to_string(&text).unwrap()).into_owned();
            prop_assert!(!json.contains(is_active));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
