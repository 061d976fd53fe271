//! How far a result may be from the f64 oracle. All tolerances of the project are derived here.
//!
//! Notation: u = 2^-24 (half an ulp of f32, relative). Every kernel works in f32 and rounds the
//! gradient once to the stored type. With t_k = log2(e) (x_k - max):
//!
//! * 2^t by `ex2.approx` is within 2^-22 = 4u (PTX ISA); the fma that forms t rounds by u |t|, and
//!   log2(e) itself is off by u / 4 relative. Together an exponential is off by
//!   (4 + 1.25 ln 2 |t|) u < (4 + 1.25 |x_k - max|) u, relative.
//! * A sum of n exponentials adds at most u for each addition on its longest path. A thread adds
//!   packs one by one, so the path is packs per thread + a pack's own 3 + 10 merge steps.
//! * rcp, log2, log1p and division are within 2u.

use crate::common::run::{Case, Outcome};
use smoothxent::{Reduction, problem::Dtype, reference};

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The smallest normal f32: exponentials below it are flushed to 0.
const MIN_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Additions on the longest path of a row's sums: 1,024 threads at most share a row, so 64 covers
/// rows of up to 2^19 f32 elements, and everything shorter that fewer threads share (plan/tuning.rs
/// gives a thread at most 16 packs below that).
const SUM_PATH: f64 = 64.0;

/// An exponential, relative, at a distance below the row's maximum.
fn exponential(distance: f64) -> f64 {
    (4.0 + 1.25 * distance) * U
}

/// Half the distance between neighbours of the stored type around a value.
fn half_ulp(dtype: Dtype, value: f64) -> f64 {
    let (relative_bits, subnormal) = match dtype {
        Dtype::F32 => (24, (2.0f64).powi(-150)),
        Dtype::F16 => (11, (2.0f64).powi(-25)),
        Dtype::Bf16 => (8, (2.0f64).powi(-134)),
    };
    (value.abs() * (2.0f64).powi(-relative_bits)).max(subnormal)
}

/// Largest finite value of the stored type.
fn largest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(f32::MAX),
        Dtype::F16 => 65504.0,
        Dtype::Bf16 => f64::from(half::bf16::MAX),
    }
}

/// What a row's budgets are made of.
struct Row {
    max: f64,
    lse: f64,
    /// 1 - p_y, from the other classes.
    rest: f64,
    /// -log p_y.
    nll: f64,
    /// sum over all k of -log p_k, divided by the classes.
    mean_minus_log: f64,
}

impl Row {
    fn of(x: &[f64], y: usize) -> Self {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exp = |value: f64| (value - max).exp();
        let others: f64 = x.iter().enumerate().filter(|&(k, _)| k != y).map(|(_, &v)| exp(v)).sum();
        let sum = others + exp(x[y]);
        let lse = max + sum.ln();
        let ratio = others / exp(x[y]);
        Self {
            max,
            lse,
            rest: others / sum,
            nll: if ratio <= 1.0 { ratio.ln_1p() } else { (max - x[y]) + sum.ln() },
            mean_minus_log: x.iter().map(|&v| lse - v).sum::<f64>() / x.len() as f64,
        }
    }

    /// The sum over the other classes, relative: those that matter lie at about -ln(rest) below the
    /// maximum, or closer.
    fn rest_relative(&self) -> f64 {
        let distance = if self.rest > 0.0 { -self.rest.ln() } else { 0.0 };
        2.0 * exponential(distance.max(0.0)) + SUM_PATH * U
    }

    /// Of the sum over all classes, relative; a term at distance g weighs e^-g, so g e^-g < 1/2
    /// takes the place of the distance.
    fn sum_relative() -> f64 {
        exponential(0.5) + SUM_PATH * U
    }

