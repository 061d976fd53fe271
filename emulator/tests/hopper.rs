//! mbarriers, clusters and asynchronous copies, against what the PTX manual says of them.

mod common;

use common::{Gpu, kernel};
use cuda_emulator::context::LaunchConfig;
use cuda_emulator::fault::{FaultKind, FaultReport};
use cuda_emulator::settings::{Order, Races, Settings};

const ORDERS: [Order; 6] = [
    Order::Forward,
    Order::Reverse,
    Order::Shuffle(1),
    Order::Shuffle(2),
    Order::Shuffle(3),
    Order::Shuffle(4),
];

fn gpu(body: &str, order: Order) -> Gpu {
    Gpu::with(&kernel(body), Settings { races: Races::Checked, order, ..Settings::default() })
}

/// Runs `body` with 1024 numbers in device memory; they and their changes are what it can read and write.
fn run(body: &str, order: Order, config: &LaunchConfig) -> Result<Vec<u32>, FaultReport> {
    let gpu = gpu(body, order);
    let numbers: Vec<u32> = (0..1024).collect();
    let out = gpu.upload(&numbers);
    match gpu.launch(config, &[out]) {
        Ok(_) => Ok(gpu.download32(out, 1024)),
        Err(cuda_emulator::error::Error::Fault(report)) => Err(*report),
        Err(other) => panic!("{other}\n{body}"),
    }
}

fn gives(body: &str, config: &LaunchConfig, expected: impl Fn(usize) -> u32) {
    for order in ORDERS {
        let found = run(body, order, config).unwrap_or_else(|report| panic!("{order:?}: {report}"));
        for (at, value) in found.into_iter().enumerate() {
            assert_eq!(value, expected(at), "{order:?}, number {at} after {body}");
        }
    }
}

/// Some order shows the fault, and no order hides it behind another kind.
fn faults(body: &str, config: &LaunchConfig, kinds: &[FaultKind], part: &str) {
    let mut found = false;
    for order in ORDERS {
        if let Err(report) = run(body, order, config) {
            assert!(kinds.contains(&report.kind), "{order:?}: {report}");
            assert!(report.text.lines().count() < 25, "more than a screen: {report}");
            found |= report.text.contains(part);
        }
    }
    assert!(found, "no order of {body} says {part:?}");
}

fn cluster(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { cluster: [blocks, 1, 1], ..LaunchConfig::linear(blocks, threads) }
}

/// A bulk copy of 256 bytes into `data`, which thread 0 waits for. Thread `i` adds 1000 to number `i`.
const BULK: &str = ".shared .align 16 .b8 data[256]; .shared .align 8 .b64 full;\
    setp.eq.u32 %p1, %r1, 0; mov.u32 %r2, data; mov.u32 %r3, full;\
    @%p1 mbarrier.init.shared.b64 [%r3], 1; @%p1 fence.mbarrier_init.release.cluster; bar.sync 0;\
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [%r3], 256;\
    @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 256, [%r3];\
    WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;\
    mad.lo.s32 %r4, %r1, 4, %r2; ld.shared.u32 %r5, [%r4]; add.u32 %r5, %r5, 1000;\
    mad.wide.u32 %rd4, %r1, 4, %rd1; st.global.u32 [%rd4], %r5;";

fn bulk_result(at: usize) -> u32 {
    at as u32 + if at < 64 { 1000 } else { 0 }
}

#[test]
fn a_bulk_copy_tells_an_mbarrier() {
    let one = LaunchConfig::linear(1, 64);
    gives(BULK, &one, bulk_result);
    gives(&BULK.replace("try_wait", "test_wait"), &one, bulk_result);
    // As a state instead of a parity, in the thread that has one.
    let by_state = BULK
        .replace(
            "WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0;",
            "WAIT: mbarrier.try_wait.shared.b64 %p2, [%r3], %rd3;",
        )
        .replace("bra WAIT;", "bra WAIT; bar.sync 0;")
        .replace("WAIT: mb", "@!%p1 bra OVER; WAIT: mb")
        .replace("bra WAIT; bar", "bra WAIT; OVER: bar");
    gives(&by_state, &one, bulk_result);
}

#[test]
fn a_bulk_copy_overwrites_what_was_read_behind_a_proxy_fence() {
    // The thread that comes last brings the same once more.
    let again = |before: &str, after: &str| {
        let bring = format!(
            "{before} atom.add.acq_rel.cta.shared.u32 %r6, [count], 1; setp.eq.u32 %p3, %r6, 63; {after}\
             @%p3 mbarrier.arrive.expect_tx.shared.b64 %rd3, [%r3], 256;\
             @%p3 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 256, [%r3];\
             AGAIN: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 1; @!%p2 bra AGAIN; mad.wide.u32"
        );
        BULK.replace("mad.wide.u32", &bring).replace(
            "bar.sync 0;",
            ".shared .align 4 .b32 count; mov.u32 %r6, 0; @%p1 st.shared.u32 [count], %r6; bar.sync 0;",
        )
    };
    let one = LaunchConfig::linear(1, 64);
    let fence = "fence.proxy.async.shared::cta;";
    // By whoever has read, or by whoever copies.
    gives(&again(fence, ""), &one, bulk_result);
    gives(&again("", fence), &one, bulk_result);
    faults(
        &again("", ""),
        &one,
        &[FaultKind::Race],
        "no fence.proxy.async orders bulk copies after the read",
    );
}

