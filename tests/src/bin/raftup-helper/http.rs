//! As much of HTTP/1.1 as tests need, for both sides.

use std::io::{self, BufRead, Read as _, Write};

/// Longest head or body that is read.
const LONGEST: u64 = 1 << 20;

/// The first line and the headers of a message, names in small letters.
pub(crate) struct Head {
    /// `GET /path?x=1 HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub(crate) first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line; none at the end of the stream.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = from.take(LONGEST);
        let mut first = String::new();
        if limited.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(Self { first: first.trim_end().to_owned(), headers }));
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The word of the first line with this index.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    pub(crate) fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Reads the body that the headers announce: by length, by chunks, or (of an answer) to the end.
    pub(crate) fn body(
        &self,
        from: &mut impl BufRead,
        to_end: bool,
        out: &mut impl Write,
    ) -> io::Result<u64> {
        if self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return chunks(from, out);
        }
        match self.header("content-length").and_then(|value| value.parse().ok()) {
            Some(length) => copy_exactly(from, length, out),
            None if to_end => io::copy(from, out),
            None => Ok(0),
        }
    }
}

fn copy_exactly(from: &mut impl BufRead, length: u64, out: &mut impl Write) -> io::Result<u64> {
    let copied = io::copy(&mut from.take(length), out)?;
    if copied < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(copied) }
}

fn chunks(from: &mut impl BufRead, out: &mut impl Write) -> io::Result<u64> {
    let mut whole = 0;
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        whole += copy_exactly(from, length, out)?;
        out.flush()?;
        from.read_line(&mut String::new())?;
        if length == 0 {
            return Ok(whole);
        }
    }
}

/// Writes a whole answer in one piece.
pub(crate) fn answer(to: &mut impl Write, status: u16, close: bool, body: &str) -> io::Result<()> {
    let reason = if status < 400 { "OK" } else { "Failed" };
    let connection = if close { "close" } else { "keep-alive" };
    let length = body.len();
    let whole = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n{body}"
    );
    to.write_all(whole.as_bytes())?;
    to.flush()
}
