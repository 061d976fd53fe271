//! What counts as a race, and what as order: each pair of accesses once with what orders them and once
//! without. The race is found in every order of execution, also where the result is right.

mod common;

use common::{Gpu, kernel};
use cuda_emulator::context::LaunchConfig;
use cuda_emulator::fault::{FaultKind, FaultReport};
use cuda_emulator::settings::{Order, Races, Settings, Uninitialised};

const ORDERS: [Order; 4] = [Order::Forward, Order::Reverse, Order::Shuffle(1), Order::Shuffle(2)];

fn settings(order: Order) -> Settings {
    Settings { races: Races::Checked, order, workers: 1, ..Settings::default() }
}

/// 4 KiB of zeros in device memory.
fn launch(body: &str, order: Order, config: &LaunchConfig) -> Result<(), FaultReport> {
    let gpu = Gpu::with(&kernel(body), settings(order));
    let out = gpu.upload(&[0_u64; 512]);
    match gpu.launch(config, &[out]) {
        Ok(_) => Ok(()),
        Err(cuda_emulator::error::Error::Fault(report)) => Err(*report),
        Err(other) => panic!("{other}"),
    }
}

fn is_clean(body: &str, config: &LaunchConfig) {
    for order in ORDERS {
        if let Err(report) = launch(body, order, config) {
            panic!("{order:?}: {report}");
        }
    }
}

fn races(body: &str, config: &LaunchConfig) {
    for order in ORDERS {
        match launch(body, order, config) {
            Ok(()) => panic!("{order:?}: no race found in {body}"),
            Err(report) => {
                assert_eq!(report.kind, FaultKind::Race, "{order:?}: {report}");
                assert_eq!(report.kind.code(), 719);
                assert!(report.text.contains("nothing orders it after"), "{report}");
                assert!(report.text.lines().count() < 25, "more than a screen: {report}");
            }
        }
    }
}

/// With what orders two accesses there is no race, without it there is.
fn is_ordered_by(body: &str, orders: &str, config: &LaunchConfig) {
    assert!(body.contains(orders), "{orders} is not in {body}");
    is_clean(body, config);
    races(&body.replacen(orders, "", 1), config);
}

/// Each thread writes its cell and reads that of the thread `n` further, of 128.
fn exchange(distance: u32, between: &str) -> String {
    format!(
        ".shared .align 4 .b8 buffer[512];\
         mov.u32 %r2, buffer; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.u32 [%r3], 0;\
         bar.sync 15; st.shared.u32 [%r3], %r1; {between}\
         add.u32 %r4, %r1, {distance}; and.b32 %r4, %r4, 127; mad.lo.s32 %r3, %r4, 4, %r2;\
         ld.shared.u32 %r5, [%r3];"
    )
}

#[test]
fn a_block_barrier_orders_a_block() {
    is_ordered_by(&exchange(32, "bar.sync 0;"), "bar.sync 0;", &LaunchConfig::linear(1, 128));
}

#[test]
fn a_write_after_a_read_needs_a_barrier_too() {
    let body = exchange(64, "bar.sync 0;") + "bar.sync 1; st.shared.u32 [buffer], 0;";
    // Thread 64 reads what all threads write: one of them is enough.
    let body = body.replace(
        "st.shared.u32 [buffer], 0;",
        "setp.eq.u32 %p1, %r1, 3; @%p1 st.shared.u32 [buffer], 0;",
    );
    is_ordered_by(&body, "bar.sync 1;", &LaunchConfig::linear(1, 128));
}

#[test]
fn a_warp_is_ordered_by_syncwarp_and_not_by_a_shuffle() {
    let one_warp = LaunchConfig::linear(1, 32);
    let body = exchange(1, "bar.warp.sync -1;").replace("127", "31");
    is_ordered_by(&body, "bar.warp.sync -1;", &one_warp);
    races(&body.replace("bar.warp.sync -1;", "shfl.sync.bfly.b32 %r6, %r1, 1, 31, -1;"), &one_warp);
}

