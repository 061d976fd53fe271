//! `cargo xtask mutate`: whether the tests notice seeded faults.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::driver::{self, Driver};
use crate::test::IN_PAIRS;
use crate::{cargo, emulator, process, toolchain, workspace};

/// Seeds faults into kernels and host code, one at a time, and shows which test notices each
///
/// The faults are listed in xtask/mutations.toml. A copy of the tree is changed; the kernels that the tests
/// launch are compiled for one architecture, as PTX alone; and the tests run on the emulated driver with its
/// race checks. It takes some 15 seconds a fault on two cores, an hour and a half for all.
/// Each line says which test noticed, and by what: the emulated driver's finding, or wrong results.
/// Fails if a fault is noticed by none, or if a test of the list fails, or is not there, without a fault.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only faults with one of these in their names
    filters: Vec<String>,
    /// Leave out the faults before the one with this name
    #[arg(long)]
    from: Option<String>,
}

const LIST: &str = include_str!("../mutations.toml");

/// In the copy, beside the headers as they are.
const FAULTY_HEADERS: &str = "faulty";

/// Who chooses the strategies: tests/common/run.rs.
const STRATEGY_VARIABLE: &str = "SMOOTHXENT_TEST_STRATEGY";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutation: Vec<Mutation>,
}

/// One fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    /// From the workspace's folder.
    file: String,
    /// What stands there, once.
    find: String,
    /// What is to stand there.
    replace: String,
    /// The tests that should notice: a part of their names, and few of them.
    filter: String,
    /// Where they are.
    #[serde(default)]
    suite: Suite,
    /// What all rows are given to that it can take, whatever the plan would choose.
    strategy: Option<String>,
    /// `CUDA_EMULATOR_DEVICE`, for which the kernels are built: `sm_75`, `sm_80` or, by default, `sm_90`.
    device: Option<String>,
    /// `CUDA_EMULATOR_ORDER`, where the fault shows in that order alone.
    order: Option<String>,
    /// `CUDA_EMULATOR_MAX_GRID`, where a block has to take several rows.
    max_grid: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Suite {
    /// What needs a device: tests/device.
    #[default]
    Device,
    /// What is left when the driver refuses something: tests/faults.rs.
    Faults,
    /// The crate's unit tests, the plan's among them.
    Unit,
}

impl Suite {
    fn selection(self) -> &'static str {
        match self {
            Self::Device => "--test=device",
            Self::Faults => "--test=faults",
            Self::Unit => "--lib",
        }
    }
}

