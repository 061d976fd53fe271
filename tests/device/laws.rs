//! What has to hold whatever the numbers are; cases are drawn by proptest and shrunk on failure.

use libtest_mimic::Trial;
use proptest::{
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use smoothxent::{
    Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms, Workspace,
    problem::{Dtype, TargetType},
};

use crate::{
    common::{
        compare,
        inputs::{class_weights, hash, unit},
        run::{Case, Form, Placement, Rig, UpstreamCase, check},
    },
    edges::DTYPES,
    trial,
};

pub fn trials() -> Vec<Trial> {
    vec![
        law("any_problem_is_within_budget", |case| check(&case).map(drop)),
        law("any_spread_problem_is_within_budget", |case| check(&spread(case)).map(drop)),
        law("one_hot_probabilities_are_a_class", one_hot),
        law("forward_and_backward_are_the_fused_call", |case| same_as_fused(&case, Form::Apart)),
        law("in_place_is_out_of_place", |case| same_as_fused(&case, Form::InPlace)),
        law("spread_forward_and_backward_are_the_fused_call", |case| {
            same_as_fused(&spread(case), Form::Apart)
        }),
        law("spread_in_place_is_out_of_place", |case| {
            same_as_fused(&spread(case), Form::ApartInPlace)
        }),
        law("adding_a_constant_to_a_row_changes_nothing", constant),
        law("gradient_rows_sum_to_zero", sum_to_zero),
        law("permuting_classes_permutes_gradients", permutation),
        law("smoothing_zero_is_plain_cross_entropy", plain),
        law("ignored_rows_change_nothing_else", ignored),
        law("one_row_ignored_of_two_is_one_row", one_of_two),
        law("same_launch_same_bits", same_bits),
        trial("laws::same_launch_same_bits_over_chunks", || {
            let config = LossConfig { ignore_index: Some(1), ..LossConfig::default() };
            same_bits(Case { config, ..Case::new(Dtype::Bf16, 8200, 5, 31) })
        }),
        law("index_types_agree", index_types),
        law("scalar_upstream_is_the_same_for_all_rows", scalar_upstream),
        law("placement_changes_no_loss", placement),
    ]
}

/// Enough to visit every branch, few enough for an interpreter.
const CASES: u32 = 40;

fn law(name: &str, holds: fn(Case) -> Result<(), String>) -> Trial {
    trial(format!("laws::{name}"), move || check_cases(CASES, cases(), holds))
}

/// How many cases each test draws instead of its own number, and from which seed: `cargo xtask fuzz` sets
/// them.
const CASES_VARIABLE: &str = "SMOOTHXENT_FUZZ_CASES";
const SEED_VARIABLE: &str = "SMOOTHXENT_FUZZ_SEED";

/// How many cases a test draws.
pub fn cases_to_draw(usual: u32) -> u32 {
    number(CASES_VARIABLE).map_or(usual, |count| u32::try_from(count).expect("that many cases"))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Draws so many values, or as many as are asked for, and holds each against a law; the first that fails is
/// shrunk.
pub fn check_cases<S: Strategy>(
    usual: u32,
    values: S,
    holds: impl Fn(S::Value) -> Result<(), String>,
) -> Result<(), String> {
    let cases = cases_to_draw(usual);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, deterministic());
    runner
        .run(&values, |value| holds(value).map_err(TestCaseError::fail))
        .map_err(|failure| failure.to_string())
}

/// The same cases on every machine, for each seed.
fn deterministic() -> TestRng {
    match number(SEED_VARIABLE) {
        None => TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        Some(seed) => {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
        }
    }
}

pub fn cases() -> impl Strategy<Value = Case> {
    let shape = (select(&DTYPES[..]), 1usize..7, 1usize..400, any::<u64>());
    let options = (
        prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64],
        select(&[Reduction::None, Reduction::Sum, Reduction::Mean][..]),
        prop_oneof![Just(None), Just(Some(-100i64)), Just(Some(0i64))],
    );
    let places = (0usize..9, 0usize..9, 0usize..3, 0usize..5, 0usize..5, 0usize..5);
    (shape, options, conventions(), places, 0u8..3).prop_map(
        |((dtype, rows, classes, seed), options, convention, places, upstream)| {
            let (label_smoothing, reduction, ignore_index) = options;
            let (mut convention, weighted) = convention;
            if classes == 1 {
                convention.smoothing = Smoothing::AllClasses;
            }
            let (logits_offset, gradient_offset, vector_offset, ..) = places;
            let (.., logits_padding, gradient_padding, targets_padding) = places;
            let mut case = Case {
                config: LossConfig { label_smoothing, ignore_index, reduction, ..convention },
                class_weights: weighted.then(|| class_weights(classes, seed)),
                placement: Placement {
                    logits_offset,
                    gradient_offset,
                    vector_offset,
                    logits_padding,
                    gradient_padding,
                    targets_padding,
                },
                ..Case::new(dtype, rows, classes, seed)
            };
            case.upstream = match upstream {
                0 => UpstreamCase::One,
                1 => UpstreamCase::Scalar(3.5),
                _ => UpstreamCase::PerRow(
                    (0..rows).map(|row| unit(seed, row as u64) as f32 * 4.0 - 2.0).collect(),
                ),
            };
            if let Some(ignore) = ignore_index.filter(|_| rows > 2) {
                case.targets[2] = ignore;
            }
            case
        },
    )
}

