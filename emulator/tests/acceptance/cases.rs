//! The kernels of tests/kernels, the shapes they run on, and what they compute.
//!
//! Inputs are small integers, so that sums are exact in any order and results compare bit for bit.

use std::path::PathBuf;

use cuda_emulator::context::LaunchConfig;

use super::compile::Source;
use super::rig::{Failure, Rig};

/// One kernel.
#[derive(Debug)]
pub struct Case {
    /// In tests/kernels.
    pub file: &'static str,
    /// What it is compiled for.
    pub architecture: &'static str,
    /// Its name.
    pub kernel: &'static str,
    /// What to run.
    pub runs: fn() -> Vec<Run>,
}

type Check = dyn Fn(&Rig) -> Result<(), Failure>;

/// One shape of a kernel.
pub struct Run {
    /// The shape in words.
    pub name: String,
    /// Launches it and compares the result.
    pub check: Box<Check>,
}

impl Run {
    fn new(name: String, check: impl Fn(&Rig) -> Result<(), Failure> + 'static) -> Self {
        Self { name, check: Box::new(check) }
    }
}

impl Case {
    /// `file::kernel`
    pub fn name(&self) -> String {
        format!("{}::{}", self.file.trim_end_matches(".cu"), self.kernel)
    }

    /// The source as it is.
    pub fn source(&self) -> Result<Source, String> {
        Source::read(&folder(), self.file)
    }
}

/// Where the kernels are.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

const fn case(
    file: &'static str,
    architecture: &'static str,
    kernel: &'static str,
    runs: fn() -> Vec<Run>,
) -> Case {
    Case { file, architecture, kernel, runs }
}

/// All of them.
pub const CASES: [Case; 15] = [
    case("pipeline.cu", "90", "scale_rows", scale_rows),
    case("cluster.cu", "90", "normalize_rows", normalize_rows),
    case("cluster.cu", "90", "sum_rows", sum_rows),
    case("multicast.cu", "90a", "weigh_rows", weigh_rows),
    case("ampere.cu", "80", "square_sums", square_sums),
    case("block.cu", "75", "row_statistics", row_statistics),
    case("block.cu", "75", "short_rows", short_rows),
    case("block.cu", "75", "warp_exchange", warp_exchange),
    case("block.cu", "75", "mirror_sums", mirror_sums),
    case("block.cu", "75", "scale_vector", scale_vector),
    case("block.cu", "75", "first_column", first_column),
    case("block.cu", "75", "count_values", count_values),
    case("grid.cu", "75", "split_row_sums", split_row_sums),
    case("grid.cu", "75", "block_prefixes", block_prefixes),
    case("dependent.cu", "90", "smooth", smooth),
];

/// Integers within -8..=8 without a short period.
fn integers(seed: u64, count: usize) -> Vec<i32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) % 17) as i32 - 8
    };
    (0..count).map(|_| next()).collect()
}

fn floats(seed: u64, count: usize) -> Vec<f32> {
    integers(seed, count).into_iter().map(|value| value as f32).collect()
}

/// The sum of each row.
fn row_sums(values: &[f32], columns: usize) -> Vec<f32> {
    values.chunks_exact(columns).map(|row| row.iter().sum()).collect()
}

fn clusters(blocks: u32, size: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { cluster: [size, 1, 1], ..LaunchConfig::linear(blocks, threads) }
}

fn scale_rows() -> Vec<Run> {
    // The second block of two has nine tiles in three stages, the last of each row a short one.
    [(1, 4, 1), (5, 2052, 2), (3, 1536, 1), (7, 512, 1), (4, 516, 3)]
        .map(|(rows, columns, blocks): (u32, u32, u32)| {
            Run::new(format!("{rows} x {columns}, {blocks} blocks"), move |rig| {
                let (r, c) = (rows as usize, columns as usize);
                let values = floats(1, r * c);
                let input = rig.upload(&values)?;
                let (output, sums) = (rig.allocate(r * c)?, rig.allocate(r)?);
                let config = LaunchConfig::linear(blocks, 160);
                let parameters = [
                    input.into(),
                    output.into(),
                    sums.into(),
                    3f32.into(),
                    rows.into(),
                    columns.into(),
                ];
                rig.launch("scale_rows", &config, &parameters)?;
                let scaled: Vec<f32> = values.iter().map(|x| 3.0 * x).collect();
                rig.expect("output", output, &scaled)?;
                rig.expect("sums", sums, &row_sums(&values, c))
            })
        })
        .into()
}

/// Cluster size, clusters, rows, columns: several rows for each cluster, ragged and tiny slices.
const CLUSTERS: [(u32, u32, u32, u32); 5] =
    [(2, 1, 3, 1000), (4, 1, 3, 515), (8, 1, 4, 2048), (8, 2, 5, 1030), (4, 2, 1, 3)];

