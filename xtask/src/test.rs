//! `cargo xtask test`: everything that can run here, with one summary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::TargetKind;

use crate::cargo::Program;
use crate::driver::Driver;
use crate::suite::Suite;
use crate::table::table;
use crate::{cargo, costs, driver, emulator, toolchain, workspace};

/// Tests everything that can run here, on the GPU or the emulated driver
///
/// Uses the machine's GPU if it has one, else the emulated driver; fetches nvcc if there is none.
/// The last line is `N passed, N failed, N skipped`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Use the emulated driver even if there is a GPU
    #[arg(long)]
    emulated: bool,
    /// Run only tests with this in their names; `golden` runs the golden cases alone, from
    /// tests/data/golden or the folder that SMOOTHXENT_GOLDEN_DIR names
    filter: Option<String>,
}

/// The filter that means the golden cases, the suite that has them, and how their names begin.
const GOLDEN: &str = "golden";
const GOLDEN_SUITE: &str = "device";
const GOLDEN_PREFIX: &str = "golden::";

/// The emulated devices beside the default one, with an order of blocks and a limit of the grid that
/// make blocks do what they do on a full GPU: come in any order, and take more than one row. Races do not
/// depend on the order: they are looked for once, on the default device.
const MODELS: [(&str, &[(&str, &str)]); 2] = [
    (
        "sm_75, reverse",
        &[
            ("CUDA_EMULATOR_DEVICE", "sm_75"),
            ("CUDA_EMULATOR_ORDER", "reverse"),
            ("CUDA_EMULATOR_RACES", "0"),
        ],
    ),
    (
        "sm_80, shuffled, grids of 2",
        &[
            ("CUDA_EMULATOR_DEVICE", "sm_80"),
            ("CUDA_EMULATOR_ORDER", "shuffle:1"),
            ("CUDA_EMULATOR_MAX_GRID", "2"),
            ("CUDA_EMULATOR_RACES", "0"),
        ],
    ),
];

/// The device suite runs once more on each strategy, wherever that can take a problem, with grids that make a
/// block take row after row. Left out is what is slow and does not depend on it: memory that is large or far apart,
/// calls at random, many of them at once, the golden cases, to which the first run holds the oracle that these hold the
/// strategy to, and, by tests/device/edges.rs itself, rows that the strategy cannot take; and tests of the
/// half-precision type that is named beside it, whose kernels are the other one's but for a conversion, and which the
/// runs above have all of.
const STRATEGIES: [(&str, &str); 6] = [
    ("tiny", "::F16"),
    ("warp", "::Bf16"),
    ("block", "::F16"),
    ("two_pass", "::Bf16"),
    ("cluster", "::F16"),
    ("split_row", "::Bf16"),
];
/// With a look for races, since bulk copies overwrite what threads read of the row before.
const COPIES_IN_BULK: &str = "block";
const STRATEGY_VARIABLE: &str = "SMOOTHXENT_TEST_STRATEGY";
const WITHOUT_STRATEGY: [&str; 5] =
    ["edges::far_apart", "fuzz::", "concurrency::", "sizes::", GOLDEN_PREFIX];

/// What a program does on a newer device than it was built for: its kernels have no clusters there. On lengths of
/// rows, among them those that clusters would take.
const OLDER_CODE: [(&str, &str); 2] =
    [("CUDA_EMULATOR_NEWEST_CODE", "sm_80"), ("CUDA_EMULATOR_RACES", "0")];
const ON_OLDER_CODE: &str = "edges::classes";

/// Makes such runs try in pairs what the first one tries each with each: tests/device/edges.rs.
pub const IN_PAIRS: (&str, &str) = ("SMOOTHXENT_TEST_IN_PAIRS", "1");

/// What runs on the default device alone, since it is about the host, or slow, or holds to what others found the
/// oracle, which does not depend on the device.
const WITHOUT_MODEL: [&str; 3] = ["concurrency::", "sizes::", GOLDEN_PREFIX];

/// Benchmarks that only run, once each, and are not timed: criterion and libtest-mimic take the missing
/// `--bench` of `cargo bench` for that.
const BENCHMARKS: [&str; 2] = ["device", "host"];

/// The suite in which each of the crate's examples is a test.
const EXAMPLES: &str = "examples";