#[test]
fn two_blocks_that_write_one_place() {
    races("st.global.u32 [%rd1], %r1;", &LaunchConfig::linear(2, 1));
    // Also of the same value: which write is last is not ordered.
    races("st.global.u32 [%rd1], 7;", &LaunchConfig::linear(2, 1));
    // Neighbouring halves of one word are two places.
    is_clean(
        "mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd2, %r2, 2, %rd1; cvt.u16.u32 %h1, %r2;\
         st.global.u16 [%rd2], %h1;",
        &LaunchConfig::linear(8, 1),
    );
}

#[test]
fn lanes_of_one_instruction_may_write_one_value() {
    is_clean("st.global.u32 [%rd1], 7;", &LaunchConfig::linear(1, 32));
    races("st.global.u32 [%rd1], %r1;", &LaunchConfig::linear(1, 32));
}

/// Two blocks: each adds to a ticket after it wrote; the last one reads what both wrote.
const LAST_BLOCK: &str = "mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd2, %r2, 4, %rd1; \
     st.global.u32 [%rd2], 5; membar.gl; atom.global.inc.u32 %r3, [%rd1+64], 1; fence.acq_rel.gpu; \
     setp.ne.u32 %p1, %r3, 1; @%p1 ret; ld.global.u32 %r4, [%rd1]; ld.global.u32 %r5, [%rd1+4];";

#[test]
fn a_ticket_orders_blocks_with_a_fence_on_both_sides() {
    let two = LaunchConfig::linear(2, 1);
    is_ordered_by(LAST_BLOCK, "membar.gl;", &two);
    is_ordered_by(LAST_BLOCK, "fence.acq_rel.gpu;", &two);
    // A fence that reaches the block alone says nothing to another one.
    races(&LAST_BLOCK.replace("membar.gl", "membar.cta"), &two);
    races(&LAST_BLOCK.replace("fence.acq_rel.gpu", "fence.acq_rel.cta"), &two);
    races(&LAST_BLOCK.replace("atom.global", "atom.relaxed.cta.global"), &two);
    // An atomic that releases and acquires needs none.
    let bare = LAST_BLOCK.replace("membar.gl;", "").replace("fence.acq_rel.gpu;", "");
    is_clean(&bare.replace("atom.global", "atom.acq_rel.gpu.global"), &two);
    races(&bare.replace("atom.global", "atom.release.gpu.global"), &two);
    races(&bare.replace("atom.global", "atom.acquire.gpu.global"), &two);
}

#[test]
fn a_fence_covers_what_a_barrier_brought() {
    // Thread 1 writes, thread 0 publishes it: the barrier lies before the fence.
    let body = "mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd2, %r2, 4, %rd1; setp.eq.u32 %p2, %r1, 0;\
         @!%p2 st.global.u32 [%rd2], 5; bar.sync 0; @!%p2 ret; membar.gl; \
         atom.global.inc.u32 %r3, [%rd1+64], 1; membar.gl; setp.ne.u32 %p1, %r3, 1; @%p1 ret; \
         ld.global.u32 %r4, [%rd1]; ld.global.u32 %r5, [%rd1+4];";
    is_ordered_by(body, "bar.sync 0;", &LaunchConfig::linear(2, 2));
}

