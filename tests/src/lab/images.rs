//! Images made on the spot, without a registry: busybox, nginx, redis and haproxy from the distribution's
//! packages, and our helper in two versions.
//!
//! Owns: the archive of all images in the cache. Leaves alone: the machine's installed packages; what is missing is
//! downloaded and unpacked aside. Holds: equal inputs give equal image ids, on every engine.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fs,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    enter::run,
    place::{cache, prune, touch},
};
use packages::Packages;

mod packages;

/// Goes up when images are made in another way.
const REVISION: u32 = 2;
/// The sources of the helper; one file after the other makes up the cache's key.
const HELPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/raftup-helper");
const NGINX_CONF: &str = include_str!("images/nginx.conf");
const REDIS_ENTRYPOINT: &str = include_str!("images/redis-entrypoint.sh");

/// One image of the lab.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its names. Those without `raftup/` stand for the public images of that name, so that examples run in a
    /// lab as they do elsewhere.
    pub tags: &'static [&'static str],
    content: Content,
    /// Value of `HELPER_VERSION` in its environment.
    version: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Busybox,
    Nginx,
    Redis,
    Haproxy,
    Helper,
}

/// All images that an engine of the lab has from the start.
pub const IMAGES: [Image; 6] = [
    Image {
        tags: &["raftup/busybox:1", "busybox:latest", "busybox:1.37"],
        content: Content::Busybox,
        version: None,
    },
    Image {
        tags: &["raftup/nginx:1", "nginx:latest", "nginx:alpine", "nginx:1.27-alpine"],
        content: Content::Nginx,
        version: None,
    },
    Image {
        tags: &["raftup/redis:1", "redis:latest", "redis:alpine", "redis:7-alpine"],
        content: Content::Redis,
        version: None,
    },
    Image { tags: &["raftup/haproxy:1"], content: Content::Haproxy, version: None },
    Image { tags: &["raftup/helper:1"], content: Content::Helper, version: Some("1") },
    Image { tags: &["raftup/helper:2"], content: Content::Helper, version: Some("2") },
];

/// The archive with all images, as `docker load` takes it; made unless the cache has it or `fresh` is set.
///
/// Errors: a package cannot be had, or the helper does not compile.
pub fn build_all(fresh: bool) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(cache()).with_context(|| format!("making {}", cache().display()))?;
    let path = cache().join(format!("images-{:016x}.tar", key()?));
    if path.exists() && !fresh {
        touch(&path)?;
        return Ok(path);
    }
    eprintln!("lab: making the images (once)");
    let work = cache().join("images.work");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(work.join("archive"))?;
    let names = ["busybox-static", "nginx", "libnginx-mod-stream", "redis-server", "haproxy"];
    let packages = Packages::unpack(&work.join("packages"), &names)?;
    build_helper(&work.join("helper"))?;
    let mut manifest = Vec::new();
    for image in &IMAGES {
        let entry =
            build(image, &work, &packages).with_context(|| format!("making image {}", image.tags[0]))?;
        manifest.push(entry);
    }
    fs::write(work.join("archive/manifest.json"), serde_json::to_vec(&manifest)?)?;
    let new = work.join("images.tar");
    tar(&work.join("archive"), &new)?;
    prune("images-")?;
    fs::rename(&new, &path)?;
    fs::remove_dir_all(&work)?;
    Ok(path)
}

fn key() -> anyhow::Result<u64> {
    let mut hasher = DefaultHasher::new();
    (REVISION, NGINX_CONF, REDIS_ENTRYPOINT).hash(&mut hasher);
    for (path, text) in helper_sources()? {
        (path, text).hash(&mut hasher);
    }
    for image in &IMAGES {
        (image.tags, image.version).hash(&mut hasher);
    }
    fs::read_to_string("/etc/os-release").unwrap_or_default().hash(&mut hasher);
    Ok(hasher.finish())
}

fn helper_sources() -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let entries = fs::read_dir(HELPER).with_context(|| format!("reading {HELPER}"))?;
    entries
        .map(|entry| {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            // Not the whole path: equal sources in two places are equal.
            Ok((path.file_name().map(PathBuf::from).unwrap_or_default(), text))
        })
        .collect()
}

/// Compiles the helper on its own: it needs nothing but the standard library, and a static binary of it takes
/// seconds where the whole package for another target takes minutes.
fn build_helper(to: &Path) -> anyhow::Result<()> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let (from, to) = (format!("{HELPER}/main.rs"), to.display().to_string());
    run(&[
        &rustc,
        "--edition=2024",
        "--crate-name=helper",
        "-Copt-level=3",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
        "-o",
        &to,
        &from,
    ])
    .context("compiling the helper")
    .map(drop)
}

