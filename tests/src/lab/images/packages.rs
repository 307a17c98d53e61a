//! Programs out of the distribution's packages, with the libraries that they need, without installing them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::super::enter::run;

/// Packages unpacked into a directory; what the machine has installed is taken from the machine.
pub(super) struct Packages {
    dir: PathBuf,
}

impl Packages {
    /// Downloads and unpacks those of `names`, and of what they depend on, that are not installed.
    pub(super) fn unpack(dir: &Path, names: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let missing = not_installed(names)?;
        if !missing.is_empty() {
            let script = r#"cd "$0" && apt-get -q -o APT::Sandbox::User=root download "$@""#;
            let mut argv = vec!["sh", "-c", script];
            let text = dir.display().to_string();
            argv.push(&text);
            argv.extend(missing.iter().map(String::as_str));
            run(&argv)
                .context("downloading packages for the images; run `apt-get update` if they are not found")?;
        }
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "deb") {
                run(&["dpkg-deb", "-x", &path.display().to_string(), &dir.display().to_string()])?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The first of these files that a package or the machine has.
    pub(super) fn find(&self, paths: &[&str]) -> anyhow::Result<PathBuf> {
        let candidates = paths.iter().flat_map(|path| [self.dir.join(path), Path::new("/").join(path)]);
        for candidate in candidates {
            if candidate.exists() {
                return Ok(candidate);
            }
        }
        bail!("no package has {}", paths.join(" or "))
    }

    /// Copies a program to the same path below `root`, and the libraries it loads to where its loader looks.
    pub(super) fn install(&self, program: &str, root: &Path) -> anyhow::Result<()> {
        let found = self.find(&[program])?;
        let to = root.join(program);
        fs::create_dir_all(to.parent().context("a program in no directory")?)?;
        fs::copy(&found, &to)?;
        for library in self.libraries(&found)? {
            let is_loader =
                library.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"));
            let to = if is_loader {
                root.join(library.strip_prefix("/")?)
            } else {
                root.join("lib").join(library.file_name().context("a library without a name")?)
            };
            fs::create_dir_all(to.parent().context("a library in no directory")?)?;
            fs::copy(&library, &to).with_context(|| format!("copying {}", library.display()))?;
        }
        Ok(())
    }

    fn libraries(&self, program: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let dirs = [format!("usr/lib/{arch}"), format!("lib/{arch}"), "usr/lib".into(), "lib".into()];
        let path = dirs.map(|dir| self.dir.join(dir).display().to_string()).join(":");
        let output =
            run(&["env", &format!("LD_LIBRARY_PATH={path}"), "ldd", &program.display().to_string()])?;
        let text = String::from_utf8(output.stdout)?;
        // "libz.so.1 => /lib/libz.so.1 (0x..)", "/lib64/ld-linux-x86-64.so.2 (0x..)", "linux-vdso.so.1 (0x..)"
        let mut found = Vec::new();
        for line in text.lines().map(str::trim) {
            let place = line.split_once("=> ").map_or(line, |(_, right)| right);
            if place.starts_with("not found") {
                bail!("{}: library missing: {line}", program.display());
            }
            let file = place.split(" (").next().unwrap_or_default();
            if file.starts_with('/') {
                found.push(PathBuf::from(file));
            }
        }
        Ok(found)
    }
}

fn not_installed(names: &[&str]) -> anyhow::Result<Vec<String>> {
    let argv = [&["apt-get", "-s", "-q", "--no-install-recommends", "install"], names].concat();
    let output =
        run(&argv).context("asking apt which packages the images need; run `tests/setup.sh` first")?;
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("Inst "));
    Ok(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}
