//! How many blocks of each kernel are to share a multiprocessor: what the plan counts on, and what the
//! kernels were compiled for.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};

use crate::workspace;

/// The registers of a multiprocessor, of every architecture that kernels are compiled for.
const REGISTERS: u32 = 65_536;

/// Registers come in groups of so many a thread.
const REGISTER_GROUP: u32 = 8;

const WARP: u32 = 32;

/// Threads of the largest block, and blocks of that size on a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub threads: u32,
    pub blocks: u32,
}

impl Budget {
    /// The most registers of a thread that leave room for all of them.
    pub fn registers(&self) -> u32 {
        let threads = self.threads.next_multiple_of(WARP) * self.blocks;
        (REGISTERS / threads.max(1) / REGISTER_GROUP * REGISTER_GROUP).min(255)
    }
}

/// What the plan counts on: the table of families in src/plan/kernel.rs, by the part of a symbol between
/// `xent_` and the dtype, and the normalizer.
pub fn planned() -> Result<BTreeMap<String, Budget>> {
    let read = |path: &str| {
        let text = fs::read_to_string(workspace::root().join(path))
            .with_context(|| format!("cannot read {path}"))?;
        text.parse::<TokenStream>().ok().with_context(|| format!("{path} is not Rust"))
    };
    let kernels = read("src/plan/kernel.rs")?;
    let (abi, tuning) = (constants(read("src/abi.rs")?), constants(read("src/plan/tuning.rs")?));
    let constant = |from: &BTreeMap<String, u32>, name: &str| {
        from.get(name).copied().with_context(|| format!("{name} is no number that can be found"))
    };
    let mut budgets = BTreeMap::new();
    for (name, threads, blocks) in families(kernels).context(
        "src/plan/kernel.rs: `families!` is not lines of Name = \"name\", THREADS, BLOCKS;",
    )? {
        budgets.insert(name, Budget { threads: constant(&abi, &threads)?, blocks });
    }
    let threads = constant(&abi, "XENT_NORMALIZER_THREADS")?;
    let blocks = constant(&tuning, "NORMALIZER_BLOCKS_PER_MULTIPROCESSOR")?;
    budgets.insert("normalizer".to_owned(), Budget { threads, blocks });
    Ok(budgets)
}

/// Name, constant of its threads, and blocks of every line; none if the macro is not there or is not as it
/// is expected.
fn families(file: TokenStream) -> Option<Vec<(String, String, u32)>> {
    let tokens: Vec<TokenTree> = file.into_iter().collect();
    let body = tokens.windows(3).find_map(|window| match window {
        [TokenTree::Ident(name), TokenTree::Punct(bang), TokenTree::Group(body)]
            if *name == "families" && bang.as_char() == '!' =>
        {
            Some(body.stream())
        }
        _ => None,
    })?;
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let lines = tokens.split(|token| is(token, ';')).filter(|line| !line.is_empty());
    lines
        .map(|line| match line {
            [
                ..,
                _,
                equals,
                TokenTree::Literal(name),
                _,
                TokenTree::Ident(threads),
                _,
                TokenTree::Literal(blocks),
            ] if is(equals, '=') => {
                let name = name.to_string().trim_matches('"').to_owned();
                Some((name, threads.to_string(), number(&blocks.to_string())?))
            }
            _ => None,
        })
        .collect()
}

/// Every `const NAME: u32 = NUMBER`.
fn constants(file: TokenStream) -> BTreeMap<String, u32> {
    let tokens: Vec<TokenTree> = file.into_iter().collect();
    let constants = tokens.windows(5).filter_map(|window| match window {
        [TokenTree::Ident(name), _, TokenTree::Ident(u32), equals, TokenTree::Literal(literal)]
            if *u32 == "u32" && is(equals, '=') =>
        {
            Some((name.to_string(), number(&literal.to_string())?))
        }
        _ => None,
    });
    constants.collect()
}

fn is(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn number(literal: &str) -> Option<u32> {
    literal.replace('_', "").parse().ok()
}

/// What the kernels were compiled for: their `__launch_bounds__`, from `cuobjdump -ptx`. No blocks are asked
/// for where that is 0.
pub fn compiled(ptx: &str) -> BTreeMap<String, Budget> {
    let mut budgets: BTreeMap<String, Budget> = BTreeMap::new();
    let mut current = String::new();
    for line in ptx.lines().map(str::trim) {
        if let Some((_, name)) = line.split_once(".entry ") {
            current = name.trim_end_matches('(').to_owned();
            budgets.insert(current.clone(), Budget { threads: 0, blocks: 0 });
        } else if let Some(budget) = budgets.get_mut(&current) {
            let first = |text: &str| text.split(',').next().and_then(number);
            if let Some(threads) = line.strip_prefix(".maxntid ").and_then(first) {
                budget.threads = threads;
            } else if let Some(blocks) = line.strip_prefix(".minnctapersm ").and_then(first) {
                budget.blocks = blocks;
            }
        }
    }
    budgets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_the_plan() {
        let text = "macro_rules! families { ($a:tt) => {} }\n\
                    families! {\n/// Doc.\nFusedTiny = \"fused_tiny\", XENT_A, 7;\n\
                    FusedBlock = \"fused_block\", XENT_B, 2;\n}";
        let expected = [("fused_tiny", "XENT_A", 7), ("fused_block", "XENT_B", 2)]
            .map(|(name, threads, blocks)| (name.to_owned(), threads.to_owned(), blocks));
        assert_eq!(families(text.parse().unwrap()).unwrap(), expected);
        let other = "families! { FusedTiny = \"fused_tiny\", XENT_A; }";
        assert_eq!(families(other.parse().unwrap()), None);
    }

    #[test]
    fn the_plan_of_this_crate_is_found() {
        let budgets = planned().unwrap();
        assert_eq!(budgets["normalizer"].threads, 1024);
        assert!(budgets.len() > 20 && budgets.values().all(|budget| budget.registers() >= 64));
    }

    #[test]
    fn reads_launch_bounds() {
        let text = ".visible .entry xent_a(\n.param .u64 p\n)\n.maxntid 384, 1, 1\n.minnctapersm 2\n{\n\
                    .visible .entry xent_b(\n)\n.maxntid 128, 1, 1\n{\n";
        let budgets = compiled(text);
        assert_eq!(budgets["xent_a"], Budget { threads: 384, blocks: 2 });
        assert_eq!(budgets["xent_a"].registers(), 80);
        assert_eq!(budgets["xent_b"], Budget { threads: 128, blocks: 0 });
    }
}
