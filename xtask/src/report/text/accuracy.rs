//! Errors against f64.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::plot;
use crate::report::record::{Accuracy, Dtype, Implementation, Inputs, Shape, Smoothing};
use crate::report::shelf::Record;

use super::words::{image, listed, marked, table, wrong};

/// What the pictures show, in words.
const ERROR: &str = "relative error of each implementation, random and confident rows";

/// README.md's: of f32, which hides least, since nothing is rounded to less than it was computed in.
pub fn accuracy(record: &Record, folder: &str) -> Option<String> {
    let dtypes = Dtype::ALL.into_iter().rev();
    let mut dtypes = dtypes.filter(|dtype| record.accuracies.iter().any(|row| row.dtype == *dtype));
    let text = errors(record, &[dtypes.next()?], folder);
    let others: Vec<String> = dtypes.map(|dtype| dtype.to_string()).collect();
    match &others[..] {
        [] => Some(text),
        others => Some(format!("{text}\n\n{} on the record's page.", others.join(" and "))),
    }
}

/// The worst error of its shapes, of random rows and of the most confident ones.
pub fn errors(record: &Record, dtypes: &[Dtype], folder: &str) -> String {
    let confident = record.accuracies.iter().filter(|row| row.inputs != Inputs::Random);
    let smoothing: BTreeSet<Option<Smoothing>> = confident.map(|row| row.smoothing).collect();
    // It would hide them: the smoothing term is most of a confident row's loss.
    let without =
        if smoothing == [Some(Smoothing(0.0))].into() { "without label smoothing, " } else { "" };
    let of = record.errors_of.as_ref();
    let of = of.map_or_else(String::new, |name| format!("Of an earlier record, {name}. "));
    let shown: Vec<&Accuracy> =
        record.accuracies.iter().filter(|row| dtypes.contains(&row.dtype)).collect();
    let (shapes, random) = (shapes_of(&shown), smoothings_of_random(&shown));
    let mut parts = vec![
        format!(
            "{of}Largest relative error against f64, {shapes}. Random logits{random}; and, {without}rows whose \
             target is so many nats above the log-sum-exp of all other classes, where 1 - p is lost to \
             cancellation if it is formed from p:"
        ),
        accuracy_table(&record.accuracies, dtypes),
    ];
    for &dtype in dtypes {
        parts.push(image(ERROR, &format!("{folder}{}", plot::error_file(dtype))));
    }
    parts.join("\n\n")
}

/// Shapes that are named; of more only how many.
const NAMED_SHAPES: usize = 3;

/// What errors are the largest of, in words.
pub fn shapes_of(rows: &[&Accuracy]) -> String {
    let shapes: BTreeSet<Shape> = rows.iter().map(|row| row.shape).collect();
    let names: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    match &names[..] {
        [name] => format!("of {name} alone"),
        names if names.len() <= NAMED_SHAPES => format!("over {}", listed(names)),
        names => format!("over {} shapes", names.len()),
    }
}

/// The label smoothings of random rows, and who has others than most.
pub fn smoothings_of_random(rows: &[&Accuracy]) -> String {
    let mut by_implementation: BTreeMap<Implementation, BTreeSet<Smoothing>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.inputs == Inputs::Random) {
        by_implementation.entry(row.implementation).or_default().extend(row.smoothing);
    }
    let mut by_set: BTreeMap<&BTreeSet<Smoothing>, Vec<Implementation>> = BTreeMap::new();
    for (implementation, set) in by_implementation.iter().filter(|(_, set)| !set.is_empty()) {
        by_set.entry(set).or_default().push(*implementation);
    }
    let words = |set: &BTreeSet<Smoothing>| {
        let words: Vec<String> = set.iter().map(|smoothing| smoothing.0.to_string()).collect();
        words.join(" and ")
    };
    let Some((most, _)) = by_set.iter().max_by_key(|(_, of)| of.len()) else {
        return String::new();
    };
    let worse = if most.len() > 1 { ", the worse" } else { "" };
    let others = by_set.iter().filter(|(set, _)| set != &most);
    let others: Vec<String> = others
        .flat_map(|(set, of)| of.iter().map(move |of| format!("{of}: {}", words(set))))
        .collect();
    let others =
        if others.is_empty() { String::new() } else { format!(" ({})", others.join("; ")) };
    format!(", label smoothing {}{worse}{others}", words(most))
}

fn accuracy_table(all: &[Accuracy], dtypes: &[Dtype]) -> String {
    let mut header = vec!["implementation".to_owned(), "type".into(), "error of".into()];
    header.extend(Inputs::ALL.iter().map(|inputs| inputs.words().to_owned()));
    let mut rows = Vec::new();
    for &dtype in dtypes {
        for implementation in implementations(all.iter().map(|row| row.implementation)) {
            for (what, error) in ERRORS {
                let mine =
                    |row: &&Accuracy| (row.implementation, row.dtype) == (implementation, dtype);
                let cells: Vec<String> = Inputs::ALL
                    .into_iter()
                    .map(|inputs| {
                        let rows = all.iter().filter(mine).filter(|row| row.inputs == inputs);
                        worst(rows, error)
                    })
                    .collect();
                if cells.iter().all(|cell| cell == "-") {
                    continue;
                }
                let label = [implementation.to_string(), dtype.to_string(), what.to_owned()];
                rows.push([label.to_vec(), cells].concat());
            }
        }
    }
    table(&header, 3, &rows)
}

type ErrorOf = fn(&Accuracy) -> Option<f64>;

/// What errors are of.
pub const ERRORS: [(&str, ErrorOf); 3] = [
    ("the loss", |row| row.loss_rel),
    ("the gradient", |row| row.gradient_rel),
    ("the target's gradient", |row| row.target_gradient_rel),
];

/// NaN is the largest.
pub fn largest(errors: impl Iterator<Item = f64>) -> Option<f64> {
    errors.max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

fn worst<'a>(rows: impl Iterator<Item = &'a Accuracy> + Clone, error: ErrorOf) -> String {
    let wrong = rows.clone().find_map(|row| wrong(row.verdict));
    let error = largest(rows.filter_map(error));
    error.map_or("-".into(), |error| marked(format!("{error:.1e}"), wrong))
}

fn implementations(all: impl Iterator<Item = Implementation>) -> BTreeSet<Implementation> {
    all.collect()
}
