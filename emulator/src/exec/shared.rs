//! Shared memory of a block: its bytes, which of them were written, and which belong to a copy under way.

use super::checks::{Refusal, check_alignment};
use crate::fault::FaultKind;
use crate::ptx::ir::{RANK_SHIFT, SharedVariable};

/// Shared memory of a block, and which of its bytes were written.
#[derive(Debug)]
pub struct SharedMemory {
    /// The bytes, 0xFF until they are written.
    pub bytes: Vec<u8>,
    /// One bit for each byte.
    pub written: Vec<u64>,
    /// One bit for each byte that a copy under way reads or writes; empty if the kernel starts none.
    pub busy: Vec<u64>,
    /// What lies where.
    pub variables: Vec<SharedVariable>,
    /// The variable of the last access.
    pub recent: usize,
}

impl SharedMemory {
    /// In bounds of one variable, and aligned.
    pub(super) fn check(&mut self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        check_alignment(offset, bytes)?;
        let inside = |variable: &SharedVariable| variable.holds(offset, bytes);
        if self.variables.get(self.recent).is_some_and(inside) {
            return Ok(());
        }
        match self.variables.iter().position(inside) {
            Some(position) => {
                self.recent = position;
                Ok(())
            }
            None => Err((FaultKind::IllegalAddress, self.describe(offset, bytes))),
        }
    }

    fn describe(&self, offset: u64, bytes: u64) -> String {
        if offset >> RANK_SHIFT != 0 && offset >> 32 == 0 {
            return "an address of the cluster, which needs .shared::cluster (or nonsense)".into();
        }
        let before = self.variables.iter().rev().find(|variable| variable.offset <= offset);
        match before {
            Some(variable) => format!(
                "reaching {} bytes past the end of shared {} ({} bytes)",
                offset.saturating_add(bytes).saturating_sub(variable.offset + variable.bytes),
                variable.name,
                variable.bytes
            ),
            None => "the kernel has no shared memory there".into(),
        }
    }

    /// Bits of the shadow for an aligned access: place and mask.
    pub(super) fn shadow(offset: u64, bytes: u64) -> (usize, u64) {
        ((offset / 64) as usize, ((1 << bytes) - 1) << (offset % 64))
    }

    /// Words of a bitmap that a stretch of any length covers: place and mask.
    fn words(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
        let end = offset + bytes;
        (offset / 64..end.div_ceil(64)).map(move |word| {
            let first = offset.max(word * 64) - word * 64;
            let last = end.min(word * 64 + 64) - word * 64;
            (word as usize, (u64::MAX >> (64 - (last - first))) << first)
        })
    }

    /// A stretch of any length is in bounds of one variable.
    pub(super) fn check_range(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        if self.variables.iter().any(|variable| variable.holds(offset, bytes)) {
            Ok(())
        } else {
            Err((FaultKind::IllegalAddress, self.describe(offset, bytes)))
        }
    }

    /// A stretch of any length was written.
    pub(super) fn check_all_written(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        let missing: u32 = Self::words(offset, bytes)
            .map(|(at, mask)| (mask & !self.written[at]).count_ones())
            .sum();
        if missing == 0 {
            return Ok(());
        }
        let text = format!("{missing} of them were not written by this block");
        Err((FaultKind::UninitialisedShared, text))
    }

    pub(super) fn mark_all_written(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.written[at] |= mask;
        }
    }

    /// A stretch holds nothing that was written.
    pub(super) fn forget(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.written[at] &= !mask;
        }
    }

    /// A copy under way uses a stretch.
    pub(super) fn occupy(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.busy[at] |= mask;
        }
    }

    /// It does no longer.
    pub(super) fn vacate(&mut self, offset: u64, bytes: u64) {
        for (at, mask) in Self::words(offset, bytes) {
            self.busy[at] &= !mask;
        }
    }

    /// Whether a copy under way uses some of it.
    pub(super) fn is_busy(&self, offset: u64, bytes: u64) -> bool {
        Self::words(offset, bytes).any(|(at, mask)| self.busy[at] & mask != 0)
    }

    pub(super) fn mark_written(&mut self, offset: u64, bytes: u64) {
        let (at, mask) = Self::shadow(offset, bytes);
        self.written[at] |= mask;
    }

    pub(super) fn check_written(&self, offset: u64, bytes: u64) -> Result<(), Refusal> {
        let (at, mask) = Self::shadow(offset, bytes);
        if self.written[at] & mask == mask {
            return Ok(());
        }
        self.check_all_written(offset, bytes)
    }
}
