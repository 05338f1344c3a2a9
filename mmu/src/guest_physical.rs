//! Guest-physical mappings that are kept (SDM 3C 29.4.1, "Information That May Be Cached"; APM 2 15.25): what the second stage
//! has said of a guest-physical page. A walk of a guest's tables asks the second stage once a level, mostly for the same pages.

/// Mappings that are kept at once; a power of two.
const ENTRIES: usize = 2048;

/// Mappings of guest-physical pages, under keys that say whose they are.
#[derive(Debug)]
pub struct GuestPhysicalCache<K, T> {
    /// Empty until something is kept.
    entries: Vec<Option<(K, u64, T)>>,
}

impl<K, T> Default for GuestPhysicalCache<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

fn slot(page: u64) -> usize {
    (page >> 12 ^ page >> 23) as usize & (ENTRIES - 1)
}

impl<K: Copy + Eq, T: Copy> GuestPhysicalCache<K, T> {
    /// The mapping of a page, if it is kept.
    pub fn get(&self, key: K, page: u64) -> Option<&T> {
        let (of, at, mapping) = self.entries.get(slot(page))?.as_ref()?;
        (*of == key && *at == page).then_some(mapping)
    }

    /// Keeps a mapping.
    pub fn insert(&mut self, key: K, page: u64, mapping: T) {
        if self.entries.is_empty() {
            self.entries.resize(ENTRIES, None);
        }
        self.entries[slot(page)] = Some((key, page, mapping));
    }

    /// Forgets a page's mapping.
    pub fn remove(&mut self, key: K, page: u64) {
        if self.get(key, page).is_some() {
            self.entries[slot(page)] = None;
        }
    }

    /// Forgets all mappings with the keys that `dead` chooses.
    pub fn forget(&mut self, dead: impl Fn(K) -> bool) {
        for entry in &mut self.entries {
            entry.take_if(|(key, ..)| dead(*key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_belong_to_keys() {
        let mut cache = GuestPhysicalCache::default();
        assert_eq!(cache.get(1, 0x1000), None);
        cache.insert(1, 0x1000, 'a');
        cache.insert(2, 0x2000, 'b');
        assert_eq!((cache.get(1, 0x1000), cache.get(2, 0x1000)), (Some(&'a'), None));
        cache.remove(2, 0x1000);
        assert_eq!(cache.get(1, 0x1000), Some(&'a'));
        cache.forget(|key| key == 1);
        assert_eq!((cache.get(1, 0x1000), cache.get(2, 0x2000)), (None, Some(&'b')));
        cache.remove(2, 0x2000);
        assert_eq!(cache.get(2, 0x2000), None);
    }
}
