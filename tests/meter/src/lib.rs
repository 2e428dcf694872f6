//! What a test process takes of memory, measured in two ways.
//!
//! [`allocated`] counts what the program has asked for and not given back, to the byte:
//! the right measure of what a data structure takes. [`resident`] is what the kernel has
//! given to the process, with all that its allocator keeps: the right measure of what a
//! container's limit sees. Both are of the whole process. So a test that measures is the
//! only test of its binary, or takes [`alone`] first.
//!
//! Whichever binary uses this crate allocates by its counting allocator.

use std::{
    alloc::System,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

static MEASURING: Mutex<()> = Mutex::new(());

/// One mebibyte, in bytes.
pub const MIB: usize = 1 << 20;

/// Waits until no other test of this process measures, and holds others up until it is
/// dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the bytes that are allocated now.
pub fn allocated() -> usize {
    ALLOCATOR.allocated()
}

/// Returns the anonymous memory of this process, in bytes.
pub fn resident() -> usize {
    status("RssAnon:")
}

/// Runs `work`. Returns its result, and by how many bytes the process's resident memory
/// grew at most meanwhile.
pub fn resident_peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    // Sets the peak to what there is.
    fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
    let before = status("VmRSS:");
    let result = work();
    (result, status("VmHWM:").saturating_sub(before))
}

fn status(name: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("Linux has this file");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.map(|line| line.trim().trim_end_matches(" kB"));
    let kilobytes = kilobytes.and_then(|number| number.parse::<usize>().ok());
    kilobytes.expect("Linux has this line") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_seen_and_what_is_given_back_too() {
        let _alone = alone();
        let before = allocated();
        let (taken, peak) = resident_peak(|| vec![1_u8; 32 * MIB]);
        assert!((32 * MIB..33 * MIB).contains(&(allocated() - before)));
        assert!(peak >= 31 * MIB, "{peak}");
        assert!(resident() >= 32 * MIB);
        drop(taken);
        assert!(allocated() < before + MIB);
    }
}
