//! `cargo xtask package`: what is published, with compiled kernels.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::driver::{ARCHITECTURES, Driver};
use crate::{cargo, driver, process, toolchain, workspace};

// build.rs takes the images with the same code.
#[path = "../../build/images.rs"]
mod images;

/// Makes the package that `cargo publish` would upload, with compiled kernels, and tries it
///
/// Kernels are compiled into images/, which is not in git. `cargo package` packs and builds it. Then a new
/// project that depends on the package alone, as one without nvcc would, runs the first example: on this
/// machine's GPU, or on the emulated driver.
#[derive(clap::Args)]
pub struct Arguments {
    /// Compute capabilities to compile for, as SMOOTHXENT_CUDA_ARCHS takes them
    #[arg(long, value_name = "LIST", default_value = ALL)]
    architectures: String,
    /// Only try it, with the images that the tests have compiled, and remove them from images/ in the end: they
    /// are not fit to be published
    #[arg(long = "try", conflicts_with = "architectures")]
    trial: bool,
    /// Pack a checkout with changes that are not committed
    #[arg(long)]
    allow_dirty: bool,
    /// Run on the emulated driver even where there is a GPU
    #[arg(long)]
    emulated: bool,
}

/// What crates.io takes.
const MAX_MEGABYTES: f64 = 10.0;

const ALL: &str = "all";
const CRATE: &str = "smoothxent";

pub fn run(arguments: &Arguments) -> Result<()> {
    println!("nvcc:    {}", toolchain::ensure_nvcc()?);
    let driver = Driver::choose(arguments.emulated)?;
    println!("driver:  {driver}");
    let contents = compile(arguments)?;
    println!("images:  {} ({})", contents.architectures, contents.compiler);

    let file = pack(arguments.allow_dirty)?;
    let size =
        fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
    let megabytes = size as f64 / 1e6;
    println!("package: {} ({megabytes:.1} MB)", workspace::relative(&file));

    let project = Project::create(&file)?;
    let printed = project.run(&driver)?;
    print!("{printed}");
    let origin = format!("{} (of the package, {})", contents.architectures, contents.compiler);
    if !printed.contains(&origin) {
        bail!("the project has other images than `{origin}`");
    }
    if arguments.trial {
        let folder = workspace::root().join(images::FOLDER);
        return fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()));
    }
    if megabytes > MAX_MEGABYTES {
        bail!("the package is over the {MAX_MEGABYTES} MB that crates.io takes");
    }
    if arguments.architectures == ALL {
        println!("`cargo publish --package {CRATE} --allow-dirty` uploads it, with the images.");
    }
    Ok(())
}

/// Compiles the kernels into images/: without lines of the source, which would double them, and apart, so that the
/// tests' images stay; or takes those.
fn compile(arguments: &Arguments) -> Result<images::Contents> {
    let build = if arguments.trial {
        let mut build = cargo::for_images();
        driver::without_gpu(&mut build);
        build
    } else {
        let mut build = cargo::command("build");
        build
            .args([cargo::PROFILE, "--package", CRATE, "--lib", "--target-dir"])
            .arg(workspace::target().join("package-images"))
            .env(ARCHITECTURES, &arguments.architectures)
            .env("SMOOTHXENT_LINEINFO", "0");
        build
    };
    let built = cargo::build(build)?;
    let from = built.image_folder()?;
    let folder = workspace::root().join(images::FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    create(&folder)?;
    let entries = fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))?;
    for image in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if image.extension().is_some_and(|extension| extension == "fatbin") {
            copy(&image, &folder.join(image.file_name().unwrap_or_default()))?;
        }
    }
    let origin = built.image_variable("SMOOTHXENT_IMAGE_ORIGIN")?;
    let contents = images::Contents {
        architectures: built.image_variable("SMOOTHXENT_IMAGE_ARCHS")?,
        compiler: origin.trim_start_matches("compiled by ").to_owned(),
    };
    images::describe(workspace::root(), &contents)
        .with_context(|| format!("cannot describe the images in {}", folder.display()))?;
    match images::find(workspace::root()).context("the new images")? {
        images::Found::Current(contents) => Ok(contents),
        images::Found::Stale | images::Found::Nothing => {
            bail!("build.rs would not take the new images")
        }
    }
}

