//! A launch: blocks spread over the host's cores.
//!
//! Workers take blocks in order and run each to its end, so a block may wait for blocks that come
//! before it in that order (they have ended, or run on another worker), never for later ones.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::alu::Step;
use super::block::Cluster;
use super::race::GlobalShadow;
use super::warp::Warp;
use crate::device::Model;
use crate::fault::{Fault, FaultReport};
use crate::memory::{Memory, Table};
use crate::profile::Profile;
use crate::ptx::ir::Kernel;
use crate::report::{Counters, Touched};
use crate::settings::{Order, Uninitialised};

/// Everything that the blocks of a launch share.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What runs.
    pub kernel: &'a Kernel,
    /// On what.
    pub device: &'static Model,
    /// The context's memory, for reports.
    pub memory: &'a Memory,
    /// Its allocations when the launch began.
    pub table: &'a Table,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Blocks of a cluster by axis.
    pub cluster: [u32; 3],
    /// Who touched device memory, if races are checked.
    pub shadow: Option<Arc<GlobalShadow>>,
    /// The same of the launch before, if this one may begin before its end.
    pub predecessor: Option<Arc<GlobalShadow>>,
    /// Which bytes of device memory were touched, if a report is wanted.
    pub touched: Option<Touched>,
    /// How often each instruction was executed, if that is wanted.
    pub profile: Option<Profile>,
    /// Whether device memory that nobody wrote may be read.
    pub uninitialised: Uninitialised,
    /// Dynamic shared bytes of a block.
    pub dynamic_shared_bytes: u64,
    /// The parameter space.
    pub parameters: &'a [u8],
    /// Instructions that a warp may execute.
    pub step_limit: u64,
    /// Host threads.
    pub workers: usize,
    /// Order of blocks and of the warps in a block.
    pub order: Order,
    /// Arithmetic for this host.
    pub step: Step,
    /// Set when a block fails: the others need not go on.
    pub stopped: AtomicBool,
}

impl Launch<'_> {
    /// Threads of a block.
    pub fn threads_per_block(&self) -> u32 {
        self.block.iter().product()
    }

    /// Static and dynamic shared bytes of a block.
    pub fn shared_bytes(&self) -> u64 {
        self.kernel.static_shared_bytes + self.dynamic_shared_bytes
    }

    /// Whether another block failed.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// ` at file.cu:12: ld.global.u32 ...`
    pub fn describe(&self, pc: u32) -> String {
        self.kernel.source.describe(pc)
    }

    /// Runs all blocks.
    pub fn run(&self) -> Result<Counters, FaultReport> {
        let grid: [u64; 3] =
            std::array::from_fn(|axis| u64::from(self.grid[axis] / self.cluster[axis]));
        let clusters = grid.iter().product::<u64>();
        let order = self.order.permutation(clusters);
        let next = AtomicU64::new(0);
        let failure = Mutex::new(None);
        let total = Mutex::new(Counters::default());
        let work = || {
            let each = self.threads_per_block().div_ceil(32);
            let size = self.cluster.iter().product::<u32>();
            let mut warps = self.warps(size, each);
            let mut cluster = Cluster::new(self);
            while !self.is_stopped() {
                let taken = next.fetch_add(1, Ordering::Relaxed);
                if taken >= clusters {
                    break;
                }
                let number = order.at(taken);
                let [x, y, _] = grid;
                let index = [number % x, number / x % y, number / (x * y)].map(|i| i as u32);
                if let Err(fault) = cluster.run(number, index, &mut warps) {
                    self.stopped.store(true, Ordering::Relaxed);
                    let report = self.report(&cluster, fault.0, &fault.1);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(report);
                }
            }
            total.lock().unwrap_or_else(PoisonError::into_inner).add(&cluster.counters);
            self.spare().push(warps);
        };
        let workers = self.workers.min(usize::try_from(clusters).unwrap_or(usize::MAX));
        if workers <= 1 {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 1..workers {
                    scope.spawn(work);
                }
                work();
            });
        }
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(report) => Err(report),
            None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Warp>>> {
        self.kernel.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warps of a cluster of `size` blocks of `each` warps: those of an earlier launch as far as they
    /// go. Their registers hold that launch's values, nothing that a kernel may rely on.
    fn warps(&self, size: u32, each: u32) -> Vec<Warp> {
        let mut warps = self.spare().pop().unwrap_or_default();
        warps.truncate((size * each) as usize);
        for (place, warp) in (0..).zip(&mut warps) {
            (warp.rank, warp.index) = (place / each, place % each);
        }
        let first = warps.len() as u32;
        let more =
            (first..size * each).map(|place| Warp::new(self.kernel, place / each, place % each));
        warps.extend(more);
        warps
    }

    fn report(&self, cluster: &Cluster<'_>, warp: u32, fault: &Fault) -> FaultReport {
        let each = self.threads_per_block().div_ceil(32);
        let (rank, warp) = (warp / each, warp % each);
        let source = &self.kernel.source;
        let ptx: String = source.ptx(fault.pc).chars().take(300).collect();
        let place = source.line(fault.pc);
        let place = if place.is_empty() { " at an unknown line".into() } else { place };
        let text = format!(
            "{}\n  kernel {}, block {:?} of {:?}, thread {:?} of {:?} (warp {warp}, lane {}), \
             on {}\n {place}\n  {ptx}",
            fault.detail,
            self.kernel.name,
            cluster.blocks[rank as usize].index,
            self.grid,
            cluster.thread_index(warp, fault.lane),
            self.block,
            fault.lane,
            self.device.name,
        );
        FaultReport { kind: fault.kind, text }
    }
}
