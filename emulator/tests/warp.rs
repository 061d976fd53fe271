//! Collectives, divergence and barriers.

mod common;

use common::{Gpu, evaluate, kernel};
use cuda_emulator::context::LaunchConfig;

/// What each of 32 lanes gets from `body`, where lane i starts with 100 + i in %r4.
fn per_lane(body: &str) -> Vec<u32> {
    let rows: Vec<[u64; 3]> = (0..32).map(|i| [100 + i, i, 0]).collect();
    evaluate(body, &rows).into_iter().map(|x| x as u32).collect()
}

fn expect(body: &str, expected: impl Fn(u32) -> u32) {
    let found = per_lane(body);
    let expected: Vec<u32> = (0..32).map(expected).collect();
    assert_eq!(found, expected, "{body}");
}

#[test]
fn shuffles() {
    expect("shfl.sync.bfly.b32 %r7, %r4, 1, 31, -1", |i| 100 + (i ^ 1));
    expect("shfl.sync.idx.b32 %r7, %r4, 5, 31, -1", |_| 105);
    // Only the low five bits of a lane count.
    expect("shfl.sync.idx.b32 %r7, %r4, 37, 31, -1", |_| 105);
    expect("shfl.sync.down.b32 %r7, %r4, 4, 31, -1", |i| 100 + if i + 4 < 32 { i + 4 } else { i });
    expect("shfl.sync.up.b32 %r7, %r4, 4, 0, -1", |i| 100 + if i >= 4 { i - 4 } else { i });
    // Segments of eight lanes.
    expect("shfl.sync.down.b32 %r7, %r4, 1, 0x181f, -1", |i| {
        100 + if i % 8 < 7 { i + 1 } else { i }
    });
    expect("shfl.sync.up.b32 %r7, %r4, 1, 0x1800, -1", |i| 100 + if i % 8 > 0 { i - 1 } else { i });
    expect("shfl.sync.idx.b32 %r7, %r4, 3, 0x181f, -1", |i| 100 + i / 8 * 8 + 3);
    expect("shfl.sync.down.b32 %r2|%p7, %r4, 4, 31, -1", |i| u32::from(i + 4 < 32));
}

#[test]
fn votes_and_matches() {
    let odd = "and.b32 %r2, %r5, 1; setp.eq.s32 %p1, %r2, 1;";
    expect(&format!("{odd} vote.sync.ballot.b32 %r7, %p1, -1"), |_| 0xAAAA_AAAA);
    expect(&format!("{odd} vote.sync.ballot.b32 %r7, !%p1, -1"), |_| 0x5555_5555);
    expect(&format!("{odd} vote.sync.any.pred %p7, %p1, -1"), |_| 1);
    expect(&format!("{odd} vote.sync.all.pred %p7, %p1, -1"), |_| 0);
    expect(&format!("{odd} vote.sync.uni.pred %p7, %p1, -1"), |_| 0);
    expect("shr.u32 %r2, %r5, 3; match.any.sync.b32 %r7, %r2, -1", |i| 0xFF << (i / 8 * 8));
    expect("match.all.sync.b32 %r7|%p1, %r4, -1", |_| 0);
    expect("mov.u32 %r2, 3; match.all.sync.b32 %r7|%p1, %r2, -1", |_| u32::MAX);
    expect("activemask.b32 %r7", |_| u32::MAX);
    expect("elect.sync %r7|%p1, -1", |_| 0);
    expect("elect.sync %r2|%p7, -1", |i| u32::from(i == 0));
}

#[test]
fn reductions() {
    expect("redux.sync.add.s32 %r7, %r5, -1", |_| 496);
    expect("redux.sync.min.s32 %r7, %r4, -1", |_| 100);
    expect("redux.sync.max.u32 %r7, %r4, -1", |_| 131);
    expect("neg.s32 %r2, %r5; redux.sync.min.s32 %r7, %r2, -1", |_| -31_i32 as u32);
    expect("neg.s32 %r2, %r5; redux.sync.min.u32 %r7, %r2, -1", |_| 0);
    expect("redux.sync.or.b32 %r7, %r5, -1", |_| 31);
    expect("redux.sync.and.b32 %r7, %r4, -1", |_| 0);
    expect("redux.sync.xor.b32 %r7, %r5, -1", |_| 0);
}

