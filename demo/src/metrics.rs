//! How good predictions are, and how well they know it.

use ndarray::Array2;

/// What a classifier says about one image, and what is true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The probability of the most probable class.
    pub confidence: f64,
    /// Whether that class is the right one.
    pub correct: bool,
    /// -log of the probability of the right class, in nats.
    pub nll: f64,
}

impl Prediction {
    /// One for each row of `logits`, whose log-sum-exp and negative log-likelihood come from the
    /// device: the log-probability of class k is `logits[k] - lse`.
    pub fn from_rows(logits: &Array2<f32>, lse: &[f32], nll: &[f32], labels: &[i64]) -> Vec<Self> {
        let rows = logits.rows().into_iter().zip(lse).zip(nll).zip(labels);
        rows.map(|(((row, &lse), &nll), &label)| {
            let (class, &largest) = row
                .iter()
                .enumerate()
                .max_by(|(_, a), (_, b)| a.total_cmp(b))
                .expect("a row has classes");
            Self {
                confidence: (f64::from(largest) - f64::from(lse)).exp().min(1.0),
                correct: usize::try_from(label) == Ok(class),
                nll: f64::from(nll),
            }
        })
        .collect()
    }
}

/// Part of the predictions that are right.
pub fn accuracy(predictions: &[Prediction]) -> f64 {
    mean(predictions, |prediction| f64::from(u8::from(prediction.correct)))
}

/// Mean negative log-likelihood of the right class, in nats.
pub fn nll(predictions: &[Prediction]) -> f64 {
    mean(predictions, |prediction| prediction.nll)
}

/// Mean probability of the class that was chosen.
pub fn confidence(predictions: &[Prediction]) -> f64 {
    mean(predictions, |prediction| prediction.confidence)
}

fn mean(predictions: &[Prediction], of: impl Fn(&Prediction) -> f64) -> f64 {
    predictions.iter().map(of).sum::<f64>() / predictions.len() as f64
}

/// Number of confidence bins.
pub const BINS: usize = 15;

/// The predictions whose confidence lies within one of [`BINS`] equal parts of 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    pub count: usize,
    /// Means over the bin; 0 if it is empty.
    pub confidence: f64,
    pub accuracy: f64,
}

/// Bin m of M holds confidences in (m / M, (m + 1) / M], as in Guo et al. 2017.
pub fn bins(predictions: &[Prediction]) -> [Bin; BINS] {
    let mut members = [const { Vec::new() }; BINS];
    for &prediction in predictions {
        let position = (prediction.confidence * BINS as f64).ceil() as usize;
        members[position.clamp(1, BINS) - 1].push(prediction);
    }
    members.map(|members| match members.len() {
        0 => Bin::default(),
        count => Bin { count, confidence: confidence(&members), accuracy: accuracy(&members) },
    })
}

/// Expected calibration error: `sum over bins of count / n * |accuracy - confidence|`
/// (Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", eq. 3,
/// <https://arxiv.org/abs/1706.04599>).
pub fn calibration_error(predictions: &[Prediction]) -> f64 {
    let gaps =
        bins(predictions).map(|bin| bin.count as f64 * (bin.accuracy - bin.confidence).abs());
    gaps.iter().sum::<f64>() / predictions.len() as f64
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn prediction(confidence: f64, correct: bool) -> Prediction {
        Prediction { confidence, correct, nll: 0.0 }
    }

    #[test]
    fn calibration_error_of_a_case_by_hand() {
        // Bin 8 holds (8/15, 9/15] = (0.533, 0.6]: three predictions, confidence 0.58, two right.
        // Bin 14 holds (14/15, 1]: two predictions, confidence 0.97, one right.
        let predictions = [
            prediction(0.56, true),
            prediction(0.58, false),
            prediction(0.60, true),
            prediction(0.94, true),
            prediction(1.00, false),
        ];
        let bins = bins(&predictions);
        assert_eq!((bins[8].count, bins[14].count), (3, 2));
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), 5);
        let by_hand = (3.0 * (2.0 / 3.0 - 0.58_f64).abs() + 2.0 * (0.5 - 0.97_f64).abs()) / 5.0;
        assert!((calibration_error(&predictions) - by_hand).abs() < 1e-12);
        assert!((accuracy(&predictions) - 0.6).abs() < 1e-12);
        assert!((confidence(&predictions) - 0.736).abs() < 1e-12);
    }

    #[test]
    fn a_bin_holds_its_upper_end_and_not_its_lower_one() {
        for bin in 0..BINS {
            // Ends of bins that are exact in f64 times 15.
            let upper = (bin + 1) as f64 / BINS as f64;
            let counts = bins(&[prediction(upper, true)]).map(|bin| bin.count);
            assert_eq!(counts.iter().position(|&count| count == 1), Some(bin));
        }
    }

    #[test]
    fn confident_and_always_right_is_perfectly_calibrated() {
        assert_eq!(calibration_error(&[prediction(1.0, true); 4]), 0.0);
        assert_eq!(calibration_error(&[prediction(1.0, false); 4]), 1.0);
    }

    #[test]
    fn predictions_follow_from_logits_and_their_log_sum_exp() {
        let logits = array![[0.0, 2.0, 0.0], [1.0, 0.0, 1.0]];
        let lse = [(2.0 + 2f32.exp()).ln(), (1.0 + 2.0 * 1f32.exp()).ln()];
        let found = Prediction::from_rows(&logits, &lse, &[0.5, 0.25], &[1, 1]);
        let first = 2f64.exp() / (2.0 + 2f64.exp());
        assert!((found[0].confidence - first).abs() < 1e-6);
        assert!(found[0].correct && !found[1].correct);
        assert_eq!(nll(&found), 0.375);
    }
}
