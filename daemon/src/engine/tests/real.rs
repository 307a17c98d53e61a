//! A real engine for tests, in namespaces of its own: whatever becomes of the test, nothing of it is left.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::StreamExt;

use super::super::{DockerEngine, Engine};

/// Made private first, so that nothing mounted here is seen outside. The shell reaps what the engine leaves behind.
const SCRIPT: &str = r#"
mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs tmpfs /run && ip link set lo up || exit 1
cd "$0"
while :; do
    while [ -e hold ]; do sleep 0.05; done
    dockerd --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/pid" -H "unix://$0/docker.sock" \
        --bridge=none --iptables=false --ip6tables=false $(cat restore 2>/dev/null || echo --live-restore) --storage-driver vfs >>log 2>&1 &
    wait $!
done
"#;

/// A host with an engine and one image; gone when dropped.
pub(crate) struct Host {
    pub(crate) engine: DockerEngine,
    dir: PathBuf,
    process: Child,
}

impl Host {
    /// Starts the engine. None, with a word on it, where that is not possible.
    pub(crate) async fn start(name: &str) -> Option<Self> {
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        if !root || Command::new("dockerd").arg("--version").output().is_err() {
            eprintln!("skipped: needs root and dockerd");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("agent-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let process = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT])
            .arg(&dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let engine = DockerEngine::new(&dir.join("docker.sock"));
        let host = Self { engine, dir, process };
        host.answers().await;
        host.import(super::IMAGE).await;
        Some(host)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until the engine answers.
    pub(crate) async fn answers(&self) {
        let up = async {
            while self.engine.ping().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let up = tokio::time::timeout(Duration::from_secs(60), up).await;
        up.unwrap_or_else(|_| {
            panic!("{}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        });
    }

    /// Kills the engine as `kill -9` does; it stays away until [`Self::revive`].
    pub(crate) fn kill(&self) {
        std::fs::write(self.dir.join("hold"), "").unwrap();
        self.inside("kill -9 $(cat pid)");
    }

    /// Whether containers outlive the engine, from its next start on, which follows.
    pub(crate) async fn set_live_restore(&self, on: bool) {
        std::fs::write(self.dir.join("restore"), if on { "--live-restore" } else { "--live-restore=false" })
            .unwrap();
        self.stop().await;
        self.revive().await;
    }

    /// Stops the engine as a service manager does, and waits until it has ended; it stays away until
    /// [`Self::revive`].
    pub(crate) async fn stop(&self) {
        std::fs::write(self.dir.join("hold"), "").unwrap();
        self.inside("cp pid stopped; kill $(cat stopped)");
        // Others go on meanwhile: the engine tells them what it does.
        while !self.inside("kill -0 $(cat stopped) 2>/dev/null && echo alive || true").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets the engine start again.
    pub(crate) async fn revive(&self) {
        std::fs::remove_file(self.dir.join("hold")).unwrap();
        self.answers().await;
    }

    /// Runs a shell line among the host's processes and returns what it wrote.
    pub(crate) fn inside(&self, line: &str) -> String {
        let child = format!("/proc/{0}/task/{0}/children", self.process.id());
        let init = std::fs::read_to_string(child).unwrap();
        let output = Command::new("nsenter")
            .args([
                "-t",
                init.trim(),
                "-p",
                "-m",
                "-n",
                "sh",
                "-c",
                &format!("cd '{}'; {line}", self.dir.display()),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Puts an image with nothing but busybox there.
    async fn import(&self, name: &str) {
        let bin = self.dir.join("image/bin");
        std::fs::create_dir_all(&bin).unwrap();
        let busybox = bin.join("busybox");
        std::fs::copy("/bin/busybox", &busybox).unwrap();
        for applet in ["sh", "echo", "sleep", "cat", "tail", "true", "ip", "nslookup", "hostname"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let image = self.dir.join("image");
        let tar = Command::new("tar").arg("-C").arg(image).args(["-c", "."]).output().unwrap().stdout;
        let (repo, tag) = name.split_once(':').unwrap();
        let options =
            bollard::query_parameters::CreateImageOptionsBuilder::new().from_src("-").repo(repo).tag(tag);
        let client = self.engine.client().await.unwrap();
        let body = Some(bollard::body_full(tar.into()));
        let mut progress = std::pin::pin!(client.create_image(Some(options.build()), body, None));
        while let Some(step) = progress.next().await {
            step.unwrap();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The first process of its namespace goes with it, and all others with that one.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
