//! Published losses, evaluated by PyTorch in float64: `tests/data/golden`, or the folder that
//! `SMOOTHXENT_GOLDEN_DIR` names, which anyone can fill (tests/data/golden/README.md has the format).

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use libtest_mimic::{Completion, Trial};
use safetensors::{SafeTensors, tensor::Dtype as Stored};
use serde::Deserialize;
use smoothxent::{
    Divisor, Divisors, LossConfig, Reduction, Smoothing,
    problem::{Dtype, TargetType},
    reference,
};

use crate::common::{
    compare,
    run::{Case, Placement, UpstreamCase},
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
    target: String,
}

impl Description {
    /// Why the public API cannot say this yet.
    fn inexpressible(&self) -> Option<&'static str> {
        match self.system.as_str() {
            "keras_binary" => Some("binary cross-entropy"),
            _ if self.target != "index" => Some("target probabilities"),
            system if convention(system).is_none() => Some("a convention that is not known"),
            _ => None,
        }
    }
}

/// What a file's loss is called here; None if it has no name.
fn convention(system: &str) -> Option<LossConfig> {
    let config = LossConfig::default();
    match system {
        "torch_index" => Some(LossConfig::pytorch()),
        "nvidia" => Some(LossConfig::nvidia(0.0)),
        "smooth_others" => Some(LossConfig {
            smoothing: Smoothing::OtherClasses,
            divisors: Divisors::all(Divisor::AllRows),
            ..config
        }),
        "linear_combination" => Some(LossConfig::fastai(0.0)),
        _ => None,
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
                Trial::ignorable_test(name, move || match description.inexpressible() {
                    Some(reason) => {
                        Ok(Completion::ignored_with(format!("not expressible yet: {reason}")))
                    }
                    None => check(&bytes, &description)
                        .map(|()| Completion::Completed)
                        .map_err(Into::into),
                })
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

    fn logits(&self, dtype: Dtype) -> Result<Vec<f32>, String> {
        match dtype {
            Dtype::F32 => self.get("logits", Stored::F32, f32::from_le_bytes),
            Dtype::F16 => self.get("logits", Stored::F16, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => {
                self.get("logits", Stored::BF16, |b| half::bf16::from_le_bytes(b).to_f32())
            }
        }
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
    let upstream = if tensors.has("grad_output") {
        UpstreamCase::PerRow(tensors.f64s("grad_output")?.into_iter().map(|g| g as f32).collect())
    } else {
        UpstreamCase::One
    };
    let case = Case {
        dtype,
        target_type: TargetType::I64,
        classes: description.classes,
        logits: tensors.logits(dtype)?,
        targets: tensors.get("target", Stored::I64, i64::from_le_bytes)?,
        class_weights: if description.weighted {
            Some(tensors.get("weight", Stored::F32, f32::from_le_bytes)?)
        } else {
            None
        },
        upstream,
        config: LossConfig {
            label_smoothing: description.smoothing,
            ignore_index: description.ignore_index,
            reduction: match description.reduction.as_str() {
                "none" => Reduction::None,
                "sum" => Reduction::Sum,
                "mean" => Reduction::Mean,
                other => return Err(format!("reduction {other} is not known")),
            },
            ..convention(&description.system).ok_or("a convention that is not known")?
        },
        placement: Placement::PACKED,
    };
    if case.logits.len() != description.rows * description.classes {
        return Err("the logits are not [rows, classes]".to_owned());
    }
    let published = published(&tensors, &case)?;
    oracle_is_held(&case, &published)?;
    // The file, not only the oracle, is what the device has to meet.
    let found = case.run().map_err(|error| error.to_string())?;
    compare::within_budget(&case, &found, &published)?;
    Ok(())
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
        if case.config.ignore_index == Some(target) {
            *lse = 0.0;
        }
    }
    Ok(reference::Outcome { row_losses, row_lse, loss, gradient: tensors.f64s("grad")? })
}

fn oracle_is_held(case: &Case, published: &reference::Outcome) -> Result<(), String> {
    let own = case.expected();
    let pairs = [
        ("loss", &[own.loss][..], &[published.loss][..]),
        ("row loss", &own.row_losses, &published.row_losses),
        ("lse", &own.row_lse, &published.row_lse),
        ("gradient", &own.gradient, &published.gradient),
    ];
    for (what, found, expected) in pairs {
        if found.len() != expected.len() {
            return Err(format!("{what}: {} values, the file has {}", found.len(), expected.len()));
        }
        let wrong = found.iter().zip(expected).position(|(&f, &e)| !compare::oracle_agrees(f, e));
        if let Some(i) = wrong {
            return Err(format!(
                "the oracle's {what} [{i}] is {:e}, the file's {:e}",
                found[i], expected[i]
            ));
        }
    }
    Ok(())
}
