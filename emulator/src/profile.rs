//! Where a kernel's instructions are: the files of `CUDA_EMULATOR_PROFILE`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ptx::ir::Kernel;

/// How often each instruction of a kernel was executed in a launch, by lane.
#[derive(Debug)]
pub struct Profile {
    counts: Vec<AtomicU64>,
}

impl Profile {
    /// Nothing yet.
    pub fn new(kernel: &Kernel) -> Self {
        Self { counts: (0..kernel.code.len()).map(|_| AtomicU64::new(0)).collect() }
    }

    /// So many lanes execute an instruction.
    pub fn count(&self, pc: u32, lanes: u32) {
        self.counts[pc as usize].fetch_add(u64::from(lanes), Ordering::Relaxed);
    }

    /// Replaces `<kernel>.tsv` in a folder: an instruction a line, in the order of the code. Says so on
    /// stderr if it cannot.
    pub fn write(&self, folder: &Path, kernel: &Kernel) {
        let mut text = String::from("lanes\tclass\tline\tptx\n");
        for (pc, (inst, lanes)) in (0..).zip(kernel.code.iter().zip(&self.counts)) {
            let (line, ptx) = (kernel.source.line(pc), kernel.source.ptx(pc));
            let lanes = lanes.load(Ordering::Relaxed);
            // A string takes all.
            let _ = writeln!(text, "{lanes}\t{}\t{}\t{ptx}", inst.class.name(), line.trim_start());
        }
        let file = folder.join(format!("{}.tsv", kernel.name));
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("cuda-emulator: cannot write {}: {error}", file.display());
        }
    }
}
