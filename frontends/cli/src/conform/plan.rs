//! From a test's description to the command line of a machine, or to the reason why it is left out.

use super::unittests_cfg::{Test, shell_words};
use ringworld_machine::DEFAULT_RTC_START;
use ringworld_x86::model::{Model, models};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What kvm-unit-tests allow a test that names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);
/// The suite's limits are made for a processor that executes the instructions. Some of its loops end after 2^30 cycles, whatever
/// they do: with an instruction a nanosecond, these are as many instructions, and all of them slow ones.
const SLOWER: u32 = 4;
/// QEMU's default, which the suite's file counts on, in MiB.
const DEFAULT_MEMORY: u64 = 128;
/// What `$MAX_SMP` stands for.
const MAX_SMP: u32 = 4;

/// Models of QEMU that the file names and that there are not: what stands for them.
const STAND_INS: &[(&str, &str)] =
    &[("host", "max"), ("IvyBridge", "max"), ("Opteron_G1", "EPYC"), ("Haswell", "x86-64-v3")];
/// The model whose `max` has SVM, and all of it.
const WITH_SVM: &str = "EPYC,+vnmi";
/// The suite takes the largest piece of memory for its heap: below 3 GiB with QEMU's `pc`, but this machine's low memory ends at
/// 2 GiB. These binaries need a heap of so many MiB (of the third), or one below 4 GiB: binary, memory there, memory here.
const MEMORY: &[(&str, u64, u64)] =
    &[("vmx.flat", 2560, 5120), ("svm.flat", 4096, 4000), ("svm_npt.flat", 4096, 4000)];
/// CPU properties that say something about KVM or QEMU only.
const PROPERTIES: &[&str] = &["host-phys-bits", "migratable", "enforce", "check", "kvm", "pmu"];
/// QEMU's options that mean nothing here, and how many words follow them.
const IGNORED: &[(&str, usize)] =
    &[("-enable-kvm", 0), ("-no-reboot", 0), ("-overcommit", 1), ("-global", 1)];
/// Devices of the suite that every machine of `--cpu-test` has.
const DEVICES: &[&str] = &["pc-testdev", "isa-debug-exit,iobase=0xf4,iosize=0x4"];
/// Binaries that execute KVM's hypercalls if the test device is there, and so are told that it is not.
const WITHOUT_TEST_DEVICE: &[&str] = &["apic.flat"];

/// What the user chose.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The folder of `unittests.cfg`.
    pub folder: PathBuf,
    /// `x86_64` or `i386`.
    pub arch: String,
    /// Patterns of names; empty for all.
    pub filter: Vec<String>,
    /// The only group that is wanted.
    pub group: Option<String>,
    /// A limit for every test in place of the file's.
    pub timeout: Option<Duration>,
    /// The model that stands for QEMU's `max` and `host`.
    pub cpu: Option<String>,
}

/// A machine to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The command line after `ringworld`, without the environment's module.
    pub arguments: Vec<String>,
    /// The environment that the guest gets as a boot module.
    pub environment: String,
    /// How long it may run, in CPU time of the host.
    pub timeout: Duration,
    /// Whether it is to end by a report to the panic device.
    pub panics: bool,
}

/// Whether `name` matches a pattern, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

impl Choice {
    /// Whether the user wants to hear of this test at all.
    pub fn wants(&self, test: &Test) -> bool {
        let named = self.filter.is_empty() || self.filter.iter().any(|pattern| matches(pattern, &test.name));
        named && self.group.as_ref().is_none_or(|group| test.groups.contains(group))
    }

