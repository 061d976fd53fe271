//! Times, beside a copy and beside others; memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::compare::{self, Comparison, SMOOTHING, Speeds};
use crate::report::plot;
use crate::report::record::{
    Case, Doubt, Dtype, Implementation, Kind, Pass, Place, STEADY, Shape, Smoothing, Source, Speed,
    Variant,
};
use crate::report::shelf::Record;

use super::headline::{HEADLINE_DTYPE, HEADLINES};
use super::words::{
    image, listed, marked, missing, significant, table, times, with_smoothing, wrong,
};

/// README.md's: how it compares with every peer, in all and on each problem.
pub fn speed(record: &Record, folder: &str) -> Option<String> {
    let speeds = Speeds::of(&record.speeds);
    let dtype = first_dtype(&speeds, Pass::Fused)?;
    let mut parts = vec![conditions(record)];
    parts.extend(compared(&speeds, &[Pass::Fused]));
    parts.extend(beside(&speeds));
    let is_variant = |case: &Case| {
        (case.pass, case.place) == (Pass::Fused, Place::Apart) && case.variant != Variant::Plain
    };
    if let Some(table) = variants_table(&speeds, is_variant) {
        parts.push("What options cost, beside class indices without weights:".to_owned());
        parts.push(table);
    }
    parts.extend(compared_before(record, &[Pass::Fused]));
    parts.extend(
        record.compared_more.iter().filter_map(|earlier| beside(&Speeds::of(&earlier.speeds))),
    );
    let file = |file: String| format!("{folder}{file}");
    parts.push(image(BANDWIDTH, &file(plot::bandwidth_file(Pass::Fused, dtype))));
    let drawn = record.drawn(Pass::Fused, dtype);
    if !Speeds::of(&drawn.speeds).peers_beside(Pass::Fused, dtype).is_empty() {
        parts.push(image(SPEEDUP, &file(plot::speedup_file(Pass::Fused, dtype))));
    }
    if drawn.name != record.name {
        parts.push(format!("The plots show record {}, of earlier kernels.", drawn.name));
    }
    Some(parts.join("\n\n"))
}

fn beside(speeds: &Speeds<'_>) -> Option<String> {
    let table = beside_table(speeds, Pass::Fused)?;
    Some(format!(
        "Loss and gradient, each problem that others were measured on; of a peer, how many times as fast \
         smoothxent is, with a gradient apart unless a word says otherwise:\n\n{table}"
    ))
}

/// What pictures show, in words.
pub const BANDWIDTH: &str = "GB/s against the number of classes, and a copy as the limit";
pub const SPEEDUP: &str = "how many times as fast as each peer, against the number of classes";

pub fn first_dtype(speeds: &Speeds<'_>, pass: Pass) -> Option<Dtype> {
    Dtype::ALL.into_iter().find(|&dtype| !speeds.shapes(pass, dtype).is_empty())
}

/// What an earlier record has, where it has more times of others: they are beside smoothxent's of then.
pub fn compared_before(record: &Record, passes: &[Pass]) -> Option<String> {
    let earlier = record.compared_more.as_ref()?;
    let speeds = Speeds::of(&earlier.speeds);
    let mut parts = vec![format!(
        "An earlier record, {}, of earlier kernels, has more comparisons:",
        earlier.name
    )];
    // Once is enough.
    parts.extend(nothing_to_count(earlier).filter(|_| nothing_to_count(record).is_none()));
    parts.extend(compared(&speeds, passes));
    parts.extend(missing(earlier, Kind::Speed));
    Some(parts.join("\n\n"))
}

/// How all peers compare; nothing where there are none.
pub fn compared(speeds: &Speeds<'_>, passes: &[Pass]) -> Vec<String> {
    if speeds.peers().is_empty() {
        return Vec::new();
    }
    let mut parts = vec![peers_table(speeds, passes)];
    parts.extend(not_counted(speeds, passes));
    parts.extend(differences(speeds));
    parts.extend(memory(speeds));
    parts
}

