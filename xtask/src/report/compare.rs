//! What a record says: who is compared with whom, and which aims were missed.

use std::collections::{BTreeMap, BTreeSet};

use super::aims;
use super::record::{
    Case, Doubt, Dtype, Implementation, Pass, Place, Shape, Smoothing, Speed, Variant, Verdict,
};

/// The label smoothing that is shown; a peer without it is compared without.
pub const SMOOTHING: Smoothing = Smoothing(0.1);

/// A problem as tables and plots show it: which of its variants stands for it is for them to say.
type Shown = (Pass, Dtype, Shape);

/// The speeds of a record by what they are of.
pub struct Speeds<'a> {
    rows: BTreeMap<(Implementation, Case), &'a Speed>,
    /// Of an empty launch beside this crate's, whichever program took it.
    empty_us: BTreeMap<Case, f64>,
    comparisons: BTreeMap<Implementation, Vec<Comparison<'a>>>,
    shown: BTreeMap<Shown, &'a Speed>,
    shown_beside: BTreeMap<(Implementation, Shown), Comparison<'a>>,
}

/// A peer beside this crate, on the same problem.
#[derive(Clone, Copy)]
pub struct Comparison<'a> {
    pub ours: &'a Speed,
    pub peer: &'a Speed,
}

impl Comparison<'_> {
    /// How many times as fast as the peer this crate is.
    pub fn times_as_fast(&self) -> f64 {
        self.peer.p50_us / self.ours.p50_us
    }

    /// Why it does not count; none where both give what is asked, and devices were timed.
    pub fn doubt(&self) -> Option<Doubt> {
        // The host makes a peer slower, never faster: one that is faster all the same is not left out.
        let slower = self.times_as_fast() >= 1.0;
        let peer = self.peer.doubt().filter(|doubt| slower || *doubt == Doubt::Wrong);
        self.ours.doubt().into_iter().chain(peer).min()
    }

    pub fn counts(&self) -> bool {
        self.doubt().is_none()
    }

    /// The lowest is shown. In place, where apart it was not the device alone that was timed; a wrong result stays.
    fn preference(&self) -> (Variant, bool, bool, Place) {
        let (variant, smoothing, place) = preference(self.peer.case);
        let untimed = matches!(self.doubt(), Some(Doubt::ByHost | Doubt::Unsteady));
        (variant, smoothing, untimed, place)
    }
}

impl<'a> Speeds<'a> {
    pub fn of(speeds: &'a [Speed]) -> Self {
        let mut rows: BTreeMap<(Implementation, Case), &Speed> = BTreeMap::new();
        let mut empty_us = BTreeMap::new();
        for speed in speeds {
            if speed.implementation == Implementation::Smoothxent {
                empty_us.extend(speed.empty_p50_us.map(|us| (speed.case, us)));
            }
            let row = rows.entry((speed.implementation, speed.case)).or_insert(speed);
            // What took turns with the peers is what they are compared with.
            if speed.source < row.source {
                *row = speed;
            }
        }
        let mut speeds = Self {
            rows,
            empty_us,
            comparisons: BTreeMap::new(),
            shown: BTreeMap::new(),
            shown_beside: BTreeMap::new(),
        };
        for ours in speeds.of_implementation(Implementation::Smoothxent).collect::<Vec<_>>() {
            let shown = speeds.shown.entry(shown(ours.case)).or_insert(ours);
            if preference(ours.case) < preference(shown.case) {
                *shown = ours;
            }
        }
        for peer in speeds.peers() {
            let comparisons = speeds.compare(peer);
            for &comparison in &comparisons {
                let case = comparison.peer.case;
                if case.variant != Variant::Plain {
                    continue;
                }
                let key = (peer, shown(case));
                let shown = speeds.shown_beside.entry(key).or_insert(comparison);
                if comparison.preference() < shown.preference() {
                    *shown = comparison;
                }
            }
            speeds.comparisons.insert(peer, comparisons);
        }
        speeds
    }

    pub fn ours(&self) -> impl Iterator<Item = &'a Speed> + '_ {
        self.of_implementation(Implementation::Smoothxent)
    }

    pub fn of_implementation(
        &self,
        implementation: Implementation,
    ) -> impl Iterator<Item = &'a Speed> + '_ {
        self.rows.iter().filter(move |((of, _), _)| *of == implementation).map(|(_, row)| *row)
    }

