//! The same losses in f64 on the host: what the kernels are tested against, and a place to read the
//! formula. Shares no code with the rest of the crate.
//!
//! Row i has logits x, transformed logits `z_k = s tanh(t x_k / s)` (or `t x_k` without a cap),
//! `lse = log sum_k exp(z_k)`, `p = softmax(z)`, and the loss
//!
//! ```text
//! loss_i          = sum_k c_ik (lse - z_k) + L lse^2
//! dloss_i / dx_k  = ((sum_j c_ij + 2 L lse) p_k - c_ik) t (1 - (z_k / s)^2)
//! ```
//!
//! where a class index y gives `c_ik = alpha u_y [k = y] + beta v_k`, and target probabilities q give
//! `c_ik = w_k (q_ik (1 - e) + e / C)`.

/// What the rows are to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Targets<'a> {
    /// One class a row; rows with the ignored index count for nothing.
    Indices(&'a [i64], Option<i64>),
    /// `[rows, classes]`; rows need not sum to 1.
    Probabilities(&'a [f64]),
}

/// What a term of the loss is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divisor {
    /// The caller's number.
    Given(f64),
    /// Rows that are not ignored.
    CountedRows,
    /// All rows.
    AllRows,
    /// The sum of the class weights of the targets of counted rows.
    TargetWeights,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options<'a> {
    /// alpha: weight of -log p_y. With probabilities: 1 - e.
    pub nll: f64,
    /// beta: weight of each -log p_k. With probabilities: e / C.
    pub smoothing: f64,
    /// u, or empty for 1. With probabilities: w.
    pub nll_weights: &'a [f64],
    /// v, or empty for 1. Unused with probabilities.
    pub smoothing_weights: &'a [f64],
    /// L.
    pub z_loss: f64,
    /// t.
    pub logit_scale: f64,
    /// s, if any.
    pub logit_softcap: Option<f64>,
    /// Of the nll term, the smoothing term and the z-loss.
    pub divisors: [Divisor; 3],
    /// Makes a mean that would divide by 0 be 0 instead of NaN.
    pub empty_is_zero: bool,
    /// What flows back: empty for 1, or one number for all rows, or one for each.
    pub upstream: &'a [f64],
}

/// Losses and gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Each row's loss, not divided; 0 for ignored rows, NaN for targets that name no class.
    pub row_losses: Vec<f64>,
    /// Each row's log-sum-exp; 0 for ignored rows, NaN for targets that name no class.
    pub row_lse: Vec<f64>,
    /// Sum over rows of the divided terms.
    pub loss: f64,
    /// `[rows, classes]`, without gaps.
    pub gradient: Vec<f64>,
}

/// Loss and gradient of `rows` rows of `classes` logits without gaps.
///
/// # Panics
/// If lengths do not match, or `classes` is 0: this is a reference, not an entry point.
pub fn forward_backward(
    logits: &[f64],
    rows: usize,
    classes: usize,
    targets: Targets<'_>,
    options: &Options<'_>,
) -> Outcome {
    assert_eq!(logits.len(), rows * classes, "logits are [rows, classes]");
    let inverse = inverse_divisors(rows, targets, options);
    let mut outcome = Outcome {
        row_losses: Vec::with_capacity(rows),
        row_lse: Vec::with_capacity(rows),
        loss: 0.0,
        gradient: Vec::with_capacity(logits.len()),
    };
    for row in 0..rows {
        let x = &logits[row * classes..][..classes];
        let upstream = match options.upstream {
            [] => 1.0,
            [one] => *one,
            all => all[row],
        };
        let target = match targets {
            Targets::Probabilities(q) => Target::Spread(&q[row * classes..][..classes]),
            Targets::Indices(indices, ignore_index) => {
                let index = indices[row];
                let class = usize::try_from(index).ok().filter(|&class| class < classes);
                match class {
                    _ if ignore_index == Some(index) => Target::Ignored,
                    None => Target::Bad,
                    Some(y) => Target::Class(y),
                }
            }
        };
        let class = match target {
            Target::Class(y) => Some(y),
            Target::Spread(_) | Target::Ignored | Target::Bad => None,
        };
        let (loss, divided, lse) = match target {
            Target::Ignored => (0.0, 0.0, 0.0),
            Target::Bad => (f64::NAN, f64::NAN, f64::NAN),
            Target::Class(_) | Target::Spread(_) => {
                let softmax = Softmax::of(x, class, options);
                let loss = softmax.loss(x, &coefficients(target, classes, options, [1.0; 3]));
                let divided = coefficients(target, classes, options, inverse);
                outcome.gradient.extend(softmax.gradient(x, &divided).map(|g| upstream * g));
                (loss, softmax.loss(x, &divided), softmax.lse())
            }
        };
        if matches!(target, Target::Ignored | Target::Bad) {
            outcome.gradient.extend(std::iter::repeat_n(0.0, classes));
        }
        outcome.row_losses.push(loss);
        outcome.row_lse.push(lse);
        outcome.loss += divided;
    }
    // A mean of nothing is 0 / 0; everything else is not changed.
    outcome.loss += 0.0 * inverse[0];
    outcome
}

fn counted(targets: Targets<'_>, rows: usize) -> usize {
    match targets {
        Targets::Probabilities(_) => rows,
        Targets::Indices(indices, ignore_index) => {
            indices.iter().filter(|&&index| Some(index) != ignore_index).count()
        }
    }
}

