//! PTX that nvcc makes of CUDA sources, each made once and kept in the target folder.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process, thread};

// build.rs looks for nvcc with the same code.
#[path = "../../../build/nvcc.rs"]
mod nvcc;

/// What a test says that is skipped for want of nvcc.
pub const NO_NVCC: &str = "needs nvcc, which `cargo xtask toolchain` fetches";

/// `-lineinfo` so that reports name lines of the source.
const FLAGS: [&str; 4] = ["-ptx", "-lineinfo", "-std=c++17", "-O3"];

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR"));
    emulator.parent().unwrap_or(emulator)
}

/// A CUDA source with the headers that lie beside it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file to compile.
    pub file: String,
    /// Text by file name.
    pub files: BTreeMap<String, String>,
}

impl Source {
    /// Reads it.
    pub fn read(folder: &Path, file: &str) -> Result<Self, String> {
        let cannot = |what: &Path, error| format!("cannot read {}: {error}", what.display());
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(|error| cannot(folder, error))? {
            let path = entry.map_err(|error| cannot(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_header = name.ends_with(".cuh") || name.ends_with(".h");
            if is_header || name == file {
                let text = fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
                files.insert(name, text);
            }
        }
        if !files.contains_key(file) {
            return Err(format!("{} has no {file}", folder.display()));
        }
        Ok(Self { file: file.into(), files })
    }

    /// Replaces what is in one of the files once.
    pub fn replace(&mut self, file: &str, find: &str, replace: &str) -> Result<(), String> {
        let text = self.files.get_mut(file).ok_or_else(|| format!("there is no {file}"))?;
        match text.matches(find).count() {
            1 => *text = text.replacen(find, replace, 1),
            places => return Err(format!("what is to be replaced is in {file} {places} times")),
        }
        Ok(())
    }
}

/// nvcc, and where its results are kept.
#[derive(Debug)]
pub struct Compiler {
    nvcc: PathBuf,
    version: String,
    cache: PathBuf,
}

impl Compiler {
    /// The nvcc that build.rs would take, if there is one. `cache` is a folder to keep results in.
    pub fn find(cache: &Path) -> Result<Option<Self>, String> {
        let Some(found) = nvcc::find(workspace())? else { return Ok(None) };
        let version = output_of(Command::new(&found.path).arg("--version"))?;
        Ok(Some(Self { nvcc: found.path, version, cache: cache.join("ptx") }))
    }

    /// PTX for an architecture such as `90`.
    pub fn ptx(&self, source: &Source, architecture: &str) -> Result<String, String> {
        let mut hasher = DefaultHasher::new();
        (&self.version, FLAGS, architecture, &source.file, &source.files).hash(&mut hasher);
        let folder = self.cache.join(format!("{:016x}", hasher.finish()));
        let kept = folder.join("kernel.ptx");
        if let Ok(ptx) = fs::read_to_string(&kept) {
            return Ok(ptx);
        }
        let cannot = |what: &Path, error| format!("cannot write {}: {error}", what.display());
        fs::create_dir_all(&folder).map_err(|error| cannot(&folder, error))?;
        for (name, text) in &source.files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| cannot(&path, error))?;
        }
        // Renamed when it is complete, so that nobody reads a part of it.
        let unique = format!("{}-{:?}.ptx", process::id(), thread::current().id());
        let made = folder.join(unique);
        let mut command = Command::new(&self.nvcc);
        command.args(FLAGS).arg(format!("-arch=compute_{architecture}"));
        if let (None, Some(compiler)) = (env::var_os("NVCC_CCBIN"), env::var_os("CXX")) {
            command.arg("-ccbin").arg(compiler);
        }
        command.arg("-o").arg(&made).arg(folder.join(&source.file));
        output_of(&mut command)?;
        fs::rename(&made, &kept).map_err(|error| cannot(&kept, error))?;
        fs::read_to_string(&kept).map_err(|error| format!("{}: {error}", kept.display()))
    }
}

/// What a command prints, or the command and its complaint.
fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}\nfailed ({}):\n{stdout}{stderr}", output.status))
}