    /// Peers that have a time, in their order.
    pub fn peers(&self) -> Vec<Implementation> {
        let peers = Implementation::PEERS.into_iter();
        peers.filter(|&peer| self.of_implementation(peer).next().is_some()).collect()
    }

    pub fn get(&self, implementation: Implementation, case: Case) -> Option<&'a Speed> {
        self.rows.get(&(implementation, case)).copied()
    }

    /// Every row of a peer with this crate's of the same case. A peer that can only work in place is
    /// compared with a gradient apart where there is no other.
    fn compare(&self, peer: Implementation) -> Vec<Comparison<'a>> {
        let rows = self.of_implementation(peer);
        rows.filter_map(|peer| {
            let apart = Case { place: Place::Apart, ..peer.case };
            let ours = self.get(Implementation::Smoothxent, peer.case);
            let ours = ours.or_else(|| self.get(Implementation::Smoothxent, apart))?;
            Some(Comparison { ours, peer })
        })
        .collect()
    }

    pub fn comparisons(&self, peer: Implementation) -> &[Comparison<'a>] {
        self.comparisons.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// This crate's row that stands for a shape: apart and plain, with smoothing if there is one.
    pub fn shown(&self, pass: Pass, dtype: Dtype, shape: Shape) -> Option<&'a Speed> {
        self.shown.get(&(pass, dtype, shape)).copied()
    }

    /// The row of a peer that stands for a shape beside it.
    pub fn shown_beside(
        &self,
        peer: Implementation,
        pass: Pass,
        dtype: Dtype,
        shape: Shape,
    ) -> Option<Comparison<'a>> {
        self.shown_beside.get(&(peer, (pass, dtype, shape))).copied()
    }

    /// Label smoothings that a peer is compared with, the one that is shown first.
    pub fn smoothings(&self, peer: Implementation) -> Vec<Smoothing> {
        let all = self.comparisons(peer).iter().map(|comparison| comparison.peer.case.smoothing);
        let all: BTreeSet<(bool, Smoothing)> =
            all.map(|smoothing| (smoothing != SMOOTHING, smoothing)).collect();
        all.into_iter().map(|(_, smoothing)| smoothing).collect()
    }

    /// One comparison with a peer for each plain problem that it was measured on with this smoothing: apart where
    /// there is one that counts.
    pub fn beside(
        &self,
        peer: Implementation,
        pass: Pass,
        smoothing: Smoothing,
    ) -> Vec<Comparison<'a>> {
        let mut found: BTreeMap<(Dtype, Shape), Comparison<'a>> = BTreeMap::new();
        for &comparison in self.comparisons(peer) {
            let case = comparison.peer.case;
            if (case.pass, case.smoothing, case.variant) == (pass, smoothing, Variant::Plain) {
                let present = found.entry((case.dtype, case.shape)).or_insert(comparison);
                if comparison.preference() < present.preference() {
                    *present = comparison;
                }
            }
        }
        found.into_values().collect()
    }

    /// Peers that something of this kind is shown of.
    pub fn peers_beside(&self, pass: Pass, dtype: Dtype) -> Vec<Implementation> {
        let shown: BTreeSet<Implementation> = self
            .shown_beside
            .keys()
            .filter(|(_, (of_pass, of_dtype, _))| (*of_pass, *of_dtype) == (pass, dtype))
            .map(|(peer, _)| *peer)
            .collect();
        shown.into_iter().collect()
    }

    /// The plain shapes of this crate's, by classes and rows.
    pub fn shapes(&self, pass: Pass, dtype: Dtype) -> BTreeSet<Shape> {
        let ours = self.ours().map(|ours| ours.case);
        let plain = ours
            .filter(|case| (case.pass, case.dtype, case.variant) == (pass, dtype, Variant::Plain));
        plain.map(|case| case.shape).collect()
    }

    /// Those with a peer beside.
    pub fn shapes_beside(&self, pass: Pass, dtype: Dtype) -> BTreeSet<Shape> {
        let keys = self.shown_beside.keys().map(|(_, shown)| *shown);
        keys.filter(|&(of_pass, of_dtype, _)| (of_pass, of_dtype) == (pass, dtype))
            .map(|(_, _, shape)| shape)
            .collect()
    }

    /// Of each number of classes the shape with the most rows; of those with a peer beside, if they are so
    /// large that a copy is their limit.
    pub fn largest_shapes(&self, pass: Pass, dtype: Dtype) -> BTreeSet<Shape> {
        let is_large = |&shape: &Shape| {
            let ours = self.shown(pass, dtype, shape);
            ours.is_some_and(|ours| ours.bytes >= aims::FROM_BYTES as u64)
        };
        let shapes = self.shapes(pass, dtype);
        let beside = self.shapes_beside(pass, dtype).into_iter().filter(is_large);
        let all = shapes.into_iter().chain(beside);
        let by_classes: BTreeMap<u64, Shape> = all.map(|shape| (shape.classes, shape)).collect();
        by_classes.into_values().collect()
    }
}

