//! Published losses, evaluated by PyTorch in float64: `tests/data/golden`, or the folder that
//! `SMOOTHXENT_GOLDEN_DIR` names, which anyone can fill (tests/data/golden/README.md has the format).

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use libtest_mimic::Trial;
use safetensors::{SafeTensors, tensor::Dtype as Stored};
use serde::Deserialize;
use smoothxent::{
    BinaryConfig, Divisor, Divisors, LossConfig, OverClasses, Reduction, Smoothing,
    problem::{Dtype, TargetType},
    reference,
};

use crate::common::{
    compare, inputs,
    operations::{BinaryCase, LogSoftmaxCase},
    run::{Case, Placement, UpstreamCase, check as check_forms, selection},
};

/// Relative to the working directory, so that the program runs where it was not built.
const FOLDER: &str = "tests/data/golden";

#[derive(Clone, Debug, Deserialize)]
struct Description {
    name: String,
    system: String,
    rows: usize,
    classes: usize,
    dtype: String,
    smoothing: f64,
    reduction: String,
    ignore_index: Option<i64>,
    weighted: bool,
    #[serde(default)]
    pos_weighted: bool,
    target: String,
}

/// What a file's loss is called here.
enum System {
    Loss(LossConfig),
    LogSoftmax,
    Binary(BinaryConfig),
}

impl System {
    fn of(system: &str) -> Result<Self, String> {
        let config = LossConfig::default();
        Ok(match system {
            "torch_index" | "torch_probabilities" => Self::Loss(LossConfig::pytorch()),
            "nvidia" => Self::Loss(LossConfig::nvidia(0.0)),
            "keras_categorical" => Self::Loss(LossConfig::keras_categorical(0.0)),
            "smooth_others" => Self::Loss(LossConfig {
                smoothing: Smoothing::OtherClasses,
                divisors: Divisors::all(Divisor::AllRows),
                ..config
            }),
            "linear_combination" => Self::Loss(LossConfig::fastai(0.0)),
            "keras_binary" => Self::Binary(BinaryConfig::keras(0.0)),
            "torch_binary" => Self::Binary(BinaryConfig::pytorch()),
            "torch_log_softmax" => Self::LogSoftmax,
            other => return Err(format!("no loss here is called {other}")),
        })
    }
}

pub fn trials() -> Vec<Trial> {
    let folder = env::var_os("SMOOTHXENT_GOLDEN_DIR").map_or(FOLDER.into(), PathBuf::from);
    match files(&folder) {
        Ok(files) => files.into_iter().flat_map(|file| trials_of(&file)).collect(),
        Err(reason) => vec![crate::trial("golden::files", move || Err(reason))],
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let listing = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = listing
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("{} holds no .safetensors files", folder.display()));
    }
    Ok(files)
}

fn trials_of(file: &Path) -> Vec<Trial> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match read(file) {
        Err(reason) => vec![crate::trial(format!("golden::{stem}"), move || Err(reason))],
        Ok((bytes, descriptions)) => {
            let bytes = Arc::new(bytes);
            let trials = descriptions.into_iter().map(|description| {
                let name = format!("golden::{stem}::{}", description.name);
                let bytes = bytes.clone();
                crate::trial(name, move || check(&bytes, &description))
            });
            trials.collect()
        }
    }
}

fn read(file: &Path) -> Result<(Vec<u8>, Vec<Description>), String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let bytes = fs::read(file).map_err(|error| at(&error))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| at(&error))?;
    let cases = metadata.metadata().as_ref().and_then(|all| all.get("cases").cloned());
    let cases = cases.ok_or_else(|| at(&"no metadata key `cases`"))?;
    let descriptions = serde_json::from_str(&cases).map_err(|error| at(&error))?;
    Ok((bytes, descriptions))
}

/// The tensors of one case.
struct Tensors<'a> {
    file: SafeTensors<'a>,
    case: &'a str,
}

