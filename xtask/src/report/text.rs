//! The tables, as Markdown.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{self, Aimed, Comparison, SMOOTHING, Speeds};
use super::plot;
use super::record::{
    Accuracy, Case, Doubt, Dtype, Head, Implementation, Inputs, Kind, Pass, Place, STEADY, Shape,
    Smoothing, Source, Speed, Variant, Verdict,
};
use super::shelf::Record;

/// A part of README.md between its markers.
pub struct Section {
    pub name: &'static str,
    /// What it takes from a record, and what of it.
    kind: Kind,
    subject: &'static str,
    text: fn(&Record, &str) -> Option<String>,
}

pub const SECTIONS: [Section; 5] = [
    Section { name: "headline", kind: Kind::Speed, subject: "times", text: headline },
    Section { name: "speed", kind: Kind::Speed, subject: "times", text: speed },
    Section { name: "aims", kind: Kind::Speed, subject: "shares of a copy", text: aims },
    Section { name: "accuracy", kind: Kind::Accuracy, subject: "errors", text: accuracy },
    Section { name: "head", kind: Kind::Head, subject: "steps with the linear layer", text: head },
];

impl Section {
    /// What README.md says of all GPUs; `records` is the folder of records as README.md finds it.
    pub fn text(&self, all: &[Record], records: &str) -> String {
        let mut texts = Vec::new();
        for record in all {
            let folder = format!("{records}/{}", record.folder_name());
            let source = format!("[{}]({folder}/README.md)", record.name);
            let text = (self.text)(record, &format!("{folder}/"));
            let text = text.unwrap_or_else(|| format!("It has no {}.", self.subject));
            texts.push(format!("**{}**, record {source}. {text}", record.device));
            // One section is enough to say who was not measured.
            let repeats = self.kind == Kind::Speed && self.name != "speed";
            texts.extend(missing(record, self.kind).filter(|_| !repeats));
        }
        if texts.is_empty() { self.how() } else { texts.join("\n\n") }
    }

    /// How what it would show comes to be, for one that has nothing.
    fn how(&self) -> String {
        // It takes time from the others.
        let options = if self.kind == Kind::Head { "PEERS_OPTIONS=--head " } else { "" };
        format!(
            "Not measured: no {} on a GPU are on record.\n\
             What measures and files them: `cargo xtask bundle`, then `{options}./run.sh bench OUT_DIR`\n\
             on a machine with a GPU, then `cargo xtask report --add OUT_DIR`.",
            self.subject
        )
    }
}

/// The page of one record: everything in it.
pub fn page(record: &Record) -> String {
    let speeds = Speeds::of(&record.speeds);
    let mut parts = vec![
        format!("# {}", record.device),
        format!(
            "Record {}. {}\n[benches/record/README.md](../README.md) says what its columns are. Written by \
             `cargo xtask report` from the record alone.",
            record.name,
            conditions(record)
        ),
    ];
    parts.extend(compared(&speeds, &Pass::ALL));
    parts.extend(compared_before(record, &Pass::ALL));
    for pass in Pass::ALL {
        for dtype in Dtype::ALL {
            let drawn = record.drawn(pass, dtype);
            let of_drawn = Speeds::of(&drawn.speeds);
            let drawn_shapes = of_drawn.shapes(pass, dtype);
            if drawn_shapes.is_empty() {
                continue;
            }
            parts.push(format!("## {}, {dtype}", capital(pass.words())));
            if drawn.name != record.name {
                let shapes = speeds.shapes(pass, dtype);
                if !shapes.is_empty() {
                    parts.push(speed_table(&speeds, pass, dtype, &shapes));
                }
                parts.push(of_then(&drawn.name));
            }
            parts.push(image(BANDWIDTH, &plot::bandwidth_file(pass, dtype)));
            if !of_drawn.peers_beside(pass, dtype).is_empty() {
                parts.push(image(SPEEDUP, &plot::speedup_file(pass, dtype)));
            }
            parts.push(speed_table(&of_drawn, pass, dtype, &drawn_shapes));
        }
    }
    parts.extend(variants(&speeds));
    let aimed = compare::aims(&speeds);
    if !aimed.is_empty() {
        parts.push("## Aims".into());
        parts.extend(aimed.iter().map(|aimed| misses(aimed, usize::MAX)));
    }
    let dtypes = Dtype::ALL.into_iter();
    let dtypes: Vec<Dtype> =
        dtypes.filter(|dtype| record.accuracies.iter().any(|row| row.dtype == *dtype)).collect();
    if !dtypes.is_empty() {
        parts.push(format!("## Accuracy\n\n{}", errors(record, &dtypes, "")));
    }
    parts.extend(head(record, "").map(|text| format!("## With the linear layer\n\n{text}")));
    let missing: Vec<String> =
        Kind::ALL.into_iter().filter_map(|kind| missing(record, kind)).collect();
    if !missing.is_empty() {
        parts.push(format!("## Not measured\n\n{}", missing.join("\n\n")));
    }
    parts.join("\n\n") + "\n"
}

