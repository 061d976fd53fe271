//! How numbers, reasons and tables are written.

use std::collections::BTreeMap;

use crate::report::record::{Doubt, Implementation, Kind, Smoothing, Verdict};
use crate::report::shelf::Record;

/// Before what an earlier record says.
pub fn of_then(name: &str) -> String {
    format!("Record {name}, of earlier kernels:")
}

pub fn with_smoothing(Smoothing(smoothing): Smoothing) -> String {
    match smoothing {
        0.0 => "without label smoothing".to_owned(),
        smoothing => format!("with label smoothing {smoothing}"),
    }
}

pub fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Speed => "times",
        Kind::Accuracy => "errors",
        Kind::Head => "steps with the linear layer",
    }
}

/// Who was not measured, and why.
pub fn missing(record: &Record, kind: Kind) -> Option<String> {
    let mut reasons: BTreeMap<(Implementation, &str), usize> = BTreeMap::new();
    for missing in record.missing.iter().filter(|missing| missing.kind == kind) {
        *reasons.entry((missing.implementation, &missing.reason)).or_default() += 1;
    }
    let sentence = |((implementation, reason), count): (&(Implementation, &str), &usize)| {
        let reason = reason.trim().trim_end_matches('.');
        // What to do about it is the harness's to say, not the table's.
        let reason = if reason.starts_with(NOT_INSTALLED) { NOT_INSTALLED } else { reason };
        match count {
            1 => format!("{implementation} ({reason})"),
            _ => format!("{implementation} in {count} cases ({reason})"),
        }
    };
    let sentences: Vec<String> = reasons.iter().map(sentence).collect();
    let who = sentences.join("; ");
    (!sentences.is_empty()).then(|| format!("Not measured, {} of: {who}.", words(kind)))
}

/// How such a reason begins.
const NOT_INSTALLED: &str = "not installed";

/// With words in parentheses behind it, if there are any.
pub fn marked<'a>(text: String, words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    if words.is_empty() { text } else { format!("{text} ({})", words.join(", ")) }
}

/// `a, b and c`.
pub fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub fn wrong(verdict: Option<Verdict>) -> Option<&'static str> {
    (verdict == Some(Verdict::Wrong)).then(|| Doubt::Wrong.word())
}

pub fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

/// Three digits, and all of those before the point.
pub fn significant(value: f64) -> String {
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 3.0);
    format!("{value:.0$}", decimals as usize)
}

pub fn capital(words: &str) -> String {
    let (first, rest) = words.split_at(1);
    first.to_uppercase() + rest
}

pub fn image(alternative: &str, path: &str) -> String {
    format!("![{alternative}]({path})")
}

/// Its first `labels` columns to the left, the numbers to the right.
pub fn table(header: &[String], labels: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let rules = (0..header.len()).map(|column| if column < labels { "---" } else { "--:" });
    let rule = format!("|{}|", rules.collect::<Vec<_>>().join("|"));
    let rows = rows.iter().map(|row| line(row));
    [line(header), rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.01234, 1.234, 12.34, 123.4, 1234.5].map(significant);
        assert_eq!(written, ["0.012", "1.23", "12.3", "123", "1234"]);
    }
}
