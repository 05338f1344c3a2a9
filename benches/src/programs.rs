//! The micro-benchmarks: what there is, and how they are built.

use anyhow::{Context, Result, bail, ensure};
use ringworld_core::StateHasher;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a benchmark stresses; the report's sections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    Integer,
    Memory,
    Control,
    Float,
    Vector,
    Kernel,
    Code,
    Busybox,
}

/// How a benchmark is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A C program, compiled from this source.
    C(&'static str),
    /// A pipeline of busybox over the file `text`.
    Busybox(&'static str),
}

/// A benchmark and its amount of work in a guest, which takes a computer of 2023 about 20 ms natively.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// The report's section.
    pub group: Group,
    /// How many times its kernel runs.
    pub work: u64,
    /// What runs.
    pub kind: Kind,
}

macro_rules! c_programs {
    ($($name:ident $group:ident $work:literal;)*) => {
        [$(Program {
            name: stringify!($name),
            group: Group::$group,
            work: $work,
            kind: Kind::C(include_str!(concat!("../programs/", stringify!($name), ".c"))),
        }),*]
    };
}

const fn busybox(name: &'static str, work: u64, pipeline: &'static str) -> Program {
    Program { name, group: Group::Busybox, work, kind: Kind::Busybox(pipeline) }
}

/// In the order in which they are linked. New ones come last, so that the others' code stays where it is: where lines and pages end
/// in their loops makes a difference, natively and not.
const C_PROGRAMS: [Program; 34] = c_programs! {
    sieve Integer 120;
    matrix Integer 320;
    sort Integer 36;
    crc32 Integer 140;
    sha256 Integer 140;
    bytehash Integer 3500;
    memcopy Memory 3000;
    stride Memory 4000;
    chase Memory 160;
    fib Control 400;
    interpreter Control 1200;
    pointers Control 700;
    nbody Float 2000;
    mandelbrot Float 80;
    stencil Float 1500;
    fft Float 2400;
    transcend Float 2800;
    sse Vector 15000;
    avx2 Vector 5000;
    getpid Kernel 200;
    pagefault Kernel 120;
    pipe Kernel 60;
    fork Kernel 10;
    signal Kernel 130;
    smc Code 300;
    jit Code 800;
    coroutine Control 6600;
    x87 Float 240;
    gather Vector 25000;
    straddle Code 2000;
    scatter Memory 20;
    strings Memory 25;
    unmasked Float 1600;
    division Integer 48000;
};

const BUSYBOX_PROGRAMS: [Program; 4] = [
    busybox("bb-gzip", 4, "busybox gzip -c text"),
    busybox("bb-bzip2", 1, "busybox bzip2 -c text"),
    busybox("bb-sort", 2, "busybox sort text"),
    busybox(
        "bb-awk",
        2,
        "busybox awk '{ n[$1]++; s += $2; l += length($3) } END { for (w in n) t += n[w] * n[w]; print s, l, t }' text",
    ),
];

/// KiB of the file `text`.
const TEXT_SIZE: u32 = 256;
const TEXT_SOURCE: &str = include_str!("../programs/text.c");
const HEADERS: [(&str, &str); 2] =
    [("bench.h", include_str!("../programs/bench.h")), ("code.h", include_str!("../programs/code.h"))];

/// All benchmarks, in the order of the report.
pub fn all() -> impl Iterator<Item = Program> {
    let mut all: Vec<Program> = C_PROGRAMS.into_iter().chain(BUSYBOX_PROGRAMS).collect();
    all.sort_by_key(|program| program.group as u8);
    all.into_iter()
}

impl Program {
    /// A shell command that runs it with this amount of work, in the folder of the built programs, and prints the marker
    /// lines.
    pub fn command(&self, work: u64) -> String {
        let name = self.name;
        match self.kind {
            Kind::C(_) => format!("./{name} {work}"),
            Kind::Busybox(pipeline) => format!(
                "echo '@begin {name}'; i=0; s=$(while [ $i -lt {work} ]; do {pipeline}; i=$((i+1)); done \
                 | busybox md5sum); echo \"@end {name} ${{s%% *}}\""
            ),
        }
    }
}

/// The folder of the built programs, of `text` and of a busybox, for running them natively and for packing.
#[derive(Debug)]
pub struct Built {
    /// The folder.
    pub folder: PathBuf,
}

