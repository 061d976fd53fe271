//! Bytes a second against classes: one line an implementation, the copy as the ceiling.

use std::collections::BTreeSet;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, WHITE};

use super::{
    CEILING, Canvas, Drawn, Fill, GRID, HOLLOW, INK, LABEL, LINE, Look, MARGIN, Of, WIDTH, dashed,
    heading, line, look, mark, short, short_name, spread, style, ticks, write,
};
use crate::report::compare::SMOOTHING;
use crate::report::record::{Case, Implementation, Shape};

pub const HEIGHT: i32 = 540;
/// Room for names behind the ends of the lines.
const NAMES: i32 = 152;

const X_AXIS: i32 = 52;

const COPY: &str = "copy (limit)";

/// Behind the name of a peer that has none.
const WITHOUT_SMOOTHING: char = '*';

/// Behind that of one with a point in place where this crate's is apart.
const IN_PLACE: char = '°';

/// One implementation's points.
struct Series {
    name: String,
    look: Look,
    points: Vec<(f64, f64, Fill)>,
}

pub fn draw(canvas: &Canvas<'_>, of: &Of<'_>) -> Drawn {
    let shapes = of.speeds.largest_shapes(of.pass, of.dtype);
    let (series, copy) = (bandwidths(of, &shapes), copies(of, &shapes));
    let named = |mark| series.iter().any(|series| series.name.contains(mark));
    let hollow =
        series.iter().any(|series| series.points.iter().any(|point| point.2 == Fill::Hollow));
    let mut lines = vec![
        of.record.device.clone(),
        format!("smoothing {}; one shape of each number of classes", SMOOTHING.0),
    ];
    if named(WITHOUT_SMOOTHING) {
        lines.push(format!("{WITHOUT_SMOOTHING} without smoothing"));
    }
    if named(IN_PLACE) {
        lines.push(format!("{IN_PLACE} gradient in place, of some shapes or all"));
    }
    if hollow {
        lines.push(format!("hollow or thin: {HOLLOW}"));
    }
    let title = format!("Bytes a second: {}, {}", of.pass.words(), of.dtype);
    let top = heading(canvas, &title, &lines)?;

    let all_x = shapes.iter().map(|shape| shape.classes as f64);
    let (least, most) = all_x.fold((f64::MAX, 1.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let highest = series.iter().flat_map(|series| &series.points).map(|point| point.1);
    let highest = highest.chain(copy.iter().map(|point| point.1)).fold(0.0, f64::max) * 1.06;
    let x_range = (least / 1.25, most * 1.25);
    let x_axis = (x_range.0..x_range.1).log_scale();
    let x_axis = x_axis.with_key_points(ticks(x_range.0, x_range.1, &[1.0]));
    let area = canvas.margin(top + LINE, MARGIN, MARGIN, NAMES);
    write(canvas, "GB/s", (MARGIN, top + LINE / 2), style(LABEL, &INK, HPos::Left))?;
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(X_AXIS)
        .y_label_area_size(48)
        .build_cartesian_2d(x_axis, 0.0..highest)?;
    chart
        .configure_mesh()
        .x_desc("classes (log)")
        .y_labels(7)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| format!("{y}"))
        .label_style(style(LABEL, &INK, HPos::Center))
        .axis_desc_style(style(LABEL, &INK, HPos::Center))
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(INK)
        .set_all_tick_mark_size(5)
        .draw()?;

    let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
    // Its own line on top of the others, and the ceiling on top of all, since they are close.
    for Series { look, points, .. } in series.iter().rev() {
        let path = points.iter().map(|&(x, y, _)| at(x, y)).collect();
        line(canvas, path, look.colour.stroke_width(look.width))?;
        for &(x, y, fill) in points {
            mark(canvas, at(x, y), *look, 5, fill)?;
        }
    }
    dashed(canvas, copy.iter().map(|&(x, y)| at(x, y)).collect(), &CEILING)?;

    let ends = series
        .iter()
        .filter_map(|series| Some((series, series.points.last()?)))
        .map(|(series, &(x, y, _))| (series.name.as_str(), series.look, at(x, y)))
        .chain(copy.last().map(|&(x, y)| (COPY, look(Implementation::Copy), at(x, y))));
    name_ends(canvas, &ends.collect::<Vec<_>>(), top + LINE)
}

/// Writes each line's name behind its end.
fn name_ends(canvas: &Canvas<'_>, ends: &[(&str, Look, (i32, i32))], top: i32) -> Drawn {
    let wanted: Vec<i32> = ends.iter().map(|(_, _, (_, y))| *y).collect();
    let places = spread(&wanted, LINE - 2, top, HEIGHT - X_AXIS - MARGIN);
    let x = WIDTH - NAMES + 12;
    for (&(name, look, end), y) in ends.iter().zip(places) {
        line(canvas, vec![(end.0 + 6, end.1), (x - 2, y)], look.colour.mix(0.5).stroke_width(1))?;
        match name {
            COPY => dashed(canvas, vec![(x - 2, y), (x + 13, y)], &CEILING)?,
            _ => mark(canvas, (x + 6, y), look, 5, Fill::Full)?,
        }
        write(canvas, name, (x + 17, y), style(LABEL, &INK, HPos::Left))?;
    }
    Ok(())
}

fn bandwidths(of: &Of<'_>, shapes: &BTreeSet<Shape>) -> Vec<Series> {
    let ours = shapes.iter().filter_map(|&shape| {
        let row = of.speeds.shown(of.pass, of.dtype, shape)?;
        Some((shape.classes as f64, row.gb_per_s, Fill::of(row.doubt().is_some())))
    });
    let ours = Series {
        name: Implementation::Smoothxent.to_string(),
        look: look(Implementation::Smoothxent),
        points: ours.collect(),
    };
    let peers = of.speeds.peers().into_iter().map(|peer| {
        let points = shapes.iter().filter_map(|&shape| {
            let row = of.speeds.shown_beside(peer, of.pass, of.dtype, shape)?.peer;
            Some((shape.classes as f64, row.gb_per_s, Fill::of(row.doubt().is_some())))
        });
        let any = |is: fn(Case, Case) -> bool| {
            shapes.iter().any(|&shape| {
                let row = of.speeds.shown_beside(peer, of.pass, of.dtype, shape);
                let ours = of.speeds.shown(of.pass, of.dtype, shape);
                row.zip(ours).is_some_and(|(row, ours)| is(row.peer.case, ours.case))
            })
        };
        let smoothed = any(|peer, _| peer.smoothing == SMOOTHING);
        let in_place = any(|peer, ours| peer.place != ours.place);
        let mut name = short_name(peer);
        if !smoothed {
            name.push(WITHOUT_SMOOTHING);
        }
        if in_place {
            name.push(IN_PLACE);
        }
        Series { name, look: look(peer), points: points.collect() }
    });
    let all = [ours].into_iter().chain(peers);
    all.filter(|series| !series.points.is_empty()).collect()
}

/// The ceiling.
fn copies(of: &Of<'_>, shapes: &BTreeSet<Shape>) -> Vec<(f64, f64)> {
    let points = shapes.iter().filter_map(|&shape| {
        let row = of.speeds.shown(of.pass, of.dtype, shape)?;
        Some((shape.classes as f64, row.copy_gb_per_s?))
    });
    points.collect()
}
