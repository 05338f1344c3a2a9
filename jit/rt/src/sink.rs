//! A buffer that dynasm's macro emits into.

use dynasmrt::DynasmApi;

/// Code under construction. It has no labels: forward jumps are patched by [`Sink::patch_i32`].
#[derive(Default)]
pub struct Sink {
    bytes: Vec<u8>,
}

impl Sink {
    /// What has been emitted.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The buffer itself, for an encoder that appends to it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Starts again.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Bytes emitted so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been emitted.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Overwrites four bytes that have been emitted.
    pub fn patch_i32(&mut self, at: usize, value: i32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Makes the 32-bit relative displacement that ends at `end` lead to the present end of the code.
    pub fn land(&mut self, end: usize) {
        let distance = self.bytes.len() as i32 - end as i32;
        self.patch_i32(end - 4, distance);
    }
}

impl Extend<u8> for Sink {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, iter: T) {
        self.bytes.extend(iter);
    }
}

impl<'a> Extend<&'a u8> for Sink {
    fn extend<T: IntoIterator<Item = &'a u8>>(&mut self, iter: T) {
        self.bytes.extend(iter);
    }
}

impl DynasmApi for Sink {
    fn offset(&self) -> dynasmrt::AssemblyOffset {
        dynasmrt::AssemblyOffset(self.bytes.len())
    }

    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn align(&mut self, alignment: usize, with: u8) {
        while !self.bytes.len().is_multiple_of(alignment) {
            self.bytes.push(with);
        }
    }
}
