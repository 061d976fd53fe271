//! `cargo xtask sass`: what ptxas made of the kernels, read from the images that the crate ships.

mod budget;
mod code;
mod loops;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::table::table;
use crate::{cargo, driver, process, toolchain, workspace};
use budget::Budget;
use code::Counts;
use loops::{Hot, Pass};

/// Shows registers, memory and access widths of every kernel, and fails on what is not allowed
///
/// Reads the images that build.rs wrote, with cuobjdump (fetched if there is none). Not allowed:
/// stack or local memory (so no spills: they live there); f64 instructions; kernels of rows without
/// 128-bit loads and stores of global memory, or bulk copies; more registers than leave room for the blocks
/// that the plan counts on (src/plan/kernel.rs), or launch bounds for fewer; a scaled `ex2`; a loop over a
/// row that has more than one `ex2` an element, and one a pack for a maximum that rises. Kernels of clusters
/// are a trap below sm_90.
#[derive(clap::Args)]
pub struct Arguments {
    /// Architectures to read, of those in the images
    #[arg(long, value_delimiter = ',', default_value = "sm_80,sm_90")]
    arch: Vec<String>,
    /// Every kernel in a line of its own, with all counts
    #[arg(long)]
    all: bool,
}

/// The kernel that reads targets alone; all others must move 16 bytes at a time.
const NARROW_KERNEL: &str = "xent_normalizer";

/// The strategy whose kernels are nothing but a trap, and below which architecture.
const TRAP: (&str, u32) = ("cluster", 90);

const DTYPES: [&str; 3] = ["f32", "f16", "bf16"];

pub fn run(arguments: &Arguments) -> Result<()> {
    toolchain::ensure_nvcc()?;
    let cuobjdump = toolchain::ensure_cuobjdump()?;
    let planned = budget::planned()?;
    let images = images()?;
    let pairs: Vec<(&Path, &str)> = images
        .iter()
        .flat_map(|image| arguments.arch.iter().map(|arch| (image.as_path(), arch.as_str())))
        .collect();
    let mut kernels = in_parallel(&pairs, |(image, arch)| read_image(&cuobjdump, image, arch))?;
    kernels.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    if arguments.all {
        print_all(&kernels)
    } else {
        print_families(&kernels, &planned)
    }

    // What several kernels have in common is said once.
    let mut faults: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kernel in &kernels {
        for fault in kernel.faults(&planned) {
            faults.entry(fault).or_default().push(format!("{} {}", kernel.name, kernel.arch));
        }
    }
    let of_kernels =
        faults.iter().map(|(fault, kernels)| format!("{fault}: {}", kernels.join(", ")));
    let lines: Vec<String> = of_kernels.chain(missing(&kernels, &planned)).collect();
    if !lines.is_empty() {
        bail!("the compiled code is not what it should be\n{}", lines.join("\n"));
    }
    Ok(())
}

/// What `read` makes of each, on all cores: disassembling takes a second an image.
fn in_parallel<T: Copy + Sync>(
    items: &[T],
    read: impl Fn(T) -> Result<Vec<Kernel>> + Sync,
) -> Result<Vec<Kernel>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut kernels = Vec::new();
        while let Some(&item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            kernels.extend(read(item)?);
        }
        Ok::<_, anyhow::Error>(kernels)
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(items.len())).map(|_| scope.spawn(work)).collect();
        let mut kernels = Vec::new();
        for thread in threads {
            kernels.extend(thread.join().map_err(|_| anyhow!("a reader panicked"))??);
        }
        Ok(kernels)
    })
}

