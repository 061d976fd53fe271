//! How far a result may be from the f64 oracle. All tolerances of the project are derived here.
//!
//! Notation: u = 2^-24 (half an ulp of f32, relative). Every kernel works in f32 and rounds the
//! gradient once to the stored type. With t_k = log2(e) (z_k - max) and z = scale * value:
//!
//! * 2^t by `ex2.approx` is within 2^-22 = 4u (PTX ISA); the fma that forms t rounds by u |t|, and
//!   its multiplier log2(e) scale, formed in f64, is rounded once: by m u relative, m <= 1, and so is
//!   t. Together an exponential is off by (4 + (1 + m) ln 2 |t|) u = (4 + (1 + m) |z_k - max|) u,
//!   relative. For a scale of 1, m is 1/4.
//! * A sum of n exponentials adds at most u for each addition on its longest path. A thread adds
//!   packs one by one, so the path is packs per thread + a pack's own 3 + 10 merge steps. Sums of
//!   class weights, and of weighted t, go the same way: all their terms are of one sign.
//! * rcp, log2, log1p and division are within 2u.
//! * A capped value s tanh(a), a = t x / s: tanhf is within 2 ulp <= 4u; t / s and its product with x
//!   are rounded, so a is off by 2u relative, which moves tanh by a sech^2(a) 2u <= 2u tanh(a); s
//!   and the product with it are rounded. Together 8u relative, absolute in z by at most 8u |z|.
//!   Every exponential of the row is off by 8u max |z| more, relative, and lse by as much, absolute.
//! * Its slope (1 - th)(1 + th), with th = value / s, which is off by 8u |th|: 16u th^2 absolute, and
//!   3u relative for the three roundings.
//! * Coefficients: a, b, L, each class weight's product and each reciprocal of a divisor are rounded
//!   once; sums and products of them make 4u relative to the sum of their sizes (a may be negative:
//!   smoothing over the other classes beyond (C-1)/C). A divisor that is a sum of class weights has
//!   that sum's error: lanes add 32 of a chunk's rows and then each other, and so over chunks.
//! * A z-loss L lse^2 is off by 2 err(lse) / |lse| relative, and two products.
//! * Row losses are divided before they are summed: the sum's budget is that of its shares.

use crate::common::run::{Case, Outcome};
use smoothxent::{problem::Dtype, reference};

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The smallest normal f32: exponentials below it are flushed to 0.
const MIN_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Additions on the longest path of a row's sums: 768 threads at most share a row (512 in the general
/// kernels), so 64 covers rows of 51 packs a thread, which are 156,672 f32 elements (104,448), and
/// everything shorter that fewer threads share (plan/tuning.rs gives a thread at most 19 packs below
/// that).
const SUM_PATH: f64 = 64.0;

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

/// Roundings that make a coefficient, relative.
const COEFFICIENT: f64 = 4.0 * U;

/// What a row's budgets are made of.
struct Row {
    /// z.
    values: Vec<f64>,
    target: usize,
    max: f64,
    lse: f64,
    /// 1 - p_y, from the other classes.
    rest: f64,
    /// -log p_y.
    nll: f64,
    /// Of an exponential, relative for each nat below the maximum, in u.
    by_distance: f64,
    /// Of any z, absolute; 0 but under a cap.
    value_error: f64,
    /// Of the divisors, relative.
    divisor_error: f64,
    /// v, or empty for 1.
    weights: Vec<f64>,
    /// V.
    mass: f64,
    /// sum over k != y of v_k -log p_k.
    others_minus_log: f64,
    /// Of the undivided loss.
    terms: Terms,
    /// The same divided, as in the scalar loss and the gradient.
    divided: Terms,
    /// The cap's th and the row's constant dz / dx, for slopes.
    softcap: Option<f64>,
    slope: f64,
}

/// What multiplies the terms of a row.
#[derive(Clone, Copy)]
struct Terms {
    /// a u_y.
    nll: f64,
    /// b.
    smoothing: f64,
    /// L.
    z_loss: f64,
}

