//! `cargo xtask codegen`: kernels/abi.h -> src/abi.rs, capi/src -> capi/include/smoothxent.h, src -> api.txt.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use bindgen::callbacks::{IntKind, ParseCallbacks};
use similar::{ChangeTag, TextDiff};

use crate::{api, toolchain, workspace};

const HEADER: &str = "kernels/abi.h";

/// A file that is generated and committed.
struct Generated {
    path: &'static str,
    from: &'static str,
    generate: fn() -> Result<String>,
}

/// The one that sets an environment variable comes first.
const ALL: [Generated; 3] = [
    Generated { path: "src/abi.rs", from: HEADER, generate: bindings },
    Generated { path: "capi/include/smoothxent.h", from: CAPI, generate: c_header },
    Generated { path: "api.txt", from: api::CRATE, generate: api::of_crate },
];

const CAPI: &str = "capi/src";

const HEAD: &str = "//! Parameters, limits and status records shared with the kernels.
//!
//! Generated from `kernels/abi.h`; do not edit. `cargo xtask codegen` writes it anew.
";

/// Generates src/abi.rs from kernels/abi.h, capi/include/smoothxent.h from capi/src, and api.txt from src
#[derive(clap::Args)]
pub struct Arguments {
    /// Only check that they are what would be generated
    #[arg(long)]
    check: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    for file in ALL {
        let Generated { path: name, from, generate } = file;
        let generated = generate()?;
        let path = workspace::root().join(name);
        let present = fs::read_to_string(&path).unwrap_or_default();
        if present == generated {
            println!("{name} is up to date with {from}");
            continue;
        }
        if arguments.check {
            bail!(
                "{name} does not fit {from}; run `cargo xtask codegen` and commit the result:\n{}",
                changed_lines(&present, &generated)
            );
        }
        fs::write(&path, generated).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {name} from {from}");
    }
    Ok(())
}

/// The C interface's header, as capi/cbindgen.toml says.
fn c_header() -> Result<String> {
    let folder = workspace::root().join(CAPI);
    let folder = folder.parent().context("capi/src is in a folder")?;
    let mut config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))
        .map_err(|error| anyhow!("capi/cbindgen.toml: {error}"))?;
    // That of all members of the workspace.
    let version = env!("CARGO_PKG_VERSION");
    config.after_includes =
        Some(format!("\n/** What `sx_version` returns. */\n#define SX_VERSION \"{version}\""));
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_crate(folder)
        .with_config(config)
        .generate()
        .context("cbindgen cannot translate capi/src")?
        .write(&mut header);
    let header = String::from_utf8(header).context("cbindgen writes UTF-8")?;
    // C's comments are no Markdown.
    let line =
        |line: &str| line.replace(" # Safety", " The caller promises:").trim_end().to_owned();
    Ok(header.lines().map(line).collect::<Vec<_>>().join("\n") + "\n")
}

