//! The folder of records: which there are, the newest of each GPU with what it lacks of those before, and how a new
//! one is filed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use csv::{ReaderBuilder, StringRecord};

use super::compare::Speeds;
use super::record::{self, Accuracy, Dtype, Head, Kind, Missing, Pass, Rows, Source, Speed};

/// What the emulated driver's devices, and those of the tests, begin with.
const NO_GPUS: [&str; 2] = ["Emulated", "Synthetic"];

/// The record that stands for a GPU.
pub struct Record {
    /// The GPU's folder.
    pub folder: PathBuf,
    /// `2026-01-31-0123abc`.
    pub name: String,
    pub device: String,
    pub speeds: Vec<Speed>,
    pub accuracies: Vec<Accuracy>,
    pub heads: Vec<Head>,
    pub missing: Vec<Missing>,
    /// Which record the errors are of, if it has none itself.
    pub errors_of: Option<String>,
    /// The newest one of those before that has more times of others, if one has.
    pub compared_more: Option<Box<Record>>,
}

/// The newest record of each GPU in a folder of records, by the names of their folders.
pub fn newest(records: &Path) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    for folder in entries(records)?.into_iter().filter(|path| path.is_dir()) {
        let mut names = BTreeSet::new();
        for file in entries(&folder)? {
            names.extend(name_of(&file).map(|name| (measured_at(&folder, &name), name)));
        }
        let mut records = Vec::new();
        while let Some((_, name)) = names.pop_last() {
            records.push(Record::read(&folder, name)?);
        }
        let mut records = records.into_iter();
        if let Some(mut newest) = records.next() {
            records.for_each(|earlier| newest.add(earlier));
            found.push(newest);
        }
    }
    Ok(found)
}

/// The record that a file belongs to, if it is a table of one.
fn name_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    name.split_once('.').filter(|(_, suffix)| suffix.ends_with("csv")).map(|(name, _)| name.into())
}

/// When it was measured, as text that sorts: the day in its name, or, to tell two of a day apart, the time
/// in its description.
fn measured_at(folder: &Path, name: &str) -> String {
    let description = fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap_or_default();
    timestamp(&description).unwrap_or(name).to_owned()
}

/// The first line like `2026-01-31T12:34:56Z`.
fn timestamp(description: &str) -> Option<&str> {
    description.lines().map(str::trim).find(|line| {
        let (day, time) = line.split_once('T').unwrap_or_default();
        is_day(day) && time.ends_with('Z')
    })
}

fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &&str, count| part.len() == count && part.parse::<u32>().is_ok();
    matches!(&parts[..], [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
}

impl Record {
    pub fn folder_name(&self) -> String {
        self.folder.file_name().unwrap_or_default().display().to_string()
    }

    fn read(folder: &Path, name: String) -> Result<Self> {
        let file = |kind: Kind| folder.join(format!("{name}.{}", kind.suffix()));
        let speeds = read(&file(Kind::Speed), record::speeds)?;
        let accuracies = read(&file(Kind::Accuracy), record::accuracies)?;
        let heads = read(&file(Kind::Head), record::heads)?;
        let device = devices(&speeds, &accuracies, &heads).into_iter().next();
        let mut shown = speeds.measured;
        shown.retain(|speed| speed.source != Source::Pinned);
        Ok(Self {
            device: device.with_context(|| format!("{name} in {} is empty", folder.display()))?,
            folder: folder.to_owned(),
            name,
            speeds: shown,
            accuracies: accuracies.measured,
            heads: heads.measured,
            missing: [speeds.missing, accuracies.missing, heads.missing].concat(),
            errors_of: None,
            compared_more: None,
        })
    }

    /// The one to draw a plot from: this one, unless that with more comparisons has more shapes, too, and this
    /// one is not alone in comparing such passes.
    pub fn drawn(&self, pass: Pass, dtype: Dtype) -> &Self {
        let of = |record: &Self| {
            let speeds = Speeds::of(&record.speeds);
            (speeds.shapes(pass, dtype).len(), !speeds.peers_beside(pass, dtype).is_empty())
        };
        let (shapes, compared) = of(self);
        let is_better =
            |(more_shapes, also_compared)| more_shapes > shapes && (also_compared || !compared);
        self.compared_more.as_deref().filter(|earlier| is_better(of(earlier))).unwrap_or(self)
    }

    /// What this one lacks of an earlier one. Times of one record stand beside each other only.
    fn add(&mut self, mut earlier: Self) {
        if self.accuracies.is_empty() && !earlier.accuracies.is_empty() {
            self.accuracies = std::mem::take(&mut earlier.accuracies);
            self.errors_of = Some(earlier.name.clone());
            let of_errors = |missing: &&Missing| missing.kind == Kind::Accuracy;
            self.missing.extend(earlier.missing.iter().filter(of_errors).cloned());
        }
        let compared =
            |record: &Self| record.speeds.iter().filter(|row| row.is_of_a_peer()).count();
        if self.compared_more.is_none() && compared(&earlier) > compared(self) {
            self.compared_more = Some(Box::new(earlier));
        }
    }
}

fn devices(
    speeds: &Rows<Speed>,
    accuracies: &Rows<Accuracy>,
    heads: &Rows<Head>,
) -> BTreeSet<String> {
    let of_speeds = speeds.measured.iter().map(|row| &row.device);
    let of_accuracies = accuracies.measured.iter().map(|row| &row.device);
    let of_heads = heads.measured.iter().map(|row| &row.device);
    of_speeds.chain(of_accuracies).chain(of_heads).cloned().collect()
}

/// Nothing where there is no such file.
fn read<T>(file: &Path, parse: fn(&str) -> Result<Rows<T>>) -> Result<Rows<T>> {
    if !file.exists() {
        return Ok(Rows::default());
    }
    parse(&text(file)?).with_context(|| format!("cannot use {}", file.display()))
}

fn text(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort();
    Ok(entries)
}

// ---------------------------------------------------------------- filing

/// What was filed, and which tables of the folder are none of a record.
pub struct Filed {
    pub files: Vec<PathBuf>,
    pub left_out: Vec<PathBuf>,
}

/// Files what `run.sh bench` left in `results` among `records`. `commit` is asked where the results do not
/// say which one was measured.
pub fn add(records: &Path, results: &Path, commit: Option<&str>) -> Result<Filed> {
    let mut tables = Kind::ALL.map(|kind| (kind, Table::of(kind)));
    let mut left_out = Vec::new();
    let is_csv = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "csv");
    for file in entries(results)?.into_iter().filter(is_csv) {
        let content = text(&file)?;
        if content.trim().is_empty() {
            continue;
        }
        let mut reader = ReaderBuilder::new().from_reader(content.as_bytes());
        let header = reader.headers().context("no header")?.clone();
        let Some(kind) = Kind::of(&header) else {
            left_out.push(file);
            continue;
        };
        check(kind, &content).with_context(|| format!("{} is no record", file.display()))?;
        let (_, table) = tables.iter_mut().find(|(of, _)| *of == kind).context("each has one")?;
        for row in reader.records() {
            table.push(&header, &row.with_context(|| format!("cannot read {}", file.display()))?);
        }
    }
    let [(_, speeds), (_, accuracies), (_, heads)] = &tables;
    let devices = devices(
        &record::speeds(&speeds.csv()?)?,
        &record::accuracies(&accuracies.csv()?)?,
        &record::heads(&heads.csv()?)?,
    );
    let mut devices = devices.iter();
    let (Some(device), None) = (devices.next(), devices.next()) else {
        bail!("{} does not hold the results of one device", results.display());
    };
    if NO_GPUS.iter().any(|start| device.starts_with(start)) {
        bail!("`{device}` is no GPU: its times mean nothing");
    }

    let description = text(&results.join(DESCRIPTION))?;
    let time = timestamp(&description)
        .with_context(|| format!("{DESCRIPTION} does not say when it was measured"))?;
    let day = &time[..time.find('T').unwrap_or(time.len())];
    let stated = description.lines().find_map(|line| line.strip_prefix(COMMIT));
    let commit = commit.or(stated.map(str::trim)).with_context(|| {
        format!("{DESCRIPTION} has no line `{COMMIT}...`; give it with --commit")
    })?;
    ensure!(
        !commit.is_empty() && commit.chars().all(|character| character.is_ascii_hexdigit()),
        "`{commit}` is no commit; give the one that was measured with --commit"
    );

    let folder = records.join(slug(device));
    let name = format!("{day}-{commit}");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut files = vec![(format!("{name}.txt"), description)];
    for (kind, table) in &tables {
        if !table.rows.is_empty() {
            files.push((format!("{name}.{}", kind.suffix()), table.csv()?));
        }
    }
    let files: Vec<(PathBuf, String)> =
        files.into_iter().map(|(name, content)| (folder.join(name), content)).collect();
    if let Some((present, _)) = files.iter().find(|(path, _)| path.exists()) {
        bail!("{} is there; remove it first if this is a better one", present.display());
    }
    for (path, content) in &files {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Filed { files: files.into_iter().map(|(path, _)| path).collect(), left_out })
}

