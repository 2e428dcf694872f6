//! What matching needs besides the expression, for each thread.
//!
//! A thread matches one text at a time, so what it has for an expression needs no lock;
//! and it keeps so much for all of them, whatever they and the texts are.

use super::Compiled;
use regex_automata::meta::{self, Cache};
use std::{cell::RefCell, collections::HashMap};

/// What a thread keeps, bytes.
pub const OF_THREAD: usize = 4 << 20;

#[derive(Default)]
struct Kept {
    of: HashMap<u64, Scratch>,
    size: usize,
    turn: u64,
}

struct Scratch {
    cache: Cache,
    size: usize,
    /// When it was used.
    turn: u64,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Calls back with an expression's engine, and with what that needs.
pub(super) fn with<T>(compiled: &Compiled, call: impl FnOnce(&meta::Regex, &mut Cache) -> T) -> T {
    // Taken out while it is used, so that nothing is borrowed meanwhile.
    let kept = KEPT.try_with(|kept| kept.borrow_mut().take(compiled.id));
    let cache = kept.ok().flatten();
    let mut cache = cache.unwrap_or_else(|| compiled.engine.create_cache());
    let answer = call(&compiled.engine, &mut cache);
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| kept.borrow_mut().give_back(compiled.id, cache));
    answer
}

impl Kept {
    fn take(&mut self, id: u64) -> Option<Cache> {
        let scratch = self.of.remove(&id)?;
        self.size -= scratch.size;
        Some(scratch.cache)
    }

    fn give_back(&mut self, id: u64, cache: Cache) {
        self.turn += 1;
        let scratch = Scratch {
            size: cache.memory_usage() + size_of::<Scratch>(),
            cache,
            turn: self.turn,
        };
        self.size += scratch.size;
        self.of.insert(id, scratch);
        if self.size > OF_THREAD {
            self.make_room();
        }
    }

    /// Drops what has not been used for longest, until a quarter is free.
    fn make_room(&mut self) {
        let mut oldest: Vec<(u64, u64)> = self.of.iter().map(|(id, s)| (s.turn, *id)).collect();
        oldest.sort_unstable();
        for (_, id) in oldest {
            if self.size <= OF_THREAD / 4 * 3 {
                return;
            }
            self.take(id);
        }
    }
}

/// What this thread keeps, bytes.
#[cfg(test)]
pub(super) fn size() -> usize {
    KEPT.with(|kept| kept.borrow().size)
}
