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
//! `c_ik = alpha u_k q_ik + beta v_k`. [`log_softmax`] and [`binary`] are operations of their own.

/// Targets: one class a row, or probabilities.
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
    /// alpha: weight of -log p_y.
    pub nll: f64,
    /// beta: weight of each -log p_k.
    pub smoothing: f64,
    /// u, or empty for 1.
    pub nll_weights: &'a [f64],
    /// v, or empty for 1.
    pub smoothing_weights: &'a [f64],
    /// L.
    pub z_loss: f64,
    /// t.
    pub logit_scale: f64,
    /// s, if any.
    pub logit_softcap: Option<f64>,
    /// Of the nll term, the smoothing term and the z-loss. With probabilities the first is that of the
    /// smoothing term, too.
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
    /// The class of each row's largest logit, the lowest of several, of NaN if there is one; -1 for
    /// ignored rows and targets that name no class.
    pub row_argmax: Vec<i64>,
    /// Rows whose largest logit is the target's; 0 with probabilities.
    pub correct: i64,
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
        row_argmax: Vec::with_capacity(rows),
        correct: 0,
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
        let (loss, divided, lse) = match target {
            Target::Ignored => (0.0, 0.0, 0.0),
            Target::Bad => (f64::NAN, f64::NAN, f64::NAN),
            Target::Class(_) | Target::Spread(_) => {
                let softmax = Softmax::of(x, options);
                let loss = softmax.loss(&coefficients(target, classes, options, [1.0; 3]));
                let divided = coefficients(target, classes, options, inverse);
                outcome.gradient.extend(softmax.gradient(x, &divided).map(|g| upstream * g));
                (loss, softmax.loss(&divided), softmax.lse())
            }
        };
        if matches!(target, Target::Ignored | Target::Bad) {
            outcome.gradient.extend(std::iter::repeat_n(0.0, classes));
        }
        let argmax = match target {
            Target::Ignored | Target::Bad => -1,
            Target::Class(_) | Target::Spread(_) => argmax(x) as i64,
        };
        outcome.correct += i64::from(matches!(target, Target::Class(y) if argmax == y as i64));
        outcome.row_argmax.push(argmax);
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
        Target::Spread(q) => times(
            options.nll * at(options.nll_weights, k) * q[k]
                + options.smoothing * at(options.smoothing_weights, k),
            nll,
        ),
        Target::Class(y) => {
            let hit = if k == y { options.nll * at(options.nll_weights, y) } else { 0.0 };
            times(hit, nll) + times(options.smoothing * at(options.smoothing_weights, k), smoothing)
        }
        Target::Ignored | Target::Bad => 0.0,
    };
    Coefficients { classes: (0..classes).map(of).collect(), z_loss: times(options.z_loss, z_loss) }
}

/// The largest, the first of several; the first NaN if there is one.
fn argmax(x: &[f64]) -> usize {
    let better = |best: usize, k: usize| !x[best].is_nan() && (x[k].is_nan() || x[k] > x[best]);
    (0..x.len()).fold(0, |best, k| if better(best, k) { k } else { best })
}

/// A row's softmax, with its largest element kept apart: `1 - p` and `-log p` of that one come from the
/// sum over the others, since both cancel as p -> 1.
struct Softmax<'a> {
    options: &'a Options<'a>,
    apart: usize,
    max: f64,
    /// max - z_k, which is NaN where the maximum is infinite.
    distances: Vec<f64>,
    /// exp(z_k - max).
    exponentials: Vec<f64>,
    /// The sum of those of the other classes.
    others: f64,
    /// The logarithm of the sum of all.
    log_sum: f64,
}

impl<'a> Softmax<'a> {
    fn of(x: &[f64], options: &'a Options<'a>) -> Self {
        let z: Vec<f64> = x.iter().map(|&x_k| transformed(x_k, options)).collect();
        let apart = argmax(&z);
        let max = z[apart];
        let distances: Vec<f64> = z.iter().map(|z_k| max - z_k).collect();
        let exponentials: Vec<f64> = distances.iter().map(|distance| (-distance).exp()).collect();
        let all = exponentials.iter().enumerate();
        let others: f64 = all.filter(|&(k, _)| k != apart).map(|(_, e_k)| e_k).sum();
        Self { options, apart, max, distances, exponentials, others, log_sum: others.ln_1p() }
    }

    fn sum(&self) -> f64 {
        1.0 + self.others
    }

    fn lse(&self) -> f64 {
        if self.is_nan() { f64::NAN } else { self.max + self.log_sum }
    }

    fn loss(&self, coefficients: &Coefficients) -> f64 {
        let terms = coefficients.classes.iter().zip(&self.distances);
        let cross_entropy: f64 =
            terms.map(|(&c, distance)| times(c, distance + self.log_sum)).sum();
        let loss = cross_entropy + times(coefficients.z_loss, self.lse().powi(2));
        // A NaN row stays NaN when all its coefficients are 0.
        if self.is_nan() { f64::NAN } else { loss }
    }

    /// A row that holds NaN or +inf, or nothing but -inf.
    fn is_nan(&self) -> bool {
        self.others.is_nan() || !self.max.is_finite()
    }

