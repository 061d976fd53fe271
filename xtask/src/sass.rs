//! `cargo xtask sass`: what ptxas made of the kernels, read from the images that the crate ships.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::table::table;
use crate::{cargo, process, toolchain, workspace};

/// Shows registers, memory and access widths of every kernel, and fails on what is not allowed
///
/// Reads the images that build.rs wrote, with cuobjdump (fetched if there is none). Not allowed:
/// stack or local memory (so no spills: they live there), f64 instructions, and kernels of rows without
/// 128-bit loads or stores of global memory.
#[derive(clap::Args)]
pub struct Arguments {
    /// Architectures to read, of those in the images
    #[arg(long, value_delimiter = ',', default_value = "sm_80,sm_90")]
    arch: Vec<String>,
}

/// The kernel that reads targets alone; all others must move 16 bytes at a time.
const NARROW_KERNEL: &str = "xent_normalizer";

pub fn run(arguments: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let cuobjdump = toolchain::ensure_cuobjdump()?;
    let mut kernels = Vec::new();
    for image in images()? {
        for arch in &arguments.arch {
            kernels.extend(read_image(&cuobjdump, &image, arch)?);
        }
    }
    kernels.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    let header = [
        "kernel",
        "arch",
        "regs",
        "stack",
        "local",
        "shared",
        "LDG 128/64/32/<32",
        "STG 128/64/32/<32",
        "generic",
        "bulk",
        "ex2",
        "f64",
        "LDL",
        "STL",
    ];
    println!("{}", table(header, 2, kernels.iter().map(Kernel::row).collect()));
    println!(
        "LDG, STG: global loads and stores by bits, asynchronous copies included; generic: loads and \
         stores of unstated space; all counts are instructions in the code, not executed ones."
    );

    let faults: Vec<String> = kernels.iter().flat_map(Kernel::faults).collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// The images in the crate's release build, one for each kernels/*.cu.
fn images() -> Result<Vec<PathBuf>> {
    let mut build = cargo::command("build");
    build.args([cargo::PROFILE, "--package=smoothxent", "--lib"]);
    let folder = cargo::build(build)?.image_folder()?;
    let sources = workspace::root().join("kernels");
    let entries =
        fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    let mut images = Vec::new();
    for entry in entries {
        let source = entry.context("cannot list the kernels")?.path();
        if source.extension().is_some_and(|extension| extension == "cu") {
            let stem = source.file_stem().unwrap_or_default();
            images.push(folder.join(stem).with_extension("fatbin"));
        }
    }
    if images.is_empty() {
        bail!("there is no kernels/*.cu");
    }
    Ok(images)
}

fn read_image(cuobjdump: &Path, image: &Path, arch: &str) -> Result<Vec<Kernel>> {
    let dump = |what: &str| {
        let mut command = Command::new(cuobjdump);
        command.args(["-arch", arch, what]).arg(image);
        process::run_quietly("cuobjdump", &mut command)
    };
    let resources = parse_resources(&dump("-res-usage")?);
    let code = parse_code(&dump("-sass")?);
    if code.is_empty() {
        bail!(
            "{} has no machine code for {arch}; build with SMOOTHXENT_CUDA_ARCHS=all, or name others \
             with --arch",
            image.display()
        );
    }
    code.into_iter()
        .map(|(name, code)| {
            let resources = resources
                .get(&name)
                .copied()
                .with_context(|| format!("cuobjdump states no resources of {name} for {arch}"))?;
            Ok(Kernel { name, arch: arch.to_owned(), resources, code })
        })
        .collect()
}

struct Kernel {
    name: String,
    arch: String,
    resources: Resources,
    code: Code,
}

/// From `cuobjdump -res-usage`: registers of a thread, bytes of a thread or block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Resources {
    registers: u32,
    stack_bytes: u32,
    local_bytes: u32,
    shared_bytes: u32,
}

/// Instructions of one kernel, counted in `cuobjdump -sass`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Code {
    global_loads: Widths,
    global_stores: Widths,
    generic: usize,
    bulk: usize,
    exponentials: usize,
    doubles: usize,
    local_loads: usize,
    local_stores: usize,
}

/// Accesses by width.
#[derive(Clone, Debug, Default, PartialEq)]
struct Widths {
    bits_128_or_more: usize,
    bits_64: usize,
    bits_32: usize,
    less: usize,
}

impl Kernel {
    fn row(&self) -> [String; 14] {
        let (resources, code) = (&self.resources, &self.code);
        let widths = |widths: &Widths| {
            format!(
                "{}/{}/{}/{}",
                widths.bits_128_or_more, widths.bits_64, widths.bits_32, widths.less
            )
        };
        [
            self.name.clone(),
            self.arch.clone(),
            resources.registers.to_string(),
            resources.stack_bytes.to_string(),
            resources.local_bytes.to_string(),
            resources.shared_bytes.to_string(),
            widths(&code.global_loads),
            widths(&code.global_stores),
            code.generic.to_string(),
            code.bulk.to_string(),
            code.exponentials.to_string(),
            code.doubles.to_string(),
            code.local_loads.to_string(),
            code.local_stores.to_string(),
        ]
    }

