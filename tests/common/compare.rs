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
//! * rcp, log2, log1p and division are within 2u; for log1p of (0, 1], see [`LOG1P_OF_UNIT`].
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
//! * Target probabilities: the weight a u_k q_k + b v_k of an element is formed by three roundings, 3u
//!   relative to the sum of its parts' sizes. A class that is kept apart, since it has 2/3 of the
//!   probability or more, is treated as a class target is.
//! * A z-loss L lse^2 is off by 2 err(lse) / |lse| relative, and two products.
//! * Row losses are divided before they are summed: the sum's budget is that of its shares.

use crate::common::{
    operations::{BinaryCase, BinaryOutcome, LogSoftmaxCase, LogSoftmaxOutcome},
    run::{Case, Outcome},
};
use smoothxent::{problem::Dtype, reference};

const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The smallest normal f32: exponentials below it are flushed to 0.
const MIN_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Additions on the longest path of a row's sums, in u. A block of a row of up to 4,096 packs has so many
/// threads that each adds 16 packs at most (plan/tuning.rs), of longer ones 384; warp has 16 packs a lane
/// and tiny 64 elements, added by fours or more, or 16, one by one. To these come a pack's own 3, 5 + 4 steps
/// within a block, 3 within a cluster or 5 between slices, and single elements: 32 covers them all.
fn sum_path(dtype: Dtype, classes: usize) -> f64 {
    let packs = (classes * dtype.bytes()).div_ceil(16);
    32.0 + (packs / 384) as f64
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

/// What is stored: values that round to none of the type's are infinite.
fn to_range(dtype: Dtype, value: f64) -> f64 {
    // Half a unit in the last place beyond the largest: a tie, which goes to the even infinity.
    let overflows = match dtype {
        Dtype::F32 => f64::from(f32::MAX) + (2.0f64).powi(103),
        Dtype::F16 => 65_520.0,
        Dtype::Bf16 => f64::from(half::bf16::MAX) + (2.0f64).powi(119),
    };
    if value.abs() >= overflows { value.signum() * f64::INFINITY } else { value }
}

/// Roundings that make a coefficient, relative.
const COEFFICIENT: f64 = 4.0 * U;

/// What a row's budgets are made of.
struct Row {
    /// z.
    values: Vec<f64>,
    /// exp(z - max).
    exponentials: Vec<f64>,
    /// Their sum.
    sum: f64,
    /// The class that is kept apart: the target, or, with probabilities, one that has nearly all.
    apart: Option<usize>,
    max: f64,
    lse: f64,
    /// 1 - p of the class kept apart, from the others.
    rest: f64,
    /// Its -log p.
    nll: f64,
    /// Of an exponential, relative for each nat below the maximum, in u.
    by_distance: f64,
    /// Of the sums: [`sum_path`].
    sum_path: f64,
    /// Of any z, absolute; 0 but under a cap.
    value_error: f64,
    /// Of the divisors, relative.
    divisor_error: f64,
    /// v, or empty for 1; with probabilities what multiplies each -log p_k, with its sign.
    weights: Vec<f64>,
    /// The sizes of what each is the sum of, which can cancel.
    weight_sizes: Vec<f64>,
    /// Of a weight, relative to that size.
    weight_error: f64,
    /// The sum of those sizes over k that are not apart, and the same times |log p_k|.
    mass_size_of_others: f64,
    weighted_size_of_others: f64,
    /// The sum of the exponentials that are flushed to 0.
    flushed: f64,
    /// The size of the sum over k that are not apart of v_k.
    mass_of_others: f64,
    /// sum over k that are not apart of v_k -log p_k, and the sum of the terms' sizes.
    others_minus_log: f64,
    others_size: f64,
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
    /// b; 1 with probabilities.
    smoothing: f64,
    /// L.
    z_loss: f64,
    /// Whether what multiplies a, and then b, on the target is the same number.
    alike: bool,
}

impl Row {
    /// Of a row whose target is the class `target`, or probabilities if there is none.
    fn of(
        case: &Case,
        options: &reference::Options<'_>,
        row: usize,
        target: Option<usize>,
        divisors: &Divisors,
    ) -> Self {
        let classes = case.classes;
        let x = &case.logits[row * classes..][..classes];
        let transformed = |x: f32| match options.logit_softcap {
            None => options.logit_scale * f64::from(x),
            Some(cap) => cap * (options.logit_scale * f64::from(x) / cap).tanh(),
        };
        let values: Vec<f64> = x.iter().map(|&x| transformed(x)).collect();
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponentials: Vec<f64> = values.iter().map(|value| (value - max).exp()).collect();
        let sum_but = |apart: Option<usize>| -> f64 {
            let others = exponentials.iter().enumerate().filter(|&(k, _)| Some(k) != apart);
            others.map(|(_, e)| e).sum()
        };
        let largest_class = values.iter().position(|&v| v == max);
        // The kernel's own threshold, with room for its rounding.
        let apart = target.or_else(|| largest_class.filter(|_| sum_but(None) < 1.49));
        let others = sum_but(apart);
        let target_exp = apart.map_or(0.0, |y| exponentials[y]);
        let sum = others + target_exp;
        let lse =
            max + if others <= 1.0 { (others - (1.0 - target_exp)).ln_1p() } else { sum.ln() };
        let ratio = others / target_exp;
        let weight = |weights: &[f64], k: usize| weights.get(k).copied().unwrap_or(1.0);
        let spread = case.probabilities.as_ref().map(|q| &q[row * classes..][..classes]);
        let (weights, weight_sizes): (Vec<f64>, Vec<f64>) = match spread {
            None => options.smoothing_weights.iter().map(|&v| (v, v)).unzip(),
            Some(q) => (0..classes)
                .map(|k| {
                    let nll = options.nll * weight(options.nll_weights, k) * f64::from(q[k]);
                    let smoothing = options.smoothing * weight(options.smoothing_weights, k);
                    // With all the probability, and one weight for both, parts of one size are rounded
                    // alike: where they cancel, they do exactly, and leave nothing of their size.
                    let alike = q[k] == 1.0
                        && weight(options.nll_weights, k) == weight(options.smoothing_weights, k);
                    let cancels = alike && nll == -smoothing;
                    let size = if cancels { 0.0 } else { nll.abs() + smoothing.abs() };
                    (nll + smoothing, size)
                })
                .unzip(),
        };
        let v = |k: usize| weight(&weights, k);
        let v_size = |k: usize| weight(&weight_sizes, k);
        let exponent_scale = std::f64::consts::LOG2_E
            * if options.logit_softcap.is_some() { 1.0 } else { options.logit_scale };
        let multiplier = f64::from(exponent_scale as f32) / exponent_scale - 1.0;
        let largest = values.iter().fold(0.0, |largest: f64, z| largest.max(z.abs()));
        let terms = match target {
            Some(y) => Terms {
                nll: options.nll * weight(options.nll_weights, y),
                smoothing: options.smoothing,
                z_loss: options.z_loss,
                alike: weight(options.nll_weights, y) == weight(&weights, y),
            },
            None => Terms { nll: 0.0, smoothing: 1.0, z_loss: options.z_loss, alike: true },
        };
        let [nll, smoothing, z_loss] = divisors.inverse;
        let same_divisor = nll == smoothing;
        let smoothing = if spread.is_some() { nll } else { smoothing };
        let of_others = || (0..classes).filter(|&k| Some(k) != apart);
        Self {
            apart,
            max,
            lse,
            rest: others / sum,
            nll: match apart {
                None => 0.0,
                Some(_) if ratio <= 1.0 => ratio.ln_1p(),
                Some(y) => (max - values[y]) + sum.ln(),
            },
            by_distance: 1.0 + multiplier.abs() / U,
            sum_path: sum_path(case.dtype, classes),
            value_error: if options.logit_softcap.is_some() { 8.0 * U * largest } else { 0.0 },
            divisor_error: divisors.relative_error,
            weight_error: if spread.is_some() { 3.0 * U } else { 0.0 },
            mass_of_others: of_others().map(|k| v(k).abs()).sum(),
            mass_size_of_others: of_others().map(v_size).sum(),
            weighted_size_of_others: of_others()
                .map(|k| times(v_size(k), (lse - values[k]).abs()))
                .sum(),
            flushed: exponentials.iter().filter(|&&e| e < 1.001 * MIN_NORMAL).sum(),
            others_minus_log: of_others().map(|k| times(v(k), lse - values[k])).sum(),
            others_size: of_others().map(|k| times(v(k).abs(), (lse - values[k]).abs())).sum(),
            weights,
            weight_sizes,
            terms,
            divided: Terms {
                nll: times(terms.nll, nll),
                smoothing: times(terms.smoothing, smoothing),
                z_loss: times(terms.z_loss, z_loss),
                alike: terms.alike && (same_divisor || spread.is_some()),
            },
            softcap: options.logit_softcap,
            slope: options.logit_scale,
            exponentials,
            sum,
            values,
        }
    }

    fn weight(&self, k: usize) -> f64 {
        self.weights.get(k).copied().unwrap_or(1.0)
    }

    fn weight_size(&self, k: usize) -> f64 {
        self.weight_sizes.get(k).copied().unwrap_or(1.0)
    }

    /// The weight of the class kept apart, and its size.
    fn weight_apart(&self) -> (f64, f64) {
        self.apart.map_or((0.0, 0.0), |y| (self.weight(y), self.weight_size(y)))
    }

    /// An exponential, relative, at a distance below the row's maximum.
    fn exponential(&self, distance: f64) -> f64 {
        (4.0 + self.by_distance * distance) * U + 2.0 * self.value_error
    }

    /// The sum over the other classes, relative: those that matter lie at about -ln(rest) below the
    /// maximum, or closer.
    fn rest_relative(&self) -> f64 {
        let distance = if self.rest > 0.0 { -self.rest.ln() } else { 0.0 };
        2.0 * self.exponential(distance.max(0.0)) + self.sum_path * U
    }

    /// Of the sum over all classes, relative; a term at distance g weighs e^-g, so g e^-g < 1/2
    /// takes the place of the distance.
    fn sum_relative(&self) -> f64 {
        self.exponential(0.5) + self.sum_path * U
    }

    /// Of -log p of the class kept apart.
    fn nll_error(&self) -> f64 {
        // log1p(ratio) where p_y > 1/2: relative to itself. Else ln 2 (log2(sum) - t_y): the sum's
        // relative error becomes absolute, t_y rounds relative to itself.
        if self.rest <= 0.5 {
            self.nll * (self.rest_relative() + 4.0 * U) + self.flushed + MIN_NORMAL
        } else {
            self.sum_relative() + 4.0 * U * self.nll + self.value_error
        }
    }

    /// What multiplies -log p of the class kept apart, and its terms' sizes; both 0 where the terms
    /// cancel, as they do exactly in the kernel, but here up to f64's rounding: a is -b and their
    /// factors are the same numbers.
    fn on_apart(&self, terms: Terms) -> (f64, f64) {
        let (weight, weight_size) = self.weight_apart();
        let sum = terms.nll + times(terms.smoothing, weight);
        let size = terms.nll.abs() + times(terms.smoothing, weight_size);
        let cancels = terms.alike && sum.abs() < 1e-14 * size;
        if cancels { (0.0, 0.0) } else { (sum, size) }
    }

    fn loss(&self, terms: Terms) -> f64 {
        let (on_apart, _) = self.on_apart(terms);
        times(on_apart, self.nll)
            + times(terms.smoothing, self.others_minus_log)
            + times(terms.z_loss, self.lse * self.lse)
    }

    /// The sum of its terms' sizes, and its budget.
    fn loss_budget(&self, terms: Terms) -> (f64, f64) {
        let (_, on_apart) = self.on_apart(terms);
        // Each -log p_k is log2(sum) - t_k, the t_k added along the path.
        let smoothing_error = self.mass_of_others * (self.sum_relative() + self.value_error)
            + (self.sum_path + 4.0) * U * self.others_size;
        let lse_error = self.lse_error();
        let z_loss_error = lse_error * (2.0 * self.lse.abs() + lse_error);
        let size = times(on_apart, self.nll)
            + times(terms.smoothing, self.others_size)
            + times(terms.z_loss, self.lse * self.lse);
        let error = times(on_apart, self.nll_error())
            + times(terms.smoothing, smoothing_error)
            + times(terms.z_loss, z_loss_error)
            + self.weight_error * times(terms.smoothing, self.weighted_size_of_others)
            + (COEFFICIENT + self.weight_error + 4.0 * U) * size;
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
        let coefficient = COEFFICIENT + self.weight_error + self.divisor_error + 6.0 * U;
        let mass_error = if self.weights.is_empty() { 0.0 } else { self.sum_path * U };
        let weights_error =
            self.weight_error * times(smoothing, self.mass_size_of_others) + MIN_NORMAL;
        let (_, on_apart) = self.on_apart(self.divided);
        let from_z_loss = times(2.0 * z_loss, self.lse.abs());
        let from_z_loss_error = times(2.0 * z_loss, self.lse_error());
        let p = self.exponentials[k] / self.sum;
        let distance = (self.max - self.values[k]).abs();
        let on_others = times(smoothing, self.mass_of_others) + from_z_loss;
        let (size, error) = if Some(k) == self.apart {
            // p_y = e_y / (e_y + others): an error of either moves it by that times p_y (1 - p_y).
            let p_relative =
                times(self.rest, self.exponential(distance) + self.rest_relative()) + coefficient;
            (
                on_apart * self.rest + on_others * p,
                times(self.rest, on_apart * (self.rest_relative() + coefficient))
                    + times(p, on_others * (p_relative + mass_error) + from_z_loss_error)
                    + p * weights_error,
            )
        } else {
            let own = times(smoothing, self.weight(k)).abs();
            let total = on_apart + on_others;
            let p_relative = self.exponential(distance) + self.sum_relative() + coefficient;
            (
                total * p + own,
                times(p, total * (p_relative + mass_error) + from_z_loss_error)
                    + p * weights_error
                    + own * coefficient
                    + self.weight_error * times(smoothing, self.weight_size(k)),
            )
        };
        let flushed = (1.0 + on_apart + on_others) * (self.flushed + MIN_NORMAL);
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
        let sum = if case.class_weights.is_some() { ordered_sum(case.rows()) } else { 0.0 };
        Self { inverse: case.inverse_divisors(), relative_error: sum + 3.0 * U }
    }
}

/// Of a sum over rows, relative: of a chunk's, 16 additions by a lane and 5 of lanes, and the same again over chunks.
/// What a mean divides by takes fewer: 8 by a thread, 5 of lanes, 5 of warps, and again over larger chunks.
fn ordered_sum(rows: usize) -> f64 {
    (16.0 + 5.0 + 5.0 + (rows as f64 / (512.0 * 32.0)).ceil()) * U
}

/// Of a mean of rows of two classes, relative: a row's exponentials (2 ulp each), logarithm (2), sum, products
/// with the unit of logarithms and the divisor, and the divisor itself; then the sum over rows.
pub fn mean_of_pairs(rows: usize) -> f64 {
    (2.0 + 2.0 + 1.0 + 2.0 + 1.0) * 2.0 * U + ordered_sum(rows)
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
        // What may be beyond the largest number may be an infinity, and the other way round.
        let overflowed = found.is_infinite() != expected.is_infinite()
            && found.signum() == expected.signum()
            && found.abs().min(expected.abs()) + budget > f64::from(f32::MAX);
        let of_budget = if same || overflowed {
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

impl Worst {
    fn verdict(self, case: &dyn std::fmt::Display) -> Result<Self, String> {
        if self.of_budget > 1.0 {
            return Err(format!("{case}: {}", self.description));
        }
        Ok(self)
    }
}

/// Holds a device's outcome against the oracle's, for the case that both computed.
pub fn within_budget(
    case: &Case,
    found: &Outcome,
    expected: &reference::Outcome,
) -> Result<Worst, String> {
    case.with_options(|options| judge(case, options, found, expected, 0.0))
}

/// The same for expectations that were formed in f64 without care for cancellation.
pub fn within_budget_of_textbook(
    case: &Case,
    found: &Outcome,
    expected: &reference::Outcome,
) -> Result<(), String> {
    case.with_options(|options| judge(case, options, found, expected, 1e-13)).map(drop)
}

/// Each row of the gradient sums to zero, up to the budgets of its elements.
pub fn rows_sum_to_zero(case: &Case, found: &Outcome) -> Result<(), String> {
    let divisors = Divisors::of(case);
    for (row, &target) in case.targets.iter().enumerate() {
        let range = row * case.classes..(row + 1) * case.classes;
        let sum: f64 = found.gradient[range.clone()].iter().sum();
        let budget = if case.ignore_index() == Some(target) {
            0.0
        } else {
            let class = case.probabilities.is_none().then_some(target as usize);
            let of_row = case.with_options(|options| Row::of(case, options, row, class, &divisors));
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
    options: &reference::Options<'_>,
    found: &Outcome,
    expected: &reference::Outcome,
    slack: f64,
) -> Result<Worst, String> {
    let mut worst = Worst::default();
    let classes = case.classes;
    let divisors = Divisors::of(case);
    // A mean over weights of sum 0 divides by it: what is not 0 becomes infinite in f64, and what f32 makes
    // 0 becomes NaN. Neither is a number.
    let of_nothing = divisors.inverse.iter().any(|inverse| inverse.is_infinite());
    let no_number = |found: f64, want: f64| of_nothing && !found.is_finite() && !want.is_finite();
    let (mut shares, mut shares_budget, mut overflows) = (0.0, 0.0, false);
    for (row, &target) in case.targets.iter().enumerate() {
        let ignored = case.ignore_index() == Some(target);
        let class = usize::try_from(target).ok().filter(|&y| y < classes && !ignored);
        // Rows without a softmax give exact results.
        let of_row = match case.probabilities {
            Some(_) => Some(Row::of(case, options, row, None, &divisors)),
            None => class.map(|y| Row::of(case, options, row, Some(y), &divisors)),
        };
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
        judge_argmax(case, row, found.row_argmax[row], expected.row_argmax[row])?;
        for k in 0..classes {
            let (value, want) =
                (found.gradient[row * classes + k], expected.gradient[row * classes + k]);
            let want = to_range(case.dtype, want);
            let budget =
                of_row.as_ref().map_or(0.0, |r| gradient_budget(case, r, row, k, want) + slack);
            if !no_number(value, want) {
                worst.see(|| format!("gradient [{row}, {k}]"), value, want, budget);
            }
        }
    }
    if let Some(loss) = found.loss {
        let budget = shares_budget + ordered_sum(case.rows()) * shares + MIN_NORMAL;
        // A share that f32 cannot hold is infinite before it is summed.
        let want = if overflows && !expected.loss.is_nan() { f64::INFINITY } else { expected.loss };
        if !no_number(loss.into(), want) {
            worst.see(|| "reduced loss".to_owned(), loss.into(), to_f32_range(want), budget);
        }
    }
    if let Some(correct) = found.correct {
        // Judged on the device's own predictions, which may differ from the oracle's under a cap.
        let hits = found.row_argmax.iter().zip(&case.targets);
        let hits = hits.filter(|&(&class, &y)| class == y && case.ignore_index() != Some(y));
        let hits = hits.filter(|&(&class, _)| class >= 0).count() as i64;
        if correct != hits {
            return Err(format!("{case}: {correct} correct predictions instead of {hits}"));
        }
    }
    worst.verdict(case)
}

/// Exactly the oracle's class; under a cap, where f32 can make equal what f64 can tell apart, one whose
/// value is the largest up to the cap's error.
fn judge_argmax(case: &Case, row: usize, found: i64, expected: i64) -> Result<(), String> {
    let x = &case.logits[row * case.classes..][..case.classes];
    let as_good = || {
        let (Some(cap), Ok(found)) = (case.config.logit_softcap, usize::try_from(found)) else {
            return false;
        };
        let value = |x: f32| cap * (case.config.logit_scale * f64::from(x) / cap).tanh();
        let best = value(x[expected as usize]);
        x.get(found).is_some_and(|&x| (best - value(x)).abs() <= 16.0 * U * best.abs())
    };
    if found == expected || as_good() {
        return Ok(());
    }
    Err(format!("{case}: the largest of row {row} is {expected}, not {found}"))
}

/// Losses are stored in f32.
fn to_f32_range(value: f64) -> f64 {
    to_range(Dtype::F32, value)
}

/// The oracle against published values: f64 rounding, through the sums of a row.
pub fn oracle_agrees(found: f64, expected: f64) -> bool {
    let scale = expected.abs().max(1e-3);
    found == expected
        || (found.is_nan() && expected.is_nan())
        || (found - expected).abs() <= 1e-11 * scale
}

/// Log-probabilities, probabilities, log-sum-exps and both gradients.
///
/// log p_k is -((max - x_k) + ln sum), formed as an exponent is: relative to its distance, and absolute
/// by the sum's error; a class with 2/3 of the probability has log1p of the others instead. The
/// gradient g_k - p_k G adds the upstream gradients along a path; that of the class with most of the
/// probability, from the logits, loses no digits as p -> 1.
pub fn log_softmax(case: &LogSoftmaxCase, found: &LogSoftmaxOutcome) -> Result<(), String> {
    let mut worst = Worst::default();
    let (log_probs, row_lse) = case.expected();
    let sum_path = sum_path(case.dtype, case.classes);
    // Exponents are relative to log2(e), rounded once: by 1/4 u.
    let exponential = |distance: f64| (4.0 + 1.25 * distance) * U;
    let sum_relative = exponential(0.5) + sum_path * U;
    for (row, x) in case.logits.chunks_exact(case.classes).enumerate() {
        let range = row * case.classes..(row + 1) * case.classes;
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let upstream = &case.upstream[range.clone()];
        let total: f64 = upstream.iter().map(|&g| f64::from(g)).sum();
        let size: f64 = upstream.iter().map(|&g| f64::from(g).abs()).sum();
        // What log p was stored as: that is what the gradient is of.
        let stored = &found.log_probs[range.clone()];
        for (k, i) in range.clone().enumerate() {
            let log_p = log_probs[i];
            let distance = f64::from(max) - f64::from(x[k]);
            let own = if log_p > -0.5 {
                // log1p of the sum of the others, relative to itself.
                let below = (-log_p.exp_m1()).max(f64::MIN_POSITIVE);
                log_p.abs() * (2.0 * exponential(-below.ln()) + sum_path * U + 6.0 * U) + MIN_NORMAL
            } else {
                sum_relative + 4.0 * U * (distance.abs() + log_p.abs())
            };
            let budget = own + half_ulp(case.dtype, log_p.abs() + own);
            let want = to_range(case.dtype, log_p);
            worst.see(|| format!("log p [{row}, {k}]"), found.log_probs[i], want, budget);

            let p = log_p.exp();
            let p_error = p * (exponential(distance) + sum_relative + 4.0 * U) + MIN_NORMAL;
            let budget = p_error + half_ulp(case.dtype, p + p_error);
            worst.see(|| format!("p [{row}, {k}]"), found.probabilities[i], p, budget);

            let g = f64::from(upstream[k]);
            if log_p > -0.4 {
                // The class kept apart: (1 - p) g - p times the sum of the other upstream gradients.
                let rest = -log_p.exp_m1();
                let rest_relative =
                    2.0 * exponential(-rest.max(f64::MIN_POSITIVE).ln()) + sum_path * U;
                let others: f64 = upstream.iter().map(|&g| f64::from(g)).sum::<f64>() - g;
                let others = if upstream.len() == 1 { 0.0 } else { others };
                let of_others = size - g.abs();
                let want = rest * g - p * others;
                let error = rest * (rest_relative + 6.0 * U) * (g.abs() + others.abs())
                    + p * (sum_path + 6.0) * U * of_others
                    + MIN_NORMAL * size;
                worst.see(
                    || format!("gradient of logits [{row}, {k}]"),
                    found.gradient_of_logits[i],
                    want,
                    error + half_ulp(case.dtype, want.abs() + error),
                );
            }
            let budget = |p: f64, p_error: f64| {
                let error = p_error * total.abs()
                    + p * sum_path * U * size
                    + 4.0 * U * (g.abs() + p * total.abs())
                    + MIN_NORMAL * size;
                error + half_ulp(case.dtype, (g - p * total).abs() + error)
            };
            worst.see(
                || format!("gradient of logits [{row}, {k}]"),
                found.gradient_of_logits[i],
                g - p * total,
                budget(p, p_error),
            );
            let p = stored[k].exp();
            worst.see(
                || format!("gradient of log p [{row}, {k}]"),
                found.gradient_of_log_probs[i],
                g - p * total,
                budget(p, p * (exponential(stored[k].abs()) + 4.0 * U) + MIN_NORMAL),
            );
        }
        let lse = row_lse[row];
        let budget = sum_relative + 4.0 * U * (lse.abs() + f64::from(max).abs());
        let want = to_f32_range(lse);
        worst.see(|| format!("lse of row {row}"), found.row_lse[row].into(), want, budget);
    }
    worst.verdict(case).map(drop)
}

/// The largest relative error of log1p_of_unit (kernels/arithmetic.cuh), in u; it was found to be 2.16.
pub const LOG1P_OF_UNIT: f64 = 2.2;

/// Loss and gradient of a binary cross-entropy: both have terms of known sign, each relative to itself.
///
/// e = exp(-|x|) is off by (4 + 1.25 |x|) u, and what follows from it by no more than that, relative. To
/// softplus(-|x|), log1p adds [`LOG1P_OF_UNIT`]; to softplus(|x|), a sum one rounding. The gradient is
/// (large - small e) / (1 + e): both its terms are off by the rounding of 1 + e, the 2u of its reciprocal and
/// a product, 4u. Coefficients w r t and w (1 - t) are formed by four roundings; the sum or difference that
/// they enter, and a product, make six.
pub fn binary(case: &BinaryCase, found: &BinaryOutcome) -> Result<(), String> {
    let mut worst = Worst::default();
    let expected = case.expected();
    let targets = case.dense_targets();
    case.with_options(|options| {
        let weight = |weights: &[f64], k: usize| weights.get(k).copied().unwrap_or(1.0);
        let mut shares_budget = 0.0;
        for (row, q) in targets.iter().enumerate() {
            let upstream = match options.upstream {
                [] => 1.0,
                [one] => *one,
                all => all[row],
            };
            let (mut size, mut error) = (0.0, 0.0);
            for k in 0..case.classes {
                let i = row * case.classes + k;
                let want = expected.gradient[i];
                let Some(&q) = q.get(k).filter(|q| !q.is_nan()) else {
                    worst.see(|| format!("gradient [{row}, {k}]"), found.gradient[i], want, 0.0);
                    continue;
                };
                let x = f64::from(case.logits[i]);
                let (w, r) =
                    (weight(options.class_weights, k), weight(options.positive_weights, k));
                let positive = w * r * (options.on * q + options.off);
                let negative = w * (options.on * (1.0 - q) + 1.0 - options.on - options.off);
                let tail = (-x.abs()).exp();
                // exp(-inf) is 0 exactly.
                let distance = if x.is_infinite() { 0.0 } else { x.abs() };
                let of_exponential = (4.0 + 1.25 * distance) * U;
                let tail_error = of_exponential + LOG1P_OF_UNIT * U;
                let sigmoid_error = of_exponential + 4.0 * U;
                let (below, above) =
                    if x >= 0.0 { (positive, negative) } else { (negative, positive) };
                let coefficient = 6.0 * U;
                // below: of softplus(-|x|); above: of softplus(|x|).
                size += times(below, tail.ln_1p()) + times(above, x.abs() + tail.ln_1p());
                error += times(below, tail.ln_1p() * (tail_error + coefficient) + MIN_NORMAL)
                    + times(
                        above,
                        (x.abs() + tail.ln_1p()) * (2.0 * U + coefficient)
                            + tail.ln_1p() * tail_error,
                    );
                let sigmoid = tail / (1.0 + tail);
                let before = times(below, sigmoid * (sigmoid_error + coefficient) + MIN_NORMAL)
                    + times(
                        above,
                        (1.0 - sigmoid) * (4.0 * U + coefficient) + sigmoid * sigmoid_error,
                    )
                    + 4.0 * U * (below * sigmoid + above * (1.0 - sigmoid));
                let scale = (upstream * options.over_classes * options.inverse_divisor).abs();
                let f32_error = times(scale, before) + 6.0 * U * want.abs();
                let budget = f32_error + half_ulp(case.dtype, want.abs() + f32_error);
                let want = to_range(case.dtype, want);
                worst.see(|| format!("gradient [{row}, {k}]"), found.gradient[i], want, budget);
            }
            let budget = options.over_classes
                * (error + (sum_path(case.dtype, case.classes) + 4.0) * U * size);
            worst.see(
                || format!("loss of row {row}"),
                found.row_losses[row].into(),
                to_f32_range(expected.row_losses[row]),
                budget,
            );
            shares_budget +=
                options.inverse_divisor * (budget + 4.0 * U * options.over_classes * size);
        }
        if let Some(loss) = found.loss {
            let budget =
                shares_budget + ordered_sum(case.rows()) * expected.loss.abs() + MIN_NORMAL;
            let want = to_f32_range(expected.loss);
            worst.see(|| "reduced loss".to_owned(), loss.into(), want, budget);
        }
    });
    worst.verdict(case).map(drop)
}

/// Roundings of f32 that a result cannot do without: an exponential is within 4 by the ISA, its exponent,
/// the sum's reciprocal, their product and a coefficient take one each.
const F32_ROUNDINGS: f64 = 8.0;

/// Whether our result is no further from the truth than another implementation's, in the dtype in which
/// ours is stored. An element may be as far as one rounding to that dtype, since nothing stored can be
/// closer by right. In f32, where both make several roundings and luck decides about single elements,
/// the largest error and the root of the mean square are compared instead, and may be as large as the
/// roundings above are for the largest element.
pub fn no_further_than(
    what: &str,
    dtype: Dtype,
    ours: &[f64],
    theirs: &[f64],
    truth: &[f64],
) -> Result<(), String> {
    if ours.len() != truth.len() || theirs.len() != truth.len() {
        return Err(format!("{what}: {}, {} and {} values", ours.len(), theirs.len(), truth.len()));
    }
    let error = |found: f64, truth: f64| {
        let same = found == truth || (found.is_nan() && truth.is_nan());
        let error = if same { 0.0 } else { (found - truth).abs() };
        if error.is_nan() { f64::INFINITY } else { error }
    };
    let triples = || (0..truth.len()).map(|i| (ours[i], theirs[i], truth[i]));
    if dtype == Dtype::F32 {
        let (mut largest, mut squares) = ([0.0f64; 2], [0.0f64; 2]);
        let mut value = 0.0f64;
        for (ours, theirs, truth) in triples() {
            for (i, found) in [ours, theirs].into_iter().enumerate() {
                let error = error(found, truth);
                largest[i] = largest[i].max(error);
                squares[i] += error * error;
            }
            value = if truth.is_finite() { value.max(truth.abs()) } else { value };
        }
        // Exponentials below the normal range are 0.
        let allowed = F32_ROUNDINGS * half_ulp(dtype, value) + MIN_NORMAL;
        let of_mean = |squares: f64| (squares / truth.len() as f64).sqrt();
        let measures = [("largest error", largest), ("mean error", squares.map(of_mean))];
        for (measure, [ours, theirs]) in measures {
            if ours > theirs.max(allowed) {
                return Err(format!(
                    "{what}: our {measure} is {ours:e}, theirs {theirs:e}, allowed are {allowed:e}"
                ));
            }
        }
        return Ok(());
    }
    for (i, (ours, theirs, truth)) in triples().enumerate() {
        // 1% for the error before the rounding: f32's against that of a half precision.
        let rounding = 1.01 * half_ulp(dtype, truth);
        if error(ours, truth) > error(theirs, truth).max(rounding) {
            return Err(format!(
                "{what} [{i}]: {ours:e}, theirs is {theirs:e}, the truth {truth:e}"
            ));
        }
    }
    Ok(())
}

/// A value that a test states with seven digits behind the point.
pub fn literal(what: &str, found: f64, expected: f64) -> Result<(), String> {
    // The last digit stated, and f32's own rounding of values up to some thousand.
    let allowed = 1e-7 + 8.0 * U * expected.abs();
    let same = found == expected || (found - expected).abs() <= allowed;
    if same { Ok(()) } else { Err(format!("{what} is {found}, not {expected}")) }
}