// ---------------------------------------------------------------- speed

/// What README.md says first is of these.
const HEADLINES: [Shape; 2] =
    [Shape { classes: 32_000, rows: 8192 }, Shape { classes: 128_256, rows: 4096 }];
const HEADLINE_DTYPE: Dtype = Dtype::Bf16;
const HEADLINE_PEERS: [Implementation; 2] =
    [Implementation::TorchEager, Implementation::TorchCompile];
const HEADLINE_INPUTS: Inputs = Inputs::Gap20;

fn headline(record: &Record, _: &str) -> Option<String> {
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

/// Before what an earlier record says.
fn of_then(name: &str) -> String {
    format!("Of {name}, with the kernels of then:")
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

fn with_smoothing(Smoothing(smoothing): Smoothing) -> String {
    match smoothing {
        0.0 => "without label smoothing".to_owned(),
        smoothing => format!("with label smoothing {smoothing}"),
    }
}

/// README.md's: how it compares with every peer, in all and on each problem.
fn speed(record: &Record, folder: &str) -> Option<String> {
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
        parts.push(format!("The plots are of {}, with the kernels of then.", drawn.name));
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
const BANDWIDTH: &str = "GB/s against the number of classes, and a copy as the limit";
const SPEEDUP: &str = "how many times as fast as each peer, against the number of classes";
const ERROR: &str = "relative error of each implementation, random and confident rows";

fn first_dtype(speeds: &Speeds<'_>, pass: Pass) -> Option<Dtype> {
    Dtype::ALL.into_iter().find(|&dtype| !speeds.shapes(pass, dtype).is_empty())
}

/// What an earlier record has, where it has more times of others: they are beside smoothxent's of then.
fn compared_before(record: &Record, passes: &[Pass]) -> Option<String> {
    let earlier = record.compared_more.as_ref()?;
    let speeds = Speeds::of(&earlier.speeds);
    let mut parts = vec![format!(
        "Of an earlier record, {}, which has more comparisons, with the kernels of then:",
        earlier.name
    )];
    // Once is enough.
    parts.extend(nothing_to_count(earlier).filter(|_| nothing_to_count(record).is_none()));
    parts.extend(compared(&speeds, passes));
    parts.extend(missing(earlier, Kind::Speed));
    Some(parts.join("\n\n"))
}

/// How all peers compare; nothing where there are none.
fn compared(speeds: &Speeds<'_>, passes: &[Pass]) -> Vec<String> {
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
fn conditions(record: &Record) -> String {
    let speeds = Speeds::of(&record.speeds);
    let stated = |of: fn(&super::record::Speed) -> Option<&String>| {
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
            _ if right + wrong == 0 => "Whether results were right was not looked at. ".to_owned(),
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
        "smoothxent's times taken alone are of a mean that has no rows to count (no ignore_index): where there are \
         many, one launch less than beside others."
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
struct Beside {
    /// How many times as fast this crate is, the least first.
    ratios: Vec<f64>,
    /// The others, by why they do not count.
    doubted: BTreeMap<Doubt, usize>,
    /// Whether some were timed by a kernel that leaves division and sums to others.
    undivided: bool,
}

impl Beside {
    fn of(speeds: &Speeds<'_>, peer: Implementation, pass: Pass, smoothing: Smoothing) -> Self {
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

    fn slower(&self) -> usize {
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
fn not_counted(speeds: &Speeds<'_>, passes: &[Pass]) -> Option<String> {
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
fn speed_table(speeds: &Speeds<'_>, pass: Pass, dtype: Dtype, shapes: &BTreeSet<Shape>) -> String {
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
fn variants(speeds: &Speeds<'_>) -> Option<String> {
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

// ---------------------------------------------------------------- aims

/// Misses that README.md names of each aim.
const NAMED_MISSES: usize = 3;

fn aims(record: &Record, _: &str) -> Option<String> {
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

fn misses(aimed: &Aimed, named: usize) -> String {
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

// ---------------------------------------------------------------- accuracy

/// README.md's: of f32, which hides least, since nothing is rounded to less than it was computed in.
fn accuracy(record: &Record, folder: &str) -> Option<String> {
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
fn errors(record: &Record, dtypes: &[Dtype], folder: &str) -> String {
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

// ---------------------------------------------------------------- head

fn head(record: &Record, _: &str) -> Option<String> {
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

// ---------------------------------------------------------------- words

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Speed => "times",
        Kind::Accuracy => "errors",
        Kind::Head => "steps with the linear layer",
    }
}

/// Who was not measured, and why.
fn missing(record: &Record, kind: Kind) -> Option<String> {
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
fn marked<'a>(text: String, words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    if words.is_empty() { text } else { format!("{text} ({})", words.join(", ")) }
}

/// `a, b and c`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn wrong(verdict: Option<Verdict>) -> Option<&'static str> {
    (verdict == Some(Verdict::Wrong)).then(|| Doubt::Wrong.word())
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}x")
}

/// Three digits, and all of those before the point.
fn significant(value: f64) -> String {
    let decimals = (2.0 - value.abs().log10().floor()).clamp(0.0, 3.0);
    format!("{value:.0$}", decimals as usize)
}

fn capital(words: &str) -> String {
    let (first, rest) = words.split_at(1);
    first.to_uppercase() + rest
}

fn image(alternative: &str, path: &str) -> String {
    format!("![{alternative}]({path})")
}

/// Its first `labels` columns to the left, the numbers to the right.
fn table(header: &[String], labels: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let rules = (0..header.len()).map(|column| if column < labels { "---" } else { "--:" });
    let rule = format!("|{}|", rules.collect::<Vec<_>>().join("|"));
    let rows = rows.iter().map(|row| line(row));
    [line(header), rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::Missing;
    use crate::report::tests::synthetic;

    fn section(name: &str, records: &[Record]) -> String {
        let section = SECTIONS.iter().find(|section| section.name == name);
        section.map(|section| section.text(records, "records")).unwrap_or_default()
    }

    #[test]
    fn what_was_never_measured_is_said_to_be_so() {
        for Section { name, subject, .. } in &SECTIONS {
            let text = section(name, &[]);
            assert!(text.starts_with(&format!("Not measured: no {subject} on a GPU")), "{text}");
            assert!(text.contains("./run.sh bench OUT_DIR"), "{text}");
        }
    }

    #[test]
    fn speed_beside_every_peer() {
        let text = section("speed", &[synthetic()]);
        for line in [
            "**Synthetic GPU**, record [2026-01-31-0123abc](records/synthetic-gpu/README.md). Driver 580",
            "| smoothxent beside | of | label smoothing | problems | times as fast, median | least | most | slower in \
             | not counted |",
            "| torch eager 1.2.3 | loss and gradient | 0.1 | 12 | ",
            // One of the wrong results is of each dtype; they do not count.
            "| QuACK 1.2.3 | loss and gradient | 0 | 10 | ",
            "Compared otherwise: Liger: the peer in place; QuACK: both without label smoothing.",
            "Not measured, times of: apex (does not build here: no such header, cuda_profiler_api.h).",
            "](records/synthetic-gpu/plots/bandwidth-fused-bf16.svg)",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| 8192 x 32")).collect();
        let types = ["bf16", "f32"].map(|dtype| format!("| 8192 x 32000 | {dtype} |"));
        assert_eq!(rows.len(), types.len(), "{text}");
        for (row, of_type) in rows.into_iter().zip(types) {
            assert!(row.starts_with(&of_type) && row.contains("(wrong)"), "{of_type}\n{text}");
        }
        assert!(text.contains("| 256 x 1000 | bf16 |"), "every shape that has a peer: {text}");
    }

    #[test]
    fn the_headline_has_what_is_slower_and_under_what_conditions() {
        let text = section("headline", &[synthetic()]);
        for line in [
            "In short:\n\n- 8192 x 32000 bf16, loss and gradient: 262 us, 96 % of the speed of a copy; ",
            "with label smoothing 0.1: 3.90x as fast as torch eager and 2.12x as fast as torch.compile.",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("slower") && !text.contains("Not measured"), "{text}");
        let mut record = synthetic();
        let ours = |speed: &&mut Speed| speed.implementation == Implementation::Smoothxent;
        record.speeds.iter_mut().filter(ours).for_each(|speed| speed.p50_us *= 1.5);
        let text = section("headline", &[record]);
        let line = "- Loss and gradient slower than QuACK in 3 of 10 problems, without label smoothing, by 1.45x at most.";
        assert!(text.contains(line), "{text}");
    }

    /// How long the host takes says nothing of the device: shown, and counted by itself.
    #[test]
    fn times_of_the_host_are_not_compared() {
        let text = section("speed", &[synthetic()]);
        assert!(!text.contains("(host)"), "{text}");
        let mut record = synthetic();
        let eager = |speed: &&mut Speed| speed.implementation == Implementation::TorchEager;
        let times = record.speeds.iter_mut().filter(eager);
        assert!(times.map(|speed| speed.by_host = true).count() > 0);
        let text = section("speed", &[record]);
        let line = "| torch eager 1.2.3 | loss and gradient | 0.1 | 0 | - | - | - | 0 | 12 host |";
        assert!(text.contains(line) && text.contains("x (host) |"), "{text}");
        assert!(
            text.contains("may be the host's (host). So most times of torch eager do not count."),
            "{text}"
        );
    }

    /// What takes a device long repeats better than that.
    #[test]
    fn unsteady_times_are_not_compared() {
        let text = section("speed", &[synthetic()]);
        assert!(!text.contains("unsteady"), "{text}");
        let mut record = synthetic();
        let liger = |speed: &&mut Speed| {
            speed.implementation == Implementation::Liger && speed.case.dtype == Dtype::Bf16
        };
        let times = record.speeds.iter_mut().filter(liger);
        assert!(times.map(|speed| speed.p80_us *= 1.2).count() > 0);
        let text = section("speed", &[record]);
        for words in [
            "| Liger 1.2.3 | loss and gradient | 0.1 | 6 | 1.74x | 1.31x | 2.53x | 0 | 6 unsteady |",
            "x (peer in place, unsteady) |",
            "Not counted: wrong results and times whose 80 % quantile is more than 1.1 of their 20 % quantile",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("So most times"), "half is not most: {text}");
    }

    /// One table has both, so that each says which it is.
    #[test]
    fn places_are_told_apart() {
        let mut record = synthetic();
        let row = |record: &Record, of, classes| {
            let is = |row: &&Speed| {
                let Case { dtype, variant, smoothing, shape, .. } = row.case;
                let case = (dtype, variant, smoothing, shape.classes, shape.rows);
                (row.implementation, case)
                    == (of, (Dtype::Bf16, Variant::Plain, SMOOTHING, classes, 8192))
            };
            record.speeds.iter().find(is).expect("there is one").clone()
        };
        for of in [Implementation::Smoothxent, Implementation::TorchEager] {
            let mut in_place = row(&record, of, 32_000);
            in_place.case.place = Place::InPlace;
            record.speeds.push(in_place);
        }
        let is_apart = |row: &Speed| {
            (row.implementation, row.case.dtype, row.case.shape.classes, row.case.place)
                == (Implementation::TorchEager, Dtype::Bf16, 32_000, Place::Apart)
                && row.case.shape.rows == 8192
        };
        record.speeds.retain(|row| !is_apart(row));
        let text = section("speed", &[record]);
        let start = "| 8192 x 32000 | bf16 | 262 | 4004 | 0.960 | 3.90x (in place) | 2.12x | 1.42x (in place) |";
        for words in [
            start,
            "torch eager: both in place in 1 of 12; Liger: both in place in 1 of 12, the peer in place in 11 of 12;",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn times_alone_without_targets_to_ignore_are_said_to_be_so() {
        let easier = "of a mean that has no rows to count (no ignore_index)";
        let mut record = synthetic();
        assert!(!conditions(&record).contains(easier), "all took turns with peers");
        let is_ours = |row: &&Speed| row.implementation == Implementation::Smoothxent;
        let mut alone = record.speeds.iter().find(is_ours).expect("there is one").clone();
        alone.source = Source::Alone;
        alone.case.shape.rows += 1;
        alone.ignore_index = Some(-100);
        record.speeds.push(alone.clone());
        assert!(!conditions(&record).contains(easier), "it counts, too");
        alone.ignore_index = None;
        alone.case.variant = Variant::Binary;
        record.speeds.push(alone.clone());
        assert!(!conditions(&record).contains(easier), "it has no targets to be ignored");
        alone.case.variant = Variant::Plain;
        alone.case.shape.rows += 1;
        record.speeds.push(alone);
        assert!(conditions(&record).contains(easier));
        assert!(section("speed", &[record]).contains(easier));

        let mut newest = synthetic();
        let mut earlier = synthetic();
        earlier.speeds.iter_mut().for_each(|row| row.source = Source::Alone);
        newest.compared_more = Some(Box::new(earlier));
        assert_eq!(section("speed", &[newest]).matches(easier).count(), 1, "of the earlier one");
    }

    #[test]
    fn memory_is_of_the_headlines_shapes() {
        let mut record = synthetic();
        let is_torch = |row: &&mut Speed| row.implementation == Implementation::TorchCompile;
        record.speeds.iter_mut().filter(is_torch).for_each(|row| row.is_memory_planned = true);
        let text = page(&record);
        for words in [
            "is a part of it; of torch.compile as its compiler plans it:",
            "| implementation | 8192 x 32000 bf16 | 8192 x 32000 bf16, in place |\n",
            "| smoothxent | 2000 | - |\n",
            "| Liger | - | 1000 |\n",
            "| QuACK, without label smoothing | 2000 (wrong) | - |\n",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        record.speeds.iter_mut().for_each(|row| row.peak_bytes = None);
        assert!(!page(&record).contains("Peak memory"));
    }

    #[test]
    fn errors_say_what_they_are_the_largest_of() {
        let text = section("accuracy", &[synthetic()]);
        let words = "against f64, of 4096 x 32000 alone. Random logits, label smoothing 0.1 (QuACK: 0); and, ";
        assert!(text.contains(words), "{text}");
        let mut record = synthetic();
        for row in synthetic().accuracies {
            if row.implementation != Implementation::Quack {
                record.accuracies.push(Accuracy { smoothing: Some(Smoothing(0.0)), ..row });
            }
        }
        record.accuracies[0].shape.rows = 64;
        let text = section("accuracy", &[record]);
        let words = "over 64 x 32000 and 4096 x 32000. Random logits, label smoothing 0 and 0.1, the worse (QuACK: 0);";
        assert!(text.contains(words), "{text}");
    }

    #[test]
    fn errors_of_an_earlier_record_are_said_to_be_so_first() {
        let mut record = synthetic();
        for row in &mut record.accuracies {
            row.smoothing = Some(Smoothing(0.0));
        }
        let line = "Largest relative error of the loss in f32, target ahead by 20 nats";
        let text = section("headline", &[record]);
        assert!(text.contains(&format!("\n- {line}")), "{text}");
        let mut record = synthetic();
        for row in &mut record.accuracies {
            row.smoothing = Some(Smoothing(0.0));
        }
        record.errors_of = Some("2026-01-30-bbb".into());
        let text = section("headline", &[record]);
        let line = format!("\n- Of 2026-01-30-bbb, with the kernels of then: {line}");
        assert!(text.contains(&line), "{text}");
    }

    /// Also what fails in a way that is worth reading.
    #[test]
    fn reasons_are_whole_but_that_nothing_is_installed() {
        let mut record = synthetic();
        for (implementation, reason) in [
            (Implementation::Cudnn, "cannot be loaded: OSError: libcudnn.so.9 (pip install torch)"),
            (Implementation::Jax, "not installed: No module named 'jax' (pip install jax)"),
        ] {
            let reason = reason.to_owned();
            record.missing.push(Missing { implementation, kind: Kind::Speed, reason });
        }
        let text = section("speed", &[record]);
        for words in [
            "cuDNN (cannot be loaded: OSError: libcudnn.so.9 (pip install torch))",
            "JAX (not installed).",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    /// The page shows every pass of others; README.md that of both together alone.
    #[test]
    fn passes_of_peers_are_on_the_page() {
        let mut record = synthetic();
        for mut row in synthetic().speeds {
            row.case.pass = Pass::Backward;
            record.speeds.push(row);
        }
        let text = page(&record);
        for words in [
            "| torch eager 1.2.3 | gradient alone | 0.1 | 12 | ",
            "## Gradient alone, bf16\n\n![GB/s",
            "](plots/speedup-backward-bf16.svg)",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let (_, after) = text.split_once("## Gradient alone, f32").expect("it is there");
        let header = "| rows x classes | smoothxent, us | GB/s | share of a copy | torch eager |";
        assert!(after.contains(header), "{after}");
        assert!(!section("speed", &[record]).contains("gradient alone"));
    }

    #[test]
    fn aims_errors_and_heads() {
        let text = section("aims", &[synthetic()]);
        assert!(text.contains("| 32000 | 0."), "{text}");
        assert!(text.contains("Aim: no slower than the fastest peer."), "{text}");
        assert!(text.contains(" of a copy instead of 0.97"), "{text}");
        assert!(!text.contains("Not measured"), "the section before says it: {text}");

        let text = section("accuracy", &[synthetic()]);
        assert!(text.contains("| smoothxent | f32 | the target's gradient | 5.8e-8 |"), "{text}");
        assert!(text.contains("| QuACK | f32 | the loss | ") && text.contains("| inf (wrong) |"));
        assert!(text.contains("error-f32.svg") && !text.contains("error-bf16.svg"), "{text}");

        let text = section("head", &[synthetic()]);
        let row = "| 8192 x 4096 x 32000 bf16 | Liger 0.1.0 | 16.75 | 1.30 | 0.39 | 0.40 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("steps with the linear layer of: QuACK (out of memory)."), "{text}");
    }

    #[test]
    fn a_page_has_every_shape_and_variant() {
        let page = page(&synthetic());
        for line in ["| 256 x 1000 |", "30 % of rows ignored", "error-bf16.svg", "## Not measured"]
        {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.01234, 1.234, 12.34, 123.4, 1234.5].map(significant);
        assert_eq!(written, ["0.012", "1.23", "12.3", "123", "1234"]);
    }

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
