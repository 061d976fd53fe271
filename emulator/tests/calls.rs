//! Device functions that nvcc did not inline, and `assert`.

mod common;

use common::{Gpu, kernel};
use cuda_emulator::context::LaunchConfig;
use cuda_emulator::error::Error;
use cuda_emulator::fault::FaultKind;

/// `twice_plus(x, y)`, which returns early for an x of 3 or more, and `nested`, which calls it twice.
const FUNCTIONS: &str = ".func (.param .b32 result) twice_plus(.param .b32 x, .param .b32 y)\n{\n\
    .reg .pred %p<2>; .reg .b32 %r<6>; .local .align 4 .b8 own[4];\n\
    ld.param.u32 %r1, [x]; ld.param.u32 %r2, [y]; setp.ge.u32 %p1, %r1, 3; @%p1 bra BIG;\n\
    shl.b32 %r3, %r1, 1; st.local.u32 [own], %r3; ld.local.u32 %r4, [own]; add.u32 %r5, %r4, %r2;\n\
    st.param.b32 [result], %r5; ret;\n\
    BIG: st.param.b32 [result], 1000; ret;\n}\n\
    .func (.param .b32 result) nested(.param .b32 z)\n{\n\
    .reg .b32 %r<6>; ld.param.u32 %r1, [z];\n\
    {\n.param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 param1;\n\
    st.param.b32 [param1+0], 7; .param .b32 retval0;\n\
    call.uni (retval0), twice_plus, (param0, param1); ld.param.b32 %r2, [retval0+0];\n}\n\
    add.u32 %r3, %r2, 100; st.param.b32 [result], %r3; ret;\n}\n";

/// Thread i stores what `nested(i)` gives.
const CALLER: &str = "{\n.param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;\n\
    call.uni (retval0), nested, (param0); ld.param.b32 %r5, [retval0+0];\n}\n\
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r5;";

#[test]
fn functions_return_to_where_they_were_called() {
    let gpu = Gpu::new(&format!("{FUNCTIONS}{}", kernel(CALLER)));
    let out = gpu.context.allocate(4 * 6).unwrap();
    gpu.launch(&LaunchConfig::linear(1, 6), &[out]).unwrap();
    assert_eq!(gpu.download32(out, 6), [107, 109, 111, 1100, 1100, 1100]);
}

#[test]
fn calls_that_cannot_be_inlined_name_themselves() {
    let recursive = FUNCTIONS.replace(
        "shl.b32 %r3, %r1, 1;",
        "{ .param .b32 a; .param .b32 b; \
        st.param.b32 [a], 1; .param .b32 r; call (r), nested, (a); }",
    );
    let cases = [
        (format!("{recursive}{}", kernel(CALLER)), "which calls itself"),
        (kernel("call elsewhere;"), "elsewhere, which is not declared"),
        (
            format!(
                ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n{}",
                kernel(
                    "{ .param .b64 a; .param .b64 b; .param .b32 r; call (r), vprintf, (a, b); }",
                )
            ),
            "vprintf, which the driver provides",
        ),
        (format!("{FUNCTIONS}{}", kernel("call nested;")), "another number of arguments"),
        (format!("{FUNCTIONS}{}", kernel("@%p1 call nested;")), "under a predicate"),
    ];
    for (ptx, part) in cases {
        match Gpu::new(&ptx).launch(&LaunchConfig::linear(1, 1), &[0]) {
            Err(Error::InvalidPtx(error)) => {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[test]
fn assertions_say_what_does_not_hold() {
    let text = |name: &str, value: &str| {
        let bytes: Vec<String> = value.bytes().chain([0]).map(|b| b.to_string()).collect();
        format!(".global .align 1 .b8 {name}[{}] = {{{}}};\n", bytes.len(), bytes.join(", "))
    };
    let ptx = format!(
        ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, \
         .param .b64 e) .noreturn;\n{}{}{}{}",
        text("message", "row < rows"),
        text("file", "loss.cu"),
        text("within", "void k(int)"),
        kernel(
            "setp.lt.u32 %p1, %r1, 20; @%p1 bra FINE;\n\
             { .reg .b32 temp; .param .b64 p0; mov.u64 %rd2, message; cvta.global.u64 %rd2, %rd2;\n\
             st.param.b64 [p0+0], %rd2; .param .b64 p1; mov.u64 %rd3, file;\n\
             cvta.global.u64 %rd3, %rd3; st.param.b64 [p1+0], %rd3; .param .b32 p2;\n\
             st.param.b32 [p2+0], 63; .param .b64 p3; mov.u64 %rd4, within;\n\
             cvta.global.u64 %rd4, %rd4; st.param.b64 [p3+0], %rd4; .param .b64 p4;\n\
             st.param.b64 [p4+0], 1; call.uni __assertfail, (p0, p1, p2, p3, p4); }\n\
             FINE: mov.u32 %r2, 0;",
        )
    );
    let gpu = Gpu::new(&ptx);
    gpu.launch(&LaunchConfig::linear(1, 20), &[0]).unwrap();
    let report = gpu.fault(&LaunchConfig::linear(1, 32), &[0]);
    assert_eq!((report.kind, report.kind.code()), (FaultKind::Assert, 710));
    for part in ["`row < rows` does not hold, loss.cu:63, in void k(int)", "thread [20, 0, 0]"] {
        assert!(report.text.contains(part), "{part} is missing in {report}");
    }
}