impl Mutation {
    fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(emulator::DEFAULT_DEVICE)
    }

    /// Whether its run is not the first one of `cargo xtask test`, but one of the others.
    fn is_beside_the_default(&self) -> bool {
        let plain = self.strategy.is_none() && self.order.is_none() && self.max_grid.is_none();
        !plain || self.device() != emulator::DEFAULT_DEVICE
    }

    /// Whether the same tests run in the same way.
    fn runs_as(&self, other: &Self) -> bool {
        let of = |m: &'_ Self| (m.filter.clone(), m.suite, m.strategy.clone(), m.max_grid);
        of(self) == of(other) && self.device() == other.device() && self.order == other.order
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let List { mutation: mut mutations } =
        toml::from_str(LIST).context("xtask/mutations.toml is not as it should be")?;
    if !arguments.filters.is_empty() {
        mutations
            .retain(|mutation| arguments.filters.iter().any(|part| mutation.name.contains(part)));
    }
    if let Some(from) = &arguments.from {
        let first = mutations.iter().position(|mutation| mutation.name == *from);
        mutations.drain(..first.unwrap_or(mutations.len()));
    }
    if mutations.is_empty() {
        bail!("no fault has that name");
    }
    toolchain::ensure_nvcc()?;
    let copy = Copy::make(emulator::build()?)?;
    let launched = copy.test_as_it_is(&mutations).context("the tree as it is")?;

    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    let bar = ProgressBar::new(mutations.len() as u64).with_style(style);
    let mut unnoticed = Vec::new();
    for (mutation, launched) in mutations.iter().zip(&launched) {
        bar.set_message(mutation.name.clone());
        let noticed = copy
            .with(mutation, launched, || copy.test(mutation, None))
            .with_context(|| format!("fault `{}`", mutation.name))?;
        let by = noticed.unwrap_or_else(|| {
            unnoticed.push(mutation.name.as_str());
            "NOT NOTICED".to_owned()
        });
        bar.suspend(|| println!("{} ({}): {by}", mutation.name, mutation.file));
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{} of {} faults noticed", mutations.len() - unnoticed.len(), mutations.len());
    if !unnoticed.is_empty() {
        bail!("no test noticed: {}", unnoticed.join(", "));
    }
    Ok(())
}

/// A copy of the tracked files, with a target folder of its own.
struct Copy {
    folder: PathBuf,
    target: PathBuf,
    driver: Driver,
}

impl Copy {
    fn make(emulator: PathBuf) -> Result<Self> {
        let base = workspace::target().join("mutants");
        let copy = Self {
            folder: base.join("tree"),
            target: base.join("target"),
            driver: Driver::Emulated { folder: emulator },
        };
        let mut list = Command::new("git");
        list.current_dir(workspace::root()).args(["ls-files", "-z"]);
        let files = process::run_quietly("listing the files", &mut list)?;
        for file in files.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (workspace::root().join(file), copy.folder.join(file));
            let folder = to.parent().context("a file lies in a folder")?;
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            // Files that are as they were keep their times, so that cargo builds less.
            if fs::read(&from).ok() != fs::read(&to).ok() {
                fs::copy(&from, &to).with_context(|| format!("cannot copy {file}"))?;
            }
        }
        let link = copy.folder.join(".toolchain");
        if !link.exists() {
            std::os::unix::fs::symlink(workspace::root().join(".toolchain"), &link)
                .with_context(|| format!("cannot link {}", link.display()))?;
        }
        Ok(copy)
    }

    /// Does something while the fault is there; one in the kernels' headers is there for the kernels that
    /// are `launched`, so that the others need no compilation.
    fn with<T>(
        &self,
        mutation: &Mutation,
        launched: &BTreeSet<String>,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let file = self.folder.join(&mutation.file);
        let text = read(&file)?;
        let places = text.matches(&mutation.find).count();
        if places != 1 {
            bail!("what it looks for is in {} {places} times", mutation.file);
        }
        let faulty = text.replacen(&mutation.find, &mutation.replace, 1);
        if file.extension().is_none_or(|extension| extension != "cuh") {
            write(&file, &faulty)?;
            let outcome = act();
            write(&file, &text)?;
            return outcome;
        }
        let headers = self.kernels().join(FAULTY_HEADERS);
        fs::create_dir_all(&headers)
            .with_context(|| format!("cannot create {}", headers.display()))?;
        for header in self.sources(&["cuh", "h"])? {
            let text = if header == file { faulty.clone() } else { read(&header)? };
            write(&headers.join(header.file_name().unwrap_or_default()), &text)?;
        }
        let mut texts = Vec::new();
        for unit in self.units_of(launched)? {
            let text = read(&unit)?;
            let include = "#include \"";
            write(&unit, &text.replace(include, &format!("{include}{FAULTY_HEADERS}/")))?;
            texts.push((unit, text));
        }
        let outcome = act();
        for (unit, text) in texts {
            write(&unit, &text)?;
        }
        fs::remove_dir_all(&headers)
            .with_context(|| format!("cannot remove {}", headers.display()))?;
        outcome
    }

    fn kernels(&self) -> PathBuf {
        self.folder.join("kernels")
    }

    /// The kernels' files with one of these extensions.
    fn sources(&self, extensions: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.kernels();
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let is_one = |path: &PathBuf| {
            path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
        };
        Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_one).collect())
    }

    /// The `.cu` files that define these kernels: of `fused_general_warp_f32` it is `fused_warp.cu`.
    fn units_of(&self, kernels: &BTreeSet<String>) -> Result<BTreeSet<PathBuf>> {
        let units = self.sources(&["cu"])?;
        let unit_of = |kernel: &String| {
            let name = kernel.trim_start_matches("xent_").replacen("general_", "", 1);
            let stem =
                |unit: &PathBuf| unit.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let defines = |unit: &&PathBuf| stem(unit).is_some_and(|stem| name.starts_with(&stem));
            let longest =
                units.iter().filter(defines).max_by_key(|unit| stem(unit).map(|s| s.len()));
            longest
                .cloned()
                .with_context(|| format!("no file of kernels/ seems to define {kernel}"))
        };
        kernels.iter().map(unit_of).collect()
    }

    /// Without a fault, all tests that the list names are there and pass. Returns the kernels that those
    /// of each fault launch.
    fn test_as_it_is(&self, mutations: &[Mutation]) -> Result<Vec<BTreeSet<String>>> {
        let mut runs: Vec<&Mutation> = Vec::new();
        for mutation in mutations {
            if !runs.iter().any(|run| run.runs_as(mutation)) {
                runs.push(mutation);
            }
        }
        // One build for each.
        runs.sort_by_key(|run| (run.suite, run.device().to_owned()));
        let report = self.target.join("launches.jsonl");
        let mut launched = Vec::new();
        for run in &runs {
            let _ = fs::remove_file(&report);
            if let Some(failure) = self.test(run, Some(&report))? {
                bail!("{failure}, without any fault, as for `{}`", run.name);
            }
            launched.push(kernels_of(&report)?);
        }
        let run_of = |mutation: &Mutation| runs.iter().position(|run| run.runs_as(mutation));
        Ok(mutations
            .iter()
            .map(|mutation| run_of(mutation).map(|run| launched[run].clone()).unwrap_or_default())
            .collect())
    }

    /// The first test that fails, if any, and by what.
    /// The driver writes a report where one is asked for.
    fn test(&self, mutation: &Mutation, report: Option<&Path>) -> Result<Option<String>> {
        let device = mutation.device();
        let architecture = device.strip_prefix("sm_").context("a device is called sm_..")?;
        let mut build = cargo::command("test");
        build
            .current_dir(&self.folder)
            .args([cargo::PROFILE, "--no-run", "--quiet", "--package=smoothxent"])
            .arg(mutation.suite.selection())
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .env(driver::ARCHITECTURES, format!("{architecture}-virtual"));
        let programs = cargo::build(build)?.tests();
        let program = programs.first().context("cargo built no test program")?;
        let mut test = Command::new(&program.path);
        test.current_dir(&self.folder).stdin(Stdio::null()).arg(&mutation.filter);
        test.env("CUDA_EMULATOR_DEVICE", device).env("CUDA_EMULATOR_RACES", "1");
        if let Some(strategy) = &mutation.strategy {
            test.env(STRATEGY_VARIABLE, strategy);
        }
        // As `cargo xtask test` runs it.
        if mutation.is_beside_the_default() {
            test.env(IN_PAIRS.0, IN_PAIRS.1);
        }
        if let Some(order) = &mutation.order {
            test.env("CUDA_EMULATOR_ORDER", order);
        }
        if let Some(grid) = mutation.max_grid {
            test.env("CUDA_EMULATOR_MAX_GRID", grid.to_string());
        }
        if let Some(report) = report {
            test.env("CUDA_EMULATOR_REPORT", report);
        }
        self.driver.apply(&mut test)?;
        let output = test.output().with_context(|| format!("cannot run {test:?}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if stdout.contains("test result: ok. 0 passed") {
            bail!("no test has `{}` in its name, or all are skipped", mutation.filter);
        }
        Ok(first_failure(&output))
    }
}

