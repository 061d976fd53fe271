//! What a run says about the choice of strategies, and about the aims.

use crate::{
    aims,
    cases::Case,
    record::{Row, number},
};

/// Less is noise.
const NOTABLE_GAIN: f32 = 1.02;

/// Everything that is to be read without the tables.
pub struct Summary<'a> {
    /// By case, each with the chosen strategy first.
    pub cases: &'a [Vec<Row>],
    /// Cases that there was no time for, or no memory.
    pub left_out: &'a [Case],
}

impl Summary<'_> {
    pub fn print(&self) {
        println!("--- summary");
        self.strategies();
        self.small();
        self.misses();
        self.left_out();
    }

    fn strategies(&self) {
        let compared: Vec<&Vec<Row>> = self.cases.iter().filter(|rows| rows.len() > 1).collect();
        if compared.is_empty() {
            return;
        }
        if compared.iter().all(|rows| rows[0].time.p50.is_nan()) {
            println!(
                "strategies: {} cases ran under all of theirs, none was timed",
                compared.len()
            );
            return;
        }
        let notable = |rows: &&&Vec<Row>| gain(rows) >= NOTABLE_GAIN;
        let wrong: Vec<&&Vec<Row>> = compared.iter().filter(notable).collect();
        println!(
            "strategies: in {} of {} cases the chosen one is within {:.0}% of the fastest; the others:",
            compared.len() - wrong.len(),
            compared.len(),
            (NOTABLE_GAIN - 1.0) * 100.0
        );
        println!(
            "rows x classes   type pass     variant       chosen       p50 us fastest      p50 us   gain  of copy"
        );
        for rows in wrong {
            let (chosen, best) = (&rows[0], fastest(rows));
            println!(
                "{} {:<9} {} {:<9} {} {} {}",
                chosen.case,
                chosen.plan.strategy,
                number(chosen.time.p50, 9, 2),
                best.plan.strategy,
                number(best.time.p50, 9, 2),
                number(gain(rows), 6, 3),
                number(best.share_of_copy(), 8, 3)
            );
        }
    }

    fn small(&self) {
        let small: Vec<&Row> = self.cases.iter().filter_map(|rows| rows.first()).collect();
        let small: Vec<(&Row, f32)> =
            small.into_iter().filter_map(|row| Some((row, row.of_empty()?))).collect();
        if small.is_empty() {
            return;
        }
        if small.iter().all(|(_, ratio)| ratio.is_nan()) {
            println!("small problems: {} cases ran in graphs, none was timed", small.len());
            return;
        }
        println!("small problems, in graphs; the aim is {} of an empty launch:", aims::OF_EMPTY);
        println!(
            "rows x classes   type pass     variant       chosen       p50 us  empty us  ratio"
        );
        for (row, ratio) in small {
            let empty = row.empty.map_or(f32::NAN, |empty| empty.p50);
            println!(
                "{} {:<9} {} {} {}{}",
                row.case,
                row.plan.strategy,
                number(row.time.p50, 9, 2),
                number(empty, 9, 2),
                number(ratio, 6, 2),
                if ratio > aims::OF_EMPTY { "  more" } else { "" }
            );
        }
    }

    fn misses(&self) {
        let aimed: Vec<(&Vec<Row>, f32)> =
            self.cases.iter().filter_map(|rows| Some((rows, rows.first()?.case.aim()?))).collect();
        let misses: Vec<&(&Vec<Row>, f32)> =
            aimed.iter().filter(|(rows, aim)| rows[0].share_of_copy() < *aim).collect();
        println!(
            "aims: {} of {} cases of {} MB and more miss their share of a copy{}",
            misses.len(),
            aimed.len(),
            aims::FROM_BYTES / 1_000_000,
            if misses.is_empty() { "" } else { ":" }
        );
        for (rows, aim) in misses {
            let best = fastest(rows);
            println!(
                "{} {} instead of {aim:.2} with {}; {} with {}",
                rows[0].case,
                number(rows[0].share_of_copy(), 5, 3),
                rows[0].plan.strategy,
                number(best.share_of_copy(), 5, 3),
                best.plan.strategy
            );
        }
    }

    pub fn left_out(&self) {
        if self.left_out.is_empty() {
            println!("left out: nothing");
            return;
        }
        println!("left out, {} cases:", self.left_out.len());
        for case in self.left_out {
            println!("{case}");
        }
    }
}

fn fastest(rows: &[Row]) -> &Row {
    let by_time = |a: &&Row, b: &&Row| a.time.p50.total_cmp(&b.time.p50);
    rows.iter().min_by(by_time).unwrap_or(&rows[0])
}

/// How many times faster the fastest is than the chosen one.
fn gain(rows: &[Row]) -> f32 {
    rows[0].time.p50 / fastest(rows).time.p50
}