/// Makes one image's part of the archive; answers its entry in the manifest.
fn build(image: &Image, work: &Path, packages: &Packages) -> anyhow::Result<serde_json::Value> {
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    let mut config = match image.content {
        Content::Helper => helper(&root, work)?,
        Content::Busybox => busybox(&root, packages)?,
        Content::Nginx => nginx(&root, packages)?,
        Content::Redis => redis(&root, packages)?,
        Content::Haproxy => haproxy(&root, packages)?,
    };
    if let Some(version) = image.version {
        config["Env"] = json!([PATH_ENV, format!("HELPER_VERSION={version}")]);
    }
    let layer = work.join("layer.tar");
    tar(&root, &layer)?;
    let digest = sha256(&layer)?;
    let archive = work.join("archive");
    fs::create_dir_all(archive.join(&digest))?;
    fs::rename(&layer, archive.join(&digest).join("layer.tar"))?;
    let whole = json!({
        "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "raftup-lab" }],
    });
    let draft = work.join("config.json");
    fs::write(&draft, serde_json::to_vec(&whole)?)?;
    let name = format!("{}.json", sha256(&draft)?);
    fs::rename(&draft, archive.join(&name))?;
    Ok(json!({ "Config": name, "RepoTags": image.tags, "Layers": [format!("{digest}/layer.tar")] }))
}

const PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn helper(root: &Path, work: &Path) -> anyhow::Result<serde_json::Value> {
    base(root)?;
    fs::copy(work.join("helper"), root.join("helper"))?;
    Ok(json!({ "Env": [PATH_ENV], "Entrypoint": ["/helper"], "Cmd": ["serve"],
        "ExposedPorts": { "8080/tcp": {}, "8080/udp": {}, "8081/tcp": {} } }))
}

fn busybox(root: &Path, packages: &Packages) -> anyhow::Result<serde_json::Value> {
    base(root)?;
    let program = packages.find(&["bin/busybox", "usr/bin/busybox"])?;
    fs::copy(&program, root.join("bin/busybox"))?;
    let applets = run(&[&program.display().to_string(), "--list"])?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(json!({ "Env": [PATH_ENV], "Cmd": ["sh"] }))
}

fn nginx(root: &Path, packages: &Packages) -> anyhow::Result<serde_json::Value> {
    busybox(root, packages)?;
    packages.install("usr/sbin/nginx", root)?;
    // A measure for the benches; nothing loads it but a configuration that asks for it.
    packages.install("usr/lib/nginx/modules/ngx_stream_module.so", root)?;
    for dir in
        ["etc/nginx/conf.d", "usr/share/nginx/html", "var/lib/nginx", "var/log/nginx", "var/cache/nginx"]
    {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(root.join("etc/nginx/nginx.conf"), NGINX_CONF)?;
    let types = packages.find(&["etc/nginx/mime.types"])?;
    fs::copy(types, root.join("etc/nginx/mime.types"))?;
    fs::write(root.join("usr/share/nginx/html/index.html"), "<h1>Welcome to nginx!</h1>\n")?;
    Ok(json!({ "Env": [PATH_ENV], "Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT",
        "ExposedPorts": { "80/tcp": {} } }))
}

fn redis(root: &Path, packages: &Packages) -> anyhow::Result<serde_json::Value> {
    use std::os::unix::fs::PermissionsExt as _;
    busybox(root, packages)?;
    packages.install("usr/bin/redis-server", root)?;
    packages.install("usr/bin/redis-cli", root)?;
    fs::create_dir_all(root.join("data"))?;
    let entrypoint = root.join("entrypoint.sh");
    fs::write(&entrypoint, REDIS_ENTRYPOINT)?;
    fs::set_permissions(&entrypoint, fs::Permissions::from_mode(0o755))?;
    Ok(json!({ "Env": [PATH_ENV], "Entrypoint": ["/entrypoint.sh"], "Cmd": ["redis-server"],
        "WorkingDir": "/data", "Volumes": { "/data": {} }, "ExposedPorts": { "6379/tcp": {} } }))
}

/// A measure for the benches; its configuration comes with the container.
fn haproxy(root: &Path, packages: &Packages) -> anyhow::Result<serde_json::Value> {
    busybox(root, packages)?;
    packages.install("usr/sbin/haproxy", root)?;
    Ok(json!({ "Env": [PATH_ENV], "Cmd": ["haproxy", "-f", "/etc/haproxy.cfg"], "StopSignal": "SIGUSR1" }))
}

/// What every image has: users, groups, and a place for temporary files.
fn base(root: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for dir in ["bin", "etc", "tmp", "usr/bin", "usr/sbin", "lib", "var", "run", "root"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

fn tar(dir: &Path, to: &Path) -> anyhow::Result<()> {
    let (dir, to) = (dir.display().to_string(), to.display().to_string());
    let same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
    run(&[&["tar"], &same[..], &["-cf", &to, "-C", &dir, "."]].concat()).map(drop)
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let output = run(&["sha256sum", &path.display().to_string()])?;
    let text = String::from_utf8(output.stdout)?;
    let digest = text.split_whitespace().next().unwrap_or_default().to_owned();
    ensure!(digest.len() == 64, "sha256sum said `{}`", text.trim());
    Ok(digest)
}

/// This machine's architecture in the words of image configs.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