    /// How to run a test.
    ///
    /// # Errors
    /// Why it is left out.
    pub fn plan(&self, test: &Test) -> Result<Plan, String> {
        let nodefault = test.groups.iter().any(|group| group == "nodefault");
        if nodefault && self.group.is_none() && !self.filter.contains(&test.name) {
            return Err("runs only if named (group nodefault)".into());
        }
        if let Some(arch) = test.arch.as_ref().filter(|arch| **arch != self.arch) {
            return Err(format!("{arch} only"));
        }
        if test.accel.as_deref() == Some("kvm") {
            return Err("KVM only".into());
        }
        if let Some(condition) = &test.disabled_if {
            return Err(format!("only a shell can decide: {condition}"));
        }
        for check in &test.checks {
            host_check(check)?;
        }
        let kernel = self.folder.join(&test.file);
        if test.file.is_empty() || !kernel.is_file() {
            return Err(format!("{} is not built", kernel.display()));
        }
        let smp: u32 = match &*test.smp {
            "$MAX_SMP" => MAX_SMP,
            number => number.parse().map_err(|_| format!("cannot read smp = {number}"))?,
        };
        let mut cpu = "max".to_string();
        let (mut memory, mut append) = (DEFAULT_MEMORY, test.args.clone());
        let words = shell_words(&test.params, DEFAULT_RTC_START)?;
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} lacks its value"));
            match word {
                "-cpu" => cpu = value()?.into(),
                "-m" => memory = mebibytes(value()?)?,
                "-append" => append = format!("'{}'", value()?),
                "-M" | "-machine" => machine(value()?)?,
                "-device" => {
                    let device = value()?;
                    if !DEVICES.contains(&device) {
                        return Err(format!("needs -device {device}"));
                    }
                }
                _ => match IGNORED.iter().find(|(name, _)| *name == word) {
                    Some((_, values)) => drop(words.by_ref().take(*values).count()),
                    None => return Err(format!("needs {word}")),
                },
            }
        }
        if let Some((.., here)) =
            MEMORY.iter().find(|(file, there, _)| *file == test.file && *there == memory)
        {
            memory = *here;
        }
        let text = |path: &Path| path.display().to_string();
        let mut arguments =
            ["run", "--kernel", &text(&kernel), "--cpu-test", "--no-reboot", "--cpu", &self.cpu(&cpu)?]
                .map(String::from)
                .to_vec();
        arguments.extend(["--memory".into(), format!("{memory}M"), "--cpus".into(), smp.to_string()]);
        arguments.extend(["--time".into(), "deterministic".into()]);
        let append = shell_words(&append, DEFAULT_RTC_START)?.join(" ");
        if !append.is_empty() {
            arguments.extend(["--append".into(), append]);
        }
        let device = u8::from(!WITHOUT_TEST_DEVICE.contains(&&*test.file));
        Ok(Plan {
            arguments,
            environment: format!("NR_CPUS={smp}\nMEMSIZE={memory}\nTEST_DEVICE={device}\n"),
            timeout: self.timeout.unwrap_or_else(|| test.timeout.unwrap_or(DEFAULT_TIMEOUT) * SLOWER),
            panics: test.groups.iter().any(|group| group == "panic"),
        })
    }

    /// QEMU's CPU description as ours: another model's name, without what concerns KVM only.
    fn cpu(&self, text: &str) -> Result<String, String> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let known = |name: &str| models().any(|(model, _)| model.eq_ignore_ascii_case(name));
        let mut cpu = match (&self.cpu, STAND_INS.iter().find(|(model, _)| *model == name)) {
            (Some(chosen), _) if matches!(name, "max" | "host") => chosen.clone(),
            (_, Some((_, other))) => (*other).to_string(),
            _ if name == "max" && text.split(',').any(|part| part == "+svm") => WITH_SVM.into(),
            _ if known(name) => name.into(),
            _ => return Err(format!("there is no CPU model {name}")),
        };
        for part in parts {
            let bare = part.trim_start_matches(['+', '-']).split('=').next().unwrap_or_default();
            if PROPERTIES.contains(&bare) {
                continue;
            }
            if bare.starts_with("hv_") || bare.starts_with("hv-") {
                return Err(format!("Hyper-V only (-cpu {part})"));
            }
            let longer = format!("{cpu},{part}");
            match Model::parse(&longer) {
                Ok(_) => cpu = longer,
                // What is not there is gone.
                Err(_) if part.starts_with('-') || part.ends_with("=off") => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(cpu)
    }
}

