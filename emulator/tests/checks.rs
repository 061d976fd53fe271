//! What a kernel can do wrong, each caught and reported with what its author needs.

mod common;

use common::{Gpu, HEADER, kernel};
use cuda_emulator::context::{Context, LaunchConfig};
use cuda_emulator::error::Error;
use cuda_emulator::fatbin::Image;
use cuda_emulator::fault::{FaultKind, FaultReport};
use cuda_emulator::settings::{Injectable, Injection, Order, Races, Settings};
use std::sync::Arc;

fn says(report: &FaultReport, kind: FaultKind, code: u32, parts: &[&str]) {
    assert_eq!(report.kind, kind, "{report}");
    assert_eq!(report.kind.code(), code);
    for part in parts {
        assert!(report.text.contains(part), "{part:?} is missing in: {report}");
    }
    assert!(report.text.lines().count() < 25, "more than a screen: {report}");
}

/// Runs `body` with 32 threads on 128 bytes of memory.
fn fault_of(body: &str) -> FaultReport {
    let gpu = Gpu::new(&kernel(body));
    let out = gpu.context.allocate(128).unwrap();
    gpu.context.fill(out, &[0], 128).unwrap();
    gpu.fault(&LaunchConfig::linear(1, 32), &[out])
}

#[test]
fn out_of_bounds_by_one_element() {
    let report = fault_of("mad.wide.u32 %rd2, %r1, 4, %rd1; ld.global.u32 %r2, [%rd2+4];");
    let parts = [
        "read of 4 bytes",
        "reaching 4 bytes past the end of allocation 1, 128 bytes",
        "thread [31, 0, 0]",
        "block [0, 0, 0]",
        "kernel k",
        "ld.global.u32 %r2, [%rd2+4];",
    ];
    says(&report, FaultKind::IllegalAddress, 700, &parts);
    let report = fault_of("st.global.u32 [%rd1+-4], 1;");
    says(&report, FaultKind::IllegalAddress, 700, &["write", "4 bytes before allocation 1"]);
    // A vector that begins inside and ends outside.
    let report = fault_of("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+128];");
    says(&report, FaultKind::IllegalAddress, 700, &["16 bytes", "16 bytes past the end"]);
    let report = fault_of("red.global.add.u32 [%rd1+128], 1;");
    says(&report, FaultKind::IllegalAddress, 700, &["atomic of 4 bytes"]);
}

#[test]
fn shared_addresses_at_the_end_of_all_addresses() {
    for instruction in [
        "ld.shared.u32 %r3, [%rd2+12];",
        "st.shared.v4.u32 [%rd2], {%r1, %r1, %r1, %r1};",
        "atom.shared.add.u64 %rd3, [%rd2+8], 1;",
        "mbarrier.init.shared.b64 [%rd2+8], 1;",
        "cp.async.ca.shared.global [%rd2], [%rd1], 16;",
    ] {
        let body = format!(".shared .align 16 .b8 data[128]; mov.u64 %rd2, -16; {instruction}");
        let gpu = Gpu::new(&kernel(&body));
        let out = gpu.upload(&[0_u64; 2]);
        let report = gpu.fault(&LaunchConfig::linear(1, 1), &[out]);
        says(&report, FaultKind::IllegalAddress, 700, &["past the end of shared data"]);
    }
}

#[test]
fn null_and_host_pointers() {
    let report = fault_of("mov.u64 %rd1, 0; ld.global.u32 %r2, [%rd1];");
    says(&report, FaultKind::IllegalAddress, 700, &["null pointer"]);
    let gpu = Gpu::new(&kernel("ld.global.u32 %r2, [%rd1];"));
    let host = [0_u32; 4];
    let report = gpu.fault(&LaunchConfig::linear(1, 1), &[host.as_ptr() as u64]);
    says(&report, FaultKind::IllegalAddress, 700, &["a host pointer?"]);
}

#[test]
fn use_after_free() {
    let gpu = Gpu::new(&kernel("st.global.u32 [%rd1+8], 1;"));
    let out = gpu.context.allocate(128).unwrap();
    gpu.context.free(out).unwrap();
    let again = gpu.context.allocate(128).unwrap();
    assert_ne!(out, again, "an address is never used twice");
    let report = gpu.fault(&LaunchConfig::linear(1, 1), &[out]);
    says(&report, FaultKind::IllegalAddress, 700, &["8 bytes into allocation 1", "was freed"]);
}

