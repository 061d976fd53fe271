//! The tuning table beside the record that it names: of each problem that was measured with every strategy,
//! the plan takes one of the fastest. One strategy serves the loss with and without its gradient, which have to have
//! the same bits: where another one is faster with it, that one has to be slower in the sum of both.

use std::{collections::BTreeMap, fs};

use smoothxent::{
    LossConfig, Selection, Shape,
    plan::{self, Plan, Provenance, devices},
    problem::{ClassWeighting, Dtype, Pass, Place, Problem, TargetType, Types},
};

/// Where records lie.
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/record");

/// How much slower than the fastest one may be, and all of them in the mean. What limits it are problems in
/// which the boundaries of the table would have to be others.
const ONE: f64 = 1.07;
const MEAN: f64 = 1.01;

#[test]
fn the_chosen_strategy_is_among_the_fastest_that_were_measured() {
    let record = match chosen((8192, 32_000), Dtype::Bf16).1 {
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

    // By rows, classes and dtype: the times of each strategy, of both passes together and of the first alone.
    let mut measured = BTreeMap::<_, BTreeMap<&str, [Option<f64>; 2]>>::new();
    let lines: Vec<_> = lines.collect();
    // Others' notes have commas of their own.
    let own = lines.iter().filter(|line| line[0] == "smoothxent");
    for line in own.filter(|line| !line[selection].is_empty()) {
        let pass = match line[pass] {
            "fused" => 0,
            "forward" => 1,
            _ => continue,
        };
        let of = measured.entry((line[rows], line[classes], line[dtype])).or_default();
        let one: f64 = line[time].parse().unwrap();
        let time = &mut of.entry(line[strategy]).or_default()[pass];
        *time = Some(time.map_or(one, |time| time.min(one)));
    }
    let measured: BTreeMap<_, BTreeMap<_, [f64; 2]>> = measured
        .into_iter()
        .map(|(problem, of)| {
            let both = |times: [Option<f64>; 2]| Some([times[0]?, times[1]?]);
            let times = of.into_iter().filter_map(|(name, times)| Some((name, both(times)?)));
            (problem, times.collect::<BTreeMap<_, _>>())
        })
        // The others were timed beside other implementations, with the strategy of that time alone.
        .filter(|(_, times)| times.len() > 1)
        .collect();
    assert!(measured.len() >= 90, "{} problems", measured.len());

    let mut ratios = Vec::new();
    for ((rows, classes, dtype), times) in &measured {
        let shape = (rows.parse().unwrap(), classes.parse().unwrap());
        let strategy = chosen(shape, dtype_of(dtype)).0;
        let (fastest, of_fastest) = times.iter().min_by(|a, b| a.1[0].total_cmp(&b.1[0])).unwrap();
        let Some(of_chosen) = times.get(&*strategy) else {
            panic!("{rows} x {classes}: {strategy} not timed");
        };
        let sum = |[fused, forward]: [f64; 2]| fused + forward;
        let ratio = match of_chosen[0] / of_fastest[0] {
            slower if slower > ONE && sum(*of_chosen) <= sum(*of_fastest) => 1.0,
            ratio => ratio,
        };
        println!("{ratio:.3} {rows} x {classes} {dtype}: {strategy}, the fastest is {fastest}");
        assert!(
            ratio <= ONE,
            "{rows} x {classes} {dtype}: {strategy} takes {ratio:.3} of {fastest}"
        );
        ratios.push(ratio);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(mean <= MEAN, "{mean:.4} in the mean");
}

/// The strategy's name, and where the numbers that it was chosen by are from.
fn chosen((rows, classes): (usize, usize), dtype: Dtype) -> (String, Provenance) {
    let types = Types { dtype, targets: TargetType::I64, class_weights: ClassWeighting::Absent };
    let (shape, config) = (Shape::contiguous(rows, classes), LossConfig::default());
    let problem = Problem::new(types, shape, config, Pass::Fused, Place::Apart).unwrap();
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
