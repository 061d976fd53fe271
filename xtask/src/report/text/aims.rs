//! What the kernels are meant to reach, and where they do not.

use std::collections::BTreeMap;

use crate::report::compare::{self, Aimed, Speeds};
use crate::report::record::{Dtype, Pass};
use crate::report::shelf::Record;

use super::speed::first_dtype;
use super::words::{of_then, table};

/// Misses that README.md names of each aim.
const NAMED_MISSES: usize = 3;

pub fn aims(record: &Record, _: &str) -> Option<String> {
    let speeds = Speeds::of(&record.speeds);
    first_dtype(&speeds, Pass::Fused)?;
    let mut parts = vec!["Share of a copy of the same bytes, loss and gradient:".to_owned()];
    parts.push(share_table(&speeds));
    if let Some(earlier) = &record.compared_more {
        parts.push(of_then(&earlier.name));
        let speeds = Speeds::of(&earlier.speeds);
        parts.push(share_table(&speeds));
        let aimed = compare::aims(&speeds);
        parts.extend(aimed.iter().map(|aimed| misses(aimed, NAMED_MISSES)));
        parts.push(format!("Of {}:", record.name));
    }
    parts.extend(compare::aims(&speeds).iter().map(|aimed| misses(aimed, NAMED_MISSES)));
    Some(parts.join("\n\n"))
}

/// One problem of each number of classes, one column a dtype.
fn share_table(speeds: &Speeds<'_>) -> String {
    let dtypes: Vec<Dtype> = Dtype::ALL
        .into_iter()
        .filter(|&dtype| !speeds.shapes(Pass::Fused, dtype).is_empty())
        .collect();
    let mut by_classes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (column, &dtype) in dtypes.iter().enumerate() {
        for shape in speeds.largest_shapes(Pass::Fused, dtype) {
            let share = speeds.shown(Pass::Fused, dtype, shape).and_then(|row| row.share_of_copy());
            let row = by_classes.entry(shape.classes).or_insert(vec!["-".into(); dtypes.len()]);
            row[column] =
                share.map_or("-".into(), |share| format!("{share:.3} ({} rows)", shape.rows));
        }
    }
    let header: Vec<String> =
        ["classes".into()].into_iter().chain(dtypes.iter().map(Dtype::to_string)).collect();
    let rows: Vec<Vec<String>> = by_classes
        .into_iter()
        .map(|(classes, cells)| [vec![classes.to_string()], cells].concat())
        .collect();
    table(&header, 1, &rows)
}

pub fn misses(aimed: &Aimed, named: usize) -> String {
    let Aimed { aim, rows, misses } = aimed;
    if misses.is_empty() {
        return format!("Aim: {aim}. All {rows} problems meet it.");
    }
    let mut text = format!("Aim: {aim}. Missed in {} of {rows} problems:\n", misses.len());
    for miss in misses.iter().take(named) {
        text.push_str(&format!("\n- {}: {}", miss.case, miss.what));
    }
    if let Some(more @ 1..) = misses.len().checked_sub(named) {
        text.push_str(&format!("\n- and {more} more, less far off, on the record's page"));
    }
    text
}