/// Families of the plan without a kernel of each dtype.
fn missing(kernels: &[Kernel], planned: &BTreeMap<String, Budget>) -> Vec<String> {
    let found: BTreeSet<(&str, Option<&str>)> = kernels.iter().map(Kernel::family).collect();
    let wanted = planned.keys().flat_map(|family| {
        let dtypes = DTYPES.map(Some);
        let dtypes =
            if format!("xent_{family}") == NARROW_KERNEL { vec![None] } else { dtypes.into() };
        dtypes.into_iter().map(move |dtype| (family.as_str(), dtype))
    });
    let missing = wanted.filter(|wanted| !found.contains(wanted));
    missing
        .map(|(family, dtype)| format!("{family} {}: not in the images", dtype.unwrap_or("")))
        .collect()
}

/// The images in the crate's release build, one for each kernels/*.cu.
fn images() -> Result<Vec<PathBuf>> {
    let mut build = cargo::for_images();
    if driver::probe().is_none() {
        driver::without_gpu(&mut build);
    }
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

fn dump(cuobjdump: &Path, image: &Path, what: &[&str]) -> Result<String> {
    let mut command = Command::new(cuobjdump);
    command.args(what).arg(image);
    process::run_quietly("cuobjdump", &mut command)
}

fn read_image(cuobjdump: &Path, image: &Path, arch: &str) -> Result<Vec<Kernel>> {
    let bounds = budget::compiled(&dump(cuobjdump, image, &["-ptx"])?);
    let resources = parse_resources(&dump(cuobjdump, image, &["-arch", arch, "-res-usage"])?);
    let code = code::parse(&dump(cuobjdump, image, &["-arch", arch, "-sass"])?);
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
            let bounds = bounds
                .get(&name)
                .copied()
                .with_context(|| format!("there is no PTX of {name}, which has its bounds"))?;
            let hot = loops::hot_loops(&code, |pass| exponentials(&name, pass));
            let counts = Counts::of(&code);
            Ok(Kernel { name, arch: arch.to_owned(), resources, bounds, counts, hot })
        })
        .collect()
}

/// What a pass of a kernel may spend on a pack: one an element, and while it looks for the maximum one more,
/// for when it rises.
fn exponentials(name: &str, pass: Pass) -> usize {
    let elements = elements_of_pack(name);
    let is = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    // What knows a cap on the logits has its tanh, too.
    let each = if is(&["general", "probabilities"]) { 2 * elements } else { elements };
    let (reads, writes) = (each + 1, each);
    match pass {
        Pass::Reads => reads,
        // Both go over the registers of a warp, in one loop over the rows.
        Pass::Writes if is(&["warp", "tiny"]) => reads + writes,
        Pass::Writes => writes,
    }
}

/// Of 16 bytes, by the dtype that ends the name.
fn elements_of_pack(name: &str) -> usize {
    if name.ends_with("_f32") { 4 } else { 8 }
}

struct Kernel {
    name: String,
    arch: String,
    resources: Resources,
    bounds: Budget,
    counts: Counts,
    /// Passes over a row.
    hot: Vec<Hot>,
}

/// From `cuobjdump -res-usage`: registers of a thread, bytes of a thread or block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Resources {
    registers: u32,
    stack_bytes: u32,
    local_bytes: u32,
    shared_bytes: u32,
}

impl Kernel {
    /// What the plan calls it, and its dtype.
    fn family(&self) -> (&str, Option<&str>) {
        let name = self.name.strip_prefix("xent_").unwrap_or(&self.name);
        match name.rsplit_once('_') {
            Some((family, dtype)) if DTYPES.contains(&dtype) => (family, Some(dtype)),
            _ => (name, None),
        }
    }

