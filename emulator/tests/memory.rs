//! Loads, stores, atomics, variables, parameters, address spaces.

mod common;

use common::{Gpu, kernel};
use cuda_emulator::context::LaunchConfig;
use cuda_emulator::settings::Settings;

/// The memory word and the old value that each of `threads` threads got, in order.
fn atomic(instruction: &str, start: u64, threads: u32) -> (u64, Vec<u64>) {
    let wide = instruction.contains("64") || instruction.contains("%rd7");
    let result = if wide { "" } else { "cvt.u64.u32 %rd7, %r7;" };
    let gpu = Gpu::new(&kernel(&format!(
        "cvt.u64.u32 %rd2, %r1; mad.wide.u32 %rd3, %r1, 8, %rd1; {instruction};\
         {result} st.global.u64 [%rd3+8], %rd7;"
    )));
    let out = gpu.upload(&vec![start; 1 + threads as usize]);
    let counters = gpu.launch(&LaunchConfig::linear(1, threads), &[out]).unwrap();
    assert_eq!(counters.global_atomics, u64::from(threads), "{instruction}");
    let words = gpu.download64(out, 1 + threads as usize);
    (words[0], words[1..].to_vec())
}

#[test]
fn atomics_give_old_values_in_lane_order() {
    assert_eq!(atomic("atom.global.add.u32 %r7, [%rd1], 3", 10, 3), (19, vec![10, 13, 16]));
    assert_eq!(atomic("atom.add.s32 %r7, [%rd1], -1", 1, 2).0, 0xFFFF_FFFF);
    assert_eq!(atomic("atom.global.add.u64 %rd7, [%rd1], %rd2", 1 << 40, 3).0, (1 << 40) + 3);
    assert_eq!(atomic("atom.global.inc.u32 %r7, [%rd1], 2", 1, 3), (1, vec![1, 2, 0]));
    assert_eq!(atomic("atom.global.dec.u32 %r7, [%rd1], 5", 1, 3), (4, vec![1, 0, 5]));
    assert_eq!(atomic("atom.global.dec.u32 %r7, [%rd1], 5", 9, 1).0, 5);
    assert_eq!(atomic("atom.global.exch.b32 %r7, [%rd1], %r1", 7, 3), (2, vec![7, 0, 1]));
    assert_eq!(atomic("atom.global.cas.b32 %r7, [%rd1], 7, %r1", 7, 3), (0, vec![7, 0, 0]));
    assert_eq!(atomic("atom.global.cas.b64 %rd7, [%rd1], 7, 1099511627776", 7, 1).0, 1 << 40);
    assert_eq!(atomic("atom.global.min.s32 %r7, [%rd1], -4", 1, 1).0, 0xFFFF_FFFC);
    assert_eq!(atomic("atom.global.max.u32 %r7, [%rd1], -4", 1, 1).0, 0xFFFF_FFFC);
    assert_eq!(atomic("atom.global.max.s64 %rd7, [%rd1], 3", u64::MAX, 1).0, 3);
    assert_eq!(atomic("atom.global.min.u64 %rd7, [%rd1], 3", u64::MAX, 1).0, 3);
    assert_eq!(atomic("atom.global.and.b32 %r7, [%rd1], 6", 3, 1).0, 2);
    assert_eq!(atomic("atom.global.or.b32 %r7, [%rd1], 6", 3, 1).0, 7);
    assert_eq!(atomic("atom.global.xor.b32 %r7, [%rd1], 6", 3, 1).0, 5);
    let one = u64::from(1_f32.to_bits());
    assert_eq!(atomic("atom.global.add.f32 %r7, [%rd1], 0f3F800000", one, 3).0, 0x4080_0000);
    // In global memory f32 atomics flush subnormals.
    assert_eq!(atomic("atom.global.add.f32 %r7, [%rd1], 0f00000001", 1, 1).0, 0);
    let wide = 1_f64.to_bits();
    let sum = "atom.global.add.f64 %rd7, [%rd1], 0d3FF0000000000000";
    assert_eq!(atomic(sum, wide, 2).0, 3_f64.to_bits());
    let halves = "mov.u32 %r2, 0x3c004000; atom.global.add.noftz.f16x2 %r7, [%rd1], %r2";
    assert_eq!(atomic(halves, 0x3C00_3C00, 1).0, 0x4000_4200);
}

