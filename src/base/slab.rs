//! Slabs with generations: a key that outlives its value finds nothing, never a later value.
//!
//! A value's key may be chosen in three ways:
//!
//! ```text
//!                       index            generation
//!  Slab::insert         the slab         the slab
//!  KeyMap::insert_at    the caller       the map
//!  KeyMap::insert       the caller       the caller: a key of another slab
//! ```

use std::marker::PhantomData;

use crate::planted::{Bug, is_planted};

/// A key that consists of an index and a generation.
pub(crate) trait SlabKey: Copy {
    /// Returns the key of entry `index` in its `generation`.
    fn from_parts(index: u32, generation: u32) -> Self;

    fn parts(self) -> (u32, u32);
}

/// Defines a key type over index and generation.
macro_rules! slab_key {
    ($(#[$meta:meta])* $visibility:vis $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $visibility struct $name {
            index: u32,
            generation: u32,
        }

        impl $crate::base::slab::SlabKey for $name {
            fn from_parts(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }

            fn parts(self) -> (u32, u32) {
                (self.index, self.generation)
            }
        }

        #[allow(
            dead_code,
            unreachable_pub,
            reason = "not every key is used as a number, or outside"
        )]
        impl $name {
            /// Returns the index: small, and reused once the value is gone.
            pub fn index(self) -> usize {
                self.index as usize
            }

            /// Returns the key as one number, for code to which it is opaque.
            pub fn to_bits(self) -> u64 {
                u64::from(self.generation) << 32 | u64::from(self.index)
            }

            /// Returns the key whose [`Self::to_bits`] is `bits`.
            pub fn from_bits(bits: u64) -> Self {
                Self { index: bits as u32, generation: (bits >> 32) as u32 }
            }
        }
    };
}
pub(crate) use slab_key;

#[derive(Debug)]
struct Entry<V> {
    /// Of the value, or of the last one.
    generation: u32,
    value: Option<V>,
}

/// Values at indexes that the caller chooses, at most one for each. All of a map are inserted in
/// the same way: under keys of another slab, or under new keys.
#[derive(Debug)]
pub(crate) struct KeyMap<K, V> {
    entries: Vec<Entry<V>>,
    len: usize,
    key: PhantomData<K>,
}

impl<K, V> Default for KeyMap<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), len: 0, key: PhantomData }
    }
}

impl<K: SlabKey, V> KeyMap<K, V> {
    /// Inserts `value` under `key`.
    ///
    /// # Panics
    ///
    /// If the index has a value: a slab reuses an index only after its value is gone, and by then
    /// it must be gone from here too.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let (index, generation) = key.parts();
        let index = index as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || Entry { generation: 0, value: None });
        }
        let entry = &mut self.entries[index];
        assert!(entry.value.is_none(), "index {index} is in use");
        *entry = Entry { generation, value: Some(value) };
        self.len += 1;
    }

    /// Inserts `value` at `index`, in a new generation.
    ///
    /// # Panics
    ///
    /// If the index is in use.
    pub(crate) fn insert_at(&mut self, index: usize, value: V) -> K {
        self.insert_at_with(index, |_| value)
    }

    /// Inserts the value that `make` makes for its key at `index`, in a new generation.
    ///
    /// # Panics
    ///
    /// If the index is in use.
    fn insert_at_with(&mut self, index: usize, make: impl FnOnce(K) -> V) -> K {
        let before = self.entries.get(index);
        let generation = before.map_or(0, |entry| entry.generation.wrapping_add(1));
        let index = u32::try_from(index).expect("fewer than 2^32 entries");
        let key = K::from_parts(index, generation);
        self.insert(key, make(key));
        key
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        let (index, generation) = key.parts();
        let entry = self.entries.get(index as usize)?;
        if entry.generation == generation { entry.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (index, generation) = key.parts();
        let entry = self.entries.get_mut(index as usize)?;
        let is_current = entry.generation == generation || is_planted(Bug::StaleKey);
        if is_current { entry.value.as_mut() } else { None }
    }

    pub(crate) fn at(&mut self, index: usize) -> Option<(K, &mut V)> {
        let entry = self.entries.get_mut(index)?;
        let value = entry.value.as_mut()?;
        Some((K::from_parts(index as u32, entry.generation), value))
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let (index, generation) = key.parts();
        let entry = self.entries.get_mut(index as usize)?;
        if entry.generation != generation {
            return None;
        }
        let value = entry.value.take()?;
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Iterates over all values by index, to change them. Walks unused entries too.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    /// Iterates over all values by index. Walks unused entries too: not for the data path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let value = entry.value.as_ref()?;
            Some((K::from_parts(index, entry.generation), value))
        })
    }

    /// Returns the keys in use by index. Walks unused entries too: not for the data path.
    pub(crate) fn keys(&self) -> Vec<K> {
        self.iter().map(|(key, _)| key).collect()
    }
}

