//! Plans as text.

use std::fmt;

use super::{
    Considered, Family, Ground, Kernel, Launch, Normalizer, Plan, Reasons, RowsPlan, Selection,
    Start, Strategy, Verdict,
};
use crate::{abi, problem::Pass};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { loss } => write!(f, "no rows: nothing is launched, the loss is {loss}"),
            Self::Launches { normalizer, rows } => {
                write!(f, "{rows}\ndivisors   {normalizer}")
            }
        }
    }
}

impl fmt::Display for Normalizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "known to the host"),
            Self::Rows => write!(f, "found by the same launch, from the targets"),
            Self::Launch(launch) => write!(f, "found before by {launch}"),
            Self::Saved => write!(f, "saved by the forward pass"),
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, grid, block, cluster, shared_bytes, start } = self;
        write!(f, "{}: {} of {block} threads", kernel.symbol(), count(*grid, "block"))?;
        if *cluster > 1 {
            write!(f, ", clusters of {cluster}")?;
        }
        match shared_bytes {
            0 => write!(f, ", no dynamic shared memory")?,
            some => write!(f, ", {} of dynamic shared memory", Bytes((*some).into()))?,
        }
        match start {
            Start::InOrder => Ok(()),
            Start::Early => write!(f, ", started while the one before ends"),
        }
    }
}

impl fmt::Display for RowsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "strategy   {}", self.strategy)?;
        for (step, label) in self.steps().zip(["launch", "then"]) {
            writeln!(f, "{label:<11}{}", step.launch)?;
        }
        writeln!(f, "rows       {}", Cut(self))?;
        writeln!(f, "resident   {}", Resident(self))?;
        writeln!(f, "memory     {}", Reads(self))?;
        let mut label = "because";
        for Considered { strategy, verdict } in self.reasons.considered().rev() {
            writeln!(f, "{label:<11}{strategy:<10}{verdict}")?;
            label = "not";
        }
        let Reasons { from, below, provenance, .. } = self.reasons;
        let (from, below) = (from.map(Capability), below.map(Capability));
        write!(f, "tuned for  compute capability ")?;
        match (from, below) {
            (None, None) => write!(f, "of any device")?,
            (Some(from), None) => write!(f, "{from} and up")?,
            (None, Some(below)) => write!(f, "below {below}")?,
            (Some(from), Some(below)) => write!(f, "{from} to below {below}")?,
        }
        write!(f, "; {provenance}")
    }
}

struct Capability((u32, u32));

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self((major, minor)) = self;
        write!(f, "{major}.{minor}")
    }
}

/// How a row is cut.
struct Cut<'a>(&'a RowsPlan);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RowsPlan { strategy, geometry, traffic, first, .. } = self.0;
        let packs = traffic.slice_packs;
        match strategy {
            Strategy::Tiny => {
                let lanes = geometry.lanes_per_row;
                let rows = first.launch.block / lanes.max(1);
                write!(f, "{rows} at a time a block, {} a row", count(lanes, "lane"))
            }
            Strategy::Warp => {
                let lanes = count(geometry.lanes_per_row, "lane");
                write!(f, "{} a warp, {lanes} a row", geometry.rows_per_warp)
            }
            Strategy::Block | Strategy::TwoPass => {
                write!(f, "a block each, {} of 16 bytes{}", count(packs, "pack"), Keeps(self.0))?;
                match geometry.rows_ahead {
                    0 => Ok(()),
                    ahead => write!(f, ", the row {ahead} later brought to L2 meanwhile"),
                }
            }
            Strategy::Cluster => {
                let (slices, packs) = (count(geometry.slices, "slice"), count(packs, "pack"));
                let keeps = Keeps(self.0);
                write!(f, "a cluster each, {slices} of up to {packs} of 16 bytes{keeps}")
            }
            Strategy::SplitRow => {
                let (slices, packs) = (count(geometry.slices, "block"), count(packs, "pack"));
                write!(f, "{slices} each, for up to {packs} of 16 bytes")
            }
        }
    }
}

struct Keeps<'a>(&'a RowsPlan);

