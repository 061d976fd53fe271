//! `cargo xtask bundle`: tests and benchmarks for a machine that has a GPU and no Rust.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, compare, driver, process, toolchain, workspace};

/// Puts test and benchmark programs with a run.sh into target/bundle/, for a GPU machine
///
/// The C interface's library and its Python loader come along, for what else is compared there.
///
/// Copy the folder there and run `run.sh tests|sanitize|bench|tune|compare OUT_DIR`. It needs a driver and
/// the C library that this command states, nothing else.
#[derive(clap::Args)]
pub struct Arguments {
    /// Compute capabilities to compile for, as SMOOTHXENT_CUDA_ARCHS takes them, which is asked next;
    /// else 90 (H100, H200), whose PTX serves later ones; each adds some 9 MB
    #[arg(long, value_name = "LIST")]
    architectures: Option<String>,
}

/// H100 and H200. With two, three copies of all kernels are over the limit.
const DEFAULT_ARCHITECTURES: &str = "90";

const RUN_SH: &str = include_str!("../bundle/run.sh");

/// The test program and the benchmarks. Each has all kernels in it, some 5 MB; benches/device.rs, which
/// measures little that `fused` does not, stays here for that reason.
const PROGRAMS: [&str; 2] = ["device", "fused"];

/// The C interface, which has all kernels too, and its package.
const LIBRARY: &str = "libsmoothxent_c.so";
const LIBRARY_PACKAGE: &str = "smoothxent-capi";

/// Files that lie beside the programs there.
const BESIDE: [&str; 3] = ["benches/peers.py", "benches/peers", "capi/python/smoothxent.py"];

/// Files and folders that keep their place: the programs look for them from their folder.
const DATA: [&str; 1] = ["tests/data/golden"];

/// What was built of what; run.sh puts it into the record of a run.
const DESCRIPTION: &str = "build.txt";

/// What Python leaves beside sources.
const PYTHON_CACHE: &str = "__pycache__";

const MAX_MEGABYTES: f64 = 40.0;

pub fn run(arguments: &Arguments) -> Result<()> {
    let nvcc = toolchain::ensure_nvcc()?;
    let architectures = arguments
        .architectures
        .clone()
        .or_else(|| env::var(driver::ARCHITECTURES).ok())
        .unwrap_or_else(|| DEFAULT_ARCHITECTURES.to_owned());
    let mut build = cargo::in_workspace("test");
    build
        .args(["--no-run", "--test=device", "--bench=fused"])
        .env(driver::ARCHITECTURES, &architectures);
    let built = cargo::build(build)?.tests();
    let mut build = cargo::command("build");
    build
        .args([cargo::PROFILE, "--package", LIBRARY_PACKAGE])
        .env(driver::ARCHITECTURES, &architectures);
    let library = cargo::build(build)?.library(LIBRARY)?;

    let root = workspace::root();
    let folder = workspace::target().join("bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    create(&folder)?;
    let mut glibc = (0, 0);
    let mut programs = vec![(compare::PROGRAM, compare::build()?), (LIBRARY, library)];
    for name in PROGRAMS {
        let program = built
            .iter()
            .find(|program| program.name == name)
            .with_context(|| format!("cargo built no program named {name}"))?;
        programs.push((name, program.path.clone()));
    }
    for (name, program) in programs {
        let stripped = folder.join(name);
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&stripped).arg(&program);
        process::run_quietly("strip", &mut strip)
            .context("strip comes with binutils, as gcc's linker does")?;
        glibc = glibc.max(needed_glibc(&read(&stripped)?));
    }
    for data in DATA {
        copy(&root.join(data), &folder.join(data))?;
    }
    for file in BESIDE.map(|file| root.join(file)) {
        copy(&file, &folder.join(file.file_name().unwrap_or_default()))?;
    }
    let description = folder.join(DESCRIPTION);
    let rustc = process::run_quietly("rustc", Command::new("rustc").arg("--version"))?;
    let text = format!(
        "commit: {}\nrustc: {}\nnvcc: {nvcc}\narchitectures: {architectures}\n",
        commit(),
        rustc.trim()
    );
    fs::write(&description, text)
        .with_context(|| format!("cannot write {}", description.display()))?;
    let script = folder.join("run.sh");
    fs::write(&script, RUN_SH).with_context(|| format!("cannot write {}", script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", script.display()))?;

    let megabytes = bytes_in(&folder)? as f64 / 1e6;
    println!(
        "{} ({megabytes:.1} MB, for {architectures}): copy it to a machine with an NVIDIA driver and glibc \
         {}.{} or newer, and run\n    ./run.sh tests|sanitize|bench|tune|compare OUT_DIR",
        workspace::relative(&folder),
        glibc.0,
        glibc.1
    );
    if megabytes > MAX_MEGABYTES {
        bail!("the bundle is over {MAX_MEGABYTES} MB");
    }
    Ok(())
}

/// The commit that is checked out, and whether that is all that was built. `report --add` takes no other
/// word than a commit's, so that what cannot be told has to be said there.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        process::run_quietly("git", git.current_dir(workspace::root()).args(arguments))
    };
    let (Ok(commit), Ok(changes)) =
        (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain"]))
    else {
        return "unknown".into();
    };
    let modified = if changes.trim().is_empty() { "" } else { "-modified" };
    format!("{}{modified}", commit.trim())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Copies a file, or a folder with all that is in it but [`PYTHON_CACHE`].
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(());
    }
    create(to)?;
    for name in names_in(from)?.into_iter().filter(|name| name != PYTHON_CACHE) {
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .with_context(|| format!("cannot list {}", folder.display()))
}

fn bytes_in(path: &Path) -> Result<u64> {
    if path.is_dir() {
        let names = names_in(path)?;
        return names.iter().map(|name| bytes_in(&path.join(name))).sum();
    }
    let metadata = path.metadata().with_context(|| format!("cannot measure {}", path.display()))?;
    Ok(metadata.len())
}

/// The newest `GLIBC_2.34` and the like among the symbol versions that a program names.
fn needed_glibc(program: &[u8]) -> (u32, u32) {
    const PREFIX: &[u8] = b"GLIBC_";
    let version = |start: usize| {
        let text: Vec<u8> = program[start + PREFIX.len()..]
            .iter()
            .copied()
            .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
            .collect();
        let text = String::from_utf8(text).ok()?;
        let mut numbers = text.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let starts = program
        .windows(PREFIX.len())
        .enumerate()
        .filter_map(|(start, window)| (window == PREFIX).then_some(start));
    starts.filter_map(version).max().unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::needed_glibc;

    #[test]
    fn finds_the_newest_symbol_version() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0";
        assert_eq!(needed_glibc(program), (2, 34));
        assert_eq!(needed_glibc(b"static"), (0, 0));
    }
}