/// The options that most people never touch; half of the cases leave each alone.
fn conventions() -> impl Strategy<Value = (LossConfig, bool)> {
    let divisor = || {
        select(
            &[
                Divisor::TargetWeights,
                Divisor::CountedRows,
                Divisor::AllRows,
                Divisor::Given(0.7),
                Divisor::Given(123.0),
            ][..],
        )
    };
    let terms = (
        select(&[Smoothing::AllClasses, Smoothing::OtherClasses][..]),
        select(&[WeightedTerms::NllAndSmoothing, WeightedTerms::Nll, WeightedTerms::Smoothing][..]),
        any::<bool>(),
    );
    let divisors = (divisor(), divisor(), divisor());
    let divisors =
        divisors.prop_map(|(nll, smoothing, z_loss)| Divisors { nll, smoothing, z_loss });
    let numbers = (
        prop_oneof![Just(0.0), 0.0..1e-2f64],
        prop_oneof![Just(1.0), 0.25..4.0f64],
        prop_oneof![Just(None), (5.0..50.0f64).prop_map(Some)],
    );
    let empty_mean = select(&[EmptyMean::Nan, EmptyMean::Zero][..]);
    (terms, divisors, numbers, empty_mean).prop_map(|(terms, divisors, numbers, empty_mean)| {
        let (smoothing, weighted_terms, weighted) = terms;
        let (z_loss, logit_scale, logit_softcap) = numbers;
        let config = LossConfig {
            smoothing,
            weighted_terms,
            divisors,
            empty_mean,
            z_loss,
            logit_scale,
            logit_softcap,
            ..LossConfig::default()
        };
        (config, weighted)
    })
}

/// Bit for bit.
fn same_as_fused(case: &Case, form: Form) -> Result<(), String> {
    let other = case.run_form(form).map_err(|error| format!("{case}: {error}"))?;
    equal_bits(&run(case)?.bits(), &other.bits(), &format!("{form:?}"))
}

/// With target probabilities of some type.
pub fn spread(case: Case) -> Case {
    let targets = DTYPES[(case.classes + case.rows()) % 3];
    let seed = hash(case.classes as u64, 17);
    case.spread(targets, seed)
}

/// Probabilities that are 1 for one class say what its index says, where a mean is over the rows.
fn one_hot(mut case: Case) -> Result<(), String> {
    case.config.ignore_index = None;
    case.config.divisors = Divisors::all(Divisor::AllRows);
    case.targets.iter_mut().for_each(|t| *t = (*t).max(0));
    let expected = case.expected();
    let mut one_hot = vec![0.0; case.logits.len()];
    for (row, &y) in case.targets.iter().enumerate() {
        one_hot[row * case.classes + y as usize] = 1.0;
    }
    let case = Case { probabilities: Some(one_hot), ..spread(case) };
    let mut found = run(&case)?;
    // There is no class to be correct about.
    found.correct = None;
    compare::within_budget(&case, &found, &expected).map(drop)
}

/// Without what is not invariant under a shift of a row's logits.
fn shift_invariant(case: &mut Case) {
    case.config.z_loss = 0.0;
    case.config.logit_softcap = None;
}

fn run(case: &Case) -> Result<crate::common::run::Outcome, String> {
    case.run().map_err(|error| format!("{case}: {error}"))
}

fn equal_bits(a: &[u64], b: &[u64], what: &str) -> Result<(), String> {
    match a.iter().zip(b).position(|(a, b)| a != b) {
        None if a.len() == b.len() => Ok(()),
        None => Err(format!("{what}: {} results, then {}", a.len(), b.len())),
        Some(i) => Err(format!("{what}: result {i} differs: {:#x}, then {:#x}", a[i], b[i])),
    }
}

