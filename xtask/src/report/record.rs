//! The rows of a record: what their columns are called, and which values they may hold.
//!
//! benches/record/README.md is the description for readers.

use std::cmp::Ordering;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use csv::StringRecord;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The files of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Speed,
    Accuracy,
    Head,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Speed, Self::Accuracy, Self::Head];

    /// What follows the record's name in the file's.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Speed => "csv",
            Self::Accuracy => "accuracy.csv",
            Self::Head => "head.csv",
        }
    }

    pub fn columns(self) -> impl Iterator<Item = &'static str> {
        let columns = match self {
            Self::Speed => SPEED,
            Self::Accuracy => ACCURACY,
            Self::Head => HEAD,
        };
        columns.split(',')
    }

    /// Each kind has a column that the others lack.
    pub fn of(header: &StringRecord) -> Option<Self> {
        let has = |column| header.iter().any(|name| name == column);
        match () {
            () if has("tokens") => Some(Self::Head),
            () if has("inputs") => Some(Self::Accuracy),
            () if has("pass") => Some(Self::Speed),
            () => None,
        }
    }
}

const SPEED: &str = "implementation,version,device,driver,torch,sm_mhz,memory_mhz,throttle,rows,classes,\
    dtype,pass,place,variant,label_smoothing,method,l2,bytes,p20_us,p50_us,p80_us,gb_per_s,copy_bytes,\
    copy_p50_us,share_of_copy,peak_bytes,verdict,note";
const ACCURACY: &str = "implementation,version,device,rows,classes,dtype,inputs,label_smoothing,loss_abs,\
    loss_rel,gradient_abs,gradient_rel,target_gradient_rel,verdict,note";
const HEAD: &str = "implementation,version,device,tokens,hidden,classes,dtype,p20_us,p50_us,p80_us,\
    peak_bytes,verdict,note";

// ---------------------------------------------------------------- the words in columns

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Implementation {
    Smoothxent,
    TorchEager,
    TorchCompile,
    Cudnn,
    Liger,
    Quack,
    FlashAttn,
    Apex,
    TransformerEngine,
    Jax,
    Copy,
}

impl Implementation {
    pub const PEERS: [Self; 9] = [
        Self::TorchEager,
        Self::TorchCompile,
        Self::Cudnn,
        Self::Liger,
        Self::Quack,
        Self::FlashAttn,
        Self::Apex,
        Self::TransformerEngine,
        Self::Jax,
    ];
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smoothxent => "smoothxent",
            Self::TorchEager => "torch eager",
            Self::TorchCompile => "torch.compile",
            Self::Cudnn => "cuDNN",
            Self::Liger => "Liger",
            Self::Quack => "QuACK",
            Self::FlashAttn => "flash-attn",
            Self::Apex => "apex",
            Self::TransformerEngine => "Transformer Engine",
            Self::Jax => "JAX",
            Self::Copy => "copy",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Half the distance between neighbours, relative: what storing a gradient costs.
    pub fn rounding(self) -> f64 {
        let bits = match self {
            Self::Bf16 => 8,
            Self::F16 => 11,
            Self::F32 => 24,
        };
        f64::from(2).powi(-bits)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    Fused,
    Forward,
    Backward,
}

impl Pass {
    pub const ALL: [Self; 3] = [Self::Fused, Self::Forward, Self::Backward];