#[test]
fn a_flag_hands_over_from_block_to_block() {
    // Block 0 comes first in forward order; block 1 polls.
    let body = "mov.u32 %r2, %ctaid.x; setp.ne.u32 %p1, %r2, 0; @%p1 bra READ; \
         st.global.u32 [%rd1], 5; st.release.gpu.global.u32 [%rd1+64], 1; bra DONE; \
         READ: ld.acquire.gpu.global.u32 %r3, [%rd1+64]; setp.eq.u32 %p2, %r3, 0; @%p2 bra READ; \
         ld.global.u32 %r4, [%rd1]; DONE: mov.u32 %r5, 0;";
    let two = LaunchConfig::linear(2, 1);
    launch(body, Order::Forward, &two).unwrap();
    for (from, to) in [("st.release.gpu", "st.relaxed.gpu"), ("ld.acquire.gpu", "ld.relaxed.gpu")] {
        let report = launch(&body.replace(from, to), Order::Forward, &two).unwrap_err();
        assert_eq!(report.kind, FaultKind::Race, "{report}");
    }
    // Weak accesses to the flag are a race of their own.
    let weak = body.replace("st.release.gpu", "st").replace("ld.acquire.gpu", "ld");
    let report = launch(&weak, Order::Forward, &two).unwrap_err();
    assert_eq!(report.kind, FaultKind::Race, "{report}");
}

#[test]
fn atomics_do_not_race_with_each_other_and_do_with_plain_accesses() {
    let two = LaunchConfig::linear(2, 64);
    is_clean("red.global.add.u32 [%rd1], 1;", &two);
    races("red.global.add.u32 [%rd1], 1; ld.global.u32 %r2, [%rd1];", &two);
    is_clean("red.global.add.u32 [%rd1], 1; ld.volatile.global.u32 %r2, [%rd1];", &two);
}

#[test]
fn who_reads_a_sum_has_to_know_all_who_added() {
    // The last block is the last to add in each order of blocks: only the others are unknown to it.
    let body = "red.global.add.u32 [%rd1], 1; membar.gl; atom.global.inc.u32 %r3, [%rd1+64], 1;\
        fence.acq_rel.gpu; setp.ne.u32 %p1, %r3, 1; @%p1 ret; ld.global.u32 %r4, [%rd1];";
    is_ordered_by(body, "membar.gl;", &LaunchConfig::linear(2, 1));
}

#[test]
fn an_atomic_hides_no_plain_access_before_it() {
    let two_warps = LaunchConfig::linear(1, 64);
    races(
        "setp.ne.u32 %p1, %r1, 0; @!%p1 st.global.u32 [%rd1], 0; red.global.add.u32 [%rd1], 1;",
        &two_warps,
    );
    races(
        "setp.ne.u32 %p1, %r1, 0; @!%p1 ld.global.u32 %r3, [%rd1];\
         @!%p1 ld.volatile.global.u32 %r3, [%rd1]; @%p1 red.global.add.u32 [%rd1], 1;",
        &two_warps,
    );
}

#[test]
fn each_thread_may_fence_before_the_barrier() {
    // Fences are sequentially consistent with each other, so that they need not be the ticket's own.
    let body = "mov.u32 %r2, %ctaid.x; mad.lo.s32 %r2, %r2, 2, %r1; mad.wide.u32 %rd2, %r2, 4, %rd1;\
        st.global.u32 [%rd2], 5; membar.gl; bar.sync 0; setp.ne.u32 %p2, %r1, 0; @%p2 ret;\
        atom.global.inc.u32 %r3, [%rd1+64], 1; membar.gl; setp.ne.u32 %p1, %r3, 1; @%p1 ret;\
        ld.global.u32 %r4, [%rd1+4]; ld.global.u32 %r5, [%rd1+12];";
    let two = LaunchConfig::linear(2, 2);
    is_ordered_by(body, "membar.gl;", &two);
    races(&body.replacen("membar.gl", "membar.cta", 1), &two);
    races(&body.replacen("membar.gl", "fence.acq_rel.gpu", 1), &two);
    let late =
        body.replace("membar.gl; bar.sync 0;", "membar.gl; st.global.u32 [%rd2], 6; bar.sync 0;");
    races(&late, &two);
}