fn constant(mut case: Case) -> Result<(), String> {
    // Multiples of 1/8 within +-8 and a shift of 16: exact in every dtype.
    for x in &mut case.logits {
        *x = ((*x * 8.0).round() / 8.0).clamp(-8.0, 8.0);
    }
    shift_invariant(&mut case);
    let mut expected = case.expected();
    let mut shifted = case;
    for x in &mut shifted.logits {
        *x += 16.0;
    }
    for (lse, &target) in expected.row_lse.iter_mut().zip(&shifted.targets) {
        if shifted.config.ignore_index != Some(target) {
            *lse += 16.0 * shifted.config.logit_scale;
        }
    }
    let found = run(&shifted)?;
    compare::within_budget(&shifted, &found, &expected).map(drop)
}

fn sum_to_zero(mut case: Case) -> Result<(), String> {
    shift_invariant(&mut case);
    compare::rows_sum_to_zero(&case, &run(&case)?)
}

fn permutation(mut case: Case) -> Result<(), String> {
    // A target that lands on ignore_index would be another problem.
    if let Some(ignore) = case.config.ignore_index.replace(-100) {
        case.targets.iter_mut().filter(|t| **t == ignore).for_each(|t| *t = -100);
    }
    // Multiplying by a number coprime to the classes permutes them.
    let classes = case.classes;
    let step = (1..).map(|i| 2 * i + 1).find(|&step| coprime(step, classes)).unwrap_or(1);
    let place = |k: usize| k * step % classes;
    let original = case.expected();
    let (mut permuted, mut expected) = (case.clone(), original.clone());
    for (k, weight) in case.class_weights.iter().flatten().enumerate() {
        permuted.class_weights.as_mut().expect("it is a clone")[place(k)] = *weight;
    }
    for row in 0..case.rows() {
        for k in 0..classes {
            permuted.logits[row * classes + place(k)] = case.logits[row * classes + k];
            expected.gradient[row * classes + place(k)] = original.gradient[row * classes + k];
        }

        if case.config.ignore_index != Some(case.targets[row]) {
            permuted.targets[row] = place(case.targets[row] as usize) as i64;
        }
    }
    expected.row_argmax = permuted.expected().row_argmax;
    compare::within_budget(&permuted, &run(&permuted)?, &expected).map(drop)
}

fn coprime(a: usize, b: usize) -> bool {
    if b == 0 { a == 1 } else { coprime(b, a % b) }
}

fn plain(mut case: Case) -> Result<(), String> {
    shift_invariant(&mut case);
    case.config = LossConfig { label_smoothing: 0.0, logit_scale: 1.0, ..case.config };
    case.class_weights = None;
    let found = run(&case)?;
    let mut expected = case.expected();
    let inverse = case.inverse_divisors()[0];
    for (row, x) in case.logits.chunks_exact(case.classes).enumerate() {
        let target = case.targets[row];
        if case.config.ignore_index == Some(target) {
            continue;
        }
        // The textbook, without the oracle's care for small differences.
        let exps: Vec<f64> = x.iter().map(|&v| f64::from(v).exp()).collect();
        let sum: f64 = exps.iter().sum();
        expected.row_losses[row] = sum.ln() - f64::from(x[target as usize]);
        for (k, e) in exps.iter().enumerate() {
            let hit = if k as i64 == target { 1.0 } else { 0.0 };
            expected.gradient[row * case.classes + k] =
                case.upstream_of(row) * inverse * (e / sum - hit);
        }
    }
    compare::within_budget_of_textbook(&case, &found, &expected)
}

fn ignored(mut case: Case) -> Result<(), String> {
    case.config.reduction = Reduction::None;
    case.config.ignore_index = None;
    for (row, target) in case.targets.iter_mut().enumerate() {
        *target = (hash(11, row as u64) % case.classes as u64) as i64;
    }
    let all = run(&case)?;
    let classes = case.classes;
    let mut some = case;
    some.config.ignore_index = Some(i64::MIN);
    for row in (0..some.rows()).step_by(2) {
        some.targets[row] = i64::MIN;
    }
    let found = run(&some)?;
    for row in 0..some.rows() {
        let range = row * classes..(row + 1) * classes;
        let gradient: Vec<u64> =
            found.gradient[range.clone()].iter().map(|g| g.to_bits()).collect();
        if row % 2 == 0 {
            let zero = gradient.iter().all(|&bits| bits == 0);
            if !zero || found.row_losses[row].to_bits() != 0 || found.row_lse[row].to_bits() != 0 {
                return Err(format!("{some}: ignored row {row} is not exactly 0"));
            }
        } else {
            let before: Vec<u64> = all.gradient[range].iter().map(|g| g.to_bits()).collect();
            equal_bits(&gradient, &before, "a row beside an ignored one")?;
            equal_bits(
                &[found.row_losses[row].to_bits().into()],
                &[all.row_losses[row].to_bits().into()],
                "its loss",
            )?;
        }
    }
    Ok(())
}

