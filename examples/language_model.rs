//! The loss of a language model's head: bf16 logits that the gradient overwrites, padding that costs nothing,
//! a loss for each token, and how many tokens were predicted.
//!
//! `cargo run --release --example language_model`

use smoothxent::{
    Gradient, Kernels, LossConfig, LossInputs, LossOutputs, Shape, Workspace, half::bf16, loss,
};

/// GPT-2's: odd, so that rows begin anywhere.
const VOCABULARY: usize = 50_257;
const PADDING: i64 = -100;
/// Tokens of two sentences, and the longest.
const LENGTHS: [usize; 2] = [5, 3];
const LONGEST: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens = LENGTHS.len() * LONGEST;
    let targets: Vec<i64> = (0..tokens)
        .map(|token| {
            let (sentence, position) = (token / LONGEST, token % LONGEST);
            if position < LENGTHS[sentence] { (1000 + 31 * token) as i64 } else { PADDING }
        })
        .collect();
    let (logits, predictions) = head(&targets);

    let context = smoothxent::open(0)?;
    let stream = context.default_stream();
    let kernels = Kernels::load(&context)?;
    let mut workspace = Workspace::new(&stream, tokens)?;
    // The only buffer of this size: logits before, their gradient after.
    let mut logits = stream.clone_htod(&logits)?;
    let targets_there = stream.clone_htod(&targets)?;
    let mut loss = stream.alloc_zeros::<f32>(1)?;
    let mut token_losses = stream.alloc_zeros::<f32>(tokens)?;
    let mut argmax = stream.alloc_zeros::<i64>(tokens)?;
    let mut correct = stream.alloc_zeros::<i64>(1)?;

    let config =
        LossConfig { label_smoothing: 0.1, ignore_index: Some(PADDING), ..LossConfig::default() };
    let inputs = LossInputs::in_place(Shape::contiguous(tokens, VOCABULARY), &targets_there);
    let outputs = LossOutputs {
        loss: Some(&mut loss),
        row_losses: Some(&mut token_losses),
        row_argmax: Some(&mut argmax),
        correct: Some(&mut correct),
        ..LossOutputs::default()
    };
    let to = Gradient::new(&mut logits);
    loss::forward_backward(&kernels, &stream, config, inputs, outputs, to, &mut workspace)?;
    workspace.take_status(&stream)?;

    let gradient = stream.clone_dtoh(&logits)?;
    let (loss, correct) = (stream.clone_dtoh(&loss)?[0], stream.clone_dtoh(&correct)?[0]);
    let (token_losses, argmax) = (stream.clone_dtoh(&token_losses)?, stream.clone_dtoh(&argmax)?);

    println!("token  target  predicted    loss  gradient at the target");
    let rows = gradient.chunks(VOCABULARY);
    for (token, (row, &target)) in rows.zip(&targets).enumerate() {
        let (predicted, loss) = (argmax[token], token_losses[token]);
        if target == PADDING {
            println!("{token:5} padding          -  {loss:6.3}");
            assert!(loss == 0.0 && predicted == -1 && row.iter().all(|g| g.to_f32() == 0.0));
        } else {
            let at_target = row[target as usize].to_f32();
            println!("{token:5} {target:7} {predicted:10}  {loss:6.3}  {at_target:22.5}");
            // Less loss lies where the target's logit is larger.
            assert!(predicted == predictions[token] && at_target < 0.0);
        }
    }
    let counted = targets.iter().filter(|&&target| target != PADDING).count();
    println!("{correct} of {counted} tokens predicted, mean loss {loss:.4}");
    let right = targets.iter().zip(&argmax).filter(|(target, argmax)| target == argmax).count();
    assert_eq!((counted, correct), (8, right as i64));
    let mean = token_losses.iter().sum::<f32>() / counted as f32;
    assert_eq!(format!("{loss:.4}"), format!("{mean:.4}"));
    Ok(())
}

/// What a model's last layer could have written, and which token has its largest logit: every other time the
/// target.
fn head(targets: &[i64]) -> (Vec<bf16>, Vec<i64>) {
    let mut logits: Vec<bf16> = (0..targets.len() * VOCABULARY)
        .map(|i| bf16::from_f32((i * 7919 % 1009) as f32 / 200.0 - 2.5))
        .collect();
    let mut predictions = vec![0; targets.len()];
    for (token, &target) in targets.iter().enumerate() {
        let predicted = if token % 2 == 0 { target.max(0) } else { 40_000 + token as i64 };
        logits[token * VOCABULARY + predicted as usize] = bf16::from_f32(12.0);
        predictions[token] = predicted;
    }
    (logits, predictions)
}
