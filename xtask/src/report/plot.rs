//! The plots, as SVG: text stays text, and is read on a phone, where 480 pixels become some 360.

mod bandwidth;
mod error;
mod speedup;

use anyhow::{Result, anyhow};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Circle, Cross, DashedPathElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{Cartesian2d, DrawingArea, IntoDrawingArea, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, RGBColor, ShapeStyle, TextStyle, WHITE, register_font};

use super::compare::Speeds;
use super::record::{Accuracy, Dtype, Implementation, Pass};
use super::shelf::Record;

/// A file of a record's folder, and what is in it.
pub struct Plot {
    pub file: String,
    pub svg: String,
}

/// The folder of the plots, from the record's.
pub const FOLDER: &str = "plots";

pub fn bandwidth_file(pass: Pass, dtype: Dtype) -> String {
    format!("{FOLDER}/bandwidth-{pass}-{dtype}.svg")
}

pub fn speedup_file(pass: Pass, dtype: Dtype) -> String {
    format!("{FOLDER}/speedup-{pass}-{dtype}.svg")
}

pub fn error_file(dtype: Dtype) -> String {
    format!("{FOLDER}/error-{dtype}.svg")
}

/// Everything that can be drawn of a record.
pub fn all(record: &Record) -> Result<Vec<Plot>> {
    // SVG leaves the choice of the font to the viewer; this one is as wide as most.
    register_font(FONT_NAME, FontStyle::Normal, FONT)
        .map_err(|_| anyhow!("the font in the program is damaged; restore demo/font"))?;
    let mut plots = Vec::new();
    let mut add = |file: String, height: i32, draw: &dyn Fn(&Canvas<'_>) -> Drawn| {
        let svg = svg(height, draw).map_err(|error| anyhow!("cannot draw {file}: {error}"))?;
        plots.push(Plot { file, svg });
        anyhow::Ok(())
    };
    for pass in Pass::ALL {
        for dtype in Dtype::ALL {
            let record = record.drawn(pass, dtype);
            let speeds = Speeds::of(&record.speeds);
            if speeds.shapes(pass, dtype).is_empty() {
                continue;
            }
            let of = Of { record, speeds: &speeds, pass, dtype };
            add(bandwidth_file(pass, dtype), bandwidth::HEIGHT, &|canvas| {
                bandwidth::draw(canvas, &of)
            })?;
            if !speeds.peers_beside(pass, dtype).is_empty() {
                add(speedup_file(pass, dtype), speedup::height(&of), &|canvas| {
                    speedup::draw(canvas, &of)
                })?;
            }
        }
    }
    for dtype in Dtype::ALL {
        let rows: Vec<&Accuracy> =
            record.accuracies.iter().filter(|row| row.dtype == dtype).collect();
        if !rows.is_empty() {
            let height = error::height(&rows);
            add(error_file(dtype), height, &|canvas| error::draw(canvas, record, dtype, &rows))?;
        }
    }
    Ok(plots)
}

/// What a plot of speeds is of.
struct Of<'a> {
    record: &'a Record,
    speeds: &'a Speeds<'a>,
    pass: Pass,
    dtype: Dtype,
}

// ---------------------------------------------------------------- paper and ink

const FONT: &[u8] = include_bytes!("../../../demo/font/Roboto-Regular-latin.ttf");
/// As viewers know it; the font above is measured under this name.
const FONT_NAME: &str = "sans-serif";

const WIDTH: i32 = 480;
const MARGIN: i32 = 8;

// plotters' heights of a line, 1.24 of the font's size.
const TITLE: i32 = 22;
const LABEL: i32 = 19;
const LINE: i32 = 22;
/// Below a plot.
const AXIS: i32 = 62;

const INK: RGBColor = RGBColor(40, 40, 40);
const SOFT_INK: RGBColor = RGBColor(95, 95, 95);
const GRID: RGBColor = RGBColor(225, 225, 225);
const BAND: RGBColor = RGBColor(245, 245, 245);
const CEILING: RGBColor = RGBColor(213, 94, 0);

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn svg(height: i32, draw: &dyn Fn(&Canvas<'_>) -> Drawn) -> Result<String, String> {
    let mut text = String::new();
    {
        let size = (WIDTH as u32, height as u32);
        let canvas = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = canvas.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&canvas));
        let drawn = drawn.and_then(|()| Ok(canvas.present()?));
        drawn.map_err(|error| error.to_string())?;
    }
    Ok(text)
}