    pub fn words(self) -> &'static str {
        match self {
            Self::Fused => "loss and gradient",
            Self::Forward => "loss alone",
            Self::Backward => "gradient alone",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fused => "fused",
            Self::Forward => "forward",
            Self::Backward => "backward",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Apart,
    InPlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    Plain,
    Ignored30,
    Ignored90,
    Weighted,
    Misaligned,
    Padded,
    Probabilities,
    #[serde(rename = "log_softmax")]
    LogSoftmax,
    Binary,
}

impl Variant {
    /// None for the plain one.
    pub fn words(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Ignored30 => Some("30 % of rows ignored"),
            Self::Ignored90 => Some("90 % of rows ignored"),
            Self::Weighted => Some("class weights"),
            Self::Misaligned => Some("misaligned base"),
            Self::Padded => Some("padded rows"),
            Self::Probabilities => Some("target probabilities"),
            Self::LogSoftmax => Some("log-softmax"),
            Self::Binary => Some("binary, target probabilities"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Right,
    Wrong,
    NotMeasured,
    Rehearsal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    Random,
    Gap5,
    Gap10,
    Gap20,
    Gap50,
}

impl Inputs {
    pub const ALL: [Self; 5] = [Self::Random, Self::Gap5, Self::Gap10, Self::Gap20, Self::Gap50];

    pub fn words(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Gap5 => "target ahead by 5 nats",
            Self::Gap10 => "target ahead by 10 nats",
            Self::Gap20 => "target ahead by 20 nats",
            Self::Gap50 => "target ahead by 50 nats",
        }
    }
}

/// Compared as a number, 0.1 as 0.10.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing(pub f64);

impl Eq for Smoothing {}

impl Ord for Smoothing {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Smoothing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// ---------------------------------------------------------------- rows that say something

/// Rows of logits and classes; sorted by classes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    pub classes: u64,
    pub rows: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.classes)
    }
}

/// What was asked of an implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub pass: Pass,
    pub dtype: Dtype,
    pub variant: Variant,
    pub smoothing: Smoothing,
    pub place: Place,
    pub shape: Shape,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.shape, self.dtype, self.pass)?;
        if let Some(words) = self.variant.words() {
            write!(f, ", {words}")?;
        }
        if self.place == Place::InPlace {
            write!(f, ", in place")?;
        }
        write!(f, ", smoothing {}", self.smoothing.0)
    }
}

/// Which program took a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// That which times the peers, too.
    BesidePeers,
    /// The crate's own benchmark.
    Alone,
    /// The same, of a strategy that would not have been chosen.
    Pinned,
}

/// Why a time is shown and not compared, the first where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// A wrong result is no competition.
    Wrong,
    /// The host may be what was timed, which says of the device how fast it is at least.
    ByHost,
    /// It varies more than what a device does by itself.
    Unsteady,
}

impl Doubt {
    pub fn word(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::ByHost => "host",
            Self::Unsteady => "unsteady",
        }
    }
}

/// How many times as long as its 20 % quantile a steady time's 80 % quantile is at most. What is certainly of
/// the device, graphs and kernels that take longer than their launch, stays below 1.03 in all records.
pub const STEADY: f64 = 1.1;

/// How long one implementation took.
#[derive(Clone, Debug)]
pub struct Speed {
    pub implementation: Implementation,
    pub version: Option<String>,
    pub device: String,
    pub driver: Option<String>,
    pub torch: Option<String>,
    pub throttle: Option<String>,
    pub case: Case,
    pub bytes: u64,
    pub p20_us: f64,
    pub p50_us: f64,
    pub p80_us: f64,
    pub gb_per_s: f64,
    /// Of a copy beside it,
    pub copy_p50_us: Option<f64>,
    /// and its bytes a second, in GB.
    pub copy_gb_per_s: Option<f64>,
    /// Of an empty launch, beside graphs.
    pub empty_p50_us: Option<f64>,
    /// Beyond logits and targets.
    pub peak_bytes: Option<u64>,
    /// Whether that is what a compiler planned, not what was allocated.
    pub is_memory_planned: bool,
    /// Targets whose rows do not count. None where the mean is over all rows, and in records before it was stated.
    pub ignore_index: Option<i64>,
    /// None where nobody looked at the results.
    pub verdict: Option<Verdict>,
    pub source: Source,
    /// Whether the host may be what was timed,
    pub by_host: bool,
    /// and whether its clock was what timed.
    pub by_clock: bool,
    /// Whether it neither divided the gradient nor summed the losses.
    pub is_undivided: bool,
}

impl Speed {
    pub fn share_of_copy(&self) -> Option<f64> {
        self.copy_gb_per_s.map(|copy| self.gb_per_s / copy)
    }

