//! Which architectures the images are for: what the user asks, what nvcc knows, what this machine has.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::output_of;

pub const ARCHS_VARIABLE: &str = "SMOOTHXENT_CUDA_ARCHS";

/// What `all` stands for, as far as the nvcc at hand knows it: machine code for the GPUs in use, where
/// that of 8.0 also runs on 8.6 and 8.9, and so on within a major number; and PTX, which a driver can
/// translate for every GPU from that capability up.
const ALL_MACHINE_CODE: [u32; 5] = [75, 80, 90, 100, 120];
const ALL_PTX: [u32; 3] = [75, 80, 90];

/// What `SMOOTHXENT_CUDA_ARCHS` asks for. Capabilities are written as nvcc does: 80 is 8.0.
#[derive(PartialEq)]
pub enum Request {
    All,
    Native,
    List(Targets),
    /// What the published package has.
    Packaged,
    Nothing,
}

impl Request {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | "all" => Ok(Self::All),
            "native" => Ok(Self::Native),
            "packaged" => Ok(Self::Packaged),
            "none" => Ok(Self::Nothing),
            list => Targets::parse(list).map(Self::List).ok_or_else(|| {
                format!(
                    "{ARCHS_VARIABLE}=\"{text}\" is not understood: give `all` (the default), \
                     `native` (the GPUs of this machine), `packaged` (what the published \
                     package has, without nvcc), `none` (no kernels), or compute capabilities without the dot, such as `80` or `80,90`, each of which may end \
                     with `-real` (machine code alone) or `-virtual` (PTX alone)"
                )
            }),
        }
    }
}

/// The contents of every image.
#[derive(Default, PartialEq)]
pub struct Targets {
    machine_code: BTreeSet<u32>,
    ptx: BTreeSet<u32>,
}

impl Targets {
    /// A list in CMake's notation; `None` if it is something else.
    fn parse(list: &str) -> Option<Self> {
        let mut targets = Self::default();
        for item in list.split(',').map(str::trim) {
            let (number, kind) = item.split_once('-').unwrap_or((item, ""));
            let capability: u32 = number.parse().ok()?;
            let (machine_code, ptx) = match kind {
                "" => (true, true),
                "real" => (true, false),
                "virtual" => (false, true),
                _ => return None,
            };
            if machine_code {
                targets.machine_code.insert(capability);
            }
            if ptx {
                targets.ptx.insert(capability);
            }
        }
        Some(targets)
    }

    pub fn choose(request: Request, known: &BTreeSet<u32>) -> Result<Self, String> {
        let targets = match request {
            Request::Nothing | Request::Packaged => Self::default(),
            Request::All => {
                return Ok(Self {
                    machine_code: known & &BTreeSet::from(ALL_MACHINE_CODE),
                    ptx: known & &BTreeSet::from(ALL_PTX),
                });
            }
            Request::Native => {
                let installed = installed_capabilities()?;
                Self { machine_code: installed.clone(), ptx: installed }
            }
            Request::List(targets) => targets,
        };
        let unknown: BTreeSet<u32> = &targets.capabilities() - known;
        if !unknown.is_empty() {
            return Err(format!(
                "{ARCHS_VARIABLE} asks for compute capability {}, which this nvcc does not \
                 compile for. It knows {}. Choose among these, or use another nvcc (set NVCC).",
                join(&unknown),
                join(known),
            ));
        }
        Ok(targets)
    }

    pub fn capabilities(&self) -> BTreeSet<u32> {
        &self.machine_code | &self.ptx
    }

    pub fn gencode_flags(&self) -> Vec<String> {
        let flag = |capability: u32| {
            let mut codes = Vec::new();
            if self.machine_code.contains(&capability) {
                codes.push(format!("sm_{capability}"));
            }
            if self.ptx.contains(&capability) {
                codes.push(format!("compute_{capability}"));
            }
            format!("-gencode=arch=compute_{capability},code=[{}]", codes.join(","))
        };
        self.capabilities().into_iter().map(flag).collect()
    }

    pub fn names(&self) -> Vec<String> {
        let machine_code = self.machine_code.iter().map(|c| format!("sm_{c}"));
        let ptx = self.ptx.iter().map(|c| format!("compute_{c}"));
        machine_code.chain(ptx).collect()
    }
}

/// The capabilities for which `nvcc` can write machine code.
pub fn known_capabilities(nvcc: &Path) -> Result<BTreeSet<u32>, String> {
    let list = output_of(Command::new(nvcc).arg("--list-gpu-code"))?;
    let known: BTreeSet<u32> =
        list.lines().filter_map(|line| line.trim().strip_prefix("sm_")?.parse().ok()).collect();
    if known.is_empty() {
        return Err(format!(
            "{} --list-gpu-code names no architecture, but printed: {list}",
            nvcc.display()
        ));
    }
    Ok(known)
}

/// The capabilities of the GPUs in this machine.
fn installed_capabilities() -> Result<BTreeSet<u32>, String> {
    let advice = format!(
        "{ARCHS_VARIABLE}=native needs a GPU and its driver on the machine that compiles; \
         name the architectures instead, such as {ARCHS_VARIABLE}=80,90"
    );
    let mut query = Command::new("nvidia-smi");
    query.args(["--query-gpu=compute_cap", "--format=csv,noheader"]);
    let answer = output_of(&mut query).map_err(|error| format!("{advice}\n\n{error}"))?;
    let capabilities: Option<BTreeSet<u32>> =
        answer.lines().map(|line| line.trim().replace('.', "").parse().ok()).collect();
    match capabilities {
        Some(capabilities) if !capabilities.is_empty() => Ok(capabilities),
        _ => Err(format!("{advice}\n\nnvidia-smi answered: {answer}")),
    }
}

fn join(capabilities: &BTreeSet<u32>) -> String {
    let words: Vec<String> = capabilities.iter().map(u32::to_string).collect();
    words.join(", ")
}
