//! How far each implementation is from the truth, of random rows and of confident ones.

use std::collections::BTreeSet;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::{
    AXIS, CEILING, Canvas, Drawn, Fill, INK, LABEL, LINE, Look, MARGIN, Mark, TITLE, WIDTH,
    axis_of_rows, band, dashed, heading, legend, mark, short_name, style, ticks, write,
};
use crate::report::record::{Accuracy, Dtype, Implementation, Inputs, Verdict};
use crate::report::shelf::Record;
use crate::report::text::accuracy::{ERRORS, largest, shapes_of, smoothings_of_random};

/// Height of one kind of inputs of one implementation.
const ERROR_LINE: i32 = 9;
const ERROR_ROW: i32 = ERROR_LINE * Inputs::ALL.len() as i32 + 8;
const ERROR_NAMES: i32 = 142;
const PANEL_HEAD: i32 = LINE + 8;

/// The panels, of [`ERRORS`]: the loss, and the gradient where confident rows are hardest.
const PANELS: [usize; 2] = [LOSS, 2];
const LOSS: usize = 0;

/// This crate's losses are f32 whatever the logits are.
fn stored_in(panel: usize, dtype: Dtype) -> Dtype {
    if panel == LOSS { Dtype::F32 } else { dtype }
}

/// Numbers at the axis for which there is room.
const POWERS: usize = 6;

/// Errors below it are shown at the left edge as 0 is.
const SMALLEST_ERROR: f64 = 1e-10;

pub fn height(rows: &[&Accuracy]) -> i32 {
    let implementations = implementations(rows).len() as i32;
    let panel = PANEL_HEAD + implementations * ERROR_ROW + AXIS;
    let head = lines("", rows).len() as i32;
    4 * MARGIN + TITLE + head * LINE + 3 * LINE + PANELS.len() as i32 * panel
}

fn implementations(rows: &[&Accuracy]) -> BTreeSet<Implementation> {
    rows.iter().map(|row| row.implementation).collect()
}

fn input_look(inputs: Inputs) -> Look {
    let (colour, shape) = match inputs {
        Inputs::Random => (RGBColor(0, 0, 0), Mark::Disc),
        Inputs::Gap5 => (RGBColor(146, 197, 222), Mark::Square),
        Inputs::Gap10 => (RGBColor(67, 147, 195), Mark::Square),
        Inputs::Gap20 => (RGBColor(33, 102, 172), Mark::Diamond),
        Inputs::Gap50 => (RGBColor(178, 24, 43), Mark::Triangle),
    };
    Look { colour, shape, width: 1 }
}

fn errors<'a>(rows: &'a [&Accuracy]) -> impl Iterator<Item = f64> + 'a {
    PANELS.iter().flat_map(|&panel| rows.iter().filter_map(move |row| ERRORS[panel].1(row)))
}

/// What is below the title.
fn lines(device: &str, rows: &[&Accuracy]) -> Vec<String> {
    let mut lines = vec![
        device.to_owned(),
        format!("largest relative error against f64, {}", shapes_of(rows)),
        format!("random{}", smoothings_of_random(rows)),
    ];
    if errors(rows).any(|error| error <= SMALLEST_ERROR) {
        lines.push(format!("at the left edge: {SMALLEST_ERROR:e} or less"));
    }
    if errors(rows).any(|error| !error.is_finite()) {
        lines.push("at the right edge: not finite".into());
    }
    lines
}