/// The suite that checks what the crate does without a driver: it runs with none in the search path.
const WITHOUT_DRIVER: &str = "no_driver";

/// The suite that checks what the crate does without images for the device: none at all, for which it is built
/// apart; and for other devices, of which an emulated one is older than any that the crate has kernels for.
const WITHOUT_KERNELS: &str = "no_kernels";
/// Keeps a build of the crate, images too, beside that of the other suites: cargo keeps one for each way to optimise
/// it, and its dependencies are those that are there.
const APART: &str = "profile.release.package.smoothxent.opt-level=1";
const OLD_DEVICE: &str = "sm_70";

/// The tests of the Python package that compares other implementations; they report as libtest does.
const PEERS: &str = "benches/peers/tests";

pub fn run(arguments: &Arguments) -> Result<()> {
    let nvcc = toolchain::ensure_nvcc()?;
    let driver = Driver::choose(arguments.emulated)?;
    println!("Driver: {driver}\nnvcc:   {nvcc}");

    let golden = arguments.filter.as_deref() == Some(GOLDEN);
    let filter = if golden { Some(GOLDEN_PREFIX.to_owned()) } else { arguments.filter.clone() };
    let runner = Runner { driver: &driver, filter, logs: workspace::target().join("test-logs") };
    let mut suites = Vec::new();
    if golden {
        suites.extend(runner.run_programs(&["--test", GOLDEN_SUITE])?);
    } else {
        suites.extend(runner.run_programs(&[])?);
        if matches!(driver, Driver::Emulated { .. }) {
            suites.extend(runner.run_on_other_models()?);
        }
        suites.extend(runner.run_benchmarks()?);
        suites.push(runner.run_examples()?);
        suites.push(runner.run_documentation()?);
        suites.push(runner.run_without_kernels("none")?);
        if matches!(driver, Driver::Gpu { .. }) {
            // On a GPU of this very kind the test says that it is skipped.
            let newest = format!("{}-virtual", nvcc.newest_capability()?);
            suites.push(runner.run_without_kernels(&newest)?);
        }
        suites.extend(runner.run_own()?);
        suites.extend(runner.run_peers()?);
    }
    suites.retain(|suite| !suite.is_empty());
    summarize(&suites, &driver)
}

struct Runner<'a> {
    driver: &'a Driver,
    filter: Option<String>,
    logs: PathBuf,
}

