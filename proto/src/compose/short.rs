//! Short forms: the parts of a port, a mount or a device that is written as one text.
//!
//! Owns: where the parts begin and end. Leaves alone: whether they are right, which whoever reads the model says.
//!
//! Source: Compose Specification, "Short syntax" of `ports`, `volumes` and `devices`.

/// `[[ADDRESS:]PUBLISHED:]TARGET[/PROTOCOL]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Port<'a> {
    pub(super) host_ip: Option<&'a str>,
    pub(super) published: Option<&'a str>,
    pub(super) target: &'a str,
    pub(super) protocol: &'a str,
}

/// The parts of a port.
pub(super) fn port(text: &str) -> Port<'_> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, target) = match ports.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, ports),
    };
    let (host_ip, published) = match rest {
        None => (None, None),
        // An IPv6 address holds colons of its own.
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, published)) => (Some(address), Some(published)),
            None => (None, Some(rest)),
        },
    };
    let filled = |text: &&str| !text.is_empty();
    let host_ip = host_ip.map(|text| text.trim_start_matches('[').trim_end_matches(']')).filter(filled);
    Port { host_ip, published: published.filter(filled), target, protocol }
}

/// `[SOURCE:]TARGET[:OPTIONS]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    pub(super) source: Option<&'a str>,
    pub(super) target: &'a str,
    pub(super) options: Vec<&'a str>,
}

/// The parts of a mount; `None` if there are more than it can have.
pub(super) fn mount(text: &str) -> Option<Mount<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(colon) =
        rest.bytes().enumerate().position(|(index, byte)| byte == b':' && !drive(rest, index))
    {
        parts.push(&rest[..colon]);
        rest = &rest[colon + 1..];
    }
    parts.push(rest);
    match parts[..] {
        [target] => Some(Mount { source: None, target, options: Vec::new() }),
        [source, target] => Some(Mount { source: Some(source), target, options: Vec::new() }),
        [source, target, options] => {
            Some(Mount { source: Some(source), target, options: options.split(',').collect() })
        }
        _ => None,
    }
}

/// Whether the colon at `index` belongs to the drive of a Windows path, as in `C:\data`.
fn drive(text: &str, index: usize) -> bool {
    index == 1 && text.as_bytes()[0].is_ascii_alphabetic() && text.as_bytes().get(2) == Some(&b'\\')
}

/// Whether a source is a path of the host and not the name of a volume.
pub(super) fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~', '\\']) || (source.len() > 2 && drive(source, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let parts = |text| {
            let Port { host_ip, published, target, protocol } = port(text);
            format!("{} {} {target} {protocol}", host_ip.unwrap_or("-"), published.unwrap_or("-"))
        };
        for (text, expected) in [
            ("80", "- - 80 tcp"),
            ("8080:80", "- 8080 80 tcp"),
            (":2283:2283", "- 2283 2283 tcp"),
            ("127.0.0.1:8080-8081:80-81/udp", "127.0.0.1 8080-8081 80-81 udp"),
            ("127.0.0.1::80", "127.0.0.1 - 80 tcp"),
            ("[::1]:80:80", "::1 80 80 tcp"),
            ("::1:80:80", "::1 80 80 tcp"),
            ("", "- -  tcp"),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn mounts() {
        let parts = |text| {
            let found = mount(text)?;
            Some(format!("{} {} {}", found.source.unwrap_or("-"), found.target, found.options.join("+")))
        };
        for (text, expected) in [
            ("/data", Some("- /data ")),
            ("data:/data:ro,z", Some("data /data ro+z")),
            (r"C:\a:/b", Some(r"C:\a /b ")),
            (r".\a:/b:ro", Some(r".\a /b ro")),
            ("a:/b", Some("a /b ")),
            ("a:b:c:d", None),
        ] {
            assert_eq!(parts(text).as_deref(), expected, "{text}");
        }
        assert!(["./a", "/a", "~/a", r"C:\a", ".."].iter().all(|path| is_path(path)));
        assert!(!is_path("data") && !is_path("c"));
    }
}
