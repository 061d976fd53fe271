//! Steps of the linear layer with its loss.

use crate::report::record::{Head, Implementation};
use crate::report::shelf::Record;

use super::words::{marked, table, wrong};

pub fn head(record: &Record, _: &str) -> Option<String> {
    if record.heads.is_empty() {
        return None;
    }
    let mut sorted: Vec<&Head> = record.heads.iter().collect();
    let size = |head: &Head| (head.classes, head.tokens, head.hidden, head.dtype);
    sorted.sort_by_key(|head| (size(head), head.implementation));
    let mut rows = Vec::new();
    for head in &sorted {
        let ours = sorted.iter().find(|other| {
            other.implementation == Implementation::Smoothxent && size(other) == size(head)
        });
        let ratio = |of: fn(&Head) -> Option<f64>| {
            let ratio = of(head).zip(ours.and_then(|ours| of(ours)));
            ratio.map_or("-".into(), |(peer, ours)| format!("{:.2}", peer / ours))
        };
        rows.push(vec![
            format!("{} x {} x {} {}", head.tokens, head.hidden, head.classes, head.dtype),
            format!("{} {}", head.implementation, head.version.as_deref().unwrap_or_default())
                .trim_end()
                .to_owned(),
            marked(format!("{:.2}", head.p50_us / 1000.0), wrong(head.verdict)),
            ratio(|head| Some(head.p50_us)),
            head.peak_bytes.map_or("-".into(), |bytes| format!("{:.2}", bytes as f64 / GIB)),
            ratio(|head| head.peak_bytes.map(|bytes| bytes as f64)),
        ]);
    }
    let header = [
        "tokens x hidden x classes",
        "implementation",
        "step, ms",
        "of smoothxent's",
        "peak memory, GiB",
        "of smoothxent's",
    ];
    let table = table(&header.map(str::to_owned), 2, &rows);
    Some(format!("The linear layer, the loss, and both backwards:\n\n{table}"))
}

const GIB: f64 = (1u64 << 30) as f64;