pub fn draw(canvas: &Canvas<'_>, record: &Record, dtype: Dtype, rows: &[&Accuracy]) -> Drawn {
    let mut top = heading(canvas, &format!("Error, {dtype}"), &lines(&record.device, rows))?;
    let mut entries: Vec<(Look, Fill, String)> = Inputs::ALL
        .into_iter()
        .map(|inputs| (input_look(inputs), Fill::Full, inputs.words().to_owned()))
        .collect();
    if rows.iter().any(|row| row.verdict == Some(Verdict::Wrong)) {
        let look = Look { colour: INK, shape: Mark::Disc, width: 1 };
        entries.push((look, Fill::Hollow, "hollow: judged wrong".into()));
    }
    top += legend(canvas, top, &entries)? + MARGIN;

    // Both panels alike, so that they can be compared.
    let finite = |error: &f64| error.is_finite() && *error > SMALLEST_ERROR;
    let (least, most) = errors(rows)
        .filter(finite)
        .chain(PANELS.map(|panel| stored_in(panel, dtype).rounding()))
        .fold((f64::MAX, f64::MIN_POSITIVE), |(a, b), error| (a.min(error), b.max(error)));
    let range = (least / 3.0, most * 3.0);
    for panel in PANELS {
        top = draw_panel(canvas, top, panel, range, dtype, rows)?;
    }
    Ok(())
}

fn draw_panel(
    canvas: &Canvas<'_>,
    top: i32,
    panel: usize,
    range: (f64, f64),
    dtype: Dtype,
    rows: &[&Accuracy],
) -> Result<i32, Box<dyn std::error::Error>> {
    let (what, error) = ERRORS[panel];
    let heads = top + PANEL_HEAD / 2;
    let stored = stored_in(panel, dtype);
    write(
        canvas,
        &format!("Of {what}; dashed: {stored}'s rounding"),
        (MARGIN, heads),
        style(LABEL, &INK, HPos::Left),
    )?;
    let top = top + PANEL_HEAD;
    let implementations = implementations(rows);
    let height = implementations.len() as i32 * ERROR_ROW;
    let mut powers = ticks(range.0, range.1, &[1.0]);
    let step = powers.len().div_ceil(POWERS) as i32;
    powers.retain(|power| power.log10().round() as i32 % step == 0);
    let axis = (range.0..range.1).log_scale().with_key_points(powers);
    let area = canvas.clone().shrink((0, top), (WIDTH - MARGIN - 14, height + AXIS));
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(AXIS)
        .y_label_area_size(ERROR_NAMES)
        .build_cartesian_2d(axis, 0.0..f64::from(height))?;
    let at = |x: f64| chart.backend_coord(&(x, 0.0)).0;
    let (left, right) = (at(range.0), at(range.1));
    for (implementation, index) in implementations.iter().zip(0..) {
        let y = top + index * ERROR_ROW;
        if index % 2 == 1 {
            band(canvas, right, (y, y + ERROR_ROW))?;
        }
        let place = (ERROR_NAMES - 8, y + ERROR_ROW / 2);
        write(canvas, &short_name(*implementation), place, style(LABEL, &INK, HPos::Right))?;
    }
    let label = |x: &f64| if *x == 1.0 { "1".to_owned() } else { format!("{x:e}") };
    axis_of_rows(&mut chart, "relative error (log)", &label)?;
    let rounding = chart.backend_coord(&(stored.rounding(), 0.0)).0;
    dashed(canvas, vec![(rounding, top), (rounding, top + height)], &CEILING)?;
    for (&implementation, index) in implementations.iter().zip(0..) {
        for (inputs, line) in Inputs::ALL.into_iter().zip(0..) {
            let mine: Vec<&&Accuracy> = rows
                .iter()
                .filter(|row| (row.implementation, row.inputs) == (implementation, inputs))
                .collect();
            let Some(worst) = largest(mine.iter().filter_map(|row| error(row))) else { continue };
            let wrong = mine.iter().any(|row| row.verdict == Some(Verdict::Wrong));
            let y = top + index * ERROR_ROW + 4 + line * ERROR_LINE + ERROR_LINE / 2;
            let place = match worst {
                _ if !worst.is_finite() => (right, y),
                _ if worst <= SMALLEST_ERROR => (left, y),
                _ => (chart.backend_coord(&(worst, 0.0)).0, y),
            };
            mark(canvas, place, input_look(inputs), 5, Fill::of(wrong))?;
        }
    }
    Ok(top + height + AXIS)
}
