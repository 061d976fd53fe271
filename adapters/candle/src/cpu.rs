//! What tensors on the CPU get: smoothxent's f64 reference, rounded once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, DType, Error, Result, WithDType, backend::BackendStorage};
use half::{bf16, f16};
use smoothxent::{
    Divisor, Divisors, EmptyMean, Reduction, WeightedTerms,
    problem::{Problem, Terms},
    reference::{self, Options, Outcome, Targets},
};

use crate::rows::Rows;

/// What a loss on the CPU has beside its options.
#[derive(Debug)]
pub(crate) struct Losses {
    class_weights: Vec<f64>,
    bad_targets: Mutex<Option<BadTargets>>,
}

/// As [`smoothxent::Error::BadTargets`] has it.
#[derive(Clone, Copy, Debug)]
struct BadTargets {
    count: u64,
    row: u64,
    target: i64,
    classes: u64,
}

/// A tensor as its op gets it.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub storage: &'a CpuStorage,
    pub rows: Rows,
}

impl Losses {
    /// No weights for 1.
    pub fn new(class_weights: Option<&[f32]>) -> Self {
        let class_weights = class_weights.unwrap_or_default();
        Self {
            class_weights: class_weights.iter().copied().map(f64::from).collect(),
            bad_targets: Mutex::new(None),
        }
    }

    /// Loss and gradient, multiplied by `upstream`: nothing for 1, one number, or one a row.
    pub fn run(
        &self,
        problem: &Problem,
        logits: Matrix<'_>,
        targets: Matrix<'_>,
        upstream: &[f64],
    ) -> Result<Outcome> {
        let x = floats(logits)?;
        let Rows { rows, classes, .. } = logits.rows;
        let options = self.options(problem, upstream);
        let run = |targets| reference::forward_backward(&x, rows, classes, targets, &options);
        if problem.types().targets.is_probabilities() {
            return Ok(run(Targets::Probabilities(&floats(targets)?)));
        }
        let indices = indices(targets)?;
        Ok(run(Targets::Indices(&indices, problem.ignore_index())))
    }

    /// Notes targets that name no class, as the device does.
    pub fn note_bad_targets(&self, problem: &Problem, targets: Matrix<'_>) -> Result<()> {
        if problem.types().targets.is_probabilities() {
            return Ok(());
        }
        let classes = u64::from(problem.classes());
        let is_bad = |&(_, &y): &(usize, &i64)| {
            problem.ignore_index() != Some(y) && !u64::try_from(y).is_ok_and(|y| y < classes)
        };
        let indices = indices(targets)?;
        let mut bad = indices.iter().enumerate().filter(is_bad);
        let Some((row, &target)) = bad.next() else { return Ok(()) };
        let found = BadTargets { count: 1 + bad.count() as u64, row: row as u64, target, classes };
        let mut noted = self.noted();
        let before = noted.map_or(0, |noted| noted.count);
        let first = noted.filter(|noted| noted.row <= found.row).unwrap_or(found);
        *noted = Some(BadTargets { count: before + found.count, ..first });
        Ok(())
    }

    fn noted(&self) -> MutexGuard<'_, Option<BadTargets>> {
        self.bad_targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted since the last time.
    pub fn check(&self) -> std::result::Result<(), smoothxent::Error> {
        let Some(noted) = self.noted().take() else { return Ok(()) };
        let BadTargets { count, row, target, classes } = noted;
        Err(smoothxent::Error::BadTargets { count, row, target, classes })
    }

    /// The same coefficients as the kernels get, in the reference's words.
    fn options<'a>(&'a self, problem: &Problem, upstream: &'a [f64]) -> Options<'a> {
        let config = problem.config();
        let Terms { nll, smoothing, z_loss } = problem.term_weights();
        let weights: &[f64] = &self.class_weights;
        let divisor = |divisor| match (config.reduction, divisor) {
            (Reduction::None | Reduction::Sum, _) => reference::Divisor::Given(1.0),
            (Reduction::Mean, Divisor::TargetWeights) => reference::Divisor::TargetWeights,
            (Reduction::Mean, Divisor::CountedRows) => reference::Divisor::CountedRows,
            (Reduction::Mean, Divisor::AllRows) => reference::Divisor::AllRows,
            (Reduction::Mean, Divisor::Given(number)) => reference::Divisor::Given(number),
        };
        let Divisors { nll: of_nll, smoothing: of_smoothing, z_loss: of_z_loss } = config.divisors;
        Options {
            nll: nll.into(),
            smoothing: smoothing.into(),
            nll_weights: match config.weighted_terms {
                WeightedTerms::NllAndSmoothing | WeightedTerms::Nll => weights,
                WeightedTerms::Smoothing => &[],
            },
            smoothing_weights: match config.weighted_terms {
                WeightedTerms::NllAndSmoothing | WeightedTerms::Smoothing => weights,
                WeightedTerms::Nll => &[],
            },
            z_loss: z_loss.into(),
            logit_scale: config.logit_scale,
            logit_softcap: config.logit_softcap,
            divisors: [of_nll, of_smoothing, of_z_loss].map(divisor),
            empty_is_zero: config.empty_mean == EmptyMean::Zero,
            upstream,
        }
    }
}

/// Without gaps, in f64.
pub(crate) fn floats(Matrix { storage, rows }: Matrix<'_>) -> Result<Vec<f64>> {
    fn wide<T: WithDType>(buffer: &[T], rows: Rows) -> Vec<f64> {
        rows.of_slice(buffer).flatten().map(|x| x.to_f64()).collect()
    }
    match storage {
        CpuStorage::F32(buffer) => Ok(wide(buffer, rows)),
        CpuStorage::F16(buffer) => Ok(wide(buffer, rows)),
        CpuStorage::BF16(buffer) => Ok(wide(buffer, rows)),
        other => Err(Error::UnsupportedDTypeForOp(other.dtype(), "floats").bt()),
    }
}

fn indices(Matrix { storage, rows }: Matrix<'_>) -> Result<Vec<i64>> {
    fn wide<T: Copy + Into<i64>>(buffer: &[T], rows: Rows) -> Vec<i64> {
        rows.of_slice(buffer).flatten().map(|&y| y.into()).collect()
    }
    match storage {
        CpuStorage::I32(buffer) => Ok(wide(buffer, rows)),
        CpuStorage::U32(buffer) => Ok(wide(buffer, rows)),
        CpuStorage::I64(buffer) => Ok(wide(buffer, rows)),
        other => Err(Error::UnsupportedDTypeForOp(other.dtype(), "indices").bt()),
    }
}

/// Rounded once, to one of the logits' types.
pub(crate) fn rounded(values: &[f64], dtype: DType) -> Result<CpuStorage> {
    match dtype {
        DType::F32 => Ok(CpuStorage::F32(values.iter().map(|&x| x as f32).collect())),
        DType::F16 => Ok(CpuStorage::F16(values.iter().copied().map(f16::from_f64).collect())),
        DType::BF16 => Ok(CpuStorage::BF16(values.iter().copied().map(bf16::from_f64).collect())),
        _ => Err(Error::UnsupportedDTypeForOp(dtype, "rounded").bt()),
    }
}
