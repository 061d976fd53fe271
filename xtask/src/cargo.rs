//! Cargo as a child process, and what it built.

use std::env;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Artifact, BuildScript, Message, Metadata, MetadataCommand, TargetKind};

use crate::{costs, workspace};

/// Tests, demo and emulated driver are built in release: the emulator and the f64 reference are the
/// hot loops of a test run, and one profile builds every dependency once.
pub const PROFILE: &str = "--release";

/// Everything but xtask, which already runs, in the profile that cargo built it in.
const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// `cargo <subcommand>` in the workspace's folder.
pub fn command(subcommand: &str) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).arg(subcommand);
    command
}

/// `cargo <subcommand>` for what its further arguments choose of the workspace. Each such command gives dependencies
/// the features that the whole workspace asks for, so that none compiles anew what another has compiled.
pub fn in_workspace(subcommand: &str) -> Command {
    let mut command = command(subcommand);
    command.arg(PROFILE).args(WORKSPACE);
    command
}

/// Builds the crate's images.
pub fn for_images() -> Command {
    let mut build = in_workspace("test");
    build.args(["--no-run", "--test", costs::SUITE]);
    build
}

/// What one cargo invocation built, or found up to date.
pub struct Built {
    artifacts: Vec<Artifact>,
    scripts: Vec<BuildScript>,
}

/// Runs `command` (a build, or a test with `--no-run`) and collects what it reports.
pub fn build(mut command: Command) -> Result<Built> {
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let stdout = child.stdout.take().context("cargo's stdout is piped")?;
    let mut built = Built { artifacts: Vec::new(), scripts: Vec::new() };
    for message in Message::parse_stream(BufReader::new(stdout)) {
        match message.context("cannot read cargo's messages")? {
            Message::CompilerArtifact(artifact) => built.artifacts.push(artifact),
            Message::BuildScriptExecuted(script) => built.scripts.push(script),
            _ => {}
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("the build failed; its messages are above");
    }
    Ok(built)
}

/// A program that cargo built to be run.
pub struct Program {
    pub name: String,
    pub kind: TargetKind,
    pub path: PathBuf,
    /// Folder of its package, where cargo would run it.
    pub folder: PathBuf,
}

impl Program {
    fn of(artifact: &Artifact) -> Option<Self> {
        Some(Self {
            name: artifact.target.name.clone(),
            kind: artifact.target.kind.first()?.clone(),
            path: artifact.executable.clone()?.into_std_path_buf(),
            folder: artifact.manifest_path.parent()?.into(),
        })
    }
}

impl Built {
    /// The test programs, in the order of their packages' folders and names.
    pub fn tests(&self) -> Vec<Program> {
        self.programs(|artifact| artifact.profile.test)
    }

    /// The examples, in the same order.
    pub fn examples(&self) -> Vec<Program> {
        self.programs(|artifact| artifact.target.is_example())
    }

    fn programs(&self, chosen: fn(&Artifact) -> bool) -> Vec<Program> {
        let artifacts = self.artifacts.iter().filter(|artifact| chosen(artifact));
        let mut programs: Vec<Program> = artifacts.filter_map(Program::of).collect();
        programs.sort_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
        programs
    }

    /// The program called `name`, tests aside.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.artifacts
            .iter()
            .filter(|artifact| !artifact.profile.test)
            .filter_map(Program::of)
            .find(|program| program.name == name)
            .map(|program| program.path)
            .with_context(|| format!("cargo built no program named {name}"))
    }

    /// The file called `name` among the libraries.
    pub fn library(&self, name: &str) -> Result<PathBuf> {
        self.artifacts
            .iter()
            .flat_map(|artifact| &artifact.filenames)
            .find(|file| file.file_name() == Some(name))
            .map(|file| file.clone().into_std_path_buf())
            .with_context(|| format!("cargo built no {name}"))
    }

    /// Where the crate's build.rs put its images.
    pub fn image_folder(&self) -> Result<PathBuf> {
        Ok(self.image_script()?.out_dir.clone().into_std_path_buf())
    }

    /// What the crate's build.rs told the crate.
    pub fn image_variable(&self, name: &str) -> Result<String> {
        let variables = &self.image_script()?.env;
        let value =
            variables.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
        value.with_context(|| format!("build.rs set no {name}"))
    }

    fn image_script(&self) -> Result<&BuildScript> {
        self.scripts
            .iter()
            .find(|script| {
                let folder = script.out_dir.parent().and_then(|folder| folder.file_name());
                folder.is_some_and(|name| name.starts_with("smoothxent-"))
            })
            .context("cargo did not run smoothxent's build.rs")
    }
}

/// The resolved packages of the workspace for this kind of machine.
pub fn metadata() -> Result<Metadata> {
    MetadataCommand::new().current_dir(workspace::root()).exec().context("cargo metadata failed")
}