    fn faults(&self) -> Vec<String> {
        let (resources, code) = (&self.resources, &self.code);
        let mut faults = Vec::new();
        if resources.stack_bytes + resources.local_bytes > 0
            || code.local_loads + code.local_stores > 0
        {
            faults.push(format!(
                "spills or local memory: {} bytes of stack, {} of local memory, {} loads, {} stores",
                resources.stack_bytes, resources.local_bytes, code.local_loads, code.local_stores
            ));
        }
        if code.doubles > 0 {
            faults.push(format!("{} f64 instructions", code.doubles));
        }
        if self.name != NARROW_KERNEL && code.bulk == 0 {
            if code.global_loads.bits_128_or_more == 0 {
                faults.push("no 128-bit load of global memory".to_owned());
            }
            if code.global_stores.bits_128_or_more == 0 {
                faults.push("no 128-bit store of global memory".to_owned());
            }
        }
        let prefix = format!("{} ({})", self.name, self.arch);
        faults.into_iter().map(|fault| format!("{prefix}: {fault}")).collect()
    }
}

fn parse_resources(text: &str) -> BTreeMap<String, Resources> {
    let mut resources = BTreeMap::new();
    let mut function = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function ") {
            function = Some(name.trim_end_matches(':').to_owned());
        } else if line.starts_with("REG:")
            && let Some(name) = function.take()
        {
            let field = |key: &str| {
                let word = line.split(' ').find_map(|word| word.strip_prefix(key));
                word.and_then(|number| number.parse().ok()).unwrap_or(0)
            };
            let usage = Resources {
                registers: field("REG:"),
                stack_bytes: field("STACK:"),
                local_bytes: field("LOCAL:"),
                shared_bytes: field("SHARED:"),
            };
            resources.insert(name, usage);
        }
    }
    resources
}

fn parse_code(text: &str) -> BTreeMap<String, Code> {
    let mut kernels = BTreeMap::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            current = Some(kernels.entry(name.to_owned()).or_insert_with(Code::default));
        } else if let (Some(code), Some(opcode)) = (current.as_mut(), opcode(line)) {
            code.count(opcode);
        }
    }
    kernels
}

/// The operation in a line such as `/*0050*/ @!P0 LDG.E.128 R4, [R2.64] ; /* encoding */`.
fn opcode(line: &str) -> Option<&str> {
    let (_, instruction) = line.strip_prefix("/*")?.split_once("*/")?;
    let mut words = instruction.split_whitespace();
    let first = words.next()?;
    let opcode = if first.starts_with('@') { words.next()? } else { first };
    Some(opcode.trim_end_matches(';'))
}

impl Code {
    fn count(&mut self, opcode: &str) {
        let mut parts = opcode.split('.');
        let operation = parts.next().unwrap_or_default();
        let modifiers: Vec<&str> = parts.collect();
        match operation {
            "LDG" | "LDGSTS" => self.global_loads.count(&modifiers),
            "STG" => self.global_stores.count(&modifiers),
            "LD" | "ST" => self.generic += 1,
            "UBLKCP" | "UBLKRED" | "UTMALDG" | "UTMASTG" => self.bulk += 1,
            "LDL" => self.local_loads += 1,
            "STL" => self.local_stores += 1,
            "MUFU" if modifiers.contains(&"EX2") => self.exponentials += 1,
            _ => {}
        }
        let is_double = ["DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "DMMA"].contains(&operation)
            || modifiers.contains(&"F64")
            || modifiers.iter().any(|modifier| modifier.ends_with("64H"));
        if is_double {
            self.doubles += 1;
        }
    }
}

impl Widths {
    fn count(&mut self, modifiers: &[&str]) {
        let has = |names: &[&str]| modifiers.iter().any(|modifier| names.contains(modifier));
        if has(&["128", "256"]) {
            self.bits_128_or_more += 1;
        } else if has(&["64"]) {
            self.bits_64 += 1;
        } else if has(&["U16", "S16", "U8", "S8"]) {
            self.less += 1;
        } else {
            self.bits_32 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Resources, Widths, parse_code, parse_resources};

    #[test]
    fn reads_resources() {
        let text = "Resource usage:\n Common:\n  GLOBAL:0\n Function xent_a:\n  \
                    REG:64 STACK:8 SHARED:512 LOCAL:0 CONSTANT[0]:512 TEXTURE:0\n";
        let expected =
            Resources { registers: 64, stack_bytes: 8, local_bytes: 0, shared_bytes: 512 };
        assert_eq!(parse_resources(text)["xent_a"], expected);
    }

    #[test]
    fn counts_instructions() {
        let text = "\
            \tcode for sm_80\n\
            \t\tFunction : xent_a\n\
            \t.headerflags\t@\"EF_CUDA_SM80\"\n\
            \t/*0000*/       LDG.E.128 R4, [R2.64] ;      /* 0x1 */\n\
            \t                                            /* 0x2 */\n\
            \t/*0010*/  @!P0 LDG.E.U16 R4, [R2.64] ;      /* 0x1 */\n\
            \t/*0020*/       LDG.E.STRONG.GPU R4, [R2.64] ;\n\
            \t/*0030*/   @P1 STG.E.64 [R2.64], R4 ;\n\
            \t/*0040*/       MUFU.EX2 R1, R1 ;\n\
            \t/*0050*/       MUFU.RCP64H R1, R1 ;\n\
            \t/*0060*/       DFMA R2, R2, R4, R6 ;\n\
            \t/*0070*/       F2F.F64.F32 R2, R1 ;\n\
            \t/*0080*/       STL.64 [R1], R2 ;\n\
            \t/*0090*/       EXIT;\n";
        let expected = Code {
            global_loads: Widths { bits_128_or_more: 1, bits_64: 0, bits_32: 1, less: 1 },
            global_stores: Widths { bits_64: 1, ..Widths::default() },
            exponentials: 1,
            doubles: 3,
            local_stores: 1,
            ..Code::default()
        };
        assert_eq!(parse_code(text)["xent_a"], expected);
    }
}