#[test]
fn what_goes_wrong_with_a_bulk_copy() {
    let one = LaunchConfig::linear(1, 64);
    let early = [FaultKind::CopyUnderWay, FaultKind::Race, FaultKind::UninitialisedShared];
    // Nobody waits.
    let no_wait = BULK
        .replace("WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;", "");
    faults(&no_wait, &one, &early, "still under way");
    // The phase before the first one counts as complete.
    faults(&BULK.replace("%p2, [%r3], 0", "%p2, [%r3], 1"), &one, &early, "still under way");
    // Fewer bytes are expected than come, or more.
    let too_few = BULK.replace("[%r3], 256;", "[%r3], 240;");
    faults(
        &too_few,
        &one,
        &[FaultKind::Deadlock, FaultKind::CopyUnderWay],
        "-16 bytes are missing",
    );
    let too_many = BULK.replace("[%r3], 256;", "[%r3], 272;");
    faults(&too_many, &one, &[FaultKind::Deadlock], "16 bytes are missing");
    // An arrival is missing.
    let two =
        BULK.replace("mbarrier.init.shared.b64 [%r3], 1", "mbarrier.init.shared.b64 [%r3], 2");
    faults(&two, &one, &[FaultKind::Deadlock], "1 of 2 arrivals and 0 bytes are missing");
    // Too many arrivals.
    let all = BULK.replace(
        "@%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [%r3], 256;",
        "mbarrier.arrive.shared.b64 %rd3, [%r3]; mbarrier.arrive.shared.b64 %rd3, [%r3], 2;",
    );
    faults(&all, &one, &[FaultKind::Mbarrier], "2 arrivals where 1 of 1 are missing");
    // The initialisation is visible to nobody, or to threads alone.
    let no_barrier = BULK.replace("bar.sync 0;", "");
    faults(
        &no_barrier,
        &one,
        &[FaultKind::Race, FaultKind::Mbarrier],
        "nothing orders it after the write",
    );
    let no_fence = BULK.replace("@%p1 fence.mbarrier_init.release.cluster;", "");
    faults(&no_fence, &one, &[FaultKind::Race], "no fence.proxy.async orders");
    // Sizes, places.
    let odd = BULK.replace("[%rd1], 256, [%r3]", "[%rd1], 250, [%r3]");
    faults(&odd, &one, &[FaultKind::MisalignedAddress], "multiple of 16");
    let beyond = BULK.replace("[%rd1], 256, [%r3]", "[%rd1], 272, [%r3]");
    faults(&beyond, &one, &[FaultKind::IllegalAddress], "past the end of shared data");
    let outside = BULK.replace("[%rd1], 256, [%r3]", "[%rd1+3856], 256, [%r3]");
    faults(&outside, &one, &[FaultKind::IllegalAddress], "past the end of allocation");
}

#[test]
fn a_bulk_prefetch_shows_in_its_faults_alone() {
    let one = LaunchConfig::linear(1, 64);
    let before = |prefetch: &str| {
        BULK.replace(
            "bar.sync 0;",
            &format!("bar.sync 0; @%p1 cp.async.bulk.prefetch.L2.global {prefetch};"),
        )
    };
    // The allocation has 4,096 bytes.
    for fine in ["[%rd1], 256", "[%rd1+3840], 256", "[%rd1+4096], 0"] {
        gives(&before(fine), &one, bulk_result);
    }
    for (wrong, kind, part) in [
        ("[%rd1], 250", FaultKind::MisalignedAddress, "multiple of 16"),
        ("[%rd1+8], 256", FaultKind::MisalignedAddress, "multiple of 16"),
        ("[%rd1+3856], 256", FaultKind::IllegalAddress, "past the end of allocation"),
    ] {
        faults(&before(wrong), &one, &[kind], part);
    }
}

