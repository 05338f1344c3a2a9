//! Marker lines: how a benchmark says when it begins and ends, and with which checksum.

use std::collections::BTreeMap;

/// What benchmarks cost in one run, in CPU seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Costs {
    /// From the start to user space.
    pub boot: Option<f64>,
    /// By name: seconds and checksum.
    pub programs: BTreeMap<String, (f64, String)>,
    /// The same of what ran before user space, in a system around this one.
    pub outer: BTreeMap<String, (f64, String)>,
    /// By name: why it did not run.
    pub skipped: BTreeMap<String, String>,
    begun: Option<(String, f64)>,
}

impl Costs {
    /// Takes a line of output that came when `seconds` had been spent. Lines without marker do not count.
    /// `up`: the line says that the system is up.
    pub fn line(&mut self, line: &str, seconds: f64, up: bool) {
        if self.boot.is_none() && up {
            self.boot = Some(seconds);
            self.outer = core::mem::take(&mut self.programs);
            return;
        }
        // Something may be before the marker: the kernel's own messages, a terminal's sequences.
        let Some(at) = line.find('@') else { return };
        let mut words = line[at..].split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("@begin"), Some(name), None) => self.begun = Some((name.into(), seconds)),
            (Some("@end"), Some(name), Some(sum)) => {
                if let Some((_, begin)) = self.begun.take_if(|begun| begun.0 == name) {
                    self.programs.insert(name.into(), (seconds - begin, sum.into()));
                }
            }
            (Some("@skip"), Some(name), Some(first)) => {
                self.begun.take_if(|begun| begun.0 == name);
                let reason = words.fold(first.to_owned(), |reason, word| reason + " " + word);
                self.skipped.insert(name.into(), reason);
            }
            _ => (),
        }
    }

    /// The benchmark that has begun but not ended.
    pub fn running(&self) -> Option<&str> {
        self.begun.as_ref().map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_differences_between_markers() {
        let mut costs = Costs::default();
        for (line, seconds) in [
            ("[    0.1] Linux", 0.1),
            ("@begin sieve", 0.2),
            ("@end sieve 0ff0", 0.5),
            ("USERSPACE\r", 1.0),
            ("@begin sieve\r", 1.5),
            ("noise", 1.6),
            ("\x1b[0m@end sieve 00ff\r", 2.0),
            ("@begin avx2", 2.0),
            ("@skip avx2 no such thing", 2.25),
            ("@end avx2 12", 2.5),
            ("@begin fork", 3.0),
        ] {
            costs.line(line, seconds, line.contains("USERSPACE"));
        }
        assert_eq!(costs.boot, Some(1.0));
        assert_eq!(costs.outer, BTreeMap::from([("sieve".into(), (0.3, "0ff0".into()))]));
        assert_eq!(costs.programs, BTreeMap::from([("sieve".into(), (0.5, "00ff".into()))]));
        assert!(!costs.programs.contains_key("avx2"));
        assert_eq!(costs.skipped["avx2"], "no such thing");
        assert_eq!(costs.running(), Some("fork"));
    }
}
