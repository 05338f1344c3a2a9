//! What this processor implements: computed from the table of rows, so that CPUID cannot promise what does not run.

use super::Vendor;
use super::features::{Feature, Features, TABLE};
use crate::row::row;
use iced_x86::{Code, CpuidFeature};
use std::sync::LazyLock;

/// What is there without a CPUID bit (or with one that every model has): the instructions of the processors up to the P6
/// generation, and the hints that run as NOPs where their feature is not shown (SDM 2B NOP, "reserved" hints 0F 18–1F).
const BASE: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CPUID,
    CpuidFeature::SMM,
    CpuidFeature::PAUSE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::RDPMC,
];

/// Forms that the decoder never yields, or that no processor with the feature has to have.
fn is_exception(code: Code) -> bool {
    // FSAVE, FSTCW, FSTSW... with their 9B prefix: decoded as WAIT and the form without it.
    code.op_code().fwait()
        // 286 protected-mode switch of the FPU: iced's FSETPM; FNSETPM is a NOP since the 387.
        || code == Code::Fsetpm
        // SKINIT has a feature of its own (APM 3 appendix E.4), which iced does not tell from SVM.
        || code == Code::Skinit
        // RDSSP, ENDBR: NOPs without CET.
        || is_hint(code)
}

/// Forms in the NOP space, which run on every model.
fn is_hint(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Endbr32
            | Endbr64
            | Rdsspd_r32
            | Rdsspq_r64
            | Cldemote_m8
            | Prefetchit0_m8
            | Prefetchit1_m8
            | Prefetchwt1_m8
            | Prefetch_m8
            | Prefetchw_m8
            | Prefetchreserved3_m8
            | Prefetchreserved4_m8
            | Prefetchreserved5_m8
            | Prefetchreserved6_m8
            | Prefetchreserved7_m8
    )
}

/// The feature behind one of iced's; `None` if there is none.
fn feature_of(feature: CpuidFeature) -> Option<Feature> {
    TABLE.iter().find(|info| info.forms.contains(&feature)).map(|info| info.feature)
}

/// What a form needs: its features in the table's order. `None` if it is of a feature that the table does not have.
fn needs(code: Code) -> Option<Vec<Feature>> {
    let mut features = Vec::new();
    for feature in code.cpuid_features().iter().filter(|feature| !BASE.contains(feature)) {
        features.push(feature_of(*feature)?);
    }
    features.sort();
    Some(features)
}

struct Forms {
    /// Features that have all of their forms, and the system part.
    implemented: Features,
    /// By form: what it needs.
    needs: Vec<Option<Vec<Feature>>>,
    /// Forms without a row, by the feature that they are counted for.
    missing: Vec<(Feature, Code)>,
}

static FORMS: LazyLock<Forms> = LazyLock::new(|| {
    let needs: Vec<_> = Code::values()
        .map(|code| if code.op_code().is_instruction() { needs(code) } else { Some(Vec::new()) })
        .collect();
    let mut implemented: Features =
        TABLE.iter().filter(|info| info.system_part).map(|info| info.feature).collect();
    let mut without_row: Vec<(Feature, Code)> = Code::values()
        .filter(|&code| row(code).is_none() && !is_exception(code))
        .filter_map(|code| Some((*needs[code as usize].as_ref()?.last()?, code)))
        .collect();
    // In the table's order: the forms of two features together are wanted only of those that have the other one.
    without_row.sort_by_key(|&(feature, _)| feature);
    let mut missing = Vec::new();
    for (feature, code) in without_row {
        let needs = needs[code as usize].as_deref().unwrap_or_default();
        if needs.iter().all(|&other| other == feature || implemented.has(other)) {
            implemented.remove(feature);
            missing.push((feature, code));
        }
    }
    for info in TABLE {
        if !implemented.has(info.feature) {
            implemented.remove_with_dependents(info.feature);
        }
    }
    Forms { implemented, needs, missing }
});

/// The features that this processor has. Models show no others.
pub fn implemented() -> Features {
    FORMS.implemented
}

/// The instruction forms that keep features from being implemented.
pub(super) fn missing_forms() -> &'static [(Feature, Code)] {
    &FORMS.missing
}

/// Forms of 0F 0D with registers: hints of Intel's, #UD of AMD's (APM 3, PREFETCH).
fn is_prefetch_of_register(code: Code) -> bool {
    use Code::*;
    matches!(code, Reservednop_rm16_r16_0F0D | Reservednop_rm32_r32_0F0D | Reservednop_rm64_r64_0F0D)
}

/// Whether a form runs on a vendor's processor with these features.
pub(super) fn decodes(code: Code, vendor: Vendor, features: Features) -> bool {
    if vendor == Vendor::Amd && is_prefetch_of_register(code) {
        return false;
    }
    is_hint(code)
        || FORMS.needs[code as usize]
            .as_ref()
            .is_some_and(|needs| needs.iter().all(|&feature| features.has(feature)))
}

#[cfg(test)]
mod tests {
    use super::super::{Model, models};
    use super::*;

    #[test]
    fn every_form_of_a_shown_feature_runs() {
        for (name, _) in models() {
            let model = Model::parse(name).unwrap();
            for code in Code::values().filter(|&code| row(code).is_none() && code.op_code().is_instruction())
            {
                assert!(!model.decodes(code) || is_exception(code), "{name} shows {code:?}");
            }
        }
    }

    #[test]
    fn what_operating_systems_cannot_do_without_is_there() {
        use Feature::*;
        for feature in [
            Fpu,
            Tsc,
            Msr,
            Pae,
            Cx8,
            Apic,
            Sep,
            Mtrr,
            Pge,
            Mca,
            Cmov,
            Pat,
            Clflush,
            Mmx,
            Fxsr,
            Sse,
            Sse2,
            Sse3,
            Cx16,
            Syscall,
            Nx,
            Lm,
            LahfLm,
            X2apic,
            TscDeadline,
            Xsave,
            Xsaves,
            Pcid,
            Smep,
            Smap,
            Fsgsbase,
            Pku,
            La57,
            Pmu,
        ] {
            let missing: Vec<_> = missing_forms().iter().filter(|(of, _)| *of == feature).collect();
            assert!(implemented().has(feature), "{feature:?}: {missing:?}");
        }
    }

    #[test]
    fn named_models_are_whole() {
        // What processors of these names have and this one does not, by model.
        for (name, lacks) in [("qemu64", &[][..]), ("x86-64-v3", &[]), ("Skylake-Server", &[]), ("EPYC", &[])]
        {
            let asked = super::super::parse::asked_for(name);
            for feature in asked.iter().filter(|feature| !implemented().has(*feature)) {
                assert!(lacks.contains(&feature), "{name}: {feature:?}");
            }
        }
    }

    #[test]
    fn hints_run_everywhere() {
        let plain = Model::parse("qemu64").unwrap();
        for code in [Code::Endbr64, Code::Rdsspq_r64, Code::Prefetchw_m8, Code::Cldemote_m8, Code::Nop_rm32] {
            assert!(plain.decodes(code) && row(code).is_some(), "{code:?}");
        }
        for code in [Code::Rdpid_r64, Code::Clwb_m8, Code::Xsave_mem, Code::Rdrand_r64, Code::Incsspd_r32] {
            assert!(!plain.decodes(code), "{code:?}");
        }
    }
}
