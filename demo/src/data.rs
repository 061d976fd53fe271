//! The digits: 1,797 images of 8x8 pixels, in the program itself. See `data/README.md`.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use ndarray::{Array2, ArrayView2, Axis};
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Digits that an image can show.
pub const CLASSES: usize = 10;

const FILE: &[u8] = include_bytes!("../data/digits.csv.gz");
/// Pixels count the inked points of a 4x4 square.
const INK_MAX: u8 = 16;
const TEST_IMAGES: usize = 450;
/// Independent of the training's seed, so that every run is tested on the same images.
const SPLIT_SEED: u64 = 0;

/// Images with what they show.
pub struct Digits {
    /// `[images, PIXELS]`, from 0 (paper) to 1 (ink).
    pixels: Array2<f32>,
    /// The type that the loss takes its targets in.
    labels: Vec<i64>,
}

impl Digits {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn pixels(&self) -> ArrayView2<'_, f32> {
        self.pixels.view()
    }

    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The images at `indices`, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            pixels: self.pixels.select(Axis(0), indices),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
        }
    }

    fn load() -> Result<Self> {
        let mut text = String::new();
        GzDecoder::new(FILE)
            .read_to_string(&mut text)
            .context("data/digits.csv.gz is damaged; restore it and build again")?;
        let mut pixels = Vec::new();
        let mut labels = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let (row, label) = parse(line)
                .with_context(|| format!("line {} of data/digits.csv.gz is damaged", index + 1))?;
            pixels.extend(row);
            labels.push(label);
        }
        Ok(Self { pixels: Array2::from_shape_vec((labels.len(), PIXELS), pixels)?, labels })
    }
}

/// 64 pixels and the digit, separated by commas.
fn parse(line: &str) -> Result<([f32; PIXELS], i64)> {
    let fields: Vec<u8> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
    ensure!(fields.len() == PIXELS + 1, "it has {} fields, not {}", fields.len(), PIXELS + 1);
    let digit = fields[PIXELS];
    ensure!(usize::from(digit) < CLASSES, "{digit} is not a digit");
    let mut pixels = [0.0; PIXELS];
    for (pixel, &ink) in pixels.iter_mut().zip(&fields) {
        ensure!(ink <= INK_MAX, "a pixel is {ink}, above {INK_MAX}");
        *pixel = f32::from(ink) / f32::from(INK_MAX);
    }
    Ok((pixels, i64::from(digit)))
}

/// A random 450 of the 1,797 images to test on, the rest to train on: 25 to 75 percent.
///
/// The same people wrote images of both parts (the file does not say who wrote which), so this is
/// easier than reading the hand of a stranger.
pub struct Split {
    pub train: Digits,
    pub test: Digits,
}

impl Split {
    pub fn load() -> Result<Self> {
        let all = Digits::load()?;
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(SPLIT_SEED));
        let (test, train) = order.split_at(TEST_IMAGES);
        Ok(Self { train: all.select(train), test: all.select(test) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(labels: &[i64]) -> [usize; CLASSES] {
        let mut counts = [0; CLASSES];
        for &label in labels {
            counts[label as usize] += 1;
        }
        counts
    }

    #[test]
    fn every_image_of_the_source_is_there() {
        let all = Digits::load().unwrap();
        assert_eq!(all.pixels.dim(), (1797, PIXELS));
        // As the source's own description counts them.
        assert_eq!(count(&all.labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert!(all.pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
        // The first image is a 0; its first row of pixels is 0 0 5 13 9 1 0 0.
        assert_eq!(all.labels[0], 0);
        assert_eq!(all.pixels[[0, 3]], 13.0 / 16.0);
    }

    #[test]
    fn no_image_is_in_both_parts_and_each_digit_is_in_both() {
        let all = Digits::load().unwrap();
        let split = Split::load().unwrap();
        assert_eq!((split.train.len(), split.test.len()), (1347, 450));
        let (train, test) = (count(&split.train.labels), count(&split.test.labels));
        let both: Vec<usize> = train.iter().zip(test).map(|(a, b)| a + b).collect();
        assert_eq!(both, count(&all.labels));
        assert!(test.iter().all(|&images| images > 20), "{test:?}");
        let sum = split.train.pixels.sum() + split.test.pixels.sum();
        assert_eq!(sum, all.pixels.sum());
    }

    #[test]
    fn damaged_lines_are_refused() {
        let zeros = |count: usize| vec!["0"; count].join(",");
        assert!(parse(&zeros(65)).is_ok());
        for bad in [zeros(64), zeros(66), zeros(64) + ",10", "17,".to_owned() + &zeros(64)] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