    /// None of what can be compared.
    pub fn doubt(&self) -> Option<Doubt> {
        if self.verdict == Some(Verdict::Wrong) {
            Some(Doubt::Wrong)
        } else if self.by_host {
            Some(Doubt::ByHost)
        } else {
            (self.p80_us > STEADY * self.p20_us).then_some(Doubt::Unsteady)
        }
    }

    pub fn is_of_a_peer(&self) -> bool {
        !matches!(self.implementation, Implementation::Smoothxent | Implementation::Copy)
    }
}

/// How far one implementation was from the truth.
#[derive(Clone, Debug)]
pub struct Accuracy {
    pub implementation: Implementation,
    pub device: String,
    pub shape: Shape,
    pub dtype: Dtype,
    pub inputs: Inputs,
    /// Of records that state it.
    pub smoothing: Option<Smoothing>,
    pub loss_rel: Option<f64>,
    pub gradient_rel: Option<f64>,
    pub target_gradient_rel: Option<f64>,
    pub verdict: Option<Verdict>,
}

/// What a step of the linear layer and its loss took.
#[derive(Clone, Debug)]
pub struct Head {
    pub implementation: Implementation,
    pub version: Option<String>,
    pub device: String,
    pub tokens: u64,
    pub hidden: u64,
    pub classes: u64,
    pub dtype: Dtype,
    pub p50_us: f64,
    pub peak_bytes: Option<u64>,
    pub verdict: Option<Verdict>,
}

/// What somebody wanted to measure and could not.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    pub implementation: Implementation,
    pub kind: Kind,
    pub reason: String,
}

// ---------------------------------------------------------------- reading

/// What one file says.
#[derive(Debug)]
pub struct Rows<T> {
    pub measured: Vec<T>,
    pub missing: Vec<Missing>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { measured: Vec::new(), missing: Vec::new() }
    }
}

/// The columns of one kind of file, by their names; one that is missing is as an empty one.
trait Columns: DeserializeOwned {
    type Row;
    const KIND: Kind;
    fn common(&self) -> (Option<Implementation>, Option<Verdict>, Option<&str>);
    fn row(self, implementation: Implementation) -> Result<Self::Row>;
}

pub fn speeds(text: &str) -> Result<Rows<Speed>> {
    read::<SpeedColumns>(text)
}

pub fn accuracies(text: &str) -> Result<Rows<Accuracy>> {
    read::<AccuracyColumns>(text)
}

pub fn heads(text: &str) -> Result<Rows<Head>> {
    read::<HeadColumns>(text)
}

fn read<C: Columns>(text: &str) -> Result<Rows<C::Row>> {
    let mut rows = Rows::default();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for (columns, line) in reader.deserialize::<C>().zip(2..) {
        let columns = columns.context("cannot read a row")?;
        read_row(columns, &mut rows).with_context(|| format!("line {line}"))?;
    }
    Ok(rows)
}

fn read_row<C: Columns>(columns: C, rows: &mut Rows<C::Row>) -> Result<()> {
    let (implementation, verdict, note) = columns.common();
    let implementation = need(implementation, "implementation")?;
    match verdict {
        Some(Verdict::Rehearsal) => bail!("a rehearsal on an emulated device measures nothing"),
        Some(Verdict::NotMeasured) => {
            let reason = note.context("`note` does not say why it was not measured")?;
            let reason = without_colours(reason);
            rows.missing.push(Missing { implementation, kind: C::KIND, reason });
        }
        None | Some(Verdict::Right | Verdict::Wrong) => {
            rows.measured.push(columns.row(implementation)?)
        }
    }
    Ok(())
}

fn need<T>(value: Option<T>, column: &str) -> Result<T> {
    value.with_context(|| format!("`{column}` is missing"))
}

/// What a compiler said to a terminal.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// A time or rate, which nothing takes no time for.
fn positive(value: Option<f64>, column: &str) -> Result<f64> {
    let value = need(value, column)?;
    ensure!(value.is_finite() && value > 0.0, "`{column}` is {value}");
    Ok(value)
}

