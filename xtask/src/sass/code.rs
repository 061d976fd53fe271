//! Machine code as `cuobjdump -sass` prints it, and what is counted in it.

use std::collections::BTreeMap;

/// One instruction of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    pub address: u64,
    /// Executed by some threads only.
    pub predicated: bool,
    /// With its modifiers: `LDG.E.128`.
    pub opcode: String,
    pub operands: String,
}

impl Instruction {
    /// From a line such as `/*0050*/ @!P0 LDG.E.128 R4, [R2.64] ; /* encoding */`.
    fn parse(line: &str) -> Option<Self> {
        let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let (text, _) = rest.split_once(';')?;
        let text = text.trim();
        let (predicated, text) = match text.strip_prefix('@') {
            Some(text) => (true, text.split_once(char::is_whitespace)?.1.trim()),
            None => (false, text),
        };
        let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (opcode, operands) = (opcode.to_owned(), operands.trim().to_owned());
        Some(Self { address, predicated, opcode, operands })
    }

    pub fn operation(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|found| found == modifier)
    }

    /// 16 bytes or more at a time.
    pub fn is_wide(&self) -> bool {
        self.has("128") || self.has("256")
    }

    pub fn is_exponential(&self) -> bool {
        self.operation() == "MUFU" && self.has("EX2")
    }

    /// Squares its operand under a condition: what follows an `ex2` that is not flushed to zero.
    fn is_range_scaling(&self) -> bool {
        let mut registers = self.operands.split(',').map(str::trim);
        let [to, a, b] = [registers.next(), registers.next(), registers.next()];
        self.predicated && self.operation() == "FMUL" && to.is_some() && to == a && a == b
    }

    fn is_double(&self) -> bool {
        ["DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "DMMA"].contains(&self.operation())
            || self.opcode.split('.').skip(1).any(|part| part == "F64" || part.ends_with("64H"))
    }

    /// Where it may go instead of on, if anywhere.
    pub fn target(&self) -> Option<u64> {
        if self.operation() != "BRA" {
            return None;
        }
        let word = self.operands.split([' ', ',']).rfind(|word| word.starts_with("0x"))?;
        u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
    }

    /// Whether the next one never follows it.
    pub fn ends_flow(&self) -> bool {
        // `BRA.DIV` and branches that name a predicate go on where it does not hold.
        let sometimes = self.predicated || self.has("DIV") || self.operands.contains('P');
        match self.operation() {
            "BRA" => !sometimes,
            "EXIT" | "RET" | "BRX" | "JMP" | "BPT" => !self.predicated,
            _ => false,
        }
    }
}

/// Instructions by kernel, in the order of their addresses.
pub fn parse(text: &str) -> BTreeMap<String, Vec<Instruction>> {
    let mut kernels = BTreeMap::new();
    let mut current = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Function : ") {
            current = Some(kernels.entry(name.to_owned()).or_insert_with(Vec::new));
        } else if let (Some(code), Some(instruction)) = (current.as_mut(), Instruction::parse(line))
        {
            code.push(instruction);
        }
    }
    kernels
}

/// Instructions of one kernel, counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    pub global_loads: Widths,
    pub global_stores: Widths,
    /// Of unstated space.
    pub generic_loads: Widths,
    pub generic_stores: Widths,
    pub bulk: usize,
    pub exponentials: usize,
    pub range_scalings: usize,
    pub doubles: usize,
    pub local_loads: usize,
    pub local_stores: usize,
    pub traps: usize,
}

/// Accesses by width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Widths {
    pub bits_128_or_more: usize,
    pub bits_64: usize,
    pub bits_32: usize,
    pub less: usize,
}

impl Counts {
    pub fn of(code: &[Instruction]) -> Self {
        let mut counts = Self::default();
        for instruction in code {
            counts.add(instruction);
        }
        counts
    }

