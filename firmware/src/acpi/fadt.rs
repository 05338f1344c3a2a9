//! The FADT: fixed ACPI hardware (ACPI 5.2.9).

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// The system control interrupt (ISA IRQ 9).
pub(crate) const SCI: u8 = 9;
const PM1A_EVENT: u16 = 0x600;
const PM1A_CONTROL: u16 = 0x604;
const PM_TIMER: u16 = 0x608;
const GPE0: u16 = 0x620;
const PM1_EVENT_LENGTH: u8 = 4;
const PM1_CONTROL_LENGTH: u8 = 2;
const PM_TIMER_LENGTH: u8 = 4;
const GPE0_LENGTH: u8 = 8;
/// The port that switches between legacy and ACPI mode, and the values for it.
const SMI_COMMAND: u32 = 0xb2;
const ACPI_ENABLE: u8 = 0xf1;
const ACPI_DISABLE: u8 = 0xf0;
/// The reset control register, and the value for a full reset.
const RESET_PORT: u16 = 0xcf9;
const RESET_VALUE: u8 = 0x0e;
/// CMOS register of the century.
const CENTURY: u8 = 0x32;
/// No C2 and C3 states (ACPI 5.2.9: above 100 and 1000 microseconds).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// IAPC_BOOT_ARCH: legacy devices, an 8042; no VGA (ACPI table 5-10).
const BOOT_ARCHITECTURE: u16 = 0b011;
const NO_VGA: u16 = 0b100;

/// The FADT that points to the other two fixed tables.
pub(super) fn table(facs: u32, dsdt: u32, vga: bool) -> Vec<u8> {
    let io = |port: u16, bytes: u8| {
        let access = match bytes {
            2 => AccessSize::WordAccess,
            4 => AccessSize::DwordAccess,
            _ => AccessSize::ByteAccess,
        };
        GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, port.into())
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .preferred_pm_profile(PmProfile::Desktop)
        .gpe_info(GPE0.into(), 0, GPE0_LENGTH, 0, 0);
    // ACPI 6.3, which disassemblers in use know.
    fadt.fadt_minor_version = 3;
    fadt.dsdt = dsdt.into();
    fadt.x_dsdt = u64::from(dsdt).into();
    fadt.sci_int = u16::from(SCI).into();
    fadt.smi_cmd = SMI_COMMAND.into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL).into();
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm1_evt_len = PM1_EVENT_LENGTH;
    fadt.pm1_cnt_len = PM1_CONTROL_LENGTH;
    fadt.pm_tmr_len = PM_TIMER_LENGTH;
    // Read byte by byte.
    fadt.x_gpe0_blk =
        GAS::new(AddressSpace::SystemIo, GPE0_LENGTH * 8, 0, AccessSize::ByteAccess, GPE0.into());
    fadt.x_pm1a_evt_blk =
        GAS::new(AddressSpace::SystemIo, PM1_EVENT_LENGTH * 8, 0, AccessSize::WordAccess, PM1A_EVENT.into());
    fadt.x_pm1a_cnt_blk = io(PM1A_CONTROL, PM1_CONTROL_LENGTH);
    fadt.x_pm_tmr_blk = io(PM_TIMER, PM_TIMER_LENGTH);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (BOOT_ARCHITECTURE | if vga { 0 } else { NO_VGA }).into();
    fadt.reset_reg = io(RESET_PORT, 1);
    fadt.reset_value = RESET_VALUE;
    // The power button is the fixed one; there is no sleep button; the RTC wakes by fixed hardware; the PM timer has 32
    // bits.
    let flags = [Flags::Wbinvd, Flags::ProcC1, Flags::SlpButton, Flags::TmrValExt, Flags::ResetRegSup];
    bytes_of(&flags.into_iter().fold(fadt, FADTBuilder::flag).finalize())
}