impl Tensors<'_> {
    /// A tensor that has to be stored as `stored`, of N bytes an element.
    fn get<const N: usize, T>(
        &self,
        tensor: &str,
        stored: Stored,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, String> {
        let name = format!("{}/{tensor}", self.case);
        let view = self.file.tensor(&name).map_err(|error| format!("{name}: {error}"))?;
        if view.dtype() != stored {
            return Err(format!("{name} is stored as {:?}", view.dtype()));
        }
        Ok(view.data().as_chunks::<N>().0.iter().map(|&bytes| decode(bytes)).collect())
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(&format!("{}/{tensor}", self.case)).is_ok()
    }

    fn f64s(&self, tensor: &str) -> Result<Vec<f64>, String> {
        self.get(tensor, Stored::F64, f64::from_le_bytes)
    }

    /// Values that are stored in `dtype`, or in f64, widened.
    fn stored(&self, tensor: &str, dtype: Dtype) -> Result<Vec<f32>, String> {
        match dtype {
            Dtype::F32 => self.get(tensor, Stored::F32, f32::from_le_bytes),
            Dtype::F16 => self.get(tensor, Stored::F16, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => {
                self.get(tensor, Stored::BF16, |b| half::bf16::from_le_bytes(b).to_f32())
            }
        }
    }

    /// What another implementation gave, in its own dtype or in f64.
    fn theirs(&self, tensor: &str, dtype: Dtype) -> Result<Vec<f64>, String> {
        self.f64s(tensor)
            .or_else(|_| Ok(self.stored(tensor, dtype)?.into_iter().map(f64::from).collect()))
    }

    fn weights(&self, tensor: &str, given: bool) -> Result<Option<Vec<f32>>, String> {
        given.then(|| self.get(tensor, Stored::F32, f32::from_le_bytes)).transpose()
    }
}

fn check(bytes: &[u8], description: &Description) -> Result<(), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let tensors = Tensors { file, case: &description.name };
    let dtype = match description.dtype.as_str() {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        "bf16" => Dtype::Bf16,
        other => return Err(format!("dtype {other} is not known")),
    };
    let logits = tensors.stored("logits", dtype)?;
    if logits.len() != description.rows * description.classes {
        return Err("the logits are not [rows, classes]".to_owned());
    }
    match System::of(&description.system)? {
        System::Loss(config) => check_loss(&tensors, description, dtype, logits, config),
        System::LogSoftmax => check_log_softmax(&tensors, description, dtype, logits),
        System::Binary(config) => check_binary(&tensors, description, dtype, logits, config),
    }
}

fn reduction(description: &Description) -> Result<Reduction, String> {
    match description.reduction.as_str() {
        "none" => Ok(Reduction::None),
        "sum" => Ok(Reduction::Sum),
        "mean" => Ok(Reduction::Mean),
        other => Err(format!("reduction {other} is not known")),
    }
}

fn upstream(tensors: &Tensors<'_>) -> Result<UpstreamCase, String> {
    if !tensors.has("grad_output") {
        return Ok(UpstreamCase::One);
    }
    let upstream = tensors.f64s("grad_output")?.into_iter().map(|g| g as f32).collect();
    Ok(UpstreamCase::PerRow(upstream))
}

fn check_loss(
    tensors: &Tensors<'_>,
    description: &Description,
    dtype: Dtype,
    logits: Vec<f32>,
    config: LossConfig,
) -> Result<(), String> {
    let (target_type, targets, probabilities) = match description.target.as_str() {
        "index" => (TargetType::I64, tensors.get("target", Stored::I64, i64::from_le_bytes)?, None),
        "probabilities" => {
            let q = tensors.get("target", Stored::F32, f32::from_le_bytes)?;
            let target_type = TargetType::Probabilities(Dtype::F32);
            (target_type, vec![0; description.rows], Some(q))
        }
        other => return Err(format!("targets of kind {other} are not known")),
    };
    let case = Case {
        dtype,
        target_type,
        classes: description.classes,
        logits,
        targets,
        probabilities,
        class_weights: tensors.weights("weight", description.weighted)?,
        upstream: upstream(tensors)?,
        config: LossConfig {
            label_smoothing: description.smoothing,
            ignore_index: description.ignore_index,
            reduction: reduction(description)?,
            ..config
        },
        placement: Placement::PACKED,
        selection: selection(),
    };
    let published = published(tensors, &case)?;
    oracle_is_held(&case, &published)?;
    // The file, not only the oracle, is what the device has to meet, in every form.
    let found = check_forms(&case)?;
    compare::within_budget(&case, &found, &published)?;
    if tensors.has("log_softmax") {
        // Of the logits alone, with a made-up gradient.
        let upstream = inputs::logits(dtype, case.rows(), case.classes, 90);
        let (classes, logits) = (case.classes, case.logits.clone());
        let placement = Placement::PACKED;
        let log_softmax = LogSoftmaxCase { dtype, classes, logits, upstream, placement };
        let (own, _) = log_softmax.expected();
        same("log-probability", &own, &tensors.f64s("log_softmax")?)?;
        log_softmax.check()?;
    }
    if !tensors.has("torch_grad") {
        return Ok(());
    }
    let gradient = tensors.theirs("torch_grad", dtype)?;
    let loss = tensors.theirs("torch_loss", dtype)?;
    let (our_loss, true_loss) = match case.config.reduction {
        Reduction::None => {
            (found.row_losses.iter().map(|&loss| f64::from(loss)).collect(), published.row_losses)
        }
        Reduction::Sum | Reduction::Mean => (
            vec![f64::from(found.loss.ok_or("a reduced loss was asked for")?)],
            vec![published.loss],
        ),
    };
    // Theirs is in the logits' dtype, ours in f32.
    compare::no_further_than("loss", Dtype::F32, &our_loss, &loss, &true_loss)?;
    compare::no_further_than("gradient", dtype, &found.gradient, &gradient, &published.gradient)
}