impl fmt::Display for Keeps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.geometry.cached_packs {
            0 => write!(f, ", none kept in shared memory"),
            some if some == self.0.traffic.slice_packs => write!(f, ", all kept in shared memory"),
            some => write!(f, ", {some} kept in shared memory"),
        }
    }
}

struct Resident<'a>(&'a RowsPlan);

impl fmt::Display for Resident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let residency = self.0.residency;
        write!(
            f,
            "{} a multiprocessor (by shared memory {}, by threads {}, at most {}), if a thread has \
             up to {} registers",
            count(residency.blocks(), "block"),
            residency.by_shared_bytes,
            residency.by_threads,
            residency.by_blocks,
            residency.registers,
        )
    }
}

/// What goes through memory, and how often.
struct Reads<'a>(&'a RowsPlan);

impl fmt::Display for Reads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inputs, output) = match (self.0.first.launch.kernel, self.0.pass) {
            (Kernel::Rows(family, _), pass) => (inputs(family, pass), output(family, pass)),
            (Kernel::Normalizer, _) => ("targets", None),
        };
        write!(f, "{inputs} read once")?;
        let traffic = self.0.traffic;
        if traffic.again_packs > 0 {
            let again = match self.0.first.launch.kernel {
                Kernel::Rows(family, _) => read_again(family, self.0.pass),
                Kernel::Normalizer => "targets",
            };
            let percent = 100 * u64::from(traffic.again_packs) / u64::from(traffic.slice_packs);
            match percent {
                100 => write!(f, ", all of {again} a second time")?,
                part => write!(f, ", {part}% of {again} a second time")?,
            }
            let (at_once, l2) =
                (Bytes(traffic.again_bytes_at_once), Bytes(traffic.l2_bytes.into()));
            write!(f, " ({at_once} at once, the L2 cache has {l2})")?;
        }
        match output {
            None => Ok(()),
            Some(output) => write!(f, ", {output} written once"),
        }
    }
}

fn inputs(family: Family, pass: Pass) -> &'static str {
    use Family as F;
    match family {
        F::FusedTiny
        | F::FusedWarp
        | F::FusedBlock
        | F::FusedCluster
        | F::FusedSplitRow
        | F::LogSoftmaxTiny
        | F::LogSoftmaxWarp
        | F::LogSoftmaxBlock
        | F::LogSoftmaxCluster => "logits",
        F::FusedGeneralTiny
        | F::FusedGeneralWarp
        | F::FusedGeneralBlock
        | F::FusedGeneralCluster
        | F::FusedGeneralSplitRow => "logits (and class weights)",
        F::FusedProbabilitiesWarp if pass == Pass::Fused => {
            "logits (and probabilities, a second time from the cache closest by)"
        }
        F::FusedProbabilitiesWarp | F::FusedProbabilitiesBlock | F::FusedProbabilitiesCluster => {
            "logits and probabilities"
        }
        F::LogSoftmaxBackwardWarp | F::LogSoftmaxBackwardBlock | F::LogSoftmaxBackwardCluster => {
            "values and upstream gradient"
        }
        F::BinaryTiny | F::BinaryWarp | F::BinaryBlock => "logits and targets",
    }
}

/// What of the inputs is read again where not all of a row is kept.
fn read_again(family: Family, pass: Pass) -> &'static str {
    use Family as F;
    match (family, pass) {
        (
            F::LogSoftmaxBackwardWarp | F::LogSoftmaxBackwardBlock | F::LogSoftmaxBackwardCluster,
            _,
        ) => "the upstream gradient",
        // Only where one class has most of the probability.
        (F::FusedProbabilitiesBlock | F::FusedProbabilitiesCluster, Pass::Forward) => {
            "confident rows"
        }
        (F::FusedProbabilitiesBlock | F::FusedProbabilitiesCluster, _) => "both",
        _ => "the logits",
    }
}

/// None where a pass writes nothing of the size of the logits.
fn output(family: Family, pass: Pass) -> Option<&'static str> {
    use Family as F;
    match (family, pass) {
        (F::LogSoftmaxTiny | F::LogSoftmaxWarp | F::LogSoftmaxBlock | F::LogSoftmaxCluster, _) => {
            Some("output")
        }
        (_, Pass::Forward) => None,
        (_, Pass::Backward | Pass::Fused) => Some("gradient"),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(Selection::Pinned(_)) => write!(f, "was pinned"),
            Self::Asked(Selection::Preferred(_) | Selection::Fastest) => write!(f, "was preferred"),
            Self::Cannot(obstacle) => write!(f, "cannot: {obstacle}"),
            Self::Taken(ground) => taken(ground, f),
            Self::Passed(ground) => passed(ground, f),
        }
    }
}

