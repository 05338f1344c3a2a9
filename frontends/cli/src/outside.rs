//! `--share FOLDER[,tag=TAG][,readonly=on]` and `--vsock cid=N,uds=PATH`.

use crate::drive::{pairs, switch};
use ringworld_machine::{Share, Vsock};

/// What a shared folder is called if nothing else is said.
const DEFAULT_TAG: &str = "share";

/// Parses `--share`.
pub fn parse_share(text: &str) -> Result<Share, String> {
    let text = if text.starts_with("path=") { text.into() } else { format!("path={text}") };
    let mut share = Share { folder: "".into(), tag: DEFAULT_TAG.into(), read_only: false };
    for (key, value) in pairs(&text)? {
        match &*key {
            "path" => share.folder = value.into(),
            "tag" if value.len() <= 255 => share.tag = value,
            "tag" => return Err("a tag has at most 255 bytes".into()),
            "readonly" => share.read_only = switch(&value)?,
            _ => return Err(format!("there is no {key}=; there are tag, readonly")),
        }
    }
    Ok(share)
}

/// Parses `--vsock`.
pub fn parse_vsock(text: &str) -> Result<Vsock, String> {
    let mut vsock = Vsock { cid: 3, path: "".into() };
    for (key, value) in pairs(text)? {
        match &*key {
            "uds" => vsock.path = value.into(),
            "cid" => {
                vsock.cid = value
                    .parse()
                    .ok()
                    .filter(|cid| (3..u32::MAX).contains(cid))
                    .ok_or_else(|| format!("cid={value}: give a number from 3 to 4294967294"))?;
            }
            _ => return Err(format!("there is no {key}=; there are cid, uds")),
        }
    }
    if vsock.path.as_os_str().is_empty() {
        return Err("uds= is missing: give the path of a UNIX socket".into());
    }
    Ok(vsock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let share = parse_share("/srv/a,,b,tag=data,readonly=on").unwrap();
        assert_eq!((share.folder.to_str(), &*share.tag, share.read_only), (Some("/srv/a,b"), "data", true));
        assert_eq!(parse_share(".").unwrap().tag, "share");
        let vsock = parse_vsock("cid=52,uds=/tmp/v").unwrap();
        assert_eq!((vsock.cid, vsock.path.to_str()), (52, Some("/tmp/v")));
        for text in ["", "x,tag=", "x,mode=1", "x,readonly=1"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
        for text in ["", "cid=3", "cid=2,uds=x", "cid=4294967295,uds=x", "uds=x,port=1"] {
            assert!(parse_vsock(text).is_err(), "{text}");
        }
    }
}