/// Packs it, and returns the package.
fn pack(allow_dirty: bool) -> Result<PathBuf> {
    let mut status = Command::new("git");
    status.current_dir(workspace::root()).args(["status", "--porcelain"]);
    let changes = process::run_quietly("git status", &mut status)?;
    if !allow_dirty && !changes.is_empty() {
        bail!(
            "there are changes that are not committed (--allow-dirty packs them, too):\n{changes}"
        );
    }
    let mut package = cargo::command("package");
    // For cargo the images, which are not in git, are such changes. A project builds it afterwards.
    package.args(["--package", CRATE, "--allow-dirty", "--no-verify"]);
    process::run(&mut package)?;
    let metadata = cargo::metadata()?;
    let version = metadata
        .packages
        .iter()
        .find(|package| package.name == CRATE)
        .map(|package| package.version.to_string())
        .with_context(|| format!("the workspace has no {CRATE}"))?;
    Ok(workspace::target().join("package").join(format!("{CRATE}-{version}.crate")))
}

/// A project outside of any workspace that depends on the package alone, which is unpacked beside it.
struct Project {
    parent: PathBuf,
    folder: PathBuf,
}

impl Project {
    fn create(package: &Path) -> Result<Self> {
        let parent = env::temp_dir().join(format!("smoothxent-first-{}", std::process::id()));
        let folder = parent.join("first");
        let sources = folder.join("src");
        create(&sources)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(package).arg("-C").arg(&parent);
        process::run_quietly("tar", &mut unpack)?;
        let unpacked = package.file_stem().context("a package has a name")?;
        let manifest = format!(
            "[package]\nname = \"first\"\nedition = \"2024\"\n\n[dependencies]\n{CRATE} = {{ path = {:?} }}\n",
            Path::new("..").join(unpacked)
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        // The versions that are tested here, which are also those that are downloaded already.
        copy(&workspace::root().join("Cargo.lock"), &folder.join("Cargo.lock"))?;
        let example = workspace::root().join("examples/cudarc.rs");
        let example = fs::read_to_string(&example)
            .with_context(|| format!("cannot read {}", example.display()))?;
        let main = example.replacen(
            "let context =",
            "println!(\"{}\", smoothxent::images());\n    let context =",
            1,
        );
        write(&sources.join("main.rs"), &main)?;
        Ok(Self { parent, folder })
    }

    fn run(&self, driver: &Driver) -> Result<String> {
        let mut run = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        run.current_dir(&self.folder).args(["run", "--target-dir"]);
        run.arg(workspace::target().join("package-project"));
        // Who waits for this wants to know that it runs.
        run.env("CARGO_PROFILE_DEV_DEBUG", "0");
        // Where no nvcc is installed, build.rs has to find that out.
        if toolchain::is_nvcc_installed() {
            run.env(ARCHITECTURES, "packaged");
        } else {
            run.env_remove(ARCHITECTURES);
        }
        driver.apply(&mut run)?;
        process::run_quietly("a new project", &mut run)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.parent);
    }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use images::{Contents, Found};

    use super::*;

    #[test]
    fn images_of_other_kernels_are_not_taken() {
        let folder = env::temp_dir().join(format!("smoothxent-images-{}", std::process::id()));
        let (kernel, image) = (folder.join("kernels/a.cu"), folder.join("images/a.fatbin"));
        create(&folder.join("kernels")).unwrap();
        write(&kernel, "kernel").unwrap();
        assert!(matches!(images::find(&folder), Ok(Found::Nothing)));
        create(&folder.join("images")).unwrap();
        write(&image, "image").unwrap();
        assert!(matches!(images::find(&folder), Ok(Found::Nothing)));

        let contents = Contents { architectures: "sm_90".into(), compiler: "nvcc, 13".into() };
        images::describe(&folder, &contents).unwrap();
        let found = images::find(&folder);
        let is_that = |found: &Contents| {
            (&found.architectures, &found.compiler) == (&contents.architectures, &contents.compiler)
        };
        assert!(matches!(found, Ok(Found::Current(found)) if is_that(&found)));
        let sums = fs::read_to_string(folder.join("images/SHA256SUMS")).unwrap();
        // printf image | sha256sum
        let line =
            "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d  images/a.fatbin";
        assert!(sums.contains(line), "{sums}");

        for file in [&kernel, &image] {
            let text = fs::read_to_string(file).unwrap();
            write(file, "another").unwrap();
            assert!(matches!(images::find(&folder), Ok(Found::Stale)));
            write(file, &text).unwrap();
            assert!(matches!(images::find(&folder), Ok(Found::Current(_))));
        }
        write(&folder.join("kernels/b.cuh"), "a new header").unwrap();
        assert!(matches!(images::find(&folder), Ok(Found::Stale)));
        fs::remove_dir_all(&folder).unwrap();
    }
}
