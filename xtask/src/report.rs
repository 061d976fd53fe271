//! `cargo xtask report`: benches/record/ -> README.md's tables, a page of each GPU, plots.

#[path = "../../benches/fused/aims.rs"]
mod aims;
mod compare;
mod plot;
mod record;
mod shelf;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

const README: &str = "README.md";
const RECORDS: &str = "benches/record";

/// Writes README.md's tables, and plots, from the records in benches/record
#[derive(clap::Args)]
pub struct Arguments {
    /// Only check that they are what the records say
    #[arg(long)]
    check: bool,
    /// First file what `run.sh bench OUT_DIR` left as a new record
    #[arg(long, value_name = "OUT_DIR", conflicts_with = "check")]
    add: Option<PathBuf>,
    /// The commit that was measured, where OUT_DIR does not say
    #[arg(long, requires = "add")]
    commit: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace::root();
    if let Some(results) = &arguments.add {
        let filed = shelf::add(&root.join(RECORDS), results, arguments.commit.as_deref())?;
        for file in &filed.left_out {
            println!("left out {}: its columns are none of a record's", file.display());
        }
        for file in &filed.files {
            println!("filed {}", workspace::relative(file));
        }
    }
    let wanted = generate(root)?;
    let stale = stale(root, &wanted)?;
    if stale.is_empty() {
        println!("{README} and {RECORDS} are what the records say");
        return Ok(());
    }
    if arguments.check {
        let names: Vec<String> = stale.iter().map(|path| workspace::relative(path)).collect();
        bail!(
            "not what the records say: {}; run `cargo xtask report` and commit the result",
            names.join(", ")
        );
    }
    for path in stale {
        match wanted.get(&path) {
            Some(content) => {
                write(&path, content)?;
                println!("wrote {}", workspace::relative(&path));
            }
            None => {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
                println!("removed {}", workspace::relative(&path));
            }
        }
    }
    Ok(())
}

/// Every file that is written, with its content, for the records of the workspace in `root`.
fn generate(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let records = shelf::newest(&root.join(RECORDS))?;
    let mut files = BTreeMap::new();
    for record in &records {
        files.insert(record.folder.join(README), text::page(record));
        for plot in plot::all(record)? {
            files.insert(record.folder.join(plot.file), plot.svg);
        }
    }
    let readme = root.join(README);
    let mut text =
        fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    for section in &text::SECTIONS {
        text = replaced(&text, section.name, &section.text(&records, RECORDS))?;
    }
    files.insert(readme, text);
    Ok(files)
}

/// Files that are not as they should be: missing, different, or plots and pages of no record.
fn stale(root: &Path, wanted: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    let differs = |path: &PathBuf, content: &String| {
        fs::read_to_string(path).map_or(true, |present| present != *content)
    };
    let different = wanted.iter().filter(|(path, content)| differs(path, content));
    let mut stale: Vec<PathBuf> = different.map(|(path, _)| path.clone()).collect();
    for folder in shelf::entries(&root.join(RECORDS))?.iter().filter(|path| path.is_dir()) {
        let plots = folder.join(plot::FOLDER);
        let mut written = vec![folder.join(README)];
        if plots.is_dir() {
            written.extend(shelf::entries(&plots)?);
        }
        stale
            .extend(written.into_iter().filter(|path| path.exists() && !wanted.contains_key(path)));
    }
    Ok(stale)
}

fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// `text` with this between the markers of the section `name`.
fn replaced(text: &str, name: &str, section: &str) -> Result<String> {
    let start = format!("<!-- report:{name} -->");
    between(README, text, (&start, "<!-- /report -->"), section)
}

/// The text of a document with `section` between its two markers.
pub fn between(
    document: &str,
    text: &str,
    (start, end): (&str, &str),
    section: &str,
) -> Result<String> {
    let (before, rest) =
        text.split_once(start).with_context(|| format!("{document} has no {start}"))?;
    let (_, after) =
        rest.split_once(end).with_context(|| format!("{document} has no {end} after {start}"))?;
    Ok(format!("{before}{start}\n{section}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn synthetic_folder() -> PathBuf {
        workspace::root().join("xtask/tests/records")
    }

    /// Of no GPU: see xtask/tests/records/README.md.
    pub fn synthetic() -> shelf::Record {
        let mut records =
            shelf::newest(&synthetic_folder()).expect("the synthetic record is sound");
        records.pop().expect("there is one")
    }

    /// A folder below target/ without what an earlier run left.
    pub fn empty_folder(name: &str) -> PathBuf {
        let folder = workspace::target().join("report-tests").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("it can be emptied");
        }
        fs::create_dir_all(&folder).expect("it can be created");
        folder
    }

    /// A workspace with the synthetic record.
    fn workspace_of_synthetic(name: &str) -> PathBuf {
        let root = empty_folder(name);
        let (from, to) =
            (synthetic_folder().join("synthetic-gpu"), root.join(RECORDS).join("synthetic-gpu"));
        for file in shelf::entries(&from).expect("a folder") {
            let content = fs::read_to_string(&file).expect("a text");
            write(&to.join(file.file_name().expect("a name")), &content).expect("written");
        }
        let sections = text::SECTIONS.iter();
        let sections =
            sections.map(|section| format!("<!-- report:{} -->\n<!-- /report -->\n", section.name));
        write(&root.join(README), &sections.collect::<String>()).expect("written");
        root
    }

    /// From `root`.
    fn stale_in(root: &Path) -> Vec<String> {
        let wanted = generate(root).expect("it can be generated");
        let stale = stale(root, &wanted).expect("it can be compared");
        let inside =
            |path: &PathBuf| path.strip_prefix(root).map(|path| path.display().to_string());
        stale.iter().map(|path| inside(path).expect("it is in there")).collect()
    }

    #[test]
    fn what_the_records_do_not_say_is_found() {
        let root = workspace_of_synthetic("check");
        let wanted = generate(&root).expect("it can be generated");
        assert_eq!(stale_in(&root).len(), wanted.len(), "nothing is written yet");
        for (path, content) in &wanted {
            write(path, content).expect("written");
        }
        assert_eq!(stale_in(&root), [""; 0], "all is written");

        let readme = root.join(README);
        let text = fs::read_to_string(&readme).expect("written above");
        write(&readme, &text.replacen("580.65.06", "580.65.07", 1)).expect("written");
        assert_eq!(stale_in(&root), [README], "a number was changed by hand");
        write(&readme, &format!("A word before.\n{text}")).expect("written");
        assert_eq!(stale_in(&root), [""; 0], "what is outside the markers is free");

        let plot = "benches/record/synthetic-gpu/plots/bandwidth-fused-f64.svg";
        write(&root.join(plot), "<svg/>").expect("written");
        assert_eq!(stale_in(&root), [plot], "a plot of nothing");
    }

    #[test]
    fn markers_are_needed() {
        let start = "a <!-- report:speed -->";
        let replaced = |text: &str| replaced(text, "speed", "new");
        let whole = replaced(&format!("{start} old <!-- /report --> b")).expect("it has both");
        assert_eq!(whole, format!("{start}\nnew\n<!-- /report --> b"));
        assert!(replaced(start).is_err());
        assert!(replaced("a <!-- /report --> b").is_err());
    }
}