    /// (total + 2 L lse) p_k - c_k; for the class kept apart without p - 1 and total - c.
    fn gradient<'b>(
        &'b self,
        x: &'b [f64],
        coefficients: &'b Coefficients,
    ) -> impl Iterator<Item = f64> + 'b {
        let c = &coefficients.classes;
        let z_loss = times(2.0 * coefficients.z_loss, self.lse());
        let of_others = c.iter().enumerate().filter(|&(k, _)| k != self.apart);
        let others: f64 = of_others.map(|(_, &c_k)| c_k).sum();
        let total = others + c[self.apart];
        x.iter().zip(c).zip(&self.exponentials).enumerate().map(move |(k, ((&x_k, &c_k), e_k))| {
            if self.is_nan() {
                return f64::NAN;
            }
            let p = e_k / self.sum();
            let before_slope = if k == self.apart {
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

/// A row's softmax as it is, without transform.
const PLAIN: Options<'static> = Options {
    nll: 1.0,
    smoothing: 0.0,
    nll_weights: &[],
    smoothing_weights: &[],
    z_loss: 0.0,
    logit_scale: 1.0,
    logit_softcap: None,
    divisors: [Divisor::Given(1.0); 3],
    empty_is_zero: false,
    upstream: &[],
};

/// Log-probabilities and log-sum-exps of rows without gaps: `[rows, classes]` and `[rows]`.
///
/// # Panics
/// If `classes` is 0.
pub fn log_softmax(logits: &[f64], classes: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut log_probs, mut row_lse) = (Vec::with_capacity(logits.len()), vec![]);
    for x in logits.chunks_exact(classes) {
        let softmax = Softmax::of(x, &PLAIN);
        let of = |distance: &f64| match softmax.is_nan() {
            true => f64::NAN,
            false => -(distance + softmax.log_sum),
        };
        log_probs.extend(softmax.distances.iter().map(of));
        row_lse.push(softmax.lse());
    }
    (log_probs, row_lse)
}

/// `upstream_k - exp(log_probs_k) sum_j upstream_j`, row by row without gaps.
///
/// # Panics
/// If `classes` is 0.
pub fn log_softmax_backward(log_probs: &[f64], upstream: &[f64], classes: usize) -> Vec<f64> {
    let rows = log_probs.chunks_exact(classes).zip(upstream.chunks_exact(classes));
    rows.flat_map(|(log_probs, upstream)| {
        let sum: f64 = upstream.iter().sum();
        log_probs.iter().zip(upstream).map(move |(log_p, g)| g - log_p.exp() * sum)
    })
    .collect()
}

/// A binary cross-entropy, by its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryOptions<'a> {
    /// What a target keeps: t = on q + off.
    pub on: f64,
    /// What every class gets.
    pub off: f64,
    /// w, or empty for 1.
    pub class_weights: &'a [f64],
    /// r, or empty for 1.
    pub positive_weights: &'a [f64],
    /// What multiplies the sum over classes.
    pub over_classes: f64,
    /// 1 / D.
    pub inverse_divisor: f64,
    /// What flows back: empty for 1, or one number for all rows, or one for each.
    pub upstream: &'a [f64],
}

/// Losses and gradient of a binary cross-entropy.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryOutcome {
    /// Each row's, not divided.
    pub row_losses: Vec<f64>,
    /// Sum over rows, divided.
    pub loss: f64,
    /// `[rows, classes]`, without gaps.
    pub gradient: Vec<f64>,
}

/// Binary cross-entropy of `classes` logits a row, with `targets` for each; a row of NaN targets is one
/// whose class index names no class, and a row without targets (an empty slice) is ignored.
///
/// # Panics
/// If lengths do not match.
pub fn binary(
    logits: &[f64],
    classes: usize,
    targets: &[Vec<f64>],
    options: &BinaryOptions<'_>,
) -> BinaryOutcome {
    let mut outcome = BinaryOutcome { row_losses: vec![], loss: 0.0, gradient: vec![] };
    for (row, (x, q)) in logits.chunks_exact(classes).zip(targets).enumerate() {
        let upstream = match options.upstream {
            [] => 1.0,
            [one] => *one,
            all => all[row],
        };
        let mut loss = 0.0;
        if q.is_empty() || q.iter().all(|q| q.is_nan()) {
            loss = if q.is_empty() { 0.0 } else { f64::NAN };
            outcome.gradient.extend(std::iter::repeat_n(0.0, classes));
        } else {
            assert_eq!(q.len(), classes, "a target for each class");
            for (k, (&x, &q)) in x.iter().zip(q).enumerate() {
                let (w, r) = (at(options.class_weights, k), at(options.positive_weights, k));
                let t = options.on * q + options.off;
                let rest = options.on * (1.0 - q) + (1.0 - options.on - options.off);
                let (positive, negative) = (w * r * t, w * rest);
                let tail = (-x.abs()).exp().ln_1p();
                let (below, above) = ((-x).max(0.0) + tail, x.max(0.0) + tail);
                let of = times(positive, below) + times(negative, above);
                loss += if x.is_nan() { f64::NAN } else { of };
                let gradient = negative / (1.0 + (-x).exp()) - positive / (1.0 + x.exp());
                let scale = upstream * options.over_classes * options.inverse_divisor;
                outcome.gradient.push(gradient * scale);
            }
        }
        loss *= options.over_classes;
        outcome.row_losses.push(loss);
        outcome.loss += loss * options.inverse_divisor;
    }
    // A mean of nothing is 0 / 0; everything else is not changed.
    outcome.loss += 0.0 * options.inverse_divisor;
    outcome
}