#[test]
fn mbarriers_count_phases() {
    // Two warps hand a number to and fro, eight times, over two mbarriers.
    let body = ".shared .align 8 .b64 full; .shared .align 8 .b64 empty; .shared .align 4 .u32 box;\
        mov.u32 %r2, full; mov.u32 %r3, empty; mov.u32 %r4, box; setp.eq.u32 %p1, %r1, 0;\
        setp.eq.u32 %p2, %r1, 32; @%p1 mbarrier.init.shared.b64 [%r2], 1;\
        @%p1 mbarrier.init.shared.b64 [%r3], 1; bar.sync 0; mov.u32 %r5, 0; mov.u32 %r8, 0;\
        @%p1 bra PRODUCE; @%p2 bra CONSUME; ret;\
        PRODUCE: and.b32 %r6, %r5, 1; xor.b32 %r6, %r6, 1;\
        P_WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r3], %r6; @!%p3 bra P_WAIT;\
        add.u32 %r7, %r5, 100; st.shared.u32 [%r4], %r7; mbarrier.arrive.shared.b64 _, [%r2];\
        add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 8; @%p3 bra PRODUCE; ret;\
        CONSUME: and.b32 %r6, %r5, 1;\
        C_WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r2], %r6; @!%p3 bra C_WAIT;\
        ld.shared.u32 %r7, [%r4]; mbarrier.arrive.shared.b64 _, [%r3]; mad.wide.u32 %rd2, %r5, 4, %rd1;\
        st.global.u32 [%rd2], %r7;\
        add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 8; @%p3 bra CONSUME;";
    let two = LaunchConfig::linear(1, 64);
    gives(body, &two, |at| if at < 8 { 100 + at as u32 } else { at as u32 });
    // Without waiting for the consumer the producer overwrites what is being read.
    let hasty = body.replace(
        "P_WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r3], %r6; @!%p3 bra P_WAIT;",
        "",
    );
    faults(
        &hasty,
        &two,
        &[FaultKind::Race, FaultKind::Deadlock],
        "nothing orders it after the read",
    );
}

#[test]
fn an_mbarrier_is_nobody_elses_memory() {
    let one = LaunchConfig::linear(1, 1);
    let body = ".shared .align 8 .b64 full; mov.u32 %r2, full; mbarrier.init.shared.b64 [%r2], 1;";
    faults(
        &format!("{body} st.shared.u32 [%r2+4], 0;"),
        &one,
        &[FaultKind::Mbarrier],
        "only mbarrier operations",
    );
    faults(
        &format!("{body} mbarrier.init.shared.b64 [%r2], 1;"),
        &one,
        &[FaultKind::Mbarrier],
        "initialised again",
    );
    gives(
        &format!(
            "{body} mbarrier.inval.shared.b64 [%r2]; st.shared.u32 [%r2+4], 0; mbarrier.init.shared.b64 [%r2], 3;"
        ),
        &one,
        |at| at as u32,
    );
    faults(
        ".shared .align 8 .b64 full; mov.u32 %r2, full; mbarrier.arrive.shared.b64 _, [%r2];",
        &one,
        &[FaultKind::Mbarrier],
        "there is no mbarrier",
    );
    let count = body.replace("[%r2], 1", "[%r2], 0");
    faults(&count, &one, &[FaultKind::Mbarrier], "a count of 0 arrivals");
    // Dropping out lowers what later phases wait for.
    gives(
        ".shared .align 8 .b64 full; mov.u32 %r2, full; mbarrier.init.shared.b64 [%r2], 2;\
         mbarrier.arrive_drop.shared.b64 %rd2, [%r2]; mbarrier.pending_count.b64 %r3, %rd2;\
         mbarrier.arrive.shared.b64 _, [%r2]; mbarrier.test_wait.shared.b64 %p1, [%r2], %rd2;\
         mbarrier.arrive.shared.b64 %rd3, [%r2]; mbarrier.test_wait.shared.b64 %p2, [%r2], %rd3;\
         selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 1, 0, %p2; st.global.v4.u32 [%rd1], {%r3, %r4, %r5, %r5};",
        &one,
        |at| [2, 1, 1, 1].get(at).copied().unwrap_or(at as u32),
    );
}

/// Each block of a cluster writes its rank plus 50 to its own cell, and reads the next block's.
const RING: &str = ".shared .align 4 .u32 cell; mov.u32 %r2, cell; mov.u32 %r3, %cluster_ctarank;\
    mov.u32 %r4, %cluster_nctarank; add.u32 %r5, %r3, 50; st.shared.u32 [%r2], %r5;\
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\
    add.u32 %r6, %r3, 1; rem.u32 %r6, %r6, %r4; mapa.shared::cluster.u32 %r7, %r2, %r6;\
    ld.shared::cluster.u32 %r8, [%r7]; mad.wide.u32 %rd2, %r3, 4, %rd1; st.global.u32 [%rd2], %r8;\
    barrier.cluster.arrive; barrier.cluster.wait;";