fn normalize_rows() -> Vec<Run> {
    CLUSTERS
        .map(|(size, count, rows, columns)| {
            let name = format!("{rows} x {columns}, {count} clusters of {size}");
            Run::new(name, move |rig| {
                let (r, c) = (rows as usize, columns as usize);
                let values: Vec<f32> = floats(2, r * c).iter().map(|x| x + 9.0).collect();
                let input = rig.upload(&values)?;
                let output = rig.allocate(r * c)?;
                let parameters = [input.into(), output.into(), rows.into(), columns.into()];
                rig.launch("normalize_rows", &clusters(size * count, size, 128), &parameters)?;
                let sums = row_sums(&values, c);
                let expected: Vec<f32> =
                    values.iter().enumerate().map(|(at, x)| x / sums[at / c]).collect();
                rig.expect("output", output, &expected)
            })
        })
        .into()
}

fn sum_rows() -> Vec<Run> {
    CLUSTERS
        .map(|(size, count, rows, columns)| {
            let name = format!("{rows} x {columns}, {count} clusters of {size}");
            Run::new(name, move |rig| {
                let (r, c) = (rows as usize, columns as usize);
                let values = floats(3, r * c);
                let input = rig.upload(&values)?;
                let sums = rig.allocate(r)?;
                let parameters = [input.into(), sums.into(), rows.into(), columns.into()];
                rig.launch("sum_rows", &clusters(size * count, size, 128), &parameters)?;
                rig.expect("sums", sums, &row_sums(&values, c))
            })
        })
        .into()
}

fn weigh_rows() -> Vec<Run> {
    // Cluster size, rows, columns: up to seven tiles in two stages, and blocks without a row.
    [(2, 2, 3332), (4, 7, 3076), (8, 8, 1024), (2, 1, 4)]
        .map(|(size, rows, columns): (u32, u32, u32)| {
            Run::new(format!("{rows} x {columns}, clusters of {size}"), move |rig| {
                let (r, c) = (rows as usize, columns as usize);
                let (values, weights) = (floats(4, r * c), floats(5, c));
                let (input, factors) = (rig.upload(&values)?, rig.upload(&weights)?);
                let output = rig.allocate(r * c)?;
                let config = clusters(rows.next_multiple_of(size), size, 128);
                let parameters =
                    [input.into(), factors.into(), output.into(), rows.into(), columns.into()];
                rig.launch("weigh_rows", &config, &parameters)?;
                let expected: Vec<f32> =
                    values.iter().enumerate().map(|(at, x)| x * weights[at % c]).collect();
                rig.expect("output", output, &expected)
            })
        })
        .into()
}

fn square_sums() -> Vec<Run> {
    // Rows, columns, elements between rows, blocks. The last row ends where the buffer does.
    [(2, 4096, 0, 1), (3, 4099, 1, 2), (3, 1026, 6, 1), (2, 513, 3, 2), (4, 1, 3, 1)]
        .map(|(rows, columns, gap, blocks): (u32, u32, u32, u32)| {
            Run::new(format!("{rows} x {columns} + {gap}, {blocks} blocks"), move |rig| {
                let (c, stride) = (columns as usize, columns + gap);
                let mut values = floats(6, (rows * stride) as usize);
                values.truncate(values.len() - gap as usize);
                let input = rig.upload(&values)?;
                let sums = rig.allocate(rows as usize)?;
                let parameters =
                    [input.into(), sums.into(), rows.into(), columns.into(), stride.into()];
                rig.launch("square_sums", &LaunchConfig::linear(blocks, 128), &parameters)?;
                let expected: Vec<f32> = values
                    .chunks(stride as usize)
                    .map(|row| row[..c].iter().map(|x| x * x).sum())
                    .collect();
                rig.expect("sums", sums, &expected)
            })
        })
        .into()
}

fn row_statistics() -> Vec<Run> {
    [(3, 1000, 1, 128), (4, 33, 2, 64), (2, 1, 2, 32), (5, 2049, 1, 256)]
        .map(|(rows, columns, blocks, threads): (u32, u32, u32, u32)| {
            let name = format!("{rows} x {columns}, {blocks} blocks of {threads}");
            Run::new(name, move |rig| {
                let (r, c) = (rows as usize, columns as usize);
                // All below zero, and each row below the last: nothing left over is the largest.
                let values: Vec<f32> = floats(7, r * c)
                    .iter()
                    .enumerate()
                    .map(|(at, x)| x - 20.0 * (1 + at / c) as f32)
                    .collect();
                let input = rig.upload(&values)?;
                let (maxima, excess) = (rig.allocate(r)?, rig.allocate(r)?);
                let config = LaunchConfig::linear(blocks, threads);
                let parameters =
                    [input.into(), maxima.into(), excess.into(), rows.into(), columns.into()];
                rig.launch("row_statistics", &config, &parameters)?;
                let largest: Vec<f32> = values
                    .chunks_exact(c)
                    .map(|row| row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)))
                    .collect();
                let sums = row_sums(&values, c);
                let rest: Vec<f32> =
                    largest.iter().zip(sums).map(|(max, sum)| c as f32 * max - sum).collect();
                rig.expect("maxima", maxima, &largest)?;
                rig.expect("excess", excess, &rest)
            })
        })
        .into()
}

