//! A slab in chunks: it grows without moving or copying what it holds, and wastes at most a chunk.
//!
//! # Not here
//! Generations: whoever hands out indices guards them against reuse.

/// Entries of one chunk.
const CHUNK: usize = 512;
const END: u32 = u32::MAX;

#[derive(Debug)]
enum Entry<T> {
    Free(u32),
    Used(T),
}

/// Values by small integers, which are reused.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Vec<Entry<T>>>,
    free: u32,
    len: u32,
    len_max: u32,
}

impl<T> Slab<T> {
    /// A slab of at most `len_max` values.
    #[must_use]
    pub const fn new(len_max: u32) -> Self {
        Self { chunks: Vec::new(), free: END, len: 0, len_max }
    }

    /// How many values it holds.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn entry(&self, index: u32) -> Option<&Entry<T>> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    /// Puts `value` in; gives it back if the slab is full.
    ///
    /// # Errors
    /// `value`, if the slab holds as many as it may.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.len >= self.len_max {
            return Err(value);
        }
        self.len += 1;
        let free = self.free;
        if let Some(entry) = self.entry_mut(free) {
            let Entry::Free(next) = *entry else {
                unreachable!("the free list holds free entries")
            };
            *entry = Entry::Used(value);
            self.free = next;
            return Ok(free);
        }
        Ok(self.append(value))
    }

    #[cold]
    fn append(&mut self, value: T) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { unreachable!("one was pushed") };
        chunk.push(Entry::Used(value));
        let Ok(index) = u32::try_from(before + chunk.len() - 1) else {
            unreachable!("len_max is a u32")
        };
        index
    }

    /// The value at `index`.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.entry(index)? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    /// The value at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.entry_mut(index)? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    /// Takes the value at `index` out.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let entry = self.entry_mut(index)?;
        match std::mem::replace(entry, Entry::Free(free)) {
            Entry::Used(value) => {
                self.free = index;
                self.len -= 1;
                Some(value)
            }
            was @ Entry::Free(_) => {
                *entry = was;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_slab_holds_what_was_put_in_and_not_taken_out(ops in prop::collection::vec(0_u32..40, 0..200)) {
            let mut slab = Slab::new(30);
            let mut model = BTreeMap::new();
            for (value, op) in ops.into_iter().enumerate() {
                if op % 2 == 0 {
                    match slab.insert(value) {
                        Ok(index) => prop_assert_eq!(model.insert(index, value), None),
                        Err(_) => prop_assert_eq!(model.len(), 30),
                    }
                } else {
                    prop_assert_eq!(slab.remove(op / 2), model.remove(&(op / 2)));
                }
                prop_assert_eq!(slab.len() as usize, model.len());
                prop_assert!(model.iter().all(|(index, value)| slab.get(*index) == Some(value)));
            }
        }
    }

    #[test]
    fn growing_over_a_chunk_keeps_the_indices() {
        let mut slab = Slab::new(u32::MAX);
        for value in 0..2000_u32 {
            assert_eq!(slab.insert(value), Ok(value));
        }
        assert_eq!(slab.get(1999), Some(&1999));
    }
}