/// Files that say how the host's KVM is set do not concern an emulator without it.
fn host_check(check: &str) -> Result<(), String> {
    let (path, value) = check.split_once('=').ok_or_else(|| format!("cannot read check = {check}"))?;
    if path.starts_with("/sys/module/kvm") || path == "/proc/sys/kernel/nmi_watchdog" {
        return Ok(());
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    if text.trim_end() == value { Ok(()) } else { Err(format!("{path} is not {value}")) }
}

/// Accepts what the machine can be.
fn machine(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        match part.split_once('=') {
            None if matches!(part, "pc" | "q35") => {}
            // The timer is there; a test that wants it off wants interrupts to be fast.
            Some(("pit" | "accel", _)) => {}
            _ => return Err(format!("needs -machine {part}")),
        }
    }
    Ok(())
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match (lower.strip_suffix('g'), lower.strip_suffix('m')) {
        (Some(digits), _) => (digits, 1024),
        (_, Some(digits)) => (digits, 1),
        _ => (&*lower, 1),
    };
    let size = digits.parse().ok().and_then(|n: u64| n.checked_mul(factor));
    size.ok_or_else(|| format!("cannot read -m {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(folder: &Path) -> Choice {
        fs::write(folder.join("a.flat"), "").unwrap();
        Choice { folder: folder.into(), arch: "x86_64".into(), ..Choice::default() }
    }

    fn test(params: &str) -> Test {
        Test {
            name: "a".into(),
            file: "a.flat".into(),
            smp: "2".into(),
            params: params.into(),
            ..Test::default()
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b*d", "abcd", true),
            ("*b*d", "abc", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn options_of_qemu_become_ours() {
        let folder = tempfile::tempdir().unwrap();
        let choice = choice(folder.path());
        let plan = choice.plan(&Test {
            args: "\"x y\"".into(),
            ..test("-cpu qemu64,+x2apic,-pcid,host-phys-bits -m 2g -machine pit=off -enable-kvm")
        });
        let plan = plan.unwrap();
        let has = |option: &str, value: &str| {
            let found = plan.arguments.windows(2).any(|pair| pair == [option, value]);
            assert!(found, "{option} {value}: {:?}", plan.arguments);
        };
        has("--cpu", "qemu64,+x2apic,-pcid");
        has("--memory", "2048M");
        has("--cpus", "2");
        has("--append", "x y");
        assert!(plan.environment.contains("NR_CPUS=2\n") && plan.environment.contains("TEST_DEVICE=1\n"));
        assert_eq!(plan.timeout, Duration::from_secs(360));
        let svm = choice.plan(&test("-cpu max,+svm")).unwrap();
        assert!(
            svm.arguments.windows(2).any(|pair| pair == ["--cpu", "EPYC,+vnmi,+svm"]),
            "{:?}",
            svm.arguments
        );
    }

    #[test]
    fn tests_for_other_machines_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let choice = choice(folder.path());
        for (test, reason) in [
            (test("-cpu max,hv_passthrough"), "Hyper-V"),
            (test("-device edu"), "edu"),
            (test("-machine vmport=on"), "vmport"),
            (test("-cpu 8086"), "8086"),
            (Test { arch: Some("i386".into()), ..test("") }, "i386 only"),
            (Test { accel: Some("kvm".into()), ..test("") }, "KVM only"),
            (Test { groups: vec!["nodefault".into()], ..test("") }, "nodefault"),
            (Test { file: "b.flat".into(), ..test("") }, "not built"),
            (Test { checks: vec!["/nonexistent=1".into()], ..test("") }, "/nonexistent"),
        ] {
            let error = choice.plan(&test).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let named = Choice { filter: vec!["a".into()], ..choice };
        assert!(named.plan(&Test { groups: vec!["nodefault".into()], ..test("") }).is_ok());
        assert!(!named.wants(&Test { name: "b".into(), ..test("") }));
    }
}
