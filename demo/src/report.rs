//! The table, what it shows in words, and what it has to show.

use std::cmp::Ordering;

use comfy_table::{CellAlignment, Table, presets};

use crate::{
    data::CLASSES,
    metrics,
    train::{Configuration, Dtype, Model, Run, SMOOTHING},
};

/// One row a configuration.
pub fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "model",
        "dtype",
        "smoothing",
        "accuracy, %",
        "NLL, nats",
        "ECE, %",
        "confidence, %",
    ]);
    for Run { configuration, predictions, .. } in runs {
        table.add_row([
            configuration.model.to_string(),
            configuration.dtype.to_string(),
            configuration.smoothing.to_string(),
            percent(metrics::accuracy(predictions)),
            format!("{:.4}", metrics::nll(predictions)),
            percent(metrics::calibration_error(predictions)),
            percent(metrics::confidence(predictions)),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What the columns of [`table`] are.
pub const LEGEND: &str = "\
Of the test images. NLL: mean negative log-likelihood, without smoothing. ECE: expected calibration
error over 15 bins of confidence (Guo et al. 2017). Confidence: mean probability of the digit chosen.";

/// What the numbers say, in sentences.
pub fn findings(runs: &[Run]) -> Vec<String> {
    let models = Model::ALL.map(|model| {
        calibration_finding(
            model,
            find(runs, model, Dtype::F32, 0.0),
            find(runs, model, Dtype::F32, SMOOTHING),
        )
    });
    models.into_iter().chain([dtype_finding(runs)]).collect()
}

fn calibration_finding(model: Model, plain: &Run, smoothed: &Run) -> String {
    let [error, smoothed_error] =
        [plain, smoothed].map(|run| metrics::calibration_error(&run.predictions));
    let verdict = match error.total_cmp(&smoothed_error) {
        Ordering::Less => "better calibrated without smoothing",
        Ordering::Equal => "equally calibrated with and without smoothing",
        Ordering::Greater => "better calibrated with smoothing",
    };
    format!(
        "{model}, f32: {verdict}.\n  Without: {}, ECE {} %.\n  With {SMOOTHING}, \
         whose targets ask for a confidence of {} %: {}, ECE {} %.",
        tendency(plain),
        percent(error),
        percent(smoothed_target()),
        tendency(smoothed),
        percent(smoothed_error),
    )
}

/// The probability that the smoothed target gives to the right class.
pub fn smoothed_target() -> f64 {
    1.0 - SMOOTHING + SMOOTHING / CLASSES as f64
}

/// Confidence against accuracy over all test images.
fn tendency(run: &Run) -> String {
    let gap = metrics::confidence(&run.predictions) - metrics::accuracy(&run.predictions);
    let direction = if gap >= 0.0 { "overconfident" } else { "underconfident" };
    format!("{direction} by {} points", percent(gap.abs()))
}

fn dtype_finding(runs: &[Run]) -> String {
    let apart = |of: fn(&[metrics::Prediction]) -> f64| {
        let pairs = dtype_pairs(runs);
        let distances = pairs.map(|pair| pair.map(|run| of(&run.predictions)));
        distances.map(|[wide, half]| (wide - half).abs()).fold(0.0, f64::max)
    };
    format!(
        "f16 against f32, at most: accuracy {} points apart, NLL {:.4} nats, ECE {} points.",
        percent(apart(metrics::accuracy)),
        apart(metrics::nll),
        percent(apart(metrics::calibration_error)),
    )
}

/// How far the accuracy of f16 may be from that of f32: two of the 450 test images.
const F16_TOLERANCE: f64 = 0.005;

/// How much smoothing has to lower the mean confidence, to count as an effect.
const SMOOTHING_EFFECT: f64 = 0.01;

/// What the results have to show and do not, one sentence each. After a quick training they only
/// have to show that something was learnt.
pub fn broken_expectations(runs: &[Run], quick: bool) -> Vec<String> {
    let mut broken = Vec::new();
    let floor = if quick { 0.90 } else { 0.95 };
    for run in runs.iter().filter(|run| run.configuration.model == Model::Mlp) {
        let accuracy = metrics::accuracy(&run.predictions);
        if accuracy <= floor {
            broken.push(format!(
                "{}: test accuracy is {} %, not above {} %",
                run.configuration,
                percent(accuracy),
                percent(floor)
            ));
        }
    }
    if quick {
        return broken;
    }
    for pair in dtype_pairs(runs) {
        let [wide, half] = pair.map(|run| metrics::accuracy(&run.predictions));
        if (wide - half).abs() > F16_TOLERANCE {
            broken.push(format!(
                "{}: test accuracy is {} %, more than {} points from the {} % of f32",
                pair[1].configuration,
                percent(half),
                percent(F16_TOLERANCE),
                percent(wide)
            ));
        }
    }
    for (model, dtype) in Model::ALL.into_iter().flat_map(|model| Dtype::ALL.map(|d| (model, d))) {
        let [plain, smoothed] = [0.0, SMOOTHING]
            .map(|smoothing| metrics::confidence(&find(runs, model, dtype, smoothing).predictions));
        if plain - smoothed < SMOOTHING_EFFECT {
            broken.push(format!(
                "{model} {dtype}: smoothing {SMOOTHING} takes the mean confidence from {} % to {} \
                 %, which should be {} points or more",
                percent(plain),
                percent(smoothed),
                percent(SMOOTHING_EFFECT)
            ));
        }
    }
    broken
}

/// The run of one configuration.
pub fn find(runs: &[Run], model: Model, dtype: Dtype, smoothing: f64) -> &Run {
    let wanted = Configuration { model, dtype, smoothing };
    runs.iter().find(|run| run.configuration == wanted).expect("every configuration is trained")
}

/// Each f32 run with its f16 twin.
fn dtype_pairs(runs: &[Run]) -> impl Iterator<Item = [&Run; 2]> {
    let wide = runs.iter().filter(|run| run.configuration.dtype == Dtype::F32);
    wide.map(|run| {
        let Configuration { model, smoothing, .. } = run.configuration;
        [run, find(runs, model, Dtype::F16, smoothing)]
    })
}

fn percent(part: f64) -> String {
    format!("{:.2}", 100.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Prediction;

    /// Runs whose first `right` of 1000 predictions are right, at this confidence.
    fn runs(of: impl Fn(Configuration) -> (usize, f64)) -> Vec<Run> {
        let run = |configuration| {
            let (right, confidence) = of(configuration);
            let predictions = (0..1000)
                .map(|image| Prediction { confidence, correct: image < right, nll: 0.1 })
                .collect();
            Run { configuration, epochs: Vec::new(), predictions }
        };
        Configuration::ALL.map(run).into()
    }

    fn confidence(configuration: Configuration) -> f64 {
        if configuration.smoothing > 0.0 { 0.87 } else { 0.98 }
    }

    #[test]
    fn good_results_break_nothing() {
        let runs = runs(|configuration| (970, confidence(configuration)));
        assert!(broken_expectations(&runs, false).is_empty());
        let findings = findings(&runs);
        assert!(findings[1].contains("better calibrated without smoothing"), "{findings:?}");
        assert!(findings[1].contains("overconfident by 1.00 points, ECE 1.00 %"), "{findings:?}");
        assert!(findings[1].contains("underconfident by 10.00 points"), "{findings:?}");
        assert!(findings[2].contains("accuracy 0.00 points apart"), "{findings:?}");
    }

    #[test]
    fn each_expectation_is_noticed_when_it_breaks() {
        let inaccurate = runs(|configuration| (950, confidence(configuration)));
        assert_eq!(broken_expectations(&inaccurate, false).len(), 4);
        assert!(broken_expectations(&inaccurate, true).is_empty());

        let apart = runs(|configuration| {
            let right = if configuration.dtype == Dtype::F16 { 964 } else { 970 };
            (right, confidence(configuration))
        });
        assert_eq!(broken_expectations(&apart, false).len(), 4);

        let without_effect = runs(|_| (970, 0.98));
        assert_eq!(broken_expectations(&without_effect, false).len(), 4);
    }
}