#[test]
fn blocks_of_a_cluster_read_each_other() {
    gives(RING, &cluster(4, 1), |at| if at < 4 { 50 + (at as u32 + 1) % 4 } else { at as u32 });
    // Two clusters of two: each reads its own partner.
    let two = LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::linear(4, 1) };
    let body =
        RING.replace("mad.wide.u32 %rd2, %r3", "mov.u32 %r9, %ctaid.x; mad.wide.u32 %rd2, %r9");
    gives(&body, &two, |at| if at < 4 { 50 + (at as u32 + 1) % 2 } else { at as u32 });
    // Through generic addresses.
    let generic = RING.replace("mapa.shared::cluster.u32 %r7, %r2, %r6;", "").replace(
        "ld.shared::cluster.u32 %r8, [%r7];",
        "cvt.u64.u32 %rd3, %r2; cvta.shared.u64 %rd3, %rd3; mapa.u64 %rd4, %rd3, %r6;\
             ld.u32 %r8, [%rd4]; getctarank.u64 %r9, %rd4; setp.ne.u32 %p1, %r9, %r6; @%p1 trap;",
    );
    gives(&generic, &cluster(4, 1), |at| if at < 4 { 50 + (at as u32 + 1) % 4 } else { at as u32 });
}

#[test]
fn what_goes_wrong_in_a_cluster() {
    let four = cluster(4, 1);
    let barrier = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let gone = [FaultKind::Cluster, FaultKind::Race, FaultKind::UninitialisedShared];
    faults(&RING.replace(barrier, ""), &four, &gone, "may not have begun");
    let last = "barrier.cluster.arrive; barrier.cluster.wait;";
    let early = RING.replace(last, "");
    for order in ORDERS {
        let report = run(&early, order, &four).unwrap_err();
        assert_eq!(report.kind, FaultKind::Cluster, "{order:?}: {report}");
    }
    // An arrival without the wait orders nothing.
    let no_wait = RING.replace("barrier.cluster.wait.aligned;", "");
    faults(&no_wait, &four, &gone, "cluster");
    faults(
        &RING.replace("barrier.cluster.arrive.aligned;", ""),
        &four,
        &[FaultKind::Cluster],
        "has not arrived",
    );
    faults(
        &RING.replace("add.u32 %r6, %r3, 1;", "add.u32 %r6, %r3, 9; mov.u32 %r4, 100;"),
        &four,
        &[FaultKind::IllegalAddress],
        "rank 9 in a cluster of 4 blocks",
    );
    faults(
        &RING.replace("ld.shared::cluster", "ld.shared"),
        &four,
        &[FaultKind::IllegalAddress],
        "needs .shared::cluster",
    );
    // A relaxed arrival brings no writes along.
    let relaxed = RING.replace("arrive.aligned", "arrive.relaxed.aligned");
    faults(&relaxed, &four, &gone, "nothing orders it after the write");
    // But what a fence published before, and that the peer has begun.
    gives(
        &relaxed.replace(
            "barrier.cluster.arrive.relaxed",
            "fence.acq_rel.cluster; barrier.cluster.arrive.relaxed",
        ),
        &four,
        |at| if at < 4 { 50 + (at as u32 + 1) % 4 } else { at as u32 },
    );
}

#[test]
fn a_store_to_a_peer_tells_its_mbarrier() {
    // Each block stores 70 plus its rank into the next one, which waits for it.
    let body = ".shared .align 8 .b64 full; .shared .align 4 .u32 cell;\
        mov.u32 %r2, cell; mov.u32 %r3, full; mbarrier.init.shared.b64 [%r3], 1;\
        mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 4;\
        barrier.cluster.arrive; barrier.cluster.wait; mov.u32 %r4, %cluster_ctarank;\
        xor.b32 %r5, %r4, 1; mapa.shared::cluster.u32 %r6, %r2, %r5;\
        mapa.shared::cluster.u32 %r7, %r3, %r5; add.u32 %r8, %r4, 70;\
        st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r6], %r8, [%r7];\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [%r3], 0; @!%p1 bra WAIT;\
        ld.shared.u32 %r9, [%r2]; mad.wide.u32 %rd2, %r4, 4, %rd1; st.global.u32 [%rd2], %r9;\
        barrier.cluster.arrive; barrier.cluster.wait;";
    let two = cluster(2, 1);
    gives(body, &two, |at| [71, 70].get(at).copied().unwrap_or(at as u32));
    let no_wait = body
        .replace("WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [%r3], 0; @!%p1 bra WAIT;", "");
    let kinds = [FaultKind::CopyUnderWay, FaultKind::Race, FaultKind::UninitialisedShared];
    faults(&no_wait, &two, &kinds, "");
    // A remote arrival.
    let arrive = body
        .replace("mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 4;", "")
        .replace("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r6], %r8, [%r7];",
            "st.shared::cluster.u32 [%r6], %r8; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];");
    gives(&arrive, &two, |at| [71, 70].get(at).copied().unwrap_or(at as u32));
    let relaxed = arrive.replace(
        "arrive.release.cluster.shared::cluster",
        "arrive.relaxed.cluster.shared::cluster",
    );
    faults(&relaxed, &two, &[FaultKind::Race], "nothing orders it after the write");
}