/// The same numbers speak for a strategy,
fn taken(ground: &Ground, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match *ground {
        Ground::Classes { classes, up_to } => {
            write!(f, "takes up to {up_to} classes, and a row has {classes}")
        }
        Ground::Packs { packs, up_to } => {
            write!(f, "takes up to {up_to} packs of 16 bytes, and a row has {packs}")
        }
        Ground::SharedBytes { bytes, up_to } => {
            let (bytes, up_to) = (Bytes(bytes), Bytes(up_to.into()));
            write!(f, "takes up to {up_to} of shared memory, and a row needs {bytes}")
        }
        Ground::OnePass => write!(f, "takes any row that is gone over once"),
        Ground::FewRows { rows, slices } => write!(
            f,
            "takes rows that leave multiprocessors idle: {} of {}",
            count(rows, "row"),
            count(slices, "slice"),
        ),
        Ground::Slices { slices, bytes } => {
            write!(f, "cuts a row into {}", count(slices, "slice"))?;
            match bytes {
                0 => Ok(()),
                _ => write!(f, ", {} of shared memory each", Bytes(bytes)),
            }
        }
        Ground::Rest { blocks } => {
            write!(f, "keeps as much of a row as lets {blocks} blocks share a multiprocessor")
        }
        Ground::Rows { .. }
        | Ground::RowBytes { .. }
        | Ground::ReadAgain { .. }
        | Ground::OneSlice
        | Ground::ClustersInstead => Ok(()),
    }
}

/// and against it.
fn passed(ground: &Ground, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match *ground {
        Ground::Classes { classes, up_to } => {
            write!(f, "is for up to {up_to} classes, and a row has {classes}")
        }
        Ground::Packs { packs, up_to } => {
            write!(f, "is for up to {up_to} packs of 16 bytes, and a row has {packs}")
        }
        Ground::SharedBytes { bytes, up_to } => {
            let (bytes, up_to) = (Bytes(bytes), Bytes(up_to.into()));
            write!(f, "is for up to {up_to} of shared memory, and a row needs {bytes}")
        }
        Ground::FewRows { rows, slices } => write!(
            f,
            "would leave multiprocessors idle: {}, each better cut into {}",
            count(rows, "row"),
            count(slices, "slice"),
        ),
        Ground::Rows { rows, up_to } => {
            write!(f, "is for up to {}, and there are {rows}", count(up_to, "row"))
        }
        Ground::RowBytes { bytes, from } => {
            let (bytes, from) = (Bytes(bytes), Bytes(from.into()));
            write!(f, "is for rows of {from} and more, and a row has {bytes}")
        }
        Ground::ReadAgain { bytes, up_to } => {
            let (bytes, up_to) = (Bytes(bytes), Bytes(up_to));
            write!(
                f,
                "is for up to {up_to} that are read again at once, and here it would be {bytes}"
            )
        }
        Ground::OneSlice => write!(f, "would cut a row into one slice"),
        Ground::ClustersInstead => write!(f, "is for devices without clusters"),
        Ground::OnePass | Ground::Slices { .. } | Ground::Rest { .. } => Ok(()),
    }
}

/// One of a thing, or several.
fn count<N: fmt::Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            few @ ..1024 => write!(f, "{few} bytes"),
            whole @ ..0x10_0000 if whole % 1024 == 0 => write!(f, "{} KiB", whole / 1024),
            more @ ..0x10_0000 => write!(f, "{:.1} KiB", more as f64 / 1024.0),
            whole if whole % 0x10_0000 == 0 => write!(f, "{} MiB", whole / 0x10_0000),
            more => write!(f, "{:.1} MiB", more as f64 / f64::from(0x10_0000)),
        }
    }
}

// Packs are counted by this size.
const _: () = assert!(abi::XENT_PACK_BYTES == 16);