    fn add(&mut self, instruction: &Instruction) {
        match instruction.operation() {
            "LDG" | "LDGSTS" => self.global_loads.add(instruction),
            "STG" => self.global_stores.add(instruction),
            "LD" => self.generic_loads.add(instruction),
            "ST" => self.generic_stores.add(instruction),
            "UBLKCP" | "UBLKRED" | "UTMALDG" | "UTMASTG" => self.bulk += 1,
            "LDL" => self.local_loads += 1,
            "STL" => self.local_stores += 1,
            "BPT" => self.traps += 1,
            _ => {}
        }
        self.exponentials += usize::from(instruction.is_exponential());
        self.range_scalings += usize::from(instruction.is_range_scaling());
        self.doubles += usize::from(instruction.is_double());
    }

    /// Nothing but a trap.
    pub fn is_trap(&self) -> bool {
        let Self { global_loads, global_stores, generic_loads, generic_stores, .. } = self;
        let accesses =
            [global_loads, global_stores, generic_loads, generic_stores].map(Widths::all);
        self.traps > 0 && accesses == [0; 4] && self.bulk == 0
    }
}

impl Widths {
    fn all(&self) -> usize {
        self.bits_128_or_more + self.bits_64 + self.bits_32 + self.less
    }

    fn add(&mut self, instruction: &Instruction) {
        if instruction.is_wide() {
            self.bits_128_or_more += 1;
        } else if instruction.has("64") {
            self.bits_64 += 1;
        } else if ["U16", "S16", "U8", "S8"].iter().any(|narrow| instruction.has(narrow)) {
            self.less += 1;
        } else {
            self.bits_32 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_instructions() {
        let text = "\
            \tcode for sm_80\n\
            \t\tFunction : xent_a\n\
            \t.headerflags\t@\"EF_CUDA_SM80\"\n\
            \t/*0000*/       LDG.E.128 R4, [R2.64] ;      /* 0x1 */\n\
            \t                                            /* 0x2 */\n\
            \t/*0010*/  @!P0 LDG.E.U16 R4, [R2.64] ;      /* 0x1 */\n\
            \t/*0020*/       LDG.E.STRONG.GPU R4, [R2.64] ;\n\
            \t/*0030*/   @P1 STG.E.64 [R2.64], R4 ;\n\
            \t/*0040*/       MUFU.EX2 R1, R1 ;\n\
            \t/*0050*/       MUFU.RCP64H R1, R1 ;\n\
            \t/*0060*/       DFMA R2, R2, R4, R6 ;\n\
            \t/*0070*/       F2F.F64.F32 R2, R1 ;\n\
            \t/*0080*/       STL.64 [R1], R2 ;\n\
            \t/*0090*/  @!P1 FMUL R1, R1, R1 ;\n\
            \t/*00a0*/       FMUL R1, R1, R1 ;\n\
            \t/*00b0*/       EXIT;\n";
        let expected = Counts {
            global_loads: Widths { bits_128_or_more: 1, bits_64: 0, bits_32: 1, less: 1 },
            global_stores: Widths { bits_64: 1, ..Widths::default() },
            exponentials: 1,
            range_scalings: 1,
            doubles: 3,
            local_stores: 1,
            ..Counts::default()
        };
        assert_eq!(Counts::of(&parse(text)["xent_a"]), expected);
    }

    #[test]
    fn knows_where_flow_goes() {
        let of = |line| Instruction::parse(line).unwrap();
        let branch = of("/*0010*/ @!P0 BRA 0x1a0 ; /* 0x1 */");
        assert_eq!((branch.target(), branch.ends_flow()), (Some(0x1a0), false));
        let always = of("/*0010*/ BRA 0x20 ; /* 0x1 */");
        assert_eq!((always.target(), always.ends_flow()), (Some(0x20), true));
        let named = of("/*0010*/ BRA.U !UP0, 0x20 ; /* 0x1 */");
        assert_eq!((named.target(), named.ends_flow()), (Some(0x20), false));
        assert!(of("/*0010*/ EXIT ;").ends_flow());
        assert!(!of("/*0010*/ @P0 EXIT ;").ends_flow());
        assert_eq!(of("/*0010*/ BSSY B0, 0x20 ;").target(), None);
    }
}
