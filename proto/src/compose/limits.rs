//! `sysctls`, `ulimits`, `cpu_*`, `mem*`, `shm_size`, `oom_*`, `blkio_config`: what a container may use of its node.

use std::{collections::BTreeMap, time::Duration};

use super::{
    item::{Fields, Item},
    keys,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    spec::{BlockIo, BlockRate, BlockWeight, CpuTuning, MemoryTuning, Resources, Swap, Ulimit},
    unit::MemBytes,
};

/// Limits of processes that Linux has. Source: `getrlimit(2)`, in the engine's words.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// Weights of block devices that the engine takes.
const WEIGHTS: (u32, u32) = (10, 1000);

pub(super) fn sysctls(fields: &Fields<'_>) -> BTreeMap<String, String> {
    fields.get("sysctls").map(|item| item.values()).unwrap_or_default()
}

/// `ulimits`: a number for both limits, or `soft` and `hard`.
pub(super) fn ulimits(fields: &Fields<'_>) -> BTreeMap<String, Ulimit> {
    let mut ulimits = BTreeMap::new();
    let Some(item) = fields.get("ulimits") else { return ulimits };
    for (name, at, item) in item.entries() {
        if !ULIMITS.contains(&name) {
            let help = text::nearest(name, ULIMITS).map(|near| format!("did you mean `{near}`?"));
            item.cx.error(at, &item.path, format!("there is no limit `{}`", clip(name)), help);
            continue;
        }
        if let Some(limit) = ulimit(&item) {
            ulimits.insert(name.to_owned(), limit);
        }
    }
    ulimits
}

fn ulimit(item: &Item<'_>) -> Option<Ulimit> {
    if !matches!(item.node.kind, Kind::Map(_)) {
        let both = item.parse(limit)?;
        return Some(Ulimit { soft: both, hard: both });
    }
    let fields = item.fields()?;
    let read = |key| fields.get(key).map(|item| item.parse(limit));
    let (soft, hard) = (read("soft"), read("hard"));
    fields.finish(&[]);
    let (Some(soft), Some(hard)) = (soft, hard) else {
        item.error("must have `soft` and `hard`");
        return None;
    };
    let limit = Ulimit { soft: soft?, hard: hard? };
    if limit.hard >= 0 && (limit.soft < 0 || limit.soft > limit.hard) {
        item.error("`soft` is more than `hard`");
    }
    Some(limit)
}

fn limit(text: &str) -> Result<i64, String> {
    match text.trim() {
        "-1" | "unlimited" => Ok(-1),
        text => text::whole(text, 0, i64::MAX as u64).map(|limit| limit as i64),
    }
}

/// `cpu_*` and `cpuset`.
pub(super) fn cpu(fields: &Fields<'_>, resources: &Resources) -> CpuTuning {
    let time = |key| fields.given(key).and_then(|item| item.parse(micros)).filter(|time| !time.is_zero());
    let cpu = CpuTuning {
        shares: fields
            .given("cpu_shares")
            .and_then(|item| item.whole(0, 262_144))
            .filter(|shares| *shares > 0),
        period: time("cpu_period"),
        quota: time("cpu_quota"),
        realtime_period: time("cpu_rt_period"),
        realtime_runtime: time("cpu_rt_runtime"),
        set: fields.given("cpuset").and_then(|item| item.parse(cpuset)),
    };
    let clash = ["cpu_period", "cpu_quota"].into_iter().find(|key| fields.given(key).is_some());
    if let (Some(item), Some(_)) = (clash.and_then(|key| fields.get(key)), resources.limits.cpu) {
        item.error_help("cannot be given beside a limit of CPUs", "remove it, or `cpus` and `limits.cpus`");
    }
    cpu
}

/// A time; a bare number counts microseconds, as in the engine.
fn micros(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<u64>() {
        Ok(micros) => Ok(Duration::from_micros(micros)),
        Err(_) => text::duration(text),
    }
}

fn cpuset(text: &str) -> Result<String, String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first) && number(last),
        None => number(part),
    };
    if text.split(',').all(|text| part(text.trim())) {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no list of cores such as `0-2,4`", clip(text)))
}

