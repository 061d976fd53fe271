//! `cargo xtask tidy`: rules of the house that the compiler does not check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};

use crate::{cargo, workspace};

/// Checks import directions, tolerances, dtype names and minimum Rust versions
#[derive(clap::Args)]
pub struct Arguments {}

// ---------------------------------------------------------------- the rules

/// What each module of src/ may import from the crate. A file in src/plan/ belongs to `plan`, one in src/raw/
/// to `raw`, which fills the kernels' arguments (abi) for the safe operations too, and knows no buffer of
/// cudarc's.
const MODULE_IMPORTS: [(&str, &[&str]); 18] = [
    ("abi", &[]),
    ("binary", &["buffer", "call", "config", "error", "loss", "module", "problem", "raw"]),
    ("buffer", &["abi", "capture", "device", "error", "plan", "problem", "raw", "reclaim"]),
    ("call", &["buffer", "error", "module", "raw"]),
    ("capture", &[]),
    ("config", &[]),
    ("device", &["error"]),
    ("error", &["config"]),
    ("guide", &[]),
    (
        "lib",
        &[
            "abi",
            "binary",
            "buffer",
            "call",
            "capture",
            "config",
            "device",
            "error",
            "log_softmax",
            "loss",
            "module",
            "plan",
            "problem",
            "raw",
            "reclaim",
            "reference",
        ],
    ),
    ("log_softmax", &["buffer", "call", "error", "module", "problem", "raw"]),
    ("loss", &["buffer", "call", "config", "error", "module", "plan", "problem", "raw"]),
    ("module", &["abi", "config", "device", "error", "plan", "problem", "reclaim"]),
    ("plan", &["abi", "config", "error", "problem"]),
    ("problem", &["abi", "config", "error"]),
    ("raw", &["abi", "capture", "config", "error", "module", "plan", "problem"]),
    ("reclaim", &["capture"]),
    ("reference", &[]),
];

/// What each file of kernels/ may include of the others: a layer includes those above it. `*`
/// stands for anything; the first line that fits a file is its own.
const KERNEL_INCLUDES: [(&str, &[&str]); 23] = [
    ("abi.h", &[]),
    ("arithmetic.cuh", &[]),
    ("cluster.cuh", &[]),
    ("dtype.cuh", &["abi.h"]),
    ("vector.cuh", &["abi.h"]),
    ("targets.cuh", &["abi.h"]),
    ("async_copy.cuh", &[]),
    ("pack_batch.cuh", &["abi.h"]),
    ("slice_cache.cuh", &["abi.h", "async_copy.cuh"]),
    ("tile.cuh", &["abi.h", "async_copy.cuh", "dtype.cuh", "reduce.cuh", "vector.cuh"]),
    ("softmax_state.cuh", &["abi.h", "arithmetic.cuh"]),
    ("row_loss.cuh", &["abi.h", "arithmetic.cuh", "softmax_state.cuh"]),
    ("reduce.cuh", &["abi.h", "cluster.cuh", "softmax_state.cuh"]),
    ("speakers.cuh", &["abi.h", "reduce.cuh"]),
    ("ordered_sum.cuh", &["abi.h", "arithmetic.cuh", "reduce.cuh"]),
    (
        "normalizer.cuh",
        &["abi.h", "cluster.cuh", "ordered_sum.cuh", "reduce.cuh", "row_loss.cuh", "targets.cuh"],
    ),
    ("terms.cuh", &["abi.h", "arithmetic.cuh", "dtype.cuh", "softmax_state.cuh", "vector.cuh"]),
    // What strategies are made of, and they themselves: they know no loss.
    (
        "row.cuh",
        &["abi.h", "dtype.cuh", "pack_batch.cuh", "softmax_state.cuh", "terms.cuh", "vector.cuh"],
    ),
    ("passing_packs.cuh", &["vector.cuh"]),
    (
        "s*.cuh",
        &[
            "abi.h",
            "cluster.cuh",
            "dtype.cuh",
            "pack_batch.cuh",
            "passing_packs.cuh",
            "reduce.cuh",
            "row.cuh",
            "slice_cache.cuh",
            "slice_packs.cuh",
            "softmax_state.cuh",
            "speakers.cuh",
            "tile.cuh",
            "vector.cuh",
        ],
    ),
    // An operation that is a strategy's own.
    (
        "fused_tiny.cuh",
        &[
            "abi.h",
            "cluster.cuh",
            "dtype.cuh",
            "fused_loss.cuh",
            "normalizer.cuh",
            "reduce.cuh",
            "row_loss.cuh",
            "softmax_state.cuh",
            "targets.cuh",
            "terms.cuh",
            "tile.cuh",
            "vector.cuh",
        ],
    ),
    // The operations, which know no strategy.
    (
        "*.cuh",
        &[
            "abi.h",
            "arithmetic.cuh",
            "async_copy.cuh",
            "cluster.cuh",
            "dtype.cuh",
            "normalizer.cuh",
            "ordered_sum.cuh",
            "reduce.cuh",
            "row.cuh",
            "row_loss.cuh",
            "softmax_state.cuh",
            "speakers.cuh",
            "targets.cuh",
            "terms.cuh",
            "vector.cuh",
        ],
    ),
    (
        "*.cu",
        &["*_loss.cuh", "fused_tiny.cuh", "log_softmax.cuh", "normalizer.cuh", "strategy_*.cuh"],
    ),
];