#[test]
fn misaligned_vector() {
    let report = fault_of("ld.global.v4.f32 {%r2, %r3, %r4, %r5}, [%rd1+4];");
    says(&report, FaultKind::MisalignedAddress, 716, &["not a multiple of 16"]);
    let report = fault_of("ld.global.v2.u16 {%h2, %h3}, [%rd1+2];");
    says(&report, FaultKind::MisalignedAddress, 716, &["not a multiple of 4"]);
}

#[test]
fn shared_memory_that_nobody_wrote() {
    let report = fault_of(
        ".shared .align 8 .b8 buffer[256]; mov.u32 %r2, buffer; mad.lo.u32 %r3, %r1, 8, %r2;\
         st.shared.u32 [%r3], %r1; bar.sync 0; ld.shared.u64 %rd2, [%r3];",
    );
    let parts = ["read of 8 bytes", "4 of them were not written"];
    says(&report, FaultKind::UninitialisedShared, 719, &parts);
}

#[test]
fn shared_memory_of_the_last_block_is_gone() {
    let gpu = Gpu::with(
        &kernel(
            ".shared .align 4 .u32 cell; mov.u32 %r2, %ctaid.x; setp.ne.u32 %p1, %r2, 0;\
             @%p1 bra READ; st.shared.u32 [cell], 1; READ: ld.shared.u32 %r3, [cell];",
        ),
        Settings { workers: 1, ..Settings::default() },
    );
    let report = gpu.fault(&LaunchConfig::linear(2, 1), &[0]);
    says(&report, FaultKind::UninitialisedShared, 719, &["block [1, 0, 0]"]);
}

#[test]
fn one_shared_variable_does_not_reach_into_the_next() {
    let report = fault_of(
        ".shared .align 4 .b8 first[128]; .shared .align 4 .b8 second[128];\
         mov.u32 %r2, first; mad.lo.u32 %r3, %r1, 4, %r2; st.shared.u32 [%r3+4], %r1;\
         mov.u32 %r2, second; st.shared.u32 [%r2], 0;",
    );
    let parts = ["4 bytes past the end of shared first (128 bytes)"];
    says(&report, FaultKind::IllegalAddress, 700, &parts);
}

#[test]
fn dynamic_shared_memory_has_the_size_of_the_launch() {
    let ptx = format!(
        ".extern .shared .align 16 .b8 cache[];\n{}",
        kernel("mov.u32 %r2, cache; mad.lo.u32 %r3, %r1, 4, %r2; st.shared.u32 [%r3], %r1;")
    );
    let gpu = Gpu::new(&ptx);
    let enough = LaunchConfig { dynamic_shared_bytes: 128, ..LaunchConfig::linear(1, 32) };
    gpu.launch(&enough, &[0]).unwrap();
    let short = LaunchConfig { dynamic_shared_bytes: 124, ..enough };
    let report = gpu.fault(&short, &[0]);
    says(&report, FaultKind::IllegalAddress, 700, &["dynamic shared memory (124 bytes)"]);
}

#[test]
fn divergent_barrier() {
    let report = fault_of(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra LOW; bar.sync 0; bra DONE; LOW: bar.sync 0;\
         DONE: mov.u32 %r2, 0;",
    );
    let parts = ["wait at different places", "0xffff0000", "0x0000ffff"];
    says(&report, FaultKind::DivergentBarrier, 719, &parts);
}

#[test]
fn deadlock_between_warps() {
    let gpu = Gpu::new(&kernel(
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra LOW; bar.sync 1; bra DONE; LOW: bar.sync 2;\
         DONE: mov.u32 %r2, 0;",
    ));
    let report = gpu.fault(&LaunchConfig::linear(1, 64), &[0]);
    let parts = ["nobody can go on", "barrier 1, 32 of 64 came", "barrier 2, 32 of 64 came"];
    says(&report, FaultKind::Deadlock, 719, &parts);
}

#[test]
fn a_last_warp_that_is_not_full_counts_as_a_whole_one() {
    let gpu = Gpu::new(&kernel(
        "setp.lt.u32 %p1, %r1, 48; bar.sync 1, 64; barrier.cta.red.and.pred %p2, 2, 64, %p1;\
         selp.u32 %r2, 1, 0, %p2; mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r2;",
    ));
    let out = gpu.upload(&[0_u32; 48]);
    gpu.launch(&LaunchConfig::linear(1, 48), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 48), [1; 48]);
}