fn bindings() -> Result<String> {
    // SAFETY: this is the command's first act, so this program has no other thread yet that could
    // read the environment.
    unsafe { env::set_var("LIBCLANG_PATH", toolchain::libclang_folder()) };
    toolchain::ensure_libclang()?;

    let header = workspace::root().join(HEADER);
    let source =
        fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let bindings = bindgen::Builder::default()
        .header(header.display().to_string())
        .clang_arg("-fparse-all-comments")
        // For macros made of other macros, such as UINT64_MAX.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(workspace::target())
        .allowlist_item("[Xx][Ee][Nn][Tt].*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .rust_target(minimum_rust()?)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .derive_debug(true)
        .layout_tests(true)
        .parse_callbacks(Box::new(WideMacros { signed: signed_macros(&source) }))
        .disable_header_comment()
        .formatter(bindgen::Formatter::Rustfmt)
        .generate()
        .with_context(|| format!("bindgen cannot translate {HEADER}"))?
        .to_string();
    let documented = write_comments(&bindings, &comments_of_macros(&source));
    let missing = macros_without_constant(&source, &documented);
    if !missing.is_empty() {
        bail!(
            "{HEADER}: bindgen makes no constant of {}; write the value as a plain literal",
            missing.join(", ")
        );
    }
    Ok(format!("{HEAD}\n{documented}"))
}

/// The crate's minimum Rust, which the workspace states for all members.
fn minimum_rust() -> Result<bindgen::RustTarget> {
    let version = env!("CARGO_PKG_RUST_VERSION");
    version.parse().with_context(|| format!("bindgen does not know Rust {version}"))
}

/// The names of the object-like macros that have a value.
fn macros(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.lines().enumerate().filter_map(|(number, line)| {
        let mut words = line.strip_prefix("#define ")?.split_whitespace();
        let name = words.next()?;
        words.next()?;
        Some((number, name))
    })
}

/// The comment that ends on the line above each macro; libclang attaches none to macros.
fn comments_of_macros(source: &str) -> BTreeMap<&str, String> {
    let lines: Vec<&str> = source.lines().collect();
    let comment_above = |number: usize| {
        let end = number.checked_sub(1)?;
        lines[end].trim_end().strip_suffix("*/")?;
        let start = (0..=end).rev().find(|&line| lines[line].contains("/*"))?;
        let words = lines[start..=end]
            .iter()
            .map(|line| line.trim().trim_start_matches("/*"))
            .map(|line| line.trim_end_matches("*/").trim_start_matches("* ").trim())
            .filter(|line| !line.is_empty());
        Some(words.collect::<Vec<_>>().join(" "))
    };
    macros(source).filter_map(|(number, name)| Some((name, comment_above(number)?))).collect()
}

/// bindgen carries macros as i64; this gives those beyond it their true type back.
#[derive(Debug)]
struct WideMacros {
    /// Macros that are meant to be negative.
    signed: BTreeSet<String>,
}

impl ParseCallbacks for WideMacros {
    fn int_macro(&self, name: &str, value: i64) -> Option<IntKind> {
        (value < 0 && !self.signed.contains(name)).then_some(IntKind::U64)
    }
}

fn signed_macros(source: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = source.lines().collect();
    macros(source)
        .filter(|&(number, _)| lines[number].contains('-'))
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Puts the macros' comments in front of their constants, and writes `#[doc]` as `///`.
fn write_comments(bindings: &str, of_macros: &BTreeMap<&str, String>) -> String {
    let mut documented = String::new();
    for line in bindings.lines() {
        if let Some(comment) = constant_name(line).and_then(|name| of_macros.get(name)) {
            documented.push_str(&format!("/// {}\n", escape_brackets(comment)));
        }
        match doc_attribute(line) {
            Some(comment) => {
                let indent = &line[..line.len() - line.trim_start().len()];
                for text in as_markdown(&comment) {
                    documented.push_str(format!("{indent}/// {text}").trim_end());
                    documented.push('\n');
                }
            }
            None => documented.push_str(&format!("{line}\n")),
        }
    }
    documented
}

/// A C comment's lines for rustdoc, which takes indented text for Rust and brackets for links.
fn as_markdown(comment: &str) -> Vec<String> {
    const FENCE: &str = "```";
    let mut lines: Vec<String> = Vec::new();
    let mut in_formula = false;
    for line in comment.trim().lines() {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let formula = line.strip_prefix("    ");
        if formula.is_some() && !in_formula {
            lines.push(format!("{FENCE}text"));
        } else if formula.is_none() && in_formula {
            lines.push(FENCE.to_owned());
        }
        in_formula = formula.is_some();
        lines.push(formula.map_or_else(|| escape_brackets(line), str::to_owned));
    }
    if in_formula {
        lines.push(FENCE.to_owned());
    }
    lines
}

fn escape_brackets(line: &str) -> String {
    let escape = |(position, part): (usize, &str)| {
        let is_code = position % 2 == 1;
        if is_code { part.to_owned() } else { part.replace('[', "\\[").replace(']', "\\]") }
    };
    let parts: Vec<String> = line.split('`').enumerate().map(escape).collect();
    parts.join("`")
}

/// The text of a line `#[doc = "text"]`.
fn doc_attribute(line: &str) -> Option<String> {
    let literal = line.trim().strip_prefix("#[doc = ")?.strip_suffix(']')?;
    let text: syn::LitStr = syn::parse_str(literal).ok()?;
    Some(text.value())
}

fn macros_without_constant<'a>(source: &'a str, bindings: &str) -> Vec<&'a str> {
    macros(source)
        .map(|(_, name)| name)
        .filter(|name| !bindings.lines().any(|line| constant_name(line) == Some(name)))
        .collect()
}

fn constant_name(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("pub const ")?.split_once(':')?;
    Some(name)
}

fn changed_lines(present: &str, generated: &str) -> String {
    const SHOWN: usize = 40;
    let diff = TextDiff::from_lines(present, generated);
    let changes: Vec<String> = diff
        .iter_all_changes()
        .filter_map(|change| match change.tag() {
            ChangeTag::Equal => None,
            ChangeTag::Delete => Some(format!("-{}", change.value().trim_end())),
            ChangeTag::Insert => Some(format!("+{}", change.value().trim_end())),
        })
        .collect();
    let rest = changes.len().saturating_sub(SHOWN);
    let mut shown = changes[..changes.len() - rest].join("\n");
    if rest > 0 {
        shown.push_str(&format!("\n... and {rest} more lines"));
    }
    shown
}
