//! The host's apt sources: only those of the distribution itself, rewritten as deb822 stanzas (sources.list(5)).

use crate::GuestError;
use std::fs;
use std::path::Path;

/// One stanza: field names in lower case, values with their continuation lines.
type Stanza = Vec<(String, String)>;

/// Fields of a stanza that the private apt takes over. Not among them: `Trusted` and the `Allow-*` fields, as every
/// signature is to be checked; `Architectures`, `Languages` and `Targets`, which the fetch sets itself.
const FIELDS: [&str; 8] = [
    "uris",
    "suites",
    "components",
    "signed-by",
    "check-valid-until",
    "valid-until-max",
    "check-date",
    "by-hash",
];

/// The stanzas for the private apt's sources file.
///
/// # Errors
/// [`GuestError::NoSources`] when the host's apt has no archive of Debian or Ubuntu.
pub(crate) fn distribution_sources(etc_apt: &Path, os_release: &str) -> Result<String, GuestError> {
    let suites = suites(os_release);
    let mut text = String::new();
    for stanza in host_stanzas(etc_apt) {
        let Some(stanza) = distribution_part(stanza, &suites) else { continue };
        text += "Types: deb\n";
        for (field, value) in stanza {
            text += &format!("{field}: {value}\n");
        }
        text += "\n";
    }
    if text.is_empty() { Err(GuestError::NoSources { folder: etc_apt.into() }) } else { Ok(text) }
}

/// The names under which the host's release and its updates are published. Debian's rolling names belong to it, too.
fn suites(os_release: &str) -> Vec<String> {
    let mut releases: Vec<String> =
        ["stable", "testing", "unstable", "sid", "oldstable"].map(String::from).into();
    for key in ["VERSION_CODENAME", "UBUNTU_CODENAME", "DEBIAN_CODENAME"] {
        let value = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        releases
            .extend(value.map(|value| value.trim_matches('"').to_string()).filter(|value| !value.is_empty()));
    }
    let variants = |release: String| {
        ["", "-updates", "-security", "/updates"].map(|suffix| format!("{release}{suffix}"))
    };
    releases.into_iter().flat_map(variants).collect()
}

/// The part of a stanza that is the distribution's: binary packages of its suites' component `main`, signed by its key.
fn distribution_part(stanza: Stanza, suites: &[String]) -> Option<Stanza> {
    let get = |name: &str| stanza.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| get(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    let disabled = get("enabled")
        .is_some_and(|value| matches!(value.trim().to_ascii_lowercase().as_str(), "no" | "false" | "0"));
    if disabled || !words("types").contains(&"deb") || !words("components").contains(&"main") {
        return None;
    }
    if let Some(keys) = get("signed-by").map(str::trim).filter(|keys| keys.starts_with('/')) {
        // Others have repositories with the same suites and components, but keys of their own.
        let own = |key: &str| {
            let name = Path::new(key).file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("debian-archive-") || name.starts_with("ubuntu-archive-")
        };
        if !keys.split([',', ' ']).filter(|key| !key.is_empty()).all(own) {
            return None;
        }
    }
    let own_suites: Vec<&str> =
        words("suites").into_iter().filter(|suite| suites.iter().any(|own| own == suite)).collect();
    if own_suites.is_empty() {
        return None;
    }
    let mut part = Stanza::new();
    for field in FIELDS {
        let value = match field {
            "suites" => Some(own_suites.join(" ")),
            "components" => Some("main".into()),
            _ => get(field).map(String::from),
        };
        part.extend(value.map(|value| (field.to_string(), value)));
    }
    Some(part)
}

/// All stanzas of the host's sources.list, *.list and *.sources files, in the order of their names. What cannot be read
/// is left out: apt itself reports that to its user.
fn host_stanzas(etc_apt: &Path) -> Vec<Stanza> {
    let mut files = vec![etc_apt.join("sources.list")];
    let parts = fs::read_dir(etc_apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    files.extend(parts);
    let mut stanzas = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => stanzas.extend(text.lines().filter_map(one_line)),
            Some("sources") => stanzas.extend(deb822(&text)),
            _ => {}
        }
    }
    stanzas
}