    /// Whether it can only be a trap.
    fn is_unsupported(&self) -> bool {
        let (strategy, from) = TRAP;
        let number = self.arch.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic);
        let is_older = number.parse().is_ok_and(|number: u32| number < from);
        is_older && self.name.split('_').any(|word| word == strategy)
    }

    fn row(&self) -> [String; 17] {
        let (resources, counts) = (&self.resources, &self.counts);
        let widths = |widths: &code::Widths| {
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
            widths(&counts.global_loads),
            widths(&counts.global_stores),
            widths(&counts.generic_loads),
            widths(&counts.generic_stores),
            counts.bulk.to_string(),
            counts.exponentials.to_string(),
            self.spent(Pass::Reads),
            self.spent(Pass::Writes),
            counts.doubles.to_string(),
            counts.local_loads.to_string(),
            counts.local_stores.to_string(),
        ]
    }

    /// Exponentials that the worst loop of a kind may execute for each pack.
    fn spent(&self, pass: Pass) -> String {
        let hot = self.hot.iter().filter(|hot| hot.pass == pass && hot.packs > 0);
        let each = hot.map(|hot| hot.exponentials as f64 / hot.packs as f64);
        each.reduce(f64::max).map_or("-".to_owned(), |worst| {
            let text = format!("{worst:.1}");
            text.trim_end_matches(".0").to_owned()
        })
    }

    fn faults(&self, planned: &BTreeMap<String, Budget>) -> Vec<String> {
        let (resources, counts) = (&self.resources, &self.counts);
        let mut faults = Vec::new();
        if resources.stack_bytes + resources.local_bytes > 0
            || counts.local_loads + counts.local_stores > 0
        {
            faults.push(format!(
                "spills or local memory: {} bytes of stack, {} of local memory, {} loads, {} stores",
                resources.stack_bytes,
                resources.local_bytes,
                counts.local_loads,
                counts.local_stores
            ));
        }
        if counts.doubles > 0 {
            faults.push(format!("{} f64 instructions", counts.doubles));
        }
        match planned.get(self.family().0) {
            None => faults.push("src/plan/kernel.rs has no such family".to_owned()),
            Some(planned) => faults.extend(self.faults_of_registers(planned)),
        }
        if self.is_unsupported() {
            if !counts.is_trap() {
                faults.push(format!("more than a trap below sm_{}", TRAP.1));
            }
        } else if self.name != NARROW_KERNEL {
            faults.extend(self.faults_of_rows());
        }
        faults
    }

    fn faults_of_registers(&self, planned: &Budget) -> Vec<String> {
        let mut faults = Vec::new();
        let Budget { threads, blocks } = *planned;
        if self.bounds.threads != threads {
            faults.push(format!(
                "compiled for blocks of {} threads, and the plan has {threads}",
                self.bounds.threads
            ));
        }
        // The normalizer asks for nothing: its registers leave more room than is needed.
        if self.name != NARROW_KERNEL && self.bounds.blocks < blocks {
            faults.push(format!(
                "compiled for {} blocks a multiprocessor, and the plan counts on {blocks}",
                self.bounds.blocks
            ));
        }
        if self.resources.registers > planned.registers() {
            faults.push(format!(
                "{} registers, and {blocks} blocks of {threads} threads leave {}",
                self.resources.registers,
                planned.registers()
            ));
        }
        faults
    }

    fn faults_of_rows(&self) -> Vec<String> {
        let counts = &self.counts;
        let mut faults = Vec::new();
        for (verb, wide, generic) in [
            ("load", &counts.global_loads, &counts.generic_loads),
            ("store", &counts.global_stores, &counts.generic_stores),
        ] {
            if counts.bulk == 0 && wide.bits_128_or_more == 0 {
                faults.push(format!(
                    "no 128-bit {verb} of global memory and no bulk copy; {} of unstated space",
                    generic.bits_128_or_more
                ));
            }
        }
        if counts.range_scalings > 0 {
            faults.push(format!("{} times ex2 with its range scaled", counts.range_scalings));
        }
        for Hot { pass, packs, exponentials: spent, excess } in
            self.hot.iter().filter(|hot| hot.excess > 0)
        {
            let verb = match pass {
                Pass::Reads => "reads",
                Pass::Writes => "writes",
            };
            let allowed = exponentials(&self.name, *pass);
            faults.push(format!(
                "a loop that {verb} a row may execute {spent} ex2 for {packs} packs, {excess} more than \
                 {allowed} each"
            ));
        }
        faults
    }
}