#[test]
fn halves_of_a_warp_use_masks_of_their_own() {
    // Both halves execute the same instruction with different masks.
    expect(
        "setp.lt.u32 %p1, %r5, 16; selp.b32 %r2, 0xffff, 0xffff0000, %p1;\
         redux.sync.add.s32 %r7, %r5, %r2",
        |i| if i < 16 { 120 } else { 376 },
    );
    // Each half executes an instruction of its own, then both meet in a third.
    expect(
        "setp.lt.u32 %p1, %r5, 16; @%p1 bra LOW;\
         redux.sync.max.u32 %r2, %r5, 0xffff0000; bra JOIN;\
         LOW: redux.sync.max.u32 %r2, %r5, 0xffff;\
         JOIN: redux.sync.add.s32 %r7, %r2, -1",
        |_| 16 * 15 + 16 * 31,
    );
}

#[test]
fn loops_with_different_trip_counts() {
    // Lane i adds i, i times.
    expect(
        "mov.u32 %r7, 0; mov.u32 %r2, %r5; setp.eq.u32 %p1, %r2, 0; @%p1 bra DONE;\
         MORE: add.u32 %r7, %r7, %r5; sub.u32 %r2, %r2, 1; setp.ne.u32 %p1, %r2, 0;\
         @%p1 bra MORE; DONE: mov.u32 %r2, 0",
        |i| i * i,
    );
}

#[test]
fn indexed_branches() {
    expect(
        "and.b32 %r2, %r5, 3; T: .branchtargets A, B, C, A; brx.idx %r2, T;\
         A: mov.u32 %r7, 1; bra E; B: mov.u32 %r7, 2; bra E; C: mov.u32 %r7, 3; E: mov.u32 %r2, 0",
        |i| [1, 2, 3, 1][i as usize % 4],
    );
}

#[test]
fn special_registers() {
    expect("mov.u32 %r7, %laneid", |i| i);
    expect("mov.u32 %r7, %lanemask_lt", |i| (1 << i) - 1);
    expect("mov.u32 %r7, %lanemask_ge", |i| !((1_u32 << i) - 1));
    expect("mov.u32 %r7, %ntid.x", |_| 32);
    let gpu = Gpu::new(&kernel(
        "mov.u32 %r2, %tid.y; mov.u32 %r3, %ntid.x; mad.lo.s32 %r4, %r2, %r3, %r1;\
         mov.u32 %r5, %ctaid.y; mov.u32 %r6, %nctaid.x; mov.u32 %r7, %ctaid.x;\
         mad.lo.s32 %r5, %r5, %r6, %r7; mad.lo.s32 %r4, %r5, 6, %r4;\
         mul.wide.u32 %rd2, %r4, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r4;",
    ));
    let out = gpu.context.allocate(4 * 36).unwrap();
    let config = LaunchConfig { grid: [2, 3, 1], block: [3, 2, 1], ..LaunchConfig::linear(1, 1) };
    gpu.launch(&config, &[out]).unwrap();
    assert_eq!(gpu.download32(out, 36), (0..36).collect::<Vec<_>>());
}

#[test]
fn barriers_order_shared_memory() {
    // Thread i reads what thread 127 - i wrote.
    let ptx = kernel(
        ".shared .align 4 .b8 buffer[512];\
         mov.u32 %r2, buffer; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.u32 [%r3], %r1;\
         bar.sync 0; sub.s32 %r4, 127, %r1; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.u32 %r5, [%r3];\
         mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r5;",
    );
    let gpu = Gpu::new(&ptx);
    let out = gpu.context.allocate(512).unwrap();
    let counters = gpu.launch(&LaunchConfig::linear(1, 128), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 128), (0..128).rev().collect::<Vec<_>>());
    assert_eq!(counters.barriers, 1);
}

