//! The pictures, in portrait so that they can be read on a phone.

use std::{
    error::Error,
    fs::File,
    io::BufWriter,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    data::CLASSES,
    metrics::{self, BINS, Bin},
    report,
    train::{Dtype, Epoch, Model, Run, SMOOTHING},
};

const FONT: &[u8] = include_bytes!("../font/Roboto-Regular-latin.ttf");
const FONT_NAME: &str = "Roboto";
const WIDTH: u32 = 1080;
const MARGIN: i32 = 30;

// Text heights in pixels.
const TITLE: i32 = 46;
const CAPTION: i32 = 36;
const LABEL: i32 = 32;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(222, 222, 222);
const DIAGONAL: RGBColor = RGBColor(120, 120, 120);

/// Blue without smoothing, red or orange with it; dark for the MLP, light for the linear model.
/// From the colours of Okabe and Ito, which the colour-blind can tell apart.
fn colour(model: Model, smoothing: f64) -> RGBColor {
    match (model, smoothing > 0.0) {
        (Model::Mlp, false) => RGBColor(0, 114, 178),
        (Model::Mlp, true) => RGBColor(213, 94, 0),
        (Model::Linear, false) => RGBColor(86, 180, 233),
        (Model::Linear, true) => RGBColor(230, 159, 0),
    }
}

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
/// plotters' own errors borrow from the canvas.
type Drawn<T = ()> = Result<T, Box<dyn Error>>;

/// Draws all pictures into `folder` and returns where they are.
pub fn draw(folder: &Path, runs: &[Run]) -> Result<Vec<PathBuf>> {
    plotters::style::register_font(FONT_NAME, FontStyle::Normal, FONT)
        .map_err(|_| anyhow!("the font in the program is damaged; restore demo/font"))?;
    let pair =
        [0.0, SMOOTHING].map(|smoothing| report::find(runs, Model::Mlp, Dtype::F32, smoothing));
    Ok(vec![
        picture(&folder.join("reliability.png"), 1480, |canvas| reliability(canvas, pair))?,
        picture(&folder.join("training.png"), 1880, |canvas| training(canvas, runs))?,
    ])
}

/// Draws in memory and writes a PNG.
fn picture(path: &Path, height: u32, draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Result<PathBuf> {
    let mut pixels = vec![0; (WIDTH * height * 3) as usize];
    {
        let canvas = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height)).into_drawing_area();
        let drawn = canvas
            .fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&canvas))
            .and_then(|()| canvas.present().map_err(Into::into));
        drawn.map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
    }
    let write = || -> Result<()> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

fn text(height: i32) -> TextStyle<'static> {
    TextStyle::from((FONT_NAME, height)).color(&INK)
}

/// Titles the picture and returns what is left of it.
fn titled<'a>(canvas: &Canvas<'a>, title: &str) -> Drawn<Canvas<'a>> {
    let (head, rest) = canvas.split_vertically(TITLE + 2 * MARGIN);
    let centre = Pos::new(HPos::Center, VPos::Center);
    let place = ((WIDTH / 2) as i32, MARGIN + TITLE / 2);
    head.draw(&Text::new(title.to_owned(), place, text(TITLE).pos(centre)))?;
    Ok(rest)
}

/// One line of a legend drawn by hand: plotters' own box would cover the curves.
fn legend_entry(
    canvas: &Canvas<'_>,
    (x, y): (i32, i32),
    words: String,
    symbol: impl FnOnce((i32, i32)) -> Drawn,
) -> Drawn {
    symbol((x, y))?;
    // plotters centres the text's line, which has room for accents above the letters.
    let place = (x + SYMBOL_WIDTH + 14, y + 4);
    let left = Pos::new(HPos::Left, VPos::Center);
    canvas.draw(&Text::new(words, place, text(LABEL).pos(left)))?;
    Ok(())
}

const SYMBOL_WIDTH: i32 = 56;

/// Bins with fewer images get a hollow marker: their accuracy is mostly chance.
const FEW_IMAGES: usize = 10;