fn shown(case: Case) -> Shown {
    (case.pass, case.dtype, case.shape)
}

/// The lowest is shown.
fn preference(case: Case) -> (Variant, bool, Place) {
    (case.variant, case.smoothing != SMOOTHING, case.place)
}

/// What a row should have reached and did not.
#[derive(Debug, PartialEq)]
pub struct Miss {
    pub case: Case,
    pub what: String,
    /// How far it is, as a factor; the largest is the worst.
    pub by: f64,
}

/// How many rows an aim is about, and those that miss it, the worst first.
pub struct Aimed {
    pub aim: String,
    pub rows: usize,
    pub misses: Vec<Miss>,
}

impl Aimed {
    fn new(aim: String, judged: Vec<(Case, String, f64)>) -> Self {
        let rows = judged.len();
        let misses = judged.into_iter().filter(|(_, _, by)| *by > 1.0);
        let mut misses: Vec<Miss> =
            misses.map(|(case, what, by)| Miss { case, what, by }).collect();
        misses.sort_by(|a, b| b.by.total_cmp(&a.by));
        Self { aim, rows, misses }
    }
}

/// Every aim that the record can say something about.
pub fn aims(speeds: &Speeds<'_>) -> Vec<Aimed> {
    let all = [against_peers(speeds), against_copies(speeds), against_launches(speeds)];
    all.into_iter().filter(|aimed| aimed.rows > 0).collect()
}

fn against_peers(speeds: &Speeds<'_>) -> Aimed {
    let mut fastest: BTreeMap<Case, Comparison<'_>> = BTreeMap::new();
    for peer in speeds.peers() {
        for &comparison in speeds.comparisons(peer).iter().filter(|comparison| comparison.counts())
        {
            let present = fastest.entry(comparison.peer.case).or_insert(comparison);
            if comparison.times_as_fast() < present.times_as_fast() {
                *present = comparison;
            }
        }
    }
    let judged = fastest.into_iter().map(|(case, comparison)| {
        let by = 1.0 / comparison.times_as_fast();
        let peer = comparison.peer.implementation;
        (case, format!("{by:.2} times the time of {peer}"), by)
    });
    Aimed::new("no slower than the fastest peer".into(), judged.collect())
}

fn against_copies(speeds: &Speeds<'_>) -> Aimed {
    let judged = speeds.ours().filter_map(|ours| {
        let of_pass = match ours.case.pass {
            Pass::Fused => aims::FUSED_OF_COPY,
            Pass::Forward | Pass::Backward => aims::ONE_PASS_OF_COPY,
        };
        let Shape { classes, .. } = ours.case.shape;
        let aim = aims::of_copy(ours.bytes as usize, classes as usize, of_pass)?;
        let share = ours.share_of_copy()?;
        let what = format!("{share:.3} of a copy instead of {aim:.2}");
        let plain = ours.case.variant == Variant::Plain;
        plain.then_some((ours.case, what, f64::from(aim) / share))
    });
    let aim = format!(
        "its share of a copy, from {} MB on: {} fused, {} one pass, {} up to {} classes",
        aims::FROM_BYTES / 1_000_000,
        aims::FUSED_OF_COPY,
        aims::ONE_PASS_OF_COPY,
        aims::TINY_OF_COPY,
        aims::TINY_CLASSES
    );
    Aimed::new(aim, judged.collect())
}

