//! mbarriers: arrivals, expected bytes and phases.
//!
//! What a kernel sees of one are 64 opaque bits of shared memory. Its state is kept beside them, so that
//! an access that is no mbarrier operation can be told from one that is.

use super::checks::Refusal;
use super::race::Gathered;
use crate::fault::FaultKind;

/// What PTX allows as a count of arrivals, and as a number of bytes.
pub const LIMIT: i64 = (1 << 20) - 1;

/// Bytes of an mbarrier.
pub const MBARRIER_BYTES: u64 = 8;

/// One mbarrier.
#[derive(Debug, Default)]
pub struct State {
    /// Arrivals that a phase takes.
    expected: u32,
    /// Of those, how many are missing.
    pending: u32,
    /// Bytes that are expected and have not come; negative if they came first.
    bytes: i64,
    /// Phases that are complete.
    pub phase: u32,
    /// What arrivals of this phase published.
    pub gathering: Gathered,
    /// What the last complete phase published.
    pub published: Gathered,
}

impl State {
    /// A fresh one.
    pub fn new(count: u32) -> Result<Self, Refusal> {
        if count == 0 || i64::from(count) > LIMIT {
            return Err(refuse(format!("a count of {count} arrivals, 1 to {LIMIT} allowed")));
        }
        Ok(Self { expected: count, pending: count, ..Self::default() })
    }

    /// What `arrive` returns: the phase, and how many arrivals were missing before.
    pub fn token(&self) -> u64 {
        u64::from(self.phase) << 32 | u64::from(self.pending)
    }

    /// Whether the phase that an arrival's token names is complete.
    pub fn is_past(&self, token: u64) -> bool {
        self.phase != (token >> 32) as u32
    }

    /// Whether the phase of this parity is complete: the current one has the other parity.
    pub fn is_past_parity(&self, parity: u32) -> bool {
        self.phase & 1 != parity & 1
    }

    /// More bytes are expected in this phase.
    pub fn expect(&mut self, bytes: i64) -> Result<(), Refusal> {
        self.bytes += bytes;
        if self.bytes.abs() > LIMIT {
            return Err(refuse(format!("{} bytes under way, at most {LIMIT} allowed", self.bytes)));
        }
        Ok(())
    }

    /// Threads arrive.
    pub fn arrive(&mut self, count: u32, drops: bool) -> Result<(), Refusal> {
        if count == 0 || count > self.pending {
            return Err(refuse(format!(
                "{count} arrivals where {} of {} are missing in phase {}",
                self.pending, self.expected, self.phase
            )));
        }
        self.pending -= count;
        if drops {
            self.expected -= count;
        }
        Ok(())
    }

    /// One arrival more is awaited in this phase.
    pub fn await_one_more(&mut self) {
        self.pending += 1;
    }

    /// Ends the phase if nothing is missing; whether it did.
    pub fn complete(&mut self) -> bool {
        if self.pending > 0 || self.bytes != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.expected;
        self.published = std::mem::take(&mut self.gathering);
        true
    }

    /// What is missing, for reports.
    pub fn missing(&self) -> String {
        format!(
            "phase {}: {} of {} arrivals and {} bytes are missing",
            self.phase, self.pending, self.expected, self.bytes
        )
    }
}

/// A misuse.
pub fn refuse(text: String) -> Refusal {
    (FaultKind::Mbarrier, text)
}