impl Row {
    fn of(case: &Case, row: usize, y: usize, divisors: &Divisors) -> Self {
        case.with_options(|options| {
            let classes = case.classes;
            let x = &case.logits[row * classes..][..classes];
            let transformed = |x: f32| match options.logit_softcap {
                None => options.logit_scale * f64::from(x),
                Some(cap) => cap * (options.logit_scale * f64::from(x) / cap).tanh(),
            };
            let values: Vec<f64> = x.iter().map(|&x| transformed(x)).collect();
            let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exp = |value: f64| (value - max).exp();
            let others: f64 =
                values.iter().enumerate().filter(|&(k, _)| k != y).map(|(_, &v)| exp(v)).sum();
            let sum = others + exp(values[y]);
            let lse = max + sum.ln();
            let ratio = others / exp(values[y]);
            let weight = |weights: &[f64], k: usize| weights.get(k).copied().unwrap_or(1.0);
            let v = |k: usize| weight(options.smoothing_weights, k);
            let exponent_scale = std::f64::consts::LOG2_E
                * if options.logit_softcap.is_some() { 1.0 } else { options.logit_scale };
            let multiplier = f64::from(exponent_scale as f32) / exponent_scale - 1.0;
            let largest = values.iter().fold(0.0, |largest: f64, z| largest.max(z.abs()));
            let terms = Terms {
                nll: options.nll * weight(options.nll_weights, y),
                smoothing: options.smoothing,
                z_loss: options.z_loss,
            };
            let [nll, smoothing, z_loss] = divisors.inverse;
            Self {
                target: y,
                max,
                lse,
                rest: others / sum,
                nll: if ratio <= 1.0 { ratio.ln_1p() } else { (max - values[y]) + sum.ln() },
                by_distance: 1.0 + multiplier.abs() / U,
                value_error: if options.logit_softcap.is_some() { 8.0 * U * largest } else { 0.0 },
                divisor_error: divisors.relative_error,
                weights: options.smoothing_weights.to_vec(),
                mass: (0..classes).map(v).sum(),
                others_minus_log: (0..classes)
                    .filter(|&k| k != y)
                    .map(|k| times(v(k), lse - values[k]))
                    .sum(),
                terms,
                divided: Terms {
                    nll: times(terms.nll, nll),
                    smoothing: times(terms.smoothing, smoothing),
                    z_loss: times(terms.z_loss, z_loss),
                },
                softcap: options.logit_softcap,
                slope: options.logit_scale,
                values,
            }
        })
    }

    fn weight(&self, k: usize) -> f64 {
        self.weights.get(k).copied().unwrap_or(1.0)
    }

    /// An exponential, relative, at a distance below the row's maximum.
    fn exponential(&self, distance: f64) -> f64 {
        (4.0 + self.by_distance * distance) * U + 2.0 * self.value_error
    }

    /// The sum over the other classes, relative: those that matter lie at about -ln(rest) below the
    /// maximum, or closer.
    fn rest_relative(&self) -> f64 {
        let distance = if self.rest > 0.0 { -self.rest.ln() } else { 0.0 };
        2.0 * self.exponential(distance.max(0.0)) + SUM_PATH * U
    }

    /// Of the sum over all classes, relative; a term at distance g weighs e^-g, so g e^-g < 1/2
    /// takes the place of the distance.
    fn sum_relative(&self) -> f64 {
        self.exponential(0.5) + SUM_PATH * U
    }

    /// Of -log p_y.
    fn nll_error(&self) -> f64 {
        // log1p(ratio) where p_y > 1/2: relative to itself. Else ln 2 (log2(sum) - t_y): the sum's
        // relative error becomes absolute, t_y rounds relative to itself.
        if self.rest <= 0.5 {
            self.nll * (self.rest_relative() + 4.0 * U) + MIN_NORMAL
        } else {
            self.sum_relative() + 4.0 * U * self.nll + self.value_error
        }
    }

    /// What multiplies -log p_y, and its terms' sizes; both 0 where the terms cancel, as they do
    /// exactly in the kernel, but here up to f64's rounding: a is -b and their factors are equal.
    fn on_target(&self, terms: Terms) -> (f64, f64) {
        let from_smoothing = times(terms.smoothing, self.weight(self.target));
        let (sum, size) = (terms.nll + from_smoothing, terms.nll.abs() + from_smoothing);
        if sum.abs() < 1e-14 * size { (0.0, 0.0) } else { (sum, size) }
    }

    fn loss(&self, terms: Terms) -> f64 {
        let (on_target, _) = self.on_target(terms);
        times(on_target, self.nll)
            + times(terms.smoothing, self.others_minus_log)
            + times(terms.z_loss, self.lse * self.lse)
    }

