//! The tables, as Markdown: README.md's sections, and the page of a record.

pub mod accuracy;
mod aims;
mod head;
mod headline;
mod speed;
mod words;

use super::compare::{self, Speeds};
use super::plot;
use super::record::{Dtype, Kind, Pass};
use super::shelf::Record;
use accuracy::{accuracy, errors};
use aims::{aims, misses};
use head::head;
use headline::headline;
use speed::{
    BANDWIDTH, SPEEDUP, compared, compared_before, conditions, speed, speed_table, variants,
};
use words::{capital, image, missing, of_then};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::SMOOTHING;
    use crate::report::record::{
        Accuracy, Case, Implementation, Missing, Place, Smoothing, Source, Speed, Variant,
    };
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
        let easier = "times taken alone have no ignore_index";
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
        let line = format!("\n- Record 2026-01-30-bbb, of earlier kernels: {line}");
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
}