/// Names of the CUDA types that only these files of kernels/ may spell.
const DTYPE_NAMES: [&str; 4] = ["__half", "__nv_bfloat16", "half2", "nv_bfloat162"];
const DTYPE_FILES: [&str; 2] = ["dtype.cuh", "*.cu"];

/// Modules that decide without a device.
const WITHOUT_CUDARC: [&str; 2] = ["problem", "plan"];

/// Folders of tests, and the only file of each with small float literals, which are tolerances.
const TOLERANCES: [(&str, &str); 2] = [
    ("tests", "tests/common/compare.rs"),
    ("adapters/candle/tests", "adapters/candle/tests/ops/compare.rs"),
];

/// The crate does not know on which driver it runs.
const NOT_IN_SRC: &str = "emulat";

/// What people link.
const PRODUCTS: [&str; 3] = ["src", "capi/src", "adapters"];

/// Waits for a whole context, by the driver's function or cudarc's: it crashes beside a capture of another thread
/// (src/reclaim.rs).
const CONTEXT_WAITS: [&str; 7] = [
    "cuCtxSynchronize(",
    "cuCtxRecordEvent(",
    "ctx::synchronize",
    "ctx.synchronize(",
    "context.synchronize(",
    "context().synchronize(",
    "CudaContext::synchronize",
];

/// How libtest-mimic makes a test, and the only file of the device suite that may: its tests keep away from those
/// that capture a stream.
const TRIALS: [&str; 2] = ["Trial::test(", "Trial::ignorable_test("];
const DEVICE_SUITE: (&str, &str) = ("tests/device", "tests/device/main.rs");

// ---------------------------------------------------------------- checking

pub fn run(_: &Arguments) -> Result<()> {
    let mut faults = Vec::new();
    for file in files("src", &["rs"])? {
        check_source(&Source::read(&file)?, &mut faults);
    }
    for product in PRODUCTS {
        for file in files(product, &["rs"])? {
            check_waits(&Source::read(&file)?, &mut faults);
        }
    }
    for (folder, _) in TOLERANCES {
        for file in files(folder, &["rs"])? {
            check_test(&Source::read(&file)?, &mut faults);
        }
    }
    for file in files(DEVICE_SUITE.0, &["rs"])? {
        check_trials(&Source::read(&file)?, &mut faults);
    }
    for file in files("kernels", &["h", "cuh", "cu"])? {
        check_kernel(&Source::read(&file)?, &mut faults);
    }
    check_minimum_rust(&mut faults)?;
    if !faults.is_empty() {
        bail!("tidy found {}:\n{}", faults.len(), faults.join("\n"));
    }
    println!(
        "tidy: imports, waits, tolerances, dtype names and minimum Rust versions are as they should be"
    );
    Ok(())
}

