//! Lent registers: in a loop, host registers whose guest registers it does not use hold anchors of groups of memory accesses,
//! which spares the loads.
//!
//! The guest's values wait in the frame. Whatever leaves the loop gives the registers back first.

use crate::classify::Emit;
use crate::emit::{Emitter, Guest};
use crate::frame::{LENT, at, pinned};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::InstructionInfoOptions;

/// Number of the guest's stack pointer, which is not lent.
const RSP: usize = 4;

/// The lent registers of a loop.
#[derive(Clone, Copy, Default)]
pub struct Lent {
    /// Host registers, and the groups whose anchors they hold.
    registers: [Option<(u8, usize)>; LENT],
    /// They are lent now.
    pub now: bool,
}

impl Emitter<'_> {
    /// Lends registers that the instructions of a loop do not use, to the groups that have the most members.
    pub(crate) fn lend(&mut self, round: &[Guest]) {
        let mut groups: Vec<(u32, usize)> = self
            .groups
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| !group.window)
            .filter_map(|(n, group)| group.entry.map(|_| (group.members(), n)))
            .collect();
        if groups.is_empty() || !self.groups.easy {
            return;
        }
        let mut used = 1_u16 << RSP;
        for guest in round {
            let plain = matches!(
                guest.emit,
                Some(
                    Emit::Nothing
                        | Emit::Same
                        | Emit::Vector(_)
                        | Emit::X87(_)
                        | Emit::Divide
                        | Emit::Lea
                        | Emit::Branch
                        | Emit::Jump
                )
            );
            if !plain {
                return;
            }
            let info = self.info.info_options(&guest.decoded, InstructionInfoOptions::NO_MEMORY_USAGE);
            let operands = [guest.decoded.memory_base(), guest.decoded.memory_index()];
            let registers = info.used_registers().iter().map(|used| used.register()).chain(operands);
            for register in registers.filter(|register| register.is_gpr()) {
                used |= 1 << register.full_register().number();
            }
        }
        groups.sort_by_key(|&(members, _)| core::cmp::Reverse(members));
        let free = pinned().filter(|(guest, _)| used >> guest & 1 == 0).map(|(_, host)| host);
        for (place, (host, (_, group))) in self.lent.registers.iter_mut().zip(free.zip(groups)) {
            *place = Some((host, group));
        }
        self.store_lent();
        self.lent.now = true;
    }

    fn lent_registers(&self) -> impl Iterator<Item = (i32, u8, usize)> + use<> {
        let registers = self.lent.registers;
        registers
            .into_iter()
            .enumerate()
            .filter_map(|(n, lent)| lent.map(|(host, group)| (at::LENT + 8 * n as i32, host, group)))
    }

    /// The host register that has been lent to a group.
    pub(crate) fn lent_to(&self, group: usize) -> Option<u8> {
        let (_, host, _) = self.lent_registers().find(|&(_, _, other)| self.lent.now && other == group)?;
        Some(host)
    }

    fn store_lent(&mut self) {
        for (at, host, _) in self.lent_registers() {
            dynasm!(self.s ; .arch x64 ; mov [rsp + at], Rq(host));
        }
    }

    /// Gives the lent registers back, if there are any.
    pub(crate) fn give_back_lent(&mut self) {
        for (at, host, _) in self.lent_registers() {
            dynasm!(self.s ; .arch x64 ; mov Rq(host), [rsp + at]);
        }
    }

    /// Lends the same registers to the same groups again.
    pub(crate) fn lend_again(&mut self) {
        self.store_lent();
        for (_, host, group) in self.lent_registers() {
            self.anchor(group, host);
        }
    }
}
