//! `--drive file=F,if=virtio,...`, as QEMU's users know it.

use ringworld_machine::{DiskOptions, Drive, ImageFormat, Interface};

/// The keys of `text` (`key=value,...`) with their values; `,,` is a comma in a value.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' || chars.next_if_eq(&',').is_some() {
            parts.last_mut().into_iter().for_each(|part| part.push(c));
        } else {
            parts.push(String::new());
        }
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) if !value.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err(format!("{part:?} is not key=value")),
    };
    parts.into_iter().map(pair).collect()
}

/// `on` or `off`.
pub fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{value:?} is neither on nor off")),
    }
}

/// Parses the option.
pub fn parse_drive(text: &str) -> Result<Drive, String> {
    let mut disk = DiskOptions::new("");
    let (mut interface, mut cdrom) = (Interface::Virtio, false);
    for (key, value) in pairs(text)? {
        match &*key {
            "file" => disk.file = value.into(),
            "format" => {
                let format =
                    value.parse().map_err(|()| format!("the format {value:?} is neither raw nor qcow2"))?;
                disk.format = Some(format);
            }
            "if" => {
                interface = match &*value {
                    "virtio" => Interface::Virtio,
                    "nvme" => Interface::Nvme,
                    "ahci" | "ide" => Interface::Ahci,
                    _ => return Err(format!("there is no interface {value:?}: give virtio, nvme or ahci")),
                }
            }
            "media" => {
                cdrom = match &*value {
                    "cdrom" => true,
                    "disk" => false,
                    _ => return Err(format!("there is no medium {value:?}: give disk or cdrom")),
                }
            }
            "readonly" => disk.read_only = switch(&value)?,
            "snapshot" => disk.snapshot = switch(&value)?,
            _ => {
                return Err(format!(
                    "there is no {key}=; there are file, format, if, media, readonly, snapshot"
                ));
            }
        }
    }
    if disk.file.as_os_str().is_empty() {
        return Err("file= is missing".into());
    }
    if cdrom {
        (interface, disk.read_only) = (Interface::AhciCdrom, true);
    }
    Ok(Drive { disk, interface })
}

/// A disc for `--cdrom`.
pub fn disc(file: &std::path::Path) -> Drive {
    let disk = DiskOptions { read_only: true, format: Some(ImageFormat::Raw), ..DiskOptions::new(file) };
    Drive { disk, interface: Interface::AhciCdrom }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives() {
        let drive = parse_drive("file=a,,b.img,format=raw,if=virtio,snapshot=on").unwrap();
        assert_eq!(drive.disk.file.to_str(), Some("a,b.img"));
        assert!(drive.disk.snapshot && !drive.disk.read_only);
        for text in
            ["", "file=", "if=virtio", "file=x,if=scsi", "file=x,format=vhd", "file=x,readonly=yes", "x"]
        {
            assert!(parse_drive(text).is_err(), "{text}");
        }
    }
}
