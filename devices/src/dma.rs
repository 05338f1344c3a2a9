//! How a device reaches guest memory: through a handle that says who asks.
//!
//! Every access of a bus master goes through a [`Dma`] handle that carries the requester ID (PCIe 2.2.6.2), so that an
//! IOMMU has one place to stand: [`Dma::segment`].

use ringworld_core::GuestPhys;
use ringworld_mmu::GuestMemory;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who masters the bus: bus number in bits 15:8, device in 7:3, function in 2:0 (PCIe 2.2.6.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RequesterId(pub u16);

/// A bus master's access that no memory answered: PCI's master abort, PCIe's Unsupported Request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory answers a device's access at {0}")]
pub struct DmaError(
    /// The first address without memory. Bytes before it have been transferred.
    pub GuestPhys,
);

/// One bus master's way to memory. Cheap to make; valid for the call that it was made for.
#[derive(Clone, Debug)]
pub struct Dma {
    memory: Option<Arc<GuestMemory>>,
    requester: RequesterId,
}

impl Dma {
    /// A handle of `requester`; without `memory` (bus mastering is off) nothing answers.
    pub(crate) fn new(memory: Option<Arc<GuestMemory>>, requester: RequesterId) -> Self {
        Self { memory, requester }
    }

    /// Who asks.
    pub fn requester(&self) -> RequesterId {
        self.requester
    }

    /// The memory behind one access, after translation.
    fn segment(&self, addr: GuestPhys) -> Result<&GuestMemory, DmaError> {
        self.memory.as_deref().ok_or(DmaError(addr))
    }

    /// Reads `data.len()` bytes.
    ///
    /// # Errors
    /// Where there is no memory, or the device may not master the bus.
    pub fn read(&self, addr: GuestPhys, data: &mut [u8]) -> Result<(), DmaError> {
        self.segment(addr)?.read(addr, data).map_err(|error| DmaError(error.0))
    }

    /// Writes `data`.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn write(&self, addr: GuestPhys, data: &[u8]) -> Result<(), DmaError> {
        self.segment(addr)?.write(addr, data).map_err(|error| DmaError(error.0))
    }

    /// Gives the page at `addr` back to the host; it reads as zeroes from now on.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn release_page(&self, addr: GuestPhys) -> Result<(), DmaError> {
        self.segment(addr)?.release_page(addr).map_err(|error| DmaError(error.0))
    }

    /// Reads `N` bytes.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn read_array<const N: usize>(&self, addr: GuestPhys) -> Result<[u8; N], DmaError> {
        let mut data = [0; N];
        self.read(addr, &mut data)?;
        Ok(data)
    }

    /// Reads a little-endian 16-bit value.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn read_u16(&self, addr: GuestPhys) -> Result<u16, DmaError> {
        self.read_array(addr).map(u16::from_le_bytes)
    }

    /// Reads a little-endian 32-bit value.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn read_u32(&self, addr: GuestPhys) -> Result<u32, DmaError> {
        self.read_array(addr).map(u32::from_le_bytes)
    }

    /// Reads a little-endian 64-bit value.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn read_u64(&self, addr: GuestPhys) -> Result<u64, DmaError> {
        self.read_array(addr).map(u64::from_le_bytes)
    }

    /// Writes a little-endian 16-bit value.
    ///
    /// # Errors
    /// As [`Dma::read`].
    pub fn write_u16(&self, addr: GuestPhys, value: u16) -> Result<(), DmaError> {
        self.write(addr, &value.to_le_bytes())
    }
}