fn print_all(kernels: &[Kernel]) {
    let header = [
        "kernel",
        "arch",
        "regs",
        "stack",
        "local",
        "shared",
        "LDG 128/64/32/<32",
        "STG 128/64/32/<32",
        "LD",
        "ST",
        "bulk",
        "ex2",
        "ex2 read",
        "ex2 write",
        "f64",
        "LDL",
        "STL",
    ];
    println!("{}", table(header, 2, kernels.iter().map(Kernel::row).collect()));
    println!(
        "LDG, STG: global loads and stores by bits, asynchronous copies included; LD, ST: the same of \
         unstated space; all counts are instructions in the code, not executed ones. {LOOPS}"
    );
}

const LOOPS: &str = "ex2 read, ex2 write: at most so many for each 16-byte pack in loops that read a row, \
                     and in those that write its outputs; - where a row is in registers and there is no \
                     such loop.";

/// A line for each family and architecture; what dtypes differ in as f32/f16/bf16.
fn print_families(kernels: &[Kernel], planned: &BTreeMap<String, Budget>) {
    let mut groups: BTreeMap<(&str, &str), Vec<&Kernel>> = BTreeMap::new();
    for kernel in kernels {
        groups.entry((kernel.family().0, &kernel.arch)).or_default().push(kernel);
    }
    let rows = groups.into_iter().map(|((family, arch), mut of)| {
        let place =
            |kernel: &&Kernel| DTYPES.iter().position(|&dtype| Some(dtype) == kernel.family().1);
        of.sort_by_key(place);
        let each = |what: &dyn Fn(&Kernel) -> String| {
            let all: Vec<String> = of.iter().map(|kernel| what(kernel)).collect();
            // Once where all are alike.
            if all.iter().all(|one| *one == all[0]) { all[0].clone() } else { all.join("/") }
        };
        let budget = planned.get(family);
        let blocks = budget
            .map_or("?".to_owned(), |budget| format!("{} x {}", budget.blocks, budget.threads));
        let registers = budget.map_or("?".to_owned(), |budget| budget.registers().to_string());
        let faults: usize = of.iter().map(|kernel| kernel.faults(planned).len()).sum();
        let verdict = match faults {
            0 if of.iter().all(|kernel| kernel.is_unsupported()) => "a trap".to_owned(),
            0 => "ok".to_owned(),
            some => format!("{some} faults"),
        };
        [
            family.to_owned(),
            arch.to_owned(),
            blocks,
            registers,
            each(&|kernel| kernel.resources.registers.to_string()),
            each(&|kernel| kernel.counts.global_loads.bits_128_or_more.to_string()),
            each(&|kernel| kernel.counts.global_stores.bits_128_or_more.to_string()),
            each(&|kernel| kernel.counts.bulk.to_string()),
            each(&|kernel| kernel.spent(Pass::Reads)),
            each(&|kernel| kernel.spent(Pass::Writes)),
            verdict,
        ]
    });
    let header = [
        "kernels",
        "arch",
        "blocks x threads",
        "regs allowed",
        "regs",
        "LDG 128",
        "STG 128",
        "bulk",
        "ex2 read",
        "ex2 write",
        "",
    ];
    println!("{}", table(header, 2, rows.collect()));
    println!(
        "f32/f16/bf16 where they differ. blocks x threads: what the plan counts on a multiprocessor. \
         {LOOPS}"
    );
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

#[cfg(test)]
mod tests {
    use super::{Resources, parse_resources};

    #[test]
    fn reads_resources() {
        let text = "Resource usage:\n Common:\n  GLOBAL:0\n Function xent_a:\n  \
                    REG:64 STACK:8 SHARED:512 LOCAL:0 CONSTANT[0]:512 TEXTURE:0\n";
        let expected =
            Resources { registers: 64, stack_bytes: 8, local_bytes: 0, shared_bytes: 512 };
        assert_eq!(parse_resources(text)["xent_a"], expected);
    }
}