#[test]
fn a_multicast_copy_reaches_all_ranks() {
    let body = ".shared .align 16 .b8 data[64]; .shared .align 8 .b64 full;\
        mov.u32 %r2, data; mov.u32 %r3, full; mov.u32 %r4, %cluster_ctarank;\
        mbarrier.init.shared.b64 [%r3], 1; fence.mbarrier_init.release.cluster;\
        mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 64;\
        barrier.cluster.arrive; barrier.cluster.wait; setp.eq.u32 %p1, %r4, 1; mov.u16 %h1, 7;\
        @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%rd1+64], 64, [%r3], %h1;\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;\
        ld.shared.u32 %r5, [%r2+8]; mad.wide.u32 %rd2, %r4, 4, %rd1; st.global.u32 [%rd2], %r5;\
        barrier.cluster.arrive; barrier.cluster.wait;";
    gives(body, &cluster(3, 1), |at| if at < 3 { 18 } else { at as u32 });
    faults(
        &body.replace("%h1, 7;", "%h1, 15;"),
        &cluster(3, 1),
        &[FaultKind::IllegalAddress],
        "ranks 0xf",
    );
    faults(
        &body.replace("%h1, 7;", "%h1, 6;"),
        &cluster(3, 1),
        &[FaultKind::Deadlock],
        "64 bytes are missing",
    );
}

/// Thread 0 stores 16 bytes that the threads wrote, by a bulk copy.
const BULK_STORE: &str = ".shared .align 16 .b8 data[128]; mov.u32 %r2, data;\
    mad.lo.s32 %r3, %r1, 4, %r2; add.u32 %r4, %r1, 500; st.shared.u32 [%r3], %r4;\
    fence.proxy.async.shared::cta; bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 ret;\
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 128; cp.async.bulk.commit_group;\
    cp.async.bulk.wait_group.read 0;";

#[test]
fn a_bulk_store_reads_what_a_proxy_fence_made_visible() {
    let one = LaunchConfig::linear(1, 32);
    gives(BULK_STORE, &one, |at| at as u32 + if at < 32 { 500 } else { 0 });
    faults(
        &BULK_STORE.replace("fence.proxy.async.shared::cta;", ""),
        &one,
        &[FaultKind::Race],
        "no fence.proxy.async orders",
    );
    faults(
        &BULK_STORE.replace("bar.sync 0;", ""),
        &one,
        &[FaultKind::Race, FaultKind::UninitialisedShared],
        "",
    );
    // The block ends, and its memory with it, while the copy reads.
    let no_wait = BULK_STORE.replace("cp.async.bulk.wait_group.read 0;", "");
    faults(&no_wait, &one, &[FaultKind::CopyUnderWay], "did not wait for");
    // The group was never closed.
    let open = BULK_STORE.replace("cp.async.bulk.commit_group;", "");
    faults(&open, &one, &[FaultKind::CopyUnderWay], "did not wait for");
    // The source is used again before the copy has read it.
    let again = BULK_STORE.replace(
        "cp.async.bulk.wait_group.read 0;",
        "st.shared.u32 [%r2], 0; cp.async.bulk.wait_group.read 0;",
    );
    faults(&again, &one, &[FaultKind::CopyUnderWay, FaultKind::Race], "will read it");
    // What the copy wrote is there when all of it is waited for, not when its source is read.
    let back = "ld.global.u32 %r5, [%rd1]; st.global.u32 [%rd1+256], %r5;";
    let full = BULK_STORE.replace("wait_group.read", "wait_group");
    gives(&format!("{full} {back}"), &one, |at| match at {
        0..32 => at as u32 + 500,
        64 => 500,
        _ => at as u32,
    });
    faults(
        &format!("{BULK_STORE} {back}"),
        &one,
        &[FaultKind::Race],
        "a bulk copy of a bulk group",
    );
}

