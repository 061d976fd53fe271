//! How many times as fast it is as each peer: a row of dots a shape.

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::element::Rectangle;
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor};

use super::{
    AXIS, Canvas, Drawn, Fill, HOLLOW, INK, LABEL, LINE, Look, MARGIN, Mark, Of, SOFT_INK, TITLE,
    WIDTH, axis_of_rows, band, heading, legend, line, look, mark, style, ticks, write,
};
use crate::report::record::Shape;

const SLOWER: RGBColor = RGBColor(253, 235, 232);
const ROW: i32 = 24;
const ROW_NAMES: i32 = 128;
/// Width of a number at the axis.
const TICK: i32 = 44;
/// What is above the rows: words, and the axis once more.
const HEADS: i32 = 2 * LINE;

pub fn height(of: &Of<'_>) -> i32 {
    let shapes = of.speeds.shapes_beside(of.pass, of.dtype).len() as i32;
    let legend = (of.speeds.peers_beside(of.pass, of.dtype).len() as i32 + 2) / 2 * LINE;
    4 * MARGIN + TITLE + 2 * LINE + legend + HEADS + shapes * ROW + AXIS
}

pub fn draw(canvas: &Canvas<'_>, of: &Of<'_>) -> Drawn {
    let shapes: Vec<Shape> = of.speeds.shapes_beside(of.pass, of.dtype).into_iter().collect();
    let peers = of.speeds.peers_beside(of.pass, of.dtype);
    let beside = |peer, shape| of.speeds.shown_beside(peer, of.pass, of.dtype, shape);
    let all = || {
        peers.iter().flat_map(|&peer| shapes.iter().filter_map(move |&shape| beside(peer, shape)))
    };
    let title = format!("How many times as fast: {}, {}", of.pass.words(), of.dtype);
    let lines =
        [of.record.device.clone(), "each dot: smoothxent against a peer, same problem".to_owned()];
    let mut top = heading(canvas, &title, &lines)?;
    let mut entries: Vec<(Look, Fill, String)> =
        peers.iter().map(|&peer| (look(peer), Fill::Full, peer.to_string())).collect();
    if all().any(|comparison| !comparison.counts()) {
        let look = Look { colour: INK, shape: Mark::Disc, width: 1 };
        entries.push((look, Fill::Hollow, HOLLOW.into()));
    }
    top += legend(canvas, top, &entries)? + MARGIN + HEADS;

    let ratios = all().map(|comparison| comparison.times_as_fast());
    let (least, most) =
        ratios.fold((0.8f64, 1.25f64), |(a, b), ratio| (a.min(ratio), b.max(ratio)));
    let range = (least / 1.1, most * 1.1);
    let digits: &[f64] = if range.1 / range.0 > 40.0 { &[1.0, 3.0] } else { &[1.0, 2.0, 5.0] };
    let ticks = ticks(range.0, range.1, digits);
    let axis = (range.0..range.1).log_scale().with_key_points(ticks.clone());
    let rows = shapes.len() as i32 * ROW;
    let bottom = top + rows;
    let area = canvas.clone().shrink((0, top), (WIDTH - MARGIN - 6, rows + AXIS));
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(AXIS)
        .y_label_area_size(ROW_NAMES)
        .build_cartesian_2d(axis, 0.0..f64::from(rows))?;
    let at = |x: f64| chart.backend_coord(&(x, 0.0)).0;
    let (left, right) = (at(range.0), at(range.1));
    let mut groups: Vec<u64> = shapes.iter().map(|shape| shape.classes).collect();
    groups.dedup();
    for (shape, row) in shapes.iter().zip(0..) {
        let y = top + row * ROW;
        // Shapes of as many classes share a band.
        let group = groups.iter().position(|&classes| classes == shape.classes);
        if group.is_some_and(|group| group % 2 == 1) {
            band(canvas, right, (y, y + ROW))?;
        }
        let place = (ROW_NAMES - 6, y + ROW / 2);
        write(canvas, &shape.to_string(), place, style(LABEL - 2, &INK, HPos::Right))?;
    }
    canvas.draw(&Rectangle::new([(left, top), (at(1.0), bottom)], SLOWER.filled()))?;
    axis_of_rows(&mut chart, "times as fast (log)", &|&x| factor(x))?;
    let at = |x: f64| chart.backend_coord(&(x, 0.0)).0;
    line(canvas, vec![(at(1.0), top - 4), (at(1.0), bottom)], INK.stroke_width(2))?;
    let (words, above) = (top - LINE * 3 / 2, top - LINE / 2 - 2);
    write(canvas, "slower", (at(1.0) - 8, words), style(LABEL, &SOFT_INK, HPos::Right))?;
    write(canvas, "faster", (at(1.0) + 8, words), style(LABEL, &SOFT_INK, HPos::Left))?;
    write(
        canvas,
        "rows x classes",
        (ROW_NAMES - 6, above),
        style(LABEL - 2, &SOFT_INK, HPos::Right),
    )?;
    // The first one may be where the names' heading is.
    for tick in ticks.into_iter().filter(|&tick| at(tick) - left >= TICK / 2) {
        write(canvas, &factor(tick), (at(tick), above), style(LABEL, &INK, HPos::Center))?;
    }
    for (&shape, row) in shapes.iter().zip(0..) {
        for (&peer, index) in peers.iter().zip(0..) {
            let Some(comparison) = beside(peer, shape) else { continue };
            // Peers have heights of their own within the row, so that equal ones are all seen.
            let within = (2 * index + 1) * (ROW - 10) / (2 * peers.len() as i32);
            let place = (at(comparison.times_as_fast()), top + row * ROW + 5 + within);
            mark(canvas, place, look(peer), 5, Fill::of(!comparison.counts()))?;
        }
    }
    Ok(())
}

fn factor(value: f64) -> String {
    format!("{}x", (value * 1e6).round() / 1e6)
}