impl Built {
    /// Compiles what is missing into a folder of `cache`, by `cc` (or `$CC`).
    pub fn new(cache: &Path, busybox: &Path) -> Result<Self> {
        let cc = compiler();
        let version = output(Command::new(&cc).arg("--version"))
            .with_context(|| format!("a C compiler is needed ({cc}); set CC to yours"))?;
        let busybox_bytes =
            fs::read(busybox).with_context(|| format!("cannot read busybox from {}", busybox.display()))?;
        let mut hasher = StateHasher::new();
        hasher.add(&(&version, &busybox_bytes, HEADERS, TEXT_SOURCE, TEXT_SIZE));
        for program in C_PROGRAMS {
            if let Kind::C(source) = program.kind {
                hasher.add(&(program.name, source));
            }
        }
        let folder = cache.join(format!("{:032x}", hasher.digest()));
        let built = Self { folder };
        if !built.folder.is_dir() {
            fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
            let new = tempfile::tempdir_in(cache)?;
            build(&cc, new.path(), &busybox_bytes)?;
            // Another process may have been faster: its folder has the same content.
            if fs::rename(new.path(), &built.folder).is_err() && !built.folder.is_dir() {
                bail!("cannot create {}", built.folder.display());
            }
        }
        Ok(built)
    }

    /// The file of this name.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}; delete its folder", path.display()))
    }
}

/// One static binary holds all C programs, to keep the initramfs small; each name is a link to it.
pub const BINARY: &str = "benchmarks";

/// The names of the links to [`BINARY`].
pub fn links() -> impl Iterator<Item = &'static str> {
    C_PROGRAMS.into_iter().map(|program| program.name)
}

fn build(cc: &str, folder: &Path, busybox: &[u8]) -> Result<()> {
    let compile = |name: &str, source: &str, options: &[&str]| -> Result<()> {
        let file = folder.join(name).with_extension("c");
        fs::write(&file, source)?;
        output(Command::new(cc).current_dir(folder).args(["-O2", "-static"]).args(options).arg(&file))
            .with_context(|| format!("cannot compile {name}"))?;
        Ok(())
    };
    for (name, text) in HEADERS {
        fs::write(folder.join(name), text)?;
    }
    let mut dispatch = String::from("#include <string.h>\n");
    let mut choices = String::new();
    let mut objects = Vec::new();
    for program in C_PROGRAMS {
        if let Kind::C(source) = program.kind {
            let name = program.name;
            compile(name, source, &["-c", &format!("-Dmain={name}_main")])?;
            dispatch += &format!("int {name}_main(int, char **);\n");
            choices += &format!("if (!strcmp(name, \"{name}\")) return {name}_main(argc, argv);\n");
            objects.push(format!("{name}.o"));
        }
    }
    dispatch += &format!(
        "int main(int argc, char **argv) {{\nconst char *slash = strrchr(argv[0], '/');\n\
         const char *name = slash ? slash + 1 : argv[0];\n{choices}return 127;\n}}\n"
    );
    compile("dispatch", &dispatch, &["-c"])?;
    objects.push("dispatch.o".into());
    let linked = Command::new(cc)
        .current_dir(folder)
        .args(["-static", "-s", "-o", BINARY])
        .args(&objects)
        .arg("-lm")
        .output()?;
    ensure!(linked.status.success(), "cannot link: {}", String::from_utf8_lossy(&linked.stderr).trim_end());
    for name in links() {
        std::os::unix::fs::symlink(BINARY, folder.join(name))?;
    }
    compile("text", TEXT_SOURCE, &["-o", "text-generator"])?;
    let text = output(Command::new(folder.join("text-generator")).arg(TEXT_SIZE.to_string()))?;
    fs::write(folder.join("text"), text)?;
    let path = folder.join("busybox");
    fs::write(&path, busybox)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// The system's C compiler: `$CC` or `cc`.
pub fn compiler() -> String {
    std::env::var("CC").unwrap_or_else(|_| "cc".into())
}

/// What a command prints; its own error message if it fails.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markers::Costs;

    #[test]
    fn programs_compute_the_same_for_the_same_work_only() {
        let folder = tempfile::tempdir().unwrap();
        build(&compiler(), folder.path(), b"no busybox").unwrap();
        let text = fs::read(folder.path().join("text")).unwrap();
        assert!(text.len() >= TEXT_SIZE as usize * 1024);
        for program in C_PROGRAMS {
            let run = |work| {
                let mut shell = Command::new("sh");
                shell.current_dir(folder.path()).args(["-c", &program.command(work)]);
                let mut costs = Costs::default();
                for line in String::from_utf8(output(&mut shell).unwrap()).unwrap().lines() {
                    costs.line(line, 0.0, false);
                }
                (costs.programs.remove(program.name), costs.skipped.remove(program.name))
            };
            let (sum, skipped) = run(1);
            assert!(sum.is_some() != skipped.is_some(), "{}: {sum:?}, {skipped:?}", program.name);
            assert_eq!(run(1).0, sum, "{}", program.name);
            if sum.is_some() {
                assert_ne!(run(2).0, sum, "{}", program.name);
            }
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = all().map(|program| program.name).collect();
        assert_eq!(names.len(), all().count());
    }
}
