//! Compiles each `kernels/<stem>.cu` with nvcc to `$OUT_DIR/<stem>.fatbin`, which the crate embeds.
//!
//! * `SMOOTHXENT_CUDA_ARCHS` chooses the architectures: `all` (the default), `native`, a list such
//!   as `80,90`, where `90-real` is machine code alone and `90-virtual` PTX alone, `packaged`, or `none`.
//! * nvcc is taken from `NVCC`, `PATH`, `CUDA_HOME`, `CUDA_PATH`, the usual folders, or the toolchain
//!   that `cargo xtask toolchain` fetched, in this order. `NVCC_CCBIN` or `CXX` names the host compiler.
//! * Without nvcc the images of the published package are taken, if it is one and they hold what is asked
//!   for. Else they are empty: the crate builds, and loading a kernel is a typed error.
//! * A compilation that fails fails the build, with nvcc's command line and output.
//! * An image is compiled again when nvcc, its command line or a file that it read has changed.
//! * `SMOOTHXENT_LINEINFO=1` adds the lines of the source, for profilers.
//! * `SMOOTHXENT_DENY_WARNINGS=1` makes nvcc's warnings errors; a checkout's own builds have it set.
//!
//! The crate learns the result from two compile-time variables: `SMOOTHXENT_IMAGE_ARCHS` lists what
//! every image holds ("sm_80,sm_90,compute_90"; empty if nothing), and `SMOOTHXENT_IMAGE_ORIGIN`
//! says who compiled them, or why they are empty.

use std::env;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

#[path = "build/architectures.rs"]
mod architectures;
#[path = "build/images.rs"]
mod images;
#[path = "build/nvcc.rs"]
mod nvcc;

use architectures::{ARCHS_VARIABLE, Request, Targets};

const NVCC_FLAGS: [&str; 3] = ["-fatbin", "-std=c++17", "-O3"];

/// For those who work on the kernels: a user's nvcc may warn of what none has warned of yet.
const DENY_WARNINGS: [&str; 2] = ["-Werror", "all-warnings"];
const DENY_WARNINGS_VARIABLE: &str = "SMOOTHXENT_DENY_WARNINGS";

/// More than doubles the size.
const LINEINFO: &str = "-lineinfo";
const LINEINFO_VARIABLE: &str = "SMOOTHXENT_LINEINFO";

/// An eighth of the size, where nvcc knows the option (12.8 and later). The emulated driver reads this
/// compression, and none.
const COMPRESS: &str = "--compress-mode=size";

/// What nvcc reads beside its command line.
const NVCC_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// Everything else but `PATH`, for which see [`watch_for_nvcc`].
const WATCHED_VARIABLES: [&str; 7] = [
    ARCHS_VARIABLE,
    LINEINFO_VARIABLE,
    DENY_WARNINGS_VARIABLE,
    "NVCC",
    "CUDA_HOME",
    "CUDA_PATH",
    "DOCS_RS",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\n{message}\n");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    watch("kernels");
    for variable in WATCHED_VARIABLES.iter().chain(&NVCC_VARIABLES) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out_dir = PathBuf::from(required_variable("OUT_DIR")?);
    let kernels = find_kernels(Path::new("kernels"))?;

    if env::var_os("DOCS_RS").is_some() {
        return write_empty_images(&kernels, &out_dir, "docs.rs");
    }
    let request = Request::parse(&env::var(ARCHS_VARIABLE).unwrap_or_default())?;
    if request == Request::Nothing {
        let reason = format!("{ARCHS_VARIABLE}=none");
        return write_empty_images(&kernels, &out_dir, &reason);
    }
    let folder = PathBuf::from(required_variable("CARGO_MANIFEST_DIR")?);
    let packaged = || Packaged::find(&folder, &request);
    if request == Request::Packaged {
        let images = packaged().map_err(|why_not| {
            format!(
                "{ARCHS_VARIABLE}=packaged finds no compiled kernels: {why_not}. Unset it to compile them with \
                 nvcc"
            )
        })?;
        return images.take(&kernels, &out_dir);
    }
    let Some(nvcc) = nvcc::find(&folder)? else {
        watch_for_nvcc();
        return match packaged() {
            Ok(images) => {
                println!(
                    "cargo:warning=nvcc was not found, so smoothxent takes the kernels of its package: \
                     {} ({}). {ARCHS_VARIABLE}=packaged takes them without a word.",
                    images.contents.architectures, images.contents.compiler
                );
                images.take(&kernels, &out_dir)
            }
            Err(why_not) => {
                println!(
                    "cargo:warning=nvcc was not found, so smoothxent is built without its GPU kernels \
                     and says so when they are loaded. Run `cargo xtask toolchain` in a checkout, or \
                     install the CUDA toolkit and put nvcc on PATH, or set NVCC or CUDA_HOME; \
                     {ARCHS_VARIABLE}=none builds without kernels on purpose. (Compiled kernels: {why_not}.)"
                );
                let reason = format!("nvcc was not found when smoothxent was built, and {why_not}");
                write_empty_images(&kernels, &out_dir, &reason)
            }
        };
    };
    watch(&nvcc.path.display().to_string());

    let targets = Targets::choose(request, &architectures::known_capabilities(&nvcc.path)?)?;
    let version = output_of(Command::new(&nvcc.path).arg("--version"))?;
    let help = output_of(Command::new(&nvcc.path).arg("--help"))?;
    let compress = if help.contains("--compress-mode") { Some(COMPRESS) } else { None };
    let is_set = |variable: &str| env::var_os(variable).is_some_and(|value| value == "1");
    let compiler = Compiler {
        nvcc: nvcc.path,
        host_compiler: find_host_compiler()?,
        compress,
        lineinfo: is_set(LINEINFO_VARIABLE).then_some(LINEINFO),
        deny_warnings: is_set(DENY_WARNINGS_VARIABLE),
        targets,
        out_dir,
        version,
    };
    compiler.compile_all(&kernels)?;
    publish(
        &compiler.targets.names().join(","),
        &format!("compiled by nvcc, {}", compiler.release()),
    );
    Ok(())
}

