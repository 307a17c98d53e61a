//! From arguments to a stack: finds the files, and gives the loader the file system and the environment.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use raftup_proto::{
    compose::{self, Config, Diagnostic, Input, Loaded, Normalise, Problems},
    refusal::{Code, Refusal},
};

use crate::{args::ProjectArgs, failure::Failure};

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

/// Variable with the compose files, where none is named.
const FILES_VARIABLE: &str = "COMPOSE_FILE";
/// Variable with what stands between them.
const SEPARATOR_VARIABLE: &str = "COMPOSE_PATH_SEPARATOR";
/// Variable of the process with the environment files, separated by commas, where none is named.
const ENV_FILES_VARIABLE: &str = "COMPOSE_ENV_FILES";
/// Variable of the process that says to read no `.env`.
const NO_ENV_FILE_VARIABLE: &str = "COMPOSE_DISABLE_ENV_FILE";

/// The stack that the arguments describe. Errors: every problem of the files, or a file that is not there.
pub(crate) fn load(args: &ProjectArgs, name: Option<&str>) -> Result<Loaded, Failure> {
    read(args, name, compose::load)
}

/// The normalised file of the arguments, and what is odd about it. Errors: as for [`load`]; where variables stay, what the
/// cluster does not support is none.
pub(crate) fn normalise(
    args: &ProjectArgs,
    name: Option<&str>,
    how: Normalise,
) -> Result<(Config, Vec<Diagnostic>), Failure> {
    read(args, name, |input| {
        let warnings = if how.keep_variables { Vec::new() } else { compose::load(input)?.warnings };
        Ok((compose::normalise(input, how)?, warnings))
    })
}

/// Gives a function of the loader what the arguments describe.
fn read<T>(
    args: &ProjectArgs,
    name: Option<&str>,
    load: impl Fn(&Input<'_>) -> Result<T, Problems>,
) -> Result<T, Failure> {
    let here = std::env::current_dir().map_err(|error| invalid(format!("no current directory: {error}")))?;
    let env = environment();
    let mut source = Source { stdin: Vec::new(), hidden: None };
    let start = args.project_directory.as_ref().map_or(here.clone(), |dir| here.join(dir));
    let env_files = match &args.env_file[..] {
        [] => env.get(ENV_FILES_VARIABLE).map(|names| paths(names, ",")).unwrap_or_default(),
        named => named.to_vec(),
    };
    if env_files.is_empty() && env.get(NO_ENV_FILE_VARIABLE).is_some_and(|value| is_on(value)) {
        source.hidden = Some(PathBuf::from(".env"));
    }
    let mut input = Input {
        files: &[],
        project_dir: &start,
        env_files: &env_files,
        profiles: &args.profile,
        name,
        env: &env,
        read: &|path, most| source.get(path, most),
    };
    let files = match &args.compose_file[..] {
        [] => {
            let variables = compose::variables(&input)?;
            match variables.get(FILES_VARIABLE).filter(|names| !names.is_empty()) {
                Some(names) => {
                    let separator = variables.get(SEPARATOR_VARIABLE).map_or(":", String::as_str);
                    paths(names, separator)
                }
                None => usual(&start)?,
            }
        }
        named => named.to_vec(),
    };
    let project_dir = match args.project_directory {
        Some(_) => start.clone(),
        None => project_dir(&here, &files),
    };
    let stdin = if files.iter().any(|file| file == Path::new(STDIN)) { read_stdin()? } else { Vec::new() };
    let source = Source { stdin, hidden: source.hidden.clone() };
    let get = |path: &Path, most| source.get(path, most);
    input = Input { files: &files, project_dir: &project_dir, read: &get, ..input };
    Ok(load(&input)?)
}

fn paths(names: &str, separator: &str) -> Vec<PathBuf> {
    let separator = if separator.is_empty() { ":" } else { separator };
    names.split(separator).map(str::trim).filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes" | "on")
}

/// The usual files of the directory, or of the nearest one above it that has some.
fn usual(start: &Path) -> Result<Vec<PathBuf>, Refusal> {
    for dir in start.ancestors() {
        let first = |names: [&str; 4]| {
            let shown = |name: &str| if dir == start { PathBuf::from(name) } else { dir.join(name) };
            names.into_iter().find(|name| dir.join(name).is_file()).map(shown)
        };
        if let Some(file) = first(USUAL) {
            let files = [file].into_iter().chain(first(OVERRIDES));
            let named = |file: PathBuf| if start.is_relative() { start.join(file) } else { file };
            return Ok(files.map(named).collect());
        }
    }
    Err(invalid(format!("there is no compose.yaml in {} or above it", start.display()))
        .hint("`-c FILE` names the file"))
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

/// Where the loader's reads go: the file system, but for standard input.
struct Source {
    stdin: Vec<u8>,
    /// The name of a file that is to be left alone.
    hidden: Option<PathBuf>,
}

impl Source {
    fn get(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        if path == Path::new(STDIN) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            return Ok(self.stdin.get(..most).unwrap_or(&self.stdin).to_vec());
        }
        match (&self.hidden, path.file_name()) {
            (Some(hidden), Some(name)) if hidden.as_os_str() == name => Err(io::ErrorKind::NotFound.into()),
            (Some(_) | None, _) => head(path, most),
        }
    }
}

/// Standard input, or one byte more of it than is allowed, so that the loader sees that it is too much.
fn read_stdin() -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    io::stdin()
        .take(compose::FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| invalid(format!("standard input cannot be read: {error}")))?;
    Ok(bytes)
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