/// The files under a folder of the workspace with one of these extensions, sorted.
fn files(folder: &str, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![workspace::root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("cannot read a folder's entry")?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

struct Source {
    /// From the workspace's folder.
    path: String,
    /// Without folders.
    name: String,
    text: String,
}

impl Source {
    fn read(file: &Path) -> Result<Self> {
        Ok(Self {
            path: workspace::relative(file),
            name: file.file_name().unwrap_or_default().display().to_string(),
            text: fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?,
        })
    }

    /// The path of modules that a file of src/ is: `src/plan/tuning.rs` is [plan, tuning].
    fn module_path(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let parts = path.trim_end_matches("/mod").split('/');
        parts.filter(|part| *part != "lib").map(str::to_owned).collect()
    }
}

fn check_source(source: &Source, faults: &mut Vec<String>) {
    let path = &source.path;
    for (number, line) in source.text.lines().enumerate() {
        if line.to_lowercase().contains(NOT_IN_SRC) {
            faults.push(format!("{path}:{}: src/ does not speak of emulation", number + 1));
        }
    }
    let tokens = match source.text.parse::<TokenStream>() {
        Ok(tokens) => tokens,
        Err(error) => {
            faults.push(format!("{path}: is no Rust: {error}"));
            return;
        }
    };
    let module_path = source.module_path();
    let module = module_path.first().map_or("lib", String::as_str);
    let mut uses = Uses::default();
    uses.read(tokens, &module_path);

    let rule = MODULE_IMPORTS.iter().find(|(name, _)| *name == module);
    match rule {
        None => faults.push(format!(
            "{path}: xtask/src/tidy.rs has no rule for module `{module}`; add what it may import"
        )),
        Some((_, allowed)) => {
            for import in &uses.modules {
                if import != module && !allowed.contains(&import.as_str()) {
                    faults.push(format!(
                        "{path}: `{module}` may import {{{}}} from the crate, not `{import}`",
                        allowed.join(", ")
                    ));
                }
            }
        }
    }
    if uses.cudarc && WITHOUT_CUDARC.contains(&module) {
        faults.push(format!("{path}: `{module}` decides without cudarc"));
    }
    if uses.environment {
        faults.push(format!("{path}: reads the environment; no variable may change results"));
    }
}

/// What the code of a module refers to, macro arguments included, documentation not.
#[derive(Default)]
struct Uses {
    /// Modules of the crate; a name that the crate's root exports counts as such.
    modules: BTreeSet<String>,
    cudarc: bool,
    environment: bool,
}

impl Uses {
    /// Reads the tokens of the module at `path` in the crate.
    fn read(&mut self, tokens: TokenStream, path: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (position, token) in tokens.iter().enumerate() {
            let before = &tokens[..position];
            let after = &tokens[position + 1..];
            match token {
                TokenTree::Ident(word) if *word == "cudarc" => self.cudarc = true,
                TokenTree::Ident(word) if *word == "env" && is_path(after) => {
                    self.environment = true;
                }
                TokenTree::Ident(word) if *word == "crate" => self.add_first_of(after),
                TokenTree::Ident(word) if *word == "super" && !ends_path(before) => {
                    self.read_super(after, path);
                }
                TokenTree::Group(group) => match declared_module(before) {
                    Some(name) => self.read(group.stream(), &[path, &[name]].concat()),
                    None => self.read(group.stream(), path),
                },
                _ => {}
            }
        }
    }

    /// `super::super::a`: names a module of the crate if it climbs to the root.
    fn read_super(&mut self, mut after: &[TokenTree], path: &[String]) {
        let mut depth = path.len().saturating_sub(1);
        while let [_, _, TokenTree::Ident(word), rest @ ..] = after
            && *word == "super"
        {
            depth = depth.saturating_sub(1);
            after = rest;
        }
        if depth == 0 && !path.is_empty() {
            self.add_first_of(after);
        }
    }

    /// Adds a in `::a::b`, and a and c in `::{a::b, c}`.
    fn add_first_of(&mut self, after: &[TokenTree]) {
        match after {
            [TokenTree::Punct(_), TokenTree::Punct(_), TokenTree::Ident(name), ..]
                if is_path(after) =>
            {
                self.modules.insert(name.to_string());
            }
            [TokenTree::Punct(_), TokenTree::Punct(_), TokenTree::Group(group), ..] => {
                let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                let items = tokens.split(|token| is_punct(token, ','));
                for item in items {
                    if let Some(TokenTree::Ident(name)) = item.first() {
                        self.modules.insert(name.to_string());
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Whether `::` comes next.
fn is_path(after: &[TokenTree]) -> bool {
    matches!(after, [first, second, ..] if is_punct(first, ':') && is_punct(second, ':'))
}

/// Whether `::` came last.
fn ends_path(before: &[TokenTree]) -> bool {
    matches!(before, [.., first, second] if is_punct(first, ':') && is_punct(second, ':'))
}

/// The name in `mod name {`, just before the brace.
fn declared_module(before: &[TokenTree]) -> Option<String> {
    match before {
        [.., TokenTree::Ident(keyword), TokenTree::Ident(name)] if *keyword == "mod" => {
            Some(name.to_string())
        }
        _ => None,
    }
}

fn check_waits(source: &Source, faults: &mut Vec<String>) {
    let lines = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
    // Calls may be chained over lines.
    let code: String = lines.flat_map(str::split_whitespace).collect();
    for wait in CONTEXT_WAITS.into_iter().filter(|wait| code.contains(wait)) {
        faults.push(format!(
            "{}: {wait} waits for a whole context, which crashes beside another thread's capture; wait for a stream, \
             or as src/reclaim.rs does",
            source.path
        ));
    }
}

fn check_trials(source: &Source, faults: &mut Vec<String>) {
    let (_, home) = DEVICE_SUITE;
    for call in TRIALS.into_iter().filter(|call| source.path != home && source.text.contains(call))
    {
        faults.push(format!(
            "{}: {call} makes a test that runs beside captures; {home} has functions for it",
            source.path
        ));
    }
}

fn check_test(source: &Source, faults: &mut Vec<String>) {
    let of_its_folder = |&&(folder, _): &&(&str, &str)| {
        source.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    let home = TOLERANCES.iter().find(of_its_folder).map_or("no file", |&(_, home)| home);
    if source.path == home {
        return;
    }
    match source.text.parse::<TokenStream>() {
        Ok(tokens) => {
            for literal in small_floats(tokens) {
                faults.push(format!(
                    "{}: {literal} looks like a tolerance; those belong in {home}",
                    source.path
                ));
            }
        }
        Err(error) => faults.push(format!("{}: is no Rust: {error}", source.path)),
    }
}

/// Words in the name of a constant or variable that make its value a tolerance.
const TOLERANCE_WORDS: [&str; 4] = ["tol", "eps", "budget", "margin"];

/// Float literals with a negative exponent that something is compared with, or that have a telling
/// name; others are test inputs.
fn small_floats(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    // Whether the present statement or argument so far compares, or names a tolerance.
    let mut suspicious = false;
    let mut previous = ' ';
    for token in tokens {
        let mut character = ' ';
        match token {
            TokenTree::Group(group) => found.extend(small_floats(group.stream())),
            TokenTree::Literal(literal) => {
                let text = literal.to_string().to_lowercase();
                let is_number = text.starts_with(|first: char| first.is_ascii_digit());
                if suspicious && is_number && text.contains("e-") {
                    found.push(text);
                }
            }
            TokenTree::Ident(word) => {
                let word = word.to_string().to_lowercase();
                suspicious |= TOLERANCE_WORDS.iter().any(|telling| word.contains(telling));
            }
            TokenTree::Punct(punct) => {
                character = punct.as_char();
                let is_arrow = character == '>' && (previous == '-' || previous == '=');
                if character == ';' || character == ',' {
                    suspicious = false;
                } else if (character == '<' || character == '>') && !is_arrow {
                    suspicious = true;
                }
            }
        }
        previous = character;
    }
    found
}

fn check_kernel(source: &Source, faults: &mut Vec<String>) {
    let path = &source.path;
    let Some((_, allowed)) =
        KERNEL_INCLUDES.iter().find(|(pattern, _)| fits(&source.name, pattern))
    else {
        faults.push(format!("{path}: xtask/src/tidy.rs has no rule for its includes"));
        return;
    };
    let spells_dtypes = DTYPE_FILES.iter().any(|pattern| fits(&source.name, pattern));
    for (number, line) in without_comments(&source.text).lines().enumerate() {
        let number = number + 1;
        if let Some(included) = line.trim().strip_prefix("#include \"") {
            let included = included.trim_end().trim_end_matches('"');
            if !allowed.iter().any(|pattern| fits(included, pattern)) {
                faults.push(format!(
                    "{path}:{number}: may include {{{}}}, not {included}",
                    allowed.join(", ")
                ));
            }
        }
        if !spells_dtypes {
            let spelled = DTYPE_NAMES.iter().find(|name| line.contains(*name));
            faults.extend(spelled.map(|name| {
                format!("{path}:{number}: {name} belongs in {}", DTYPE_FILES.join(", "))
            }));
        }
    }
}

/// Whether `name` is `pattern`, in which one `*` stands for anything.
fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => name.starts_with(start) && name.ends_with(end),
        None => name == pattern,
    }
}

/// C++ with its comments blanked and its lines kept.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*").into_iter().chain(rest.find("//")).min() {
        let (before, comment) = rest.split_at(start);
        let is_line = comment.starts_with("//");
        let end = if is_line { comment.find('\n') } else { comment.find("*/").map(|end| end + 2) };
        let (comment, after) = comment.split_at(end.unwrap_or(comment.len()));
        code.push_str(before);
        code.extend(comment.chars().filter(|character| *character == '\n'));
        rest = after;
    }
    code + rest
}

/// No dependency may need a newer Rust than the crate promises.
fn check_minimum_rust(faults: &mut Vec<String>) -> Result<()> {
    let metadata = cargo::metadata()?;
    let own = metadata
        .workspace_packages()
        .iter()
        .find(|package| package.name.as_str() == "smoothxent")
        .and_then(|package| package.rust_version.clone())
        .context("Cargo.toml states no rust-version")?;
    for package in &metadata.packages {
        if let Some(needed) = &package.rust_version
            && *needed > own
        {
            faults.push(format!(
                "Cargo.lock: {} {} needs Rust {needed}, smoothxent promises {own}; take an older one \
                 with `cargo update {} --precise VERSION`",
                package.name, package.version, package.name
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Source, check_kernel, check_source, check_test, check_trials, check_waits};

    fn faults(check: fn(&Source, &mut Vec<String>), path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.to_owned(),
            name: path.rsplit('/').next().unwrap_or(path).to_owned(),
            text: text.to_owned(),
        };
        let mut faults = Vec::new();
        check(&source, &mut faults);
        faults
    }

    #[test]
    fn sources() {
        let fine = [
            ("src/plan/tuning.rs", "use super::Strategy; use crate::abi::LIMIT;"),
            (
                "src/plan.rs",
                "use crate::{abi, error::Error, problem::{A, B}}; mod tests { use super::X; }",
            ),
            ("src/lib.rs", "pub use crate::loss::a; const A: &str = env!(\"ARCHS\");"),
            ("src/problem.rs", "/// see crate::loss and std::env::var\nstruct A;"),
            ("src/module.rs", "fn a() { let env = 1; env }"),
        ];
        for (path, text) in fine {
            assert_eq!(faults(check_source, path, text), [""; 0], "{path}: {text}");
        }
        let faulty = [
            ("src/plan/tuning.rs", "use super::super::loss::a;"),
            ("src/plan/tuning.rs", "mod tests { use super::super::super::loss::a; }"),
            ("src/plan.rs", "fn a() { assert!(crate::loss::b()); }"),
            ("src/plan.rs", "use crate::{abi, module::X};"),
            ("src/plan.rs", "use super::loss::b;"),
            ("src/plan.rs", "use cudarc::driver::X;"),
            ("src/reference.rs", "use crate::error::Error;"),
            ("src/loss.rs", "fn a() { std::env::var(\"B\"); }"),
            ("src/loss.rs", "use crate::Kernels;"),
            ("src/loss.rs", "// if Emulated"),
            ("src/new.rs", ""),
        ];
        for (path, text) in faulty {
            assert_eq!(faults(check_source, path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn waits() {
        for fine in ["stream.synchronize()?;", "// not cuCtxSynchronize()", "self.launches.wait()"]
        {
            assert_eq!(faults(check_waits, "src/a.rs", fine), [""; 0], "{fine}");
        }
        for faulty in [
            "ctx::synchronize()",
            "self.context.synchronize()?;",
            "x.context()\n    .synchronize()",
        ] {
            assert_eq!(faults(check_waits, "src/a.rs", faulty).len(), 1, "{faulty}");
        }
    }

    #[test]
    fn trials() {
        let text = "vec![Trial::ignorable_test(\"a\", || Ok(b()?))]";
        assert_eq!(faults(check_trials, "tests/device/main.rs", text), [""; 0]);
        assert_eq!(faults(check_trials, "tests/device/errors.rs", text).len(), 1);
    }

    #[test]
    fn tests() {
        let fine = [
            ("tests/a.rs", "// < 1e-5\nfn a() -> f32 { f(1e-5, &[6e-8]); match b { _ => 1e-3 } }"),
            ("tests/common/compare.rs", "const TOLERANCE: f32 = 1e-5;"),
            ("adapters/candle/tests/ops/compare.rs", "const TOLERANCE: f32 = 1e-5;"),
        ];
        for (path, text) in fine {
            assert_eq!(faults(check_test, path, text), [""; 0], "{path}: {text}");
        }
        let faulty = [
            "fn a() { assert!(b <= 1e-5_f32); }",
            "fn a() { assert!(b.abs() < c * 1E-5); }",
            "const TOLERANCE: f32 = 1e-5;",
            "fn a() { let rel_eps = 2.5e-4; }",
        ];
        for text in faulty {
            for path in ["tests/a.rs", "adapters/candle/tests/ops/a.rs"] {
                assert_eq!(faults(check_test, path, text).len(), 1, "{path}: {text}");
            }
        }
    }

    #[test]
    fn kernels() {
        let fine = [
            ("kernels/fused_block.cu", "#include \"fused_loss.cuh\"\nA(__half)"),
            ("kernels/vector.cuh", "// not __half\n/* nor\n__nv_bfloat16 */\n#include \"abi.h\""),
        ];
        for (path, text) in fine {
            assert_eq!(faults(check_kernel, path, text), [""; 0], "{path}: {text}");
        }
        let faulty = [
            ("kernels/fused_block.cu", "#include \"vector.cuh\""),
            ("kernels/reduce.cuh", "#include \"strategy_block.cuh\""),
            ("kernels/reduce.cuh", "/* a */ __half x; // b"),
        ];
        for (path, text) in faulty {
            assert_eq!(faults(check_kernel, path, text).len(), 1, "{path}: {text}");
        }
    }
}