fn short_rows() -> Vec<Run> {
    [(5, 32), (7, 20), (4, 1), (3, 31)]
        .map(|(rows, columns): (u32, u32)| {
            Run::new(format!("{rows} x {columns}"), move |rig| {
                let values = integers(8, (rows * columns) as usize);
                let input = rig.upload(&values)?;
                let sums = rig.allocate(rows as usize)?;
                let parameters = [input.into(), sums.into(), rows.into(), columns.into()];
                let config = LaunchConfig::linear(rows.div_ceil(2), 64);
                rig.launch("short_rows", &config, &parameters)?;
                let expected: Vec<i32> =
                    values.chunks_exact(columns as usize).map(|row| row.iter().sum()).collect();
                rig.expect("sums", sums, &expected)
            })
        })
        .into()
}

fn warp_exchange() -> Vec<Run> {
    [(96, 64, 5), (32, 32, 1), (256, 128, 3)]
        .map(|(n, threads, rounds): (u32, u32, u32)| {
            let name = format!("{n} elements, {threads} threads, {rounds} rounds");
            Run::new(name, move |rig| {
                let values = integers(9, n as usize);
                let input = rig.upload(&values)?;
                let output = rig.allocate(n as usize)?;
                let parameters = [input.into(), output.into(), n.into(), rounds.into()];
                let config = LaunchConfig::linear(n.div_ceil(threads), threads);
                rig.launch("warp_exchange", &config, &parameters)?;
                let of = |at: usize| {
                    (1..=rounds as usize)
                        .map(|k| values[at / 32 * 32 + ((at % 32) ^ (k % 32))])
                        .sum()
                };
                let expected: Vec<i32> = (0..n as usize).map(of).collect();
                rig.expect("output", output, &expected)
            })
        })
        .into()
}

fn mirror_sums() -> Vec<Run> {
    [64, 64 * 2, 64 * 7]
        .map(|n: u32| {
            Run::new(format!("{n} elements"), move |rig| {
                let values = integers(10, n as usize);
                let input = rig.upload(&values)?;
                let output = rig.allocate(n as usize)?;
                let parameters = [input.into(), output.into(), n.into()];
                rig.launch("mirror_sums", &LaunchConfig::linear(1, 128), &parameters)?;
                let of = |at: usize| values[at] + values[at / 64 * 64 + 63 - at % 64];
                let expected: Vec<i32> = (0..n as usize).map(of).collect();
                rig.expect("output", output, &expected)
            })
        })
        .into()
}

fn scale_vector() -> Vec<Run> {
    let mut runs = Vec::new();
    for n in [0_u32, 1, 2, 3, 5, 1000, 1027] {
        for (from, to) in [(0_u32, 0_u32), (1, 1), (2, 2), (3, 3), (0, 1), (3, 2)] {
            let name = format!("{n} elements, offsets {from} and {to}");
            runs.push(Run::new(name, move |rig| {
                let values = floats(11, n as usize);
                let input = rig.allocate((n + from).max(1) as usize)?;
                rig.write(input + 4 * u64::from(from), &values)?;
                // Not written before the output begins, and nothing behind it.
                let output = rig.allocate((n + to).max(1) as usize)?;
                let parameters = [
                    (input + 4 * u64::from(from)).into(),
                    (output + 4 * u64::from(to)).into(),
                    3f32.into(),
                    n.into(),
                ];
                rig.launch("scale_vector", &LaunchConfig::linear(2, 64), &parameters)?;
                let expected: Vec<f32> = values.iter().map(|x| 3.0 * x).collect();
                rig.expect("output", output + 4 * u64::from(to), &expected)?;
                rig.expect("before the output", output, &vec![u32::MAX; to as usize])
            }));
        }
    }
    runs
}

