//! Credentials for the registries of a stack, from where `docker login` put them.
//!
//! Owns: the reading of Docker's `config.json` and its credential helpers. Holds: only the registries that the
//! stack's images come from are looked up; a secret is never printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use data_encoding::BASE64;
use raftup_proto::{api::Credential, spec::StackSpec};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, process::Command};

use super::registry;

/// Longest wait for a credential helper; one may ask for a PIN.
const HELPER_WITHIN: Duration = Duration::from_secs(60);
/// User name under which helpers hand out an identity token.
const TOKEN_USER: &str = "<token>";

/// The part of Docker's configuration that is about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

/// What is written down for a registry.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    /// `user:password` in base64.
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(..)")
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The credentials for the registries of a stack's images, and what went wrong on the way; nothing of that
/// stops a deploy, as the images may be there or need no credentials.
pub(crate) async fn credentials(spec: &StackSpec) -> (BTreeMap<String, Credential>, Vec<String>) {
    let images = spec.services.values().map(|service| registry::of_image(&service.container.image));
    let registries: BTreeSet<&str> = images.collect();
    match read() {
        Ok(config) => lookup(&config, registries).await,
        Err(problem) => (BTreeMap::new(), vec![problem]),
    }
}

fn read() -> Result<Config, String> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
    let Some(dir) = dir else { return Ok(Config::default()) };
    parse(&dir.join("config.json"))
}

fn parse(path: &Path) -> Result<Config, String> {
    let odd = |error: &dyn std::fmt::Display| {
        format!("no registry credentials: {} cannot be read: {error}", path.display())
    };
    match std::fs::read(path) {
        // The error of a parser may quote what it read, and that may be a secret.
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| odd(&format!("it is not the JSON that is expected at line {}", error.line()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(odd(&error)),
    }
}

async fn lookup(config: &Config, registries: BTreeSet<&str>) -> (BTreeMap<String, Credential>, Vec<String>) {
    let mut found = BTreeMap::new();
    let mut problems = Vec::new();
    for name in registries {
        let own = config.cred_helpers.iter().find(|(key, _)| registry::of_key(key) == name);
        let helper = own.map(|(_, helper)| helper).or(config.creds_store.as_ref());
        let helped = match helper {
            Some(helper) => ask(helper, registry::helper_key(name)).await.unwrap_or_else(|problem| {
                problems.push(format!("no credentials for {name}: {problem}"));
                None
            }),
            None => None,
        };
        if let Some(credential) = helped.or_else(|| written(config, name)) {
            found.insert(name.to_owned(), credential);
        }
    }
    (found, problems)
}

/// What the file itself holds for a registry.
fn written(config: &Config, name: &str) -> Option<Credential> {
    let (_, auth) = config.auths.iter().find(|(key, _)| registry::of_key(key) == name)?;
    let decoded = BASE64.decode(auth.auth.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    // Docker ends the password with a zero byte where an old version wrote it.
    let (username, password) = pair
        .map_or((auth.username.as_str(), auth.password.as_str()), |(user, password)| {
            (user, password.trim_end_matches('\0'))
        });
    match (auth.identitytoken.as_str(), username, password) {
        ("", "", _) | ("", _, "") => None,
        ("", username, password) => Some(credential(username, password, false)),
        (token, ..) => Some(credential("", token, true)),
    }
}

fn credential(username: &str, secret: &str, identity_token: bool) -> Credential {
    Credential { username: username.to_owned(), secret: secret.to_owned(), identity_token }
}

/// Asks `docker-credential-HELPER get`. None if it knows nothing of the registry.
async fn ask(helper: &str, key: &str) -> Result<Option<Credential>, String> {
    let program = format!("docker-credential-{helper}");
    let run = tokio::time::timeout(HELPER_WITHIN, run(&program, key));
    let output = match run.await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("`{program}` cannot be run: {error}")),
        Err(_) => return Err(format!("`{program}` did not answer within {} s", HELPER_WITHIN.as_secs())),
    };
    if !output.status.success() {
        // Helpers write their complaint to standard output.
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return if text.contains("not found") { Ok(None) } else { Err(format!("`{program}`: {text}")) };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("`{program}` answered something that is not expected"))?;
    let token = answer.username == TOKEN_USER;
    Ok(Some(credential(if token { "" } else { &answer.username }, &answer.secret, token)))
}

async fn run(program: &str, key: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why by its exit status.
        drop(stdin.write_all(key.as_bytes()).await);
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn written_credentials_are_read() {
        let auth = BASE64.encode(b"ann:s3c:ret");
        let config = config(&format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "reg:5000": {{"identitytoken": "tok"}}, "empty": {{}}, "bad": {{"auth": "?"}},
                "plain": {{"username": "bob", "password": "pw"}}}}, "HttpHeaders": {{}}}}"#
        ));
        assert_eq!(written(&config, "docker.io"), Some(credential("ann", "s3c:ret", false)));
        assert_eq!(written(&config, "reg:5000"), Some(credential("", "tok", true)));
        assert_eq!(written(&config, "plain"), Some(credential("bob", "pw", false)));
        for name in ["empty", "bad", "ghcr.io"] {
            assert_eq!(written(&config, name), None, "{name}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = config(r#"{"auths": {"a": {"username": "bob", "password": "hidden"}}}"#);
        assert!(!format!("{config:?}").contains("hidden"));
    }

    #[test]
    fn a_missing_file_is_no_problem_and_a_broken_one_is_told_without_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(parse(&path).is_ok());
        std::fs::write(&path, r#"{"auths": {"a": "hidden"}}"#).unwrap();
        let problem = parse(&path).unwrap_err();
        assert!(problem.contains("config.json") && !problem.contains("hidden"), "{problem}");
    }
}
