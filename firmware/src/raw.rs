//! Plain binaries, loaded at an address and entered there.

use crate::bzimage::enter_protected;
use crate::image::Placer;
use crate::{BootRequest, Entry, LoadError, Registers};

/// Where boot sectors have their stack: below themselves.
const REAL_MODE_STACK: u64 = 0x7c00;

fn place(placer: &mut Placer, request: &BootRequest, address: u64) -> Result<(), LoadError> {
    let kernel = &request.kernel;
    if !request.modules.is_empty() || !request.command_line.is_empty() {
        let what =
            "is loaded as a plain binary, which gets no initrd and no command line: leave them out".into();
        return Err(LoadError::Unsupported { name: kernel.name.clone(), what });
    }
    placer.at(format!("binary {}", kernel.name), address, (&kernel.data).into(), 0, 0)?;
    Ok(())
}

/// Loads a binary to `segment:offset` and enters it there in real mode.
pub(crate) fn real(
    placer: &mut Placer,
    request: &BootRequest,
    segment: u16,
    offset: u16,
) -> Result<Entry, LoadError> {
    place(placer, request, (u64::from(segment) << 4) + u64::from(offset))?;
    Ok(Entry::real(segment, offset, Registers { rsp: REAL_MODE_STACK, ..Registers::default() }))
}

/// Loads a binary to `address` and enters it there in flat 32-bit protected mode.
pub(crate) fn protected(
    placer: &mut Placer,
    request: &BootRequest,
    address: u32,
) -> Result<Entry, LoadError> {
    place(placer, request, address.into())?;
    enter_protected(placer, address.into(), Registers::default())
}
