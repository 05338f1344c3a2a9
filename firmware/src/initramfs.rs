//! The initial file system of a guest that runs busybox.

use crate::{Archive, CpioError};

/// The line that the default `/init` prints on the console when user space runs.
pub const USERSPACE_MARKER: &str = "RINGWORLD-USERSPACE";

/// Where [`Initramfs::script`] goes; `/init` runs it in place of the shell.
const SCRIPT: &str = "etc/ringworld/script";

/// The first program: a working system around a shell on the console, switched off when the shell ends.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp
hostname ringworld
for module in /lib/modules/load/*; do [ -e "$module" ] && insmod "$module"; done
# A console whose driver was a module was not there when the kernel opened this program's.
grep -q console=hvc0 /proc/cmdline && exec </dev/hvc0 >/dev/hvc0 2>&1
cd /root
echo "RINGWORLD-USERSPACE"
if [ -x /etc/ringworld/script ]; then
    /etc/ringworld/script
else
    setsid cttyhack sh -l
fi
sync
poweroff -f
"#;

const PROFILE: &str = "export PS1='\\u@\\h:\\w\\$ '\n";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";
const GROUP: &str = "root:x:0:\n";

/// Builds the initial file system around a static busybox.
pub struct Initramfs {
    archive: Archive,
    /// How many modules there are.
    modules: usize,
}

impl Initramfs {
    /// The default system with this busybox binary.
    ///
    /// # Errors
    /// [`CpioError::TooLarge`], when it is no busybox.
    pub fn new(busybox: impl Into<Vec<u8>>) -> Result<Self, CpioError> {
        let mut archive = Archive::new();
        for directory in ["bin", "dev", "proc", "sbin", "sys", "usr/bin", "usr/sbin", "lib/modules", "mnt"] {
            archive.directory(directory, 0o755)?;
        }
        archive.directory("root", 0o700)?;
        archive.directory("tmp", 0o1777)?;
        archive.file("bin/busybox", 0o755, busybox)?;
        // Other links follow at run time; scripts start with this one.
        archive.symlink("bin/sh", "busybox")?;
        // Before devtmpfs is there, init's own input and output.
        archive.character_device("dev/console", 0o600, 5, 1)?;
        archive.character_device("dev/null", 0o666, 1, 3)?;
        archive.file("etc/profile", 0o644, PROFILE)?;
        archive.file("etc/passwd", 0o644, PASSWD)?;
        archive.file("etc/group", 0o644, GROUP)?;
        archive.file("init", 0o755, INIT)?;
        Ok(Self { archive, modules: 0 })
    }

    /// Runs this script, with its `#!` line, in place of the shell; the guest switches off when it ends.
    pub fn script(&mut self, script: &str) -> Result<&mut Self, CpioError> {
        self.archive.file(SCRIPT, 0o755, script)?;
        Ok(self)
    }

    /// Has `/init` load a kernel module, after those added before.
    pub fn module(&mut self, file: &str, data: impl Into<Vec<u8>>) -> Result<&mut Self, CpioError> {
        self.archive.file(&format!("lib/modules/load/{:03}-{file}", self.modules), 0o644, data)?;
        self.modules += 1;
        Ok(self)
    }

    /// The archive, to add files or to replace `/init`.
    pub fn archive(&mut self) -> &mut Archive {
        &mut self.archive
    }

    /// The initrd's bytes.
    pub fn finish(&self) -> Vec<u8> {
        self.archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_says_the_marker_and_runs_the_script() {
        assert!(INIT.contains(&format!("echo \"{USERSPACE_MARKER}\"")));
        assert!(INIT.contains(&format!("[ -x /{SCRIPT} ]")));
    }

    #[test]
    fn the_archive_can_be_extended() {
        let mut initramfs = Initramfs::new(*b"busybox").unwrap();
        let plain = initramfs.finish();
        initramfs.script("#!/bin/sh\necho done\n").unwrap();
        initramfs.module("b.ko", *b"b").unwrap().module("a.ko", *b"a").unwrap();
        initramfs.archive().file("bin/bench", 0o755, *b"bench").unwrap();
        let extended = initramfs.finish();
        assert!(extended.len() > plain.len());
        let find = |needle: &[u8]| extended.windows(needle.len()).any(|window| window == needle);
        assert!(find(b"etc/ringworld/script\0") && find(b"echo done") && find(b"bin/bench\0"));
        assert!(find(b"lib/modules/load/000-b.ko\0") && find(b"lib/modules/load/001-a.ko\0"));
    }
}
