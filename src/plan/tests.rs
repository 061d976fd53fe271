use super::{devices::Device, *};
use crate::{
    config::{
        BinaryConfig, Divisor, Divisors, EmptyMean, LossConfig, Reduction, Smoothing, WeightedTerms,
    },
    error::Obstacle,
    problem::{ClassWeighting, LogSoftmaxShape, Place, Shape, TargetType, Types},
};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
const PASSES: [Pass; 3] = [Pass::Forward, Pass::Backward, Pass::Fused];
const INDICES: Types =
    Types { dtype: Dtype::Bf16, targets: TargetType::I64, class_weights: ClassWeighting::Absent };

pub(super) fn problem(rows: usize, classes: usize) -> Problem {
    of(INDICES, (rows, classes), LossConfig::default(), Pass::Fused)
}

fn of(types: Types, (rows, classes): (usize, usize), config: LossConfig, pass: Pass) -> Problem {
    Problem::new(types, Shape::contiguous(rows, classes), config, pass, Place::Apart).unwrap()
}

fn fastest(problem: &Problem, device: &Device) -> RowsPlan {
    rows_of(choose(problem, &device.properties, Selection::Fastest).unwrap())
}

fn rows_of(plan: Plan) -> RowsPlan {
    match plan {
        Plan::Launches { rows, .. } => rows,
        Plan::Empty { .. } => panic!("there are rows"),
    }
}

fn normalizer_of(plan: Plan) -> Normalizer {
    match plan {
        Plan::Launches { normalizer, .. } => normalizer,
        Plan::Empty { .. } => panic!("there are rows"),
    }
}

fn selections() -> impl Iterator<Item = Selection> {
    let asked = Strategy::ALL.into_iter();
    [Selection::Fastest]
        .into_iter()
        .chain(asked.clone().map(Selection::Pinned))
        .chain(asked.map(Selection::Preferred))
}

/// Devices that are less than their kind: no clusters to be had, grids of two blocks, and kernels that were compiled
/// for older ones.
fn all_devices() -> Vec<Device> {
    let mut all = devices::ALL.to_vec();
    for device in [devices::H100, devices::A100, devices::RTX_5090] {
        let small = DeviceProperties { max_grid: 2, ..device.properties };
        all.push(Device { properties: small, ..device });
        let older = DeviceProperties { compiled_for: (7, 5), ..device.properties };
        all.push(Device { properties: older, ..device });
        for largest_cluster in [1, 2, 4] {
            let properties = device.properties;
            let l2_bytes = properties.l2_bytes / properties.multiprocessors * 16;
            let partition =
                DeviceProperties { largest_cluster, multiprocessors: 16, l2_bytes, ..properties };
            all.push(Device { properties: partition, ..device });
            let without_l2 = DeviceProperties { l2_bytes: 0, ..partition };
            all.push(Device { properties: without_l2, ..device });
        }
    }
    all
}

#[test]
fn no_rows_launch_nothing() {
    let loss = |config| {
        let problem = of(INDICES, (0, 10), config, Pass::Fused);
        match choose(&problem, &devices::T4.properties, Selection::Fastest).unwrap() {
            Plan::Empty { loss } => loss,
            Plan::Launches { .. } => panic!("there are no rows"),
        }
    };
    let mean = LossConfig::default();
    assert_eq!(loss(LossConfig { reduction: Reduction::Sum, ..mean }), 0.0);
    for divisor in [Divisor::TargetWeights, Divisor::CountedRows, Divisor::AllRows] {
        let divisors = Divisors::all(divisor);
        assert!(loss(LossConfig { divisors, ..mean }).is_nan());
        assert_eq!(loss(LossConfig { divisors, empty_mean: EmptyMean::Zero, ..mean }), 0.0);
    }
    let divisors = Divisors::all(Divisor::Given(8.0));
    assert_eq!(loss(LossConfig { divisors, ..mean }), 0.0);
}

#[test]
fn only_a_mean_with_ignored_rows_counts() {
    let counts = |rows, reduction, ignore_index| {
        let config = LossConfig { reduction, ignore_index, ..LossConfig::default() };
        let problem = of(INDICES, (rows, 1000), config, Pass::Fused);
        normalizer_of(choose(&problem, &devices::H200.properties, Selection::Fastest).unwrap())
    };
    for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
        assert_eq!(counts(5, reduction, None), Normalizer::Host);
    }
    for reduction in [Reduction::None, Reduction::Sum] {
        assert_eq!(counts(5, reduction, Some(0)), Normalizer::Host);
    }
    let most = abi::XENT_MAX_COUNTED_ROWS as usize;
    for rows in [1, most - 1, most] {
        assert_eq!(counts(rows, Reduction::Mean, Some(0)), Normalizer::Rows);
    }
    // Of 8,192 rows each; at most one on each of 132 multiprocessors.
    for (rows, expected) in [(most + 1, 1), (8192, 1), (8193, 2), (1 << 20, 128), (1 << 30, 132)] {
        let Normalizer::Launch(launch) = counts(rows, Reduction::Mean, Some(0)) else {
            panic!("{rows} rows are counted in a launch of their own");
        };
        assert_eq!(launch.grid, expected, "{rows} rows");
    }
}

/// Of f32 alone, which was measured.
#[test]
fn a_row_has_a_multiprocessor_where_much_would_be_read_again() {
    let strategy = |device: &devices::Device, dtype, classes, pass| {
        let types = Types { dtype, ..INDICES };
        fastest(&of(types, (8192, classes), LossConfig::default(), pass), device).strategy
    };
    let h200 = &devices::H200;
    // Two rows of 112 KiB fit a multiprocessor, one of 226; a sixth of 60 MiB is 39,718 bytes of each of 264 rows.
    let from = (112 * 1024 + 39_718) / 4;
    for (classes, expected) in [
        (28_672, Strategy::Block),
        (28_676, Strategy::TwoPass),
        (32_000, Strategy::TwoPass),
        (from - 8, Strategy::TwoPass),
        (from + 8, Strategy::Block),
        (50_257, Strategy::Block),
        (57_856, Strategy::Block),
    ] {
        for pass in [Pass::Fused, Pass::Forward] {
            assert_eq!(strategy(h200, Dtype::F32, classes, pass), expected, "{classes} classes");
        }
    }
    assert_eq!(strategy(h200, Dtype::F32, 57_860, Pass::Fused), Strategy::Cluster);
    assert_eq!(strategy(h200, Dtype::F32, 57_860, Pass::Forward), Strategy::TwoPass);
    assert_eq!(strategy(h200, Dtype::Bf16, 100_000, Pass::Fused), Strategy::TwoPass);
    for (device, classes) in
        [(&devices::A100, 40_000), (&devices::B200, 45_000), (&devices::RTX_5090, 24_000)]
    {
        assert_eq!(strategy(device, Dtype::F32, classes, Pass::Fused), Strategy::TwoPass);
    }
}