fn first_column() -> Vec<Run> {
    // The last row begins beyond 2^32 bytes, or beyond 2^32 elements.
    [(40, 3), (3, 700_000_000), (4, 1_500_000_000)]
        .map(|(rows, stride): (u32, u32)| {
            Run::new(format!("{rows} rows, {stride} apart"), move |rig| {
                let values = integers(12, rows as usize);
                let input = rig.allocate((rows as usize - 1) * stride as usize + 1)?;
                for (row, value) in values.iter().enumerate() {
                    rig.write(input + 4 * row as u64 * u64::from(stride), &[*value])?;
                }
                let output = rig.allocate(rows as usize)?;
                let parameters = [input.into(), output.into(), rows.into(), stride.into()];
                rig.launch("first_column", &LaunchConfig::linear(2, 32), &parameters)?;
                rig.expect("output", output, &values)
            })
        })
        .into()
}

fn count_values() -> Vec<Run> {
    [(1000, 3, 64), (5, 1, 32), (257, 2, 96)]
        .map(|(n, blocks, threads): (u32, u32, u32)| {
            Run::new(format!("{n} values, {blocks} blocks of {threads}"), move |rig| {
                let values: Vec<u32> =
                    integers(13, n as usize).iter().map(|x| (x & 15) as u32).collect();
                let input = rig.upload(&values)?;
                let counts = rig.upload(&[0_u32; 16])?;
                let parameters = [input.into(), counts.into(), n.into()];
                rig.launch("count_values", &LaunchConfig::linear(blocks, threads), &parameters)?;
                let of = |bin| values.iter().filter(|&&value| value == bin).count() as u32;
                rig.expect("counts", counts, &(0..16).map(of).collect::<Vec<_>>())
            })
        })
        .into()
}

fn split_row_sums() -> Vec<Run> {
    // More blocks than threads, so that the last block's threads take several parts.
    [(3, 1000, 4), (2, 65, 2), (1, 7000, 100), (2, 5, 1)]
        .map(|(rows, columns, blocks): (u32, u32, u32)| {
            Run::new(format!("{rows} x {columns}, {blocks} blocks a row"), move |rig| {
                let r = rows as usize;
                let tickets = rig.upload(&vec![0_u32; r])?;
                // Twice, because the first launch has to leave the tickets as they were.
                for seed in [14, 15] {
                    let values = floats(seed, r * columns as usize);
                    let input = rig.upload(&values)?;
                    let (sums, parts) = (rig.allocate(r)?, rig.allocate(r * blocks as usize)?);
                    let config =
                        LaunchConfig { grid: [blocks, rows, 1], ..LaunchConfig::linear(1, 64) };
                    let parameters =
                        [input.into(), sums.into(), parts.into(), tickets.into(), columns.into()];
                    rig.launch("split_row_sums", &config, &parameters)?;
                    rig.expect("sums", sums, &row_sums(&values, columns as usize))?;
                }
                Ok(())
            })
        })
        .into()
}

fn block_prefixes() -> Vec<Run> {
    [1, 2, 9]
        .map(|blocks: u32| {
            Run::new(format!("{blocks} blocks"), move |rig| {
                let b = blocks as usize;
                let values = integers(16, 64 * b);
                let input = rig.upload(&values)?;
                let (prefixes, sums) = (rig.allocate(b)?, rig.allocate(b)?);
                let flags = rig.upload(&vec![0_u32; b])?;
                let parameters = [input.into(), prefixes.into(), sums.into(), flags.into()];
                rig.launch("block_prefixes", &LaunchConfig::linear(blocks, 64), &parameters)?;
                let expected: Vec<i32> =
                    (0..b).map(|block| values[..64 * block].iter().sum()).collect();
                rig.expect("prefixes", prefixes, &expected)
            })
        })
        .into()
}

fn smooth() -> Vec<Run> {
    [(1, 1), (100, 2), (300, 5)]
        .map(|(n, launches): (u32, u32)| {
            Run::new(format!("{n} elements, {launches} launches"), move |rig| {
                let weights = [1, 2, -1];
                let mut values = integers(17, n as usize);
                let (mut input, mut output) = (rig.upload(&values)?, rig.allocate(n as usize)?);
                let factors = rig.upload(&weights)?;
                let config = LaunchConfig::linear(n.div_ceil(64), 64);
                for launch in 0..launches {
                    let parameters = [input.into(), output.into(), factors.into(), n.into()];
                    let config = LaunchConfig { programmatic: launch > 0, ..config };
                    rig.launch("smooth", &config, &parameters)?;
                    std::mem::swap(&mut input, &mut output);
                    let at = |i: usize| values[i.min(n as usize - 1)];
                    values = (0..n as usize)
                        .map(|i| {
                            let (left, right) = (at(i.saturating_sub(1)), at(i + 1));
                            weights[0] * left + weights[1] * at(i) + weights[2] * right
                        })
                        .collect();
                }
                rig.expect("output", input, &values)
            })
        })
        .into()
}