#[test]
fn atomics_of_many_blocks_lose_nothing() {
    let gpu = Gpu::with(
        &kernel("red.global.add.u32 [%rd1], 1; atom.global.add.u64 %rd2, [%rd1+8], 2;"),
        Settings { workers: 4, ..Settings::default() },
    );
    let out = gpu.upload(&[0_u64, 0]);
    gpu.launch(&LaunchConfig::linear(200, 96), &[out]).unwrap();
    assert_eq!(gpu.download64(out, 2), [19_200, 38_400]);
}

#[test]
fn shared_atomics_keep_subnormals() {
    let gpu = Gpu::new(&kernel(
        ".shared .align 4 .u32 cell;\
         st.shared.u32 [cell], 1; mov.u32 %r2, cell;\
         atom.shared.add.f32 %r3, [%r2], 0f00000001; ld.shared.u32 %r4, [%r2];\
         st.global.u32 [%rd1], %r4;",
    ));
    let out = gpu.context.allocate(4).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 1), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 1), [2]);
}

#[test]
fn widths_and_signs_of_accesses() {
    let gpu = Gpu::new(&kernel(
        "ld.global.s8 %r2, [%rd1]; st.global.u32 [%rd1+16], %r2;\
         ld.global.u8 %r2, [%rd1]; st.global.u32 [%rd1+20], %r2;\
         ld.global.s16 %rd2, [%rd1+2]; st.global.u64 [%rd1+24], %rd2;\
         ld.global.v4.u16 {%h1, %h2, %h3, %h4}, [%rd1]; st.global.v2.u16 [%rd1+32], {%h4, %h1};\
         ld.global.nc.v2.u64 {%rd2, %rd3}, [%rd1]; st.global.cs.v2.b64 [%rd1+48], {%rd3, %rd2};\
         ld.global.v4.u32 {_, %r2, _, _}, [%rd1]; st.global.u8 [%rd1+36], %r2;\
         st.global.u32 [%rd1+40], 5;",
    ));
    let out = gpu.upload(&[0x4433_8022_8000_11F0_u64, 0x0102_0304_0506_0708, 0, 0, 0, 0, 0, 0]);
    let counters = gpu.launch(&LaunchConfig::linear(1, 1), &[out]).unwrap();
    let words = gpu.download32(out, 16);
    assert_eq!(words[4..8], [0xFFFF_FFF0, 0xF0, 0xFFFF_8000, 0xFFFF_FFFF]);
    assert_eq!(words[8], 0x11F0_4433);
    assert_eq!(words[9], 0x22);
    assert_eq!(words[10], 5);
    assert_eq!(words[12..], [0x0506_0708, 0x0102_0304, 0x8000_11F0, 0x4433_8022]);
    assert_eq!(counters.global_bytes_read, 1 + 1 + 2 + 8 + 16 + 16);
    assert_eq!(counters.global_bytes_written, 4 + 4 + 8 + 4 + 16 + 1 + 4);
}

#[test]
fn sectors_count_what_a_warp_touches() {
    let strided = |stride: u32| {
        let gpu = Gpu::new(&kernel(&format!(
            "mad.wide.u32 %rd2, %r1, {stride}, %rd1; ld.global.u32 %r2, [%rd2];"
        )));
        let out = gpu.upload(&[0_u32; 1024]);
        gpu.launch(&LaunchConfig::linear(1, 32), &[out]).unwrap().global_sectors_read
    };
    assert_eq!(strided(4), 4);
    assert_eq!(strided(8), 8);
    assert_eq!(strided(32), 32);
    assert_eq!(strided(0), 1);
}