/// Accuracy against confidence, and how many images there are of each confidence.
fn reliability(canvas: &Canvas<'_>, runs: [&Run; 2]) -> Drawn {
    let images = runs[0].predictions.len();
    let rest = titled(canvas, &format!("Reliability of the MLP (f32) on {images} test images"))?;
    let (legend, rest) = rest.split_vertically(210);
    let (upper, lower) = rest.split_vertically(760);

    for (line, run) in runs.into_iter().enumerate() {
        let smoothing = run.configuration.smoothing;
        let colour = colour(Model::Mlp, smoothing);
        let words = format!(
            "smoothing {smoothing}: accuracy {:.1} %, calibration error {:.1} %",
            100.0 * metrics::accuracy(&run.predictions),
            100.0 * metrics::calibration_error(&run.predictions),
        );
        let place = (2 * MARGIN, 20 + 46 * line as i32);
        legend_entry(&legend, place, words, |(x, y)| {
            let line = vec![(x, y), (x + SYMBOL_WIDTH, y)];
            legend.draw(&PathElement::new(line, colour.stroke_width(5)))?;
            legend.draw(&Circle::new((x + SYMBOL_WIDTH / 2, y), 11, colour.filled()))?;
            Ok(())
        })?;
    }
    let words = format!("fewer than {FEW_IMAGES} images in the bin");
    legend_entry(&legend, (2 * MARGIN, 20 + 46 * 2), words, |(x, y)| {
        legend.draw(&Circle::new((x + SYMBOL_WIDTH / 2, y), 11, INK.filled()))?;
        legend.draw(&Circle::new((x + SYMBOL_WIDTH / 2, y), 7, WHITE.filled()))?;
        Ok(())
    })?;
    legend_entry(&legend, (2 * MARGIN, 20 + 46 * 3), "perfectly calibrated".into(), |(x, y)| {
        let line = vec![(x, y), (x + SYMBOL_WIDTH, y)];
        legend.draw(&PathElement::new(line, DIAGONAL.stroke_width(3)))?;
        Ok(())
    })?;

    // Room for whole markers at 0 and 100 %.
    let mut chart = builder(&upper).build_cartesian_2d(0.0..100.0, -4.0..104.0)?;
    mesh(&mut chart, "confidence, % (15 bins)", "accuracy, %", &|x| format!("{x:.0}"), 11)?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (100.0, 100.0)], DIAGONAL.stroke_width(3)))?;
    let points = |run: &Run| {
        let bins = metrics::bins(&run.predictions).into_iter().filter(|bin| bin.count > 0);
        bins.partition::<Vec<_>, _>(|bin| bin.count >= FEW_IMAGES)
    };
    let place = |bin: &Bin| (100.0 * bin.confidence, 100.0 * bin.accuracy);
    for run in runs {
        let colour = colour(Model::Mlp, run.configuration.smoothing);
        let (many, _) = points(run);
        chart.draw_series(LineSeries::new(many.iter().map(place), colour.stroke_width(4)))?;
        chart.draw_series(many.iter().map(|bin| Circle::new(place(bin), 11, colour.filled())))?;
    }
    // On top, so that a hollow marker and a filled one at the same place are both seen.
    for run in runs {
        let colour = colour(Model::Mlp, run.configuration.smoothing);
        let (_, few) = points(run);
        chart.draw_series(few.iter().map(|bin| Circle::new(place(bin), 11, colour.filled())))?;
        chart.draw_series(few.iter().map(|bin| Circle::new(place(bin), 7, WHITE.filled())))?;
    }

    // A logarithmic axis has no 0; the bars begin where half an image would be.
    let floor = 0.5;
    let mut chart =
        builder(&lower).build_cartesian_2d(0.0..100.0, (floor..2.0 * images as f64).log_scale())?;
    mesh(&mut chart, "confidence, % (15 bins)", "images (log)", &log_label, 5)?;
    for (side, run) in runs.into_iter().enumerate() {
        let colour = colour(Model::Mlp, run.configuration.smoothing);
        let width = 100.0 / BINS as f64;
        let bars = metrics::bins(&run.predictions).into_iter().enumerate();
        chart.draw_series(bars.filter(|(_, bin)| bin.count > 0).map(|(index, bin)| {
            let left = width * (index as f64 + 0.1 + 0.4 * side as f64);
            let corners = [(left, floor), (left + 0.4 * width, bin.count as f64)];
            Rectangle::new(corners, colour.filled())
        }))?;
    }
    Ok(())
}

/// Training loss, test likelihood and test accuracy against the epoch.
fn training(canvas: &Canvas<'_>, runs: &[Run]) -> Drawn {
    let rest = titled(canvas, "Training on 8x8 handwritten digits")?;
    let (legend, rest) = rest.split_vertically(170);
    training_legend(&legend, runs)?;
    let panels = rest.split_evenly((3, 1));

    let floor = smoothed_loss_floor();
    let caption = format!("Training loss (with smoothing {SMOOTHING} at least {floor:.2} nats)");
    let loss = |epoch: &Epoch| epoch.train_loss;
    panel(&panels[0], &caption, "loss, nats (log)", runs, &loss, &log_label, |range| {
        (range.start.max(1e-6) * 0.8..range.end * 1.2).log_scale()
    })?;
    let nll = |epoch: &Epoch| epoch.test_nll;
    let caption = "Negative log-likelihood of test images, without smoothing";
    panel(&panels[1], caption, "NLL, nats (log)", runs, &nll, &log_label, |range| {
        (range.start * 0.8..range.end * 1.2).log_scale()
    })?;
    let accuracy = |epoch: &Epoch| 100.0 * epoch.test_accuracy;
    let label = |y: &f64| format!("{y:.0}");
    panel(&panels[2], "Accuracy on test images", "accuracy, %", runs, &accuracy, &label, |range| {
        (range.start / 5.0).floor() * 5.0..100.0
    })
}

