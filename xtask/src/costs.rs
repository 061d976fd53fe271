//! `cargo xtask costs`: writes down what launches cost, after a change of kernels or plans that was meant.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::driver::Driver;
use crate::report::between;
use crate::{cargo, emulator, process, toolchain, workspace};

/// Counts anew what launches cost on the emulated devices
///
/// Writes tests/data/costs.csv, to which tests/guards.rs holds the kernels, and ARCHITECTURE.md's table of them,
/// and shows how the figures moved. The diff belongs to the change that made it.
#[derive(clap::Args)]
pub struct Arguments {}

/// The suite of what launches cost.
pub const SUITE: &str = "guards";

const FILE: &str = "tests/data/costs.csv";
const HEADER: &str = "device,operation,strategy,rows,classes,dtype,instructions";

/// The document with the table, and what is around that.
const DOCUMENT: &str = "ARCHITECTURE.md";
const MARKERS: (&str, &str) = ("<!-- costs: written by `cargo xtask costs` -->", "<!-- /costs -->");

/// A line of the file, as its header says.
type Row = (String, String, String, u64, u32, String, f64);

/// Of the table: strategies and classes, and for each column its name, operation and dtype.
const ROWS: [(&str, u32); 15] = [
    ("tiny", 10),
    ("tiny", 32),
    ("warp", 100),
    ("warp", 256),
    ("warp", 1000),
    ("warp", 2048),
    ("block", 2049),
    ("block", 4096),
    ("block", 10_450),
    ("block", 32_000),
    ("two_pass", 32_000),
    ("cluster", 32_000),
    ("cluster", 50_257),
    ("cluster", 128_256),
    ("split_row", 128_256),
];
const COLUMNS: [(&str, &str, &str); 7] = [
    ("fused f16", "Fused", "f16"),
    ("forward f16", "Forward", "f16"),
    ("fused f32", "Fused", "f32"),
    ("weighted f16", "Weighted", "f16"),
    ("probabilities f16", "Probabilities", "f16"),
    ("log-softmax f16", "LogSoftmax", "f16"),
    ("binary f16", "Binary", "f16"),
];

/// Differences beyond this, of the old figure, are shown, and so many of them.
const SHOWN_FROM: f64 = 0.005;
const SHOWN: usize = 20;

pub fn run(_: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let driver = Driver::Emulated { folder: emulator::build()? };
    let mut build = cargo::in_workspace("test");
    build.args(["--no-run", "--test", SUITE]);
    driver.narrow(&mut build);
    let programs = cargo::build(build)?.tests();
    let program = programs.first().context("cargo built no test program")?;

    let mut counted = Vec::new();
    for device in emulator::DEVICES {
        let mut command = Command::new(&program.path);
        command
            .current_dir(&program.folder)
            .args(["--nocapture", "--test-threads=1"])
            .env("CUDA_EMULATOR_DEVICE", device);
        driver.apply(&mut command)?;
        let printed = process::run_quietly(&format!("counting on {device}"), &mut command)
            .with_context(|| format!("`cargo xtask test {SUITE}` says what is wrong"))?;
        counted.extend(printed.lines().filter_map(|line| row_of(device, line)).map(str::to_owned));
    }
    if counted.is_empty() {
        bail!("{} printed no figures", workspace::relative(&program.path));
    }

    let file = workspace::root().join(FILE);
    let before = fs::read_to_string(&file).with_context(|| format!("cannot read {FILE}"))?;
    let known: HashMap<&str, f64> = before.lines().filter_map(figure).collect();
    let mut moved = moves(&known, &counted);
    moved.sort_by(|a, b| b.by().abs().total_cmp(&a.by().abs()));
    for Move { what, from, to } in moved.iter().take(SHOWN) {
        println!("{what}: {from} -> {to}");
    }
    if moved.len() > SHOWN {
        println!("and {} more", moved.len() - SHOWN);
    }
    let text = format!("{HEADER}\n{}\n", counted.join("\n"));
    fs::write(&file, &text).with_context(|| format!("cannot write {FILE}"))?;
    let document = workspace::root().join(DOCUMENT);
    let old = fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
    fs::write(&document, with_table(&old, &text)?)
        .with_context(|| format!("cannot write {DOCUMENT}"))?;
    let new =
        counted.iter().filter_map(|row| figure(row)).filter(|(what, _)| !known.contains_key(what));
    println!(
        "{FILE}: {} figures, {} of them new, {} moved",
        counted.len(),
        new.count(),
        moved.len()
    );
    Ok(())
}

