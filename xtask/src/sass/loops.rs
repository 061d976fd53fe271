//! Loops of machine code, and how many exponentials they spend on a 16-byte pack.
//!
//! A loop that contains no other and moves packs is a pass over a row. Of all ways through its body, the
//! one with most exponentials beyond its packs is looked for; instructions under a predicate count as
//! executed. The code also has ways that are never gone (two tests of one condition) and ways that store
//! element by element, so a pass is at fault where it is so by every measure: packs loaded or packs stored,
//! on the way itself or on the way with most of them. Twice as many exponentials are found by all.

use std::collections::{BTreeMap, BTreeSet};

use super::code::Instruction;

/// What a pass over a row does to a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// It is read.
    Reads,
    /// Its results are stored.
    Writes,
}

/// A pass over a row, by the ways once through its loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hot {
    pub pass: Pass,
    /// Stored on the way with most of them, or loaded where none is stored.
    pub packs: i64,
    /// On the way with most of them.
    pub exponentials: i64,
    /// Exponentials beyond those that the packs may have.
    pub excess: i64,
}

/// The passes over a row that have exponentials, by the worst way through each, in the order of their
/// addresses; a pack may have `allowed(pass)`.
pub fn hot_loops(code: &[Instruction], allowed: impl Fn(Pass) -> usize) -> Vec<Hot> {
    let graph = Graph::of(code);
    let loops = graph.loops();
    // The header of a loop within it would be in its body.
    let is_innermost = |header: usize, body: &BTreeSet<usize>| {
        body.iter().all(|block| *block == header || !loops.contains_key(block))
    };
    let hot = loops.iter().filter_map(|(&header, body)| {
        if !is_innermost(header, body) {
            return None;
        }
        let any = |test: Test| {
            let instructions = body
                .iter()
                .flat_map(|&block| &code[graph.blocks[block].from..graph.blocks[block].to]);
            instructions.filter(|instruction| test(instruction)).count() > 0
        };
        if !any(Instruction::is_exponential) {
            return None;
        }
        let (pass, counted): (_, &[Test]) = match (any(loads), any(stores)) {
            (false, false) => return None,
            (true, false) => (Pass::Reads, &[loads]),
            (false, true) => (Pass::Writes, &[stores]),
            (true, true) => (Pass::Writes, &[stores, loads]),
        };
        let allowed = allowed(pass) as i64;
        let most = |weigh: &dyn Fn(&Instruction) -> i64| graph.most(code, header, body, weigh);
        let exponentials = most(&|one| one.is_exponential().into());
        let measures = counted.iter().flat_map(|is_pack| {
            let beyond =
                most(&|one| i64::from(one.is_exponential()) - allowed * i64::from(is_pack(one)));
            [beyond, exponentials - allowed * most(&|one| is_pack(one).into())]
        });
        let excess = measures.min()?;
        Some(Hot { pass, packs: most(&|one| counted[0](one).into()), exponentials, excess })
    });
    hot.collect()
}

type Test = fn(&Instruction) -> bool;

/// Of packs of a row, from wherever they are.
fn loads(instruction: &Instruction) -> bool {
    ["LDG", "LDS", "LD"].contains(&instruction.operation()) && instruction.is_wide()
}

/// Of packs of a gradient.
fn stores(instruction: &Instruction) -> bool {
    ["STG", "ST"].contains(&instruction.operation()) && instruction.is_wide()
}

/// Instructions that follow each other.
struct Block {
    from: usize,
    to: usize,
    next: Vec<usize>,
}

struct Graph {
    blocks: Vec<Block>,
}

impl Graph {
    fn of(code: &[Instruction]) -> Self {
        let position: BTreeMap<u64, usize> =
            code.iter().enumerate().map(|(at, instruction)| (instruction.address, at)).collect();
        let goes_to =
            |at: usize| code[at].target().and_then(|target| position.get(&target)).copied();
        let mut leaders = BTreeSet::from([0]);
        for (at, instruction) in code.iter().enumerate() {
            if goes_to(at).is_some() || instruction.ends_flow() {
                leaders.extend(goes_to(at));
                leaders.insert(at + 1);
            }
        }
        let starts: Vec<usize> = leaders.into_iter().filter(|&at| at < code.len()).collect();
        let block_at: BTreeMap<usize, usize> =
            starts.iter().enumerate().map(|(block, &at)| (at, block)).collect();
        let ends = starts.iter().skip(1).copied().chain([code.len()]);
        let blocks = starts.iter().zip(ends).map(|(&from, to)| {
            let follows = if code[to - 1].ends_flow() { None } else { block_at.get(&to) };
            let jumps = goes_to(to - 1).and_then(|at| block_at.get(&at));
            let next: BTreeSet<usize> = follows.into_iter().chain(jumps).copied().collect();
            Block { from, to, next: next.into_iter().collect() }
        });
        Self { blocks: blocks.collect() }
    }

