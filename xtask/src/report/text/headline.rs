//! README.md's first lines: what somebody who reads nothing else should know.

use crate::report::compare::Speeds;
use crate::report::record::{Dtype, Implementation, Inputs, Pass, Shape, Smoothing};
use crate::report::shelf::Record;

use super::accuracy::largest;
use super::speed::{Beside, first_dtype};
use super::words::{of_then, significant, times, with_smoothing};

/// What README.md says first is of these.
pub const HEADLINES: [Shape; 2] =
    [Shape { classes: 32_000, rows: 8192 }, Shape { classes: 128_256, rows: 4096 }];
pub const HEADLINE_DTYPE: Dtype = Dtype::Bf16;
const HEADLINE_PEERS: [Implementation; 2] =
    [Implementation::TorchEager, Implementation::TorchCompile];
const HEADLINE_INPUTS: Inputs = Inputs::Gap20;

pub fn headline(record: &Record, _: &str) -> Option<String> {
    let speeds = Speeds::of(&record.speeds);
    first_dtype(&speeds, Pass::Fused)?;
    let mut lines: Vec<String> =
        HEADLINES.into_iter().filter_map(|shape| headline_of(&speeds, shape)).collect();
    lines.extend(headline_of_peers(&speeds));
    if let Some(earlier) = &record.compared_more {
        let of_earlier = Speeds::of(&earlier.speeds);
        let shapes = HEADLINES.into_iter().filter_map(|shape| headline_of(&of_earlier, shape));
        let then: Vec<String> = shapes.chain(headline_of_peers(&of_earlier)).collect();
        lines.extend(then.into_iter().map(|line| format!("{} {line}", of_then(&earlier.name))));
    }
    lines.extend(headline_of_errors(record));
    (!lines.is_empty()).then(|| format!("In short:\n\n- {}", lines.join("\n- ")))
}

/// Who is faster, on how many problems.
fn headline_of_peers(speeds: &Speeds<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for peer in speeds.peers() {
        for smoothing in speeds.smoothings(peer) {
            let beside = Beside::of(speeds, peer, Pass::Fused, smoothing);
            let slower = beside.slower();
            let Some(least) = beside.ratios.first().filter(|_| slower > 0) else { continue };
            lines.push(format!(
                "Loss and gradient slower than {peer} in {slower} of {} problems, {}, by {} at most{}.",
                beside.ratios.len(),
                with_smoothing(smoothing),
                times(1.0 / least),
                if beside.undivided {
                    "; its kernel neither divides nor sums the losses"
                } else {
                    ""
                },
            ));
        }
    }
    lines
}

fn headline_of(speeds: &Speeds<'_>, shape: Shape) -> Option<String> {
    let ours = speeds.shown(Pass::Fused, HEADLINE_DTYPE, shape)?;
    let mut text =
        format!("{shape} {HEADLINE_DTYPE}, loss and gradient: {} us", significant(ours.p50_us));
    if let Some(share) = ours.share_of_copy() {
        text.push_str(&format!(", {:.0} % of the speed of a copy", 100.0 * share));
    }
    let of = |peer, smoothing| {
        let all = speeds.beside(peer, Pass::Fused, smoothing);
        let mut of_shape = all.into_iter().filter(|comparison| {
            let case = comparison.peer.case;
            comparison.counts() && (case.dtype, case.shape) == (HEADLINE_DTYPE, shape)
        });
        Some(format!("{} as fast as {peer}", times(of_shape.next()?.times_as_fast())))
    };
    for smoothing in speeds.smoothings(HEADLINE_PEERS[0]) {
        let ratios: Vec<String> =
            HEADLINE_PEERS.into_iter().filter_map(|peer| of(peer, smoothing)).collect();
        if !ratios.is_empty() {
            let (ratios, with) = (ratios.join(" and "), with_smoothing(smoothing));
            text.push_str(&format!("; {with}: {ratios}"));
        }
    }
    Some(text + ".")
}

/// Of rows whose loss is lost where 1 - p is formed from p.
fn headline_of_errors(record: &Record) -> Option<String> {
    let then = record.errors_of.as_ref();
    let then = then.map_or_else(String::new, |name| format!("{} ", of_then(name)));
    let of = |implementation| {
        let rows = record.accuracies.iter().filter(move |row| {
            (row.implementation, row.inputs, row.dtype, row.smoothing)
                == (implementation, HEADLINE_INPUTS, Dtype::F32, Some(Smoothing(0.0)))
        });
        largest(rows.filter_map(|row| row.loss_rel)).map(f64::abs)
    };
    let ours = of(Implementation::Smoothxent)?;
    let peers: Vec<f64> = Implementation::PEERS.into_iter().filter_map(of).collect();
    let least = peers.iter().copied().min_by(f64::total_cmp)?;
    Some(format!(
        "{then}Largest relative error of the loss in f32, {}, without label smoothing: {ours:.1e}; of the {} others \
         {} or more.",
        HEADLINE_INPUTS.words(),
        peers.len(),
        // Not rounded up.
        if least < 0.1 {
            format!("{least:.1e}")
        } else {
            format!("{:.1}", (10.0 * least).floor() / 10.0)
        }
    ))
}