/// On what, with what, and how sure.
pub fn conditions(record: &Record) -> String {
    let speeds = Speeds::of(&record.speeds);
    let stated = |of: fn(&Speed) -> Option<&String>| {
        let values: BTreeSet<&String> = record.speeds.iter().filter_map(of).collect();
        values.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    let (driver, torch) = (stated(|row| row.driver.as_ref()), stated(|row| row.torch.as_ref()));
    if !driver.is_empty() {
        text.push_str(&format!("Driver {driver}. "));
    }
    if !torch.is_empty() {
        text.push_str(&format!("PyTorch {torch}. "));
    }
    let throttled = record.speeds.iter().filter(|row| is_throttled(row.throttle.as_deref()));
    let throttled = throttled.count();
    if throttled > 0 {
        text.push_str(&format!(
            "Power or heat held the clocks down in {throttled} of {} measurements. ",
            record.speeds.len()
        ));
    }
    let [right, wrong, unknown] = compare::verdicts(&speeds);
    if right + wrong + unknown > 0 {
        text.push_str(&match (wrong, unknown) {
            _ if right + wrong == 0 => "Results were not checked. ".to_owned(),
            (0, 0) => format!("All {right} results of smoothxent's were right. "),
            _ => format!(
                "Of smoothxent's results that were compared {right} were right, {wrong} **wrong**; {unknown} were \
                 only timed. "
            ),
        });
    }
    text.push_str(&format!(
        "Medians; label smoothing {} where nothing else is said; logits from memory where they do not all fit the \
         cache.",
        SMOOTHING.0
    ));
    if let Some(sentence) = nothing_to_count(record) {
        text.push_str(&format!(" {sentence}"));
    }
    text
}

/// Where smoothxent's times alone are of an easier problem than those beside others, whose targets may be ignored.
fn nothing_to_count(record: &Record) -> Option<String> {
    let easier = |row: &Speed| {
        let alone = row.source == Source::Alone && row.case.variant == Variant::Plain;
        alone && row.ignore_index.is_none()
    };
    record.speeds.iter().any(easier).then(|| {
        "smoothxent's times taken alone have no ignore_index: where rows are many, that saves the launch that counts \
         them, which times beside others include."
            .to_owned()
    })
}

/// By power, heat or a brake, in nvidia-smi's mask; idling and clocks that somebody chose are none of them.
fn is_throttled(mask: Option<&str>) -> bool {
    const POWER_OR_HEAT: u64 = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim_start_matches("0x"), 16).ok());
    mask.is_some_and(|mask| mask & POWER_OR_HEAT != 0)
}

/// A peer, over all dtypes and plain shapes of a pass.
pub struct Beside {
    /// How many times as fast this crate is, the least first.
    pub ratios: Vec<f64>,
    /// The others, by why they do not count.
    doubted: BTreeMap<Doubt, usize>,
    /// Whether some were timed by a kernel that leaves division and sums to others.
    pub undivided: bool,
}

impl Beside {
    pub fn of(speeds: &Speeds<'_>, peer: Implementation, pass: Pass, smoothing: Smoothing) -> Self {
        let mut beside = Self { ratios: Vec::new(), doubted: BTreeMap::new(), undivided: false };
        for comparison in speeds.beside(peer, pass, smoothing) {
            match comparison.doubt() {
                Some(doubt) => *beside.doubted.entry(doubt).or_default() += 1,
                None => {
                    beside.ratios.push(comparison.times_as_fast());
                    beside.undivided |= comparison.peer.is_undivided;
                }
            }
        }
        beside.ratios.sort_by(f64::total_cmp);
        beside
    }

    fn is_empty(&self) -> bool {
        self.ratios.is_empty() && self.doubted.is_empty()
    }

    /// `1 wrong, 6 host`.
    fn not_counted(&self) -> String {
        let counts = self.doubted.iter().map(|(doubt, count)| format!("{count} {}", doubt.word()));
        let counts: Vec<String> = counts.collect();
        if counts.is_empty() { "0".to_owned() } else { counts.join(", ") }
    }

    pub fn slower(&self) -> usize {
        self.ratios.iter().filter(|ratio| **ratio < 1.0).count()
    }
}

