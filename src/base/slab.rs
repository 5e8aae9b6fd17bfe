//! Slab with generations: a key that outlives its value finds nothing, never a stranger's value.

/// A key of [`Slab`].
pub(crate) trait SlabKey: Copy {
    /// The key of slot `index` in its `generation`.
    fn from_parts(index: u32, generation: u32) -> Self;
    /// Index and generation.
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
    };
}
pub(crate) use slab_key;

use crate::planted::{Bug, is_planted};

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in reused slots. A slot's generation grows with every removal.
pub(crate) struct Slab<K, T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    key: std::marker::PhantomData<K>,
}

impl<K: SlabKey, T> Slab<K, T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), key: std::marker::PhantomData }
    }

    pub(crate) fn insert(&mut self, value: T) -> K {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            assert!(slot.value.is_none(), "a slot on the free list holds a value");
            slot.value = Some(value);
            return K::from_parts(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 slots");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        K::from_parts(index, 0)
    }

    pub(crate) fn get(&self, key: K) -> Option<&T> {
        let (index, generation) = key.parts();
        let slot = self.slots.get(index as usize)?;
        if slot.generation == generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let (index, generation) = key.parts();
        let slot = self.slots.get_mut(index as usize)?;
        let is_current = slot.generation == generation || is_planted(Bug::StaleKey);
        if is_current { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        let (index, generation) = key.parts();
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keys in use, by index. Walks all slots: for reload, shutdown and tests only.
    pub(crate) fn keys(&self) -> Vec<K> {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        live.map(|(index, slot)| K::from_parts(index as u32, slot.generation)).collect()
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
        assert_eq!(first.parts().0, second.parts().0, "the slot is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys(), [second]);
    }
}
