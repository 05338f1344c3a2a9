//! Translation in a guest: through the second stage's tables, and under the guest's own tag.

use crate::mem::{Kind, Privilege};
use crate::virt::Level;
use crate::{Cpu, Stop};
use ringworld_mmu::x86::ept::Ept;
use ringworld_mmu::x86::paging::{Paging, Translation};

/// A guest's second stage of translation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SecondStage {
    /// Extended page tables.
    Ept(Ept),
    /// AMD's nested page tables.
    Npt(Paging),
}

/// What tags a guest's translations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct GuestTag {
    /// VPID or ASID.
    pub id: u16,
    /// EPT pointer or nCR3; 0 without a second stage.
    pub root: u64,
}

/// What the second stage allows besides the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
}

impl Rights {
    pub(crate) const ALL: Self = Self { read: true, write: true };
}

impl Cpu {
    /// Selects the tag and second stage of a guest; `None` is the host.
    pub(crate) fn set_guest_space(&mut self, guest: Option<(GuestTag, Option<SecondStage>)>) {
        self.spaces.guest = guest.map(|(tag, _)| tag);
        self.spaces.note_root();
        self.spaces.second_stage = guest.and_then(|(_, second)| second);
    }

    /// Forgets the translations of the guests that `which` chooses (INVEPT, INVVPID, TLB_CONTROL).
    pub(crate) fn flush_guests(&mut self, which: impl Fn(GuestTag) -> bool) {
        self.forget_spaces(|(tag, _)| tag.is_some_and(&which));
        self.update_context();
        self.end_block();
    }

    /// Forgets the host's translations (TLB_CONTROL, INVLPGA).
    pub(crate) fn flush_host(&mut self) {
        self.forget_spaces(|(tag, _)| tag.is_none());
        self.update_context();
    }

    /// VM entries and exits without VPIDs forget what belongs to VPID 0, the host's (SDM 3C 30.4.3.1).
    /// [`Self::update_context`] has to follow.
    pub(crate) fn forget_vpid_0(&mut self) {
        self.forget_spaces(|(tag, _)| tag.is_none_or(|tag| tag.id == 0));
    }

    /// Walks a guest's tables through the second stage.
    pub(crate) fn walk_nested(
        &mut self,
        linear: u64,
        kind: Kind,
        who: Privilege,
    ) -> Result<(Translation, Rights), Stop> {
        match self.virt.level {
            Level::Svm => self.svm_walk(linear, kind, who),
            Level::Vmx | Level::Host => self.vmx_walk(linear, kind, who),
        }
    }

    /// Loads the PDPTEs of PAE paging through the second stage.
    pub(crate) fn load_pdptes_nested(&mut self, cr3: u64) -> Result<(), Stop> {
        match self.virt.level {
            Level::Svm => self.svm_load_pdptes(cr3),
            Level::Vmx | Level::Host => self.vmx_load_pdptes(cr3),
        }
    }
}