    /// The sum of its terms' sizes, and its budget.
    fn loss_budget(&self, terms: Terms) -> (f64, f64) {
        let (_, on_target) = self.on_target(terms);
        // Each -log p_k is log2(sum) - t_k, the t_k added along the path.
        let smoothing_error = self.mass * (self.sum_relative() + self.value_error)
            + (SUM_PATH + 4.0) * U * self.others_minus_log;
        let lse_error = self.lse_error();
        let z_loss_error = lse_error * (2.0 * self.lse.abs() + lse_error);
        let size = times(on_target, self.nll)
            + times(terms.smoothing, self.others_minus_log)
            + times(terms.z_loss, self.lse * self.lse);
        let error = times(on_target, self.nll_error())
            + times(terms.smoothing, smoothing_error)
            + times(terms.z_loss, z_loss_error)
            + (COEFFICIENT + 4.0 * U) * size;
        (size, error)
    }

    fn lse_error(&self) -> f64 {
        // max + ln 2 (log2(sum) - residual): one rounding at the size of the result, and at that of
        // the maximum its scale, their product and one more.
        self.sum_relative() + 4.0 * U * (self.lse.abs() + self.max.abs()) + self.value_error
    }

    /// Of one element before the rounding to the stored type, and not yet multiplied by the
    /// upstream gradient.
    fn gradient(&self, k: usize) -> f64 {
        let Terms { smoothing, z_loss, .. } = self.divided;
        let coefficient = COEFFICIENT + self.divisor_error + 6.0 * U;
        let mass_error = if self.weights.is_empty() { 0.0 } else { SUM_PATH * U };
        let (_, on_target) = self.on_target(self.divided);
        let from_z_loss = times(2.0 * z_loss, self.lse.abs());
        let from_z_loss_error = times(2.0 * z_loss, self.lse_error());
        let p = (self.values[k] - self.lse).exp();
        let distance = (self.max - self.values[k]).abs();
        let own = times(smoothing, self.weight(k));
        let (size, error) = if k == self.target {
            let others = times(smoothing, self.mass - self.weight(k)) + from_z_loss;
            // p_y = e_y / (e_y + others): an error of either moves it by that times p_y (1 - p_y).
            let p_relative =
                times(self.rest, self.exponential(distance) + self.rest_relative()) + coefficient;
            (
                on_target * self.rest + others * p,
                times(self.rest, on_target * (self.rest_relative() + coefficient))
                    + times(p, others * (p_relative + mass_error) + from_z_loss_error),
            )
        } else {
            let total = self.divided.nll.abs() + times(smoothing, self.mass) + from_z_loss;
            let p_relative = self.exponential(distance) + self.sum_relative() + coefficient;
            (
                total * p + own,
                times(p, total * (p_relative + mass_error) + from_z_loss_error) + own * coefficient,
            )
        };
        let flushed = (1.0 + on_target + times(smoothing, self.mass) + from_z_loss) * MIN_NORMAL;
        self.slope
            * match self.softcap {
                None => error + flushed,
                Some(cap) => {
                    let th = self.values[k] / cap;
                    let slope_error = 16.0 * U * th * th + 3.0 * U * (1.0 - th * th);
                    (error + flushed) * (1.0 - th * th + slope_error) + size * slope_error
                }
            }
    }
}

/// A coefficient of 0 counts for nothing, also beside an infinity.
fn times(coefficient: f64, value: f64) -> f64 {
    if coefficient == 0.0 { 0.0 } else { coefficient * value }
}

/// What the terms of a case are divided by.
struct Divisors {
    /// 1 / D.
    inverse: [f64; 3],
    /// Of any of them.
    relative_error: f64,
}

impl Divisors {
    fn of(case: &Case) -> Self {
        let targets = reference::Targets::Indices(&case.targets, case.config.ignore_index);
        let inverse = case.with_options(|o| reference::inverse_divisors(case.rows(), targets, o));
        let sum = if case.class_weights.is_some() { ordered_sum(case.rows()) } else { 0.0 };
        Self { inverse, relative_error: sum + 3.0 * U }
    }
}

