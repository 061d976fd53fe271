//! The losses composed of candle's own f64 ops, for its autograd to differentiate.

use candle_core::{D, DType, Device, Result, Tensor};
use smoothxent_candle::{Divisor, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms};

/// Targets as a test has them.
#[derive(Clone, Debug)]
pub enum Targets {
    Indices(Vec<i64>),
    /// `[rows, classes]`.
    Probabilities(Vec<f64>),
}

/// A loss with its data, but for the logits.
#[derive(Clone, Debug)]
pub struct Composed {
    pub config: LossConfig,
    pub classes: usize,
    pub targets: Targets,
    pub class_weights: Option<Vec<f64>>,
}

impl Composed {
    fn rows(&self) -> usize {
        match &self.targets {
            Targets::Indices(indices) => indices.len(),
            Targets::Probabilities(all) => all.len() / self.classes,
        }
    }

    fn is_counted(&self, row: usize) -> bool {
        match &self.targets {
            Targets::Indices(indices) => self.config.ignore_index != Some(indices[row]),
            Targets::Probabilities(_) => true,
        }
    }

    fn weight(&self, class: usize, unweighted: WeightedTerms) -> f64 {
        match &self.class_weights {
            Some(weights) if self.config.weighted_terms != unweighted => weights[class],
            _ => 1.0,
        }
    }

    fn nll_weight(&self, class: usize) -> f64 {
        self.weight(class, WeightedTerms::Smoothing)
    }

    /// What the target keeps, and what each class gets.
    fn shares(&self) -> (f64, f64) {
        let (e, classes) = (self.config.label_smoothing, self.classes as f64);
        let others = match self.config.smoothing {
            Smoothing::AllClasses => return (1.0 - e, e / classes),
            Smoothing::OtherClasses => classes - 1.0,
            Smoothing::OtherClassesBut(excluded) => classes - 1.0 - excluded as f64,
        };
        (1.0 - e - e / others, e / others)
    }

    fn divisor(&self, divisor: Divisor) -> f64 {
        let counted: Vec<usize> = (0..self.rows()).filter(|&row| self.is_counted(row)).collect();
        match (self.config.reduction, divisor, &self.targets) {
            (Reduction::None | Reduction::Sum, ..) => 1.0,
            (_, Divisor::Given(number), _) => number,
            (_, Divisor::AllRows, _) => self.rows() as f64,
            (_, Divisor::TargetWeights, Targets::Indices(indices)) => {
                counted.iter().map(|&row| self.nll_weight(indices[row] as usize)).sum()
            }
            (_, Divisor::CountedRows | Divisor::TargetWeights, _) => counted.len() as f64,
        }
    }

    /// What multiplies each -log p_k: of the nll term, and of the smoothing term.
    fn coefficients(&self) -> (Vec<f64>, Vec<f64>) {
        let (keeps, gets) = self.shares();
        let (mut nll, mut smoothing) = (vec![], vec![]);
        for row in 0..self.rows() {
            let counted = f64::from(u8::from(self.is_counted(row)));
            for class in 0..self.classes {
                let q = match &self.targets {
                    Targets::Indices(indices) => f64::from(u8::from(indices[row] == class as i64)),
                    Targets::Probabilities(all) => all[row * self.classes + class],
                };
                nll.push(counted * keeps * q * self.nll_weight(class));
                smoothing.push(counted * gets * self.weight(class, WeightedTerms::Nll));
            }
        }
        (nll, smoothing)
    }

    /// Of `[.., classes]` f64 logits: a scalar, or `[..]` without a reduction.
    pub fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        let (rows, classes) = (self.rows(), self.classes);
        let config = &self.config;
        let x = (logits.reshape((rows, classes))? * config.logit_scale)?;
        let z = match config.logit_softcap {
            None => x,
            Some(cap) => ((x / cap)?.tanh()? * cap)?,
        };
        let max = z.max_keepdim(D::Minus1)?.detach();
        let lse = (z.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
        let minus_log_p = lse.broadcast_sub(&z)?;
        let matrix = |values| Tensor::from_vec(values, (rows, classes), &Device::Cpu);
        let (nll, smoothing) = self.coefficients();
        let counted = (0..rows).map(|row| f64::from(u8::from(self.is_counted(row)))).collect();
        let counted = Tensor::from_vec::<_, f64>(counted, rows, &Device::Cpu)?;
        let divided = |term: Tensor, divisor| term / self.divisor(divisor);
        let of_smoothing = match self.targets {
            Targets::Indices(_) => config.divisors.smoothing,
            Targets::Probabilities(_) => config.divisors.nll,
        };
        let nll = divided((&minus_log_p * matrix(nll)?)?.sum(1)?, config.divisors.nll)?;
        let smoothing = divided((&minus_log_p * matrix(smoothing)?)?.sum(1)?, of_smoothing)?;
        let z_loss = (lse.squeeze(1)?.sqr()? * counted)? * config.z_loss;
        let z_loss = divided(z_loss?, config.divisors.z_loss)?;
        let losses = ((nll + smoothing)? + z_loss)?;
        if config.reduction == Reduction::None {
            return losses.reshape(&logits.dims()[..logits.rank() - 1]);
        }
        assert_eq!(config.empty_mean, EmptyMean::Nan, "tests of empty means state their results");
        losses.sum_all()
    }

    /// As the adapter takes them, for logits of this shape.
    pub fn targets(&self, dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let (cpu, leading) = (Device::Cpu, &dims[..dims.len() - 1]);
        let targets = match &self.targets {
            Targets::Indices(all) => Tensor::from_slice(all, leading, &cpu)?,
            Targets::Probabilities(all) => Tensor::from_slice(all, dims, &cpu)?,
        };
        // On the CPU, because candle 0.11 has no cast to i32 on a GPU.
        targets.to_dtype(dtype)?.to_device(device)
    }

    /// The same, of what a dtype stores of probabilities.
    pub fn stored(mut self, dtype: DType) -> Result<Self> {
        if let Targets::Probabilities(all) = &mut self.targets {
            let stored = Tensor::from_slice(all, all.len(), &Device::Cpu)?.to_dtype(dtype)?;
            *all = stored.to_dtype(DType::F64)?.to_vec1()?;
        }
        Ok(self)
    }
}
