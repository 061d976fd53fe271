//! A measurement as a line of a table, and as a line of a CSV file.

use std::{
    error::Error,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use smoothxent::{
    Strategy,
    plan::{Geometry, Launch, RowsPlan},
};

use crate::{
    aims,
    cases::{self, Case, SMOOTHING},
    machine::{Clocks, Machine, Times},
    measure::{Measured, Quantiles},
};

/// How a case is to be solved.
#[derive(Clone, Copy)]
pub struct Asked {
    /// None for what the tuning table chooses.
    pub pinned: Option<Strategy>,
    pub plan: RowsPlan,
    pub launches: usize,
}

/// One way to solve one case, timed.
pub struct Row {
    pub case: Case,
    pub pinned: Option<Strategy>,
    pub plan: RowsPlan,
    launches: usize,
    pub time: Quantiles,
    pub copy: Quantiles,
    pub empty: Option<Quantiles>,
    method: &'static str,
    cold: bool,
}

impl Row {
    /// One for each selection, in their order.
    pub fn all(case: Case, asked: &[Asked], measured: &Measured) -> Vec<Self> {
        let each = asked.iter().zip(&measured.losses);
        let row = |(asked, &time): (&Asked, &Quantiles)| Self {
            case,
            pinned: asked.pinned,
            plan: asked.plan,
            launches: asked.launches,
            time,
            copy: measured.copy,
            empty: measured.empty,
            method: measured.method.name(),
            cold: measured.cold,
        };
        each.map(row).collect()
    }

    pub fn gigabytes_per_second(&self) -> f32 {
        self.case.bytes() as f32 / self.time.p50 / 1000.0
    }

    /// How many times as long as an empty launch it takes, if a copy takes about as little: launches are then most of
    /// the time.
    pub fn of_empty(&self) -> Option<f32> {
        let empty = self.empty?.p50;
        // Where nothing was timed, nothing is.
        let is_large = self.copy.p50 > aims::SMALL_COPY_OF_EMPTY * empty;
        (!is_large).then_some(self.time.p50 / empty)
    }

    /// Of the copy's bytes per second.
    pub fn share_of_copy(&self) -> f32 {
        self.gigabytes_per_second() / (self.copy_bytes() as f32 / self.copy.p50 / 1000.0)
    }

    fn copy_bytes(&self) -> usize {
        2 * self.case.copied_elements() * self.case.dtype.bytes()
    }

    fn selection(&self) -> String {
        self.pinned.map_or("fastest".to_owned(), |strategy| strategy.to_string())
    }

    pub const TABLE_HEADER: &str = "rows x classes   type pass     variant       strategy        p20 us      p50 us  \
                                    \x20   p80 us     GB/s  of copy";

    pub fn table_line(&self) -> String {
        let chosen = if self.pinned.is_none() { "*" } else { " " };
        format!(
            "{} {chosen}{:<9} {} {} {} {} {}",
            self.case,
            self.plan.strategy,
            number(self.time.p20, 11, 2),
            number(self.time.p50, 11, 2),
            number(self.time.p80, 11, 2),
            number(self.gigabytes_per_second(), 8, 0),
            number(self.share_of_copy(), 8, 3),
        )
    }

    /// What benches/record/README.md says of them; `cargo xtask report` finds them by name.
    const CSV_HEADER: &str = "implementation,version,device,driver,sm_mhz,memory_mhz,throttle,rows,\
        classes,dtype,pass,place,variant,label_smoothing,ignore_index,selection,strategy,kernel,launches,grid,block,\
        cluster,shared_bytes,slices,cached_packs,rows_per_warp,lanes_per_row,method,l2,bytes,p20_us,p50_us,\
        p80_us,gb_per_s,copy_bytes,copy_p20_us,copy_p50_us,copy_p80_us,share_of_copy,empty_p50_us,verdict";

    fn csv_line(&self, machine: &Machine, clocks: &Clocks) -> String {
        let RowsPlan { strategy, geometry, first, .. } = self.plan;
        let Launch { kernel, grid, block, cluster, shared_bytes, .. } = first.launch;
        let Geometry { slices, cached_packs, rows_per_warp, lanes_per_row, .. } = geometry;
        let case = &self.case;
        let time = |time: f32| number(time, 0, 3).replace('-', "");
        let empty = self.empty.map_or(String::new(), |empty| time(empty.p50));
        let fields = [
            "smoothxent".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            machine.name.replace(',', " "),
            machine.driver.replace(',', " "),
            clocks.sm_mhz.clone(),
            clocks.memory_mhz.clone(),
            clocks.throttle.clone(),
            case.rows.to_string(),
            case.classes.to_string(),
            cases::dtype_name(case.dtype).to_owned(),
            cases::pass_name(case.pass).to_owned(),
            "apart".to_owned(),
            case.variant.name().to_owned(),
            SMOOTHING.to_string(),
            case.ignore_index().map_or_else(String::new, |index| index.to_string()),
            self.selection(),
            strategy.to_string(),
            kernel.symbol().to_owned(),
            self.launches.to_string(),
            grid.to_string(),
            block.to_string(),
            cluster.to_string(),
            shared_bytes.to_string(),
            slices.to_string(),
            cached_packs.to_string(),
            rows_per_warp.to_string(),
            lanes_per_row.to_string(),
            self.method.to_owned(),
            if self.cold { "cold" } else { "warm" }.to_owned(),
            case.bytes().to_string(),
            time(self.time.p20),
            time(self.time.p50),
            time(self.time.p80),
            time(self.gigabytes_per_second()),
            self.copy_bytes().to_string(),
            time(self.copy.p20),
            time(self.copy.p50),
            time(self.copy.p80),
            time(self.share_of_copy()),
            empty,
            // Whether results are right is for the device tests to say: not known here.
            match machine.times {
                Times::Taken => "",
                Times::NotTaken => "rehearsal",
            }
            .to_owned(),
        ];
        fields.join(",")
    }
}

/// A dash where no time was taken.
pub fn number(value: f32, width: usize, decimals: usize) -> String {
    if value.is_nan() { format!("{:>width$}", "-") } else { format!("{value:>width$.decimals$}") }
}

/// A file that has every line as soon as it is known.
pub struct Csv {
    file: Option<(PathBuf, File)>,
}

impl Csv {
    pub fn create(path: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let file = File::create(path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let mut csv = Self { file: Some((path.to_owned(), file)) };
        csv.line(Row::CSV_HEADER)?;
        Ok(csv)
    }

    pub fn write(
        &mut self,
        row: &Row,
        machine: &Machine,
        clocks: &Clocks,
    ) -> Result<(), Box<dyn Error>> {
        self.line(&row.csv_line(machine, clocks))
    }

    fn line(&mut self, line: &str) -> Result<(), Box<dyn Error>> {
        if let Some((path, file)) = &mut self.file {
            writeln!(file, "{line}")
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    }
}