/// Of a sum over rows, relative: 32 additions by a lane, 5 of lanes, the same again over chunks.
fn ordered_sum(rows: usize) -> f64 {
    (37.0 + 5.0 + (rows as f64 / (1024.0 * 32.0)).ceil()) * U
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
        } else if found.is_finite() && expected.is_finite() && budget.is_finite() {
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
    let divisors = Divisors::of(case);
    for (row, &target) in case.targets.iter().enumerate() {
        let range = row * case.classes..(row + 1) * case.classes;
        let sum: f64 = found.gradient[range.clone()].iter().sum();
        let budget = if case.config.ignore_index == Some(target) {
            0.0
        } else {
            let of_row = Row::of(case, row, target as usize, &divisors);
            let elements = found.gradient[range].iter().enumerate();
            elements.map(|(k, &g)| gradient_budget(case, &of_row, row, k, g)).sum()
        };
        if sum.abs() > budget {
            return Err(format!(
                "{case}: row {row} of the gradient sums to {sum:e}, budget {budget:e}"
            ));
        }
    }
    Ok(())
}

fn gradient_budget(case: &Case, of_row: &Row, row: usize, k: usize, value: f64) -> f64 {
    let f32_error = of_row.gradient(k);
    let unrounded = case.upstream_of(row).abs() * f32_error + 4.0 * U * value.abs();
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
    let divisors = Divisors::of(case);
    let (mut shares, mut shares_budget, mut overflows) = (0.0, 0.0, false);
    for (row, &target) in case.targets.iter().enumerate() {
        let ignored = case.config.ignore_index == Some(target);
        let class = usize::try_from(target).ok().filter(|&y| y < classes && !ignored);
        // Rows without a softmax give exact results.
        let of_row = class.map(|y| Row::of(case, row, y, &divisors));
        let loss_budget = of_row.as_ref().map_or(0.0, |r| r.loss_budget(r.terms).1 + slack);
        if let Some(of_row) = &of_row {
            let (share, budget) = of_row.loss_budget(of_row.divided);
            overflows |= to_f32_range(of_row.loss(of_row.divided)) == f64::INFINITY;
            if budget.is_finite() {
                shares += share;
                shares_budget += budget + of_row.divisor_error * share + slack;
            }
        }
        worst.see(
            || format!("loss of row {row}"),
            found.row_losses[row].into(),
            to_f32_range(expected.row_losses[row]),
            loss_budget,
        );
        let lse_budget = of_row.as_ref().map_or(0.0, Row::lse_error);
        worst.see(
            || format!("lse of row {row}"),
            found.row_lse[row].into(),
            to_f32_range(expected.row_lse[row]),
            lse_budget,
        );
        for k in 0..classes {
            let (value, want) =
                (found.gradient[row * classes + k], expected.gradient[row * classes + k]);
            let want =
                if want.abs() > largest(case.dtype) + half_ulp(case.dtype, largest(case.dtype)) {
                    want.signum() * f64::INFINITY
                } else {
                    want
                };
            let budget =
                of_row.as_ref().map_or(0.0, |r| gradient_budget(case, r, row, k, want) + slack);
            worst.see(|| format!("gradient [{row}, {k}]"), value, want, budget);
        }
    }
    if let Some(loss) = found.loss {
        let budget = shares_budget + ordered_sum(case.rows()) * shares + MIN_NORMAL;
        // A share that f32 cannot hold is infinite before it is summed.
        let want = if overflows && !expected.loss.is_nan() { f64::INFINITY } else { expected.loss };
        worst.see(|| "reduced loss".to_owned(), loss.into(), to_f32_range(want), budget);
    }
    if worst.of_budget > 1.0 {
        return Err(format!("{case}: {}", worst.description));
    }
    Ok(worst)
}

/// Losses are stored in f32: what does not round to one of its values is infinite.
fn to_f32_range(value: f64) -> f64 {
    let largest = f64::from(f32::MAX);
    if value.abs() >= largest + half_ulp(Dtype::F32, largest) {
        value.signum() * f64::INFINITY
    } else {
        value
    }
}

/// The oracle against published values: f64 rounding, through the sums of a row.
pub fn oracle_agrees(found: f64, expected: f64) -> bool {
    let scale = expected.abs().max(1e-3);
    found == expected
        || (found.is_nan() && expected.is_nan())
        || (found - expected).abs() <= 1e-11 * scale
}