/// A line `deb [option=value ...] uri suite component...`.
fn one_line(line: &str) -> Option<Stanza> {
    let line = line.split('#').next()?.trim();
    let (kind, mut rest) = line.split_once(char::is_whitespace)?;
    let mut stanza = vec![("types".to_string(), kind.to_string())];
    rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        rest = after;
        for option in options.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            stanza.push((name.to_ascii_lowercase(), value.replace(',', " ")));
        }
    }
    let mut words = rest.split_whitespace();
    stanza.push(("uris".into(), words.next()?.into()));
    stanza.push(("suites".into(), words.next()?.into()));
    stanza.push(("components".into(), words.collect::<Vec<_>>().join(" ")));
    Some(stanza)
}

/// Stanzas of `Field: value` lines, separated by empty lines; a value goes on in lines that start with white space.
pub(crate) fn deb822(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::new()];
    for line in text.lines() {
        let Some(stanza) = stanzas.last_mut() else { break };
        if line.trim().is_empty() {
            if !stanza.is_empty() {
                stanzas.push(Stanza::new());
            }
        } else if line.starts_with('#') {
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.to_ascii_lowercase(), value.trim().into()));
        }
    }
    stanzas.retain(|stanza| !stanza.is_empty());
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";
    const NOBLE: &str = "ID=ubuntu\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n";

    fn sources(files: &[(&str, &str)], os_release: &str) -> Result<String, GuestError> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        distribution_sources(folder.path(), os_release)
    }

    #[test]
    fn deb822_files_keep_their_keys() {
        let debian = "# Comment\nTypes: deb deb-src\n# Comment\nURIs: http://deb.debian.org/debian\n\
                      Suites: bookworm bookworm-updates bookworm-backports\nComponents: main contrib\n\
                      Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\nTrusted: yes\n\n\n\
                      Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n";
        let text = sources(&[("sources.list.d/debian.sources", debian)], BOOKWORM).unwrap();
        assert_eq!(
            text,
            "Types: deb\nuris: http://deb.debian.org/debian\nsuites: bookworm bookworm-updates\n\
             components: main\nsigned-by: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        );
    }

    #[test]
    fn one_line_files_are_understood() {
        let list = "deb [arch=amd64 signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg trusted=yes] \
                    http://archive.ubuntu.com/ubuntu/ noble main universe # comment\n\
                    deb-src http://archive.ubuntu.com/ubuntu noble main\n#deb http://x noble main\n\
                    deb http://security.ubuntu.com/ubuntu noble-security main\n";
        let text = sources(&[("sources.list", list)], NOBLE).unwrap();
        assert_eq!(
            text,
            "Types: deb\nuris: http://archive.ubuntu.com/ubuntu/\nsuites: noble\ncomponents: main\n\
             signed-by: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\n\
             Types: deb\nuris: http://security.ubuntu.com/ubuntu\nsuites: noble-security\ncomponents: main\n\n"
        );
    }

    #[test]
    fn an_inline_key_stays_whole() {
        let text = "Types: deb\nURIs: http://m\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN-----\n .\n key\n";
        let text = sources(&[("sources.list.d/a.sources", text)], "ID=debian\n").unwrap();
        assert!(text.ends_with("signed-by: \n -----BEGIN-----\n .\n key\n\n"), "{text}");
    }

    #[test]
    fn repositories_of_others_are_left_out() {
        let list = "deb [signed-by=/usr/share/keyrings/tailscale-archive-keyring.gpg] https://pkgs.example/debian bookworm main\n\
                    deb https://apt.example/ bookworm-pgdg main\ndeb https://deb.example/node nodistro main\n\
                    deb https://download.example/linux/debian bookworm stable\nnonsense\ndeb\ndeb [ x\n";
        let error = sources(&[("sources.list.d/others.list", list)], BOOKWORM).unwrap_err();
        assert!(error.to_string().contains("names no Debian or Ubuntu archive"), "{error}");
    }
}