/// As measured: the plain loss of many rows that are whole packs.
#[test]
fn tiny_takes_whole_packs_further() {
    let strategy = |types, rows, classes| {
        let problem = of(types, (rows, classes), LossConfig::default(), Pass::Fused);
        fastest(&problem, &devices::H200).strategy
    };
    let half = Types { dtype: Dtype::Bf16, ..INDICES };
    for (classes, expected) in [
        (128, Strategy::Tiny),
        (129, Strategy::Warp),
        (136, Strategy::Tiny),
        (255, Strategy::Warp),
        (256, Strategy::Tiny),
        (264, Strategy::Warp),
    ] {
        assert_eq!(strategy(half, 1 << 16, classes), expected, "{classes} classes");
    }
    // Rows with gaps are no run of packs: tiny would copy element by element.
    for padded in [
        Shape { logits_row_stride: 264, ..Shape::contiguous(1 << 16, 256) },
        Shape { gradient_row_stride: 264, ..Shape::contiguous(1 << 16, 256) },
    ] {
        for pass in [Pass::Fused, Pass::Forward] {
            let problem = Problem::new(half, padded, LossConfig::default(), pass, Place::Apart);
            let rows = fastest(&problem.unwrap(), &devices::H200);
            assert_eq!(rows.strategy, Strategy::Warp, "{padded:?}");
        }
    }
    // Of few rows, of f32, and with class weights it was not.
    assert_eq!(strategy(half, 1000, 256), Strategy::Warp);
    assert_eq!(strategy(Types { dtype: Dtype::F32, ..INDICES }, 1 << 16, 132), Strategy::Warp);
    let weighted = Types { class_weights: ClassWeighting::Given, ..half };
    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
    let problem = of(weighted, (1 << 16, 256), config, Pass::Fused);
    assert_eq!(fastest(&problem, &devices::H200).strategy, Strategy::Warp);
}

/// As far as 16 lanes keep a row.
#[test]
fn probabilities_of_few_classes_share_a_warp() {
    let of_probabilities = |dtype, classes, selection| {
        let types = Types { dtype, targets: TargetType::Probabilities(dtype), ..INDICES };
        let problem = of(types, (1 << 16, classes), LossConfig::default(), Pass::Fused);
        choose(&problem, &devices::H200.properties, selection).map(rows_of)
    };
    let strategy =
        |dtype, classes| of_probabilities(dtype, classes, Selection::Fastest).unwrap().strategy;
    for (dtype, up_to) in [(Dtype::Bf16, 512), (Dtype::F32, 256)] {
        for classes in [1, 10, up_to] {
            assert_eq!(strategy(dtype, classes), Strategy::Warp, "{dtype:?}, {classes} classes");
        }
        assert_eq!(strategy(dtype, up_to + 1), Strategy::Block, "{dtype:?}");
    }
    let pinned = Selection::Pinned(Strategy::Warp);
    let rows = of_probabilities(Dtype::F16, 1024, pinned).unwrap();
    assert_eq!(rows.geometry.lanes_per_row, WARP_SIZE);
    let (strategy, obstacle) = (Strategy::Warp, Obstacle::Packs { packs: 129, most: 128 });
    let refused = of_probabilities(Dtype::F16, 1025, pinned).map(|rows| rows.strategy);
    assert_eq!(refused, Err(Error::Strategy { strategy, obstacle }));
}

/// As was measured: half precision, both passes, rows of a block each that are neither short nor too long for L2.
#[test]
fn rows_are_brought_ahead_where_that_was_faster() {
    let ahead = |device: &devices::Device, dtype, classes, pass| {
        let types = Types { dtype, ..INDICES };
        let rows = fastest(&of(types, (8192, classes), LossConfig::default(), pass), device);
        (rows.strategy, rows.geometry.rows_ahead)
    };
    let (both, h200) = (Pass::Fused, &devices::H200);
    for (classes, expected) in [
        (20_479, (Strategy::Block, 0)),
        (20_480, (Strategy::Block, 132)),
        (32_000, (Strategy::Block, 132)),
        (50_257, (Strategy::Block, 132)),
        (65_536, (Strategy::TwoPass, 0)),
    ] {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            assert_eq!(ahead(h200, dtype, classes, both), expected, "{classes} classes");
        }
    }
    // L2 is smaller, or nothing was measured.
    assert_eq!(ahead(&devices::H100, Dtype::Bf16, 50_257, both).1, 0);
    assert_eq!(ahead(&devices::H100, Dtype::Bf16, 32_000, both).1, 132);
    for (device, classes) in
        [(&devices::A100, 32_000), (&devices::B200, 32_000), (&devices::RTX_5090, 22_000)]
    {
        assert_eq!(ahead(device, Dtype::Bf16, classes, both), (Strategy::Block, 0));
    }
    assert_eq!(ahead(h200, Dtype::F32, 21_841, both), (Strategy::Block, 0));
    for pass in [Pass::Forward, Pass::Backward] {
        assert_eq!(ahead(h200, Dtype::Bf16, 32_000, pass).1, 0);
    }
}

/// Kernels are told by numbers.
#[test]
fn numbers_tell_apart() {
    let numbers = [Phase::Whole, Phase::Partials, Phase::Finish].map(Phase::abi);
    assert_eq!(numbers, [abi::XENT_PHASE_WHOLE, abi::XENT_PHASE_PARTIALS, abi::XENT_PHASE_FINISH]);
    let [whole, partials, finish] = numbers;
    assert!(whole != partials && partials != finish && finish != whole);
    let numbers = [Normalizer::Host, Normalizer::Rows, Normalizer::Saved].map(Normalizer::abi);
    let [host, here, device] = numbers;
    assert_eq!([host, here], [abi::XENT_DIVIDED_HOST, abi::XENT_DIVIDED_HERE]);
    assert!(host != here && here != device && device != host);
}

/// A program that was built for older devices meets a new one: its kernels have no clusters, and do not wait.
#[test]
fn kernels_for_older_devices_are_launched_as_there() {
    let config = LossConfig { ignore_index: Some(0), ..LossConfig::default() };
    for device in [devices::H200, devices::B200, devices::RTX_5090] {
        let older = DeviceProperties { compiled_for: (8, 0), ..device.properties };
        for rows in [4, 4096] {
            let long = of(INDICES, (rows, 128_256), config, Pass::Fused);
            let plan = rows_of(choose(&long, &older, Selection::Fastest).unwrap());
            assert_ne!(plan.strategy, Strategy::Cluster, "{}", device.name);
            let starts = plan.steps().map(|step| step.launch.start);
            assert!(starts.into_iter().all(|start| start == Start::InOrder), "{}", device.name);
        }
        let pinned = choose(&problem(4, 128_256), &older, Selection::Pinned(Strategy::Cluster));
        let Err(Error::Strategy { obstacle, .. }) = pinned else { panic!("{pinned:?}") };
        assert_eq!(obstacle, Obstacle::Clusters { major: 8, minor: 0, largest: 1 });
    }
}

