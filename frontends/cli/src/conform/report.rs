//! A table for people, JSON and JUnit XML for programs.

use super::outcome::{Outcome, Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// The table's first line.
pub const HEAD: &str = "test                               result    pass   fail   skip  seconds  remarks";
/// The most failed sub-tests of a test that the table names.
const SHOWN: usize = 3;

/// The table's line of a test.
pub fn row(outcome: &Outcome) -> String {
    let Outcome { name, passed, failed, skipped, seconds, .. } = outcome;
    let mut remarks = outcome.reason.clone();
    if outcome.unexpected_pass {
        remarks.push_str("passes now: take it out of the expected failures");
    }
    let status = outcome.status.name();
    let mut row =
        format!("{name:<34} {status:<8} {passed:>5}  {failed:>5}  {skipped:>5}  {seconds:>7.1}  {remarks}")
            .trim_end()
            .to_string();
    for failure in outcome.failures.iter().take(SHOWN) {
        let _ = write!(row, "\n    FAIL: {failure}");
    }
    if outcome.failures.len() > SHOWN {
        let _ = write!(row, "\n    ... and {} more", outcome.failures.len() - SHOWN);
    }
    row
}

/// Tests by result.
fn totals(outcomes: &[Outcome]) -> BTreeMap<&'static str, usize> {
    let mut totals = BTreeMap::new();
    for outcome in outcomes {
        *totals.entry(outcome.status.name()).or_insert(0) += 1;
    }
    totals
}

/// The table's end.
pub fn summary(outcomes: &[Outcome], elapsed: Duration) -> String {
    let sum = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    let results: Vec<String> =
        totals(outcomes).iter().map(|(status, count)| format!("{count} {status}")).collect();
    format!(
        "{} tests: {}; sub-tests: {} passed, {} failed, {} skipped; {:.0} s",
        outcomes.len(),
        results.join(", "),
        sum(|outcome| outcome.passed),
        sum(|outcome| outcome.failed),
        sum(|outcome| outcome.skipped),
        elapsed.as_secs_f64(),
    )
}

/// Everything as JSON.
pub fn json(tree: &Path, arch: &str, outcomes: &[Outcome]) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        tree: &'a Path,
        arch: &'a str,
        totals: BTreeMap<&'static str, usize>,
        tests: &'a [Outcome],
    }
    let report = Report { tree, arch, totals: totals(outcomes), tests: outcomes };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

/// Everything as JUnit XML: one suite, one case for each test.
pub fn junit(arch: &str, outcomes: &[Outcome]) -> String {
    let count = |of: fn(Status) -> bool| outcomes.iter().filter(|outcome| of(outcome.status)).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"kvm-unit-tests {}\" tests=\"{}\" failures=\"{}\" \
         errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
        escape(arch),
        outcomes.len(),
        count(|status| status == Status::Fail),
        count(|status| matches!(status, Status::Timeout | Status::Crash)),
        count(|status| matches!(status, Status::Skip | Status::Expected)),
        outcomes.iter().map(|outcome| outcome.seconds).sum::<f64>(),
    );
    for outcome in outcomes {
        let mut inner = String::new();
        let element = match outcome.status {
            Status::Pass => None,
            Status::Skip | Status::Expected => Some("skipped"),
            Status::Fail => Some("failure"),
            Status::Timeout | Status::Crash => Some("error"),
        };
        if let Some(element) = element {
            let message = escape(&format!("{}: {}", outcome.status.name(), outcome.reason));
            let text = escape(&outcome.failures.join("\n"));
            let _ = writeln!(inner, "    <{element} message=\"{message}\">{text}</{element}>");
        }
        let _ = writeln!(
            xml,
            "  <testcase classname=\"kvm-unit-tests.{}\" name=\"{}\" assertions=\"{}\" time=\"{:.3}\">\n{inner}  </testcase>",
            escape(arch),
            escape(&outcome.name),
            outcome.passed + outcome.failed,
            outcome.seconds,
        );
    }
    xml + "</testsuite>\n"
}

/// Text in XML 1.0, which has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let mut failed = Outcome::skipped("b<c>", "ended with code 1".into());
        (failed.status, failed.failed) = (Status::Fail, 4);
        failed.failures = ["x & y\u{1b}", "two", "three", "four"].map(String::from).to_vec();
        vec![Outcome::skipped("a", "KVM only".into()), failed]
    }

    #[test]
    fn the_table_names_failures() {
        let outcomes = outcomes();
        assert!(row(&outcomes[0]).ends_with("KVM only"));
        let row = row(&outcomes[1]);
        assert!(row.contains("FAIL: three") && row.ends_with("... and 1 more"), "{row}");
        assert!(
            summary(&outcomes, Duration::from_secs(3))
                .starts_with("2 tests: 1 FAIL, 1 SKIP; sub-tests: 0 passed, 4")
        );
    }

    #[test]
    fn xml_is_escaped_and_json_has_the_totals() {
        let xml = junit("i386", &outcomes());
        assert!(xml.contains("tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{xml}");
        assert!(xml.contains("name=\"b&lt;c&gt;\"") && xml.contains("x &amp; y\u{fffd}\ntwo"), "{xml}");
        let json: serde_json::Value =
            serde_json::from_str(&json(Path::new("/tree"), "i386", &outcomes()).unwrap()).unwrap();
        assert_eq!((&json["totals"]["FAIL"], &json["tests"][1]["status"]), (&1.into(), &"fail".into()));
    }
}
