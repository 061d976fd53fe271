//! Running other programs, with a sign of life and with errors that carry the command line.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// A spinner on a terminal; nothing where there is none.
fn spinner(task: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(task.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Runs `command` to its end behind a spinner that shows its latest line. Its stdout is returned;
/// if it fails, the error carries the command line and all that it printed to stderr.
pub fn run_quietly(task: &str, command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let spinner = spinner(task);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    let stderr = child.stderr.take().context("stderr is piped")?;
    let complaints = std::thread::spawn(move || std::io::read_to_string(stderr));
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut printed = String::new();
    for text in BufReader::new(stdout).lines() {
        let text = text.with_context(|| format!("cannot read what {line} prints"))?;
        printed.push_str(&text);
        printed.push('\n');
        spinner.set_message(text);
    }
    let status = child.wait().with_context(|| format!("cannot wait for {line}"))?;
    spinner.finish_and_clear();
    let complaints = match complaints.join() {
        Ok(Ok(text)) => text,
        _ => String::from("(its stderr could not be read)"),
    };
    if !status.success() {
        bail!("{line} failed ({status}):\n{}", complaints.trim_end());
    }
    Ok(printed)
}

/// Runs `command` with this program's own stdin, stdout and stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