#[test]
fn barriers_that_vote() {
    let ptx = kernel(
        "setp.lt.u32 %p1, %r1, 40; barrier.cta.red.popc.aligned.u32 %r2, 0, %p1;\
         barrier.cta.red.and.aligned.pred %p2, 0, %p1; barrier.cta.red.or.aligned.pred %p3, 0, %p1;\
         selp.u32 %r3, 1000, 0, %p2; selp.u32 %r4, 2000, 0, %p3; add.u32 %r2, %r2, %r3;\
         add.u32 %r2, %r2, %r4; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;\
         st.global.u32 [%rd2], %r2;",
    );
    let gpu = Gpu::new(&ptx);
    let out = gpu.context.allocate(4 * 96).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 96), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 96), [2040; 96]);
}

#[test]
fn named_barriers_hand_over_between_warps() {
    // Warp 0 produces and arrives; warp 1 waits and reads.
    let ptx = kernel(
        ".shared .align 4 .u32 box;\
         setp.ge.u32 %p1, %r1, 32; @%p1 bra READ;\
         setp.ne.u32 %p2, %r1, 0; @%p2 bra GO; st.shared.u32 [box], 77;\
         GO: bar.arrive 1, 64; bra DONE;\
         READ: bar.sync 1, 64; ld.shared.u32 %r2, [box]; st.global.u32 [%rd1], %r2;\
         DONE: mov.u32 %r2, 0;",
    );
    for order in ["forward", "reverse"] {
        let settings = cuda_emulator::settings::Settings {
            order: cuda_emulator::settings::Order::parse(order).unwrap(),
            ..Default::default()
        };
        let gpu = Gpu::with(&ptx, settings);
        let out = gpu.context.allocate(4).unwrap();
        gpu.launch(&LaunchConfig::linear(1, 64), &[out]).unwrap();
        assert_eq!(gpu.download32(out, 1), [77], "{order}");
    }
}

#[test]
fn threads_that_exit_do_not_hold_up_a_barrier() {
    let ptx = kernel(
        "setp.ge.u32 %p1, %r1, 40; @%p1 ret; bar.sync 0; \
         setp.eq.u32 %p2, %r1, 0; @%p2 st.global.u32 [%rd1], 5;",
    );
    let gpu = Gpu::new(&ptx);
    let out = gpu.context.allocate(4).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 96), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 1), [5]);
}

#[test]
fn lanes_that_part_while_they_spin_let_the_others_go_on() {
    // The last lane sets a flag behind a loop in which the others wait for it, by two ways.
    let ptx = kernel(
        "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; setp.eq.u32 %p2, %r1, 31; @%p2 bra SET;\
         SPIN: @%p1 bra EVEN; mov.u32 %r3, 1; EVEN: ld.volatile.global.u32 %r2, [%rd1];\
         setp.eq.u32 %p2, %r2, 0; @%p2 bra SPIN; bra DONE;\
         SET: st.volatile.global.u32 [%rd1], 7;\
         DONE: mov.u32 %r3, 0;",
    );
    for order in ["forward", "reverse", "shuffle:1"] {
        let settings = cuda_emulator::settings::Settings {
            order: cuda_emulator::settings::Order::parse(order).unwrap(),
            step_limit: 10_000_000,
            ..Default::default()
        };
        let gpu = Gpu::with(&ptx, settings);
        let out = gpu.upload(&[0_u32]);
        gpu.launch(&LaunchConfig::linear(1, 32), &[out]).unwrap();
        assert_eq!(gpu.download32(out, 1), [7], "{order}");
    }
}

#[test]
fn a_lock_within_a_warp_makes_progress() {
    // Every thread takes the lock, counts, and gives it back: lanes that spin must not starve the
    // lane that holds it.
    let ptx = kernel(
        "SPIN: atom.global.cas.b32 %r2, [%rd1], 0, 1; setp.ne.u32 %p1, %r2, 0; @%p1 bra SPIN;\
         ld.volatile.global.u32 %r3, [%rd1+4]; add.u32 %r3, %r3, 1;\
         st.volatile.global.u32 [%rd1+4], %r3; membar.gl; atom.global.exch.b32 %r2, [%rd1], 0;",
    );
    let gpu = Gpu::new(&ptx);
    let out = gpu.upload(&[0_u32, 0]);
    gpu.launch(&LaunchConfig::linear(4, 64), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 2), [0, 256]);
}