fn against_launches(speeds: &Speeds<'_>) -> Aimed {
    let judged = speeds.ours().filter_map(|ours| {
        let empty_us = speeds.empty_us.get(&ours.case)?;
        let small = ours.copy_p50_us? <= f64::from(aims::SMALL_COPY_OF_EMPTY) * empty_us;
        let ratio = ours.p50_us / empty_us;
        let what = format!("{ratio:.2} times an empty launch");
        let plain = ours.case.variant == Variant::Plain;
        (small && plain).then_some((ours.case, what, ratio / f64::from(aims::OF_EMPTY)))
    });
    let aim = format!(
        "{} of an empty launch, small problems (those whose copy takes at most {} of them)",
        aims::OF_EMPTY,
        aims::SMALL_COPY_OF_EMPTY
    );
    Aimed::new(aim, judged.collect())
}

/// Of a record, how many rows of this crate's were found right, wrong, or not looked at.
pub fn verdicts(speeds: &Speeds<'_>) -> [usize; 3] {
    let mut counts = [0; 3];
    for ours in speeds.ours() {
        match ours.verdict {
            Some(Verdict::Right) => counts[0] += 1,
            Some(Verdict::Wrong) => counts[1] += 1,
            None | Some(Verdict::NotMeasured | Verdict::Rehearsal) => counts[2] += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record;

    /// Rows of 8192 x 32000 in bf16, fused: implementation, place, smoothing, p50, verdict, selection.
    fn rows(rows: &[(&str, &str, f64, f64, &str, &str)]) -> Vec<Speed> {
        let mut text =
            "device,rows,classes,dtype,pass,variant,bytes,copy_bytes,copy_p50_us,implementation,\
                        place,label_smoothing,p20_us,p50_us,p80_us,verdict,selection\n"
                .to_owned();
        for (implementation, place, smoothing, us, verdict, selection) in rows {
            text.push_str(&format!(
                "GPU,8192,32000,bf16,fused,plain,1000000000,1000000000,240,{implementation},{place},\
                 {smoothing},{us},{us},{us},{verdict},{selection}\n"
            ));
        }
        record::speeds(&text).expect("they are rows").measured
    }

    /// The same of one row, with other columns.
    fn changed(us: f64, change: impl Fn(&mut Speed)) -> Speed {
        let mut row = rows(&[("smoothxent", "apart", 0.1, us, "", "fastest")]).remove(0);
        change(&mut row);
        row
    }

    const SHAPE: Shape = Shape { classes: 32_000, rows: 8192 };

    fn beside(speeds: &Speeds<'_>, peer: Implementation) -> Option<f64> {
        let comparison = speeds.shown_beside(peer, Pass::Fused, Dtype::Bf16, SHAPE);
        comparison.map(|comparison| comparison.times_as_fast())
    }

    #[test]
    fn a_peer_is_compared_on_what_it_has() {
        let rows = rows(&[
            ("smoothxent", "apart", 0.1, 250.0, "right", ""),
            ("smoothxent", "apart", 0.0, 200.0, "right", ""),
            ("torch_eager", "apart", 0.1, 1000.0, "right", ""),
            ("torch_eager", "apart", 0.0, 500.0, "right", ""),
            ("quack", "apart", 0.0, 300.0, "right", ""),
            ("liger", "in_place", 0.1, 500.0, "right", ""),
        ]);
        let speeds = Speeds::of(&rows);
        assert_eq!(beside(&speeds, Implementation::TorchEager), Some(4.0), "with smoothing");
        assert_eq!(beside(&speeds, Implementation::Quack), Some(1.5), "both without smoothing");
        assert_eq!(beside(&speeds, Implementation::Liger), Some(2.0), "apart beside in place");
        assert_eq!(beside(&speeds, Implementation::Jax), None);
        let shown = speeds.shown(Pass::Fused, Dtype::Bf16, SHAPE).map(|ours| ours.p50_us);
        assert_eq!(shown, Some(250.0));
    }

    #[test]
    fn what_took_turns_with_the_peers_is_preferred() {
        let rows = rows(&[
            ("smoothxent", "apart", 0.1, 260.0, "", "fastest"),
            ("smoothxent", "apart", 0.1, 250.0, "right", ""),
        ]);
        let speeds = Speeds::of(&rows);
        let shown = speeds.shown(Pass::Fused, Dtype::Bf16, SHAPE).map(|ours| ours.p50_us);
        assert_eq!((shown, verdicts(&speeds)), (Some(250.0), [1, 0, 0]));
    }

    #[test]
    fn unsteady_times_are_no_competition() {
        let mut rows = rows(&[
            ("smoothxent", "apart", 0.1, 250.0, "right", ""),
            ("torch_compile", "apart", 0.1, 300.0, "right", ""),
        ]);
        let doubt = |rows: &[Speed]| {
            let speeds = Speeds::of(rows);
            let comparison = speeds.comparisons(Implementation::TorchCompile)[0];
            (comparison.doubt(), aims(&speeds).len())
        };
        assert_eq!(doubt(&rows), (None, 2));
        rows[1].p80_us = 1.09 * rows[1].p20_us;
        assert_eq!(doubt(&rows), (None, 2));
        rows[1].p80_us = 1.11 * rows[1].p20_us;
        assert_eq!(doubt(&rows), (Some(Doubt::Unsteady), 1), "the copy's aim alone is left");
        rows[1].by_host = true;
        assert_eq!(doubt(&rows).0, Some(Doubt::ByHost));
        rows[1].p50_us = 249.0;
        assert_eq!(doubt(&rows), (None, 2), "faster, whatever was timed");
        rows[0].verdict = Some(Verdict::Wrong);
        assert_eq!(doubt(&rows).0, Some(Doubt::Wrong), "of either");
    }

    #[test]
    fn a_steady_comparison_in_place_is_preferred() {
        let mut rows = rows(&[
            ("smoothxent", "apart", 0.1, 250.0, "right", ""),
            ("smoothxent", "in_place", 0.1, 250.0, "right", ""),
            ("flash_attn", "apart", 0.1, 750.0, "right", ""),
            ("flash_attn", "in_place", 0.1, 500.0, "right", ""),
        ]);
        let shown = |rows: &[Speed]| {
            let speeds = Speeds::of(rows);
            let beside = speeds.beside(Implementation::FlashAttn, Pass::Fused, SMOOTHING);
            assert_eq!(beside.len(), 1);
            let ratio = beside[0].times_as_fast();
            assert_eq!(self::beside(&speeds, Implementation::FlashAttn), Some(ratio));
            ratio
        };
        assert_eq!(shown(&rows), 3.0, "both steady");
        rows[2].p80_us *= 1.2;
        assert_eq!(shown(&rows), 2.0);
        rows[2].verdict = Some(Verdict::Wrong);
        assert_eq!(shown(&rows), 3.0, "a wrong result is not hidden");
    }

    /// Who moves megabytes is not held to the time of an empty launch.
    #[test]
    fn small_problems_alone_are_beside_empty_launches() {
        let of_empty = |rows: &[Speed]| {
            let mut aims = aims(&Speeds::of(rows));
            aims.retain(|aimed| aimed.aim.contains("empty launch"));
            aims.pop().map(|aimed| aimed.misses[0].what.clone())
        };
        let small = |row: &mut Speed| (row.copy_p50_us, row.empty_p50_us) = (Some(0.9), Some(0.5));
        let large = |row: &mut Speed| (row.copy_p50_us, row.empty_p50_us) = (Some(1.1), Some(0.5));
        let alone = changed(5.0, small);
        assert_eq!(
            of_empty(std::slice::from_ref(&alone)).as_deref(),
            Some("10.00 times an empty launch")
        );
        assert_eq!(of_empty(&[changed(5.0, large)]), None, "its copy takes 2.2 launches");
        // What took turns with the peers knows no empty launch.
        let beside = changed(6.0, |row| {
            (row.source, row.copy_p50_us) = (record::Source::BesidePeers, Some(0.9));
        });
        for rows in [[alone.clone(), beside.clone()], [beside, alone]] {
            assert_eq!(of_empty(&rows).as_deref(), Some("12.00 times an empty launch"));
        }
    }

    #[test]
    fn misses_are_found_and_wrong_results_are_no_competition() {
        let rows = rows(&[
            ("smoothxent", "apart", 0.1, 250.0, "right", ""),
            ("torch_compile", "apart", 0.1, 200.0, "right", ""),
            ("flash_attn", "apart", 0.1, 100.0, "wrong", ""),
        ]);
        let aims = aims(&Speeds::of(&rows));
        let [peers, copies] = &aims[..] else { panic!("no launch was empty: {}", aims.len()) };
        assert_eq!((peers.rows, peers.misses.len()), (1, 1));
        assert_eq!(peers.misses[0].what, "1.25 times the time of torch.compile");
        assert_eq!(copies.misses[0].what, "0.960 of a copy instead of 0.97");
    }
}