/// One line a peer, a pass and a label smoothing.
fn peers_table(speeds: &Speeds<'_>, passes: &[Pass]) -> String {
    let mut rows = Vec::new();
    for &pass in passes {
        for peer in speeds.peers() {
            for smoothing in speeds.smoothings(peer) {
                let beside = Beside::of(speeds, peer, pass, smoothing);
                if beside.is_empty() {
                    continue;
                }
                let ratios = &beside.ratios;
                let at = |index: usize| ratios.get(index).map_or("-".into(), |&ratio| times(ratio));
                let last = ratios.len().wrapping_sub(1);
                rows.push(vec![
                    format!("{peer} {}", version(speeds, peer)).trim_end().to_owned(),
                    pass.words().to_owned(),
                    smoothing.0.to_string(),
                    ratios.len().to_string(),
                    // Of an even number the lower one in the middle.
                    at(last / 2),
                    at(0),
                    at(last),
                    beside.slower().to_string(),
                    beside.not_counted(),
                ]);
            }
        }
    }
    let header = [
        "smoothxent beside",
        "of",
        "label smoothing",
        "problems",
        "times as fast, median",
        "least",
        "most",
        "slower in",
        "not counted",
    ];
    table(&header.map(str::to_owned), 2, &rows)
}

/// What the words of the last column mean, and of whom it leaves little.
pub fn not_counted(speeds: &Speeds<'_>, passes: &[Pass]) -> Option<String> {
    let mut doubts = BTreeSet::new();
    let mut mostly = Vec::new();
    for peer in speeds.peers() {
        let all: Vec<Beside> = passes
            .iter()
            .flat_map(|&pass| speeds.smoothings(peer).into_iter().map(move |of| (pass, of)))
            .map(|(pass, smoothing)| Beside::of(speeds, peer, pass, smoothing))
            .collect();
        let counted: usize = all.iter().map(|beside| beside.ratios.len()).sum();
        let doubted = || all.iter().flat_map(|beside| &beside.doubted);
        if doubted().map(|(_, count)| count).sum::<usize>() > counted {
            mostly.push(peer.to_string());
        }
        doubts.extend(doubted().map(|(doubt, _)| *doubt));
    }
    let meaning = |doubt: &Doubt| match doubt {
        Doubt::Wrong => "wrong results".to_owned(),
        Doubt::ByHost => "times that may be the host's (host)".to_owned(),
        Doubt::Unsteady => format!(
            "times whose 80 % quantile is more than {STEADY} of their 20 % quantile (unsteady), as where the host \
             was what was timed now and then"
        ),
    };
    let meanings: Vec<String> = doubts.iter().map(meaning).collect();
    let mostly = match &mostly[..] {
        [] => String::new(),
        peers => format!(" So most times of {} do not count.", listed(peers)),
    };
    (!meanings.is_empty()).then(|| format!("Not counted: {}.{mostly}", listed(&meanings)))
}

fn shown_comparisons<'a>(
    speeds: &Speeds<'a>,
    peer: Implementation,
    pass: Pass,
) -> Vec<Comparison<'a>> {
    let mut shown = Vec::new();
    for dtype in Dtype::ALL {
        for shape in speeds.shapes(pass, dtype) {
            shown.extend(speeds.shown_beside(peer, pass, dtype, shape));
        }
    }
    shown
}

fn version(speeds: &Speeds<'_>, implementation: Implementation) -> String {
    let mut rows = speeds.of_implementation(implementation);
    rows.find_map(|row| row.version.clone()).unwrap_or_default()
}

/// What peers were compared on, where it is not what the tables say.
fn differences(speeds: &Speeds<'_>) -> Option<String> {
    let mut sentences = Vec::new();
    for peer in speeds.peers() {
        let shown: Vec<Comparison<'_>> =
            Pass::ALL.into_iter().flat_map(|pass| shown_comparisons(speeds, peer, pass)).collect();
        let mut differences = Vec::new();
        // Of how many, where it is not all of them.
        let mut add = |words: &str, of: fn(&Comparison<'_>) -> bool| {
            let count = shown.iter().filter(|comparison| of(comparison)).count();
            match count {
                0 => {}
                _ if count == shown.len() => differences.push(words.to_owned()),
                _ => differences.push(format!("{words} in {count} of {}", shown.len())),
            }
        };
        add("both without label smoothing", |shown| shown.peer.case.smoothing != SMOOTHING);
        add("both in place", |shown| {
            [shown.ours, shown.peer].iter().all(|row| row.case.place == Place::InPlace)
        });
        add("the peer in place", |shown| shown.ours.case.place != shown.peer.case.place);
        add("the peer by a kernel that neither divides nor sums the losses", |shown| {
            shown.peer.is_undivided
        });
        // Of small problems the method is another word.
        if shown.iter().any(|comparison| comparison.peer.by_clock) {
            differences.push("by the host's clock, on a stream of its own".to_owned());
        }
        if !differences.is_empty() {
            sentences.push(format!("{peer}: {}", differences.join(", ")));
        }
    }
    (!sentences.is_empty()).then(|| format!("Compared otherwise: {}.", sentences.join("; ")))
}

