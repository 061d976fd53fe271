//! `cargo xtask toolchain`: a CUDA compiler without an installed CUDA.
//!
//! NVIDIA publishes the compiler as Python wheels. They go into a virtual environment in
//! `.toolchain/`, and two links give them paths that do not depend on Python's version:
//! `.toolchain/cuda` (bin, include, ...) and `.toolchain/libclang` (for `cargo xtask codegen`).

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

// build.rs looks for nvcc with the same code.
#[path = "../../build/nvcc.rs"]
mod nvcc;

use nvcc::Origin;

/// Fetches nvcc into .toolchain/ unless this machine has one
///
/// Python wheels of NVIDIA's compiler go into a virtual environment of their own; the rest of the
/// machine is left alone. Removing .toolchain/ undoes it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fetch nvcc even if the machine has one
    #[arg(long)]
    fetch: bool,
    /// Also fetch cuobjdump and nvdisasm, for `cargo xtask sass`
    #[arg(long)]
    disassemblers: bool,
    /// Also fetch libclang, for `cargo xtask codegen`
    #[arg(long)]
    libclang: bool,
}

/// Wheels that are installed together.
struct Part {
    name: &'static str,
    wheels: &'static [&'static str],
    megabytes: u32,
    license: &'static str,
    /// In site-packages.
    folder: &'static str,
    /// In .toolchain, pointing at `folder`.
    link: &'static str,
}

const NVIDIA_LICENSE: &str =
    "NVIDIA's CUDA licence applies; downloaded to this machine, never redistributed";

/// CUDA 13.0 because drivers from 580 up take its PTX; an older driver refuses a newer nvcc's.
const COMPILER: Part = Part {
    name: "nvcc 13.0",
    wheels: &[
        "nvidia-cuda-nvcc==13.0.88",
        "nvidia-cuda-crt==13.0.88",
        "nvidia-nvvm==13.0.88",
        "nvidia-cuda-runtime==13.0.96",
        "nvidia-cuda-cccl==13.0.85",
    ],
    megabytes: 105,
    license: NVIDIA_LICENSE,
    folder: "nvidia/cu13",
    link: "cuda",
};

const DISASSEMBLERS: Part = Part {
    name: "cuobjdump and nvdisasm",
    wheels: &["nvidia-cuda-cuobjdump==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"],
    megabytes: 6,
    license: NVIDIA_LICENSE,
    folder: "nvidia/cu13",
    link: "cuda",
};

const LIBCLANG: Part = Part {
    name: "libclang 18",
    wheels: &["libclang==18.1.1"],
    megabytes: 25,
    license: "Apache-2.0 with LLVM exceptions",
    folder: "clang/native",
    link: "libclang",
};

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.fetch {
        fetch(&COMPILER)?;
    }
    println!("nvcc: {}", ensure_nvcc()?);
    if arguments.disassemblers {
        println!("cuobjdump: {}", workspace::relative(&ensure_cuobjdump()?));
    }
    if arguments.libclang {
        ensure_libclang()?;
        println!("libclang: {}", workspace::relative(&libclang_folder()));
    }
    Ok(())
}

/// The nvcc that build.rs will find.
pub struct Compiler {
    pub path: PathBuf,
    origin: &'static str,
    version: String,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let path = workspace::relative(&self.path);
        write!(f, "{path} ({}, {})", self.origin, self.version)
    }
}

/// Makes sure that build.rs finds an nvcc, and that it works.
pub fn ensure_nvcc() -> Result<Compiler> {
    let fetched = workspace::root().join(nvcc::FETCHED);
    let found = nvcc::find(workspace::root()).map_err(anyhow::Error::msg)?;
    let (path, origin) = match found.map(|nvcc| (nvcc.origin, nvcc.path)) {
        Some((Origin::Variable, path)) => (path, "from NVCC"),
        Some((Origin::Path, path)) => (path, "from PATH"),
        Some((Origin::CudaFolder, path)) => (path, "installed CUDA"),
        Some((Origin::Fetched, _)) | None => {
            fetch(&COMPILER)?;
            (fetched.clone(), "fetched")
        }
    };
    let version = version_of(&path).with_context(|| {
        format!(
            "the nvcc that builds would use ({}, {origin}) does not work; repair or remove it, or \
             run `cargo xtask toolchain --fetch` and set NVCC={}",
            path.display(),
            fetched.display(),
        )
    })?;
    Ok(Compiler { path, origin, version })
}

/// Whether this machine has an nvcc of its own, which build.rs finds in any package.
pub fn is_nvcc_installed() -> bool {
    nvcc::find(workspace::root())
        .is_ok_and(|found| found.is_some_and(|nvcc| nvcc.origin != Origin::Fetched))
}

impl Compiler {
    /// The highest compute capability that it compiles for, as it writes it: 90 is 9.0.
    pub fn newest_capability(&self) -> Result<u32> {
        let mut command = Command::new(&self.path);
        let text = process::run_quietly("asking nvcc", command.arg("--list-gpu-code"))?;
        text.lines()
            .filter_map(|line| line.strip_prefix("sm_")?.parse().ok())
            .max()
            .with_context(|| format!("{} names no architecture", self.path.display()))
    }
}

