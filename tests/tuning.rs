//! The tuning table beside the record that it names: of each problem that was measured with every strategy,
//! the plan takes one of the fastest, with the gradient and, of rows that fill the device, without it.

use std::{collections::BTreeMap, fs};

use smoothxent::{
    LossConfig, Selection, Shape,
    plan::{self, Plan, Provenance, devices},
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

/// Where records lie.
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/record");

/// How much slower than the fastest one may be, with the gradient and without, and all of them in the mean. What limits
/// it are problems in which the boundaries of the table would have to be others.
const FUSED: f64 = 1.05;
const FORWARD: f64 = 1.07;
const MEAN: f64 = 1.01;

/// Fewer rows leave multiprocessors of an H200 idle: without the gradient split_row is faster there by a microsecond or
/// two (of five, 64 x 128,256 in f32), in two launches.
const FILL_THE_DEVICE: usize = 132;

#[test]
fn the_chosen_strategy_is_among_the_fastest_that_were_measured() {
    let record = match chosen((8192, 32_000), Dtype::Bf16, Pass::Fused).1 {
        Provenance::Measured { record, .. } => record,
        Provenance::Predicted => panic!("the table has a record of this device"),
    };
    let text = fs::read_to_string(format!("{RECORDS}/{record}")).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name| header.iter().position(|&found| found == name).unwrap();
    let (rows, classes, dtype) = (column("rows"), column("classes"), column("dtype"));
    let (pass, selection, strategy) = (column("pass"), column("selection"), column("strategy"));
    let time = column("p50_us");

    // By rows, classes, dtype and pass: the time of each strategy.
    let mut measured = BTreeMap::<_, BTreeMap<&str, f64>>::new();
    let lines: Vec<_> = lines.collect();
    // Others' notes have commas of their own.
    let own = lines.iter().filter(|line| line[0] == "smoothxent");
    for line in own.filter(|line| !line[selection].is_empty()) {
        if !["fused", "forward"].contains(&line[pass]) {
            continue;
        }
        let problem = (line[rows], line[classes], line[dtype], line[pass]);
        let one: f64 = line[time].parse().unwrap();
        let time = measured.entry(problem).or_default().entry(line[strategy]).or_insert(one);
        *time = time.min(one);
    }
    // The others were timed beside other implementations, with the strategy of that time alone.
    measured.retain(|_, times| times.len() > 1);
    for (one, least) in [("fused", 90), ("forward", 50)] {
        let problems = measured.keys().filter(|(.., pass)| *pass == one).count();
        assert!(problems >= least, "{problems} problems of {one}");
    }

    let mut ratios = Vec::new();
    for ((rows, classes, dtype, pass), times) in &measured {
        let shape = (rows.parse().unwrap(), classes.parse().unwrap());
        let of = if *pass == "fused" { Pass::Fused } else { Pass::Forward };
        let strategy = chosen(shape, dtype_of(dtype), of).0;
        let (fastest, of_fastest) = times.iter().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        let Some(of_chosen) = times.get(&*strategy) else {
            panic!("{rows} x {classes}: {strategy} not timed");
        };
        let ratio = of_chosen / of_fastest;
        println!(
            "{ratio:.3} {rows} x {classes} {dtype} {pass}: {strategy}, the fastest is {fastest}"
        );
        let most = match of {
            Pass::Forward if shape.0 < FILL_THE_DEVICE => continue,
            Pass::Forward => FORWARD,
            Pass::Fused | Pass::Backward => FUSED,
        };
        assert!(
            ratio <= most,
            "{shape:?} {dtype} {pass}: {strategy} takes {ratio:.3} of {fastest}"
        );
        ratios.push(ratio);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean <= MEAN, "{mean:.4} in the mean");
}

/// The strategy's name, and where the numbers that it was chosen by are from.
fn chosen((rows, classes): (usize, usize), dtype: Dtype, pass: Pass) -> (String, Provenance) {
    let types = Types { dtype, targets: TargetType::I64, class_weights: ClassWeighting::Absent };
    let (shape, config) = (Shape::contiguous(rows, classes), LossConfig::default());
    let problem = Problem::new(types, shape, config, pass, Place::Apart).unwrap();
    match plan::choose(&problem, &devices::H200.properties, Selection::Fastest).unwrap() {
        Plan::Launches { rows, .. } => (rows.strategy.to_string(), rows.reasons.provenance),
        Plan::Empty { .. } => panic!("there are rows"),
    }
}

fn dtype_of(name: &str) -> Dtype {
    match name {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        "bf16" => Dtype::Bf16,
        other => panic!("no dtype {other}"),
    }
}