#[test]
fn only_a_launch_that_waits_by_itself_starts_early() {
    let config = LossConfig { ignore_index: Some(0), ..LossConfig::default() };
    for device in devices::ALL {
        let (early, in_order) = match device.properties.generation() {
            Generation::Clusters => (Start::Early, Start::InOrder),
            Generation::Blocks => (Start::InOrder, Start::InOrder),
        };
        let starts = |rows, selection| {
            let problem = of(INDICES, (rows, 4096), config, Pass::Fused);
            let plan = choose(&problem, &device.properties, selection).unwrap();
            rows_of(plan).steps().map(|step| step.launch.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(64, Selection::Pinned(Strategy::Block)), [in_order]);
        assert_eq!(starts(1024, Selection::Pinned(Strategy::Block)), [early]);
        // What is behind the normalizer, and waits for nothing, may not let another overtake it.
        let split = Selection::Pinned(Strategy::SplitRow);
        assert_eq!(starts(64, split), [in_order, early]);
        assert_eq!(starts(1024, split), [in_order, early]);

        let config = BinaryConfig { ignore_index: Some(0), ..BinaryConfig::default() };
        let (shape, pass) = (Shape::contiguous(64, 10), Pass::Fused);
        let binary = BinaryProblem::new(INDICES, shape, config, pass, Place::Apart).unwrap();
        let plan = choose_binary(&binary, &device.properties, Selection::Fastest).unwrap();
        let divisor = binary.inverse_divisor();
        if !matches!(divisor, InverseDivisor::Host(_)) {
            assert!(matches!(normalizer_of(plan), Normalizer::Launch(_)));
            assert_eq!(rows_of(plan).first.launch.start, early);
        }
    }
}

#[test]
fn only_what_needs_a_general_kernel_pays_for_it() {
    let family = |class_weights, config| {
        let types = Types { class_weights, ..INDICES };
        match fastest(&of(types, (4, 1000), config, Pass::Fused), &devices::A100)
            .first
            .launch
            .kernel
        {
            Kernel::Rows(family, _) => family,
            Kernel::Normalizer => panic!("it goes over no rows"),
        }
    };
    let plain = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
    let hard = LossConfig::default();
    let on_nll = LossConfig { weighted_terms: WeightedTerms::Nll, ..plain };
    let others = LossConfig { smoothing: Smoothing::OtherClasses, ..plain };
    let rest = LossConfig { z_loss: 1e-4, logit_scale: 0.5, ignore_index: Some(0), ..plain };
    let capped = LossConfig { logit_softcap: Some(30.0), ..hard };
    let (absent, given) = (ClassWeighting::Absent, ClassWeighting::Given);
    for (class_weights, config) in
        [(absent, plain), (absent, others), (absent, rest), (given, hard), (given, on_nll)]
    {
        assert_eq!(family(class_weights, config), Family::FusedWarp);
    }
    for (class_weights, config) in [(given, plain), (given, others), (absent, capped)] {
        assert_eq!(family(class_weights, config), Family::FusedGeneralWarp);
    }
}

/// The strategy of each length of row, on each device: at each boundary -1, 0, +1. Many rows of bf16,
/// 8 elements a pack.
#[test]
fn strategies_change_where_the_table_says() {
    use Strategy as S;
    // Classes up to which block goes, of which a multiprocessor's shared memory holds two rows; and from
    // which on a cluster takes what two-pass would read again, more than half of L2, if there are any.
    let kib = |kib: usize| kib * 1024 / 2;
    let cases = [
        (devices::H200, kib(114 - 2), Some(kib(112) + 30 * kib(1024) / 264)),
        (devices::H100, kib(114 - 2), Some(kib(112) + 25 * kib(1024) / 264)),
        (devices::B200, kib(114 - 2), Some(kib(112) + 63 * kib(1024) / 296)),
        (devices::RTX_5090, kib(50 - 2), Some(kib(48) + 48 * kib(1024) / 340)),
        (devices::A100, kib(82 - 2), None),
        (devices::L4, kib(50 - 2), None),
        (devices::RTX_4090, kib(50 - 2), None),
        (devices::T4, kib(32 - 1), None),
    ];
    for (device, block, cluster) in cases {
        let strategy = |classes| fastest(&problem(1 << 16, classes), &device).strategy;
        let expected = [
            (1, S::Tiny),
            (127, S::Tiny),
            (128, S::Tiny),
            (129, S::Warp),
            (2047, S::Warp),
            (2048, S::Warp),
            (2049, S::Block),
            (block - 1, S::Block),
            (block, S::Block),
            // One pack more: edges alone are kept in registers.
            (block + 7, S::Block),
            (block + 8, S::TwoPass),
            // No cluster holds it, or its blocks would need a multiprocessor each.
            (1 << 24, S::TwoPass),
        ];
        for (classes, expected) in expected {
            assert_eq!(strategy(classes), expected, "{classes} classes on {}", device.name);
        }
        if let Some(cluster) = cluster {
            assert_eq!(strategy(cluster / 8 * 8), S::TwoPass, "{}", device.name);
            assert_eq!(strategy(cluster / 8 * 8 + 8), S::Cluster, "{}", device.name);
            // Eight slices, of which two fit a multiprocessor.
            assert_eq!(strategy(8 * block), S::Cluster, "{}", device.name);
            assert_eq!(strategy(8 * block + 64), S::TwoPass, "{}", device.name);
        }
    }
}

#[test]
fn warps_and_lanes_take_what_they_can_hold() {
    let fused_rows = |dtype, rows, classes| {
        let types = Types { dtype, ..INDICES };
        let plan =
            fastest(&of(types, (rows, classes), LossConfig::default(), Pass::Fused), &devices::L4);
        match plan.first.launch.kernel {
            Kernel::Rows(family, _) => (family, plan.geometry.lanes_per_row),
            Kernel::Normalizer => panic!("it goes over no rows"),
        }
    };
    let fused = |dtype, classes| fused_rows(dtype, 64, classes);
    use Family as F;
    for (dtype, elements) in [(Dtype::F32, 4), (Dtype::Bf16, 8)] {
        // Few rows: as many lanes as there are.
        for rows in [64, 1 << 20] {
            let lanes = |few, many| if rows == 64 { few } else { many };
            let fused = |classes| fused_rows(dtype, rows, classes);
            assert_eq!(fused(129), (F::FusedWarp, lanes(32, 8)));
            assert_eq!(fused(128 * elements), (F::FusedWarp, lanes(32, 8)));
            assert_eq!(fused(128 * elements + 1), (F::FusedWarp, lanes(32, 16)));
            assert_eq!(fused(256 * elements), (F::FusedWarp, lanes(32, 16)));
        }
        assert_eq!(fused(dtype, 256 * elements + 1), (F::FusedBlock, 0));
        // Few rows: as many lanes as have eight elements.
        for (classes, lanes) in
            [(1, 1), (15, 1), (16, 2), (31, 2), (32, 4), (33, 4), (63, 4), (64, 8)]
        {
            assert_eq!(fused(dtype, classes), (F::FusedTiny, lanes), "{classes}");
        }
        // Many: as few as can take a row. 58 multiprocessors, 512 lanes each.
        for (rows, classes, lanes) in
            [(14_848, 16, 2), (14_849, 16, 1), (14_848, 32, 2), (7_424, 32, 4)]
        {
            assert_eq!(
                fused_rows(dtype, rows, classes),
                (F::FusedTiny, lanes),
                "{rows}, {classes}"
            );
        }
    }
    // Pinned, a row's cut does not depend on how many there are, but on how many tiles there is room for.
    for rows in [1, 1 << 20] {
        let pinned = Selection::Pinned(Strategy::Tiny);
        for (device, dtype, lanes) in [
            (devices::H200, Dtype::F32, 2),
            (devices::L4, Dtype::F32, 4),
            (devices::L4, Dtype::Bf16, 2),
            (devices::T4, Dtype::F32, 8),
        ] {
            let types = Types { dtype, ..INDICES };
            let problem = of(types, (rows, 128), LossConfig::default(), Pass::Fused);
            let plan = choose(&problem, &device.properties, pinned).unwrap();
            assert_eq!(rows_of(plan).geometry.lanes_per_row, lanes, "{rows} on {device:?}");
        }
    }
    // Few rows, and as many lanes as there are packs.
    for (classes, lanes) in [(63, 8), (64, 8), (65, 16), (128, 16), (129, 32)] {
        let warp = Selection::Pinned(Strategy::Warp);
        let plan = choose(&problem(64, classes), &devices::L4.properties, warp).unwrap();
        assert_eq!(rows_of(plan).geometry.lanes_per_row, lanes, "{classes}");
    }
    // Four warps a block, two rows each, since four would be fewer than two blocks a multiprocessor; of shorter rows,
    // where a lane would have few packs, four.
    assert_eq!(fastest(&problem(1000, 1000), &devices::T4).first.launch.grid, 125);
    assert_eq!(fastest(&problem(1000, 800), &devices::T4).first.launch.grid, 63);
    let rows_per_warp = |rows| fastest(&problem(rows, 1000), &devices::T4).geometry.rows_per_warp;
    // 40 multiprocessors, 32 blocks of 4 warps each; a quarter of a warp a row where rows are many.
    for (rows, expected) in [
        (1, 1),
        (319, 1),
        (320, 2),
        (1279, 2),
        (1280, 4),
        (5120, 4),
        (40_959, 4),
        (40_960, 8),
        (163_840, 32),
        (1 << 40, 32),
    ] {
        assert_eq!(rows_per_warp(rows), expected, "{rows} rows");
    }
}

#[test]
fn threads_follow_the_packs_of_a_slice() {
    for device in devices::ALL {
        let threads_of = |rows, classes| {
            let pinned = Selection::Pinned(Strategy::Block);
            // One pass keeps nothing, so that every row fits.
            let problem = of(INDICES, (rows, classes), LossConfig::default(), Pass::Backward);
            rows_of(choose(&problem, &device.properties, pinned).unwrap()).first.launch.block
        };
        let threads = |classes| threads_of(1 << 16, classes);
        // Twice as many where a multiprocessor has two rows at most.
        let few = 2 * device.properties.multiprocessors as usize;
        let chosen = |rows| {
            let problem = of(INDICES, (rows, 12_288), LossConfig::default(), Pass::Fused);
            let plan = fastest(&problem, &device);
            (plan.strategy, plan.first.launch.block)
        };
        assert_eq!([chosen(few), chosen(few + 1)], [(Strategy::Block, 192), (Strategy::Block, 96)]);
        // Not where block is pinned: a row has the same bits in any batch.
        assert_eq!([threads_of(1, 12_288), threads_of(few + 1, 12_288)], [96, 96]);
        for (packs, below, from) in
            [(512, 32, 32), (1024, 32, 64), (1536, 64, 96), (4096, 224, 256), (6144, 352, 384)]
        {
            for (classes, expected) in [
                (8 * (packs - 1), below),
                (8 * (packs - 1) + 7, below),
                (8 * packs, from),
                (8 * (packs + 1), from),
            ] {
                assert_eq!(threads(classes), expected, "{classes} classes on {}", device.name);
            }
        }
        assert_eq!((threads(1), threads(30_000), threads(100_000)), (32, 224, 384));
    }
}

/// At each boundary of rows and of their length -1, 0, +1, on every device.
#[test]
fn few_rows_are_cut_on_every_device() {
    use Strategy as S;
    for device in devices::ALL {
        let strategy = |rows, classes| fastest(&problem(rows, classes), &device).strategy;
        let multiprocessors = device.properties.multiprocessors as usize;
        let context = device.name;
        match device.properties.generation() {
            Generation::Clusters => {
                let long = 160 << 10;
                for (rows, expected) in [(-1, S::Cluster), (0, S::TwoPass), (1, S::TwoPass)] {
                    let rows = multiprocessors.checked_add_signed(rows).unwrap();
                    assert_eq!(strategy(rows, long / 2), expected, "{rows} rows on {context}");
                }
                // What a block has, or 128 KiB of it.
                let alone = device.properties.dynamic_shared_bytes().min(128 << 10) as usize / 2;
                for (classes, expected) in
                    [(alone - 1, S::Block), (alone, S::Block), (alone + 8, S::Cluster)]
                {
                    assert_eq!(strategy(1, classes), expected, "{classes} on {context}");
                }
            }
            Generation::Blocks => {
                // Of the smallest shared memory, 32 KiB are more than half.
                let whole = if context == "t4" { S::TwoPass } else { S::Block };
                for (rows, expected) in [(-1, S::SplitRow), (0, S::SplitRow), (1, whole)] {
                    let rows = (multiprocessors / 2).checked_add_signed(rows).unwrap();
                    assert_eq!(strategy(rows, 16_384), expected, "{rows} rows on {context}");
                }
                for (classes, expected) in
                    [(16_383, whole), (16_384, S::SplitRow), (16_385, S::SplitRow)]
                {
                    assert_eq!(strategy(1, classes), expected, "{classes} on {context}");
                }
            }
        }
        // Tiny, until its blocks are as many as multiprocessors: 8 lanes a row, 16 rows a block.
        let rows = 16 * (multiprocessors - 1);
        assert_eq!(strategy(rows, 64), S::Tiny, "{context}");
        assert_eq!(strategy(rows, 65), S::Warp, "{context}");
        assert_eq!(strategy(rows + 1, 65), S::Tiny, "{context}");
    }
}

/// Clusters get more slices where rows are few, split-row where there are no clusters.
#[test]
fn few_rows_are_cut_into_more() {
    use Strategy as S;
    let cut = |device: Device, rows, classes| {
        let plan = fastest(&problem(rows, classes), &device);
        (plan.strategy, plan.geometry.slices)
    };
    // 132 multiprocessors, rows of 250.5 KiB.
    for (rows, expected) in [
        (1, (S::Cluster, 8)),
        (32, (S::Cluster, 8)),
        (33, (S::Cluster, 4)),
        (131, (S::Cluster, 4)),
        (132, (S::TwoPass, 1)),
        (8192, (S::Cluster, 4)),
    ] {
        assert_eq!(cut(devices::H200, rows, 128_256), expected, "{rows} rows");
    }
    // 62.5 KiB.
    assert_eq!(cut(devices::H200, 1, 32_000), (S::Block, 1));
    // 108 multiprocessors; slices of 8 KiB at least.
    assert_eq!(cut(devices::A100, 1, 16_383), (S::Block, 1));
    assert_eq!(cut(devices::A100, 1, 16_384), (S::SplitRow, 4));
    assert_eq!(cut(devices::A100, 1, 128_256), (S::SplitRow, 31));
    assert_eq!(cut(devices::A100, 1, 1 << 24), (S::SplitRow, 32));
    assert_eq!(cut(devices::A100, 54, 128_256), (S::SplitRow, 4));
    assert_eq!(cut(devices::A100, 55, 128_256), (S::TwoPass, 1));
    // A gradient alone is one launch however it is cut.
    let backward = |device: Device, rows, classes| {
        let problem = of(INDICES, (rows, classes), LossConfig::default(), Pass::Backward);
        let plan = fastest(&problem, &device);
        let steps: Vec<_> = plan.steps().map(|step| step.phase).collect();
        (plan.strategy, plan.geometry.slices, steps)
    };
    for device in [devices::H200, devices::A100] {
        let finish = vec![Phase::Finish];
        assert_eq!(backward(device, 4, 50_257), (S::SplitRow, 12, finish));
        assert_eq!(backward(device, 400, 1 << 24), (S::Block, 1, vec![Phase::Whole]));
    }
    // Two slices are worth it, one is none.
    assert_eq!(backward(devices::A100, 4, 8192), (S::SplitRow, 2, vec![Phase::Finish]));
    let narrow = DeviceProperties { max_grid: 1, ..devices::A100.properties };
    let narrow = Device { properties: narrow, ..devices::A100 };
    assert_eq!(backward(narrow, 4, 8192), (S::Block, 1, vec![Phase::Whole]));
    // Rows of 96 KiB.
    let strategy = |classes| backward(devices::H200, 4, classes).0;
    assert_eq!([strategy(49_151), strategy(49_152)], [S::Block, S::SplitRow]);
}

/// The device gives out rows as multiprocessors come free; blocks that took several were slower.
#[test]
fn a_row_has_a_block() {
    for (rows, classes, strategy, blocks_a_row) in [
        (8192, 32_000, Strategy::Block, 1),
        (8192, 128_256, Strategy::TwoPass, 1),
        (8192, 32_000, Strategy::Cluster, 2),
    ] {
        for pass in [Pass::Fused, Pass::Forward, Pass::Backward] {
            let problem = of(INDICES, (rows, classes), LossConfig::default(), pass);
            let properties = &devices::H200.properties;
            let plan = choose(&problem, properties, Selection::Pinned(strategy)).unwrap();
            assert_eq!(rows_of(plan).first.launch.grid, rows as u32 * blocks_a_row, "{strategy}");
        }
    }
}

/// Two-pass, until what it reads again of all resident rows is half of the L2 cache, of f32 a sixth; of all but the plain
/// loss twice the cache.
#[test]
fn rows_are_read_again_as_long_as_l2_holds_them() {
    let (rows, classes) = (1 << 16, 128_256);
    let properties = devices::H200.properties;
    let capped = LossConfig { logit_softcap: Some(30.0), ..LossConfig::default() };
    let plain = LossConfig::default();
    let halves = Types { dtype: Dtype::F16, ..INDICES };
    let singles = Types { dtype: Dtype::F32, ..INDICES };
    // Where so many times what is read again at once are so many caches.
    for (types, config, (times, caches)) in
        [(halves, plain, (2, 1)), (singles, plain, (6, 1)), (halves, capped, (1, 2))]
    {
        let again =
            classes as u32 * types.dtype.bytes() as u32 - properties.dynamic_shared_bytes_of(2);
        let at_once = again * 2 * properties.multiprocessors;
        let enough = (times * at_once).div_ceil(caches);
        for (l2_bytes, expected) in [(enough, Strategy::TwoPass), (enough - 1, Strategy::Cluster)] {
            let properties = DeviceProperties { l2_bytes, ..properties };
            let device = Device { properties, ..devices::H200 };
            let strategy =
                |pass| fastest(&of(types, (rows, classes), config, pass), &device).strategy;
            assert_eq!(strategy(Pass::Fused), expected, "{types:?}, {l2_bytes} bytes of L2");
            // Which reads no row again.
            assert_eq!(strategy(Pass::Forward), Strategy::TwoPass, "{types:?}");
        }
    }
}

#[test]
fn slices_hold_a_row_as_long_as_they_can() {
    let slices = |classes| {
        let cluster = Selection::Pinned(Strategy::Cluster);
        let plan = choose(&problem(1 << 16, classes), &devices::H200.properties, cluster);
        let plan = rows_of(plan.unwrap());
        (plan.geometry.slices, plan.traffic.again_packs)
    };
    let kib = |kib: usize| kib * 1024 / 2;
    assert_eq!(slices(kib(128)), (2, 0));
    assert_eq!(slices(kib(128) + 16), (4, 0));
    assert_eq!(slices(kib(256)), (4, 0));
    assert_eq!(slices(kib(256) + 16), (8, 0));
    assert_eq!(slices(kib(8 * 226)), (8, 0));
    // One pack more than there is room for: what is kept is a whole number of two packs a thread.
    let room = 226 * 1024 / 16;
    assert_eq!(slices(kib(8 * 226) + 8), (8, room + 1 - room / 768 * 768));
    // A GeForce has less: slices of 48 KiB.
    let slices_of_less = |classes| {
        let cluster = Selection::Pinned(Strategy::Cluster);
        let plan = choose(&problem(1 << 16, classes), &devices::RTX_5090.properties, cluster);
        rows_of(plan.unwrap()).geometry.slices
    };
    assert_eq!([kib(96), kib(96) + 16, kib(192), kib(192) + 16].map(slices_of_less), [2, 4, 4, 8]);
    // Of one row, slices of 4 KiB at least.
    let slices_of_one = |classes| {
        let cluster = Selection::Pinned(Strategy::Cluster);
        let plan = choose(&problem(1, classes), &devices::H200.properties, cluster);
        rows_of(plan.unwrap()).geometry.slices
    };
    assert_eq!([8191, 8192, 16_383, 16_384].map(slices_of_one), [2, 4, 4, 8]);
    let two_pass = |classes| fastest(&problem(1 << 16, classes), &devices::A100);
    let plan = two_pass(128_256);
    assert_eq!((plan.geometry.cached_packs, plan.traffic.again_packs), (4608, 16_032 - 4608));
    assert_eq!(plan.residency.by_shared_bytes, 2);
    // Of two rows on each of 108 multiprocessors.
    assert_eq!(plan.traffic.again_bytes_at_once, (16_032 - 4608) * 16 * 2 * 108);
    // With probabilities, which are read again, too.
    let types = Types { targets: TargetType::Probabilities(Dtype::Bf16), ..INDICES };
    let problem = of(types, (1 << 16, 128_256), LossConfig::default(), Pass::Fused);
    let Traffic { again_packs, again_bytes_at_once, .. } =
        fastest(&problem, &devices::A100).traffic;
    assert_eq!(again_bytes_at_once, u64::from(again_packs) * 2 * 16 * 2 * 108);
}

/// Limits of a multiprocessor by compute capability, from the CUDA programming guide: threads, blocks, and KiB of
/// shared memory of a block and in all.
#[test]
fn devices_have_the_limits_of_their_capability() {
    for device in devices::ALL {
        let properties = device.properties;
        let capability = match device.name {
            "t4" => (7, 5),
            "a100" => (8, 0),
            "l4" | "rtx4090" => (8, 9),
            "h100" | "h200" => (9, 0),
            "b200" => (10, 0),
            "rtx5090" => (12, 0),
            other => panic!("{other}"),
        };
        assert_eq!(properties.compute_capability, capability, "{}", device.name);
        let expected = match capability {
            (7, 5) => (1024, 16, 64, 64),
            (8, 0) => (2048, 32, 163, 164),
            (8, 9) | (12, 0) => (1536, 24, 99, 100),
            (9, 0) | (10, 0) => (2048, 32, 227, 228),
            other => panic!("{}: {other:?}", device.name),
        };
        let found = (
            properties.threads_per_multiprocessor,
            properties.blocks_per_multiprocessor,
            properties.shared_bytes_per_block >> 10,
            properties.shared_bytes_per_multiprocessor >> 10,
        );
        assert_eq!(found, expected, "{}", device.name);
        assert_eq!(properties.registers_per_multiprocessor, 65_536);
        let clusters = capability >= (9, 0);
        assert_eq!(properties.largest_cluster, if clusters { 8 } else { 1 }, "{}", device.name);
        let reserve = if capability < (8, 0) { 0 } else { 1024 };
        assert_eq!(properties.reserved_shared_bytes_per_block, reserve, "{}", device.name);
    }
    assert_eq!(devices::H200.bytes_per_second, 4.8e12);
}

/// What the driver and the kernels take of shared memory beside what a launch asks for.
#[test]
fn fixed_shared_memory_limits_blocks() {
    let properties =
        DeviceProperties { shared_bytes_per_multiprocessor: 32 << 10, ..devices::H200.properties };
    let device = Device { properties, ..devices::H200 };
    // 1 KiB is the driver's; block kernels that keep something have another, and these have nothing.
    let warp = fastest(&problem(1 << 16, 1000), &device);
    assert_eq!((warp.first.launch.shared_bytes, warp.residency.by_shared_bytes), (0, 32));
    let block = Selection::Pinned(Strategy::Block);
    let plan = choose(&problem(1 << 16, 1024), &device.properties, block).unwrap();
    let plan = rows_of(plan);
    assert_eq!((plan.first.launch.shared_bytes, plan.residency.by_shared_bytes), (2048, 8));
}

/// But for rows that a cluster takes because two-pass would read them again, which a forward pass does not.
#[test]
fn a_pass_alone_is_cut_as_both_are() {
    for device in all_devices() {
        for dtype in DTYPES {
            for targets in [TargetType::I32, TargetType::Probabilities(Dtype::F16)] {
                for classes in [1, 5, 64, 65, 1000, 2048, 4097, 32_000, 50_257, 128_256, 1 << 22] {
                    for rows in [1, 7, 60, 200, 5000] {
                        for selection in selections() {
                            let plan = |pass| {
                                let types = Types { dtype, targets, ..INDICES };
                                let config =
                                    LossConfig { ignore_index: Some(0), ..LossConfig::default() };
                                let problem = of(types, (rows, classes), config, pass);
                                choose(&problem, &device.properties, selection).map(rows_of)
                            };
                            let (fused, forward) = (plan(Pass::Fused), plan(Pass::Forward));
                            let cut = |plan: RowsPlan| {
                                let geometry =
                                    Geometry { cached_packs: 0, rows_ahead: 0, ..plan.geometry };
                                let of = |step: Step| {
                                    // Who takes a row has no say in its bits.
                                    let launch = Launch { shared_bytes: 0, grid: 0, ..step.launch };
                                    Step { launch, ..step }
                                };
                                (plan.strategy, geometry, of(plan.first), plan.second.map(of))
                            };
                            let strategy = |plan: &Result<RowsPlan, _>| {
                                plan.as_ref().ok().map(|plan| plan.strategy)
                            };
                            let two_pass = Some(Strategy::TwoPass);
                            if strategy(&forward) == two_pass && strategy(&fused) != two_pass {
                                assert_eq!(strategy(&fused), Some(Strategy::Cluster));
                                assert_eq!(selection, Selection::Fastest);
                                assert!(rows >= device.properties.multiprocessors as usize);
                                assert!(!targets.is_probabilities());
                            } else {
                                assert_eq!(fused.clone().map(cut), forward.clone().map(cut));
                            }
                            let kept = |plan: RowsPlan| plan.geometry.cached_packs;
                            // With probabilities, a forward pass may look again.
                            let again = targets.is_probabilities();
                            let expected = if again { fused.map_or(0, kept) } else { 0 };
                            assert_eq!(forward.map_or(0, kept), expected);
                            let backward = plan(Pass::Backward).unwrap();
                            assert_eq!(backward.geometry.cached_packs, 0);
                            assert!(backward.second.is_none());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_plan_is_launchable() {
    let targets = [TargetType::I32, TargetType::Probabilities(Dtype::F32)];
    for device in all_devices() {
        let properties = &device.properties;
        for classes in [
            1,
            2,
            5,
            7,
            8,
            31,
            33,
            64,
            100,
            256,
            257,
            1000,
            2049,
            4097,
            50_257,
            128_256,
            1 << 24,
            1 << 29,
        ] {
            for rows in [1, 2, 5, 60, 128, 1024, 1025, 1 << 20, 1 << 31] {
                for dtype in DTYPES {
                    for selection in selections() {
                        for pass in PASSES {
                            for targets in targets {
                                let types = Types { dtype, targets, ..INDICES };
                                let problem =
                                    of(types, (rows, classes), LossConfig::default(), pass);
                                let Ok(plan) = choose(&problem, properties, selection) else {
                                    assert!(matches!(selection, Selection::Pinned(_)));
                                    continue;
                                };
                                let per_pack = if targets.is_probabilities() {
                                    16 + 4 * pack_elements(dtype)
                                } else {
                                    16
                                };
                                launchable(
                                    rows_of(plan),
                                    properties,
                                    (dtype, rows, classes),
                                    per_pack,
                                );
                            }
                            let shape = LogSoftmaxShape::contiguous(rows, classes);
                            let problem = LogSoftmaxProblem::new(dtype, shape).unwrap();
                            let plan = choose_log_softmax(&problem, pass, properties, selection);
                            if let Ok(Some(plan)) = plan {
                                launchable(plan, properties, (dtype, rows, classes), 16);
                            }
                            let (types, shape) =
                                (Types { dtype, ..INDICES }, Shape::contiguous(rows, classes));
                            let config = BinaryConfig::default();
                            let problem =
                                BinaryProblem::new(types, shape, config, pass, Place::Apart)
                                    .unwrap();
                            if let Ok(plan) = choose_binary(&problem, properties, selection) {
                                launchable(rows_of(plan), properties, (dtype, rows, classes), 16);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Everything that a driver, or a kernel, would refuse.
fn launchable(
    plan: RowsPlan,
    device: &DeviceProperties,
    (dtype, rows, classes): (Dtype, usize, usize),
    pack_bytes: u32,
) {
    let context = || format!("{rows} x {classes} {dtype:?} on {device:?}: {plan:?}");
    let Geometry { slices, cached_packs, rows_per_warp, lanes_per_row, rows_ahead } = plan.geometry;
    assert!(rows_ahead == 0 || plan.strategy == Strategy::Block, "{}", context());
    let packs = (classes * dtype.bytes() / 16) as u32;
    for Step { launch, phase } in plan.steps() {
        assert!((1..=device.max_grid).contains(&launch.grid), "{}", context());
        let threads = 32..=launch.kernel.max_threads();
        assert!(launch.block % 32 == 0 && threads.contains(&launch.block), "{}", context());
        assert!(launch.shared_bytes <= device.dynamic_shared_bytes(), "{}", context());
        assert_eq!(launch.grid % launch.cluster, 0, "{}", context());
        assert_eq!(launch.grid % slices, 0, "{}", context());
        assert_eq!(phase == Phase::Whole, plan.strategy != Strategy::SplitRow, "{}", context());
        if launch.start == Start::Early {
            assert!(device.compute_capability >= (9, 0), "{}", context());
        }
    }
    assert!(plan.residency.blocks() > 0 && plan.residency.registers >= 32, "{}", context());
    let short_rows = plan.strategy == Strategy::Tiny;
    assert!(short_rows || rows_per_warp.is_power_of_two() && rows_per_warp <= 32, "{}", context());
    assert!(cached_packs <= packs.div_ceil(slices), "{}", context());
    // As a pass that keeps nothing compares them.
    let at_once = plan.first.launch.block * abi::XENT_PACKS_AT_ONCE;
    let all = cached_packs == packs.div_ceil(slices);
    assert!(all || cached_packs % at_once == 0, "{}", context());
    let launch = plan.first.launch;
    match plan.strategy {
        Strategy::Tiny => {
            let lanes = lanes_per_row as usize;
            assert!(
                lanes.is_power_of_two() && lanes <= 32 && classes <= 64 * lanes,
                "{}",
                context()
            );
            // A tile for each warp, whose rows may start anywhere within a pack: as many packs as all banks
            // hold, or several times that.
            let warps = launch.block as usize / 32;
            let tiles = launch.block as usize / lanes * classes * dtype.bytes();
            let room = launch.shared_bytes as usize - tiles;
            assert!((16 * warps..=(128 + 16) * warps).contains(&room), "{}", context());
            assert_eq!(launch.shared_bytes as usize % (128 * warps), 0, "{}", context());
            assert!(launch.shared_bytes <= 48 << 10, "{}", context());
            // Its warps take all rows, each as many as it has lanes for and all of them at once.
            let warps = u64::from(launch.grid) * warps as u64;
            let covered = u128::from(rows_per_warp) * u128::from(warps);
            assert!(covered >= rows as u128, "{}", context());
            assert!(rows_per_warp > 0 && rows_per_warp % (32 / lanes as u64) == 0, "{}", context());
        }
        Strategy::Warp => {
            assert!(classes * dtype.bytes() <= 16 * 32 * 16, "{}", context());
            assert_eq!(launch.shared_bytes, 0, "{}", context());
        }
        Strategy::Block | Strategy::TwoPass => {
            assert_eq!(launch.shared_bytes, cached_packs * pack_bytes, "{}", context());
        }
        Strategy::Cluster => {
            assert!(slices.is_power_of_two() && slices >= 2, "{}", context());
            assert!(slices <= device.largest_cluster, "{}", context());
            assert_eq!(launch.shared_bytes, cached_packs * pack_bytes, "{}", context());
        }
        Strategy::SplitRow => {
            assert!(slices <= abi::XENT_MAX_SLICES, "{}", context());
            assert!(rows * slices as usize <= abi::XENT_MAX_PARTIALS as usize, "{}", context());
            assert_eq!(launch.shared_bytes, 0, "{}", context());
        }
    }
    let clusters = if plan.strategy == Strategy::Cluster { slices } else { 1 };
    assert_eq!(launch.cluster, clusters, "{}", context());
    let has_lanes = matches!(plan.strategy, Strategy::Tiny | Strategy::Warp);
    assert_eq!(lanes_per_row > 0, has_lanes, "{}", context());
}

#[test]
fn pins_hold_far_outside_of_the_tuned_range() {
    let pinned = |device: Device, strategy, rows, classes| {
        let selection = Selection::Pinned(strategy);
        let plan = choose(&problem(rows, classes), &device.properties, selection).map(rows_of);
        plan.inspect(|plan| {
            assert_eq!(plan.strategy, strategy);
            let asked = Considered { strategy, verdict: Verdict::Asked(selection) };
            assert_eq!(plan.reasons.considered().collect::<Vec<_>>(), [asked]);
        })
    };
    let geometry = |plan: Result<RowsPlan, Error>| {
        let geometry = plan.unwrap().geometry;
        (geometry.slices, geometry.cached_packs)
    };
    use Strategy as S;
    assert_eq!(geometry(pinned(devices::H200, S::Cluster, 3, 5)), (2, 0));
    assert_eq!(geometry(pinned(devices::H200, S::Cluster, 1000, 800)), (2, 50));
    assert_eq!(geometry(pinned(devices::A100, S::Block, 3, 3)), (1, 0));
    assert_eq!(geometry(pinned(devices::A100, S::TwoPass, 3, 800)), (1, 0));
    assert_eq!(geometry(pinned(devices::A100, S::TwoPass, 3, 3)), (1, 0));
    assert_eq!(geometry(pinned(devices::H200, S::SplitRow, 3, 5)), (2, 0));
    assert_eq!(geometry(pinned(devices::H200, S::SplitRow, 512, 5)), (2, 0));
    assert_eq!(geometry(pinned(devices::H200, S::SplitRow, 513, 5)), (1, 0));
    assert_eq!(geometry(pinned(devices::H200, S::SplitRow, 1, 1 << 20)), (32, 0));
    assert_eq!(geometry(pinned(devices::H200, S::SplitRow, 1024, 5)), (1, 0));
    assert_eq!(geometry(pinned(devices::T4, S::Tiny, 3, 512)), (1, 0));
    assert_eq!(geometry(pinned(devices::T4, S::Warp, 3, 4096)), (1, 0));
    assert_eq!(geometry(pinned(devices::T4, S::Block, 3, 32_256)), (1, 4032));
    let pairs = DeviceProperties { largest_cluster: 2, ..devices::H200.properties };
    let pairs = Device { properties: pairs, ..devices::H200 };
    assert_eq!(geometry(pinned(pairs, S::Cluster, 3, 800)), (2, 50));

    let refused = |device, strategy, rows, classes| match pinned(device, strategy, rows, classes) {
        Err(Error::Strategy { strategy: named, obstacle }) if named == strategy => obstacle,
        other => panic!("{other:?}"),
    };
    let cases = [
        (devices::T4, S::Tiny, 3, 513, Obstacle::Classes { classes: 513, most: 512 }),
        (devices::T4, S::Warp, 3, 4097, Obstacle::Packs { packs: 513, most: 512 }),
        (devices::T4, S::Block, 3, 32_264, Obstacle::SharedBytes { bytes: 64_528, most: 64_512 }),
        (devices::L4, S::Cluster, 3, 10, Obstacle::Clusters { major: 8, minor: 0, largest: 1 }),
        (devices::H200, S::SplitRow, 1025, 10, Obstacle::Rows { rows: 1025, most: 1024 }),
    ];
    for (device, strategy, rows, classes, expected) in cases {
        let obstacle = refused(device, strategy, rows, classes);
        assert_eq!(obstacle, expected);
        // Preferred says why not, and goes on.
        let selection = Selection::Preferred(strategy);
        let plan = choose(&problem(rows, classes), &device.properties, selection).unwrap();
        let first = rows_of(plan).reasons.considered().next().unwrap();
        assert_eq!(first, Considered { strategy, verdict: Verdict::Cannot(obstacle) });
    }
    let error = Error::Strategy { strategy: S::Tiny, obstacle: cases[0].4 };
    assert_eq!(
        error.to_string(),
        "the strategy tiny was pinned, but a row has 513 classes, and its lanes take 512 at most; \
         where it is preferred, not pinned, another takes what it cannot"
    );
}

/// A gradient alone takes a pin where it can, and what is fastest elsewhere.
#[test]
fn a_pin_never_refuses_a_gradient_alone() {
    for (strategy, expected) in [
        (Strategy::Tiny, Strategy::Block),
        (Strategy::Cluster, Strategy::Cluster),
        (Strategy::TwoPass, Strategy::Block),
        (Strategy::SplitRow, Strategy::SplitRow),
    ] {
        let problem = of(INDICES, (1000, 50_257), LossConfig::default(), Pass::Backward);
        let plan = choose(&problem, &devices::H200.properties, Selection::Pinned(strategy));
        assert_eq!(rows_of(plan.unwrap()).strategy, expected);
    }
    // In place, a block would read of its row what another has written over already.
    let split_row = |pass, place| {
        let shape = Shape::contiguous(1, 50_257);
        let problem = Problem::new(INDICES, shape, LossConfig::default(), pass, place).unwrap();
        let pinned = Selection::Pinned(Strategy::SplitRow);
        rows_of(choose(&problem, &devices::H200.properties, pinned).unwrap()).strategy
    };
    assert_eq!(split_row(Pass::Fused, Place::InPlace), Strategy::SplitRow);
    assert_eq!(split_row(Pass::Backward, Place::Apart), Strategy::SplitRow);
    assert_eq!(split_row(Pass::Backward, Place::InPlace), Strategy::Block);
    let problem = LogSoftmaxProblem::new(Dtype::F32, LogSoftmaxShape::contiguous(5, 10)).unwrap();
    let pinned = Selection::Pinned(Strategy::Tiny);
    let plan = |pass| choose_log_softmax(&problem, pass, &devices::H200.properties, pinned);
    assert_eq!(plan(Pass::Forward).unwrap().unwrap().strategy, Strategy::Tiny);
    assert_eq!(plan(Pass::Backward).unwrap().unwrap().strategy, Strategy::Warp);
}

#[test]
fn a_plan_says_why() {
    let shown = |device: Device, rows, classes, selection| {
        let plan = choose(&problem(rows, classes), &device.properties, selection).unwrap();
        plan.to_string()
    };
    let expected = "\
strategy   cluster
launch     xent_fused_cluster_bf16: 256 blocks of 224 threads, clusters of 4, 62.6 KiB of dynamic shared memory
rows       a cluster each, 4 slices of up to 4008 packs of 16 bytes, all kept in shared memory
resident   3 blocks a multiprocessor (by shared memory 3, by threads 9, at most 32), if a thread has up to 96 registers
memory     logits read once, gradient written once
because    cluster   cuts a row into 4 slices, 62.6 KiB of shared memory each
not        two_pass  would leave multiprocessors idle: 64 rows, each better cut into 4 slices
not        block     cannot: a row takes 256512 bytes of shared memory, and a block has 231424 for it
not        split_row is for devices without clusters
not        warp      cannot: a row has up to 16032 packs of 16 bytes, and a warp holds 512 at most
not        tiny      cannot: a row has 128256 classes, and its lanes take 512 at most
tuned for  compute capability 9.0 to below 10.0; \
strategies as measured on an H200, 2026-11-27, benches/record/nvidia-h200/2026-11-27-d244feeee4a0.csv
divisors   known to the host";
    assert_eq!(shown(devices::H200, 64, 128_256, Selection::Fastest), expected);
    let expected = "\
strategy   two_pass
launch     xent_fused_block_bf16: 64 blocks of 384 threads, 72 KiB of dynamic shared memory
rows       a block each, 6282 packs of 16 bytes, 4608 kept in shared memory
resident   2 blocks a multiprocessor (by shared memory 2, by threads 5, at most 32), if a thread has up to 80 registers
memory     logits read once, 26% of the logits a second time (1.6 MiB at once, the L2 cache has 40 MiB), gradient written once
because    two_pass  keeps as much of a row as lets 2 blocks share a multiprocessor
not        cluster   cannot: a cluster needs 2 blocks or more; of kernels for compute capability 8.0 this device places 1 at most
not        block     is for up to 80 KiB of shared memory, and a row needs 98.2 KiB
not        split_row is for up to 54 rows, and there are 64
not        warp      cannot: a row has up to 6283 packs of 16 bytes, and a warp holds 512 at most
not        tiny      cannot: a row has 50257 classes, and its lanes take 512 at most
tuned for  compute capability below 9.0; strategies as predicted, not measured
divisors   known to the host";
    assert_eq!(shown(devices::A100, 64, 50_257, Selection::Fastest), expected);
    let expected = "\
strategy   block
launch     xent_fused_block_bf16: 8192 blocks of 224 threads, 62.5 KiB of dynamic shared memory
rows       a block each, 4000 packs of 16 bytes, all kept in shared memory, the row 132 later brought to L2 meanwhile
";
    let found = shown(devices::H200, 8192, 32_000, Selection::Fastest);
    assert!(found.starts_with(expected), "{found}");
    let expected = "\
strategy   split_row
launch     xent_fused_split_row_bf16: 2 blocks of 32 threads, no dynamic shared memory
then       xent_fused_split_row_bf16: 2 blocks of 32 threads, no dynamic shared memory, \
started while the one before ends
rows       2 blocks each, for up to 63 packs of 16 bytes
resident   32 blocks a multiprocessor (by shared memory 32, by threads 32, at most 32), if a thread has up to 64 registers
memory     logits read once, all of the logits a second time (2.0 KiB at once, the L2 cache has 60 MiB), gradient written once
because    split_row was pinned
tuned for  compute capability 9.0 to below 10.0; \
strategies as measured on an H200, 2026-11-27, benches/record/nvidia-h200/2026-11-27-d244feeee4a0.csv
divisors   known to the host";
    assert_eq!(shown(devices::H200, 1, 1000, Selection::Pinned(Strategy::SplitRow)), expected);
}