#[test]
fn a_fence_of_initialisations_covers_nothing_else() {
    // The idiom of kernels with clusters: the fence, and a relaxed arrival.
    let body = ".shared .align 8 .b64 full; .shared .align 4 .u32 cell; mov.u32 %r2, full; mov.u32 %r6, cell;\
        mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, 1;\
        mbarrier.init.shared.b64 [%r2], 1; st.shared.u32 [%r6], 9; fence.mbarrier_init.release.cluster;\
        barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;\
        mapa.shared::cluster.u32 %r5, %r2, %r4; mapa.shared::cluster.u32 %r7, %r6, %r4;\
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5];\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r2], 0; @!%p3 bra WAIT;\
        barrier.cluster.arrive; barrier.cluster.wait;";
    let two = cluster(2, 1);
    gives(body, &two, |at| at as u32);
    let no_fence = body.replace("fence.mbarrier_init.release.cluster;", "");
    faults(&no_fence, &two, &[FaultKind::Race], "nothing orders it after the write by thread");
    let other =
        body.replace("mbarrier.arrive.r", "ld.shared::cluster.u32 %r8, [%r7]; mbarrier.arrive.r");
    faults(&other, &two, &[FaultKind::Race], "nothing orders it after the write by thread");
    faults(
        &BULK_STORE.replace("fence.proxy.async.shared::cta", "fence.mbarrier_init.release.cluster"),
        &LaunchConfig::linear(1, 32),
        &[FaultKind::Race],
        "no fence.proxy.async orders",
    );
}

#[test]
fn waits_for_mbarriers_may_end_without_success() {
    let one = LaunchConfig::linear(1, 1);
    let init = ".shared .align 8 .b64 full; mov.u32 %r2, full;\
        setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared.b64 [%r2], 1; bar.sync 0;";
    let wait = "WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 0; @!%p2 bra WAIT;";
    // A look at a phase that only this thread completes.
    let peek = "mbarrier.try_wait.parity.shared.b64 %p3, [%r2], 0;";
    let arrive = "mbarrier.arrive.shared.b64 _, [%r2];";
    gives(&format!("{init} {peek} {arrive} {wait}"), &one, |at| at as u32);
    // A warp polls while the other one works for long.
    let polls = format!(
        "{init} setp.lt.u32 %p4, %r1, 32; @%p4 bra WORK; {} ret;\
         WORK: mov.u32 %r3, 0; STEP: add.u32 %r3, %r3, 1; setp.lt.u32 %p4, %r3, 100000; @%p4 bra STEP;\
         @%p1 {arrive}",
        wait.replace("try_wait", "test_wait")
    );
    gives(&polls, &LaunchConfig::linear(1, 64), |at| at as u32);
}

#[test]
fn groups_of_small_copies() {
    // Each thread copies 4 numbers; the last copy reads 8 of its 16 bytes.
    let body = ".shared .align 16 .b8 data[512]; mov.u32 %r2, data; mad.lo.s32 %r3, %r1, 16, %r2;\
        mad.wide.u32 %rd2, %r1, 16, %rd1; setp.eq.u32 %p1, %r1, 31; selp.u32 %r4, 8, 16, %p1;\
        cp.async.cg.shared.global [%r3], [%rd2], 16, %r4; cp.async.commit_group; cp.async.wait_group 0;\
        ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r3]; add.u32 %r5, %r5, 1; add.u32 %r8, %r8, 1;\
        st.global.v4.u32 [%rd2], {%r5, %r6, %r7, %r8};";
    let one = LaunchConfig::linear(1, 32);
    gives(body, &one, |at| match at {
        126 => 0,
        127 => 1,
        0..128 if matches!(at % 4, 0 | 3) => at as u32 + 1,
        _ => at as u32,
    });
    let early = [FaultKind::CopyUnderWay, FaultKind::Race];
    faults(&body.replace("wait_group 0", "wait_group 1"), &one, &early, "still under way");
    faults(&body.replace("cp.async.commit_group;", ""), &one, &early, "still under way");
    gives(
        &body.replace("cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"),
        &one,
        |at| match at {
            126 => 0,
            127 => 1,
            0..128 if matches!(at % 4, 0 | 3) => at as u32 + 1,
            _ => at as u32,
        },
    );
    // A thread waits for its own copies alone.
    let others = body.replace(
        "ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r3]",
        "xor.b32 %r3, %r3, 16; ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r3]",
    );
    faults(&others, &one, &early, "a cp.async");
    faults(
        &body.replace("[%rd2], 16, %r4", "[%rd2+4], 16, %r4"),
        &one,
        &[FaultKind::MisalignedAddress],
        "multiple of 16",
    );
}

