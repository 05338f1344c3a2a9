//! `unittests.cfg`: what kvm-unit-tests say of each test (docs/unittests.txt of that suite).

use std::time::Duration;

/// One test as the file describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Test {
    /// The name in brackets.
    pub name: String,
    /// The binary, in the folder of the file.
    pub file: String,
    /// The number of CPUs as written: a number or `$MAX_SMP`.
    pub smp: String,
    /// The guest's arguments as written, with the shell's quotes.
    pub args: String,
    /// QEMU's further options as written.
    pub params: String,
    /// Groups; `nodefault` and `panic` have a meaning.
    pub groups: Vec<String>,
    /// The only architecture that it is for.
    pub arch: Option<String>,
    /// The only accelerator of QEMU's that it is for.
    pub accel: Option<String>,
    /// Files of the host with the contents that they must have: `PATH=VALUE`.
    pub checks: Vec<String>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// A condition in the shell's language.
    pub disabled_if: Option<String>,
}

/// Reads the whole file.
///
/// # Errors
/// A line that is none of the known ones, with its number.
pub fn parse(text: &str) -> Result<Vec<Test>, String> {
    let mut tests: Vec<Test> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            tests.push(Test { name: name.into(), smp: "1".into(), ..Test::default() });
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| wrong("neither [NAME] nor KEY = VALUE"))?;
        let test = tests.last_mut().ok_or_else(|| wrong("before the first [NAME]"))?;
        let mut value = value.trim().to_string();
        if let Some(rest) = value.strip_prefix("\"\"\"").map(String::from) {
            // Several lines, up to three quotes again.
            value = rest;
            loop {
                let (_, next) = lines.next().ok_or_else(|| wrong("the three quotes are not closed"))?;
                let (part, end) = match next.trim_end().strip_suffix("\"\"\"") {
                    Some(part) => (part, true),
                    None => (next, false),
                };
                value = value.strip_suffix('\\').map(String::from).unwrap_or(value) + "\n" + part;
                if end {
                    break;
                }
            }
        }
        let words = || value.split_whitespace().map(String::from).collect();
        match key.trim() {
            "file" => test.file = value,
            "smp" => test.smp = value,
            "test_args" => test.args = value,
            "qemu_params" | "extra_params" => test.params = value,
            "groups" => test.groups = words(),
            "arch" => test.arch = Some(value),
            "accel" => test.accel = Some(value),
            "check" => test.checks = words(),
            "disabled_if" => test.disabled_if = Some(value),
            "timeout" => test.timeout = Some(seconds(&value).ok_or_else(|| wrong("no time"))?),
            "machine" | "kvmtool_params" => {}
            _ => return Err(wrong("unknown key")),
        }
    }
    Ok(tests)
}

/// `#` starts a comment at the line's start or after a blank, outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match quote {
            None if c == '#' && before.is_whitespace() => return &line[..at],
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

/// A duration as timeout(1) takes it: seconds, or with the suffix s, m or h.
fn seconds(text: &str) -> Option<Duration> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3600),
        _ => (text, 1),
    };
    digits.parse().ok().and_then(|n: u64| n.checked_mul(factor)).map(Duration::from_secs)
}

/// Splits as a shell does: blanks, quotes, backslashes. `date` stands for the output of `date +%s`, the only command that
/// test suites use.
///
/// # Errors
/// What only a shell can do.
pub fn shell_words(text: &str, date: u64) -> Result<Vec<String>, String> {
    let text = text.replace("`date +%s`", &date.to_string());
    if text.contains('`') || text.contains('$') {
        return Err(format!("only a shell understands {text}"));
    }
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut open) = (None, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if quote.is_none() && c.is_whitespace() {
            open = false;
            continue;
        }
        if !open {
            words.push(String::new());
            open = true;
        }
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(end), _) if end == c => quote = None,
            (None | Some('"'), '\\') => words.last_mut().map_or((), |word| word.extend(characters.next())),
            _ => words.last_mut().map_or((), |word| word.push(c)),
        }
    }
    if quote.is_some() { Err(format!("a quote is not closed: {text}")) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = "# comment\n[a]\nfile = a.flat # the binary\nsmp=3\ntest_args = \"x # y\"\ngroups = g nodefault\n\
                    timeout = 2m\n\n[b]\nfile = b.flat\nextra_params = \"\"\"-cpu max \\\n  -m 2G\"\"\"\n\
                    check = /a=1 /b=2\narch = i386\naccel = kvm\n";
        let tests = parse(text).unwrap();
        assert_eq!((&*tests[0].file, &*tests[0].smp, &*tests[0].args), ("a.flat", "3", "\"x # y\""));
        assert_eq!(tests[0].groups, ["g", "nodefault"]);
        assert_eq!(tests[0].timeout, Some(Duration::from_secs(120)));
        assert_eq!(shell_words(&tests[1].params, 0).unwrap(), ["-cpu", "max", "-m", "2G"]);
        assert_eq!((tests[1].checks.len(), tests[1].arch.as_deref()), (2, Some("i386")));
        for (text, line) in
            [("file = x\n", "line 1"), ("[a]\nnonsense\n", "line 2"), ("[a]\nx = 1\n", "line 2")]
        {
            assert!(parse(text).unwrap_err().starts_with(line), "{text}");
        }
        assert!(parse("[a]\nqemu_params = \"\"\"x\n").is_err());
    }

    #[test]
    fn words_are_split_as_by_a_shell() {
        for (text, words) in [
            ("a  b", vec!["a", "b"]),
            ("'a b' \"c \\\"d\" e\\ f", vec!["a b", "c \"d", "e f"]),
            ("\"10 `date +%s`\"", vec!["10 77"]),
            ("''", vec![""]),
            ("", vec![]),
        ] {
            assert_eq!(shell_words(text, 77).unwrap(), words, "{text}");
        }
        for text in ["`ls`", "$(ls)", "'open"] {
            assert!(shell_words(text, 0).is_err(), "{text}");
        }
    }
}
