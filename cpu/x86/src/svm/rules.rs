//! The manual's rules for VMRUN (APM 2 15.5.1, and those that other sections of chapter 15 add), in its order: which checks
//! are each rule's, or why there is none.

use crate::vmx::entry_checks::rules::{Rule, Status};

macro_rules! rules {
    ($(section $section:literal: $($text:literal $kind:ident ($what:expr);)*)*) => {
        /// All rules.
        pub static RULES: &[Rule] = &[$($(Rule {
            section: $section, text: $text, status: Status::$kind($what),
        }),*),*];
    };
}

const SHADOW_STACKS: &str = "shadow stacks";

rules! {
section "15.5.1":
    "EFER.SVME is zero" Checks(&["efer-svme"]);
    "CR0.CD is zero and CR0.NW is set" Checks(&["cr0-nw"]);
    "CR0[63:32] are not zero" Checks(&["cr0-high"]);
    "any MBZ bit of CR3 is set" Checks(&["cr3-mbz"]);
    "any MBZ bit of CR4 is set" Checks(&["cr4-mbz"]);
    "DR6[63:32] are not zero" Checks(&["dr6-high"]);
    "DR7[63:32] are not zero" Checks(&["dr7-high"]);
    "any MBZ bit of EFER is set" Checks(&["efer-mbz"]);
    "EFER.LMA or EFER.LME is set, and the processor has no long mode" NotShown("a processor without long mode");
    "EFER.LME and CR0.PG are set, and CR4.PAE is zero" Checks(&["long-mode-pae"]);
    "EFER.LME and CR0.PG are set, and CR0.PE is zero" Checks(&["long-mode-pe"]);
    "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are set" Checks(&["long-mode-cs"]);
    "the intercept of VMRUN is clear" Checks(&["vmrun-intercept"]);
    "the permission maps extend to the physical address limit" Checks(&["permission-maps"]);
    "illegal event injection (15.20)" Checks(&["event-injection"]);
    "the ASID is zero" Checks(&["asid"]);
    "any reserved bit of S_CET is set" NotShown(SHADOW_STACKS);
    "CR4.CET is set, and CR0.WP is zero" NotShown(SHADOW_STACKS);
    "CR4.CET and U_CET.SS are set, and EFLAGS.VM is set" NotShown(SHADOW_STACKS);
    "any reserved bit of U_CET is set (SEV-ES)" NotShown("SEV-ES");
section "15.16.2":
    "reserved encodings of TLB_CONTROL" Checks(&["tlb-control"]);
section "15.21.10":
    "virtual NMIs without the intercept of NMIs" Checks(&["vnmi-intercept"]);
section "15.25.3":
    "nested paging while the host does not page" Checks(&["nested-host-paging"]);
section "15.25.4":
    "any MBZ bit of nCR3 is set" Checks(&["nested-cr3"]);
    "an undefined memory type in G_PAT" Checks(&["nested-pat"]);
section "15.29.2":
    "AVIC's backing page beyond the physical address limit" Checks(&["avic-backing-page"]);
    "AVIC's ID tables beyond the physical address limit" Checks(&["avic-tables"]);
    "AVIC without nested paging" Checks(&["avic-nested"]);
section "15.29.10":
    "x2AVIC where there is none" Checks(&["x2avic"]);
section "15.34":
    "SEV and SEV-ES where there is none" Checks(&["nested-modes"]);
    "the checks of SEV, SEV-ES and SEV-SNP guests" NotShown("SEV");
section "15.38":
    "virtual IBS with reserved settings" NotShown("IBS");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm::checks::CHECKS;

    #[test]
    fn rules_and_checks_belong_together() {
        let named = |rule: &Rule| match rule.status {
            Status::Checks(names) => names,
            _ => &[],
        };
        for check in CHECKS {
            let count = RULES.iter().filter(|rule| named(rule).contains(&check.name)).count();
            assert_eq!(count, 1, "{}", check.name);
        }
        for name in RULES.iter().flat_map(named) {
            assert!(CHECKS.iter().any(|check| check.name == *name), "{name}");
        }
    }
}