/// Of a logarithmic axis: 1, 2 and 5 times powers of ten, so that labels do not run into each other.
fn log_label(y: &f64) -> String {
    let leading = y / 10f64.powf(y.log10().floor());
    let labelled = [1.0, 2.0, 5.0, 10.0].iter().any(|digit| (leading - digit).abs() < 1e-6);
    if labelled { format!("{}", (y * 1e6).round() / 1e6) } else { String::new() }
}

/// The loss cannot go below the entropy of smoothed targets.
fn smoothed_loss_floor() -> f64 {
    let target = report::smoothed_target();
    let other = SMOOTHING / CLASSES as f64;
    -(target * target.ln() + (CLASSES - 1) as f64 * other * other.ln())
}

fn training_legend(legend: &Canvas<'_>, runs: &[Run]) -> Drawn {
    let wide = runs.iter().filter(|run| run.configuration.dtype == Dtype::F32);
    for (index, run) in wide.enumerate() {
        let (model, smoothing) = (run.configuration.model, run.configuration.smoothing);
        let place =
            (2 * MARGIN + (index / 2) as i32 * (WIDTH / 2) as i32, 20 + 46 * (index % 2) as i32);
        legend_entry(legend, place, format!("{model}, smoothing {smoothing}"), |(x, y)| {
            let line = vec![(x, y), (x + SYMBOL_WIDTH, y)];
            legend.draw(&PathElement::new(line, colour(model, smoothing).stroke_width(6)))?;
            Ok(())
        })?;
    }
    let y = 20 + 46 * 2;
    legend_entry(legend, (2 * MARGIN, y), "line: f32".into(), |(x, y)| {
        let line = vec![(x, y), (x + SYMBOL_WIDTH, y)];
        legend.draw(&PathElement::new(line, INK.stroke_width(4)))?;
        Ok(())
    })?;
    legend_entry(legend, (2 * MARGIN + (WIDTH / 2) as i32, y), "dots: f16".into(), |(x, y)| {
        legend.draw(&Circle::new((x + SYMBOL_WIDTH / 2, y), 8, INK.filled()))?;
        Ok(())
    })
}

/// One curve a run against the epoch: f32 as a line, f16 as dots.
fn panel<Y>(
    area: &Canvas<'_>,
    caption: &str,
    unit: &str,
    runs: &[Run],
    value: &dyn Fn(&Epoch) -> f64,
    label: &dyn Fn(&f64) -> String,
    axis: impl FnOnce(Range<f64>) -> Y,
) -> Drawn
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let values = runs.iter().flat_map(|run| &run.epochs).map(value);
    let range = values.fold(f64::INFINITY..f64::NEG_INFINITY, |range, value| {
        range.start.min(value)..range.end.max(value)
    });
    let last = runs.iter().map(|run| run.epochs.len()).max().unwrap_or(1);
    let mut chart = builder(area)
        .caption(caption, text(CAPTION))
        .build_cartesian_2d(0.0..last as f64 * 1.02, axis(range))?;
    mesh(&mut chart, "epoch", unit, label, 12)?;
    for run in runs {
        let configuration = run.configuration;
        let colour = colour(configuration.model, configuration.smoothing);
        let points = run.epochs.iter().zip(1..).map(|(epoch, n)| (f64::from(n), value(epoch)));
        match configuration.dtype {
            Dtype::F32 => {
                chart.draw_series(LineSeries::new(points, colour.stroke_width(4)))?;
            }
            Dtype::F16 => {
                let apart = last.div_ceil(20);
                chart.draw_series(
                    points.step_by(apart).map(|point| Circle::new(point, 7, colour.filled())),
                )?;
            }
        }
    }
    Ok(())
}

fn builder<'a, 'b>(area: &'a Canvas<'b>) -> ChartBuilder<'a, 'b, BitMapBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(MARGIN / 2)
        .margin_right(MARGIN + 10)
        .x_label_area_size(88)
        .y_label_area_size(120);
    builder
}

type Chart<'a, 'b, Y> =
    ChartContext<'a, BitMapBackend<'b>, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>;

fn mesh<Y>(
    chart: &mut Chart<'_, '_, Y>,
    x: &str,
    y: &str,
    y_label: &dyn Fn(&f64) -> String,
    y_labels: usize,
) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(y_label)
        .x_labels(11)
        .y_labels(y_labels)
        .label_style(text(LABEL))
        .axis_desc_style(text(LABEL))
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .set_all_tick_mark_size(10)
        .axis_style(INK.stroke_width(2))
        .draw()?;
    Ok(())
}