fn one_of_two(case: Case) -> Result<(), String> {
    let classes = case.classes;
    let mut config =
        LossConfig { reduction: Reduction::Mean, ignore_index: Some(-100), ..case.config };
    let Divisors { nll, smoothing, z_loss } = &mut config.divisors;
    for divisor in [nll, smoothing, z_loss] {
        if *divisor == Divisor::AllRows {
            *divisor = Divisor::CountedRows;
        }
    }
    let upstream = UpstreamCase::Scalar(1.5);
    let one = Case {
        logits: case.logits[..classes].to_vec(),
        targets: vec![classes as i64 / 2],
        config,
        upstream,
        placement: Placement::PACKED,
        ..case
    };
    let mut two = one.clone();
    two.logits.extend(std::iter::repeat_n(f32::NAN, classes));
    two.targets.push(-100);
    let (found_one, found_two) = (run(&one)?, run(&two)?);
    let bits = |gradient: &[f64]| gradient.iter().map(|g| g.to_bits()).collect::<Vec<_>>();
    equal_bits(&bits(&found_one.gradient), &bits(&found_two.gradient[..classes]), "the gradient")?;
    let loss = |found: Option<f32>| [u64::from(found.map_or(0, f32::to_bits))];
    equal_bits(&loss(found_one.loss), &loss(found_two.loss), "the loss")
}

fn same_bits(case: Case) -> Result<(), String> {
    let rig = Rig::here();
    let failed = |error: smoothxent::Error| format!("{case}: {error}");
    let stream = rig.context.new_stream().map_err(|error| format!("{:?}", error.0))?;
    // Larger than needed, used before, and by another stream: none of it may show.
    let mut workspace = Workspace::new(&rig.stream, 8200).map_err(failed)?;
    let first = case.run_on(&rig.stream, Form::Fused, &mut workspace).map_err(failed)?;
    let again = case.run_on(&rig.stream, Form::Fused, &mut workspace).map_err(failed)?;
    let elsewhere = case.run_on(&stream, Form::Fused, &mut workspace).map_err(failed)?;
    equal_bits(&first.bits(), &again.bits(), "the second run")?;
    equal_bits(&first.bits(), &elsewhere.bits(), "another stream")
}

fn index_types(case: Case) -> Result<(), String> {
    // u32 has no negative ignore_index; 0 serves all.
    let targets = case.targets.iter().map(|&t| t.max(0)).collect();
    let ignore_index = case.config.ignore_index.map(|_| 0);
    let case = Case { targets, config: LossConfig { ignore_index, ..case.config }, ..case };
    let wide = run(&case)?;
    for target_type in [TargetType::I32, TargetType::U32] {
        let narrow = run(&Case { target_type, ..case.clone() })?;
        equal_bits(&wide.bits(), &narrow.bits(), "another index type")?;
    }
    Ok(())
}

fn scalar_upstream(case: Case) -> Result<(), String> {
    let scalar = run(&Case { upstream: UpstreamCase::Scalar(-0.7), ..case.clone() })?;
    let rows = case.rows();
    let per_row = run(&Case { upstream: UpstreamCase::PerRow(vec![-0.7; rows]), ..case })?;
    equal_bits(&scalar.bits(), &per_row.bits(), "one upstream for each row")
}

/// Losses do not depend on how the gradient lies, nor either of them on strides alone.
fn placement(case: Case) -> Result<(), String> {
    let pack = 16 / case.dtype.bytes();
    let moved = Placement {
        gradient_offset: case.placement.gradient_offset + 1,
        logits_offset: case.placement.logits_offset + pack,
        ..case.placement
    };
    let here = run(&case)?;
    let there = run(&Case { placement: moved, ..case })?;
    equal_bits(&here.bits(), &there.bits(), "another placement")
}