#[test]
fn absent_lanes() {
    // A shuffle that reads a lane which has left.
    let report =
        fault_of("setp.ge.u32 %p1, %r1, 20; @%p1 ret; shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;");
    says(&report, FaultKind::AbsentLane, 719, &["lane 4 reads lane 20"]);
    // A lane that is not in its own mask.
    let report = fault_of("redux.sync.add.s32 %r2, %r1, 0xffff;");
    says(&report, FaultKind::AbsentLane, 719, &["lane 16 is not in the mask 0x0000ffff"]);
    // A mask with lanes that went another way for good.
    let report = fault_of(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra LOW; vote.sync.any.pred %p2, %p1, -1; bra DONE;\
         LOW: redux.sync.add.s32 %r2, %r1, -1; DONE: mov.u32 %r2, 0;",
    );
    says(&report, FaultKind::AbsentLane, 719, &["nobody can go on", "lanes 0xffffffff"]);
}

#[test]
fn runaway_kernel() {
    let gpu = Gpu::with(
        &kernel("AGAIN: add.u32 %r2, %r2, 1; bra AGAIN;"),
        Settings { step_limit: 100_000, ..Settings::default() },
    );
    let report = gpu.fault(&LaunchConfig::linear(3, 64), &[0]);
    says(&report, FaultKind::StepLimit, 702, &["100000 instructions", "CUDA_EMULATOR_STEPS"]);
}

#[test]
fn traps_and_bad_branch_indexes() {
    says(&fault_of("trap;"), FaultKind::Trap, 719, &["trap;"]);
    let report = fault_of("T: .branchtargets A; brx.idx %r1, T; A: mov.u32 %r2, 0;");
    says(&report, FaultKind::Trap, 719, &["branch target 1 of 1"]);
}

#[test]
fn reports_name_the_source_line() {
    let gpu = Gpu::new(&format!(
        ".file 1 \"/home/me/loss.cu\"\n.file 2 \"/home/me/row.cuh\"\n{}",
        kernel(
            ".loc 1 12 3\nmov.u64 %rd2, 0;\n\
             .loc 2 40 7, function_name $L__info_string0, inlined_at 1 13 5\n\
             ld.global.u32 %r2, [%rd2];"
        )
    ));
    let report = gpu.fault(&LaunchConfig::linear(1, 1), &[0]);
    says(&report, FaultKind::IllegalAddress, 700, &["at row.cuh:40, inlined at loss.cu:13"]);
}

#[test]
fn a_fault_ends_the_context() {
    let gpu = Gpu::new(&kernel("trap;"));
    gpu.fault(&LaunchConfig::linear(1, 1), &[0]);
    assert_eq!(gpu.context.allocate(4), Err(Error::Sticky(719)));
    assert_eq!(gpu.launch(&LaunchConfig::linear(1, 1), &[0]), Err(Error::Sticky(719)));
}

