//! The stacks that come with raftup load as they are, without a warning.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::{
    compose::{Input, Loaded, load},
    spec::Mode,
};

fn example(name: &str, env: &[(&str, &str)]) -> Loaded {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose-examples").join(name);
    let env: BTreeMap<_, _> =
        env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let files: [PathBuf; 1] = [dir.join("compose.yaml")];
    let read = |path: &Path, limit| {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let (files, project_dir) = (&files[..], dir.as_path());
    let input =
        Input { files, project_dir, env_files: &[], profiles: &[], name: None, env: &env, read: &read };
    let loaded = load(&input).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, [], "{name}");
    assert_eq!(loaded.spec.name.as_str(), name);
    loaded
}

#[test]
fn all_of_them() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose-examples");
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in &names {
        example(name.to_str().unwrap(), &[]);
    }
    assert_eq!(
        names.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>().join(" "),
        "agent cron gateway guestbook hardened hello migrate queue replicated sticky vote wiki"
    );
}

#[test]
fn images_and_ports_can_be_set() {
    let env = [("NGINX_IMAGE", "raftup/nginx:1"), ("HELLO_PORT", "18080")];
    let spec = example("hello", &env).spec;
    let web = &spec.services["web"];
    assert_eq!((web.container.image.as_str(), web.ports[0].published), ("raftup/nginx:1", 18080));
    assert_eq!(web.mode, Mode::Replicated { replicas: 3 });
}

#[test]
fn what_they_show() {
    let vote = example("vote", &[]).spec;
    assert_eq!((vote.services.len(), vote.networks.len()), (5, 2));
    assert_eq!(vote.services["worker"].networks.len(), 2);
    assert_eq!(example("guestbook", &[]).spec.volumes.len(), 1);
    assert_eq!(example("agent", &[]).spec.services["agent"].mode, Mode::Global);
}
