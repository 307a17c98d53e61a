//! What this host is, also while its engine does not answer.

use raftup_proto::{
    peer::Platform,
    unit::{CpuMillis, MemBytes},
};

use crate::engine::Engine;

/// What this host is, without its engine.
pub fn local() -> Platform {
    let system = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = rustix::system::sysinfo();
    Platform {
        os: std::env::consts::OS.to_owned(),
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        engine: None,
        engine_labels: Vec::new(),
        cpu: CpuMillis(cores as u64 * 1000),
        memory: MemBytes((memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit))),
        generic: Default::default(),
    }
}

/// What this host and its engine are; the host alone if the engine does not answer.
pub async fn platform(engine: &dyn Engine) -> Platform {
    match engine.info().await {
        Ok(platform) => platform,
        Err(error) => {
            tracing::warn!(%error, "the engine does not answer");
            local()
        }
    }
}