#[test]
fn unknown_instructions_name_themselves() {
    for (body, part) in [
        ("wgmma.fence.sync.aligned;", "unknown instruction `wgmma`"),
        ("add.rn.sparkling.f32 %r2, %r3, %r4;", "`.sparkling`"),
        ("add.sat.f64 %rd2, %rd3, %rd4;", "`.sat`"),
        ("fma.f64 %rd2, %rd3, %rd4, %rd5;", "unknown instruction"),
        ("fma.rn.oob.f16 %h2, %h3, %h4, %h5;", "`.oob`"),
        ("add.f32.bf16 %r2, %h3, %r4;", "`.bf16`"),
        ("max.f32 %r2, %r3, %r4, %r5;", "3 operands expected"),
        ("min.relu.u16x2 %r2, %r3, %r4;", "unknown instruction"),
        ("ex2.approx.bf16 %h2, %h3;", "unknown instruction"),
        ("ex2.approx.ftz.f16 %h2, %h3;", "unknown instruction"),
        ("cvt.rn.e4m3x2.f32 %h2, %r3, %r4;", "unknown instruction"),
        ("cvt.rs.f16x2.f32 %r2, %r3, %r4, %r5;", "unknown instruction"),
        ("cvt.rn.satfinite.e2m1x2.f32 %h2, %r3, %r4;", "e2m1x2"),
        ("add.cc.s16 %h2, %h3, %h4;", "unknown instruction"),
        ("mov.u32 %r2, %envreg3;", "%envreg3"),
        ("shl.s32 %r2, %r3, %r4, %r5;", "3 operands expected"),
        ("add.s32 %r2, %r3, %r99;", "%r99"),
        ("add.s32 %rd2, %r3, %r4;", "%rd2 has 64 bits where 32"),
        ("mov.u32 %r2, %no_such_register;", "%no_such_register"),
        ("bra NOWHERE;", "label NOWHERE"),
        ("call foo;", "unknown instruction `call`"),
    ] {
        let gpu =
            Gpu::new(&format!(".file 1 \"a.cu\"\n{}", kernel(&format!(".loc 1 5 1\n{body}"))));
        match gpu.launch(&LaunchConfig::linear(1, 1), &[0]) {
            Err(error @ Error::InvalidPtx(_)) => {
                let text = error.to_string();
                assert_eq!(error.code(), 218);
                assert!(text.contains(part) && text.contains(body), "{text}");
                assert!(text.contains("a.cu:5"), "{text}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn one_unknown_instruction_does_not_lock_the_module() {
    let context = Context::new(Settings::default());
    let ptx = format!(
        "{HEADER}.entry good()\n{{\nret;\n}}\n.entry bad()\n{{\nwgmma.fence.sync.aligned;\nret;\n}}\n"
    );
    let module = context.load(&ptx).unwrap();
    let good = module.kernel("good").unwrap().unwrap();
    context.launch(&good, &LaunchConfig::linear(1, 32), &[]).unwrap();
    assert!(module.kernel("bad").unwrap().is_err());
    assert_eq!(module.kernel("ugly").unwrap_err().code(), 500);
}

#[test]
fn launches_that_no_device_can_hold() {
    let gpu = Gpu::new(&kernel(""));
    let code = |config: &LaunchConfig| gpu.launch(config, &[0]).unwrap_err().code();
    assert_eq!(code(&LaunchConfig::linear(0, 32)), 1);
    assert_eq!(code(&LaunchConfig::linear(1, 1025)), 1);
    let much = LaunchConfig { dynamic_shared_bytes: 48 * 1024 + 1, ..LaunchConfig::linear(1, 32) };
    assert_eq!(code(&much), 1);
    let raised = LaunchConfig { max_dynamic_shared_bytes: Some(64 << 10), ..much };
    gpu.launch(&raised, &[0]).unwrap();
    let limited = Gpu::new(".visible .entry k(.param .u64 out)\n.maxntid 64, 1, 1\n{\nret;\n}\n");
    let error = limited.launch(&LaunchConfig::linear(1, 96), &[0]).unwrap_err();
    assert_eq!(error.code(), 701);
}

#[test]
fn copies_and_frees_are_checked() {
    let gpu = Gpu::new(&kernel(""));
    let out = gpu.context.allocate(16).unwrap();
    assert_eq!(gpu.context.write(out, &[0; 17]).unwrap_err().code(), 1);
    assert_eq!(gpu.context.read(out + 8, &mut [0; 9]).unwrap_err().code(), 1);
    assert_eq!(gpu.context.free(out + 8).unwrap_err().code(), 1);
    gpu.context.free(out).unwrap();
    assert_eq!(gpu.context.free(out).unwrap_err().code(), 1);
    assert_eq!(gpu.context.allocate(1 << 50).unwrap_err().code(), 2);
}

#[test]
fn the_chosen_call_fails_once() {
    let with = |kind, number| {
        let injections = vec![Arc::new(Injection::new(kind, number))];
        Gpu::with(&kernel(""), Settings { injections, ..Settings::default() })
    };
    let gpu = with(Injectable::Alloc, 2);
    let codes: Vec<u32> =
        (0..3).map(|_| gpu.context.allocate(4).map_or_else(|e| e.code(), |_| 0)).collect();
    assert_eq!(codes, [0, 2, 0]);
    let gpu = with(Injectable::Launch, 1);
    let error = gpu.launch(&LaunchConfig::linear(1, 1), &[0]).unwrap_err();
    assert_eq!((error.code(), &error), (719, &Error::Injected("launch")));
    gpu.launch(&LaunchConfig::linear(1, 1), &[0]).unwrap();
    let gpu = with(Injectable::Copy, 1);
    let out = gpu.context.allocate(4).unwrap();
    assert_eq!(gpu.context.write(out, &[0; 4]).unwrap_err(), Error::Injected("copy"));
    gpu.context.write(out, &[0; 4]).unwrap();
}

#[test]
fn blocks_run_in_the_chosen_order() {
    // Each block takes a ticket and writes it in its place.
    let ptx = kernel(
        "atom.global.add.u32 %r2, [%rd1], 1; mov.u32 %r3, %ctaid.x;\
         mad.wide.u32 %rd2, %r3, 4, %rd1; st.global.u32 [%rd2+4], %r2;",
    );
    let tickets = |order| {
        let gpu = Gpu::with(&ptx, Settings { order, workers: 1, ..Settings::default() });
        let out = gpu.upload(&[0_u32; 9]);
        gpu.launch(&LaunchConfig::linear(8, 1), &[out]).unwrap();
        gpu.download32(out, 9)[1..].to_vec()
    };
    assert_eq!(tickets(Order::Forward), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(tickets(Order::Reverse), [7, 6, 5, 4, 3, 2, 1, 0]);
    let (one, two) = (tickets(Order::Shuffle(1)), tickets(Order::Shuffle(2)));
    assert_eq!(one, tickets(Order::Shuffle(1)));
    assert_ne!(one, two);
    for mut shuffled in [one, two] {
        shuffled.sort_unstable();
        assert_eq!(shuffled, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn launches_are_reported() {
    let path = std::env::temp_dir().join(format!("cuda-emulator-{}.jsonl", std::process::id()));
    let gpu = Gpu::with(
        &kernel("mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r1; bar.sync 0;"),
        // Both blocks write the same places.
        Settings { report: Some(path.clone()), races: Races::Unchecked, ..Settings::default() },
    );
    let out = gpu.context.allocate(256).unwrap();
    gpu.launch(&LaunchConfig::linear(2, 64), &[out]).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 32), &[out]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    // Six instructions a thread: two of the helper, three of the body, `ret`.
    for part in [
        "\"kernel\":\"k\"",
        "\"grid\":[2, 1, 1]",
        "\"block\":[64, 1, 1]",
        "\"cluster\":[1, 1, 1]",
        "\"lane_instructions\":768",
        "\"synchronisation\":128",
        "\"global\":128",
        "\"unique_bytes_read\":0",
        "\"unique_bytes_written\":256",
        "\"global_bytes_read\":0",
        "\"global_bytes_written\":512",
        "\"global_sectors_written\":16",
        "\"barriers\":2",
    ] {
        assert!(lines[0].contains(part), "{part} is missing in {}", lines[0]);
    }
}

#[test]
fn a_kernel_that_was_compiled_for_clusters_has_no_others() {
    let gpu = Gpu::new(&kernel("").replace(")\n{", ") .reqnctapercluster 2, 1, 1\n{"));
    let out = gpu.context.allocate(128).unwrap();
    let of = |cluster: [u32; 3], blocks| {
        let config = LaunchConfig { cluster, ..LaunchConfig::linear(blocks, 1) };
        gpu.launch(&config, &[out]).map_err(|error| error.code()).err()
    };
    assert_eq!(of([1, 1, 1], 4), None, "a launch that names none has the kernel's");
    assert_eq!(of([2, 1, 1], 4), None);
    assert_eq!(of([4, 1, 1], 4), Some(912));
    assert_eq!(of([1, 1, 1], 5), Some(912), "the grid is no multiple");
}

#[test]
fn a_block_of_too_many_registers_is_refused() {
    let gpu = Gpu::new("");
    let ptx = format!("{HEADER}{}", kernel(""));
    let registers = [("k".to_string(), 72)].into();
    let module = gpu.context.load_image(&Image { ptx, registers }).unwrap();
    let kernel = module.kernel("k").unwrap().unwrap();
    let of = |threads| gpu.context.launch(&kernel, &LaunchConfig::linear(1, threads), &[0; 8]);
    of(896).unwrap();
    // 2304 registers a warp, 29 warps checked as if they were 32.
    assert_eq!(of(897).unwrap_err().code(), 701);
}
