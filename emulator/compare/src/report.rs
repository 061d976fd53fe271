//! What two machines made of the same operands.

use std::fmt;

use cuda_emulator::approx::{HalfKind, error_share};

use crate::classes::{Agreement, Class, Subnormals, Value};
use crate::inputs::Row;

/// The verdict on one class.
pub struct Comparison {
    instruction: String,
    judged: &'static str,
    rows: usize,
    /// Rows whose bits differ.
    differing: usize,
    /// Rows that differ more than they may.
    failing: usize,
    worst: Option<Difference>,
    /// Of the documented error, the share that the other machine's worst result has.
    share: Option<f64>,
}

/// Two results.
struct Difference {
    ulps: u64,
    row: Row,
    found: u64,
    expected: u64,
    fails: bool,
}

/// Bits and number of a result's elements.
fn elements(value: Value) -> (u32, u32) {
    match value {
        Value::Bits | Value::F64 => (64, 1),
        Value::F32 => (32, 1),
        Value::Half(_) => (16, 1),
        Value::Half2(_) => (16, 2),
    }
}

fn is_nan(value: Value, bits: u64) -> bool {
    match value {
        Value::Bits => false,
        Value::F64 => f64::from_bits(bits).is_nan(),
        Value::F32 => f32::from_bits(bits as u32).is_nan(),
        Value::Half(kind) | Value::Half2(kind) => {
            bits & 0x7FFF > if kind == HalfKind::F16 { 0x7C00 } else { 0x7F80 }
        }
    }
}

/// Steps of the format between two results; the greatest number if just one is NaN.
fn distance(value: Value, width: u32, a: u64, b: u64) -> u64 {
    if value == Value::Bits {
        return u64::from(a != b);
    }
    match (is_nan(value, a), is_nan(value, b)) {
        (true, true) => return 0,
        (false, false) => {}
        _ => return u64::MAX,
    }
    let sign = 1_u64 << (width - 1);
    let order = |bits: u64| {
        let magnitude = i128::from(bits & (sign - 1));
        if bits & sign == 0 { magnitude } else { -magnitude }
    };
    u64::try_from((order(a) - order(b)).unsigned_abs()).unwrap_or(u64::MAX)
}

impl Comparison {
    pub fn new(class: &Class, rows: &[Row], found: &[u64], expected: &[u64]) -> Self {
        let judged = match class.agreement {
            Agreement::Exact | Agreement::ExactButNan => "exact",
            Agreement::Documented(..) => "documented error",
            Agreement::Undocumented => "no documented error",
        };
        let mut comparison = Self {
            instruction: class.instruction.clone(),
            judged,
            rows: rows.len(),
            differing: 0,
            failing: 0,
            worst: None,
            share: None,
        };
        let (width, count) = elements(class.value);
        let mask = u64::MAX >> (64 - width);
        for ((row, &found), &expected) in rows.iter().zip(found).zip(expected) {
            comparison.differing += usize::from(found != expected);
            let mut ulps = 0;
            let mut fails = false;
            for element in 0..count {
                let part = |bits: u64| bits >> (element * width) & mask;
                let (found, expected) = (part(found), part(expected));
                ulps = ulps.max(distance(class.value, width, found, expected));
                fails |= match class.agreement {
                    Agreement::Exact => found != expected,
                    Agreement::ExactButNan => {
                        found != expected
                            && !(is_nan(class.value, found) && is_nan(class.value, expected))
                    }
                    Agreement::Undocumented => false,
                    Agreement::Documented(function, format, subnormals) => {
                        let operand = |bits: u64| match class.value {
                            Value::Half(_) | Value::Half2(_) => part(bits),
                            _ => bits & mask,
                        };
                        let operands = [operand(row[0]) as u32, operand(row[1]) as u32];
                        let flushes = subnormals == Subnormals::Flush;
                        let share = error_share(function, format, flushes, operands, found as u32);
                        let most = comparison.share.unwrap_or(0.0).max(share.unwrap_or(0.0));
                        comparison.share = Some(most);
                        let both_nan = is_nan(class.value, found) && is_nan(class.value, expected);
                        match share {
                            Some(share) => share > 1.0,
                            // Angles beyond 100 pi have results, but no documented error.
                            None if class.is_open(operands[0]) => false,
                            None => found != expected && !both_nan,
                        }
                    }
                };
            }
            comparison.failing += usize::from(fails);
            let is_worse = comparison
                .worst
                .as_ref()
                .is_none_or(|worst| (fails, ulps) > (worst.fails, worst.ulps));
            if (ulps > 0 || fails) && is_worse {
                comparison.worst = Some(Difference { ulps, row: *row, found, expected, fails });
            }
        }
        comparison
    }