#[test]
fn a_dependent_launch_waits_before_it_reads() {
    let body = |wait: &str| {
        format!("{wait} ld.global.u32 %r2, [%rd1]; add.u32 %r2, %r2, 1; st.global.u32 [%rd1], %r2;")
    };
    let one = LaunchConfig::linear(1, 1);
    let dependent = LaunchConfig { programmatic: true, ..one };
    let waits = gpu(&body("griddepcontrol.wait;"), Order::Forward);
    let out = waits.upload(&[5_u32]);
    waits.launch(&one, &[out]).unwrap();
    waits.launch(&dependent, &[out]).unwrap();
    assert_eq!(waits.download32(out, 1), [7]);
    let hasty = gpu(&body(""), Order::Forward);
    let out = hasty.upload(&[5_u32]);
    hasty.launch(&one, &[out]).unwrap();
    hasty.launch(&one, &[out]).unwrap();
    let report = hasty.fault(&dependent, &[out]);
    assert_eq!(report.kind, FaultKind::Race, "{report}");
    assert!(report.text.contains("has not executed griddepcontrol.wait"), "{report}");
    // Copies read as well: 16 bytes, and more than a page of the shadow of which the last are written.
    let small = ".shared .align 16 .b8 data[16]; mov.u32 %r2, data;\
        cp.async.ca.shared.global [%r2], [%rd1], 16; cp.async.wait_all;";
    let bulk =
        BULK.replace("256", "1024").replace("st.global.u32 [%rd4]", "st.global.u32 [%rd1+1020]");
    for copy in [small.to_string(), bulk] {
        let hasty = gpu(
            &format!("{copy} griddepcontrol.wait; st.global.u32 [%rd1+1020], 0;"),
            Order::Forward,
        );
        let out = hasty.upload(&[5_u64; 128]);
        let last = LaunchConfig { programmatic: true, ..one };
        hasty.launch(&one, &[out]).unwrap();
        if copy.contains("bulk") {
            let report = hasty.fault(&last, &[out]);
            assert_eq!(report.kind, FaultKind::Race, "{report}");
            assert!(report.text.contains("has not executed griddepcontrol.wait"), "{report}");
        } else {
            hasty.launch(&last, &[out]).unwrap();
            let report = hasty.fault(&last, &[out + 1008]);
            assert!(report.text.contains("has not executed griddepcontrol.wait"), "{report}");
        }
    }
}

#[test]
fn a_bulk_copy_to_a_peer() {
    // Each block writes 16 bytes of its rank, and copies them into the other block.
    let body = ".shared .align 16 .b8 own[16]; .shared .align 16 .b8 other[16]; .shared .align 8 .b64 full;\
        mov.u32 %r2, own; mov.u32 %r3, other; mov.u32 %r4, full; mov.u32 %r5, %cluster_ctarank;\
        add.u32 %r6, %r5, 30; st.shared.v4.u32 [%r2], {%r6, %r6, %r6, %r6};\
        mbarrier.init.shared.b64 [%r4], 1; fence.proxy.async;\
        mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 16;\
        barrier.cluster.arrive; barrier.cluster.wait; xor.b32 %r7, %r5, 1;\
        mapa.shared::cluster.u32 %r8, %r3, %r7; mapa.shared::cluster.u32 %r9, %r4, %r7;\
        cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r8], [%r2], 16, [%r9];\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], 0; @!%p1 bra WAIT;\
        ld.shared.u32 %r10, [%r3+12]; mad.wide.u32 %rd2, %r5, 4, %rd1; st.global.u32 [%rd2], %r10;\
        barrier.cluster.arrive; barrier.cluster.wait;";
    let two = cluster(2, 1);
    gives(body, &two, |at| [31, 30].get(at).copied().unwrap_or(at as u32));
    let other_block = body.replace("mapa.shared::cluster.u32 %r9, %r4, %r7;", "mov.u32 %r9, %r4;");
    faults(&other_block, &two, &[FaultKind::Mbarrier], "another block than its destination's");
    // The peer's barrier gets fewer bytes than it waits for.
    let short = body.replace("[%r4], 16;", "[%r4], 32;");
    faults(&short, &two, &[FaultKind::Deadlock], "16 bytes are missing");
}

#[test]
fn asynchronous_reductions_add_up() {
    // Four blocks add their rank plus one to a cell of block 0.
    let body = ".shared .align 4 .u32 sum; .shared .align 8 .b64 full;\
        mov.u32 %r2, sum; mov.u32 %r3, full; mov.u32 %r4, %cluster_ctarank; st.shared.u32 [%r2], 100;\
        mbarrier.init.shared.b64 [%r3], 1; mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 16;\
        barrier.cluster.arrive; barrier.cluster.wait; mapa.shared::cluster.u32 %r5, %r2, 0;\
        mapa.shared::cluster.u32 %r6, %r3, 0; add.u32 %r7, %r4, 1;\
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r5], %r7, [%r6];\
        setp.ne.u32 %p1, %r4, 0; @%p1 bra DONE;\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;\
        ld.shared.u32 %r8, [%r2]; st.global.u32 [%rd1], %r8;\
        DONE: barrier.cluster.arrive; barrier.cluster.wait;";
    let four = cluster(4, 1);
    gives(body, &four, |at| if at == 0 { 110 } else { at as u32 });
    let hasty = body
        .replace("WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;", "");
    faults(&hasty, &four, &[FaultKind::Race], "nothing orders it after");
}