#[test]
fn generic_addresses_find_their_space() {
    let gpu = Gpu::new(&kernel(
        ".shared .align 4 .u32 cell; .local .align 4 .b8 own[8];\
         mov.u32 %r2, cell; cvt.u64.u32 %rd2, %r2; cvta.shared.u64 %rd2, %rd2;\
         st.u32 [%rd2], 11; ld.shared.u32 %r3, [cell]; st.global.u32 [%rd1], %r3;\
         mov.u64 %rd3, own; cvta.local.u64 %rd4, %rd3; st.u32 [%rd4+4], 22;\
         ld.local.u32 %r3, [%rd3+4]; st.u32 [%rd1+4], %r3;\
         isspacep.shared %p1, %rd2; isspacep.global %p2, %rd2; isspacep.global %p3, %rd1;\
         selp.u32 %r3, 1, 0, %p1; selp.u32 %r4, 2, 0, %p2; selp.u32 %r5, 4, 0, %p3;\
         add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%rd1+8], %r3;\
         cvta.to.shared.u64 %rd5, %rd2; cvt.u32.u64 %r6, %rd5; ld.shared.u32 %r3, [%r6];\
         st.global.u32 [%rd1+12], %r3;",
    ));
    let out = gpu.context.allocate(16).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 1), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 4), [11, 22, 5, 11]);
}

#[test]
fn variables_have_initial_values() {
    let gpu = Gpu::new(&format!(
        ".const .align 4 .b8 table[8] = {{1, 0, 0, 0, 2, 0, 0, 0}};\n\
         .global .align 4 .u32 counter = 7;\n.global .align 4 .f32 ratio = 0f3F800000;\n\
         .global .align 8 .b8 space[16];\n{}",
        kernel(
            "ld.const.u32 %r2, [table+4]; ld.global.u32 %r3, [counter]; ld.global.u32 %r4, [ratio];\
             mov.u64 %rd2, space; ld.global.u32 %r5, [%rd2+12];\
             st.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r5}; st.global.u32 [counter], 8;",
        )
    ));
    let out = gpu.context.allocate(16).unwrap();
    let counters = gpu.launch(&LaunchConfig::linear(1, 1), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 4), [2, 7, 0x3F80_0000, 0]);
    assert_eq!(counters.global_bytes_read, 12, "constants are no traffic");
    let (address, bytes) = gpu.module.variable("counter").unwrap();
    assert_eq!((gpu.download32(address, 1), bytes), (vec![8], 4));
}

#[test]
fn parameters_are_laid_out_as_declared() {
    let gpu = Gpu::new(
        ".visible .entry k(.param .u8 small, .param .u64 out, .param .align 16 .b8 block[32])\n{\n\
         .reg .b32 %r<8>; .reg .b64 %rd<8>;\n\
         ld.param.u64 %rd1, [out]; ld.param.u8 %r1, [small];\n\
         ld.param.v4.u32 {%r2, %r3, %r4, %r5}, [block+16];\n\
         mov.b64 %rd2, block; ld.param.u32 %r6, [%rd2+-12];\n\
         st.global.v4.u32 [%rd1], {%r1, %r3, %r5, %r6};\nret;\n}\n",
    );
    let out = gpu.context.allocate(16).unwrap();
    let parameters = [9, out, 0x6_0000_0005, 0x8_0000_0007, 0x2_0000_0001, 0x4_0000_0003];
    // `block+-12` reaches 12 bytes before `block`: the upper half of `small`'s padding.
    gpu.launch(&LaunchConfig::linear(1, 1), &parameters).unwrap();
    assert_eq!(gpu.download32(out, 4), [9, 2, 4, 0]);
}

#[test]
fn fresh_memory_is_not_zero() {
    let gpu = Gpu::new(&kernel(""));
    let out = gpu.context.allocate(64).unwrap();
    assert_eq!(gpu.download32(out, 16), [u32::MAX; 16]);
}

