//! What debuggers and scripts send, and snapshot files: on a small machine.

use crate::random::Random;
use ringworld_gdb::{Host, Input, Received, serve};
use ringworld_machine::{
    Backends, BootFile, HistoryConfig, Loader, Machine, MachineConfig, MachineHandle, RunUntil, Snapshot,
    Source,
};
use std::io;
use std::time::Duration;

/// mov word [0x500], 0; again: add word [0x500], 3; inc ax; jmp again
const CODE: &[u8] = &[0xc7, 6, 0, 5, 0, 0, 0x83, 6, 0, 5, 3, 0x40, 0xeb, 0xf8];

fn machine(cpus: u32) -> Option<Machine> {
    let config = MachineConfig {
        kernel: Source::Memory(BootFile::new("guest", CODE.to_vec())),
        loader: Loader::RawReal(0, 0x7c00),
        memory: 4 << 20,
        cpus,
        ..MachineConfig::default()
    };
    Machine::new(config, Backends::default()).ok()
}

/// A snapshot file's bytes: damaged anywhere, or with a new checksum over a damaged inside.
pub fn snapshot(random: &mut Random) -> &'static str {
    let Some(mut machine) = machine(1 + random.below(2) as u32) else { return "no machine" };
    // What runs before must not fail; where it stops does not matter.
    let _ = machine.run(&RunUntil::instructions(random.below(2000) as u64));
    let Ok(snapshot) = machine.snapshot() else { return "no snapshot" };
    let snapshot = if random.one_in(3) {
        let Ok(mut bytes) = snapshot.to_bytes() else { return "no bytes" };
        random.damage(&mut bytes, 64);
        match Snapshot::parse(&bytes) {
            Ok(snapshot) => snapshot,
            Err(_) => return "refused",
        }
    } else {
        // Past the checksum: whoever makes a file can make that, too.
        snapshot.with_changed_state(|bytes| {
            for _ in 0..=random.below(6) {
                let at = random.below(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if random.one_in(2) { random.next() as u8 } else { *byte ^ 1 << random.below(8) };
                }
            }
        })
    };
    let other = Machine::from_snapshot(&snapshot, Backends::default(), |_| ());
    let Ok(mut other) = other else { return "does not fit" };
    other.handle().close();
    other.state_hash();
    match other.run(&RunUntil::instructions(other.instructions().saturating_add(3000))) {
        Ok(_) => "ran",
        Err(_) => "failed",
    }
}

/// Bytes that are all there at once; a machine that runs is stopped after a while.
struct Bytes(std::collections::VecDeque<u8>);

impl Input for Bytes {
    fn receive(&mut self, _: Duration) -> io::Result<Received> {
        // While the guest runs, the rest comes: so it never runs for ever.
        Ok(self.0.pop_front().map_or(Received::End, Received::Byte))
    }

    fn watch(&mut self, _: MachineHandle) -> io::Result<()> {
        Ok(())
    }

    fn unwatch(&mut self) -> bool {
        false
    }
}

/// A monitor that says what it is told.
struct Echo;

impl Host for Echo {
    fn command(&mut self, _: &mut Machine, line: &str) -> String {
        line.to_string()
    }

    fn attend(&mut self, _: &mut Machine) -> bool {
        true
    }
}

const PACKETS: &[&str] = &[
    "?",
    "g",
    "G00",
    "p10",
    "P10=0011223344556677",
    "m7c00,10",
    "m0,ffffffff",
    "M500,2:0011",
    "X500,2:ab",
    "Z0,7c0b,1",
    "z0,7c0b,1",
    "Z1,7c0b,1",
    "Z2,500,2",
    "Z3,500,2",
    "Z4,500,8",
    "z2,500,2",
    "Hg1",
    "Hgp1.2",
    "Hc-1",
    "T1",
    "qSupported:xml",
    "qXfer:features:read:target.xml:0,fff",
    "qfThreadInfo",
    "qsThreadInfo",
    "qThreadExtraInfo,1",
    "vCont?",
    "qC",
    "qAttached",
    "qRcmd,70687973",
    "qRcmd,7068797320307830",
    "qRcmd,696e666f2063707573",
    "D",
    "vMustReplyEmpty",
    "QStartNoAckMode",
    "qSymbol::",
    "!",
    "R00",
    "vKill;1",
    "k",
];

/// Packets of gdb's protocol, whole and broken.
pub fn gdb(random: &mut Random) -> &'static str {
    let Some(mut machine) = machine(1 + random.below(2) as u32) else { return "no machine" };
    if random.one_in(2) && machine.keep_history(HistoryConfig::default()).is_err() {
        return "no history";
    }
    let mut bytes = Vec::new();
    for _ in 0..random.below(20) {
        let mut packet = random.pick(PACKETS).as_bytes().to_vec();
        if random.one_in(4) {
            random.damage(&mut packet, 64);
        }
        let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let sum = if random.one_in(10) { random.next() as u8 } else { sum };
        bytes.push(b'$');
        bytes.extend(packet);
        bytes.extend(format!("#{sum:02x}").bytes());
        if random.one_in(8) {
            bytes.push(random.pick(b"\x03+-$#}"));
        }
    }
    match serve(&mut machine, &mut Bytes(bytes.into()), io::sink(), &mut Echo) {
        Ok(_) => "ended",
        Err(_) => "broke",
    }
}

const COMMANDS: &[&str] = &[
    "query-status",
    "query-cpus",
    "query-registers",
    "query-hash",
    "memory-read",
    "send-key",
    "serial-write",
    "inject-nmi",
    "system_powerdown",
    "system_reset",
    "goto",
    "human-monitor-command",
    "snapshot-load",
    "quit",
    "stop",
    "cont",
];
const ARGUMENTS: &[&str] = &[
    "{}",
    "null",
    "[]",
    "{\"cpu\":1}",
    "{\"address\":1280,\"size\":2}",
    "{\"address\":18446744073709551615,\"size\":9,\"cpu\":0}",
    "{\"address\":0,\"size\":99999999}",
    "{\"keys\":[30,200]}",
    "{\"keys\":[0]}",
    "{\"data\":\"x\",\"port\":9}",
    "{\"instructions\":50}",
    "{\"command-line\":\"info registers\"}",
    "{\"command-line\":\"x/99999gx $rsp\"}",
    "{\"command-line\":\"step 3\"}",
    "{\"file\":\"/nonexistent/x\"}",
    "{\"command-line\":\"disas\"}",
    "{\"command-line\":\"walk 0\"}",
    "{\"command-line\":\"watch 500 2 rw\"}",
];

/// Lines for the control socket. No command that writes files.
pub fn control(random: &mut Random) -> &'static str {
    let Some(mut machine) = machine(1 + random.below(2) as u32) else { return "no machine" };
    machine.handle().close();
    let mut text = Vec::new();
    for _ in 0..random.below(12) {
        let (command, arguments) = (random.pick(COMMANDS), random.pick(ARGUMENTS));
        let mut line = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}").into_bytes();
        if random.one_in(4) {
            random.damage(&mut line, 64);
        }
        text.extend(line);
        text.push(b'\n');
    }
    if ringworld::fuzz_control(&mut machine, &text) > 0 { "some done" } else { "none done" }
}