fn first_failure(output: &Output) -> Option<String> {
    if output.status.success() {
        return None;
    }
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed =
        text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let who =
        failed.map_or_else(|| format!("the program: {}", output.status), |t| t.trim_end().into());
    let finding = errors.lines().find_map(|line| line.strip_prefix(emulator::FINDING));
    Some(finding.map_or_else(|| who.clone(), |finding| format!("{who}, {finding}")))
}

/// The kernels of the driver's report. Without a launch there is none.
fn kernels_of(report: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Launch {
        kernel: String,
    }
    let text = if report.exists() { read(report)? } else { String::new() };
    let kernel = |line: &str| Ok(serde_json::from_str::<Launch>(line)?.kernel);
    text.lines().map(kernel).collect::<Result<_>>().context("the emulated driver's report")
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that has gone stale is noticed on every commit, not when somebody runs it.
    #[test]
    fn every_fault_has_its_place() {
        let List { mutation: mutations } = toml::from_str(LIST).unwrap();
        for mutation in &mutations {
            let text = fs::read_to_string(workspace::root().join(&mutation.file)).unwrap();
            let places = text.matches(&mutation.find).count();
            assert_eq!(places, 1, "{} in {}", mutation.name, mutation.file);
            assert_ne!(mutation.find, mutation.replace, "{}", mutation.name);
        }
        let mut names: Vec<&str> = mutations.iter().map(|m| m.name.as_str()).collect();
        let strategies = ["tiny", "warp", "block", "two_pass", "cluster", "split_row"];
        for mutation in &mutations {
            let known = |strategy: &str| strategies.contains(&strategy);
            assert!(mutation.strategy.as_deref().is_none_or(known), "{}", mutation.name);
            assert!(emulator::DEVICES.contains(&mutation.device()), "{}", mutation.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), mutations.len(), "two faults have one name");
    }
}