#[test]
fn copies_and_fills_at_any_offset() {
    let gpu = Gpu::new(&kernel(""));
    let out = gpu.context.allocate(64).unwrap();
    gpu.context.fill(out, &[0], 64).unwrap();
    let bytes: Vec<u8> = (1..=29).collect();
    for offset in 0..16 {
        gpu.context.write(out + offset, &bytes).unwrap();
        let mut back = [0; 29];
        gpu.context.read(out + offset, &mut back).unwrap();
        assert_eq!(back[..], bytes[..], "offset {offset}");
    }
    gpu.context.fill(out + 4, &7_u32.to_le_bytes(), 3).unwrap();
    assert_eq!(gpu.download32(out, 4)[1..], [7, 7, 7]);
    let copy = gpu.context.allocate(64).unwrap();
    gpu.context.copy_from(copy, &gpu.context, out, 64).unwrap();
    assert_eq!(gpu.download64(copy, 8), gpu.download64(out, 8));
}

/// Wavefronts of a load of `words` words by each lane, `stride` words apart, and how many of them come of
/// two words in one bank.
fn banks(words: u32, stride: u32) -> (u64, u64) {
    let (vector, registers) = match words {
        1 => ("u32", "%r4"),
        2 => ("v2.u32", "{%r4, %r5}"),
        _ => ("v4.u32", "{%r4, %r5, %r6, %r7}"),
    };
    let report =
        std::env::temp_dir().join(format!("banks-{}-{words}-{stride}", std::process::id()));
    let settings = Settings { report: Some(report.clone()), ..Settings::default() };
    let gpu = Gpu::with(
        &kernel(&format!(
            ".shared .align 16 .b8 data[16384]; mov.u32 %r2, data; mad.lo.s32 %r3, %r1, {}, %r2;\
             st.shared.{vector} [%r3], {registers}; ld.shared.{vector} {registers}, [%r3];",
            4 * stride
        )),
        settings,
    );
    let counters = gpu.launch(&LaunchConfig::linear(1, 32), &[0]).unwrap();
    std::fs::remove_file(report).unwrap();
    (counters.shared_wavefronts / 2, counters.shared_bank_conflicts / 2)
}

#[test]
fn banks_of_shared_memory() {
    assert_eq!(banks(1, 1), (1, 0));
    // Every second bank, twice.
    assert_eq!(banks(1, 2), (2, 1));
    assert_eq!(banks(1, 32), (32, 31));
    assert_eq!(banks(1, 33), (1, 0));
    // Vectors are served by halves and quarters of the warp.
    assert_eq!(banks(2, 2), (2, 0));
    assert_eq!(banks(4, 4), (4, 0));
    assert_eq!(banks(4, 8), (8, 4));
}

/// Where instructions are: each with the lanes that executed it, all together the launch's.
#[test]
fn profile_of_a_kernel() {
    let folder = std::env::temp_dir().join(format!("profile-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let settings = Settings { profile: Some(folder.clone()), ..Settings::default() };
    let text = kernel("setp.lt.u32 %p1, %r1, 5; @%p1 add.f32 %r2, %r3, %r3;");
    let counters = Gpu::with(&text, settings).launch(&LaunchConfig::linear(2, 32), &[0]).unwrap();

    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let profile = std::fs::read_to_string(file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let lines: Vec<Vec<&str>> = profile.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0], ["lanes", "class", "line", "ptx"]);
    let lanes = |line: &[&str]| line[0].parse::<u64>().unwrap();
    let total: u64 = lines[1..].iter().map(|line| lanes(line)).sum();
    assert_eq!(total, counters.lane_instructions());
    let add = lines.iter().find(|line| line[3].contains("add.f32")).unwrap();
    assert_eq!((lanes(add), add[1]), (2 * 5, "f32"));
}
