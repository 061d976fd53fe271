//! Where things lie in a workspace.

use crate::{abi, error::Error};

/// Where things lie in a workspace that serves up to `capacity` rows, in 4-byte words.
///
/// Places depend on the capacity, not on the problem at hand: tickets have to be found at zero by
/// the next problem, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkspaceLayout {
    /// Rows that it serves.
    pub capacity: usize,
    /// Room for XENT_MAX_PARTIALS of them, whatever the capacity.
    pub partials: usize,
    pub chunk_tickets: usize,
    pub chunk_sums: usize,
    pub row_shares: usize,
    /// Words in all.
    pub words: usize,
}

impl WorkspaceLayout {
    /// # Errors
    /// [`Error::WorkspaceSize`] if so many rows cannot be addressed, or their chunks not counted.
    pub fn new(capacity: usize) -> Result<Self, Error> {
        let chunks = capacity.div_ceil(abi::XENT_CHUNK_ROWS as usize);
        // A partial result is a 32-byte sector, so that it starts at a multiple of 32 bytes.
        let partial = size_of::<abi::XentPartial>();
        let partials = size_of::<abi::XentWorkspace>().next_multiple_of(partial) / size_of::<u32>();
        let chunk_tickets = partials + abi::XENT_MAX_PARTIALS as usize * partial / size_of::<u32>();
        let words = chunks
            .checked_mul(2)
            .and_then(|of_chunks| of_chunks.checked_add(capacity))
            .and_then(|variable| variable.checked_add(chunk_tickets))
            .filter(|&words| words <= isize::MAX as usize / size_of::<u32>())
            .filter(|_| u32::try_from(chunks).is_ok())
            .ok_or(Error::WorkspaceSize { rows: capacity })?;
        let chunk_sums = chunk_tickets + chunks;
        let row_shares = chunk_sums + chunks;
        Ok(Self { capacity, partials, chunk_tickets, chunk_sums, row_shares, words })
    }

    /// Of the most rows for which there is room in so many bytes, if there is room for any layout.
    pub fn within(bytes: usize) -> Option<Self> {
        let fixed = Self::new(0).ok()?.words;
        let variable = (bytes / size_of::<u32>()).checked_sub(fixed)?;
        // A word a row, and two for each chunk that has been begun.
        let rows_of_chunk = abi::XENT_CHUNK_ROWS as usize;
        let (chunks, rest) = (variable / (rows_of_chunk + 2), variable % (rows_of_chunk + 2));
        Self::new(chunks * rows_of_chunk + rest.saturating_sub(2)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap() {
        for capacity in [0, 1, 511, 512, 513, 1 << 23] {
            let layout = WorkspaceLayout::new(capacity).unwrap();
            let chunks = capacity.div_ceil(512);
            assert!(layout.partials * 4 >= size_of::<abi::XentWorkspace>());
            assert_eq!(layout.partials * 4 % 32, 0);
            assert_eq!(layout.chunk_tickets - layout.partials, 1024 * 32 / 4);
            assert_eq!(layout.chunk_sums - layout.chunk_tickets, chunks);
            assert_eq!(layout.row_shares - layout.chunk_sums, chunks);
            assert_eq!(layout.words - layout.row_shares, capacity);
        }
    }

    #[test]
    fn what_fits_so_many_bytes_is_the_largest_layout() {
        let fixed = WorkspaceLayout::new(0).unwrap().words;
        for words in fixed..fixed + 3 * 514 + 2 {
            let layout = WorkspaceLayout::within(4 * words + 3).unwrap();
            assert!(layout.words <= words, "{words}");
            assert!(WorkspaceLayout::new(layout.capacity + 1).unwrap().words > words, "{words}");
        }
        for capacity in [0, 1, 511, 512, 513, 1 << 23] {
            let layout = WorkspaceLayout::new(capacity).unwrap();
            assert_eq!(WorkspaceLayout::within(4 * layout.words), Some(layout));
        }
        assert_eq!(WorkspaceLayout::within(4 * fixed - 1), None);
    }

    #[test]
    fn workspaces_beyond_memory_are_refused() {
        // The first two would wrap to a few bytes.
        for rows in [usize::MAX, 4_602_696_377_065_931_054, 1 << 62, (1 << 42) + 1] {
            assert_eq!(WorkspaceLayout::new(rows), Err(Error::WorkspaceSize { rows }));
        }
    }
}