/// `shm_size`, `memswap_limit`, `mem_swappiness` and `oom_*`.
pub(super) fn memory(fields: &Fields<'_>, resources: &Resources) -> MemoryTuning {
    let swap = fields.given("memswap_limit").and_then(|item| {
        let swap = item.parse(|text| match text.trim() {
            "-1" => Ok(Some(Swap::Unlimited)),
            text => text::bytes(text)
                .map(|size| Some(size).filter(|size| *size > 0).map(MemBytes).map(Swap::Limit)),
        })?;
        match (swap, resources.limits.memory) {
            (Some(Swap::Limit(_)), None) => item.error_help(
                "needs a limit of memory",
                "add `mem_limit`, which the limit of memory and swap together includes",
            ),
            (Some(Swap::Limit(swap)), Some(memory)) if swap < memory => {
                item.error(format!(
                    "is less than the limit of memory, {memory}: it is memory and swap together"
                ));
            }
            (None | Some(_), _) => {}
        }
        swap
    });
    MemoryTuning {
        shm_size: size(fields, "shm_size"),
        swap,
        swappiness: fields
            .given("mem_swappiness")
            .and_then(|item| item.whole(0, 100))
            .and_then(|percent| u8::try_from(percent).ok()),
        oom_kill_disable: fields.given("oom_kill_disable").and_then(|item| item.flag()).unwrap_or(false),
        oom_score_adj: fields.given("oom_score_adj").and_then(|item| {
            item.parse(|text| match text.trim().parse::<i16>() {
                Ok(score) if (-1000..=1000).contains(&score) => Ok(score),
                Ok(_) | Err(_) => Err(format!("`{}` is not between -1000 and 1000", clip(text))),
            })
        }),
    }
}

/// A size; zero stands for the engine's own.
pub(super) fn size(fields: &Fields<'_>, key: &'static str) -> Option<MemBytes> {
    let size = fields.given(key)?.parse(text::bytes)?;
    Some(MemBytes(size)).filter(|size| size.0 > 0)
}

pub(super) fn block_io(fields: &Fields<'_>) -> BlockIo {
    let Some(fields) = fields.get("blkio_config").and_then(|item| item.fields()) else {
        return BlockIo::default();
    };
    let rates = |key, parse: fn(&str) -> Result<u64, String>| {
        let items = fields.get(key).map(|item| item.items()).unwrap_or_default();
        items.iter().filter_map(|item| rate(item, parse)).collect::<Vec<_>>()
    };
    let count: fn(&str) -> Result<u64, String> = |text| text::whole(text, 1, u64::from(u32::MAX));
    let weights = fields.get("weight_device").map(|item| item.items()).unwrap_or_default();
    let block_io = BlockIo {
        weight: fields.given("weight").and_then(|item| weight(&item)),
        weight_device: weights.iter().filter_map(device_weight).collect(),
        read_bps: rates("device_read_bps", text::bytes),
        write_bps: rates("device_write_bps", text::bytes),
        read_iops: rates("device_read_iops", count),
        write_iops: rates("device_write_iops", count),
    };
    fields.end(&keys::BLKIO);
    block_io
}

fn weight(item: &Item<'_>) -> Option<u16> {
    item.whole(WEIGHTS.0, WEIGHTS.1).and_then(|weight| u16::try_from(weight).ok())
}

fn device_weight(item: &Item<'_>) -> Option<BlockWeight> {
    let fields = item.fields()?;
    let (path, found) = (fields.get("path"), fields.get("weight"));
    fields.finish(&[]);
    let (Some(path), Some(found)) = (path, found) else {
        item.error("must have `path` and `weight`");
        return None;
    };
    Some(BlockWeight { path: path.filled()?.to_owned(), weight: weight(&found)? })
}

fn rate(item: &Item<'_>, parse: fn(&str) -> Result<u64, String>) -> Option<BlockRate> {
    let fields = item.fields()?;
    let (path, rate) = (fields.get("path"), fields.get("rate"));
    fields.finish(&[]);
    let (Some(path), Some(rate)) = (path, rate) else {
        item.error("must have `path` and `rate`");
        return None;
    };
    Some(BlockRate { path: path.filled()?.to_owned(), rate: rate.parse(parse)? })
}