/// 1 / D for the nll term, the smoothing term and the z-loss.
pub fn inverse_divisors(rows: usize, targets: Targets<'_>, options: &Options<'_>) -> [f64; 3] {
    let counted = counted(targets, rows);
    let target_weights = || match targets {
        Targets::Probabilities(_) => rows as f64,
        Targets::Indices(indices, ignore_index) => indices
            .iter()
            .filter(|&&index| Some(index) != ignore_index)
            .map(|&index| {
                let class = usize::try_from(index).ok();
                class.map_or(1.0, |y| at(options.nll_weights, y))
            })
            .sum(),
    };
    options.divisors.map(|divisor| {
        let divisor = match divisor {
            Divisor::Given(number) => number,
            Divisor::CountedRows => counted as f64,
            Divisor::AllRows => rows as f64,
            Divisor::TargetWeights => target_weights(),
        };
        if divisor == 0.0 && options.empty_is_zero { 0.0 } else { 1.0 / divisor }
    })
}

/// A weight that was not given is 1.
fn at(weights: &[f64], k: usize) -> f64 {
    weights.get(k).copied().unwrap_or(1.0)
}

/// A coefficient of 0 counts for nothing, also beside an infinity.
fn times(coefficient: f64, value: f64) -> f64 {
    if coefficient == 0.0 { 0.0 } else { coefficient * value }
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Ignored,
    Bad,
    Class(usize),
    Spread(&'a [f64]),
}

/// What multiplies each -log p_k of a row, and lse^2.
struct Coefficients {
    classes: Vec<f64>,
    z_loss: f64,
}

fn coefficients(
    target: Target<'_>,
    classes: usize,
    options: &Options<'_>,
    [nll, smoothing, z_loss]: [f64; 3],
) -> Coefficients {
    let of = |k: usize| match target {
        Target::Spread(q) => {
            times(at(options.nll_weights, k) * (q[k] * options.nll + options.smoothing), nll)
        }
        Target::Class(y) => {
            let hit = if k == y { options.nll * at(options.nll_weights, y) } else { 0.0 };
            times(hit, nll) + times(options.smoothing * at(options.smoothing_weights, k), smoothing)
        }
        Target::Ignored | Target::Bad => 0.0,
    };
    Coefficients { classes: (0..classes).map(of).collect(), z_loss: times(options.z_loss, z_loss) }
}

/// A row's softmax, with a class target kept apart: `1 - p_y` and `-log p_y` come from the sum over
/// the other classes, since both cancel as p_y -> 1.
struct Softmax<'a> {
    options: &'a Options<'a>,
    class: Option<usize>,
    max: f64,
    /// exp(z_y - max), or 0 without a class target.
    target: f64,
    /// The sum over the other classes of exp(z_k - max).
    others: f64,
}

impl<'a> Softmax<'a> {
    fn of(x: &[f64], class: Option<usize>, options: &'a Options<'a>) -> Self {
        let z = |k: usize| transformed(x[k], options);
        // f64::max drops NaN; the sums bring it back.
        let max = (0..x.len()).map(z).fold(f64::NEG_INFINITY, f64::max);
        Self {
            options,
            class,
            max,
            target: class.map_or(0.0, |y| (z(y) - max).exp()),
            others: (0..x.len()).filter(|&k| Some(k) != class).map(|k| (z(k) - max).exp()).sum(),
        }
    }

    fn sum(&self) -> f64 {
        self.target + self.others
    }

    fn lse(&self) -> f64 {
        self.max + self.sum().ln()
    }

    fn minus_log(&self, k: usize, x_k: f64) -> f64 {
        let ratio = self.others / self.target;
        if self.class == Some(k) && ratio <= 1.0 {
            ratio.ln_1p()
        } else {
            (self.max - transformed(x_k, self.options)) + self.sum().ln()
        }
    }

    fn loss(&self, x: &[f64], coefficients: &Coefficients) -> f64 {
        let terms = coefficients.classes.iter().zip(x).enumerate();
        let cross_entropy: f64 =
            terms.map(|(k, (&c, &x_k))| times(c, self.minus_log(k, x_k))).sum();
        let loss = cross_entropy + times(coefficients.z_loss, self.lse().powi(2));
        // A NaN row stays NaN when all its coefficients are 0.
        if self.sum() > 0.0 { loss } else { f64::NAN }
    }

    /// (total + 2 L lse) p_k - c_k; for the target without p_y - 1 and total - c_y.
    fn gradient<'b>(
        &'b self,
        x: &'b [f64],
        coefficients: &'b Coefficients,
    ) -> impl Iterator<Item = f64> + 'b {
        let c = &coefficients.classes;
        let z_loss = times(2.0 * coefficients.z_loss, self.lse());
        let of_others = c.iter().enumerate().filter(|&(k, _)| Some(k) != self.class);
        let others: f64 = of_others.map(|(_, &c_k)| c_k).sum();
        let total = others + self.class.map_or(0.0, |y| c[y]);
        x.iter().zip(c).enumerate().map(move |(k, (&x_k, &c_k))| {
            let p = (transformed(x_k, self.options) - self.max).exp() / self.sum();
            let before_slope = if self.class == Some(k) {
                (others + z_loss) * p - c_k * (self.others / self.sum())
            } else {
                (total + z_loss) * p - c_k
            };
            before_slope * slope(x_k, self.options)
        })
    }
}

fn transformed(x: f64, options: &Options<'_>) -> f64 {
    match options.logit_softcap {
        None => options.logit_scale * x,
        Some(cap) => cap * (options.logit_scale * x / cap).tanh(),
    }
}

/// dz / dx.
fn slope(x: f64, options: &Options<'_>) -> f64 {
    match options.logit_softcap {
        None => options.logit_scale,
        Some(cap) => options.logit_scale / (options.logit_scale * x / cap).cosh().powi(2),
    }
}
