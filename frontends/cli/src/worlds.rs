//! The table of a machine whose guest has guests: exits by reason, and what the levels took.

use ringworld_machine::Stats;
use ringworld_x86::svm::ExitCode;
use ringworld_x86::vmx::reason;
use ringworld_x86::worlds::Share;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Exits of all CPUs by reason, in the order of their numbers.
pub fn exits(stats: &Stats) -> Vec<(String, u64)> {
    let mut svm = BTreeMap::<_, u64>::new();
    for (code, count) in stats.cpus.iter().flat_map(|cpu| cpu.counters.svm_exits.iter()) {
        *svm.entry(code.0).or_default() += count;
    }
    let longest = stats.cpus.iter().map(|cpu| cpu.counters.vmx_exits.len()).max().unwrap_or(0);
    let vmx = (0..longest).map(|number| {
        let count = stats.total(|c| c.vmx_exits.get(number).copied().unwrap_or(0));
        (format!("VM exit {number} {}", reason::name(number as u16)), count)
    });
    let svm = svm.into_iter().map(|(code, count)| (format!("#VMEXIT {}", ExitCode(code)), count));
    svm.chain(vmx).filter(|(_, count)| *count > 0).collect()
}

/// The shares of all CPUs: this emulator's entries and exits, the guest, and the guest's guests by their control blocks.
fn shares(stats: &Stats) -> (Share, Share, BTreeMap<String, Share>) {
    let (mut switches, mut host, mut guests) = (Share::default(), Share::default(), BTreeMap::new());
    for cpu in &stats.cpus {
        let worlds = &cpu.counters.worlds;
        switches.add(&worlds.switches);
        host.add(&worlds.host);
        for (address, share) in &worlds.guests {
            guests.entry(format!("{address:#x}")).or_insert_with(Share::default).add(share);
        }
        if worlds.others.entries > 0 {
            guests.entry("others".into()).or_insert_with(Share::default).add(&worlds.others);
        }
    }
    (switches, host, guests)
}

/// The table.
pub fn table(stats: &Stats) -> String {
    let mut text = format!("{:<44} {:>12}\n", "exits by reason", "count");
    let mut list = exits(stats);
    list.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
    let total: u64 = list.iter().map(|(_, count)| count).sum();
    for (name, count) in list.iter().chain([&("all".into(), total)]) {
        _ = writeln!(text, "{name:<44} {count:>12}");
    }
    let (switches, host, guests) = shares(stats);
    let mut inner = Share::default();
    guests.values().for_each(|share| inner.add(share));
    let instructions = (host.instructions + inner.instructions).max(1);
    let time = (switches.time + host.time + inner.time).as_secs_f64().max(1e-9);
    let mut line = |name: &str, share: &Share| {
        _ = writeln!(
            text,
            "{name:<44} {:>12} {:>16} {:>6.2} % {:>9.1} {:>6.2} %",
            share.entries,
            share.instructions,
            100.0 * share.instructions as f64 / instructions as f64,
            share.time.as_secs_f64() * 1e3,
            100.0 * share.time.as_secs_f64() / time
        );
    };
    line("L0: VM entries and exits", &switches);
    line("L1: the machine's own system", &host);
    line("L2 and above: its guests", &inner);
    if guests.len() > 1 {
        for (name, share) in &guests {
            line(&format!("  of these, by VMCS or VMCB: {name}"), share);
        }
    }
    let head = ["level", "entered", "instructions", "share", "host ms", "share"];
    let head = format!(
        "{:<44} {:>12} {:>16} {:>8} {:>9} {:>8}\n",
        head[0], head[1], head[2], head[3], head[4], head[5]
    );
    let at = text.find("L0:").unwrap_or(text.len());
    text.insert_str(at, &head);
    text
}
