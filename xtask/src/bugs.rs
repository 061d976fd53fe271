//! `cargo xtask bugs`: whether the emulated driver catches seeded bugs.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::suite::Suite;
use crate::table::table;
use crate::{cargo, toolchain, workspace};

/// Seeds bugs into the emulator's test kernels and shows by what each is caught
///
/// The bugs are listed in emulator/tests/bugs.toml. nvcc compiles each once, about half a second; the
/// results are kept. Fails if a bug is caught by something else than the list says, or by nothing and the
/// list does not say why, or if more than two are not caught.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only bugs with this in `file::kernel: name`
    #[arg(long)]
    filter: Option<String>,
    /// Show the list and run nothing
    #[arg(long)]
    list: bool,
}

const LIST: &str = include_str!("../../emulator/tests/bugs.toml");

/// Bugs that may remain, each with its reason in the list.
const MAY_REMAIN: usize = 2;

#[derive(Deserialize)]
struct List {
    bug: Vec<Bug>,
}

/// What is shown of a bug; the test program reads the rest.
#[derive(Deserialize)]
struct Bug {
    name: String,
    kernel: String,
    caught_by: String,
    unseen: Option<String>,
}

/// What the test program writes of a bug that it caught.
#[derive(Deserialize)]
struct Catch {
    kernel: String,
    bug: String,
    by: String,
    run: String,
    order: String,
    text: String,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let List { bug: mut bugs } =
        toml::from_str(LIST).context("emulator/tests/bugs.toml is not as it should be")?;
    if let Some(filter) = &arguments.filter {
        bugs.retain(|bug| format!("{}: {}", bug.kernel, bug.name).contains(filter));
    }
    if bugs.is_empty() {
        bail!("no bug has that name");
    }
    if arguments.list {
        let row = |bug: &Bug| {
            let unseen = bug.unseen.as_ref().map(|reason| format!("not caught: {reason}"));
            [bug.kernel.clone(), bug.name.clone(), unseen.unwrap_or_else(|| bug.caught_by.clone())]
        };
        println!("{}", table(["kernel", "bug", "caught by"], 3, bugs.iter().map(row).collect()));
        return Ok(());
    }
    toolchain::ensure_nvcc()?;
    let mut build = cargo::in_workspace("test");
    build.args(["--no-run", "--test=bugs"]);
    let programs = cargo::build(build)?.tests();
    let program = programs.first().context("cargo built no test program")?;

    let report = workspace::target().join("bugs.jsonl");
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("cannot remove {}", report.display()))?;
    }
    let mut command = Command::new(&program.path);
    command.current_dir(&program.folder).args(&arguments.filter).env("CUDA_EMULATOR_BUGS", &report);
    let suite = Suite::run("bugs", command, &workspace::target().join("test-logs"))?;

    let text = fs::read_to_string(&report).unwrap_or_default();
    let catches: Vec<Catch> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("in the report: {line}")))
        .collect::<Result<_>>()?;
    let catches: HashMap<(&str, &str), &Catch> =
        catches.iter().map(|catch| ((catch.kernel.as_str(), catch.bug.as_str()), catch)).collect();
    let row = |bug: &Bug| {
        let by = match (catches.get(&(bug.kernel.as_str(), bug.name.as_str())), &bug.unseen) {
            (Some(catch), _) => {
                format!("{}{} ({}; {})", catch.by, place(&catch.text), catch.order, catch.run)
            }
            (None, Some(reason)) => format!("not caught: {reason}"),
            (None, None) => "NOT CAUGHT AS LISTED".into(),
        };
        [bug.kernel.clone(), bug.name.clone(), by]
    };
    println!("{}", table(["kernel", "bug", "caught by"], 3, bugs.iter().map(row).collect()));
    println!(
        "{} of {} bugs caught in {:.1} s",
        catches.len(),
        bugs.len(),
        suite.took.as_secs_f64()
    );
    if suite.failed > 0 {
        bail!("{}\n(all of it: {})", suite.complaint, workspace::relative(&suite.log));
    }
    if bugs.len() - catches.len() > MAY_REMAIN {
        bail!("{} bugs were not caught, {MAY_REMAIN} may remain", bugs.len() - catches.len());
    }
    Ok(())
}

/// ` at pipeline.cu:88`, from a fault's report.
fn place(report: &str) -> String {
    let line = report.lines().find_map(|line| line.trim().strip_prefix("at "));
    // Of a helper that was inlined, the caller's line says more.
    let name = line.and_then(|line| line.rsplit("inlined at ").next());
    name.map_or_else(String::new, |name| format!(" at {name}"))
}