fn style(height: i32, colour: &'static RGBColor, horizontal: HPos) -> TextStyle<'static> {
    TextStyle::from((FONT_NAME, height)).color(colour).pos(Pos::new(horizontal, VPos::Center))
}

fn write(canvas: &Canvas<'_>, words: &str, place: (i32, i32), style: TextStyle<'static>) -> Drawn {
    canvas.draw(&Text::new(words.to_owned(), place, style))?;
    Ok(())
}

/// A title and a second line, and how much of the height they take.
fn heading(
    canvas: &Canvas<'_>,
    title: &str,
    lines: &[String],
) -> Result<i32, Box<dyn std::error::Error>> {
    write(canvas, title, (MARGIN, MARGIN + TITLE / 2), style(TITLE, &INK, HPos::Left))?;
    for (line, number) in lines.iter().zip(1..) {
        let place = (MARGIN, MARGIN + TITLE / 2 + number * LINE);
        write(canvas, line, place, style(LABEL, &SOFT_INK, HPos::Left))?;
    }
    Ok(MARGIN + TITLE + lines.len() as i32 * LINE + MARGIN)
}

#[derive(Clone, Copy)]
enum Mark {
    Disc,
    Square,
    Triangle,
    Diamond,
    Plus,
}

/// How an implementation looks: Tol's colours for the colour-blind, and a shape, so that neither is needed
/// alone.
#[derive(Clone, Copy)]
struct Look {
    colour: RGBColor,
    shape: Mark,
    width: u32,
}

fn look(implementation: Implementation) -> Look {
    let (colour, shape) = match implementation {
        Implementation::Smoothxent => (RGBColor(0, 0, 0), Mark::Disc),
        Implementation::TorchEager => (RGBColor(204, 102, 119), Mark::Square),
        Implementation::TorchCompile => (RGBColor(136, 34, 85), Mark::Diamond),
        Implementation::Cudnn => (RGBColor(17, 119, 51), Mark::Triangle),
        Implementation::Liger => (RGBColor(51, 34, 136), Mark::Square),
        Implementation::Quack => (RGBColor(221, 170, 51), Mark::Triangle),
        Implementation::FlashAttn => (RGBColor(68, 170, 153), Mark::Diamond),
        Implementation::Apex => (RGBColor(136, 204, 238), Mark::Disc),
        Implementation::TransformerEngine => (RGBColor(153, 153, 51), Mark::Plus),
        Implementation::Jax => (RGBColor(170, 68, 153), Mark::Plus),
        Implementation::Copy => (CEILING, Mark::Disc),
    };
    let width = if implementation == Implementation::Smoothxent { 3 } else { 2 };
    Look { colour, shape, width }
}

/// What does not count is hollow.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    Full,
    Hollow,
}

/// Of times, why.
const HOLLOW: &str = "wrong, host or unsteady";

impl Fill {
    fn of(doubted: bool) -> Self {
        if doubted { Self::Hollow } else { Self::Full }
    }
}

fn mark(canvas: &Canvas<'_>, (x, y): (i32, i32), look: Look, radius: i32, fill: Fill) -> Drawn {
    // A cross has no inside: it is thin.
    if let (Fill::Hollow, Mark::Plus) = (fill, look.shape) {
        canvas.draw(&Cross::new((x, y), radius - 1, look.colour.stroke_width(1)))?;
        return Ok(());
    }
    mark_in(canvas, (x, y), look, radius)?;
    if fill == Fill::Hollow && radius > 3 {
        mark_in(canvas, (x, y), Look { colour: WHITE, ..look }, radius - 2)?;
    }
    Ok(())
}

fn mark_in(canvas: &Canvas<'_>, (x, y): (i32, i32), look: Look, radius: i32) -> Drawn {
    let filled: ShapeStyle = look.colour.filled();
    match look.shape {
        Mark::Disc => canvas.draw(&Circle::new((x, y), radius, filled))?,
        Mark::Square => {
            let r = radius - 1;
            canvas.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], filled))?;
        }
        Mark::Triangle => {
            let r = radius;
            let corners = vec![(x, y - r), (x + r, y + r - 1), (x - r, y + r - 1)];
            canvas.draw(&Polygon::new(corners, filled))?;
        }
        Mark::Diamond => {
            let r = radius + 1;
            let corners = vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)];
            canvas.draw(&Polygon::new(corners, filled))?;
        }
        Mark::Plus => {
            canvas.draw(&Cross::new((x, y), radius - 1, look.colour.stroke_width(3)))?;
        }
    }
    Ok(())
}

fn line(canvas: &Canvas<'_>, points: Vec<(i32, i32)>, style: impl Into<ShapeStyle>) -> Drawn {
    canvas.draw(&PathElement::new(points, style))?;
    Ok(())
}

fn dashed(canvas: &Canvas<'_>, points: Vec<(i32, i32)>, colour: &RGBColor) -> Drawn {
    canvas.draw(&DashedPathElement::new(points, 7, 5, colour.stroke_width(2)))?;
    Ok(())
}

type Chart<'a, X> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, RangedCoordf64>>;

/// The horizontal axis of a chart whose rows have names instead of a vertical one.
fn axis_of_rows<X>(chart: &mut Chart<'_, X>, words: &str, label: &dyn Fn(&f64) -> String) -> Drawn
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(words)
        .x_label_formatter(label)
        .label_style(style(LABEL, &INK, HPos::Center))
        .axis_desc_style(style(LABEL, &INK, HPos::Center))
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(INK)
        .set_all_tick_mark_size(5)
        .draw()?;
    Ok(())
}