/// What a call allocates at most, of the shapes that stand first, each with the gradient apart and in place.
fn memory(speeds: &Speeds<'_>) -> Option<String> {
    let of = |implementation, smoothing, (shape, place)| {
        let (pass, dtype, variant) = (Pass::Fused, HEADLINE_DTYPE, Variant::Plain);
        let case = Case { pass, dtype, variant, smoothing, place, shape };
        let row = speeds.get(implementation, case)?;
        row.peak_bytes.map(|bytes| (row, bytes))
    };
    let words =
        |(row, bytes): (&Speed, u64)| marked(significant(bytes as f64 / MIB), wrong(row.verdict));
    let implementations = [vec![Implementation::Smoothxent], speeds.peers()].concat();
    let places = [Place::Apart, Place::InPlace];
    let columns = HEADLINES.into_iter().flat_map(|shape| places.map(|place| (shape, place)));
    let columns: Vec<(Shape, Place)> = columns
        .filter(|&column| {
            implementations.iter().any(|&peer| {
                speeds.smoothings(peer).iter().any(|&of_peer| of(peer, of_peer, column).is_some())
            })
        })
        .collect();
    let (mut rows, mut planned) = (Vec::new(), Vec::new());
    for implementation in implementations {
        let mut smoothings = vec![SMOOTHING];
        smoothings.extend(speeds.smoothings(implementation));
        let measured = |smoothing: &Smoothing| {
            columns.iter().any(|&column| of(implementation, *smoothing, column).is_some())
        };
        let Some(smoothing) = smoothings.into_iter().find(measured) else { continue };
        let cells: Vec<Option<(&Speed, u64)>> =
            columns.iter().map(|&column| of(implementation, smoothing, column)).collect();
        if cells.iter().flatten().any(|(row, _)| row.is_memory_planned) {
            planned.push(implementation.to_string());
        }
        let mut label = implementation.to_string();
        if smoothing != SMOOTHING {
            label.push_str(&format!(", {}", with_smoothing(smoothing)));
        }
        let cells = cells.into_iter().map(|cell| cell.map_or("-".into(), words));
        rows.push([label].into_iter().chain(cells).collect());
    }
    let header = columns.iter().map(|(shape, place)| match place {
        Place::Apart => format!("{shape} {HEADLINE_DTYPE}"),
        Place::InPlace => format!("{shape} {HEADLINE_DTYPE}, in place"),
    });
    let header: Vec<String> = ["implementation".to_owned()].into_iter().chain(header).collect();
    let planned = match &planned[..] {
        [] => String::new(),
        peers => format!("; of {} as its compiler plans it", listed(peers)),
    };
    (!rows.is_empty()).then(|| {
        format!(
            "Peak memory beyond logits and targets, MiB, of a loss and gradient; a gradient that is not in place \
             is a part of it{planned}:\n\n{}",
            table(&header, 1, &rows)
        )
    })
}

const MIB: f64 = (1u64 << 20) as f64;

/// One row a shape: this crate's time, and how many times as fast it is as each peer.
pub fn speed_table(
    speeds: &Speeds<'_>,
    pass: Pass,
    dtype: Dtype,
    shapes: &BTreeSet<Shape>,
) -> String {
    let peers = speeds.peers_beside(pass, dtype);
    let rows = shapes.iter().filter_map(|&shape| {
        Some([vec![shape.to_string()], speed_cells(speeds, &peers, (pass, dtype, shape))?].concat())
    });
    table(&speed_header(&["rows x classes"], &peers), 1, &rows.collect::<Vec<_>>())
}

