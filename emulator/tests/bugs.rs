//! Seeded bugs: each is a slip that a kernel's author could make, and each has to be caught.
//!
//! They are listed in bugs.toml. `cargo xtask bugs` shows by what each is caught, which this program
//! writes as lines of JSON to the file that `CUDA_EMULATOR_BUGS` names.

mod acceptance;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use acceptance::cases::{CASES, Case, Run};
use acceptance::compile::{Compiler, NO_NVCC, Source};
use acceptance::rig::{Failure, Rig};
use cuda_emulator::settings::Order;
use libtest_mimic::{Arguments, Completion, Trial};
use serde::{Deserialize, Serialize};

const LIST: &str = include_str!("bugs.toml");

/// Tried one after the other, until one shows the bug. One host thread, so that the outcome is the
/// same every time.
const ORDERS: [Order; 5] =
    [Order::Forward, Order::Reverse, Order::Shuffle(1), Order::Shuffle(2), Order::Shuffle(3)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    bug: Vec<Bug>,
}

/// One bug.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bug {
    /// Unlike those of the kernel's other bugs.
    name: String,
    /// The kernel that shows it, as `file::kernel`.
    kernel: String,
    /// Where it is, if not in the kernel's own file.
    file: Option<String>,
    /// What stands there, once.
    find: String,
    /// What is to stand there.
    replace: String,
    /// Only the run with this name, if others show something else.
    run: Option<String>,
    /// Only in these orders, if others show something else.
    orders: Option<Vec<String>>,
    /// What it has to be caught by: a `FaultKind`, or `WrongResult` by the comparison with the CPU.
    caught_by: String,
    /// Why it cannot be caught, if so.
    unseen: Option<String>,
}

/// What caught a bug.
#[derive(Serialize)]
struct Catch<'a> {
    kernel: &'a str,
    bug: &'a str,
    by: &'a str,
    run: String,
    order: String,
    text: String,
}

impl Bug {
    fn title(&self) -> String {
        format!("{}: {}", self.kernel, self.name)
    }

    fn case(&self) -> Result<&'static Case, String> {
        let found = CASES.iter().find(|case| case.name() == self.kernel);
        found.ok_or_else(|| format!("there is no kernel {}", self.kernel))
    }

    fn orders(&self) -> Result<Vec<Order>, String> {
        let Some(orders) = &self.orders else { return Ok(ORDERS.to_vec()) };
        let parse = |text: &String| Order::parse(text).ok_or_else(|| format!("no order: {text}"));
        orders.iter().map(parse).collect()
    }

    fn runs(&self) -> Result<Vec<Run>, String> {
        let mut runs = (self.case()?.runs)();
        if let Some(name) = &self.run {
            runs.retain(|run| run.name == *name);
        }
        if runs.is_empty() { Err(format!("{} has no such run", self.kernel)) } else { Ok(runs) }
    }

    /// The source with the bug in it.
    fn source(&self) -> Result<Source, String> {
        let case = self.case()?;
        let mut source = case.source()?;
        let file = self.file.as_deref().unwrap_or(case.file);
        source.replace(file, &self.find, &self.replace)?;
        Ok(source)
    }

    /// Runs it until it is caught as it should be; else, everything else that was noticed.
    fn hunt(&self, compiler: &Compiler) -> Result<Result<Catch<'_>, Vec<String>>, String> {
        let ptx = compiler.ptx(&self.source()?, self.case()?.architecture)?;
        let mut others = Vec::new();
        for order in self.orders()? {
            for run in self.runs()? {
                let Err(failure) = Rig::new(&ptx, order, 1).and_then(|rig| (run.check)(&rig))
                else {
                    continue;
                };
                if let Failure::Other(text) = &failure {
                    return Err(text.clone());
                }
                let text = failure.to_string();
                if failure.kind() == self.caught_by {
                    let order = format!("{order:?}");
                    let (kernel, bug, by) = (&*self.kernel, &*self.name, &*self.caught_by);
                    return Ok(Ok(Catch { kernel, bug, by, run: run.name, order, text }));
                }
                others.push(format!("{}, {order:?}: {}: {text}", run.name, failure.kind()));
            }
        }
        Ok(Err(others))
    }

    fn check(&self, compiler: &Compiler, report: Option<&Path>) -> Result<Completion, String> {
        match (self.hunt(compiler)?, &self.unseen) {
            (Ok(catch), None) => {
                if let Some(report) = report {
                    append(report, &catch)?;
                }
                Ok(Completion::Completed)
            }
            (Ok(catch), Some(_)) => {
                Err(format!("caught, so that bugs.toml need not say `unseen`: {}", catch.text))
            }
            // It ran, and all of its runs were as the list says.
            (Err(others), Some(_)) if others.is_empty() => Ok(Completion::Completed),
            (Err(others), _) if others.is_empty() => Err("NOT CAUGHT".into()),
            (Err(others), _) => {
                Err(format!("not caught by {}, but by:\n{}", self.caught_by, others[0]))
            }
        }
    }
}

fn append(report: &Path, catch: &Catch<'_>) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", report.display());
    let line = serde_json::to_string(catch).map_err(|error| failed(&error))?;
    let mut file =
        OpenOptions::new().append(true).create(true).open(report).map_err(|e| failed(&e))?;
    // In one call, so that two threads do not mix their lines.
    file.write_all(format!("{line}\n").as_bytes()).map_err(|error| failed(&error))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> Result<Vec<Trial>, String> {
    let list: List = toml::from_str(LIST).map_err(|error| format!("bugs.toml: {error}"))?;
    let bugs: Vec<Arc<Bug>> = list.bug.into_iter().map(Arc::new).collect();
    let compiler = Compiler::find(Path::new(env!("CARGO_TARGET_TMPDIR")))?.map(Arc::new);
    let report = std::env::var_os("CUDA_EMULATOR_BUGS").map(PathBuf::from);
    let hunt = |bug: &Arc<Bug>| {
        let (compiler, report, bug) = (compiler.clone(), report.clone(), bug.clone());
        let known = if bug.unseen.is_some() { " (known not to be caught)" } else { "" };
        Trial::ignorable_test(bug.title() + known, move || match compiler {
            Some(compiler) => Ok(bug.check(&compiler, report.as_deref())?),
            None => Ok(Completion::ignored_with(NO_NVCC)),
        })
    };
    let mut trials: Vec<Trial> = bugs.iter().map(hunt).collect();
    trials.push(Trial::test("every bug has its place", move || Ok(guard(&bugs)?)));
    Ok(trials)
}

/// A list that has gone stale is noticed without nvcc too.
fn guard(bugs: &[Arc<Bug>]) -> Result<(), String> {
    let mut names = HashSet::new();
    for bug in bugs {
        let named = |error| format!("{}: {error}", bug.title());
        bug.source().map_err(named)?;
        bug.runs().map_err(named)?;
        bug.orders().map_err(named)?;
        if bug.find == bug.replace || !names.insert(bug.title()) {
            return Err(format!(
                "{}: nothing is replaced, or two bugs have this name",
                bug.title()
            ));
        }
    }
    Ok(())
}
