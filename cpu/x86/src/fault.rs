//! Exceptions: how an instruction reports one.

use crate::Cpu;
use serde::{Deserialize, Serialize};

/// Why an instruction did not complete. Register-sized; the details are in [`Cpu::pending`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stop {
    /// An exception, to be delivered.
    Exception = 1,
    /// The processor is no longer active and waits before the instruction, which runs when it is active again.
    Wait = 2,
    /// The guest is left: an intercepted instruction or event, see [`crate::virt`].
    Exit = 3,
}

/// Exception vectors (SDM 3A 6.15).
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    /// AMD: security exception.
    pub const SX: u8 = 30;
}

/// A detected exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u32>,
    /// #PF: the linear address for CR2. #DB: the bits to set in DR6.
    pub payload: u64,
}

impl Cpu {
    /// Notes an exception; the instruction returns the result as its error.
    #[cold]
    pub fn raise(&mut self, vector: u8, error: Option<u32>) -> Stop {
        self.pending = Exception { vector, error, payload: 0 };
        Stop::Exception
    }

    /// #DE.
    #[cold]
    pub fn de(&mut self) -> Stop {
        self.raise(vector::DE, None)
    }

    /// #UD.
    #[cold]
    pub fn ud(&mut self) -> Stop {
        self.raise(vector::UD, None)
    }

    /// #NM.
    #[cold]
    pub fn nm(&mut self) -> Stop {
        self.raise(vector::NM, None)
    }

    /// #BR.
    #[cold]
    pub fn br(&mut self) -> Stop {
        self.raise(vector::BR, None)
    }

    /// #TS(selector error code).
    #[cold]
    pub fn ts(&mut self, error: u16) -> Stop {
        self.raise(vector::TS, Some(error.into()))
    }

    /// #NP(selector error code).
    #[cold]
    pub fn np(&mut self, error: u16) -> Stop {
        self.raise(vector::NP, Some(error.into()))
    }

    /// #SS(selector error code).
    #[cold]
    pub fn ss(&mut self, error: u16) -> Stop {
        self.raise(vector::SS, Some(error.into()))
    }

    /// #GP(selector error code).
    #[cold]
    pub fn gp(&mut self, error: u16) -> Stop {
        self.raise(vector::GP, Some(error.into()))
    }

    /// #GP(0).
    #[cold]
    pub fn gp0(&mut self) -> Stop {
        self.gp(0)
    }

    /// #PF with its error code; `linear` goes to CR2 at delivery.
    #[cold]
    pub fn page_fault(&mut self, linear: u64, error: u32) -> Stop {
        self.pending = Exception { vector: vector::PF, error: Some(error), payload: linear };
        Stop::Exception
    }

    /// #MF.
    #[cold]
    pub fn mf(&mut self) -> Stop {
        self.raise(vector::MF, None)
    }

    /// #AC(0).
    #[cold]
    pub fn ac(&mut self) -> Stop {
        self.raise(vector::AC, Some(0))
    }

    /// #XM, or #UD if CR4.OSXMMEXCPT is clear (SDM 3A 2.5).
    #[cold]
    pub fn xm(&mut self) -> Stop {
        if self.cr4 & crate::control::cr4::OSXMMEXCPT != 0 { self.raise(vector::XM, None) } else { self.ud() }
    }

    /// #DB as a fault or trap; `dr6` holds the bits to set in DR6.
    #[cold]
    pub fn db(&mut self, dr6: u64) -> Stop {
        self.pending = Exception { vector: vector::DB, error: None, payload: dr6 };
        Stop::Exception
    }
}
