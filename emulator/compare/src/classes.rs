//! The instructions that are compared, and how far their results may differ.

use cuda_emulator::approx::HalfKind;
use cuda_emulator::approx::{Format, Function};

use crate::inputs::Operands;

/// What the bits of a result are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Bits,
    F32,
    F64,
    Half(HalfKind),
    /// Two to a register.
    Half2(HalfKind),
}

/// How far two machines may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// Not at all, NaNs included.
    Exact,
    /// Only in a NaN's bits, which the manual leaves open.
    ExactButNan,
    /// Each within the documented error of a function; subnormals become zero if `Flush`.
    Documented(Function, Format, Subnormals),
    /// The manual states no error: differences are shown, not judged.
    Undocumented,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subnormals {
    Keep,
    Flush,
}

/// One instruction.
#[derive(Debug)]
pub struct Class {
    /// Opcode and modifiers.
    pub instruction: String,
    /// Operands a, b, c are %r4, %r5, %r6, or %h.., or %rd..; the result is %r7, %h7, %rd7 or %p7.
    body: String,
    /// 75 for sm_75.
    pub capability: u32,
    pub operands: Operands,
    pub value: Value,
    pub agreement: Agreement,
}

impl Class {
    /// Whether the manual says nothing of the result of this f32: `sin` and `cos` beyond 100 pi.
    pub fn is_open(&self, operand: u32) -> bool {
        let Agreement::Documented(Function::Sin | Function::Cos, ..) = self.agreement else {
            return false;
        };
        let angle = f32::from_bits(operand).abs();
        angle.is_finite() && f64::from(angle) > 100.0 * std::f64::consts::PI
    }

    /// A module with kernel `k(rows, results, count)`.
    pub fn ptx(&self) -> String {
        let result = if self.body.contains("%rd7") {
            ""
        } else if self.body.contains("%h7") {
            "cvt.u64.u16 %rd7, %h7;"
        } else if self.body.contains("%p7") {
            "selp.b64 %rd7, 1, 0, %p7;"
        } else {
            "cvt.u64.u32 %rd7, %r7;"
        };
        format!(
            ".version 7.8\n.target sm_{}\n.address_size 64\n\
             .visible .entry k(.param .u64 rows, .param .u64 results, .param .u32 count)\n{{\n\
             .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<12>;\n.reg .b64 %rd<12>;\n\
             ld.param.u64 %rd1, [rows];\nld.param.u64 %rd2, [results];\nld.param.u32 %r8, [count];\n\
             mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %ntid.x;\n\
             mad.lo.u32 %r1, %r2, %r3, %r1;\nsetp.ge.u32 %p1, %r1, %r8;\n@%p1 bra DONE;\n\
             cvta.to.global.u64 %rd1, %rd1;\ncvta.to.global.u64 %rd2, %rd2;\n\
             mul.wide.u32 %rd3, %r1, 24;\nadd.s64 %rd1, %rd1, %rd3;\n\
             mul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd2, %rd2, %rd3;\n\
             ld.global.u64 %rd4, [%rd1];\nld.global.u64 %rd5, [%rd1+8];\n\
             ld.global.u64 %rd6, [%rd1+16];\n\
             cvt.u32.u64 %r4, %rd4;\ncvt.u32.u64 %r5, %rd5;\ncvt.u32.u64 %r6, %rd6;\n\
             cvt.u16.u64 %h4, %rd4;\ncvt.u16.u64 %h5, %rd5;\ncvt.u16.u64 %h6, %rd6;\n\
             {};\n{result}\nst.global.u64 [%rd2], %rd7;\nDONE:\nret;\n}}\n",
            self.capability, self.body
        )
    }
}

/// `opcode %x7, %x4, ...` for registers of a class.
fn simple(opcode: &str, registers: &str, sources: usize) -> String {
    let sources: Vec<String> =
        (4..4 + sources).map(|number| format!("%{registers}{number}")).collect();
    format!("{opcode} %{registers}7, {}", sources.join(", "))
}