    pub fn agrees(&self) -> bool {
        self.failing == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:32} ", self.instruction)?;
        if self.agrees() {
            write!(f, "ok    ")?
        } else {
            write!(f, "FAILED")?
        }
        write!(f, " {} of {} differ", self.differing, self.rows)?;
        if let Some(share) = self.share {
            write!(f, ", {:.2} of the documented error", share)?;
        } else if self.judged != "exact" {
            write!(f, ", no documented error")?;
        }
        if let Some(worst) = &self.worst {
            let ulps = match worst.ulps {
                u64::MAX => "NaN or not".to_string(),
                ulps => format!("{ulps} ulp"),
            };
            let [a, b, c] = worst.row;
            write!(
                f,
                "; most at ({a:#x}, {b:#x}, {c:#x}): {ulps}, {:#x} for {:#x}",
                worst.found, worst.expected
            )?;
        }
        Ok(())
    }
}

/// A record: one line an instruction.
pub fn csv(device: &str, capability: u32, comparisons: &[Comparison]) -> String {
    let mut text = String::from(
        "device,capability,instruction,judged_by,verdict,rows,differing,failing,worst_ulps,\
         share_of_documented_error,a,b,c,found,emulated\n",
    );
    let device = device.replace(',', " ");
    for one in comparisons {
        let verdict = if one.agrees() { "agrees" } else { "differs" };
        let share = one.share.map_or(String::new(), |share| format!("{share:.4}"));
        let worst = one.worst.as_ref().map_or_else(
            || (String::from("0"), String::from(",,,,")),
            |worst| {
                let [a, b, c] = worst.row;
                let ulps =
                    if worst.ulps == u64::MAX { "nan".into() } else { worst.ulps.to_string() };
                (ulps, format!("{a:#x},{b:#x},{c:#x},{:#x},{:#x}", worst.found, worst.expected))
            },
        );
        text += &format!(
            "{device},{capability},\"{}\",{},{verdict},{},{},{},{},{share},{}\n",
            one.instruction, one.judged, one.rows, one.differing, one.failing, worst.0, worst.1
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Comparison, csv, distance};
    use crate::classes::{self, Class, Value};

    fn class(instruction: &str) -> Class {
        classes::all().into_iter().find(|class| class.instruction == instruction).expect("a class")
    }

    #[test]
    fn distances_cross_zero_and_stop_at_nan() {
        assert_eq!(distance(Value::F32, 32, 0x8000_0001, 1), 2);
        assert_eq!(distance(Value::F32, 32, 0x8000_0000, 0), 0);
        assert_eq!(distance(Value::F32, 32, 0x7FC0_0000, 0x7FFF_FFFF), 0);
        assert_eq!(distance(Value::F32, 32, 0x7FC0_0000, 1), u64::MAX);
        assert_eq!(distance(Value::Bits, 64, 5, 9), 1);
        assert_eq!(distance(Value::F64, 64, 1 << 63 | 1, 1), 2);
    }

    #[test]
    fn exact_classes_may_not_differ() {
        let add = class("add.f32");
        let rows = [[0x3F80_0000, 0x3F80_0000, 0]; 2];
        let good = Comparison::new(&add, &rows, &[0x4000_0000; 2], &[0x4000_0000; 2]);
        assert!(good.agrees());
        let bad = Comparison::new(&add, &rows, &[0x4000_0000, 0x4000_0003], &[0x4000_0000; 2]);
        assert!(!bad.agrees());
        assert!(bad.to_string().contains("FAILED 1 of 2 differ; most at"), "{bad}");
        assert!(bad.to_string().contains("3 ulp, 0x40000003 for 0x40000000"), "{bad}");
        // The other NaN is as wrong, but where the manual leaves it open.
        let nan = [0x7FC0_0000];
        assert!(!Comparison::new(&add, &rows[..1], &nan, &[0x7FFF_FFFF]).agrees());
        assert!(Comparison::new(&class("neg.f32"), &rows[..1], &nan, &[0x7FFF_FFFF]).agrees());
    }

    #[test]
    fn approximate_classes_keep_to_the_documented_error() {
        let ex2 = class("ex2.approx.f32");
        let of = |operand: u64, found: u64, expected: u64| {
            Comparison::new(&ex2, &[[operand, 0, 0]], &[found], &[expected])
        };
        assert!(of(0x3F80_0000, 0x4000_0002, 0x4000_0000).agrees());
        assert!(!of(0x3F80_0000, 0x4000_0003, 0x4000_0000).agrees());
        // The manual tabulates 2^0 and 2^inf.
        assert!(!of(0, 0x3F80_0001, 0x3F80_0000).agrees());
        assert!(!of(0x7F80_0000, 0x7F7F_FFFF, 0x7F80_0000).agrees());
        let sin = class("sin.approx.f32");
        // 2^20 radians: any result will do.
        assert!(Comparison::new(&sin, &[[0x4980_0000, 0, 0]], &[0], &[0x3F00_0000]).agrees());
    }

    #[test]
    fn a_record_has_a_line_for_each_instruction() {
        let add = class("add.f32");
        let one = Comparison::new(&add, &[[0; 3]], &[1], &[0]);
        let text = csv("NVIDIA H200, 141 GB", 90, &[one]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[1],
            "NVIDIA H200  141 GB,90,\"add.f32\",exact,differs,1,1,1,1,,0x0,0x0,0x0,0x1,0x0"
        );
    }
}