#[test]
fn lanes_may_meet_at_two_places() {
    let body = ".shared .align 4 .b8 b[128]; mov.u32 %r2, b; mad.lo.s32 %r3, %r1, 4, %r2;\
        setp.lt.u32 %p1, %r1, 16; @%p1 bra LOW;\
        st.shared.u32 [%r3], 1; bar.warp.sync -1; bra BOTH;\
        LOW: st.shared.u32 [%r3], 2; bar.warp.sync -1;\
        BOTH: xor.b32 %r4, %r3, 64; ld.shared.u32 %r5, [%r4];";
    is_clean(body, &LaunchConfig::linear(1, 32));
}

#[test]
fn named_barriers_order_those_who_take_part() {
    let body = ".shared .align 4 .u32 box; setp.ge.u32 %p1, %r1, 32; @%p1 bra READ;\
         setp.ne.u32 %p2, %r1, 0; @%p2 bra GO; st.shared.u32 [box], 77;\
         GO: bar.arrive 1, 64; bra DONE; READ: bar.sync 1, 64; ld.shared.u32 %r2, [box]; \
         DONE: mov.u32 %r2, 0;";
    is_clean(body, &LaunchConfig::linear(1, 64));
    // The reader waits at another barrier, with nobody: its own warp.
    let apart = body.replace("bar.sync 1, 64;", "bar.sync 2, 32;");
    let gpu = Gpu::with(&kernel(&apart), settings(Order::Forward));
    let report = gpu.fault(&LaunchConfig::linear(1, 64), &[0]);
    assert_eq!(report.kind, FaultKind::Race, "{report}");
}

#[test]
fn a_report_names_both_accesses() {
    let gpu = Gpu::with(
        &format!(
            ".file 1 \"sum.cu\"\n{}",
            kernel(
                ".shared .align 4 .u32 cell;\n setp.eq.u32 %p1, %r1, 40;\n.loc 1 7 1\n\
                 @%p1 st.shared.u32 [cell], 1;\n.loc 1 9 1\n@!%p1 ld.shared.u32 %r2, [cell];"
            )
        ),
        settings(Order::Reverse),
    );
    let report = gpu.fault(&LaunchConfig::linear(1, 64), &[0]);
    for part in [
        "read of 4 bytes",
        "the write by thread [40, 0, 0] of block [0, 0, 0]",
        "sum.cu:7",
        "sum.cu:9",
    ] {
        assert!(report.text.contains(part), "{part} is missing in {report}");
    }
}

#[test]
fn device_memory_that_nobody_wrote() {
    let gpu = Gpu::new(&kernel("ld.global.v2.u32 {%r2, %r3}, [%rd1];"));
    let out = gpu.context.allocate(8).unwrap();
    gpu.context.write(out, &[1, 2, 3, 4]).unwrap();
    let one = LaunchConfig::linear(1, 1);
    let report = gpu.fault(&one, &[out]);
    assert_eq!(report.kind, FaultKind::UninitialisedGlobal);
    assert!(report.text.contains("4 of them were never written"), "{report}");
    let settings = Settings { uninitialised: Uninitialised::Allowed, ..Settings::default() };
    let gpu = Gpu::with(&kernel("ld.global.u32 %r2, [%rd1]; st.global.u32 [%rd1], %r2;"), settings);
    let out = gpu.context.allocate(4).unwrap();
    gpu.launch(&one, &[out]).unwrap();
    assert_eq!(gpu.download32(out, 1), [u32::MAX]);
}

#[test]
fn a_copy_of_unwritten_memory_is_unwritten() {
    let gpu = Gpu::new(&kernel("ld.global.u32 %r2, [%rd1];"));
    let (from, to) = (gpu.context.allocate(64).unwrap(), gpu.context.allocate(64).unwrap());
    gpu.context.write(from, &[0; 32]).unwrap();
    gpu.context.copy_from(to, &gpu.context, from, 64).unwrap();
    let one = LaunchConfig::linear(1, 1);
    gpu.launch(&one, &[to + 28]).unwrap();
    assert_eq!(gpu.fault(&one, &[to + 32]).kind, FaultKind::UninitialisedGlobal);
}
