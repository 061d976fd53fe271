//! The table, what it shows in words, and what it has to show.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

use crate::{
    metrics,
    train::{Configuration, Dtype, Model, Run, SMOOTHING},
};

/// One row a configuration, below 80 columns wide.
pub fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "model",
        "dtype",
        "smoothing",
        "test\naccuracy\n%",
        "negative log-\nlikelihood\nnats",
        "expected calib-\nration error\n%",
        "mean\nconfidence\n%",
    ]);
    for Run { configuration, predictions, .. } in runs {
        table.add_row([
            configuration.model.to_string(),
            configuration.dtype.to_string(),
            configuration.smoothing.to_string(),
            format!("{:.2}", 100.0 * metrics::accuracy(predictions)),
            format!("{:.4}", metrics::nll(predictions)),
            format!("{:.2}", 100.0 * metrics::calibration_error(predictions)),
            format!("{:.2}", 100.0 * metrics::confidence(predictions)),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What the numbers say, in sentences.
pub fn findings(runs: &[Run]) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for model in Model::ALL {
        let [plain, smoothed] =
            [0.0, SMOOTHING].map(|smoothing| find(runs, model, Dtype::F32, smoothing));
        sentences.push(calibration_finding(model, plain?, smoothed?));
    }
    sentences.push(dtype_finding(runs)?);
    Ok(sentences)
}

fn calibration_finding(model: Model, plain: &Run, smoothed: &Run) -> String {
    let errors = [plain, smoothed].map(|run| 100.0 * metrics::calibration_error(&run.predictions));
    let [tendency, smoothed_tendency] = [plain, smoothed].map(tendency);
    let verdict = match errors[0].total_cmp(&errors[1]) {
        std::cmp::Ordering::Less => "better calibrated without smoothing",
        std::cmp::Ordering::Equal => "equally calibrated with and without smoothing",
        std::cmp::Ordering::Greater => "better calibrated with smoothing",
    };
    format!(
        "{model}, f32: {verdict}. Without, it is {tendency}, calibration error {:.2} %; with \
         smoothing {SMOOTHING} it is {smoothed_tendency}, calibration error {:.2} %.",
        errors[0], errors[1]
    )
}

/// Confidence against accuracy over all test images.
fn tendency(run: &Run) -> String {
    let gap = 100.0 * (metrics::confidence(&run.predictions) - metrics::accuracy(&run.predictions));
    let direction = if gap >= 0.0 { "overconfident" } else { "underconfident" };
    format!("{direction} by {:.2} points", gap.abs())
}

fn dtype_finding(runs: &[Run]) -> Result<String> {
    let largest = |of: &dyn Fn(&Run) -> f64| -> Result<f64> {
        let pairs = dtype_pairs(runs)?;
        Ok(pairs.iter().map(|(f32, f16)| (of(f32) - of(f16)).abs()).fold(0.0, f64::max))
    };
    Ok(format!(
        "f16 against f32, at most: accuracy {:.2} points apart, negative log-likelihood {:.4} nats, \
         calibration error {:.2} points.",
        100.0 * largest(&|run| metrics::accuracy(&run.predictions))?,
        largest(&|run| metrics::nll(&run.predictions))?,
        100.0 * largest(&|run| metrics::calibration_error(&run.predictions))?,
    ))
}

/// What the results have to show and do not, one sentence each.
pub fn broken_expectations(runs: &[Run], quick: bool) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let floor = if quick { 0.90 } else { 0.95 };
    for run in runs.iter().filter(|run| run.configuration.model == Model::Mlp) {
        let accuracy = metrics::accuracy(&run.predictions);
        if accuracy <= floor {
            broken.push(format!(
                "{}: test accuracy is {:.2} %, not above {:.0} %",
                run.configuration,
                100.0 * accuracy,
                100.0 * floor
            ));
        }
    }
    if quick {
        return Ok(broken);
    }
    for (wide, half) in dtype_pairs(runs)? {
        let [wide_accuracy, half_accuracy] =
            [wide, half].map(|run| metrics::accuracy(&run.predictions));
        if (wide_accuracy - half_accuracy).abs() > F16_TOLERANCE {
            broken.push(format!(
                "{}: test accuracy is {:.2} %, more than {:.1} points from the {:.2} % of f32",
                half.configuration,
                100.0 * half_accuracy,
                100.0 * F16_TOLERANCE,
                100.0 * wide_accuracy
            ));
        }
    }
    for model in Model::ALL {
        for dtype in [Dtype::F32, Dtype::F16] {
            let plain = metrics::confidence(&find(runs, model, dtype, 0.0)?.predictions);
            let smoothed = metrics::confidence(&find(runs, model, dtype, SMOOTHING)?.predictions);
            if plain - smoothed < SMOOTHING_EFFECT {
                broken.push(format!(
                    "{model} {dtype}: smoothing {SMOOTHING} takes the mean confidence from {:.2} % \
                     to {:.2} %; it should lower it by {:.0} point or more",
                    100.0 * plain,
                    100.0 * smoothed,
                    100.0 * SMOOTHING_EFFECT
                ));
            }
        }
    }
    Ok(broken)
}

/// How far the accuracy of f16 may be from that of f32: two of the 450 test images.
const F16_TOLERANCE: f64 = 0.005;

/// How much smoothing has to lower the mean confidence, to count as an effect.
const SMOOTHING_EFFECT: f64 = 0.01;

/// Each f32 run with its f16 twin.
fn dtype_pairs(runs: &[Run]) -> Result<Vec<(&Run, &Run)>> {
    let wide = runs.iter().filter(|run| run.configuration.dtype == Dtype::F32);
    wide.map(|run| {
        let Configuration { model, smoothing, .. } = run.configuration;
        Ok((run, find(runs, model, Dtype::F16, smoothing)?))
    })
    .collect()
}

/// The run of one configuration.
pub fn find(runs: &[Run], model: Model, dtype: Dtype, smoothing: f64) -> Result<&Run> {
    let wanted = Configuration { model, dtype, smoothing };
    runs.iter()
        .find(|run| run.configuration == wanted)
        .with_context(|| format!("there is no run of {wanted}"))
}