/// What run.sh writes of the machine and the build, and how the line of the commit begins.
const DESCRIPTION: &str = "machine.txt";
const COMMIT: &str = "commit: ";

fn check(kind: Kind, content: &str) -> Result<()> {
    match kind {
        Kind::Speed => record::speeds(content).map(drop),
        Kind::Accuracy => record::accuracies(content).map(drop),
        Kind::Head => record::heads(content).map(drop),
    }
}

/// `NVIDIA H100 80GB HBM3` as the name of a folder.
fn slug(device: &str) -> String {
    let words = device.split(|character: char| !character.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

/// Rows of several files under the union of their columns.
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<(usize, String)>>,
}

impl Table {
    fn of(kind: Kind) -> Self {
        let columns = kind.columns().map(str::to_owned);
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    fn push(&mut self, header: &StringRecord, row: &StringRecord) {
        let cells = header.iter().zip(row);
        let cells = cells.map(|(name, value)| (self.column(name), value.to_owned()));
        let cells = cells.collect();
        self.rows.push(cells);
    }

    fn column(&mut self, name: &str) -> usize {
        self.columns.iter().position(|column| column == name).unwrap_or_else(|| {
            self.columns.push(name.to_owned());
            self.columns.len() - 1
        })
    }

    fn csv(&self) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            let mut cells = vec![""; self.columns.len()];
            for (column, value) in row {
                cells[*column] = value;
            }
            writer.write_record(&cells)?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{empty_folder, synthetic_folder};

    const MACHINE: &str = "commit: 0123abc\nrustc: 1.88\n2026-02-03T04:05:06Z\nLinux\n";

    /// What run.sh leaves: times of two programs, errors, and a table that is none of a record.
    fn results(name: &str, device: &str) -> PathBuf {
        let folder = empty_folder(name);
        let write = |file: &str, content: &str| {
            fs::write(folder.join(file), content.replace("Synthetic GPU", device))
                .expect("written");
        };
        let row = "f32,fused,apart,plain,0.1,1000,1,2,3,smoothxent,Synthetic GPU";
        let header = "rows,classes,dtype,pass,place,variant,label_smoothing,bytes,p20_us,p50_us,p80_us,\
                      implementation,device";
        write(
            "fused.csv",
            &format!("{header},selection,grid\n8,10,{row},fastest,7\n8,10,{row},warp,9\n"),
        );
        write("peers.csv", &format!("{header},verdict\n4,10,{row},right\n"));
        write(
            "errors.csv",
            "implementation,device,rows,classes,dtype,inputs,loss_rel\n\
                             smoothxent,Synthetic GPU,8,10,f32,random,1e-8\n",
        );
        write("compare.csv", "instruction,worst\nex2,1\n");
        write("empty.csv", "");
        write(DESCRIPTION, MACHINE);
        folder
    }

    #[test]
    fn results_are_filed_by_device_day_and_commit() {
        let (results, records) =
            (results("add/results", "NVIDIA H100 80GB HBM3"), empty_folder("add/records"));
        let filed = add(&records, &results, None).expect("it is filed");
        let folder = records.join("nvidia-h100-80gb-hbm3");
        let file = |suffix: &str| folder.join(format!("2026-02-03-0123abc.{suffix}"));
        assert_eq!(filed.files, ["txt", "csv", "accuracy.csv"].map(file));
        assert_eq!(filed.left_out, [results.join("compare.csv")]);
        assert_eq!(text(&file("txt")).expect("it is there"), MACHINE);

        let newest = newest(&records).expect("they are read");
        let [record] = &newest[..] else { panic!("one GPU") };
        assert_eq!(record.device, "NVIDIA H100 80GB HBM3");
        let rows: Vec<u64> = record.speeds.iter().map(|speed| speed.case.shape.rows).collect();
        assert_eq!(rows, [8, 4], "of both programs, without the pinned strategy");
        assert_eq!((record.accuracies.len(), record.heads.len()), (1, 0));

        let again = add(&records, &results, None).err().map(|error| error.to_string());
        assert!(again.expect("it is there already").contains("is there; remove it first"));
        add(&records, &results, Some("4567def")).expect("another commit");
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        let records = empty_folder("refused/records");
        for device in ["Emulated sm_90", "Synthetic GPU"] {
            let refused = add(&records, &results("refused/results", device), None);
            assert!(
                refused.is_err_and(|error| error.to_string().contains("is no GPU")),
                "{device}"
            );
        }
        let results = results("refused/results", "GPU");
        for (file, right, wrong) in [
            ("peers.csv", ",right", ",rehearsal"),
            ("peers.csv", "GPU,right", "other GPU,right"),
            ("errors.csv", "1e-8", "small"),
            (DESCRIPTION, "0123abc", "0123abc-modified"),
            (DESCRIPTION, "2026-02-03T04:05:06Z", "today"),
        ] {
            let path = results.join(file);
            let before = text(&path).expect("it is there");
            assert!(before.contains(right));
            fs::write(&path, before.replace(right, wrong)).expect("written");
            assert!(add(&records, &results, None).is_err(), "{file}: {wrong}");
            fs::write(&path, before).expect("written");
        }
        assert!(entries(&records).expect("a folder").is_empty(), "nothing is left of them");
        add(&records, &results, None).expect("as it was");
    }

    #[test]
    fn the_newest_record_of_each_gpu_is_shown() {
        let records = empty_folder("newest");
        let source = synthetic_folder().join("synthetic-gpu");
        let copy = |gpu: &str, name: &str, time: &str| {
            let folder = records.join(gpu);
            fs::create_dir_all(&folder).expect("created");
            let from = source.join("2026-01-31-0123abc.head.csv");
            fs::copy(from, folder.join(format!("{name}.head.csv"))).expect("copied");
            fs::write(folder.join(format!("{name}.txt")), time).expect("written");
        };
        copy("a", "2026-01-31-fff", "2026-01-31T01:00:00Z\n");
        copy("a", "2026-01-31-000", "commit: 000\n2026-01-31T02:00:00Z\n");
        copy("a", "2025-12-31-fff", "2025-12-31T23:00:00Z\n");
        copy("b", "2024-01-01-abc", "2024-01-01T00:00:00Z\n");
        let newest = newest(&records).expect("they are read");
        let names: Vec<&str> = newest.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["2026-01-31-000", "2024-01-01-abc"]);
    }

    /// Of an earlier record with more comparisons, unless only the newest compares such passes.
    #[test]
    fn what_is_drawn_has_more_shapes_and_no_fewer_peers() {
        let folder = synthetic_folder().join("synthetic-gpu");
        let read = || Record::read(&folder, "2026-01-31-0123abc".into()).expect("it is sound");
        let (mut newest, earlier) = (read(), read());
        newest.name = "newest".into();
        newest.speeds.retain(|row| row.case.shape.classes == 32_000);
        newest.compared_more = Some(Box::new(earlier));
        let drawn = |record: &Record| record.drawn(Pass::Fused, Dtype::Bf16).name.clone();
        assert_eq!(drawn(&newest), "2026-01-31-0123abc");
        let earlier = newest.compared_more.as_mut().expect("set above");
        earlier.speeds.retain(|row| !row.is_of_a_peer());
        assert_eq!(drawn(&newest), "newest");
    }

    /// Errors, and comparisons, of the newest of those before that have more.
    #[test]
    fn what_the_newest_lacks_is_an_earlier_ones() {
        let records = empty_folder("earlier");
        let source = synthetic_folder().join("synthetic-gpu");
        let folder = records.join("a");
        fs::create_dir_all(&folder).expect("created");
        for (name, suffixes) in [
            ("2026-01-29-aaa", &["csv", "accuracy.csv"][..]),
            ("2026-01-30-bbb", &["csv", "accuracy.csv"]),
            ("2026-01-31-ccc", &["head.csv"]),
        ] {
            for suffix in suffixes {
                let from = source.join(format!("2026-01-31-0123abc.{suffix}"));
                fs::copy(from, folder.join(format!("{name}.{suffix}"))).expect("copied");
            }
        }
        let errors = folder.join("2026-01-30-bbb.accuracy.csv");
        let mut text = fs::read_to_string(&errors).expect("read");
        let header = text.lines().next().expect("a header").to_owned();
        let cell = |column| match column {
            "implementation" => "apex",
            "verdict" => "not_measured",
            "note" => "not installed",
            _ => "",
        };
        text.push_str(&header.split(',').map(cell).collect::<Vec<_>>().join(","));
        fs::write(&errors, text).expect("written");
        let newest = newest(&records).expect("they are read");
        let [record] = &newest[..] else { panic!("one GPU") };
        assert_eq!(record.name, "2026-01-31-ccc");
        assert!(record.speeds.is_empty() && !record.accuracies.is_empty());
        assert_eq!(record.errors_of.as_deref(), Some("2026-01-30-bbb"));
        assert!(record.missing.iter().any(|missing| missing.kind == Kind::Accuracy));
        let compared = record.compared_more.as_ref().expect("it compared none itself");
        assert_eq!(compared.name, "2026-01-30-bbb");
    }
}
