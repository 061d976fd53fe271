//! One test program (or `cargo test --doc`): running it, and reading what it prints.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// What came of one program's tests.
pub struct Suite {
    pub name: String,
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Those skipped tests that the program named.
    pub skips: Vec<Skip>,
    pub took: Duration,
    /// What a reader needs to see of the output; empty if all is well.
    pub complaint: String,
    /// The whole output, or the folder of it.
    pub log: PathBuf,
}

pub struct Skip {
    pub test: String,
    pub reason: String,
}

/// Lines shown of a program that failed; the log has the rest.
const SHOWN_LINES: usize = 120;

impl Suite {
    /// Runs the tests of `command` to their end. A program that dies counts as one failed test.
    pub fn run(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let log = logs.join(format!("{}.log", name.replace(['(', ')'], "").replace(' ', "-")));
        let mut log_file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut suite = Self::empty(name, log);
        let bar = progress_bar(name);
        let start = Instant::now();

        // One pipe for both streams keeps their lines in order.
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        let errors = writer.try_clone().context("cannot copy a pipe")?;
        let mut child = command
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        // The command holds the pipe's writing end, which must close for the reading to end.
        drop(command);

        let mut lines = Vec::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.with_context(|| format!("cannot read the output of {name}"))?;
            let line = String::from_utf8_lossy(&line).into_owned();
            writeln!(log_file, "{line}")
                .with_context(|| format!("cannot write {}", suite.log.display()))?;
            suite.read(&line, &bar);
            lines.push(line);
        }
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        bar.finish_and_clear();
        suite.took = start.elapsed();

        if suite.failed > 0 {
            suite.complaint = excerpt(&lines);
        } else if !status.success() {
            suite.failed = 1;
            suite.complaint = format!("{}\n({status})", excerpt(&lines));
        }
        Ok(suite)
    }

    /// Runs programs that are one test each: it passes if the program ends with success.
    pub fn run_each(
        name: &str,
        programs: impl IntoIterator<Item = (String, Command)>,
        logs: &Path,
    ) -> Result<Self> {
        let mut suite = Self::empty(name, logs.to_owned());
        for (program, command) in programs {
            let run = Self::run(&format!("{name} {program}"), command, logs)?;
            suite.took += run.took;
            if run.failed == 0 {
                suite.passed += 1;
            } else {
                suite.failed += 1;
                suite.complaint.push_str(&format!("\n{program}:\n{}\n", run.complaint));
            }
        }
        Ok(suite)
    }

    fn empty(name: &str, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            passed: 0,
            failed: 0,
            skipped: 0,
            skips: Vec::new(),
            took: Duration::ZERO,
            complaint: String::new(),
            log,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }

    fn read(&mut self, line: &str, bar: &ProgressBar) {
        match Event::parse(line) {
            Some(Event::Start { tests }) => bar.set_length(bar.length().unwrap_or(0) + tests),
            Some(Event::Test { name, outcome }) => {
                bar.inc(1);
                bar.set_message(name.to_owned());
                if let Some(reason) = outcome.strip_prefix("ignored") {
                    self.skips.push(Skip {
                        test: name.trim_end().to_owned(),
                        // libtest writes `ignored, why`, libtest-mimic `ignored (why)`.
                        reason: reason.trim_matches([',', ' ', '(', ')']).to_owned(),
                    });
                }
            }
            Some(Event::End { passed, failed, ignored }) => {
                self.passed += passed;
                self.failed += failed;
                self.skipped += ignored;
            }
            Some(Event::Benchmark { name }) => bar.set_message(name.to_owned()),
            Some(Event::BenchmarkPassed) => self.passed += 1,
            None => {}
        }
    }
}

/// A line that libtest, or a harness that writes like it, prints, or criterion where it only tests.
#[derive(Debug, PartialEq)]
enum Event<'a> {
    /// `running 3 tests`
    Start {
        tests: u64,
    },
    /// `test name ... outcome`
    Test {
        name: &'a str,
        outcome: &'a str,
    },
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
    End {
        passed: usize,
        failed: usize,
        ignored: usize,
    },
    /// `Testing group/name`, and if it does not panic, `Success`.
    Benchmark {
        name: &'a str,
    },
    BenchmarkPassed,
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let before = counts.split_once(word)?.0.trim_end();
                before.rsplit(' ').next()?.parse().ok()
            };
            return Some(Self::End {
                passed: count(" passed")?,
                failed: count(" failed")?,
                ignored: count(" ignored")?,
            });
        }
        if let Some(name) = line.strip_prefix("Testing ") {
            return Some(Self::Benchmark { name });
        }
        if line == "Success" {
            return Some(Self::BenchmarkPassed);
        }
        if let Some(tests) = line.strip_prefix("running ") {
            let tests = tests.split(' ').next()?.parse().ok()?;
            return Some(Self::Start { tests });
        }
        let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
        Some(Self::Test { name, outcome })
    }
}

/// The report of failures if there is one, else the end of the output.
fn excerpt(lines: &[String]) -> String {
    let report = lines.iter().position(|line| line == "failures:");
    let shown = match report {
        Some(start) => &lines[start..],
        None => &lines[lines.len().saturating_sub(SHOWN_LINES)..],
    };
    let mut text = shown[..shown.len().min(SHOWN_LINES)].join("\n");
    if shown.len() > SHOWN_LINES {
        text.push_str("\n...");
    }
    text
}

fn progress_bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(name.to_owned());
    if let Ok(style) =
        ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} ({elapsed}) {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Event, Suite};

    #[test]
    fn a_program_is_a_test_that_passes_with_success() {
        let logs = std::env::temp_dir().join(format!("xtask-suite-{}", std::process::id()));
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let programs = [
            ("good".to_owned(), shell("echo loss 0.5")),
            ("bad".to_owned(), shell("echo of no use >&2; exit 3")),
        ];
        let suite = Suite::run_each("programs", programs, &logs).unwrap();
        assert_eq!((suite.passed, suite.failed, suite.skipped), (1, 1, 0));
        let complaint = &suite.complaint;
        assert!(complaint.contains("bad:\nof no use") && complaint.contains("exit status: 3"));
        assert!(!complaint.contains("good") && !complaint.contains("loss"));
        let log = std::fs::read_to_string(logs.join("programs-good.log")).unwrap();
        assert_eq!(log.trim_end(), "loss 0.5");
        std::fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn reads_what_libtest_prints() {
        let cases = [
            ("running 12 tests", Some(Event::Start { tests: 12 })),
            ("test a::b ... ok", Some(Event::Test { name: "a::b", outcome: "ok" })),
            (
                "test src/lib.rs - loss (line 3) ... ignored, needs more than 4 GB",
                Some(Event::Test {
                    name: "src/lib.rs - loss (line 3)",
                    outcome: "ignored, needs more than 4 GB",
                }),
            ),
            (
                "test result: FAILED. 7 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out",
                Some(Event::End { passed: 7, failed: 1, ignored: 2 }),
            ),
            ("Testing host/a call", Some(Event::Benchmark { name: "host/a call" })),
            ("Success", Some(Event::BenchmarkPassed)),
            ("testing the waters", None),
            ("", None),
        ];
        for (line, event) in cases {
            assert_eq!(Event::parse(line), event, "{line}");
        }
    }
}
