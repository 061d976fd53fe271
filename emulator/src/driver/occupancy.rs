//! `cuOccupancy*`.

use super::launch::{CuLaunchConfig, geometry};
use super::module::{attribute, function};
use super::state::Function;
use super::{Handle, Out, Result, api};
use crate::context::LaunchConfig;
use crate::error::Error;

fn resident_blocks(function: &Function, threads: i32, dynamic: usize) -> Result<i32> {
    let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
    let shared = kernel.static_shared_bytes + dynamic as u64;
    let threads = u32::try_from(threads).unwrap_or(0);
    let model = function.context.model();
    Ok(model.resident_blocks(threads, shared, kernel.registers))
}

/// The block size with the most resident threads, the largest among equals.
fn best_block(
    function: &Function,
    shared: impl Fn(i32) -> usize,
    limit: i32,
) -> Result<(i32, i32)> {
    let most = attribute(function, 0)?;
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0);
    for threads in (32..=most).step_by(32) {
        let blocks = resident_blocks(function, threads, shared(threads))?;
        if blocks * threads >= best.0 * best.1 && blocks > 0 {
            best = (blocks, threads);
        }
    }
    Ok((best.0 * function.context.model().multiprocessors, best.1))
}

/// `CUoccupancyB2DSize`
type SharedBytesOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

fn potential_block(
    grid: &Out<i32>,
    block: &Out<i32>,
    handle: Handle,
    of_block: SharedBytesOfBlock,
    shared: usize,
    limit: i32,
) -> Result {
    let shared = |threads| match of_block {
        // SAFETY: the caller gives a function that may be called with any block size.
        Some(of_block) => unsafe { of_block(threads) },
        None => shared,
    };
    let (blocks, threads) = best_block(&*function(handle)?, shared, limit)?;
    grid.set(blocks)?;
    block.set(threads)
}

/// The launch that a configuration describes.
fn described(function: &Function, config: *const CuLaunchConfig) -> Result<LaunchConfig> {
    if config.is_null() {
        return Err(Error::InvalidValue("no launch configuration".into()));
    }
    // SAFETY: the caller gives a launch configuration, checked not to be null.
    let config = unsafe { &*config };
    // SAFETY: the caller's configuration has as many attributes as it counts.
    let asked = unsafe { config.asked() }?;
    Ok(geometry(function, config.grid, config.block, config.shared_bytes, asked))
}

/// Clusters of so many blocks that are resident at a time.
fn resident_clusters(function: &Function, config: &LaunchConfig, blocks: u32) -> Result<i32> {
    let threads = config.block.iter().product::<u32>() as i32;
    let each = resident_blocks(function, threads, config.dynamic_shared_bytes as usize)?;
    Ok(function.context.model().resident_clusters(blocks, each))
}

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        handle: Handle,
        threads: i32,
        shared: usize,
    ) {
        blocks.set(resident_blocks(&*function(handle)?, threads, shared)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        handle: Handle,
        threads: i32,
        shared: usize,
        _flags: u32,
    ) {
        blocks.set(resident_blocks(&*function(handle)?, threads, shared)?)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        handle: Handle,
        blocks: i32,
        _threads: i32,
    ) {
        let function = function(handle)?;
        let model = function.context.model();
        let fixed = attribute(&function, 1)? + model.shared_reserved_per_block;
        let each = model.shared_per_multiprocessor / blocks.max(1) / 128 * 128;
        let left = (each - fixed).clamp(0, model.shared_per_block_opt_in - attribute(&function, 1)?);
        bytes.set(left as usize)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        handle: Handle,
        of_block: SharedBytesOfBlock,
        shared: usize,
        limit: i32,
    ) {
        potential_block(&grid, &block, handle, of_block, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        handle: Handle,
        of_block: SharedBytesOfBlock,
        shared: usize,
        limit: i32,
        _flags: u32,
    ) {
        potential_block(&grid, &block, handle, of_block, shared, limit)
    }

    fn cuOccupancyMaxActiveClusters(
        clusters: Out<i32>,
        handle: Handle,
        config: *const CuLaunchConfig,
    ) {
        let function = function(handle)?;
        let config = described(&function, config)?;
        let kernel = function.kernel.as_ref().map_err(|error| Error::InvalidPtx(error.clone()))?;
        function.context.check_cluster(kernel, &config)?;
        let blocks = config.cluster_of(kernel).iter().product();
        clusters.set(resident_clusters(&function, &config, blocks)?)
    }

    // The largest power of two of which one cluster at least is resident.
    fn cuOccupancyMaxPotentialClusterSize(
        blocks: Out<i32>,
        handle: Handle,
        config: *const CuLaunchConfig,
    ) {
        let function = function(handle)?;
        let config = described(&function, config)?;
        let mut size = config.max_cluster_blocks;
        while size > 1 && resident_clusters(&function, &config, size)? == 0 {
            size /= 2;
        }
        if resident_clusters(&function, &config, size)? == 0 {
            return Err(Error::ClusterSize(format!(
                "no cluster of {:?} fits {}",
                function.name,
                function.context.model().name
            )));
        }
        blocks.set(size as i32)
    }
}
