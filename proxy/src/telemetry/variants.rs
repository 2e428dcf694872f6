//! A list that only grows: found by comparison without a lock or an allocation,
//! which is all that most requests need.

use std::sync::{Mutex, OnceLock, PoisonError};

/// Values by key, in the order they came in.
#[derive(Debug)]
pub(super) struct Variants<K, V> {
    first: Slot<K, V>,
    /// What found no room.
    other: OnceLock<Box<V>>,
    /// How many there are; held while one is added.
    length: Mutex<usize>,
}

type Slot<K, V> = OnceLock<Box<Node<K, V>>>;

#[derive(Debug)]
struct Node<K, V> {
    key: K,
    value: V,
    next: Slot<K, V>,
}

impl<K, V> Default for Variants<K, V> {
    fn default() -> Self {
        Self {
            first: OnceLock::new(),
            other: OnceLock::new(),
            length: Mutex::new(0),
        }
    }
}

impl<K: Copy + Eq, V: Default> Variants<K, V> {
    /// The value of a key. An absent one is added if `admit` allows, which is
    /// told how many there are; otherwise the value for all others.
    pub(super) fn value(&self, key: K, admit: impl FnOnce(usize) -> bool) -> &V {
        self.find(key).unwrap_or_else(|| self.add(key, admit))
    }

    fn find(&self, key: K) -> Option<&V> {
        self.nodes()
            .find(|node| node.key == key)
            .map(|node| &node.value)
    }

    #[cold]
    fn add(&self, key: K, admit: impl FnOnce(usize) -> bool) -> &V {
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        if let Some(value) = self.find(key) {
            return value;
        }
        if !admit(*length) {
            return self.other.get_or_init(Box::default);
        }
        *length += 1;
        let mut slot = &self.first;
        while let Some(node) = slot.get() {
            slot = &node.next;
        }
        let node = slot.get_or_init(|| {
            Box::new(Node {
                key,
                value: V::default(),
                next: OnceLock::new(),
            })
        });
        &node.value
    }

    fn nodes(&self) -> impl Iterator<Item = &Node<K, V>> {
        std::iter::successors(self.first.get(), |node| node.next.get()).map(Box::as_ref)
    }

    /// All values; without a key, the one for all others.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<K>, &V)> {
        let other = self.other.get().map(|value| (None, value.as_ref()));
        self.nodes()
            .map(|node| (Some(node.key), &node.value))
            .chain(other)
    }

    /// How many were admitted.
    pub(super) fn len(&self) -> usize {
        *self.length.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn threads_agree_on_one_value_per_key() {
        let variants = Variants::<u16, AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..4_000u16 {
                        variants.value(round % 10, |_| true).fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(variants.len(), 10);
        assert_eq!(variants.iter().count(), 10);
        assert!(
            variants
                .iter()
                .all(|(_, count)| count.load(Relaxed) == 1_600)
        );
    }

    #[test]
    fn what_is_not_admitted_is_counted_together() {
        let variants = Variants::<u16, AtomicU64>::default();
        for key in 0..5 {
            variants
                .value(key, |length| length < 2)
                .fetch_add(1, Relaxed);
        }
        let counts: Vec<_> = variants
            .iter()
            .map(|(key, count)| (key, count.load(Relaxed)))
            .collect();
        assert_eq!(counts, [(Some(0), 1), (Some(1), 1), (None, 3)]);
    }
}
