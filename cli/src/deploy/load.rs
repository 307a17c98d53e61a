//! From arguments to a stack: finds the files, and gives the loader the file system and the environment.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use raftup_proto::{
    compose::{self, Input, Loaded},
    refusal::{Code, Refusal},
};

use crate::{args::DeployArgs, failure::Failure};

/// The files that are looked for where none is given, as Docker Compose does; the first one wins.
const USUAL: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Those that are merged over it.
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];
/// The name of standard input.
const STDIN: &str = "-";

/// The stack that the arguments describe. Errors: every problem of the files, or a file that is not there.
pub(crate) fn load(args: &DeployArgs) -> Result<Loaded, Failure> {
    let here = std::env::current_dir().map_err(|error| invalid(format!("no current directory: {error}")))?;
    let files = if args.compose_file.is_empty() { usual(&here)? } else { args.compose_file.clone() };
    let project_dir = project_dir(&here, &files);
    let source = Source::read(&files, &args.env_file, project_dir.join(".env"))?;
    let loaded = compose::load(&Input {
        files: &files,
        project_dir: &project_dir,
        name: args.name.as_deref(),
        env: &environment(),
        read: &|path, most| source.get(path, most),
    })?;
    Ok(loaded)
}

fn usual(here: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let first =
        |names: [&str; 4]| names.into_iter().map(PathBuf::from).find(|name| here.join(name).is_file());
    match first(USUAL) {
        Some(file) => Ok([file].into_iter().chain(first(OVERRIDES)).collect()),
        None => Err(invalid(format!("there is no compose.yaml in {}", here.display()))
            .hint("`raftup stack deploy -c FILE [NAME]` names the file")),
    }
}

/// The directory of the first file, or this one for standard input.
fn project_dir(here: &Path, files: &[PathBuf]) -> PathBuf {
    let first = files.first().filter(|file| *file != Path::new(STDIN));
    here.join(first.and_then(|file| file.parent()).unwrap_or(Path::new("")))
}

/// Variables that are text; others cannot stand in a compose file.
fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Where the loader's reads go: the file system, but for what was read before.
struct Source {
    stdin: Vec<u8>,
    /// The files of `--env-file`, one after the other; they stand in for `.env`.
    env: Option<Vec<u8>>,
    env_path: PathBuf,
}

impl Source {
    fn read(files: &[PathBuf], env_files: &[PathBuf], env_path: PathBuf) -> Result<Self, Refusal> {
        let mut stdin = Vec::new();
        if files.iter().any(|file| file == Path::new(STDIN)) {
            // One more than is allowed, so that the loader sees that it is too much.
            let most = compose::FILE_MAX + 1;
            io::stdin()
                .take(most)
                .read_to_end(&mut stdin)
                .map_err(|error| invalid(format!("standard input cannot be read: {error}")))?;
        }
        let mut env = Vec::new();
        for path in env_files {
            let bytes = head(path, compose::FILE_MAX)
                .map_err(|error| invalid(format!("{} cannot be read: {error}", path.display())))?;
            env.extend(bytes);
            env.push(b'\n');
        }
        Ok(Self { stdin, env: (!env_files.is_empty()).then_some(env), env_path })
    }

    fn get(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let kept = match &self.env {
            Some(env) if path == self.env_path => env,
            _ if path.file_name() == Some(STDIN.as_ref()) => &self.stdin,
            _ => return head(path, most),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(kept.get(..most).unwrap_or(kept).to_vec())
    }
}

/// The first `most` bytes of a file.
fn head(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn invalid(message: String) -> Refusal {
    Refusal::new(Code::Invalid, message)
}