/// Images of the published package.
struct Packaged {
    folder: PathBuf,
    contents: images::Contents,
}

impl Packaged {
    /// Those in the crate's folder, if they have all that is asked for; else why they cannot be taken.
    fn find(crate_folder: &Path, request: &Request) -> Result<Self, String> {
        let folder = crate_folder.join(images::FOLDER);
        let name = images::FOLDER;
        let contents = match images::find(crate_folder) {
            Ok(images::Found::Current(contents)) => contents,
            Ok(images::Found::Stale) => {
                return Err(format!("those in {name}/ are not what {name}/SHA256SUMS says"));
            }
            Ok(images::Found::Nothing) => {
                return Err("this is a checkout, which carries no compiled kernels".to_owned());
            }
            Err(error) => return Err(format!("cannot read {}: {error}", folder.display())),
        };
        if let Request::List(targets) = request {
            let held: Vec<&str> = contents.architectures.split(',').collect();
            let names = targets.names();
            let missing: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| !held.contains(name)).collect();
            if !missing.is_empty() {
                return Err(format!(
                    "the package has {}, not {}; {ARCHS_VARIABLE}=packaged takes what it has",
                    contents.architectures,
                    missing.join(",")
                ));
            }
        }
        Ok(Self { folder, contents })
    }

    fn take(&self, kernels: &[PathBuf], out_dir: &Path) -> Result<(), String> {
        watch(images::FOLDER);
        for kernel in kernels {
            let (from, to) = (image_path(kernel, &self.folder), image_path(kernel, out_dir));
            fs::copy(&from, &to)
                .map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
        }
        let origin = format!("of the package, {}", self.contents.compiler);
        publish(&self.contents.architectures, &origin);
        Ok(())
    }
}

/// The `.cu` files in `folder`, sorted.
fn find_kernels(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("cannot list the kernels in {}: {error}", folder.display()))?;
    let mut kernels: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    kernels.sort();
    Ok(kernels)
}

fn write_empty_images(kernels: &[PathBuf], out_dir: &Path, reason: &str) -> Result<(), String> {
    for kernel in kernels {
        let image = image_path(kernel, out_dir);
        fs::write(&image, [])
            .map_err(|error| format!("cannot write {}: {error}", image.display()))?;
    }
    publish("", reason);
    Ok(())
}

/// Tells the crate what its images hold, and where they are from or why they hold nothing.
fn publish(archs: &str, origin: &str) {
    println!("cargo:rustc-env=SMOOTHXENT_IMAGE_ARCHS={archs}");
    println!("cargo:rustc-env=SMOOTHXENT_IMAGE_ORIGIN={origin}");
}

fn image_path(kernel: &Path, out_dir: &Path) -> PathBuf {
    let stem = kernel.file_stem().unwrap_or_default();
    out_dir.join(stem).with_extension("fatbin")
}

fn watch(path: &str) {
    println!("cargo:rerun-if-changed={path}");
}

/// Looks again when an nvcc may have appeared.
///
/// `PATH` is watched only while nothing is found: it differs between shells and editors, and images
/// that one nvcc wrote need no second compilation because a later `PATH` would have found another.
fn watch_for_nvcc() {
    println!("cargo:rerun-if-env-changed=PATH");
    // Only a checkout can get this file. A missing file counts as changed.
    if is_checkout() {
        watch(nvcc::FETCHED);
    }
}

fn required_variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo should have set {name} for build.rs: {error}"))
}

struct Compiler {
    nvcc: PathBuf,
    /// What it says of itself, at length.
    version: String,
    host_compiler: Option<PathBuf>,
    compress: Option<&'static str>,
    lineinfo: Option<&'static str>,
    deny_warnings: bool,
    targets: Targets,
    out_dir: PathBuf,
}

impl Compiler {
    /// "release 13.0, V13.0.88"
    fn release(&self) -> &str {
        let line = self.version.lines().find(|line| line.contains("release")).unwrap_or_default();
        line.split_once(", ").map_or(line, |(_, release)| release)
    }