impl Runner<'_> {
    /// Cargo, for what runs on the driver.
    fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo::in_workspace(subcommand);
        self.driver.narrow(&mut command);
        command
    }

    /// The workspace's test programs, or those that `selection` names.
    fn run_programs(&self, selection: &[&str]) -> Result<Vec<Suite>> {
        let mut build = self.cargo("test");
        build.arg("--no-run").args(selection);
        let programs = cargo::build(build)?.tests();
        programs
            .iter()
            .filter(|program| program.name != WITHOUT_KERNELS)
            .map(|program| {
                let hidden = program.name == WITHOUT_DRIVER;
                let driver = if hidden { &Driver::Hidden } else { self.driver };
                self.run_program(&name_of(program), program, driver)
            })
            .collect()
    }

    /// The device suite again, on the emulated models and in the orders that [`MODELS`] lists, and on
    /// each strategy; and what launches cost on other devices.
    fn run_on_other_models(&self) -> Result<Vec<Suite>> {
        let mut build = self.cargo("test");
        build.args([
            "--no-run",
            "--test",
            GOLDEN_SUITE,
            "--test",
            costs::SUITE,
            "--test",
            WITHOUT_KERNELS,
        ]);
        let programs = cargo::build(build)?.tests();
        let program = |name: &str| {
            let mut programs = programs.iter();
            programs.find(|program| program.name == name).context("cargo built no test program")
        };
        let (device, guards) = (program(GOLDEN_SUITE)?, program(costs::SUITE)?);
        let run_part = |program: &Program,
                        what: &str,
                        settings: &[(&str, &str)],
                        filter: Option<&str>,
                        skipped: &[&str]| {
            let mut command = Command::new(&program.path);
            let settings = settings.iter().copied().chain([IN_PAIRS]);
            command.current_dir(&program.folder).args(filter).envs(settings);
            for name in skipped {
                command.args(["--skip", name]);
            }
            self.driver.apply(&mut command)?;
            let name = format!("{} ({what})", program.name);
            self.report(Suite::run(&name, command, &self.logs)?)
        };
        let filter = self.filter.as_deref();
        let run = |program: &Program, what: &str, settings: &[(&str, &str)], skipped: &[&str]| {
            run_part(program, what, settings, filter, skipped)
        };
        let mut suites = Vec::new();
        for (what, settings) in MODELS {
            suites.push(run(device, what, settings, &WITHOUT_MODEL)?);
        }
        let part = filter.or(Some(ON_OLDER_CODE));
        let what = "sm_90, code for sm_80";
        suites.push(run_part(device, what, &OLDER_CODE, part, &WITHOUT_MODEL)?);
        for (strategy, half) in STRATEGIES {
            // Else races are the other runs' concern.
            let races = if COPIES_IN_BULK == strategy { "1" } else { "0" };
            let settings = [
                (STRATEGY_VARIABLE, strategy),
                ("CUDA_EMULATOR_RACES", races),
                ("CUDA_EMULATOR_MAX_GRID", "2"),
            ];
            let skipped: Vec<_> = WITHOUT_STRATEGY.into_iter().chain([half]).collect();
            suites.push(run(device, strategy, &settings, &skipped)?);
        }
        // On the default device it ran with the other programs.
        let others = |device: &&str| *device != emulator::DEFAULT_DEVICE;
        for model in emulator::DEVICES.into_iter().filter(others) {
            let settings = [("CUDA_EMULATOR_DEVICE", model)];
            suites.push(run(guards, model, &settings, &[])?);
        }
        let old = [("CUDA_EMULATOR_DEVICE", OLD_DEVICE)];
        suites.push(run(program(WITHOUT_KERNELS)?, OLD_DEVICE, &old, &[])?);
        Ok(suites)
    }

    /// That every benchmark of [`BENCHMARKS`] runs.
    fn run_benchmarks(&self) -> Result<Vec<Suite>> {
        let mut build = self.cargo("test");
        build.arg("--no-run");
        for name in BENCHMARKS {
            build.args(["--bench", name]);
        }
        let programs = cargo::build(build)?.tests();
        programs
            .iter()
            .map(|program| self.run_program(&name_of(program), program, self.driver))
            .collect()
    }

    /// Each example of the crate, which asserts what it shows; those of other members have arguments.
    fn run_examples(&self) -> Result<Suite> {
        let mut build = self.cargo("build");
        build.arg("--examples");
        let mut runs = Vec::new();
        for program in cargo::build(build)?.examples() {
            let test = format!("{EXAMPLES}::{}", program.name);
            let chosen = self.filter.as_ref().is_none_or(|filter| test.contains(filter));
            if chosen && program.folder == workspace::root() {
                let mut command = Command::new(&program.path);
                command.current_dir(&program.folder);
                self.driver.apply(&mut command)?;
                runs.push((program.name, command));
            }
        }
        self.report(Suite::run_each(EXAMPLES, runs, &self.logs)?)
    }

    /// The examples in the documentation.
    fn run_documentation(&self) -> Result<Suite> {
        let mut command = self.cargo("test");
        command.args(["--doc", "--quiet"]).args(["--", "--format=pretty"]).args(&self.filter);
        self.driver.apply(&mut command)?;
        self.report(Suite::run("documentation", command, &self.logs)?)
    }

    /// What the crate does when it was built for `archs`, none of which is the device's.
    fn run_without_kernels(&self, archs: &str) -> Result<Suite> {
        let mut build = cargo::in_workspace("test");
        build
            .args(["--no-run", "--test", WITHOUT_KERNELS, "--config", APART])
            .env(driver::ARCHITECTURES, archs);
        let programs = cargo::build(build)?.tests();
        let program = programs.first().context("cargo built no test program")?;
        self.run_program(&format!("{WITHOUT_KERNELS} (built for {archs})"), program, self.driver)
    }

    /// xtask's own tests, in the profile in which cargo built the running xtask.
    fn run_own(&self) -> Result<Vec<Suite>> {
        let mut build = cargo::command("test");
        build.args(["--no-run", "--package=xtask"]);
        let programs = cargo::build(build)?.tests();
        programs
            .iter()
            .map(|program| self.run_program(&name_of(program), program, self.driver))
            .collect()
    }

    /// What of the comparison with other implementations runs without a device, where there is Python.
    fn run_peers(&self) -> Result<Option<Suite>> {
        if Command::new("python3").arg("--version").output().is_err() {
            println!("peers (python): not run, python3 was not found");
            return Ok(None);
        }
        let mut command = Command::new("python3");
        // Without leaving compiled sources in the checkout.
        command.current_dir(workspace::root()).args(["-B", PEERS]).args(&self.filter);
        self.report(Suite::run("peers (python)", command, &self.logs)?).map(Some)
    }

    fn run_program(&self, name: &str, program: &Program, driver: &Driver) -> Result<Suite> {
        let mut command = Command::new(&program.path);
        command
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .args(&self.filter);
        driver.apply(&mut command)?;
        self.report(Suite::run(name, command, &self.logs)?)
    }

    /// Shows a finished suite at once; the summary comes when all are.
    fn report(&self, suite: Suite) -> Result<Suite> {
        if !suite.is_empty() {
            println!(
                "{}: {} ({:.1} s)",
                suite.name,
                counts(suite.passed, suite.failed, suite.skipped),
                suite.took.as_secs_f64()
            );
        }
        if !suite.complaint.is_empty() {
            println!("{}\n(all of it: {})", suite.complaint, workspace::relative(&suite.log));
        }
        Ok(suite)
    }
}

