//! A small server and client inside the lab's images, so that tests need no other program there.
//!
//! Nothing but the standard library, so that the lab compiles it alone and static, in seconds.
//!
//! ```text
//! helper serve                         HTTP and UDP on 8080, a line of text per TCP connection on 8081
//! helper get URL [COUNT]               the body on standard output; fails unless the status is 2xx
//! helper tcp HOST:PORT                 what the server says until it closes
//! helper udp HOST:PORT [TEXT]          one datagram there, one back
//! helper resolve NAME [TYPE] [SERVER]  A, AAAA, SRV, PTR or TXT records, one a line
//! helper bench-sink PORT               swallows what it is sent
//! helper bench-source HOST:PORT SECS   sends as fast as it can; prints MB/s
//! helper bench-requests HOST:PORT SECS CLIENTS keep|fresh   asks as fast as it can; prints requests a second
//! helper exit CODE                     ends with that status
//! ```

mod bench;
mod client;
mod dns;
mod http;
mod routes;
mod serve;
mod signal;

use std::process::ExitCode;

/// Whatever went wrong, as text: nobody branches on it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] | ["serve"] => serve::run(),
        ["get", url] => client::get(url, 1),
        ["get", url, count] => count.parse().map_err(Failure::from).and_then(|count| client::get(url, count)),
        ["tcp", target] => client::tcp(target),
        ["udp", target] => client::udp(target, "hello"),
        ["udp", target, text] => client::udp(target, text),
        ["resolve", name] => client::resolve(name, "A", None),
        ["resolve", name, kind] => client::resolve(name, kind, None),
        ["resolve", name, kind, server] => client::resolve(name, kind, Some(server)),
        ["bench-sink", port] => bench::sink(port),
        ["bench-source", target, seconds] => bench::source(target, seconds),
        ["bench-requests", target, seconds, clients, mode] => bench::requests(target, seconds, clients, mode),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(u8::MAX)),
        other => Err(format!("no such command: {}", other.join(" ")).into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helper: {error}");
            ExitCode::FAILURE
        }
    }
}