/// Values at indexes that the slab chooses: the one freed last, or a new one.
#[derive(Debug)]
pub(crate) struct Slab<K, V> {
    values: KeyMap<K, V>,
    free: Vec<u32>,
}

impl<K: SlabKey, V> Slab<K, V> {
    pub(crate) fn new() -> Self {
        Self { values: KeyMap::default(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: V) -> K {
        let index = self.free.pop().map_or(self.values.len(), |index| index as usize);
        self.values.insert_at(index, value)
    }

    /// Inserts the value that `make` makes for its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(K) -> V) -> K {
        let index = self.free.pop().map_or(self.values.len(), |index| index as usize);
        self.values.insert_at_with(index, make)
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.values.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.values.get_mut(key)
    }

    pub(crate) fn at(&mut self, index: usize) -> Option<(K, &mut V)> {
        self.values.at(index)
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let value = self.values.remove(key)?;
        self.free.push(key.parts().0);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns the values with their keys. Walks unused entries too: not for the data path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.values.iter()
    }

    /// Returns the keys in use by index. Walks unused entries too: not for the data path.
    pub(crate) fn keys(&self) -> Vec<K> {
        self.values.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    slab_key!(TestKey);

    #[test]
    fn a_key_does_not_outlive_its_value() {
        let mut slab: Slab<TestKey, &str> = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index(), second.index(), "the entry is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys(), [second]);
    }

    #[test]
    fn the_caller_may_choose_the_index() {
        let mut slab: KeyMap<TestKey, &str> = KeyMap::default();
        let first = slab.insert_at(5, "first");
        assert_eq!(first.index(), 5);
        assert_eq!(slab.at(5), Some((first, &mut "first")));
        assert_eq!(slab.at(4), None);
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.at(5), None);
        let second = slab.insert_at(5, "second");
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
        assert_eq!((slab.len(), slab.keys()), (1, vec![second]));
    }

    #[test]
    #[should_panic(expected = "index 5 is in use")]
    fn an_index_has_one_value() {
        let mut slab: KeyMap<TestKey, ()> = KeyMap::default();
        slab.insert_at(5, ());
        slab.insert_at(5, ());
    }

    #[test]
    fn a_key_travels_as_a_number() {
        let key = TestKey::from_parts(7, 9);
        assert_eq!(TestKey::from_bits(key.to_bits()), key);
        assert_eq!(key.to_bits(), 9 << 32 | 7);
    }

    /// Oracle: a sorted map, and for each index the one key that is in use.
    #[test]
    fn agrees_with_a_sorted_map() {
        use rand::{Rng as _, SeedableRng as _};
        use std::collections::BTreeMap;
        let mut dice = rand::rngs::SmallRng::seed_from_u64(3);
        let mut slab: Slab<TestKey, u32> = Slab::new();
        let mut map: KeyMap<TestKey, u32> = KeyMap::default();
        let mut model: BTreeMap<TestKey, u32> = BTreeMap::new();
        let mut keys = Vec::new();
        for value in 0..5_000 {
            if dice.random_range(0..2) == 0 {
                let key = slab.insert(value);
                map.insert(key, value);
                assert_eq!(model.insert(key, value), None, "no key is given out twice");
                keys.push(key);
            } else if !keys.is_empty() {
                let key = keys[dice.random_range(0..keys.len())];
                let expected = model.remove(&key);
                assert_eq!(slab.remove(key), expected);
                assert_eq!(map.remove(key), expected);
            }
            if let Some(&key) = keys.last() {
                assert_eq!((slab.get(key), map.get(key)), (model.get(&key), model.get(&key)));
                assert_eq!(map.get_mut(key).copied(), model.get(&key).copied());
            }
            assert_eq!((slab.len(), map.len()), (model.len(), model.len()));
        }
        assert_eq!(slab.keys(), model.keys().copied().collect::<Vec<_>>());
        let walked: Vec<(TestKey, u32)> = map.iter().map(|(key, value)| (key, *value)).collect();
        assert_eq!(walked, model.into_iter().collect::<Vec<_>>());
    }
}
