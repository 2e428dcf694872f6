//! How many CPUs the container may use: the cgroup's quota, version 1 or 2.
//!
//! More threads than the quota has CPUs would use it up early in each period and
//! then all stand still. Without a quota one thread is right: a sidecar is small,
//! and the node's CPUs are not its own.

use std::{fs, num::NonZeroUsize, path::Path, path::PathBuf};

/// The quota in whole CPUs, rounded up; 1 without one. `root` is `/` but in tests.
pub(super) fn cpu_limit(root: &Path) -> NonZeroUsize {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mount = root.join("sys/fs/cgroup");
    memberships
        .lines()
        .filter_map(|line| quota(line, &mount))
        .reduce(f64::min)
        .and_then(|cpus| NonZeroUsize::new(cpus.ceil() as usize))
        .unwrap_or(NonZeroUsize::MIN)
}

/// The quota in force in the group that a line of `/proc/self/cgroup` names.
fn quota(line: &str, mount: &Path) -> Option<f64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    if controllers.is_empty() {
        return least(mount, group, version_2);
    }
    if !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    // Mounted under its own name or under that of all in the hierarchy.
    ["cpu", controllers]
        .into_iter()
        .filter_map(|name| least(&mount.join(name), group, version_1))
        .reduce(f64::min)
}

/// The least quota of a group and those it is in. In a container the group's own
/// path may not exist: what is mounted then is the container's group itself.
fn least(mount: &Path, group: &str, read: fn(&Path) -> Option<f64>) -> Option<f64> {
    let group = Path::new(group.trim_start_matches('/'));
    group
        .ancestors()
        .map(|ancestor| mount.join(ancestor))
        .filter_map(|directory: PathBuf| read(&directory))
        .reduce(f64::min)
}

fn version_2(directory: &Path) -> Option<f64> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota, period)
}

fn version_1(directory: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    cpus(
        read("cpu.cfs_quota_us")?.trim(),
        read("cpu.cfs_period_us")?.trim(),
    )
}

/// `max` and -1 mean that there is no quota.
fn cpus(quota: &str, period: &str) -> Option<f64> {
    let quota: u32 = quota.parse().ok()?;
    let period: u32 = period.parse().ok().filter(|&period| period > 0)?;
    Some(f64::from(quota) / f64::from(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(memberships: &str, files: &[(&str, &str)]) -> usize {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", memberships);
        for (path, text) in files {
            write(&format!("sys/fs/cgroup/{path}"), text);
        }
        cpu_limit(root.path()).get()
    }

    #[test]
    fn version_2_rounds_up() {
        assert_eq!(limit("0::/\n", &[("cpu.max", "150000 100000\n")]), 2);
        assert_eq!(limit("0::/\n", &[("cpu.max", "200000 100000\n")]), 2);
        assert_eq!(limit("0::/\n", &[("cpu.max", "10000 100000\n")]), 1);
        assert_eq!(limit("0::/\n", &[("cpu.max", "max 100000\n")]), 1);
    }

    #[test]
    fn outer_groups_limit_too() {
        let files = [
            ("pods/cpu.max", "300000 100000\n"),
            ("pods/a/cpu.max", "400000 100000\n"),
        ];
        assert_eq!(limit("0::/pods/a\n", &files), 3);
        assert_eq!(limit("0::/\n", &files), 1);
    }

    #[test]
    fn version_1_is_read() {
        let files = [
            ("cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        let memberships = "4:memory:/x\n3:cpu,cpuacct:/kubepods/pod1/a\n0::/\n";
        assert_eq!(limit(memberships, &files), 3);
        let files = [
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(limit("3:cpu,cpuacct:/\n", &files), 1);
    }

    #[test]
    fn nonsense_is_one() {
        assert_eq!(limit("", &[]), 1);
        assert_eq!(limit("x\n0::/\n", &[("cpu.max", "a b")]), 1);
        assert_eq!(limit("0::/\n", &[("cpu.max", "100000 0")]), 1);
        assert_eq!(limit("0::/\n", &[("cpu.max", "0 100000")]), 1);
    }
}
