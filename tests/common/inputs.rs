//! Inputs that hide nothing: no short period, outliers, never near-uniform rows alone.

use smoothxent::problem::Dtype;

/// A well-mixed 64-bit hash (the finaliser of SplitMix64): the same inputs on every machine.
pub fn hash(seed: u64, index: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(index.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform within 0..1.
pub fn unit(seed: u64, index: u64) -> f64 {
    (hash(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// Logits within -8..8 with an outlier up to +-40 in every 61 elements, rounded to the dtype.
pub fn logits(dtype: Dtype, rows: usize, classes: usize, seed: u64) -> Vec<f32> {
    (0..rows * classes)
        .map(|i| {
            let spread = if hash(seed ^ 0xabcd, i as u64).is_multiple_of(61) { 80.0 } else { 16.0 };
            round(dtype, ((unit(seed, i as u64) - 0.5) * spread) as f32)
        })
        .collect()
}

/// Class indices, the first and the last class among them where there are rows for it.
pub fn targets(rows: usize, classes: usize, seed: u64) -> Vec<i64> {
    (0..rows as u64)
        .map(|row| match row {
            0 => classes as i64 - 1,
            1 => 0,
            _ => (hash(seed ^ 0x5a5a, row) % classes as u64) as i64,
        })
        .collect()
}

/// Within 0..2, a seventh of them 0.
pub fn class_weights(classes: usize, seed: u64) -> Vec<f32> {
    (0..classes as u64)
        .map(|k| match hash(seed ^ 0x3c3c, k) % 7 {
            0 => 0.0,
            _ => 2.0 * unit(seed ^ 0x77, k) as f32,
        })
        .collect()
}

/// Rows of probabilities, rounded to the dtype: spread, nearly one-hot, exactly one-hot, and not of sum
/// 1, in turns; a ninth of the elements 0.
pub fn probabilities(dtype: Dtype, rows: usize, classes: usize, seed: u64) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * classes);
    for row in 0..rows as u64 {
        let hit = (hash(seed ^ 0x1234, row) % classes as u64) as usize;
        let of = |k: usize| {
            let i = row * classes as u64 + k as u64;
            if hash(seed ^ 0x9e9e, i).is_multiple_of(9) { 0.0 } else { unit(seed ^ 0x4242, i) }
        };
        let sum = (0..classes).map(of).sum::<f64>().max(1e-3);
        all.extend((0..classes).map(|k| {
            let spread = of(k) / sum;
            let one = if k == hit { 1.0 } else { 0.0 };
            let q = match row % 4 {
                0 => spread,
                1 => 0.01 * spread + 0.99 * one,
                2 => one,
                _ => 1.7 * spread,
            };
            round(dtype, q as f32)
        }));
    }
    all
}

/// To the nearest value of the dtype.
pub fn round(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F32 => value,
        Dtype::F16 => half::f16::from_f32(value).to_f32(),
        Dtype::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}