/// The same of all dtypes, where a peer is beside; if there is one.
fn beside_table(speeds: &Speeds<'_>, pass: Pass) -> Option<String> {
    let peers: BTreeSet<Implementation> =
        Dtype::ALL.into_iter().flat_map(|dtype| speeds.peers_beside(pass, dtype)).collect();
    let peers: Vec<Implementation> = peers.into_iter().collect();
    let problems = Dtype::ALL.into_iter().flat_map(|dtype| {
        speeds.shapes_beside(pass, dtype).into_iter().map(move |shape| (shape, dtype))
    });
    let problems: BTreeSet<(Shape, Dtype)> = problems.collect();
    let rows = problems.into_iter().filter_map(|(shape, dtype)| {
        let labels = vec![shape.to_string(), dtype.to_string()];
        Some([labels, speed_cells(speeds, &peers, (pass, dtype, shape))?].concat())
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let header = speed_header(&["rows x classes", "type"], &peers);
    (!rows.is_empty()).then(|| table(&header, 2, &rows))
}

fn speed_header(labels: &[&str], peers: &[Implementation]) -> Vec<String> {
    let own = ["smoothxent, us", "GB/s", "share of a copy"];
    let header = labels.iter().chain(&own).map(|&label| label.to_owned());
    header.chain(peers.iter().map(Implementation::to_string)).collect()
}

fn speed_cells(
    speeds: &Speeds<'_>,
    peers: &[Implementation],
    (pass, dtype, shape): (Pass, Dtype, Shape),
) -> Option<Vec<String>> {
    let ours = speeds.shown(pass, dtype, shape)?;
    let mut cells = vec![
        timed(ours),
        format!("{:.0}", ours.gb_per_s),
        ours.share_of_copy().map_or("-".into(), |share| format!("{share:.3}")),
    ];
    for &peer in peers {
        let comparison = speeds.shown_beside(peer, pass, dtype, shape);
        cells.push(comparison.map_or("-".into(), |comparison| {
            let place = other_place(&comparison, ours.case.place);
            let doubt = comparison.doubt().map(Doubt::word);
            marked(times(comparison.times_as_fast()), place.into_iter().chain(doubt))
        }));
    }
    Some(cells)
}

/// This crate's time in a row of its own.
fn timed(ours: &Speed) -> String {
    let place = (ours.case.place == Place::InPlace).then_some(IN_PLACE);
    let doubt = ours.doubt().map(Doubt::word);
    marked(significant(ours.p50_us), place.into_iter().chain(doubt))
}

const IN_PLACE: &str = "in place";

/// Where the gradients of a comparison are, if that of the row's own time is elsewhere.
fn other_place(comparison: &Comparison<'_>, own: Place) -> Option<&'static str> {
    match (comparison.ours.case.place, comparison.peer.case.place) {
        (ours, peer) if (ours, peer) == (own, own) => None,
        (Place::Apart, Place::InPlace) => Some("peer in place"),
        (Place::InPlace, _) => Some(IN_PLACE),
        (Place::Apart, Place::Apart) => Some("apart"),
    }
}

/// Ignored rows, weights, and so on, beside the plain problem of the same shape.
pub fn variants(speeds: &Speeds<'_>) -> Option<String> {
    variants_table(speeds, |_| true).map(|table| format!("## Variants\n\n{table}"))
}

fn variants_table(speeds: &Speeds<'_>, is_shown: impl Fn(&Case) -> bool) -> Option<String> {
    let mut rows = Vec::new();
    for ours in speeds.ours().filter(|ours| is_shown(&ours.case)) {
        let case = ours.case;
        let plain = speeds.shown(case.pass, case.dtype, case.shape);
        let words = match (case.variant.words(), case.place) {
            (Some(words), Place::Apart) => words.to_owned(),
            (Some(words), Place::InPlace) => format!("{words}, in place"),
            (None, Place::InPlace) => "in place".to_owned(),
            (None, Place::Apart) => continue,
        };
        let plain = plain.filter(|plain| plain.case.variant == Variant::Plain);
        rows.push(vec![
            case.shape.to_string(),
            format!("{} {}", case.dtype, case.pass),
            words,
            case.smoothing.0.to_string(),
            marked(significant(ours.p50_us), ours.doubt().map(Doubt::word)),
            plain.map_or("-".into(), |plain| times(ours.p50_us / plain.p50_us)),
            ours.share_of_copy().map_or("-".into(), |share| format!("{share:.2}")),
        ]);
    }
    let header = [
        "rows x classes",
        "pass",
        "variant",
        "label smoothing",
        "smoothxent, us",
        "of plain",
        "of a copy",
    ];
    (!rows.is_empty()).then(|| table(&header.map(str::to_owned), 3, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_by_power_or_heat() {
        for mask in ["0x0000000000000004", "0x0000000000000081"] {
            assert!(is_throttled(Some(mask)), "{mask}");
        }
        // Idling, and clocks that an application set.
        for mask in [None, Some("0x0000000000000001"), Some("0x0000000000000002")] {
            assert!(!is_throttled(mask), "{mask:?}");
        }
    }
}
