//! Writes that stay in memory, over a disk that does not change.

use super::Disk;
use crate::StateError;
use ringworld_core::StateHasher;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Bytes of a piece.
const CLUSTER: u64 = 64 << 10;

/// A disk whose writes stay in memory, and end with it.
pub(super) struct Overlay {
    base: Box<dyn Disk>,
    /// Written pieces by their number; shared with copies of the state.
    clusters: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Overlay {
    pub(super) fn new(base: Box<dyn Disk>) -> Self {
        Self { base, clusters: BTreeMap::new() }
    }

    /// Calls `each` with the pieces of a range: piece number, offset in it, place in the range, length.
    fn pieces(
        offset: u64,
        len: u64,
        mut each: impl FnMut(u64, usize, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let inside = at % CLUSTER;
            let take = (CLUSTER - inside).min(len - done);
            each(at / CLUSTER, inside as usize, done as usize, take as usize)?;
            done += take;
        }
        Ok(())
    }

    fn cluster(&mut self, number: u64) -> io::Result<&mut Vec<u8>> {
        if !self.clusters.contains_key(&number) {
            let len = CLUSTER.min(self.base.size() - number * CLUSTER);
            let mut data = vec![0; len as usize];
            self.base.read(number * CLUSTER, &mut data)?;
            self.clusters.insert(number, Arc::new(data));
        }
        self.clusters.get_mut(&number).map(Arc::make_mut).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let Self { base, clusters } = self;
        Self::pieces(offset, data.len() as u64, |number, inside, at, len| {
            let to = &mut data[at..at + len];
            match clusters.get(&number) {
                Some(cluster) => to.copy_from_slice(&cluster[inside..inside + len]),
                None => base.read(number * CLUSTER + inside as u64, to)?,
            }
            Ok(())
        })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::pieces(offset, data.len() as u64, |number, inside, at, len| {
            self.cluster(number)?[inside..inside + len].copy_from_slice(&data[at..at + len]);
            Ok(())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        Self::pieces(offset, len, |number, inside, _, len| {
            self.cluster(number)?[inside..inside + len].fill(0);
            Ok(())
        })
    }

    fn discard(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn hash_state(&self, hasher: &mut StateHasher) {
        hasher.add(&self.clusters);
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        let clusters: Vec<(u64, &[u8])> = self.clusters.iter().map(|(n, data)| (*n, &data[..])).collect();
        Ok(postcard::to_stdvec(&clusters)?)
    }

    fn restore(&mut self, image: &[u8]) -> Result<(), StateError> {
        let clusters: Vec<(u64, Vec<u8>)> = postcard::from_bytes(image)?;
        for (number, data) in &clusters {
            let start = number.checked_mul(CLUSTER).filter(|start| *start < self.base.size());
            if start.is_none_or(|start| data.len() as u64 != CLUSTER.min(self.base.size() - start)) {
                return Err(StateError::OtherBoard("a disk of another size".into()));
            }
        }
        self.clusters = clusters.into_iter().map(|(number, data)| (number, Arc::new(data))).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{DiskOptions, open_disk};

    #[test]
    fn writes_stay_in_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let contents: Vec<u8> = (0..CLUSTER * 2 + 1024).map(|i| (i / 512) as u8).collect();
        std::fs::write(file.path(), &contents).unwrap();
        let options = DiskOptions { snapshot: true, ..DiskOptions::new(file.path()) };
        let mut disk = open_disk(&options).unwrap();
        let mut expected = contents.clone();
        for (offset, len) in [(CLUSTER - 512, 1024usize), (CLUSTER * 2, 1024), (0, 512)] {
            disk.write(offset, &vec![0xee; len]).unwrap();
            expected[offset as usize..][..len].fill(0xee);
        }
        disk.write_zeroes(1024, 512).unwrap();
        expected[1024..1536].fill(0);
        let mut found = vec![0; expected.len()];
        disk.read(0, &mut found).unwrap();
        assert!(found == expected);
        let state = disk.save().unwrap();
        drop(disk);
        assert!(std::fs::read(file.path()).unwrap() == contents);
        let mut again = open_disk(&options).unwrap();
        again.restore(&state).unwrap();
        again.read(0, &mut found).unwrap();
        assert!(found == expected);
        assert!(again.restore(&state[..state.len() - 1]).is_err());
    }
}
