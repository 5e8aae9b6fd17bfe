//! Deadlines of many holders, the earliest first.
//!
//! A holder is known by a small integer key (a slab index) and has at most one deadline: setting
//! it again moves it. The queue is a 4-ary heap with a table of positions beside it:
//!
//! ```text
//!  entries    [ (at, key) | (at, key) ... ]    heap order: a parent is never later than a child
//!                    ^
//!  positions  [ .. key -> index into entries, or ABSENT .. ]
//! ```
//!
//! [`Deadlines::next`] looks at the root; [`Deadlines::set`], [`Deadlines::clear`] and
//! [`Deadlines::pop_due`] sift along one path, O(log n). Four children a node halve the depth of a
//! binary heap, and they lie next to each other in memory. Neither vector shrinks, so a queue that
//! has seen its largest key and its largest count never allocates again.
#![forbid(unsafe_code)]

use std::time::Instant;

/// Children of one heap node.
const ARITY: usize = 4;

/// Position of a key that has no deadline.
const ABSENT: u32 = u32::MAX;

/// At most one deadline for each key, the earliest first.
#[derive(Debug, Default)]
pub struct Deadlines {
    entries: Vec<Entry>,
    positions: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Instant,
    key: u32,
}

impl Deadlines {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty queue that will not allocate for keys below `key_count`.
    pub fn with_capacity(key_count: usize) -> Self {
        Self { entries: Vec::with_capacity(key_count), positions: Vec::with_capacity(key_count) }
    }

    /// Count of keys that have a deadline.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has a deadline.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The deadline of `key`.
    pub fn deadline(&self, key: usize) -> Option<Instant> {
        self.position(key).map(|index| self.entries[index].at)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.entries.first().map(|entry| entry.at)
    }

    /// Gives `key` the deadline `at`, in place of the one it had.
    ///
    /// # Panics
    ///
    /// When `key` does not fit 32 bits: keys are indexes of slabs, not arbitrary numbers.
    pub fn set(&mut self, key: usize, at: Instant) {
        assert!(key < ABSENT as usize, "a deadline's key is a slab index, {key} is none");
        if let Some(index) = self.position(key) {
            let before = std::mem::replace(&mut self.entries[index].at, at);
            if at < before {
                self.sift_up(index);
            } else {
                self.sift_down(index);
            }
            return;
        }
        if key >= self.positions.len() {
            self.positions.resize(key + 1, ABSENT);
        }
        let index = self.entries.len();
        self.entries.push(Entry { at, key: key as u32 });
        self.positions[key] = index as u32;
        self.sift_up(index);
    }

    /// Takes the deadline of `key` away; tells whether it had one.
    pub fn clear(&mut self, key: usize) -> bool {
        let Some(index) = self.position(key) else { return false };
        self.remove(index);
        true
    }

    /// Takes out one key whose deadline is `now` or earlier, the earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let first = *self.entries.first()?;
        if first.at > now {
            return None;
        }
        self.remove(0);
        Some(first.key as usize)
    }

    fn position(&self, key: usize) -> Option<usize> {
        match self.positions.get(key) {
            Some(&position) if position != ABSENT => Some(position as usize),
            _ => None,
        }
    }

    fn remove(&mut self, index: usize) {
        let removed = self.entries.swap_remove(index);
        self.positions[removed.key as usize] = ABSENT;
        let Some(moved) = self.entries.get(index) else { return };
        self.positions[moved.key as usize] = index as u32;
        if moved.at < removed.at {
            self.sift_up(index);
        } else {
            self.sift_down(index);
        }
    }

    fn sift_up(&mut self, mut index: usize) {
        while index > 0 {
            let parent = (index - 1) / ARITY;
            if self.entries[parent].at <= self.entries[index].at {
                break;
            }
            self.swap(parent, index);
            index = parent;
        }
    }

    fn sift_down(&mut self, mut index: usize) {
        loop {
            let first = index * ARITY + 1;
            let children = first..(first + ARITY).min(self.entries.len());
            let Some(earliest) = children.min_by_key(|&child| self.entries[child].at) else {
                break;
            };
            if self.entries[index].at <= self.entries[earliest].at {
                break;
            }
            self.swap(index, earliest);
            index = earliest;
        }
    }

    fn swap(&mut self, left: usize, right: usize) {
        self.entries.swap(left, right);
        self.positions[self.entries[left].key as usize] = left as u32;
        self.positions[self.entries[right].key as usize] = right as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::testing::epoch;

    #[test]
    fn earliest_comes_first_and_only_when_due() {
        let base = epoch();
        let mut deadlines = Deadlines::new();
        deadlines.set(7, base + Duration::from_secs(3));
        deadlines.set(2, base + Duration::from_secs(1));
        deadlines.set(9, base + Duration::from_secs(2));
        assert_eq!(deadlines.next(), Some(base + Duration::from_secs(1)));
        assert_eq!(deadlines.pop_due(base), None);
        assert_eq!(deadlines.pop_due(base + Duration::from_secs(2)), Some(2));
        assert_eq!(deadlines.pop_due(base + Duration::from_secs(2)), Some(9));
        assert_eq!(deadlines.pop_due(base + Duration::from_secs(2)), None);
        assert!(deadlines.clear(7));
        assert!(!deadlines.clear(7));
        assert!(deadlines.is_empty());
        assert_eq!(deadlines.next(), None);
    }

    /// Oracle: a sorted map that is searched in full.
    #[test]
    fn behaves_like_a_sorted_map() {
        let base = epoch();
        for seed in 0..16 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut deadlines = Deadlines::new();
            let mut model: BTreeMap<usize, Instant> = BTreeMap::new();
            for _ in 0..2_000 {
                let key = random.random_range(0..200usize);
                let at = base + Duration::from_millis(random.random_range(0..300));
                match random.random_range(0..10) {
                    0..6 => {
                        deadlines.set(key, at);
                        model.insert(key, at);
                    }
                    6..8 => assert_eq!(deadlines.clear(key), model.remove(&key).is_some()),
                    _ => pop_from_both(&mut deadlines, &mut model, at),
                }
                assert_eq!(deadlines.next(), model.values().min().copied());
                assert_eq!(deadlines.len(), model.len());
                assert_eq!(deadlines.deadline(key), model.get(&key).copied());
            }
            let end = base + Duration::from_secs(1);
            while !model.is_empty() {
                pop_from_both(&mut deadlines, &mut model, end);
            }
            assert_eq!(deadlines.pop_due(end), None);
        }
    }

    /// Keys with the same deadline may come in any order: the key must be one of the earliest.
    fn pop_from_both(
        deadlines: &mut Deadlines,
        model: &mut BTreeMap<usize, Instant>,
        now: Instant,
    ) {
        let earliest = model.values().min().copied().filter(|&at| at <= now);
        match (deadlines.pop_due(now), earliest) {
            (None, None) => {}
            (Some(key), Some(at)) => assert_eq!(model.remove(&key), Some(at)),
            (popped, expected) => panic!("popped {popped:?}, the earliest due is {expected:?}"),
        }
    }

    #[test]
    fn steady_state_keeps_its_memory() {
        let base = epoch();
        let mut deadlines = Deadlines::with_capacity(64);
        let before = (deadlines.entries.capacity(), deadlines.positions.capacity());
        for round in 0..1_000u64 {
            for key in 0..64 {
                deadlines.set(key, base + Duration::from_millis(round * 7 % 50));
            }
            while deadlines.pop_due(base + Duration::from_millis(50)).is_some() {}
        }
        assert_eq!(before, (deadlines.entries.capacity(), deadlines.positions.capacity()));
    }
}