/// All three, if they are in order.
fn quantiles(p20: Option<f64>, p50: Option<f64>, p80: Option<f64>) -> Result<[f64; 3]> {
    let (p20, p50) = (positive(p20, "p20_us")?, positive(p50, "p50_us")?);
    let p80 = positive(p80, "p80_us")?;
    ensure!(p20 <= p50 && p50 <= p80, "p20, p50 and p80 are {p20}, {p50} and {p80} us");
    Ok([p20, p50, p80])
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SpeedColumns {
    implementation: Option<Implementation>,
    version: Option<String>,
    device: Option<String>,
    driver: Option<String>,
    torch: Option<String>,
    throttle: Option<String>,
    rows: Option<u64>,
    classes: Option<u64>,
    dtype: Option<Dtype>,
    pass: Option<Pass>,
    place: Option<Place>,
    variant: Option<Variant>,
    label_smoothing: Option<f64>,
    bytes: Option<u64>,
    p20_us: Option<f64>,
    p50_us: Option<f64>,
    p80_us: Option<f64>,
    copy_bytes: Option<u64>,
    copy_p50_us: Option<f64>,
    empty_p50_us: Option<f64>,
    peak_bytes: Option<u64>,
    ignore_index: Option<i64>,
    verdict: Option<Verdict>,
    note: Option<String>,
    selection: Option<String>,
    method: Option<String>,
}

/// What `method` is where the host may be what was timed, and where its clock was what timed.
const BY_HOST: &str = "host";
const BY_CLOCK: &str = "clock";

/// How the `note` begins of a peer's mode that leaves the division, and the sum of the losses, to its caller.
const UNDIVIDED: &str = "one kernel, undivided";

/// What it says of a peer whose memory nobody counted as it ran.
const MEMORY_PLANNED: &str = "memory as its compiler plans it";

/// What the crate chooses itself, in the `selection` of its own benchmark; others are pinned.
const CHOSEN: &str = "fastest";

impl Columns for SpeedColumns {
    type Row = Speed;
    const KIND: Kind = Kind::Speed;

    fn common(&self) -> (Option<Implementation>, Option<Verdict>, Option<&str>) {
        (self.implementation, self.verdict, self.note.as_deref())
    }

    fn row(self, implementation: Implementation) -> Result<Self::Row> {
        let shape =
            Shape { classes: need(self.classes, "classes")?, rows: need(self.rows, "rows")? };
        let case = Case {
            pass: need(self.pass, "pass")?,
            dtype: need(self.dtype, "dtype")?,
            variant: need(self.variant, "variant")?,
            smoothing: Smoothing(need(self.label_smoothing, "label_smoothing")?),
            place: need(self.place, "place")?,
            shape,
        };
        let bytes = need(self.bytes, "bytes")?;
        let [p20_us, p50_us, p80_us] = quantiles(self.p20_us, self.p50_us, self.p80_us)?;
        let copy = self.copy_bytes.zip(self.copy_p50_us);
        let note = self.note.unwrap_or_default();
        Ok(Speed {
            implementation,
            version: self.version,
            device: need(self.device, "device")?,
            driver: self.driver,
            torch: self.torch,
            throttle: self.throttle,
            case,
            bytes,
            p20_us,
            p50_us,
            p80_us,
            gb_per_s: gigabytes_per_second(bytes, p50_us),
            copy_p50_us: self.copy_p50_us,
            copy_gb_per_s: copy.map(|(bytes, us)| gigabytes_per_second(bytes, us)),
            empty_p50_us: self.empty_p50_us,
            peak_bytes: self.peak_bytes,
            is_memory_planned: note.contains(MEMORY_PLANNED),
            ignore_index: self.ignore_index,
            verdict: self.verdict,
            source: match self.selection.as_deref() {
                None => Source::BesidePeers,
                Some(CHOSEN) => Source::Alone,
                Some(_) => Source::Pinned,
            },
            by_host: self.method.as_deref() == Some(BY_HOST),
            by_clock: self.method.as_deref() == Some(BY_CLOCK),
            is_undivided: note.starts_with(UNDIVIDED),
        })
    }
}

fn gigabytes_per_second(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds / 1000.0
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AccuracyColumns {
    implementation: Option<Implementation>,
    device: Option<String>,
    rows: Option<u64>,
    classes: Option<u64>,
    dtype: Option<Dtype>,
    inputs: Option<Inputs>,
    label_smoothing: Option<f64>,
    loss_rel: Option<f64>,
    gradient_rel: Option<f64>,
    target_gradient_rel: Option<f64>,
    verdict: Option<Verdict>,
    note: Option<String>,
}

impl Columns for AccuracyColumns {
    type Row = Accuracy;
    const KIND: Kind = Kind::Accuracy;

    fn common(&self) -> (Option<Implementation>, Option<Verdict>, Option<&str>) {
        (self.implementation, self.verdict, self.note.as_deref())
    }

    fn row(self, implementation: Implementation) -> Result<Self::Row> {
        let errors = [self.loss_rel, self.gradient_rel, self.target_gradient_rel];
        ensure!(errors.iter().any(Option::is_some), "there is no error in it");
        ensure!(!errors.iter().flatten().any(|error| *error < 0.0), "an error is negative");
        let (rows, classes) = need(self.rows.zip(self.classes), "rows, or classes")?;
        Ok(Accuracy {
            implementation,
            device: need(self.device, "device")?,
            shape: Shape { classes, rows },
            dtype: need(self.dtype, "dtype")?,
            inputs: need(self.inputs, "inputs")?,
            smoothing: self.label_smoothing.map(Smoothing),
            loss_rel: self.loss_rel,
            gradient_rel: self.gradient_rel,
            target_gradient_rel: self.target_gradient_rel,
            verdict: self.verdict,
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HeadColumns {
    implementation: Option<Implementation>,
    version: Option<String>,
    device: Option<String>,
    tokens: Option<u64>,
    hidden: Option<u64>,
    classes: Option<u64>,
    dtype: Option<Dtype>,
    p20_us: Option<f64>,
    p50_us: Option<f64>,
    p80_us: Option<f64>,
    peak_bytes: Option<u64>,
    verdict: Option<Verdict>,
    note: Option<String>,
}

impl Columns for HeadColumns {
    type Row = Head;
    const KIND: Kind = Kind::Head;

    fn common(&self) -> (Option<Implementation>, Option<Verdict>, Option<&str>) {
        (self.implementation, self.verdict, self.note.as_deref())
    }

    fn row(self, implementation: Implementation) -> Result<Self::Row> {
        let [_, p50_us, _] = quantiles(self.p20_us, self.p50_us, self.p80_us)?;
        Ok(Head {
            implementation,
            version: self.version,
            device: need(self.device, "device")?,
            tokens: need(self.tokens, "tokens")?,
            hidden: need(self.hidden, "hidden")?,
            classes: need(self.classes, "classes")?,
            dtype: need(self.dtype, "dtype")?,
            p50_us,
            peak_bytes: self.peak_bytes,
            verdict: self.verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "device,implementation,rows,classes,dtype,pass,place,variant,label_smoothing,\
                          bytes,p20_us,p50_us,p80_us,verdict,note";
    const ROW: &str = "GPU,flash_attn,8,10,bf16,fused,in_place,plain,0.1,1000,1.5,2,2.5,right,";

    fn speed(row: &str) -> Result<Rows<Speed>> {
        speeds(&format!("{HEADER}\n{row}\n"))
    }

    #[test]
    fn columns_are_found_by_name_and_may_be_missing() {
        let rows = speed(ROW).expect("it is a record");
        let [row] = &rows.measured[..] else { panic!("{rows:?}") };
        assert_eq!(row.implementation, Implementation::FlashAttn);
        let shape = Shape { classes: 10, rows: 8 };
        assert_eq!((row.case.shape, row.case.place), (shape, Place::InPlace));
        assert_eq!((row.p50_us, row.gb_per_s), (2.0, 0.5));
        assert_eq!(
            (row.share_of_copy(), row.version.as_deref(), row.source),
            (None, None, Source::BesidePeers)
        );
    }

    #[test]
    fn a_time_is_doubted_for_its_first_reason() {
        let doubt = |row: &str| speed(row).expect("it is a record").measured[0].doubt();
        let steady = ROW.replacen("1.5,2,2.5", "1.9,2,2.05", 1);
        assert_eq!(doubt(&steady), None);
        assert_eq!(doubt(ROW), Some(Doubt::Unsteady));
        let wrong = ROW.replacen("right", "wrong", 1);
        assert_eq!(doubt(&wrong), Some(Doubt::Wrong));
        assert_eq!(doubt(&steady.replacen("right", "", 1)), None, "nobody looked");
        let by_host = format!("{HEADER},method\n{ROW},host\n");
        let by_host = speeds(&by_host).expect("it is a record");
        assert_eq!(by_host.measured[0].doubt(), Some(Doubt::ByHost));
    }

    #[test]
    fn memory_and_what_is_ignored_are_known_where_they_are_stated() {
        let of = |memory: &str, ignored: &str, note: &str| {
            let text = format!("{HEADER},peak_bytes,ignore_index\n{ROW}{note},{memory},{ignored}");
            let row = speeds(&text).expect("it is a record").measured.remove(0);
            (row.peak_bytes, row.ignore_index, row.is_memory_planned)
        };
        assert_eq!(of("", "", ""), (None, None, false));
        let planned = "on its own stream; memory as its compiler plans it";
        assert_eq!(of("4096", "-100", planned), (Some(4096), Some(-100), true));
    }

    #[test]
    fn reasons_are_read_without_colours() {
        for (said, read) in [
            ("no colours", "no colours"),
            ("\u{1b}[91m\u{1b}[1merror:\u{1b}[0m no IR", "error: no IR"),
            ("cut off \u{1b}[9", "cut off 9"),
        ] {
            assert_eq!(without_colours(said), read);
        }
    }

    #[test]
    fn what_was_not_measured_needs_a_reason_alone() {
        let rows = speed(",jax,,,,,,,,,,,,not_measured,not installed").expect("it has a reason");
        let reason = "not installed".to_owned();
        let implementation = Implementation::Jax;
        assert_eq!(rows.missing, [Missing { implementation, kind: Kind::Speed, reason }]);
        assert!(rows.measured.is_empty());
        assert!(speed(",jax,,,,,,,,,,,,not_measured,").is_err());
    }

    #[test]
    fn rows_that_cannot_be_are_refused() {
        let faults = [
            ("right", "rehearsal"),
            ("flash_attn", "flash"),
            ("in_place", "inplace"),
            ("fused", ""),
            ("1.5,2,2.5", "2,1.5,2.5"),
            ("1.5,2,2.5", "0,2,2.5"),
            ("1.5,2,2.5", ",,"),
            ("0.1", ""),
            ("GPU", ""),
        ];
        for (right, wrong) in faults {
            let row = ROW.replacen(right, wrong, 1);
            assert_ne!(row, ROW);
            assert!(speed(&row).is_err(), "{row}");
        }
        let header = "implementation,device,rows,classes,dtype,inputs,loss_rel";
        let accuracy = |row: &str| accuracies(&format!("{header}\n{row}\n"));
        let rows = accuracy("smoothxent,GPU,8,10,f32,gap50,1e-7").expect("it is a record");
        assert_eq!(rows.measured[0].shape, Shape { classes: 10, rows: 8 });
        assert!(accuracy("smoothxent,GPU,8,10,f32,gap50,").is_err());
        assert!(accuracy("smoothxent,GPU,8,10,f32,gap50,-1e-7").is_err());
        assert!(accuracy("smoothxent,GPU,8,10,f32,gap7,1e-7").is_err());
    }
}
