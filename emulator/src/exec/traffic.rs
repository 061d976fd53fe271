//! What a warp's accesses cost: sectors of device memory, wavefronts of shared memory's banks.

use super::alu::LANES;
use super::block::Cluster;
use super::race::Touch;
use super::warp::lanes;

/// How many of the lanes' accesses of one size are different, and how many 32-byte sectors they touch: each
/// lies in one, as they are naturally aligned and of at most 16 bytes.
pub(super) fn footprint(addresses: &[u64; LANES], mask: u32) -> (u64, u64) {
    let mut touched = [0_u64; LANES];
    let (mut count, mut sectors) = (0, 0);
    let mut sorted = true;
    for lane in lanes(mask) {
        let address = addresses[lane];
        if count > 0 {
            let last = touched[count - 1];
            if last == address {
                continue;
            }
            sorted &= last < address;
            sectors += u64::from(last / 32 != address / 32);
        } else {
            sectors = 1;
        }
        touched[count] = address;
        count += 1;
    }
    if sorted {
        return (count as u64, sectors);
    }
    let touched = &mut touched[..count];
    touched.sort_unstable();
    let steps = |same: fn(u64, u64) -> bool| {
        1 + touched.windows(2).filter(|pair| !same(pair[0], pair[1])).count() as u64
    };
    (steps(|a, b| a == b), steps(|a, b| a / 32 == b / 32))
}

/// Wavefronts that the banks of shared memory need for the lanes' accesses: 32 banks of 4 bytes serve one
/// word each at a time. Accesses of 8 and 16 bytes are served by halves and quarters of the warp.
fn wavefronts(offsets: &[u64; LANES], mask: u32, bytes: u64) -> u64 {
    served_together(offsets, mask, bytes)
        .map(|touched| {
            let mut banks = [0_u64; 32];
            for word in touched {
                banks[(word % 32) as usize] += 1;
            }
            banks.into_iter().max().unwrap_or(0)
        })
        .sum()
}

/// The same if no two words lay in one bank.
fn wavefronts_at_least(offsets: &[u64; LANES], mask: u32, bytes: u64) -> u64 {
    served_together(offsets, mask, bytes).map(|touched| touched.len().div_ceil(32) as u64).sum()
}

/// The words of each part of a warp that is served together.
fn served_together(
    offsets: &[u64; LANES],
    mask: u32,
    bytes: u64,
) -> impl Iterator<Item = Vec<u64>> {
    let words = (bytes / 4).max(1);
    let group = LANES / words as usize;
    (0..LANES).step_by(group).map(move |first| {
        let part = mask & (((1_u64 << group) - 1) << first) as u32;
        let mut touched: Vec<u64> = lanes(part)
            .flat_map(|lane| (0..words).map(move |word| offsets[lane] / 4 + word))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    })
}

impl Cluster<'_> {
    /// What a warp's accesses cost, if somebody wants to know.
    #[inline(always)]
    pub(super) fn count(
        &mut self,
        global: u32,
        addresses: &[u64; LANES],
        shared: u32,
        offsets: &[u64; LANES],
        bytes: u64,
        touch: Touch,
    ) {
        let Some(touched) = &self.launch.touched else { return };
        for lane in lanes(global) {
            touched.mark(self.launch.table, addresses[lane], bytes, touch);
        }
        if shared != 0 {
            let needed = wavefronts(offsets, shared, bytes);
            // What the same bytes take without two words in one bank.
            let least = wavefronts_at_least(offsets, shared, bytes);
            self.counters.shared_wavefronts += needed;
            self.counters.shared_bank_conflicts += needed - least;
        }
    }
}
