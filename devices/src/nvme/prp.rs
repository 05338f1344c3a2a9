//! Physical region pages: where a command's data is (NVMe 1.4, 4.3).

use super::{PAGE, status};
use crate::dma::Dma;
use crate::virtio::Segment;
use ringworld_core::GuestPhys;

/// The pieces of memory of `len` bytes, which the caller has bounded.
pub(super) fn segments(dma: &Dma, prp: (u64, u64), len: u64) -> Result<Vec<Segment>, u16> {
    let mut parts = Vec::new();
    let mut left = len;
    let mut add = |address: u64, left: &mut u64| {
        let take = (PAGE - address % PAGE).min(*left);
        parts.push(Segment { addr: GuestPhys(address), len: take as u32 });
        *left -= take;
    };
    if prp.0 & 3 != 0 {
        return Err(status::INVALID_PRP);
    }
    add(prp.0, &mut left);
    if left == 0 {
        return Ok(parts);
    }
    if left <= PAGE {
        if !prp.1.is_multiple_of(PAGE) {
            return Err(status::INVALID_PRP);
        }
        add(prp.1, &mut left);
        return Ok(parts);
    }
    // A list; its last entry in a page leads to the next list, if more than one page is left.
    if prp.1 & 7 != 0 {
        return Err(status::INVALID_PRP);
    }
    let mut at = prp.1;
    while left > 0 {
        let entry = dma.read_u64(GuestPhys(at)).map_err(|_| status::DATA_TRANSFER)?;
        if !entry.is_multiple_of(PAGE) {
            return Err(status::INVALID_PRP);
        }
        if at % PAGE == PAGE - 8 && left > PAGE {
            at = entry;
            // A list of lists only would go on for ever: each list has to bring at least one page.
            let first = dma.read_u64(GuestPhys(at)).map_err(|_| status::DATA_TRANSFER)?;
            if !first.is_multiple_of(PAGE) {
                return Err(status::INVALID_PRP);
            }
            add(first, &mut left);
        } else {
            add(entry, &mut left);
        }
        at = at.wrapping_add(8);
    }
    Ok(parts)
}
