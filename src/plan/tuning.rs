//! Launch numbers as data. Each row says where its number comes from.

/// Threads of a block, for rows of up to so many 16-byte packs.
struct BlockTuning {
    up_to_packs: u32,
    threads: u32,
}

// Predicted, not measured: about four packs a thread, so that each has its 64 bytes in flight at
// once, and no more threads than a row has work for. Up to 7,168 packs (112 KiB) two rows fit the
// shared memory of a multiprocessor, so two blocks have to fit its registers: 384 threads of 80.
const BLOCK: [BlockTuning; 7] = [
    BlockTuning { up_to_packs: 128, threads: 32 },
    BlockTuning { up_to_packs: 256, threads: 64 },
    BlockTuning { up_to_packs: 512, threads: 128 },
    BlockTuning { up_to_packs: 768, threads: 192 },
    BlockTuning { up_to_packs: 1024, threads: 256 },
    BlockTuning { up_to_packs: 7168, threads: 384 },
    BlockTuning { up_to_packs: u32::MAX, threads: 768 },
];

pub(super) fn block_threads(packs: u32) -> u32 {
    let fits = BLOCK.iter().find(|row| packs <= row.up_to_packs);
    fits.map_or(crate::abi::XENT_MAX_THREADS, |row| row.threads)
}

/// Predicted, not measured: fills a multiprocessor with eight warps a block.
pub(super) const NORMALIZER_BLOCKS_PER_MULTIPROCESSOR: u32 = 4;
