//! Which CPUs work on what comes out of a device.

use std::{fs, io};

use tracing::debug;

/// Lets all CPUs take part: on its own, the kernel has the one that took the packet around ours from the network carry on
/// to the container. With another at work on that, one connection carries a third more on two CPUs.
pub(super) fn spread(device: &str) {
    let set = || -> io::Result<()> {
        let Some(mask) = mask(&fs::read_to_string("/sys/devices/system/cpu/online")?) else { return Ok(()) };
        for queue in fs::read_dir(format!("/sys/class/net/{device}/queues"))? {
            let path = queue?.path().join("rps_cpus");
            if path.exists() {
                fs::write(path, &mask)?;
            }
        }
        Ok(())
    };
    if let Err(error) = set() {
        debug!(device, %error, "the kernel does not spread its packets over CPUs");
    }
}

/// From a list (`0-3,6`) to groups of 32 bits, the highest first (`4f`); none for a single CPU, or if it is no list.
fn mask(online: &str) -> Option<String> {
    let mut groups = Vec::<u32>::new();
    for range in online.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for cpu in first.parse::<usize>().ok()?..=last.parse().ok()? {
            if groups.len() <= cpu / 32 {
                groups.resize(cpu / 32 + 1, 0);
            }
            groups[cpu / 32] |= 1 << (cpu % 32);
        }
    }
    let cpus: u32 = groups.iter().map(|group| group.count_ones()).sum();
    let text: Vec<_> = groups.iter().rev().map(|group| format!("{group:08x}")).collect();
    (cpus > 1).then(|| text.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(mask("0-1\n").unwrap(), "00000003");
        assert_eq!(mask("0-3,6").unwrap(), "0000004f");
        assert_eq!(mask("0,31-32,64\n").unwrap(), "00000001,00000001,80000001");
        assert_eq!(mask("0\n"), None);
        assert_eq!(mask("none"), None);
    }
}