fn name_of(program: &Program) -> String {
    match program.kind {
        TargetKind::Test => program.name.clone(),
        TargetKind::Bench => format!("{} (benchmark)", program.name),
        _ => format!("{} (unit)", program.name),
    }
}

fn summarize(suites: &[Suite], driver: &Driver) -> Result<()> {
    let sum = |count: fn(&Suite) -> usize| suites.iter().map(count).sum::<usize>();
    let (passed, failed, skipped) =
        (sum(|suite| suite.passed), sum(|suite| suite.failed), sum(|suite| suite.skipped));
    let header = ["suite", "passed", "failed", "skipped", "seconds"];
    println!("\n{}", table(header, 1, rows(suites)));
    for line in skips(suites) {
        println!("{line}");
    }
    println!("Driver: {driver}");
    let total = counts(passed, failed, skipped);
    println!("{total}");
    if failed > 0 {
        let names: Vec<&str> = suites
            .iter()
            .filter(|suite| suite.failed > 0)
            .map(|suite| suite.name.as_str())
            .collect();
        bail!("tests failed in {}", names.join(", "));
    }
    if passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// The form that other programs read.
fn counts(passed: usize, failed: usize, skipped: usize) -> String {
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}

fn rows(suites: &[Suite]) -> Vec<[String; 5]> {
    let row = |suite: &Suite| {
        [
            suite.name.clone(),
            suite.passed.to_string(),
            suite.failed.to_string(),
            suite.skipped.to_string(),
            format!("{:.1}", suite.took.as_secs_f64()),
        ]
    };
    suites.iter().map(row).collect()
}

/// The skipped tests by suite and reason, each with the first few names.
fn skips(suites: &[Suite]) -> Vec<String> {
    const NAMED: usize = 2;
    let mut lines = Vec::new();
    let mut said = BTreeSet::new();
    for suite in suites {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for skip in &suite.skips {
            let reason = if skip.reason.is_empty() { "no reason given" } else { &skip.reason };
            by_reason.entry(reason).or_default().push(&skip.test);
        }
        // The same program on another emulated device skips the same tests.
        let program = suite.name.split(" (").next().unwrap_or_default();
        for (reason, tests) in by_reason {
            if !said.insert((program, reason)) {
                continue;
            }
            let mut names = tests[..tests.len().min(NAMED)].join(", ");
            if let Some(more) = tests.len().checked_sub(NAMED + 1) {
                let log = workspace::relative(&suite.log);
                names.push_str(&format!(" and {} more, see {log}", more + 1));
            }
            lines.push(format!("skipped {} in {}: {reason}: {names}", tests.len(), suite.name));
        }
    }
    lines
}
