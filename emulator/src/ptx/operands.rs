//! Which register, special register, immediate or symbol an operand names, and where it lies.

use rustc_hash::FxHashMap;

use super::ast::Operand;
use super::ir::{ALWAYS, Register, Relation, Slot, SlotCounts, Special};

/// A declared register.
#[derive(Debug, Clone, Copy)]
struct Declared {
    bits: u32,
    first: Slot,
    count: u32,
}

/// Names and slots of one kernel.
#[derive(Debug)]
pub struct Operands<'a> {
    /// Innermost scope last.
    scopes: Vec<FxHashMap<&'a str, Declared>>,
    /// Addresses of variables.
    symbols: FxHashMap<&'a str, u64>,
    pub slots: SlotCounts,
    pub constants32: FxHashMap<u32, Slot>,
    pub constants64: FxHashMap<u64, Slot>,
    pub specials: Vec<(Slot, Special)>,
    carry: Option<Slot>,
}

/// A register that changes while a kernel runs.
pub fn clock_bits(name: &str) -> Option<u32> {
    match name {
        "%clock" | "%clock_hi" | "%globaltimer_lo" | "%globaltimer_hi" => Some(32),
        "%clock64" | "%globaltimer" => Some(64),
        _ => None,
    }
}

fn special(name: &str) -> Option<Special> {
    let axis = |suffix: &str| match suffix {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((register, suffix)) = name.split_once('.') {
        let axis = axis(suffix)?;
        return match register {
            "%tid" => Some(Special::Tid(axis)),
            "%ntid" => Some(Special::Ntid(axis)),
            "%ctaid" => Some(Special::Ctaid(axis)),
            "%nctaid" => Some(Special::Nctaid(axis)),
            "%clusterid" => Some(Special::ClusterId(axis)),
            "%nclusterid" => Some(Special::ClusterCount(axis)),
            "%cluster_ctaid" => Some(Special::ClusterCtaid(axis)),
            "%cluster_nctaid" => Some(Special::ClusterNctaid(axis)),
            _ => None,
        };
    }
    match name {
        "%laneid" => Some(Special::LaneId),
        "%warpid" => Some(Special::WarpId),
        "%nwarpid" => Some(Special::WarpCount),
        "%smid" => Some(Special::SmId),
        "%nsmid" => Some(Special::SmCount),
        "%lanemask_eq" => Some(Special::LaneMask(Relation::Equal)),
        "%lanemask_lt" => Some(Special::LaneMask(Relation::Less)),
        "%lanemask_le" => Some(Special::LaneMask(Relation::LessEqual)),
        "%lanemask_gt" => Some(Special::LaneMask(Relation::Greater)),
        "%lanemask_ge" => Some(Special::LaneMask(Relation::GreaterEqual)),
        "%dynamic_smem_size" => Some(Special::DynamicSharedBytes),
        "%total_smem_size" => Some(Special::TotalSharedBytes),
        "%cluster_ctarank" => Some(Special::ClusterRank),
        "%cluster_nctarank" => Some(Special::ClusterSize),
        _ => None,
    }
}

impl<'a> Operands<'a> {
    pub fn new() -> Self {
        Self {
            scopes: vec![FxHashMap::default()],
            symbols: FxHashMap::default(),
            // Predicate 0 is ALWAYS.
            slots: SlotCounts { b32: 0, b64: 0, pred: ALWAYS + 1 },
            constants32: FxHashMap::default(),
            constants64: FxHashMap::default(),
            specials: Vec::new(),
            carry: None,
        }
    }

    pub fn open_scope(&mut self) {
        self.scopes.push(FxHashMap::default());
    }

    pub fn close_scope(&mut self) {
        self.scopes.pop();
    }

    pub fn define_symbol(&mut self, name: &'a str, address: u64) {
        self.symbols.insert(name, address);
    }

    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    pub fn declare(
        &mut self,
        class: &str,
        name: &'a str,
        family: Option<u32>,
    ) -> Result<(), String> {
        let bits = match class {
            "pred" => 1,
            "b8" | "u8" | "s8" => 8,
            "b16" | "u16" | "s16" | "f16" | "bf16" => 16,
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 32,
            "b64" | "u64" | "s64" | "f64" => 64,
            "b128" => 128,
            _ => return Err(format!("registers of type `.{class}` are not supported")),
        };
        let count = family.unwrap_or(1);
        let first = self.fresh(bits, count);
        let Some(scope) = self.scopes.last_mut() else {
            return Err("a register outside every scope".into());
        };
        // A family is kept under its prefix; no register can be named by the prefix alone.
        scope.insert(name, Declared { bits, first, count: family.map_or(0, |_| count) });
        Ok(())
    }

    /// New registers in a row.
    pub fn fresh(&mut self, bits: u32, count: u32) -> Slot {
        let next = match bits {
            1 => &mut self.slots.pred,
            // Two registers of 64 bits, low first.
            128 => {
                let first = self.slots.b64;
                self.slots.b64 += 2 * count;
                return first;
            }
            64 => &mut self.slots.b64,
            _ => &mut self.slots.b32,
        };
        let first = *next;
        *next += count;
        first
    }

    /// The predicate that holds the carry flag of each lane.
    pub fn carry(&mut self) -> Slot {
        let slot = match self.carry {
            Some(slot) => slot,
            None => self.fresh(1, 1),
        };
        self.carry = Some(slot);
        slot
    }

    /// Width and slot of a declared register.
    pub fn register(&self, name: &str) -> Option<(u32, Slot)> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        // `%r1_2<3>` makes every split of the trailing digits a possible family.
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(one) = scope.get(name).filter(|one| one.count == 0) {
                return Some((one.bits, one.first));
            }
            // The longest first: nearly every family has a name without digits.
            (1..=digits).rev().find_map(|length| {
                let (prefix, number) = name.split_at(name.len() - length);
                let family = scope.get(prefix)?;
                let number: u32 = number.parse().ok()?;
                let step = if family.bits == 128 { 2 } else { 1 };
                (number < family.count).then_some((family.bits, family.first + step * number))
            })
        })
    }

    pub fn constant(&mut self, bits: u32, value: u64) -> Slot {
        if bits == 64 {
            if let Some(&slot) = self.constants64.get(&value) {
                return slot;
            }
            let slot = self.fresh(64, 1);
            self.constants64.insert(value, slot);
            slot
        } else {
            let value = if bits < 32 { value as u32 & ((1 << bits) - 1) } else { value as u32 };
            if let Some(&slot) = self.constants32.get(&value) {
                return slot;
            }
            let slot = self.fresh(32, 1);
            self.constants32.insert(value, slot);
            slot
        }
    }

    /// A source of exactly `bits` bits (1 for predicates).
    pub fn source(&mut self, operand: &Operand, bits: u32) -> Result<Slot, String> {
        match operand {
            Operand::Name(name, offset) => {
                if let Some((declared, slot)) = self.register(name) {
                    if declared != bits {
                        return Err(format!(
                            "register {name} has {declared} bits where {bits} are wanted"
                        ));
                    }
                    return Ok(slot);
                }
                if *name == "WARP_SZ" && bits > 1 {
                    return Ok(self.constant(bits, 32));
                }
                if let Some(special) = special(name) {
                    if bits != 32 {
                        return Err(format!("{name} read as {bits} bits is not supported"));
                    }
                    if let Some((slot, _)) = self.specials.iter().find(|(_, s)| *s == special) {
                        return Ok(*slot);
                    }
                    let slot = self.fresh(32, 1);
                    self.specials.push((slot, special));
                    return Ok(slot);
                }
                match self.symbol(name) {
                    Some(address) if bits >= 32 => {
                        Ok(self.constant(bits, address.wrapping_add_signed(*offset)))
                    }
                    Some(_) => Err(format!("the address of {name} does not fit {bits} bits")),
                    None => Err(format!("{name} is not declared, or not known to the emulator")),
                }
            }
            Operand::Integer(value) if (2..=64).contains(&bits) => {
                Ok(self.constant(bits, *value as u64))
            }
            Operand::F32(value) if bits == 32 => Ok(self.constant(32, u64::from(*value))),
            Operand::F64(value) if bits == 64 => Ok(self.constant(64, *value)),
            Operand::F64(value) if bits == 32 => {
                let rounded = f64::from_bits(*value) as f32;
                Ok(self.constant(32, u64::from(rounded.to_bits())))
            }
            _ => Err(format!("an operand that cannot be a source of {bits} bits")),
        }
    }

    /// A register of any width, as loads, stores and conversions take it.
    pub fn any_register(&mut self, operand: &Operand) -> Result<Option<(u32, Register)>, String> {
        let Operand::Name(name, 0) = operand else {
            return Err("a register expected".into());
        };
        if *name == "_" {
            return Ok(None);
        }
        match self.register(name) {
            Some((64, slot)) => Ok(Some((64, Register::B64(slot)))),
            Some((bits @ (8 | 16 | 32), slot)) => Ok(Some((bits, Register::B32(slot)))),
            Some((128, _)) => Err(format!("{name} has 128 bits, which only mov takes")),
            Some(_) => Err(format!("{name} is a predicate where a value is wanted")),
            None => Err(format!("{name} is not a declared register")),
        }
    }

    /// A destination of exactly `bits` bits; `_` gives a register that nobody reads.
    pub fn destination(&mut self, operand: &Operand, bits: u32) -> Result<Slot, String> {
        match operand {
            Operand::Name("_", 0) => Ok(self.fresh(bits, 1)),
            Operand::Name(name, 0) if self.register(name).is_some() => self.source(operand, bits),
            _ => Err("a register expected as destination".into()),
        }
    }
}