/// All that are compared.
pub fn all() -> Vec<Class> {
    const F16: HalfKind = HalfKind::F16;
    const BF16: HalfKind = HalfKind::Bf16;
    let mut classes = Vec::new();
    let mut add = |instruction: &str, body: String, capability, operands, value, agreement| {
        let instruction = instruction.to_string();
        classes.push(Class { instruction, body, capability, operands, value, agreement });
    };

    // Approximations of f32.
    for (name, function, sources) in [
        ("ex2.approx", Function::Ex2, 1),
        ("lg2.approx", Function::Lg2, 1),
        ("rcp.approx", Function::Rcp, 1),
        ("rsqrt.approx", Function::Rsqrt, 1),
        ("sqrt.approx", Function::Sqrt, 1),
        ("sin.approx", Function::Sin, 1),
        ("cos.approx", Function::Cos, 1),
        ("div.approx", Function::Div, 2),
        ("div.full", Function::DivFull, 2),
    ] {
        for (ftz, subnormals) in [("", Subnormals::Keep), (".ftz", Subnormals::Flush)] {
            let opcode = format!("{name}{ftz}.f32");
            let agreement = Agreement::Documented(function, Format::F32, subnormals);
            let body = simple(&opcode, "r", sources);
            add(&opcode, body, 75, Operands::Singles, Value::F32, agreement);
        }
    }
    let tanh = Agreement::Documented(Function::Tanh, Format::F32, Subnormals::Keep);
    let opcode = "tanh.approx.f32";
    add(opcode, simple(opcode, "r", 1), 75, Operands::Singles, Value::F32, tanh);
    for opcode in ["rcp.approx.ftz.f64", "rsqrt.approx.ftz.f64", "rsqrt.approx.f64"] {
        let body = simple(opcode, "rd", 1);
        add(opcode, body, 75, Operands::Doubles, Value::F64, Agreement::Undocumented);
    }

    // Approximations of halves.
    for (name, function, kind, capability, subnormals) in [
        ("ex2.approx.f16", Function::Ex2, F16, 75, Subnormals::Keep),
        ("ex2.approx.ftz.bf16", Function::Ex2, BF16, 90, Subnormals::Flush),
        ("tanh.approx.f16", Function::Tanh, F16, 75, Subnormals::Keep),
        ("tanh.approx.bf16", Function::Tanh, BF16, 90, Subnormals::Keep),
    ] {
        let agreement = Agreement::Documented(function, Format::Half(kind), subnormals);
        let one = simple(name, "h", 1);
        add(name, one, capability, Operands::Halves, Value::Half(kind), agreement);
        let name = format!("{name}x2");
        let two = simple(&name, "r", 1);
        add(&name, two, capability, Operands::Halves, Value::Half2(kind), agreement);
    }

    // Exact arithmetic of f32 and f64.
    for (opcode, sources) in [
        ("add", 2),
        ("add.rz", 2),
        ("add.rm", 2),
        ("add.rp", 2),
        ("add.ftz", 2),
        ("add.sat", 2),
        ("sub.ftz", 2),
        ("mul", 2),
        ("mul.rz", 2),
        ("mul.rp", 2),
        ("mul.ftz", 2),
        ("mul.ftz.sat", 2),
        ("fma.rn", 3),
        ("fma.rz", 3),
        ("fma.rm", 3),
        ("fma.rp", 3),
        ("fma.rn.ftz", 3),
        ("fma.rn.sat", 3),
        ("div.rn", 2),
        ("div.rn.ftz", 2),
        ("div.rz", 2),
        ("rcp.rn", 1),
        ("rcp.rn.ftz", 1),
        ("rcp.rp", 1),
        ("sqrt.rn", 1),
        ("sqrt.rn.ftz", 1),
        ("sqrt.rm", 1),
        ("min", 2),
        ("max", 2),
        ("max.ftz", 2),
    ] {
        let opcode = format!("{opcode}.f32");
        let body = simple(&opcode, "r", sources);
        add(&opcode, body, 75, Operands::Singles, Value::F32, Agreement::Exact);
    }
    for (opcode, capability) in [("min.NaN", 80), ("max.NaN", 80), ("max.xorsign.abs", 86)] {
        let opcode = format!("{opcode}.f32");
        let body = simple(&opcode, "r", 2);
        add(&opcode, body, capability, Operands::Singles, Value::F32, Agreement::Exact);
    }
    for opcode in ["abs.f32", "neg.f32", "abs.ftz.f32"] {
        let body = simple(opcode, "r", 1);
        add(opcode, body, 75, Operands::Singles, Value::F32, Agreement::ExactButNan);
    }
    for (opcode, sources) in [
        ("add.rn", 2),
        ("add.rz", 2),
        ("sub.rm", 2),
        ("mul.rn", 2),
        ("mul.rp", 2),
        ("fma.rn", 3),
        ("fma.rz", 3),
        ("fma.rm", 3),
        ("div.rn", 2),
        ("div.rz", 2),
        ("rcp.rn", 1),
        ("rcp.rp", 1),
        ("sqrt.rn", 1),
        ("sqrt.rm", 1),
        ("min", 2),
        ("max", 2),
    ] {
        let opcode = format!("{opcode}.f64");
        let body = simple(&opcode, "rd", sources);
        add(&opcode, body, 75, Operands::Doubles, Value::F64, Agreement::ExactButNan);
    }

    // Exact arithmetic of halves, one and two to a register.
    for (opcode, sources, kind, capability) in [
        ("add", 2, F16, 75),
        ("add.ftz", 2, F16, 75),
        ("add.sat", 2, F16, 75),
        ("sub", 2, F16, 75),
        ("mul", 2, F16, 75),
        ("mul.ftz", 2, F16, 75),
        ("fma.rn", 3, F16, 75),
        ("fma.rn.ftz", 3, F16, 75),
        ("fma.rn.sat", 3, F16, 75),
        ("fma.rn.relu", 3, F16, 80),
        ("min", 2, F16, 80),
        ("max", 2, F16, 80),
        ("max.NaN", 2, F16, 80),
        ("max.xorsign.abs", 2, F16, 86),
        ("fma.rn", 3, BF16, 80),
        ("fma.rn.relu", 3, BF16, 80),
        ("min", 2, BF16, 80),
        ("max.NaN", 2, BF16, 80),
        ("add", 2, BF16, 90),
        ("sub", 2, BF16, 90),
        ("mul", 2, BF16, 90),
    ] {
        let name = if kind == F16 { "f16" } else { "bf16" };
        let one = format!("{opcode}.{name}");
        let body = simple(&one, "h", sources);
        add(&one, body, capability, Operands::Halves, Value::Half(kind), Agreement::Exact);
        let two = format!("{opcode}.{name}x2");
        let body = simple(&two, "r", sources);
        add(&two, body, capability, Operands::Halves, Value::Half2(kind), Agreement::Exact);
    }

    // Conversions.
    for (opcode, body, capability, operands, value, agreement) in [
        ("cvt.f32.f16", "%r7, %h4", 75, Operands::Halves, Value::F32, Agreement::ExactButNan),
        ("cvt.f32.bf16", "%r7, %h4", 80, Operands::Halves, Value::F32, Agreement::ExactButNan),
        ("cvt.rn.f16.f32", "%h7, %r4", 75, Operands::Singles, Value::Half(F16), Agreement::Exact),
        ("cvt.rz.f16.f32", "%h7, %r4", 75, Operands::Singles, Value::Half(F16), Agreement::Exact),
        ("cvt.rm.f16.f32", "%h7, %r4", 75, Operands::Singles, Value::Half(F16), Agreement::Exact),
        ("cvt.rp.f16.f32", "%h7, %r4", 75, Operands::Singles, Value::Half(F16), Agreement::Exact),
        (
            "cvt.rn.ftz.f16.f32",
            "%h7, %r4",
            75,
            Operands::Singles,
            Value::Half(F16),
            Agreement::Exact,
        ),
        ("cvt.rn.bf16.f32", "%h7, %r4", 80, Operands::Singles, Value::Half(BF16), Agreement::Exact),
        ("cvt.rz.bf16.f32", "%h7, %r4", 80, Operands::Singles, Value::Half(BF16), Agreement::Exact),
        (
            "cvt.rn.relu.f16.f32",
            "%h7, %r4",
            80,
            Operands::Singles,
            Value::Half(F16),
            Agreement::Exact,
        ),
        (
            "cvt.rn.f16x2.f32",
            "%r7, %r4, %r5",
            80,
            Operands::Singles,
            Value::Half2(F16),
            Agreement::Exact,
        ),
        (
            "cvt.rz.f16x2.f32",
            "%r7, %r4, %r5",
            80,
            Operands::Singles,
            Value::Half2(F16),
            Agreement::Exact,
        ),
        (
            "cvt.rn.bf16x2.f32",
            "%r7, %r4, %r5",
            80,
            Operands::Singles,
            Value::Half2(BF16),
            Agreement::Exact,
        ),
        (
            "cvt.rn.relu.bf16x2.f32",
            "%r7, %r4, %r5",
            80,
            Operands::Singles,
            Value::Half2(BF16),
            Agreement::Exact,
        ),
        ("cvt.rna.tf32.f32", "%r7, %r4", 80, Operands::Singles, Value::F32, Agreement::ExactButNan),
        ("cvt.rn.bf16.f16", "%h7, %h4", 90, Operands::Halves, Value::Half(BF16), Agreement::Exact),
        ("cvt.rn.f16.bf16", "%h7, %h4", 90, Operands::Halves, Value::Half(F16), Agreement::Exact),
        (
            "cvt.rni.f16.f16",
            "%h7, %h4",
            75,
            Operands::Halves,
            Value::Half(F16),
            Agreement::ExactButNan,
        ),
        (
            "cvt.rn.satfinite.e4m3x2.f32",
            "%h7, %r4, %r5",
            90,
            Operands::Singles,
            Value::Bits,
            Agreement::Exact,
        ),
        (
            "cvt.rn.satfinite.e5m2x2.f16x2",
            "%h7, %r4",
            90,
            Operands::Halves,
            Value::Bits,
            Agreement::Exact,
        ),
        (
            "cvt.rn.f16x2.e4m3x2",
            "%r7, %h4",
            90,
            Operands::Halves,
            Value::Half2(F16),
            Agreement::Exact,
        ),
        (
            "cvt.rn.f16x2.e5m2x2",
            "%r7, %h4",
            90,
            Operands::Halves,
            Value::Half2(F16),
            Agreement::Exact,
        ),
        ("cvt.f64.f32", "%rd7, %r4", 75, Operands::Singles, Value::F64, Agreement::ExactButNan),
        ("cvt.rn.f32.f64", "%r7, %rd4", 75, Operands::Doubles, Value::F32, Agreement::ExactButNan),
        ("cvt.rz.f32.f64", "%r7, %rd4", 75, Operands::Doubles, Value::F32, Agreement::ExactButNan),
        (
            "cvt.rn.f16.f64",
            "%h7, %rd4",
            75,
            Operands::Doubles,
            Value::Half(F16),
            Agreement::ExactButNan,
        ),
        ("cvt.rni.s32.f32", "%r7, %r4", 75, Operands::Singles, Value::Bits, Agreement::Exact),
        ("cvt.rzi.u32.f32", "%r7, %r4", 75, Operands::Singles, Value::Bits, Agreement::Exact),
        ("cvt.rmi.s64.f32", "%rd7, %r4", 75, Operands::Singles, Value::Bits, Agreement::Exact),
        ("cvt.rzi.u64.f64", "%rd7, %rd4", 75, Operands::Doubles, Value::Bits, Agreement::Exact),
        ("cvt.rzi.s32.f64", "%r7, %rd4", 75, Operands::Doubles, Value::Bits, Agreement::Exact),
        ("cvt.rzi.s16.f16", "%h7, %h4", 75, Operands::Halves, Value::Bits, Agreement::Exact),
        ("cvt.rmi.f32.f32", "%r7, %r4", 75, Operands::Singles, Value::F32, Agreement::ExactButNan),
        ("cvt.rn.f32.s32", "%r7, %r4", 75, Operands::Integers, Value::F32, Agreement::Exact),
        ("cvt.rz.f32.u64", "%r7, %rd4", 75, Operands::Integers, Value::F32, Agreement::Exact),
        ("cvt.rn.f16.s32", "%h7, %r4", 75, Operands::Integers, Value::Half(F16), Agreement::Exact),
        ("cvt.rn.f64.u64", "%rd7, %rd4", 75, Operands::Integers, Value::F64, Agreement::Exact),
        ("setp.lt.f32", "%p7, %r4, %r5", 75, Operands::Singles, Value::Bits, Agreement::Exact),
        ("setp.equ.ftz.f32", "%p7, %r4, %r5", 75, Operands::Singles, Value::Bits, Agreement::Exact),
        (
            "set.ltu.f16x2.f16x2",
            "%r7, %r4, %r5",
            75,
            Operands::Halves,
            Value::Half2(F16),
            Agreement::Exact,
        ),
    ] {
        add(opcode, format!("{opcode} {body}"), capability, operands, value, agreement);
    }

    // Integers, as a control.
    for (opcode, registers, sources) in [
        ("add.s32", "r", 2),
        ("mul.lo.s32", "r", 2),
        ("mul.hi.s32", "r", 2),
        ("mad.lo.u32", "r", 3),
        ("mul24.lo.s32", "r", 2),
        ("mad24.hi.u32", "r", 3),
        ("sad.s32", "r", 3),
        ("min.s32", "r", 2),
        ("dp4a.s32.u32", "r", 3),
        ("dp2a.hi.s32.s32", "r", 3),
        ("bfe.s32", "r", 3),
        ("bmsk.clamp.b32", "r", 2),
        ("szext.wrap.s32", "r", 2),
        ("shf.l.clamp.b32", "r", 3),
        ("prmt.b32", "r", 3),
        ("popc.b32", "r", 1),
        ("clz.b32", "r", 1),
        ("brev.b32", "r", 1),
        ("bfind.s32", "r", 1),
        ("mul.hi.u64", "rd", 2),
        ("mad.hi.s64", "rd", 3),
        ("max.s64", "rd", 2),
        ("add.sat.s32", "r", 2),
        ("vabsdiff4.u32.u32.u32.add", "r", 3),
    ] {
        let body = simple(opcode, registers, sources);
        add(opcode, body, 75, Operands::Integers, Value::Bits, Agreement::Exact);
    }
    let divide = "max.s32 %r5, %r5, 1; div.s32 %r7, %r4, %r5".to_string();
    add("div.s32", divide, 75, Operands::Integers, Value::Bits, Agreement::Exact);
    let carry = "sub.cc.u32 %r1, %r4, %r5; subc.u32 %r7, %r6, %r4".to_string();
    add("sub.cc.u32, subc.u32", carry, 75, Operands::Integers, Value::Bits, Agreement::Exact);
    classes
}
