//! The part of the classifier that stays on the host: dense layers with ReLU between them, and the
//! optimiser. f32 throughout.

use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};
use rand::{Rng, RngExt};

/// `outputs = inputs * weights + bias`. Also holds gradients and velocities of the same shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[inputs, outputs]`.
    weights: Array2<f32>,
    bias: Array1<f32>,
}

impl Dense {
    /// Uniform weights of variance 2 / inputs, which keeps the scale of what ReLUs pass on
    /// (He et al. 2015, <https://arxiv.org/abs/1502.01852>).
    fn random(inputs: usize, outputs: usize, rng: &mut impl Rng) -> Self {
        let limit = (6.0 / inputs as f32).sqrt();
        Self {
            weights: Array2::from_shape_simple_fn((inputs, outputs), || {
                rng.random_range(-limit..limit)
            }),
            bias: Array1::zeros(outputs),
        }
    }

    fn zeros_like(other: &Self) -> Self {
        Self { weights: Array2::zeros(other.weights.dim()), bias: Array1::zeros(other.bias.dim()) }
    }

    fn forward(&self, inputs: &Array2<f32>) -> Array2<f32> {
        inputs.dot(&self.weights) + &self.bias
    }
}

/// Dense layers with ReLU between them: a linear softmax classifier if there is one, an MLP if
/// there are more.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    layers: Vec<Dense>,
}

/// What a pass through the network leaves behind.
pub struct Forward {
    /// The inputs of each layer.
    inputs: Vec<Array2<f32>>,
    /// `[rows, classes]`.
    pub logits: Array2<f32>,
}

impl Network {
    /// `widths` are those of the inputs, of the hidden layers, and of the logits.
    pub fn random(widths: &[usize], rng: &mut impl Rng) -> Self {
        let layers = widths.windows(2).map(|ends| Dense::random(ends[0], ends[1], rng)).collect();
        Self { layers }
    }

    pub fn forward(&self, rows: ArrayView2<'_, f32>) -> Forward {
        let mut inputs = Vec::with_capacity(self.layers.len());
        let mut last = rows.to_owned();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                last.mapv_inplace(|value| value.max(0.0));
            }
            let outputs = layer.forward(&last);
            inputs.push(last);
            last = outputs;
        }
        Forward { inputs, logits: last }
    }

    /// The gradient of every layer, from the gradient with respect to the logits.
    pub fn backward(&self, forward: &Forward, logits_gradient: Array2<f32>) -> Vec<Dense> {
        let mut gradients = Vec::with_capacity(self.layers.len());
        let mut outputs = logits_gradient;
        for (index, (layer, inputs)) in self.layers.iter().zip(&forward.inputs).enumerate().rev() {
            gradients
                .push(Dense { weights: inputs.t().dot(&outputs), bias: outputs.sum_axis(Axis(0)) });
            if index > 0 {
                outputs = outputs.dot(&layer.weights.t());
                // The inputs are those after the ReLU: zero where it let nothing through.
                Zip::from(&mut outputs).and(inputs).for_each(|gradient, &input| {
                    if input <= 0.0 {
                        *gradient = 0.0;
                    }
                });
            }
        }
        gradients.reverse();
        gradients
    }
}

/// Gradient descent with momentum (Polyak 1964, in the form of Sutskever et al. 2013 that PyTorch
/// uses): `velocity = momentum * velocity + gradient`, `parameter -= learning_rate * velocity`.
pub struct Sgd {
    learning_rate: f32,
    momentum: f32,
    velocities: Vec<Dense>,
}

impl Sgd {
    pub fn new(network: &Network, learning_rate: f32, momentum: f32) -> Self {
        let velocities = network.layers.iter().map(Dense::zeros_like).collect();
        Self { learning_rate, momentum, velocities }
    }

    pub fn step(&mut self, network: &mut Network, gradients: &[Dense]) {
        let (learning_rate, momentum) = (self.learning_rate, self.momentum);
        let update = |parameter: &mut f32, velocity: &mut f32, &gradient: &f32| {
            *velocity = momentum * *velocity + gradient;
            *parameter -= learning_rate * *velocity;
        };
        let layers = network.layers.iter_mut().zip(&mut self.velocities).zip(gradients);
        for ((layer, velocity), gradient) in layers {
            Zip::from(&mut layer.weights)
                .and(&mut velocity.weights)
                .and(&gradient.weights)
                .for_each(update);
            Zip::from(&mut layer.bias).and(&mut velocity.bias).and(&gradient.bias).for_each(update);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use rand::{SeedableRng, rngs::ChaCha8Rng};
    use smoothxent::reference;

    use super::*;

    const LABELS: [i64; 5] = [0, 2, 1, 2, 0];

    /// Mean loss with smoothing 0.1 and its gradient, from the crate's f64 reference.
    fn loss(logits: &Array2<f32>) -> (f64, Array2<f32>) {
        let options = reference::Options {
            label_smoothing: 0.1,
            ignore_index: None,
            reduction: reference::Reduction::Mean,
            upstream: &[],
        };
        let wide: Vec<f64> = logits.iter().copied().map(f64::from).collect();
        let outcome = reference::forward_backward(&wide, logits.ncols(), &LABELS, &options);
        let gradient = outcome.gradient.iter().map(|&value| value as f32).collect();
        (outcome.loss, Array2::from_shape_vec(logits.dim(), gradient).unwrap())
    }

    #[test]
    fn gradient_of_the_mlp_agrees_with_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let network = Network::random(&[4, 6, 3], &mut rng);
        let rows = Array2::from_shape_simple_fn((LABELS.len(), 4), || rng.random_range(-1.0..1.0));
        let forward = network.forward(rows.view());
        let gradients = network.backward(&forward, loss(&forward.logits).1);

        // Where the difference is largest, f32 logits leave about 1e-7 / STEP of noise, and a
        // second derivative of order 1 leaves STEP^2.
        const STEP: f32 = 1e-2;
        const TOLERANCE: f64 = 2e-4;
        let difference = |change: &dyn Fn(&mut Network, f32)| {
            let at = |step: f32| {
                let mut moved = network.clone();
                change(&mut moved, step);
                loss(&moved.forward(rows.view()).logits).0
            };
            (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP))
        };
        for (index, gradient) in gradients.iter().enumerate() {
            for (place, &exact) in gradient.weights.indexed_iter() {
                let found = difference(&|net, step| net.layers[index].weights[place] += step);
                let exact = f64::from(exact);
                assert!((found - exact).abs() < TOLERANCE, "{index} {place:?} {found} {exact}");
            }
            for (place, &exact) in gradient.bias.indexed_iter() {
                let found = difference(&|net, step| net.layers[index].bias[place] += step);
                let exact = f64::from(exact);
                assert!((found - exact).abs() < TOLERANCE, "{index} {place} {found} {exact}");
            }
        }
    }

    #[test]
    fn momentum_adds_up() {
        let layer = Dense { weights: array![[1.0]], bias: array![0.0] };
        let mut network = Network { layers: vec![layer] };
        let gradient = [Dense { weights: array![[2.0]], bias: array![0.0] }];
        let mut sgd = Sgd::new(&network, 0.25, 0.5);
        sgd.step(&mut network, &gradient);
        assert_eq!(network.layers[0].weights[[0, 0]], 0.5);
        sgd.step(&mut network, &gradient);
        assert_eq!(network.layers[0].weights[[0, 0]], -0.25);
    }
}
