//! What came out of a test, and what was expected.

use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The most of a test's output that is looked at, in bytes.
const MAX_OUTPUT: u64 = 16 << 20;
/// What the exit device makes of the suite's code for "nothing could be tested", `77 >> 1`.
const SKIPPED: u64 = 77;

/// The result of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Ended with success, and no sub-test failed.
    Pass,
    /// Sub-tests failed, or it ended with another code.
    Fail,
    /// Cannot run here.
    Skip,
    /// Its time was up.
    Timeout,
    /// Ended without saying how: triple fault, reset, halt, an error of the emulator.
    Crash,
    /// Failed as the file of expected failures says.
    Expected,
}

impl Status {
    /// Whether the whole run fails for it.
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Fail | Self::Timeout | Self::Crash)
    }

    /// As the table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Timeout => "TIMEOUT",
            Self::Crash => "CRASH",
            Self::Expected => "XFAIL",
        }
    }
}

/// One test's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// Its result.
    pub status: Status,
    /// Sub-tests that passed.
    pub passed: usize,
    /// Sub-tests that failed.
    pub failed: usize,
    /// Sub-tests that were left out.
    pub skipped: usize,
    /// Sub-tests that failed as the suite itself expects.
    pub known: usize,
    /// The host's CPU time in seconds.
    pub seconds: f64,
    /// Guest instructions.
    pub instructions: u64,
    /// Why it was left out, or how it ended.
    pub reason: String,
    /// What the failed sub-tests say.
    pub failures: Vec<String>,
    /// Passed although a failure was expected.
    pub unexpected_pass: bool,
}

impl Outcome {
    /// A test that did not run.
    pub fn skipped(name: &str, reason: String) -> Self {
        Self {
            name: name.into(),
            status: Status::Skip,
            passed: 0,
            failed: 0,
            skipped: 0,
            known: 0,
            seconds: 0.0,
            instructions: 0,
            reason,
            failures: Vec::new(),
            unexpected_pass: false,
        }
    }

    /// Reads what a machine has left: the guest's console, its own messages, its counters.
    pub fn read(name: &str, output: &Path, messages: &Path, counters: &Path, panics: bool) -> Self {
        let mut outcome = Self::skipped(name, String::new());
        outcome.count(&text(output));
        let counters: serde_json::Value =
            fs::read(counters).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        outcome.instructions = counters["instructions"].as_u64().unwrap_or(0);
        let stop = &counters["stop"];
        let messages = text(messages);
        outcome.reason = messages.lines().last().unwrap_or_default().trim_start_matches("ringworld: ").into();
        outcome.status = match stop["GuestExit"].as_u64() {
            _ if panics && stop == "Panic" => Status::Pass,
            Some(0 | 1) if outcome.failed == 0 => Status::Pass,
            Some(SKIPPED) if outcome.failed == 0 => Status::Skip,
            Some(value) => {
                outcome.reason = format!("ended with code {}", value >> 1);
                Status::Fail
            }
            None if stop == "Timeout" => Status::Timeout,
            None => Status::Crash,
        };
        outcome
    }

    /// Counts the lines by which the suite reports sub-tests.
    fn count(&mut self, output: &str) {
        for line in output.lines() {
            match line.split_once(": ") {
                Some(("PASS", _)) => self.passed += 1,
                Some(("SKIP", _)) => self.skipped += 1,
                Some(("XFAIL" | "KFAIL", _)) => self.known += 1,
                Some(("FAIL" | "XPASS", what)) => {
                    self.failed += 1;
                    self.failures.push(what.trim().into());
                }
                _ => {}
            }
        }
    }
}

fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What cannot be read is missing from the counts, and the test fails for it.
        let _ = file.take(MAX_OUTPUT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Expected failures: lines `TEST`, or `TEST: SUB-TEST` as the suite prints it after `FAIL: `. `#` starts a comment.
#[derive(Clone, Debug, Default)]
pub struct Expected(Vec<(String, Option<String>)>);

impl Expected {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| match line.split_once(": ") {
                    Some((test, sub)) => (test.into(), Some(sub.trim().into())),
                    None => (line.into(), None),
                })
                .collect(),
        )
    }

    /// Changes the status of a test that failed as expected, and marks one that did not.
    pub fn apply(&self, outcome: &mut Outcome) {
        let mine = || self.0.iter().filter(|(test, _)| *test == outcome.name).map(|(_, sub)| sub);
        if mine().next().is_none() {
            return;
        }
        let whole = mine().any(Option::is_none);
        let all = !outcome.failures.is_empty()
            && outcome.failures.iter().all(|failure| mine().any(|sub| sub.as_ref() == Some(failure)));
        let unexpected_pass = outcome.status == Status::Pass;
        if outcome.status.is_bad() && (whole || all && outcome.status == Status::Fail) {
            outcome.status = Status::Expected;
        }
        outcome.unexpected_pass = unexpected_pass;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(output: &str, stop: &str) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let counters = file("json", &format!("{{\"stop\": {stop}, \"instructions\": 7}}"));
        Outcome::read("t", &file("log", output), &file("err", "ringworld: triple fault\n"), &counters, false)
    }

    #[test]
    fn ends_and_counts() {
        let all = "PASS: a\r\nFAIL: b: c\r\nSKIP: d\nXFAIL: e\nKFAIL: f\nXPASS: g\nPASSED\n";
        let read = outcome(all, "{\"GuestExit\": 3}");
        assert_eq!((read.passed, read.failed, read.skipped, read.known), (1, 2, 1, 2));
        assert_eq!((read.status, read.instructions, &*read.failures[0]), (Status::Fail, 7, "b: c"));
        for (output, stop, status) in [
            ("PASS: a\n", "{\"GuestExit\": 1}", Status::Pass),
            ("", "{\"GuestExit\": 1}", Status::Pass),
            ("FAIL: a\n", "{\"GuestExit\": 1}", Status::Fail),
            ("", "{\"GuestExit\": 77}", Status::Skip),
            ("", "\"Timeout\"", Status::Timeout),
            ("", "{\"TripleFault\": {\"cpu\": 0, \"rip\": 1}}", Status::Crash),
            ("", "null", Status::Crash),
        ] {
            assert_eq!(outcome(output, stop).status, status, "{stop}");
        }
    }

    #[test]
    fn expectations() {
        let expected = Expected::parse("# comment\nt: a # why\nt: b: c\nwhole\n");
        let status = |output: &str, stop: &str, name: &str| {
            let mut outcome = Outcome { name: name.into(), ..outcome(output, stop) };
            expected.apply(&mut outcome);
            (outcome.status, outcome.unexpected_pass)
        };
        let failed = "{\"GuestExit\": 3}";
        assert_eq!(status("FAIL: a\nFAIL: b: c\n", failed, "t"), (Status::Expected, false));
        assert_eq!(status("FAIL: a\nFAIL: d\n", failed, "t"), (Status::Fail, false));
        assert_eq!(status("FAIL: a\n", "\"Timeout\"", "t"), (Status::Timeout, false));
        assert_eq!(status("", "\"Timeout\"", "whole"), (Status::Expected, false));
        assert_eq!(status("", "{\"GuestExit\": 1}", "whole"), (Status::Pass, true));
        assert_eq!(status("", failed, "other"), (Status::Fail, false));
    }
}