fn check_log_softmax(
    tensors: &Tensors<'_>,
    description: &Description,
    dtype: Dtype,
    logits: Vec<f32>,
) -> Result<(), String> {
    let case = LogSoftmaxCase {
        dtype,
        classes: description.classes,
        logits,
        upstream: tensors.stored("grad_output_matrix", dtype)?,
        placement: Placement::PACKED,
    };
    let log_probs = tensors.f64s("log_softmax")?;
    let gradient = tensors.f64s("grad")?;
    let (own, _) = case.expected();
    same("log-probability", &own, &log_probs)?;
    same("gradient", &case.expected_gradient(&own), &gradient)?;
    let found = case.check()?;
    let theirs = tensors.f64s("torch_log_softmax")?;
    compare::no_further_than("log-softmax", dtype, &found.log_probs, &theirs, &log_probs)?;
    let theirs = tensors.f64s("torch_grad")?;
    compare::no_further_than("gradient", dtype, &found.gradient_of_logits, &theirs, &gradient)
}

fn check_binary(
    tensors: &Tensors<'_>,
    description: &Description,
    dtype: Dtype,
    logits: Vec<f32>,
    config: BinaryConfig,
) -> Result<(), String> {
    let over_classes = match (description.system.as_str(), description.reduction.as_str()) {
        ("torch_binary", "sum") => OverClasses::Sum,
        _ => OverClasses::Mean,
    };
    let case = BinaryCase {
        dtype,
        target_type: TargetType::Probabilities(Dtype::F32),
        classes: description.classes,
        logits,
        targets: vec![0; description.rows],
        probabilities: Some(tensors.get("target", Stored::F32, f32::from_le_bytes)?),
        class_weights: tensors.weights("weight", description.weighted)?,
        positive_weights: tensors.weights("pos_weight", description.pos_weighted)?,
        upstream: UpstreamCase::One,
        config: BinaryConfig {
            label_smoothing: description.smoothing,
            reduction: reduction(description)?,
            over_classes,
            ..config
        },
        placement: Placement::PACKED,
    };
    let (loss, gradient) = (tensors.f64s("loss")?, tensors.f64s("grad")?);
    let own = case.expected();
    same("loss", &[own.loss], &loss)?;
    same("gradient", &own.gradient, &gradient)?;
    let found = case.check()?;
    if !tensors.has("torch_grad") {
        return Ok(());
    }
    let our_loss = [f64::from(found.loss.ok_or("a reduced loss was asked for")?)];
    let theirs = tensors.f64s("torch_loss")?;
    compare::no_further_than("loss", Dtype::F32, &our_loss, &theirs, &loss)?;
    let theirs = tensors.f64s("torch_grad")?;
    compare::no_further_than("gradient", dtype, &found.gradient, &theirs, &gradient)
}

/// The case's expected values as the oracle would give them.
fn published(tensors: &Tensors<'_>, case: &Case) -> Result<reference::Outcome, String> {
    let loss = tensors.f64s("loss")?;
    let mut row_lse = tensors.f64s("lse")?;
    let own = case.expected();
    let (row_losses, loss) = match case.config.reduction {
        // Files hold one of the two: the other is the oracle's own.
        Reduction::None => (loss, own.loss),
        Reduction::Sum | Reduction::Mean => (own.row_losses.clone(), loss[0]),
    };
    for (lse, &target) in row_lse.iter_mut().zip(&case.targets) {
        // PyTorch computes it from logits that we never read.
        if case.ignore_index() == Some(target) {
            *lse = 0.0;
        }
    }
    let gradient = tensors.f64s("grad")?;
    Ok(reference::Outcome { row_losses, row_lse, loss, gradient, ..own })
}

fn oracle_is_held(case: &Case, published: &reference::Outcome) -> Result<(), String> {
    let own = case.expected();
    same("loss", &[own.loss], &[published.loss])?;
    same("row loss", &own.row_losses, &published.row_losses)?;
    same("lse", &own.row_lse, &published.row_lse)?;
    same("gradient", &own.gradient, &published.gradient)
}

/// The oracle's values against the file's.
fn same(what: &str, found: &[f64], expected: &[f64]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} values, the file has {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(&f, &e)| !compare::oracle_agrees(f, e)) {
        None => Ok(()),
        Some(i) => Err(format!(
            "the oracle's {what} [{i}] is {:e}, the file's {:e}",
            found[i], expected[i]
        )),
    }
}