#[test]
fn small_copies_tell_an_mbarrier() {
    // 32 threads copy 16 bytes each; all wait for all, by one mbarrier.
    let body = ".shared .align 16 .b8 data[512]; .shared .align 8 .b64 full; mov.u32 %r2, data;\
        mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared.b64 [%r3], 32;\
        bar.sync 0; mad.lo.s32 %r4, %r1, 16, %r2; mad.wide.u32 %rd2, %r1, 16, %rd1;\
        cp.async.ca.shared.global [%r4], [%rd2], 16;\
        cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT;\
        xor.b32 %r5, %r4, 16; ld.shared.u32 %r6, [%r5]; st.global.u32 [%rd2+2048], %r6;";
    let one = LaunchConfig::linear(1, 32);
    let expected = |at: usize| match at {
        512..640 if at.is_multiple_of(4) => (at as u32 - 512) ^ 4,
        _ => at as u32,
    };
    gives(body, &one, expected);
    // Without `.noinc` the arrivals are not those that are counted: another set is missing.
    let increments = body.replace(".noinc", "");
    faults(&increments, &one, &[FaultKind::Deadlock], "32 of 32 arrivals");
    let both = increments.replace("WAIT:", "mbarrier.arrive.shared.b64 _, [%r3]; WAIT:");
    gives(&both, &one, expected);
}

#[test]
fn bytes_can_be_completed_by_hand_and_hints_change_nothing() {
    let body = ".shared .align 8 .b64 full; mov.u32 %r2, full; mbarrier.init.shared.b64 [%r2], 1;\
        mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 48; mbarrier.arrive.shared.b64 %rd2, [%r2];\
        mbarrier.test_wait.shared.b64 %p1, [%r2], %rd2;\
        mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r2], 48;\
        mbarrier.test_wait.shared.b64 %p2, [%r2], %rd2; selp.u32 %r3, 1, 0, %p1; selp.u32 %r4, 1, 0, %p2;\
        createpolicy.fractional.L2::evict_first.b64 %rd3, 1.0;\
        ld.global.L1::no_allocate.L2::cache_hint.v2.u32 {%r5, %r6}, [%rd1+8], %rd3;\
        st.global.L2::cache_hint.v4.u32 [%rd1], {%r3, %r4, %r5, %r6}, %rd3;";
    let expected = |at: usize| [0, 1, 2, 3].get(at).copied().unwrap_or(at as u32);
    gives(body, &LaunchConfig::linear(1, 1), expected);
}

#[test]
fn a_warp_elects_a_producer() {
    // The idiom of warp-specialised kernels: one elected lane starts the copy, all lanes wait.
    let body = BULK.replace(
        "@%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [%r3], 256;",
        "shr.u32 %r7, %r1, 5; setp.ne.u32 %p3, %r7, 1; @%p3 bra WAIT; elect.sync _|%p1, -1;\
         @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [%r3], 256;",
    );
    gives(&body, &LaunchConfig::linear(1, 64), bulk_result);
}

#[test]
fn clusters_number_their_blocks() {
    let body = "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mad.lo.s32 %r2, %r3, 4, %r2;\
        mad.wide.u32 %rd2, %r2, 16, %rd1; mov.u32 %r4, %cluster_ctarank; mov.u32 %r5, %clusterid.x;\
        mov.u32 %r6, %clusterid.y; mov.u32 %r7, %cluster_ctaid.y;\
        st.global.v4.u32 [%rd2], {%r4, %r5, %r6, %r7};";
    let config = LaunchConfig { grid: [4, 4, 1], cluster: [2, 2, 1], ..LaunchConfig::linear(1, 1) };
    gives(body, &config, |at| {
        let (x, y) = (at as u32 / 4 % 4, at as u32 / 16);
        match at % 4 {
            _ if at >= 64 => at as u32,
            0 => x % 2 + 2 * (y % 2),
            1 => x / 2,
            2 => y / 2,
            _ => y % 2,
        }
    });
}

#[test]
fn a_wait_without_a_loop_is_too_short() {
    // Warp 1 arrives late: in some order the wait of warp 0 ends before.
    let body = ".shared .align 8 .b64 full; .shared .align 4 .u32 cell; mov.u32 %r2, full;\
        setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared.b64 [%r2], 1; bar.sync 0;\
        setp.eq.u32 %p2, %r1, 32; @%p2 bra WRITE; @!%p1 ret;\
        WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r2], 0; @!%p3 bra WAIT;\
        ld.shared.u32 %r3, [cell]; ret;\
        WRITE: st.shared.u32 [cell], 5; mbarrier.arrive.shared.b64 _, [%r2];";
    let two = LaunchConfig::linear(1, 64);
    gives(body, &two, |at| at as u32);
    let once = body.replace("@!%p3 bra WAIT;", "");
    let mut seeds = (1..=32).map(Order::Shuffle);
    assert!(seeds.any(|order| run(&once, order, &two).is_err()), "nothing found in {once}");
}