    fn loss(&self, smoothing: f64) -> f64 {
        // log1p(ratio) where p_y > 1/2: relative to itself. Else ln 2 (log2(sum) - t_y): the sum's
        // relative error becomes absolute, t_y rounds relative to itself.
        let nll = if self.rest <= 0.5 {
            self.nll * (self.rest_relative() + 4.0 * U) + MIN_NORMAL
        } else {
            Self::sum_relative() + 4.0 * U * self.nll
        };
        // Each -log p_k is log2(sum) - t_k, the t_k added along the path.
        let uniform = Self::sum_relative() + (SUM_PATH + 4.0) * U * self.mean_minus_log.abs();
        let smooth = if smoothing == 0.0 { 0.0 } else { smoothing * uniform + nll * smoothing };
        (1.0 - smoothing) * nll + smooth + 4.0 * U * self.loss_scale(smoothing)
    }

    fn loss_scale(&self, smoothing: f64) -> f64 {
        let nll = if smoothing == 1.0 { 0.0 } else { (1.0 - smoothing) * self.nll };
        let smooth = if smoothing == 0.0 { 0.0 } else { smoothing * self.mean_minus_log };
        nll + smooth
    }

    fn lse(&self) -> f64 {
        // max + ln 2 (log2(sum) - residual): one rounding at the size of the result, one at that of
        // the maximum.
        Self::sum_relative() + 4.0 * U * (self.lse.abs() + self.max.abs())
    }

    /// For scale * (p_k - e / C), or scale * (e (C-1)/C - rest) at the target, before the rounding
    /// to the stored type.
    fn gradient(&self, x_k: f64, is_target: bool, smoothing: f64, classes: f64) -> f64 {
        if is_target {
            self.rest * (self.rest_relative() + 6.0 * U) + 4.0 * U * smoothing + MIN_NORMAL
        } else {
            let p = (x_k - self.lse).exp();
            let relative = exponential((self.max - x_k).abs()) + Self::sum_relative() + 6.0 * U;
            let p_error = if p == 0.0 { 0.0 } else { p * relative };
            p_error + 4.0 * U * smoothing / classes + MIN_NORMAL
        }
    }
}

/// The worst element of one kind of output.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Error as a multiple of the budget.
    pub of_budget: f64,
    description: String,
}

impl Worst {
    fn see(&mut self, what: impl FnOnce() -> String, found: f64, expected: f64, budget: f64) {
        let same = found == expected || (found.is_nan() && expected.is_nan());
        let of_budget = if same {
            0.0
        } else if found.is_finite() && expected.is_finite() {
            (found - expected).abs() / budget
        } else {
            f64::INFINITY
        };
        if of_budget > self.of_budget || of_budget.is_nan() {
            let description = format!(
                "{}: found {found:e}, expected {expected:e}, off by {of_budget:.3} budgets of {budget:e}",
                what()
            );
            *self = Self {
                of_budget: if of_budget.is_nan() { f64::INFINITY } else { of_budget },
                description,
            };
        }
    }
}

/// Holds a device's outcome against the oracle's, for the case that both computed.
pub fn within_budget(
    case: &Case,
    found: &Outcome,
    expected: &reference::Outcome,
) -> Result<Worst, String> {
    judge(case, found, expected, 0.0)
}

/// The same for expectations that were formed in f64 without care for cancellation.
pub fn within_budget_of_textbook(
    case: &Case,
    found: &Outcome,
    expected: &reference::Outcome,
) -> Result<(), String> {
    judge(case, found, expected, 1e-13).map(drop)
}

/// Each row of the gradient sums to zero, up to the budgets of its elements.
pub fn rows_sum_to_zero(case: &Case, found: &Outcome) -> Result<(), String> {
    let scales = case.gradient_scales();
    for (row, &target) in case.targets.iter().enumerate() {
        let range = row * case.classes..(row + 1) * case.classes;
        let sum: f64 = found.gradient[range.clone()].iter().sum();
        let budget = if case.config.ignore_index == Some(target) {
            0.0
        } else {
            let x: Vec<f64> = case.logits[range.clone()].iter().map(|&v| f64::from(v)).collect();
            let of_row = Row::of(&x, target as usize);
            let elements = x.iter().zip(&found.gradient[range]).enumerate();
            elements
                .map(|(k, (&x_k, &g))| {
                    gradient_budget(case, &of_row, x_k, k as i64 == target, scales[row], g)
                })
                .sum()
        };
        if sum.abs() > budget {
            return Err(format!(
                "{case}: row {row} of the gradient sums to {sum:e}, budget {budget:e}"
            ));
        }
    }
    Ok(())
}