/// A band behind a row, over the whole width but the margin.
fn band(canvas: &Canvas<'_>, right: i32, (from, to): (i32, i32)) -> Drawn {
    canvas.draw(&Rectangle::new([(0, from), (right, to)], BAND.filled()))?;
    Ok(())
}

/// Symbols with names, two in a line; returns the height that they take.
fn legend(
    canvas: &Canvas<'_>,
    top: i32,
    entries: &[(Look, Fill, String)],
) -> Result<i32, Box<dyn std::error::Error>> {
    for ((look, fill, words), index) in entries.iter().zip(0..) {
        let x = MARGIN + 8 + index % 2 * (WIDTH / 2);
        let y = top + LINE / 2 + index / 2 * LINE;
        mark(canvas, (x, y), *look, 6, *fill)?;
        write(canvas, words, (x + 15, y), style(LABEL, &INK, HPos::Left))?;
    }
    Ok((entries.len() as i32 + 1) / 2 * LINE)
}

/// 2k for 2,000.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}

/// 1, 2 and 5 times powers of ten within a range, and their factors.
fn ticks(from: f64, to: f64, digits: &[f64]) -> Vec<f64> {
    let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    let all =
        (first..=last).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    all.filter(|tick| (from..=to).contains(tick)).collect()
}

/// Places near what is wanted and at least `gap` apart, between two ends, in the order that is given.
fn spread(wanted: &[i32], gap: i32, from: i32, to: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&index| wanted[index]);
    let mut places = wanted.to_vec();
    let mut least = from;
    for &index in &order {
        places[index] = places[index].max(least);
        least = places[index] + gap;
    }
    let mut most = to;
    for &index in order.iter().rev() {
        places[index] = places[index].min(most);
        most = places[index] - gap;
    }
    places
}

fn short_name(implementation: Implementation) -> String {
    match implementation {
        Implementation::TransformerEngine => "Transf. Engine".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::{Speed, Verdict};
    use crate::report::tests::synthetic;

    #[test]
    fn plots_name_axes_units_and_implementations() {
        let plots = all(&synthetic()).expect("they are drawn");
        let files: Vec<&str> = plots.iter().map(|plot| plot.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "plots/bandwidth-fused-bf16.svg",
                "plots/speedup-fused-bf16.svg",
                "plots/bandwidth-fused-f32.svg",
                "plots/speedup-fused-f32.svg",
                "plots/error-bf16.svg",
                "plots/error-f32.svg",
            ]
        );
        let wanted: [&[&str]; 3] = [
            &["GB/s", "classes (log)", "copy (limit)", "smoothxent", "QuACK*", "torch eager"],
            &[
                "times as fast (log)",
                "slower",
                "faster",
                "8192 x 32000",
                "Liger",
                "wrong, host or unsteady",
            ],
            &[
                "relative error (log)",
                "against f64, of 4096 x 32000 alone",
                "random, label smoothing 0.1 (QuACK: 0)",
                "s gradient; dashed: bf16",
                "target ahead by 50 nats",
                "not finite",
            ],
        ];
        for (plot, words) in [&plots[0], &plots[1], &plots[4]].into_iter().zip(wanted) {
            for word in words.iter().chain(&["Synthetic GPU"]) {
                assert!(plot.svg.contains(word), "{} lacks {word}", plot.file);
            }
        }
    }

    /// Where the host was timed the points are as hollow as in the plot of speed-ups.
    #[test]
    fn what_does_not_count_is_hollow() {
        let mut record = synthetic();
        let eager = |speed: &&mut Speed| speed.implementation == Implementation::TorchEager;
        record.speeds.retain(|speed| speed.verdict != Some(Verdict::Wrong));
        let drawn = |record: &Record| all(record).expect("they are drawn").remove(0).svg;
        assert!(!drawn(&record).contains("hollow"));
        record.speeds.iter_mut().filter(eager).for_each(|speed| speed.by_host = true);
        assert!(drawn(&record).contains("hollow or thin: wrong, host or unsteady"));
    }

    /// QuACK lacks one of the shapes, and Liger works in place.
    #[test]
    fn names_say_what_is_compared_otherwise() {
        let mut record = synthetic();
        let shape = |speed: &Speed| (speed.implementation, speed.case.shape.classes);
        record.speeds.retain(|speed| shape(speed) != (Implementation::Quack, 128_256));
        let svg = all(&record).expect("they are drawn").remove(0).svg;
        for words in ["QuACK*", "* without smoothing", "Liger°", "° gradient in place"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("torch eager*") && !svg.contains("torch eager°"));
        assert!(svg.contains("one shape of each number of classes"));
    }

    #[test]
    fn names_are_spread_and_keep_their_order() {
        assert_eq!(spread(&[50, 10, 12, 11], 10, 0, 100), [50, 10, 30, 20]);
        assert_eq!(spread(&[98, 99], 10, 0, 100), [90, 100]);
        assert_eq!(spread(&[-5, 3], 10, 0, 100), [0, 10]);
    }

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        assert_eq!(ticks(0.4, 25.0, &[1.0, 2.0, 5.0]), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!([2.0, 1e3, 1e5, 1e6].map(short), ["2", "1k", "100k", "1M"]);
    }
}