/// cuobjdump beside the installed nvcc, else a fetched one.
pub fn ensure_cuobjdump() -> Result<PathBuf> {
    if let Some(found) = nvcc::find(workspace::root()).map_err(anyhow::Error::msg)? {
        let beside = found.path.with_file_name("cuobjdump");
        if found.origin != Origin::Fetched && beside.is_file() {
            return Ok(beside);
        }
    }
    fetch(&DISASSEMBLERS)?;
    Ok(link_of(&DISASSEMBLERS).join("bin/cuobjdump"))
}

/// The folder of the libclang that codegen is pinned to.
pub fn libclang_folder() -> PathBuf {
    link_of(&LIBCLANG)
}

/// Makes sure that it is there.
pub fn ensure_libclang() -> Result<()> {
    fetch(&LIBCLANG)
}

/// The line of `nvcc --version` that has the number.
fn version_of(nvcc: &Path) -> Result<String> {
    let text = process::run_quietly("asking nvcc", Command::new(nvcc).arg("--version"))?;
    let line = text.lines().find(|line| line.contains("release"));
    Ok(line.unwrap_or("unknown version").trim().to_owned())
}

fn folder() -> PathBuf {
    workspace::root().join(".toolchain")
}

fn link_of(part: &Part) -> PathBuf {
    folder().join(part.link)
}

/// Installs `part` unless the stamp says that these very versions are there.
fn fetch(part: &Part) -> Result<()> {
    let installed = Stamp::read();
    if installed.has(part) && link_of(part).exists() {
        return Ok(());
    }
    if installed.wheels.is_empty() || installed.is_outdated() {
        make_environment()?;
    }
    eprintln!("Fetching {}: {} MB to download ({}).", part.name, part.megabytes, part.license);
    let python = folder().join("venv/bin/python");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--progress-bar=off"])
        .args(part.wheels);
    process::run_quietly("pip", &mut pip).with_context(|| {
        format!(
            "cannot install {}: is there a network, and does pip reach its index? (a proxy goes \
             into HTTPS_PROXY, another index into PIP_INDEX_URL)",
            part.name
        )
    })?;
    link(part)?;
    Stamp::read().add(part)
}

/// A fresh virtual environment: the wheels share folders, and pip cannot upgrade some of them cleanly.
fn make_environment() -> Result<()> {
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove the outdated {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if Command::new("python3").arg("--version").output().is_err() {
        bail!(
            "python3 was not found. It fetches NVIDIA's compiler: install python3 with its venv \
             module (Debian, Ubuntu: apt install python3 python3-venv), or install the CUDA toolkit."
        );
    }
    let mut create = Command::new("python3");
    create.args(["-m", "venv"]).arg(folder.join("venv"));
    process::run_quietly("python3 -m venv", &mut create).context(
        "python3 cannot make a virtual environment: its venv module or ensurepip is missing \
         (Debian, Ubuntu: apt install python3-venv; conda: conda install pip)",
    )?;
    Ok(())
}

/// Points `.toolchain/<link>` at the part's folder in whatever site-packages Python has.
fn link(part: &Part) -> Result<()> {
    let libraries = folder().join("venv/lib");
    let versions =
        fs::read_dir(&libraries).with_context(|| format!("cannot list {}", libraries.display()))?;
    let target = versions
        .filter_map(|version| {
            let relative = Path::new("venv/lib").join(version.ok()?.file_name());
            Some(relative.join("site-packages").join(part.folder))
        })
        .find(|target| folder().join(target).is_dir())
        .with_context(|| {
            format!(
                "pip installed {}, but no {} is in {}; remove .toolchain/ and try again",
                part.name,
                part.folder,
                libraries.display()
            )
        })?;
    let link = link_of(part);
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    symlink(&target, &link).with_context(|| format!("cannot link {}", link.display()))
}

/// The wheels that are completely installed, one a line, in `.toolchain/stamp`.
struct Stamp {
    wheels: BTreeSet<String>,
}

impl Stamp {
    fn path() -> PathBuf {
        folder().join("stamp")
    }

    fn read() -> Self {
        let text = fs::read_to_string(Self::path()).unwrap_or_default();
        Self { wheels: text.lines().map(str::to_owned).collect() }
    }

    fn has(&self, part: &Part) -> bool {
        part.wheels.iter().all(|wheel| self.wheels.contains(*wheel))
    }

    /// Whether a wheel is there in a version that is no longer asked for.
    fn is_outdated(&self) -> bool {
        let asked: BTreeSet<&str> = [COMPILER, DISASSEMBLERS, LIBCLANG]
            .iter()
            .flat_map(|part| part.wheels)
            .copied()
            .collect();
        self.wheels.iter().any(|wheel| !asked.contains(wheel.as_str()))
    }

    fn add(mut self, part: &Part) -> Result<()> {
        self.wheels.extend(part.wheels.iter().map(|wheel| (*wheel).to_owned()));
        let lines: Vec<String> = self.wheels.into_iter().collect();
        let path = Self::path();
        fs::write(&path, lines.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
