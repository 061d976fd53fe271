//! The compiled kernels as data: what there is, and what it is called.

use super::tuning::NORMALIZER_BLOCKS_PER_MULTIPROCESSOR;
use crate::{abi, problem::Dtype};

/// All dtypes, in the order of [`Kernel::index`].
const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// One line a family: its name here, the middle of its symbols, its largest block, and how many of those
/// its registers leave room for on a multiprocessor. `cargo xtask sass` reads the lines and holds the
/// machine code to them.
macro_rules! families {
    ($($(#[doc = $doc:literal])* $family:ident = $name:literal, $threads:ident, $blocks:literal;)*) => {
        /// Kernels that differ in their dtype alone.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Family {
            $($(#[doc = $doc])* $family,)*
        }

        impl Family {
            /// All of them, in the order of [`Kernel::index`].
            pub const ALL: &'static [Self] = &[$(Self::$family),*];

            const fn symbol(self, dtype: Dtype) -> &'static str {
                match (self, dtype) {
                    $(
                        (Self::$family, Dtype::F32) => concat!("xent_", $name, "_f32"),
                        (Self::$family, Dtype::F16) => concat!("xent_", $name, "_f16"),
                        (Self::$family, Dtype::Bf16) => concat!("xent_", $name, "_bf16"),
                    )*
                }
            }

            const fn max_threads(self) -> u32 {
                match self {
                    $(Self::$family => abi::$threads,)*
                }
            }

            const fn resident_blocks(self) -> u32 {
                match self {
                    $(Self::$family => $blocks,)*
                }
            }
        }
    };
}

families! {
    /// Loss and gradient of class indices, or one of them; many short rows a block.
    FusedTiny = "fused_tiny", XENT_WARP_BLOCK_THREADS, 7;
    /// Loss and gradient of class indices, or one of them; a row a warp, or a part of one.
    FusedWarp = "fused_warp", XENT_WARP_BLOCK_THREADS, 4;
    /// Loss and gradient of class indices, or one of them; a row a block.
    FusedBlock = "fused_block", XENT_MAX_BLOCK_THREADS, 2;
    /// Loss and gradient of class indices, or one of them; a row a cluster.
    FusedCluster = "fused_cluster", XENT_MAX_BLOCK_THREADS, 2;
    /// Loss and gradient of class indices, or one of them; a slice of a row a block, in two launches.
    FusedSplitRow = "fused_split_row", XENT_MAX_BLOCK_THREADS, 2;
    /// Loss and gradient, or one of them, with class weights in the smoothing term or capped logits; many short rows
    /// a block.
    FusedGeneralTiny = "fused_general_tiny", XENT_WARP_BLOCK_THREADS, 7;
    /// Loss and gradient, or one of them, with class weights in the smoothing term or capped logits; a row a warp, or
    /// a part of one.
    FusedGeneralWarp = "fused_general_warp", XENT_WARP_BLOCK_THREADS, 3;
    /// Loss and gradient, or one of them, with class weights in the smoothing term or capped logits; a row a block.
    FusedGeneralBlock = "fused_general_block", XENT_MAX_BLOCK_THREADS, 2;
    /// Loss and gradient, or one of them, with class weights in the smoothing term or capped logits; a row a cluster.
    FusedGeneralCluster = "fused_general_cluster", XENT_MAX_BLOCK_THREADS, 1;
    /// Loss and gradient, or one of them, with class weights in the smoothing term or capped logits; a slice of a row
    /// a block, in two launches.
    FusedGeneralSplitRow = "fused_general_split_row", XENT_MAX_BLOCK_THREADS, 1;
    /// Loss and gradient of target probabilities, or one of them; a row a warp, or a part of one.
    FusedProbabilitiesWarp = "fused_probabilities_warp", XENT_WARP_BLOCK_THREADS, 4;
    /// Loss and gradient of target probabilities, or one of them; a row a block.
    FusedProbabilitiesBlock = "fused_probabilities_block", XENT_MAX_BLOCK_THREADS, 1;
    /// Loss and gradient of target probabilities, or one of them; a row a cluster.
    FusedProbabilitiesCluster = "fused_probabilities_cluster", XENT_MAX_BLOCK_THREADS, 1;
    /// Log-softmax, or softmax; many short rows a block.
    LogSoftmaxTiny = "log_softmax_tiny", XENT_WARP_BLOCK_THREADS, 8;
    /// Log-softmax, or softmax; a row a warp, or a part of one.
    LogSoftmaxWarp = "log_softmax_warp", XENT_WARP_BLOCK_THREADS, 4;
    /// Log-softmax, or softmax; a row a block.
    LogSoftmaxBlock = "log_softmax_block", XENT_MAX_BLOCK_THREADS, 2;
    /// Log-softmax, or softmax; a row a cluster.
    LogSoftmaxCluster = "log_softmax_cluster", XENT_MAX_BLOCK_THREADS, 2;
    /// The gradient of log-softmax; a row a warp, or a part of one.
    LogSoftmaxBackwardWarp = "log_softmax_backward_warp", XENT_WARP_BLOCK_THREADS, 4;
    /// The gradient of log-softmax; a row a block.
    LogSoftmaxBackwardBlock = "log_softmax_backward_block", XENT_MAX_BLOCK_THREADS, 2;
    /// The gradient of log-softmax; a row a cluster.
    LogSoftmaxBackwardCluster = "log_softmax_backward_cluster", XENT_MAX_BLOCK_THREADS, 2;
    /// Binary cross-entropy and its gradient, or one of them; many short rows a block.
    BinaryTiny = "binary_tiny", XENT_WARP_BLOCK_THREADS, 8;
    /// Binary cross-entropy and its gradient, or one of them; a row a warp, or a part of one.
    BinaryWarp = "binary_warp", XENT_WARP_BLOCK_THREADS, 5;
    /// Binary cross-entropy and its gradient, or one of them; a row a block.
    BinaryBlock = "binary_block", XENT_MAX_BLOCK_THREADS, 2;
}

/// A loaded kernel's name. [`Kernel::symbol`] is the only place that spells the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// One that goes over the rows.
    Rows(Family, Dtype),
    /// What a mean divides by, where the targets decide it.
    Normalizer,
}

impl Kernel {
    /// How many there are.
    pub const COUNT: usize = Family::ALL.len() * DTYPES.len() + 1;

    /// All of them, in the order of [`Kernel::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |family| DTYPES.map(|dtype| Self::Rows(family, dtype));
        Family::ALL.iter().copied().flat_map(of).chain([Self::Normalizer])
    }

    /// Position in [`Kernel::all`].
    pub const fn index(self) -> usize {
        match self {
            Self::Rows(family, Dtype::F32) => family as usize * DTYPES.len(),
            Self::Rows(family, Dtype::F16) => family as usize * DTYPES.len() + 1,
            Self::Rows(family, Dtype::Bf16) => family as usize * DTYPES.len() + 2,
            Self::Normalizer => Self::COUNT - 1,
        }
    }

    /// Its name in the image.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Rows(family, dtype) => family.symbol(dtype),
            Self::Normalizer => "xent_normalizer",
        }
    }

    /// Largest block that it is compiled for.
    pub const fn max_threads(self) -> u32 {
        match self {
            Self::Rows(family, _) => family.max_threads(),
            Self::Normalizer => abi::XENT_NORMALIZER_THREADS,
        }
    }

    /// Blocks of [`Kernel::max_threads`] for which the registers of a multiprocessor suffice at least; as
    /// many threads in smaller blocks do, too.
    pub const fn resident_blocks(self) -> u32 {
        match self {
            Self::Rows(family, _) => family.resident_blocks(),
            Self::Normalizer => NORMALIZER_BLOCKS_PER_MULTIPROCESSOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_distinct_and_indexed_in_order() {
        assert_eq!((Kernel::all().count(), Kernel::COUNT), (70, 70));
        for (position, kernel) in Kernel::all().enumerate() {
            assert_eq!(kernel.index(), position);
            let same = Kernel::all().filter(|other| other.symbol() == kernel.symbol());
            assert_eq!(same.count(), 1, "{}", kernel.symbol());
        }
    }

    /// At least so many registers a thread as a kernel needs to be of use; `cargo xtask sass` compares what they
    /// were compiled to.
    #[test]
    fn blocks_leave_registers() {
        for kernel in Kernel::all() {
            let threads = kernel.resident_blocks() * kernel.max_threads();
            let registers = 65_536 / threads;
            assert!((64..=170).contains(&registers), "{}: {registers}", kernel.symbol());
        }
        assert_eq!(Kernel::Normalizer.resident_blocks(), NORMALIZER_BLOCKS_PER_MULTIPROCESSOR);
    }

    /// The words of a variant are the words of its symbols.
    #[test]
    fn names_agree() {
        for kernel in Kernel::all() {
            if let Kernel::Rows(family, dtype) = kernel {
                let camel = format!("Xent{family:?}{dtype:?}");
                let squeezed = kernel.symbol().replace('_', "");
                assert_eq!(camel.to_lowercase(), squeezed);
            }
        }
    }
}