    /// Compiles every kernel, as many at a time as cargo allows, and reports every failure.
    fn compile_all(&self, kernels: &[PathBuf]) -> Result<(), String> {
        let jobs: usize = required_variable("NUM_JOBS")?
            .parse()
            .map_err(|error| format!("NUM_JOBS is not a number: {error}"))?;
        // A file for each job first, as the phases of one are not all parallel; what jobs are left go to
        // nvcc's architectures.
        let workers = jobs.clamp(1, kernels.len().max(1));
        let threads_each = (jobs / workers).clamp(1, self.targets.capabilities().len().max(1));

        let queue = Mutex::new(kernels.iter());
        let failures = Mutex::new(Vec::new());
        let next = || queue.lock().ok()?.next();
        let work = || {
            while let Some(kernel) = next() {
                if let Err(message) = self.compile(kernel, threads_each)
                    && let Ok(mut failures) = failures.lock()
                {
                    failures.push(message);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        let failures =
            failures.into_inner().map_err(|_| "a compiling thread panicked".to_owned())?;
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n\n")) }
    }

    /// Compiles one kernel, unless its image is what this would make, and watches every file that it
    /// includes.
    fn compile(&self, kernel: &Path, threads: usize) -> Result<(), String> {
        let image = image_path(kernel, &self.out_dir);
        let dependencies = image.with_extension("d");
        let mut command = Command::new(&self.nvcc);
        command.args(NVCC_FLAGS);
        if self.deny_warnings {
            command.args(DENY_WARNINGS);
        }
        command.args(self.lineinfo).args(self.compress);
        command.args(self.targets.gencode_flags());
        if let Some(host_compiler) = &self.host_compiler {
            command.arg("-ccbin").arg(host_compiler);
        }
        command.arg("-MD").arg("-MF").arg(&dependencies);
        command.arg("-o").arg(&image).arg(kernel);

        let variables = NVCC_VARIABLES.map(env::var_os);
        let recipe = format!("{variables:?} {command:?}\n{}", self.version);
        let fingerprint = || fingerprint(&recipe, &image, &prerequisites(&dependencies)?);
        let stamp = image.with_extension("stamp");
        let is_current = || Ok::<_, io::Error>(fs::read_to_string(&stamp)? == fingerprint()?);
        if !is_current().unwrap_or(false) {
            output_of(command.arg(format!("--threads={threads}"))).map_err(|error| {
                format!(
                    "{error}\n{ARCHS_VARIABLE}=packaged takes the kernels that a published package \
                     carries, {ARCHS_VARIABLE}=none builds without"
                )
            })?;
            fingerprint()
                .and_then(|fingerprint| fs::write(&stamp, fingerprint))
                .map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
        }
        let files = prerequisites(&dependencies)
            .map_err(|error| format!("cannot read {}: {error}", dependencies.display()))?;
        files.iter().for_each(|file| watch(file));
        Ok(())
    }
}

/// Of an image, of how it was made and of what it was made from.
fn fingerprint(recipe: &str, image: &Path, sources: &[String]) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    fs::read(image)?.hash(&mut hasher);
    for source in sources {
        source.hash(&mut hasher);
        fs::read(source)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The C++ compiler that nvcc shall preprocess with, or `None` where `NVCC_CCBIN` tells nvcc itself.
fn find_host_compiler() -> Result<Option<PathBuf>, String> {
    if env::var_os("NVCC_CCBIN").is_some() {
        return Ok(None);
    }
    // nvcc preprocesses on this machine, whatever machine the program is for.
    let host = required_variable("HOST")?;
    let advice = |problem: &dyn fmt::Display| {
        format!(
            "nvcc needs a C++ compiler of this machine: {problem}. Install g++, or set CXX; without one, \
             {ARCHS_VARIABLE}=packaged takes the kernels that the published package has"
        )
    };
    let mut build = cc::Build::new();
    let build = build.cpp(true).host(&host).target(&host);
    let path = build.try_get_compiler().map_err(|error| advice(&error))?.path().to_path_buf();
    // Else nvcc says it for every kernel.
    match Command::new(&path).arg("--version").output() {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(advice(&format!("{} cannot be run ({error})", path.display()))),
    }
}

/// The files after the colon of a make rule, where `\ ` is a space and `\` ends a line.
fn prerequisites(rule: &Path) -> io::Result<Vec<String>> {
    const SPACE: &str = "\0";
    let rule = fs::read_to_string(rule)?;
    let files = rule.split_once(" :").map_or("", |(_, files)| files);
    Ok(files
        .replace("\\\n", " ")
        .replace("\\ ", SPACE)
        .split_whitespace()
        .map(|file| file.replace(SPACE, " "))
        .collect())
}

/// Whether this is the repository, not the published package.
fn is_checkout() -> bool {
    Path::new("xtask").is_dir()
}

/// Runs `command` and returns what it printed, or the command line and its complaint.
fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}\nfailed ({}):\n{stdout}{stderr}", output.status))
}