/// The row that a line of the suite's ends with; libtest-mimic may have begun the line.
fn row_of<'a>(device: &str, line: &'a str) -> Option<&'a str> {
    let row = &line[line.find(&format!("{device},"))?..];
    (row.split(',').count() == HEADER.split(',').count()).then_some(row)
}

/// The document with the table of these figures, those of the default device.
fn with_table(document: &str, figures: &str) -> Result<String> {
    let mut cells = HashMap::new();
    for row in csv::Reader::from_reader(figures.as_bytes()).deserialize() {
        let (device, operation, strategy, _, classes, dtype, cost): Row =
            row.with_context(|| format!("{FILE} has another row"))?;
        if device == emulator::DEFAULT_DEVICE {
            cells.insert((operation, strategy, classes, dtype), cost);
        }
    }
    let names = COLUMNS.map(|(name, ..)| name);
    let mut table = format!("| strategy | classes | {} |\n", names.join(" | "));
    table += &format!("{}|", "|---".repeat(2 + COLUMNS.len()));
    for (strategy, classes) in ROWS {
        let costs = COLUMNS.map(|(_, operation, dtype)| {
            cells.get(&(operation.into(), strategy.into(), classes, dtype.into()))
        });
        if costs.iter().all(Option::is_none) {
            bail!("{FILE} has no figure of {strategy} with {classes} classes");
        }
        let costs = costs.map(|cost| cost.map_or("-".into(), |cost: &f64| format!("{cost:.1}")));
        let classes = match classes {
            1000.. => format!("{},{:03}", classes / 1000, classes % 1000),
            few => few.to_string(),
        };
        table += &format!("\n| {strategy} | {classes} | {} |", costs.join(" | "));
    }
    between(DOCUMENT, document, MARKERS, &table)
}

/// A figure that changed.
#[derive(Debug, PartialEq)]
struct Move<'a> {
    what: &'a str,
    from: f64,
    to: f64,
}

impl Move<'_> {
    fn by(&self) -> f64 {
        self.to / self.from - 1.0
    }
}

fn moves<'a>(known: &HashMap<&str, f64>, counted: &'a [String]) -> Vec<Move<'a>> {
    let moved = |row: &'a String| {
        let (what, to) = figure(row)?;
        let from = *known.get(what)?;
        let moved = Move { what, from, to };
        (moved.by().abs() > SHOWN_FROM).then_some(moved)
    };
    counted.iter().filter_map(moved).collect()
}

/// What a row is about, and its figure; none of the header.
fn figure(row: &str) -> Option<(&str, f64)> {
    let (what, figure) = row.rsplit_once(',')?;
    Some((what, figure.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_what_the_suite_prints() {
        let row = "sm_90,Fused,Tiny,1024,2,f32,40.02";
        assert_eq!(row_of("sm_90", row), Some(row));
        assert_eq!(row_of("sm_90", &format!("test guards::Fused    ... {row}")), Some(row));
        assert_eq!(row_of("sm_80", row), None);
        assert_eq!(row_of("sm_90", "sm_90, a device"), None);
    }

    #[test]
    fn the_document_has_these_figures() {
        let read = |name: &str| {
            fs::read_to_string(workspace::root().join(name)).expect("it is in the repository")
        };
        let document = read(DOCUMENT);
        let written = with_table(&document, &read(FILE)).expect("the document has a place for it");
        assert_eq!(document, written, "run `cargo xtask costs`");
    }

    #[test]
    fn a_figure_that_moved_is_told_from_those_that_stayed() {
        let before = format!("{HEADER}\na,1,10.00\nb,2,10.00\n");
        let known = before.lines().filter_map(figure).collect();
        let counted = ["a,1,10.01", "b,2,11.00", "new,3,5.00"].map(String::from);
        let moved = moves(&known, &counted);
        assert_eq!(moved, [Move { what: "b,2", from: 10.0, to: 11.0 }]);
    }
}
