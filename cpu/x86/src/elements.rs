//! Elements of strings, many at a time.

use crate::Cpu;
use crate::mem::{Kind, MemValue};
use ringworld_core::PAGE_MASK;

impl Cpu {
    /// `n` elements (at least 1) from `offset` on, if they lie in one page that the fast path may access.
    #[inline(always)]
    pub(crate) fn elements<T: MemValue>(
        &self,
        segment: u8,
        offset: u64,
        n: u64,
        kind: Kind,
    ) -> Option<Elements<T>> {
        let pointer = self.fast_range(segment, offset, T::SIZE * n, kind)?;
        Some(Elements { pointer: pointer.cast(), n: n as usize })
    }

    /// How many elements from `offset` on, going up or down, are in its page, and this side of where offsets of any size wrap.
    #[inline(always)]
    pub(crate) fn elements_in_page<T: MemValue>(&self, segment: u8, offset: u64, down: bool) -> u64 {
        let base = self.fast[(segment & 7) as usize].base;
        let (at, linear) = (offset & PAGE_MASK, offset.wrapping_add(base) & PAGE_MASK);
        if down { at.min(linear) / T::SIZE + 1 } else { (PAGE_MASK + 1 - at.max(linear)) / T::SIZE }
    }
}

/// Elements side by side in a page that the TLB has allowed to access so. That holds until the instruction ends, whatever the
/// TLB comes to hold: two pages of one slot can only be found one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Elements<T> {
    pointer: *mut T,
    n: usize,
}

/// Elements that are compared at a time.
const AT_ONCE: usize = 32;

impl<T: MemValue + PartialEq> Elements<T> {
    /// Without the one that is handled first, going up or down.
    pub fn rest(self, down: bool) -> Self {
        let pointer = if down { self.pointer } else { self.pointer.wrapping_add(1) };
        Self { pointer, n: self.n.saturating_sub(1) }
    }

    /// One of them.
    pub fn get(self, n: usize) -> T {
        assert!(n < self.n);
        // SAFETY: `Cpu::elements` has found a tag for all of them: their page is mapped guest RAM. Guest memory is only ever
        // accessed through raw pointers, and T is valid for any bytes.
        unsafe { self.pointer.add(n).read_unaligned() }
    }

    fn some(self, n: usize) -> [T; AT_ONCE] {
        assert!(n + AT_ONCE <= self.n);
        // SAFETY: as in `get`.
        unsafe { self.pointer.add(n).cast::<[T; AT_ONCE]>().read_unaligned() }
    }

    /// The first that is, or is not, `value`.
    pub fn position(self, value: T, equal: bool) -> Option<usize> {
        let is = |one: T| (one == value) == equal;
        position(
            self.n,
            |n| self.some(n).into_iter().fold(false, |any, one| any | is(one)),
            |n| is(self.get(n)),
        )
    }

    /// The first that is, or is not, that of the same number among `others`, which are as many.
    pub fn position_beside(self, others: Self, equal: bool) -> Option<usize> {
        let is = |(one, other): (T, T)| (one == other) == equal;
        let any = |n| self.some(n).into_iter().zip(others.some(n)).fold(false, |any, pair| any | is(pair));
        position(self.n.min(others.n), any, |n| is((self.get(n), others.get(n))))
    }

    /// Stores `value` to all, which must have been allowed to write.
    pub fn fill(self, value: T) {
        for n in 0..self.n {
            // SAFETY: as in `get`, with a write tag: the page is RAM, dirty already, and holds no decoded code.
            unsafe { self.pointer.add(n).write_unaligned(value) };
        }
    }

    /// Copies as a string move does, upwards or downwards, to as many elements, which must have been allowed to write; says if it
    /// did: not if single elements reach into each other.
    pub fn copy_to(self, target: Self, down: bool) -> bool {
        assert!(self.n <= target.n);
        let (from, to) = (self.pointer.cast::<u8>(), target.pointer.cast::<u8>());
        let len = self.n * size_of::<T>();
        let gap =
            if down { from.addr().wrapping_sub(to.addr()) } else { to.addr().wrapping_sub(from.addr()) };
        if gap == 0 || gap < len && !gap.is_multiple_of(size_of::<T>()) {
            return false;
        }
        // In pieces, as what is copied may be copied again.
        let mut done = 0;
        while done < len {
            let piece = gap.min(len - done);
            let at = if down { len - done - piece } else { done };
            // SAFETY: as in `get` and `fill`; this piece is in both.
            unsafe { core::ptr::copy(from.add(at), to.add(at), piece) };
            done += piece;
        }
        true
    }
}

/// The first of `n` that `one` is true of; `any` says whether there is one among [`AT_ONCE`].
fn position(n: usize, any: impl Fn(usize) -> bool, one: impl Fn(usize) -> bool) -> Option<usize> {
    let mut at = 0;
    while n - at >= AT_ONCE && !any(at) {
        at += AT_ONCE;
    }
    (at..n).find(|&n| one(n))
}