fn gradient_budget(
    case: &Case,
    row: &Row,
    x_k: f64,
    is_target: bool,
    scale: f64,
    value: f64,
) -> f64 {
    let f32_error = row.gradient(x_k, is_target, case.config.label_smoothing, case.classes as f64);
    let unrounded = scale.abs() * f32_error + 4.0 * U * value.abs();
    unrounded + half_ulp(case.dtype, value.abs() + unrounded)
}

fn judge(
    case: &Case,
    found: &Outcome,
    expected: &reference::Outcome,
    slack: f64,
) -> Result<Worst, String> {
    let mut worst = Worst::default();
    let classes = case.classes;
    let smoothing = case.config.label_smoothing;
    let scales = case.gradient_scales();
    let mut sum_budget = 0.0;
    for (row, &target) in case.targets.iter().enumerate() {
        let x: Vec<f64> =
            case.logits[row * classes..][..classes].iter().map(|&v| f64::from(v)).collect();
        let ignored = case.config.ignore_index == Some(target);
        let class = usize::try_from(target).ok().filter(|&y| y < classes && !ignored);
        // Rows without a softmax give exact results.
        let of_row = class.map(|y| Row::of(&x, y));
        let loss_budget = of_row.as_ref().map_or(0.0, |r| r.loss(smoothing) + slack);
        if loss_budget.is_finite() {
            sum_budget += loss_budget;
        }
        worst.see(
            || format!("loss of row {row}"),
            found.row_losses[row].into(),
            to_f32_range(expected.row_losses[row]),
            loss_budget,
        );
        let lse_budget = of_row.as_ref().map_or(0.0, Row::lse);
        worst.see(
            || format!("lse of row {row}"),
            found.row_lse[row].into(),
            expected.row_lse[row],
            lse_budget,
        );
        for (k, &x_k) in x.iter().enumerate() {
            let (value, want) =
                (found.gradient[row * classes + k], expected.gradient[row * classes + k]);
            let want =
                if want.abs() > largest(case.dtype) + half_ulp(case.dtype, largest(case.dtype)) {
                    want.signum() * f64::INFINITY
                } else {
                    want
                };
            let budget = of_row.as_ref().map_or(0.0, |r| {
                gradient_budget(case, r, x_k, class == Some(k), scales[row], want) + slack
            });
            worst.see(|| format!("gradient [{row}, {k}]"), value, want, budget);
        }
    }
    if let Some(loss) = found.loss {
        // 32 additions by a lane, 5 of lanes, the same again over chunks; then 1/D and a product.
        let additions =
            (37.0 + 5.0 + (case.targets.len() as f64 / (1024.0 * 32.0)).ceil() + 3.0) * U;
        let divisor = match case.config.reduction {
            Reduction::Mean => case.counted_rows() as f64,
            _ => 1.0,
        };
        let budget = sum_budget / divisor + additions * expected.loss.abs() + MIN_NORMAL;
        // A row's loss that f32 cannot hold is infinite before it is summed.
        let overflows = expected.row_losses.iter().any(|&loss| to_f32_range(loss) == f64::INFINITY);
        let want = if overflows && !expected.loss.is_nan() { f64::INFINITY } else { expected.loss };
        worst.see(|| "reduced loss".to_owned(), loss.into(), to_f32_range(want), budget);
    }
    if worst.of_budget > 1.0 {
        return Err(format!("{case}: {}", worst.description));
    }
    Ok(worst)
}

/// Losses are stored in f32: what is beyond it is infinite.
fn to_f32_range(value: f64) -> f64 {
    if value.abs() > f64::from(f32::MAX) { value.signum() * f64::INFINITY } else { value }
}

/// The oracle against published values: f64 rounding, through the sums of a row.
pub fn oracle_agrees(found: f64, expected: f64) -> bool {
    let scale = expected.abs().max(1e-3);
    found == expected
        || (found.is_nan() && expected.is_nan())
        || (found - expected).abs() <= 1e-11 * scale
}