    /// Bodies of natural loops by their first block.
    fn loops(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut before = vec![vec![]; self.blocks.len()];
        for (at, block) in self.blocks.iter().enumerate() {
            for &next in &block.next {
                before[next].push(at);
            }
        }
        let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (at, block) in self.blocks.iter().enumerate() {
            for &header in block.next.iter().filter(|&&next| next <= at) {
                let mut body = BTreeSet::from([header]);
                let mut open = vec![at];
                while let Some(block) = open.pop() {
                    if body.insert(block) {
                        open.extend(&before[block]);
                    }
                }
                // One that is entered elsewhere, too, is none: its body reaches the kernel's start.
                if header == 0 || !body.contains(&0) {
                    loops.entry(header).or_default().extend(body);
                }
            }
        }
        loops
    }

    /// The greatest weight of a way once through a loop without loops.
    fn most(
        &self,
        code: &[Instruction],
        header: usize,
        body: &BTreeSet<usize>,
        weigh: &dyn Fn(&Instruction) -> i64,
    ) -> i64 {
        let mut order = vec![];
        self.finish(header, header, body, &mut BTreeSet::new(), &mut order);
        let mut most: BTreeMap<usize, i64> = BTreeMap::new();
        // Blocks in the order in which they finish: all that follow one are known before it.
        for block in order {
            let Block { from, to, next } = &self.blocks[block];
            let own: i64 = code[*from..*to].iter().map(weigh).sum();
            let returns = next.contains(&header).then_some(0);
            let behind = next.iter().filter(|&&next| next != header);
            let behind = behind.filter_map(|next| most.get(next)).copied().chain(returns);
            if let Some(rest) = behind.max() {
                most.insert(block, own + rest);
            }
        }
        most.get(&header).copied().unwrap_or(0)
    }

    fn finish(
        &self,
        block: usize,
        header: usize,
        body: &BTreeSet<usize>,
        seen: &mut BTreeSet<usize>,
        order: &mut Vec<usize>,
    ) {
        if !seen.insert(block) {
            return;
        }
        for &next in &self.blocks[block].next {
            if next != header && body.contains(&next) {
                self.finish(next, header, body, seen, order);
            }
        }
        order.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::parse;
    use super::*;

    fn hot(lines: &[&str]) -> Vec<Hot> {
        let numbered = lines.iter().enumerate();
        let body: Vec<String> =
            numbered.map(|(at, line)| format!("/*{:04x}*/ {line} ;", 16 * at)).collect();
        let text = format!("Function : a\n{}\n", body.join("\n"));
        hot_loops(&parse(&text)["a"], |pass| match pass {
            Pass::Reads => 3,
            Pass::Writes => 2,
        })
    }

    #[test]
    fn a_way_that_spends_more_is_found() {
        let exp = "MUFU.EX2 R0, R0";
        let found = hot(&[
            "MOV R0, R1",
            // 0x10: the loop.
            "LDG.E.128 R4, [R2.64]",
            exp,
            exp,
            "@P0 BRA 0x60",
            exp,
            // 0x60: both ways meet.
            exp,
            "@P1 BRA 0x10",
            "EXIT",
        ]);
        let pass = Pass::Reads;
        assert_eq!(found, [Hot { pass, packs: 1, exponentials: 4, excess: 1 }]);
    }

    #[test]
    fn two_ways_are_not_added() {
        let exp = "MUFU.EX2 R0, R0";
        let found = hot(&[
            // 0x00: one way or the other.
            "@P0 BRA 0x40",
            exp,
            exp,
            "BRA 0x60",
            exp,
            exp,
            // 0x60
            "STG.E.128 [R2.64], R4",
            "@P1 BRA 0x0",
            "EXIT",
        ]);
        let pass = Pass::Writes;
        assert_eq!(found, [Hot { pass, packs: 1, exponentials: 2, excess: 0 }]);
    }

    #[test]
    fn loops_around_loops_are_no_passes() {
        let exp = "MUFU.EX2 R0, R0";
        let found = hot(&[
            exp,
            "LDG.E.128 R4, [R2.64]",
            // 0x20: a loop of its own.
            exp,
            "@P0 BRA 0x20",
            "@P1 BRA 0x0",
            "EXIT",
        ]);
        assert_eq!(found, []);
    }
}
