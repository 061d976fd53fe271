//! The same loss in f64 on the host: what the kernels are tested against, and a place to read the
//! formula. Shares no code with the rest of the crate.

/// How row losses become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Not at all.
    None,
    /// Their sum.
    Sum,
    /// Their sum divided by the number of rows that are not ignored.
    Mean,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options<'a> {
    /// Within 0..=1.
    pub label_smoothing: f64,
    /// Rows with this target count for nothing.
    pub ignore_index: Option<i64>,
    /// How row losses are reduced.
    pub reduction: Reduction,
    /// What flows back: empty for 1, or one number for all rows, or one for each.
    pub upstream: &'a [f64],
}

/// Losses and gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Each row's loss; 0 for ignored rows, NaN for targets that name no class.
    pub row_losses: Vec<f64>,
    /// Each row's log-sum-exp; 0 for ignored rows, NaN for targets that name no class.
    pub row_lse: Vec<f64>,
    /// The reduced loss; NaN with `Reduction::None`.
    pub loss: f64,
    /// `[rows, classes]`, without gaps.
    pub gradient: Vec<f64>,
}

/// Loss and gradient of `targets.len()` rows of `classes` logits without gaps.
///
/// # Panics
/// If lengths do not match, or `classes` is 0: this is a reference, not an entry point.
pub fn forward_backward(
    logits: &[f64],
    classes: usize,
    targets: &[i64],
    options: &Options<'_>,
) -> Outcome {
    assert_eq!(logits.len(), targets.len() * classes, "logits are [targets, classes]");
    let ignored = |target: i64| options.ignore_index == Some(target);
    let counted = targets.iter().filter(|&&target| !ignored(target)).count();
    let divisor = match options.reduction {
        Reduction::None | Reduction::Sum => 1.0,
        Reduction::Mean => counted as f64,
    };
    let mut outcome = Outcome {
        row_losses: Vec::with_capacity(targets.len()),
        row_lse: Vec::with_capacity(targets.len()),
        loss: f64::NAN,
        gradient: Vec::with_capacity(logits.len()),
    };
    for (row, (x, &target)) in logits.chunks_exact(classes).zip(targets).enumerate() {
        let class = usize::try_from(target).ok().filter(|&class| class < classes);
        let (loss, lse) = match class {
            _ if ignored(target) => {
                outcome.gradient.extend(std::iter::repeat_n(0.0, classes));
                (0.0, 0.0)
            }
            None => {
                outcome.gradient.extend(std::iter::repeat_n(0.0, classes));
                (f64::NAN, f64::NAN)
            }
            Some(y) => {
                let softmax = Softmax::of(x, y);
                let upstream = match options.upstream {
                    [] => 1.0,
                    [one] => *one,
                    all => all[row],
                };
                let scale = upstream / divisor;
                let smoothing = options.label_smoothing;
                let gradient = x.iter().enumerate().map(|(k, &x_k)| {
                    scale * softmax.gradient(x_k, k == y, smoothing, classes as f64)
                });
                outcome.gradient.extend(gradient);
                (softmax.loss(x, y, smoothing), softmax.lse())
            }
        };
        outcome.row_losses.push(loss);
        outcome.row_lse.push(lse);
    }
    if options.reduction != Reduction::None {
        outcome.loss = outcome.row_losses.iter().sum::<f64>() / divisor;
    }
    outcome
}

/// A row's softmax, with the target kept apart: `1 - p_y` and `-log p_y` come from the sum over the
/// other classes, since both cancel as p_y -> 1.
struct Softmax {
    max: f64,
    /// exp(x_y - max)
    target: f64,
    /// sum over k != y of exp(x_k - max)
    others: f64,
}

impl Softmax {
    fn of(x: &[f64], y: usize) -> Self {
        // f64::max drops NaN; the sums bring it back.
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let others = x.iter().enumerate().filter(|&(k, _)| k != y);
        Self {
            max,
            target: (x[y] - max).exp(),
            others: others.map(|(_, &x_k)| (x_k - max).exp()).sum(),
        }
    }

    fn sum(&self) -> f64 {
        self.target + self.others
    }

    fn lse(&self) -> f64 {
        self.max + self.sum().ln()
    }

    fn loss(&self, x: &[f64], y: usize, smoothing: f64) -> f64 {
        let ratio = self.others / self.target;
        let nll = if ratio <= 1.0 { ratio.ln_1p() } else { (self.max - x[y]) + self.sum().ln() };
        let mut loss = 0.0;
        if smoothing != 1.0 {
            loss += (1.0 - smoothing) * nll;
        }
        if smoothing != 0.0 {
            let log_sum = self.sum().ln();
            let others = x.iter().enumerate().filter(|&(k, _)| k != y);
            let minus_logs: f64 = others.map(|(_, &x_k)| (self.max - x_k) + log_sum).sum();
            loss += smoothing / x.len() as f64 * (minus_logs + nll);
        }
        loss
    }

    /// p_k - e/C - (1 - e) [k = y]; for the target as (p_y - 1) + e (1 - 1/C).
    fn gradient(&self, x_k: f64, is_target: bool, smoothing: f64, classes: f64) -> f64 {
        if is_target {
            smoothing * ((classes - 1.0) / classes) - self.others / self.sum()
        } else {
            (x_k - self.max).exp() / self.sum() - smoothing / classes
        }
    }
}
