//! Gives PTX text the shape of [`super::ast`].

use std::sync::Arc;

use super::PtxError;
use super::ast::{
    Function, Instruction, Kernel, Location, Module, Operand, StateSpace, Statement, Variable,
};
use super::lexer::{Kind, Token, line_of, tokens};

/// Parses a whole module.
pub fn parse(text: &str) -> Result<Module<'_>, PtxError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, location: None };
    let mut module = Module::default();
    while parser.peek().kind != Kind::End {
        parser.module_item(&mut module)?;
    }
    Ok(module)
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    location: Option<Arc<[Location]>>,
}

type Result<T, E = PtxError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.tokens[self.at];
        if token.kind != Kind::End {
            self.at += 1;
        }
        token
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        let token = self.peek();
        let rest = &self.text[token.start.min(self.text.len())..];
        Err(PtxError {
            message: message.into(),
            text: rest.lines().next().unwrap_or_default().trim().chars().take(100).collect(),
            line: line_of(self.text, token.start),
            source_line: "".into(),
        })
    }

    fn is_punct(&self, byte: u8) -> bool {
        self.peek().kind == Kind::Punct(byte)
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.is_punct(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.accept(byte) { Ok(()) } else { self.error(format!("`{}` expected", byte as char)) }
    }

    fn word(&mut self) -> Result<&'a str> {
        if self.peek().kind == Kind::Word {
            Ok(self.next().text)
        } else {
            self.error("a name expected")
        }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek().kind == Kind::Word && self.peek().text == word;
        if found {
            self.at += 1;
        }
        found
    }

    fn integer(&mut self) -> Result<i128> {
        let negative = self.accept(b'-');
        match self.number()? {
            Operand::Integer(value) => Ok(if negative { -value } else { value }),
            _ => self.error("an integer expected"),
        }
    }

    /// A number without its sign.
    fn number(&mut self) -> Result<Operand<'a>> {
        let token = self.peek();
        if token.kind != Kind::Number {
            return self.error("a number expected");
        }
        let digits = token.text.trim_end_matches(['U', 'u']);
        let parsed = match digits.get(..2) {
            Some("0f" | "0F") => u32::from_str_radix(&digits[2..], 16).ok().map(Operand::F32),
            Some("0d" | "0D") => u64::from_str_radix(&digits[2..], 16).ok().map(Operand::F64),
            Some("0x" | "0X") => i128::from_str_radix(&digits[2..], 16).ok().map(Operand::Integer),
            Some("0b" | "0B") => i128::from_str_radix(&digits[2..], 2).ok().map(Operand::Integer),
            _ if digits.contains('.') => {
                digits.parse::<f64>().ok().map(|x| Operand::F64(x.to_bits()))
            }
            _ if digits.len() > 1 && digits.starts_with('0') => {
                i128::from_str_radix(digits, 8).ok().map(Operand::Integer)
            }
            _ => digits.parse().ok().map(Operand::Integer),
        };
        match parsed {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => self.error("not a number"),
        }
    }

    fn skip_to_semicolon(&mut self) -> Result<()> {
        while !self.accept(b';') {
            if self.next().kind == Kind::End {
                return self.error("`;` expected");
            }
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result<()> {
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next().kind {
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') => depth -= 1,
                Kind::End => return self.error("`}` expected"),
                _ => {}
            }
        }
        Ok(())
    }

    fn module_item(&mut self, module: &mut Module<'a>) -> Result<()> {
        let mut is_extern = false;
        loop {
            match self.peek().text {
                ".extern" => is_extern = true,
                ".visible" | ".weak" | ".common" => {}
                _ => break,
            }
            self.at += 1;
        }
        match self.peek().text {
            ".version" => {
                self.at += 2;
                Ok(())
            }
            ".target" => {
                self.at += 1;
                // As in sm_90a.
                let digits = self.next().text.trim_start_matches("sm_");
                let digits = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
                module.architecture = digits.parse().unwrap_or(0);
                while self.accept(b',') {
                    self.at += 1;
                }
                Ok(())
            }
            ".address_size" => {
                self.at += 1;
                match self.integer()? {
                    64 => Ok(()),
                    _ => self.error("only 64-bit addresses are supported"),
                }
            }
            ".file" => {
                self.at += 1;
                let number = self.integer()? as u32;
                let name = self.next();
                module.files.push((number, name.text));
                while self.accept(b',') {
                    self.integer()?;
                }
                Ok(())
            }
            ".section" => {
                self.at += 2;
                self.skip_braces()
            }
            ".pragma" => self.skip_to_semicolon(),
            ".entry" => {
                self.at += 1;
                let kernel = self.kernel()?;
                module.kernels.push(kernel);
                Ok(())
            }
            ".func" => {
                self.at += 1;
                let function = self.function()?;
                module.functions.push(function);
                Ok(())
            }
            ".global" | ".const" | ".shared" => {
                let declared = self.variables(is_extern)?;
                module.variables.extend(declared);
                Ok(())
            }
            _ => self.error("not something that can stand here in a module"),
        }
    }

    /// `(.param .type name, ...)`, or nothing.
    fn parameters(&mut self) -> Result<Vec<Variable<'a>>> {
        let mut parameters = Vec::new();
        if self.accept(b'(') {
            while !self.accept(b')') {
                if self.peek().text != ".param" {
                    return self.error("`.param` expected");
                }
                parameters.push(self.variable(StateSpace::Param, false, 1)?);
                self.accept(b',');
            }
        }
        Ok(parameters)
    }

    /// `(results) name (parameters) .noreturn;`, or a body in place of the semicolon.
    fn function(&mut self) -> Result<Function<'a>> {
        let results = self.parameters()?;
        let name = self.word()?;
        let parameters = self.parameters()?;
        while self.accept_word(".noreturn") {}
        self.location = None;
        let body = if self.accept(b';') { None } else { Some(self.block()?) };
        Ok(Function { name, results, parameters, body })
    }

    fn kernel(&mut self) -> Result<Kernel<'a>> {
        let name = self.word()?;
        let parameters = self.parameters()?;
        let mut max_threads = 0;
        let mut cluster = None;
        while !self.is_punct(b'{') {
            match self.next().text {
                ".maxntid" | ".reqntid" => {
                    max_threads = self.integer()? as u32;
                    while self.accept(b',') {
                        max_threads *= self.integer()? as u32;
                    }
                }
                ".reqnctapercluster" => {
                    let mut axes = [1; 3];
                    axes[0] = self.integer()? as u32;
                    for axis in &mut axes[1..] {
                        if self.accept(b',') {
                            *axis = self.integer()? as u32;
                        }
                    }
                    cluster = Some(axes);
                }
                ".explicitcluster" => {}
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                    self.integer()?;
                }
                ".noreturn" => {}
                ".pragma" => self.skip_to_semicolon()?,
                directive => {
                    self.at -= 1;
                    return self.error(format!("kernel directive `{directive}` is not supported"));
                }
            }
        }
        self.location = None;
        let body = self.block()?;
        Ok(Kernel { name, parameters, max_threads, cluster, body })
    }

    /// `.space .align n .type name[size] = {...}, ...;`
    fn variables(&mut self, is_extern: bool) -> Result<Vec<Variable<'a>>> {
        let space = match self.peek().text {
            ".global" => StateSpace::Global,
            ".const" => StateSpace::Const,
            ".shared" => StateSpace::Shared,
            ".local" => StateSpace::Local,
            _ => StateSpace::Param,
        };
        let first = self.variable(space, is_extern, 1)?;
        if self.is_punct(b',') {
            return self.error("one variable for each declaration expected");
        }
        self.expect(b';')?;
        Ok(vec![first])
    }

    fn variable(
        &mut self,
        space: StateSpace,
        is_extern: bool,
        default_align: u64,
    ) -> Result<Variable<'a>> {
        self.at += 1;
        let mut align = default_align;
        let mut vector = 1;
        let element = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.integer()? as u64,
                // `.ptr .global .align 8` describes what a parameter points at.
                ".ptr" => {
                    while matches!(self.peek().text, ".global" | ".const" | ".shared" | ".local") {
                        self.at += 1;
                    }
                    if self.accept_word(".align") {
                        self.integer()?;
                    }
                    continue;
                }
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".attribute" => {
                    self.at -= 1;
                    return self.error("variable attributes are not supported");
                }
                _ => match type_bytes(word) {
                    Some(bytes) => break bytes,
                    None => {
                        self.at -= 1;
                        return self.error("the type of a variable expected");
                    }
                },
            }
        };
        // nvcc writes `.param .u64 .ptr .align 1 name`: after the type as well as before it.
        if self.accept_word(".ptr") {
            while matches!(self.peek().text, ".global" | ".const" | ".shared" | ".local") {
                self.at += 1;
            }
            if self.accept_word(".align") {
                self.integer()?;
            }
        }
        let name = self.word()?;
        let mut count = 1;
        while self.accept(b'[') {
            if self.accept(b']') {
                count = 0;
            } else {
                count *= self.integer()? as u64;
                self.expect(b']')?;
            }
        }
        let mut initial = Vec::new();
        if self.accept(b'=') {
            self.initializer(element as usize, &mut initial)?;
            if count == 0 {
                count = initial.len() as u64 / element;
            }
        }
        let bytes = element * vector * count;
        Ok(Variable { name, space, align: align.max(element * vector), bytes, is_extern, initial })
    }

    fn initializer(&mut self, element: usize, bytes: &mut Vec<u8>) -> Result<()> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.initializer(element, bytes)?;
                self.accept(b',');
            }
            return Ok(());
        }
        let negative = self.accept(b'-');
        let value = match self.number()? {
            Operand::Integer(value) => (if negative { -value } else { value }) as u64,
            Operand::F32(bits) => u64::from(bits),
            Operand::F64(bits) => bits,
            _ => return self.error("a number expected as initial value"),
        };
        bytes.extend_from_slice(&value.to_le_bytes()[..element]);
        Ok(())
    }

    fn block(&mut self) -> Result<Vec<Statement<'a>>> {
        self.expect(b'{')?;
        let mut statements = Vec::new();
        while !self.accept(b'}') {
            self.statement(&mut statements)?;
        }
        Ok(statements)
    }

    fn statement(&mut self, into: &mut Vec<Statement<'a>>) -> Result<()> {
        let token = self.peek();
        match (token.kind, token.text) {
            (Kind::Punct(b'{'), _) => into.push(Statement::Block(self.block()?)),
            (Kind::Punct(b';'), _) => self.at += 1,
            (Kind::Word, ".loc") => self.location()?,
            (Kind::Word, ".pragma") => self.skip_to_semicolon()?,
            (Kind::Word, ".reg") => into.push(self.registers()?),
            (Kind::Word, ".shared" | ".local" | ".param") => {
                into.extend(self.variables(false)?.into_iter().map(Statement::Variable));
            }
            (Kind::Word, _)
                if self.tokens[self.at + 1].kind == Kind::Punct(b':')
                    && self.tokens[self.at + 2].kind != Kind::Punct(b':') =>
            {
                let label = self.word()?;
                self.expect(b':')?;
                if self.accept_word(".branchtargets") {
                    let mut targets = vec![self.word()?];
                    while self.accept(b',') {
                        targets.push(self.word()?);
                    }
                    self.expect(b';')?;
                    into.push(Statement::BranchTargets(label, targets));
                } else {
                    into.push(Statement::Label(label));
                }
            }
            (Kind::Word, text) if text.starts_with('.') => {
                return self.error(format!("directive `{text}` is not supported"));
            }
            (Kind::Word | Kind::Punct(b'@'), _) => into.push(self.instruction()?),
            _ => return self.error("a statement expected"),
        }
        Ok(())
    }

    /// `.loc file line column[, function_name label[+n], inlined_at file line column]`
    fn location(&mut self) -> Result<()> {
        self.at += 1;
        let mut places = Vec::new();
        let place = |parser: &mut Self| -> Result<Location> {
            let file = parser.integer()? as u32;
            let line = parser.integer()? as u32;
            parser.integer()?;
            Ok(Location { file, line })
        };
        places.push(place(self)?);
        while self.accept(b',') {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.accept(b'+') {
                        self.integer()?;
                    }
                }
                "inlined_at" => places.push(place(self)?),
                _ => return self.error("`function_name` or `inlined_at` expected"),
            }
        }
        // Line 0 marks code that belongs to no line: the line before it is the better answer.
        if places[0].line != 0 {
            self.location = Some(places.into());
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<Statement<'a>> {
        self.at += 1;
        let class = self.word()?.trim_start_matches('.');
        let mut names = Vec::new();
        loop {
            let name = self.word()?;
            let count = if self.accept(b'<') {
                let count = self.integer()? as u32;
                self.expect(b'>')?;
                Some(count)
            } else {
                None
            };
            names.push((name, count));
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(Statement::Registers { class, names })
    }

    fn instruction(&mut self) -> Result<Statement<'a>> {
        let start = self.peek().start;
        let guard = if self.accept(b'@') {
            let negate = self.accept(b'!');
            Some((self.word()?, negate))
        } else {
            None
        };
        let opcode = self.word()?;
        let mut parts = opcode.split('.');
        let opcode = parts.next().unwrap_or_default();
        let mut modifiers: Vec<&str> = parts.collect();
        // `.shared::cta` reaches the lexer as three tokens and more.
        while self.is_punct(b':') {
            self.expect(b':')?;
            self.expect(b':')?;
            let qualifier = self.word()?;
            let mut parts = qualifier.split('.');
            if let Some(last) = modifiers.last_mut() {
                let from = last.as_ptr() as usize - self.text.as_ptr() as usize;
                let first = parts.next().unwrap_or_default();
                let to = first.as_ptr() as usize + first.len() - self.text.as_ptr() as usize;
                *last = &self.text[from..to];
            }
            modifiers.extend(parts);
        }
        let mut operands = Vec::new();
        while !self.is_punct(b';') {
            operands.push(self.operand()?);
            if !self.accept(b',') && !self.is_punct(b';') {
                return self.error("`,` or `;` expected after an operand");
            }
        }
        let end = self.peek().end();
        self.expect(b';')?;
        Ok(Statement::Instruction(Instruction {
            guard,
            opcode,
            modifiers,
            operands,
            span: start..end,
            location: self.location.clone(),
        }))
    }

    /// `+n`, `-n`, `+-n` or nothing.
    fn offset(&mut self) -> Result<i64> {
        if self.accept(b'+') || self.is_punct(b'-') { Ok(self.integer()? as i64) } else { Ok(0) }
    }

    fn operand(&mut self) -> Result<Operand<'a>> {
        match self.peek().kind {
            Kind::Punct(b'[') => {
                self.at += 1;
                let base = if self.peek().kind == Kind::Word { Some(self.word()?) } else { None };
                let offset = if base.is_some() { self.offset()? } else { self.integer()? as i64 };
                self.expect(b']')?;
                Ok(Operand::Address(base, offset))
            }
            Kind::Punct(b'{') => {
                self.at += 1;
                let mut parts = Vec::new();
                while !self.accept(b'}') {
                    parts.push(self.operand()?);
                    self.accept(b',');
                }
                Ok(Operand::Vector(parts))
            }
            // Results and arguments of `call`.
            Kind::Punct(b'(') => {
                self.at += 1;
                let mut parts = Vec::new();
                while !self.accept(b')') {
                    parts.push(self.operand()?);
                    self.accept(b',');
                }
                Ok(Operand::Vector(parts))
            }
            Kind::Punct(b'!') => {
                self.at += 1;
                Ok(Operand::Not(self.word()?))
            }
            Kind::Punct(b'-') => {
                self.at += 1;
                match self.number()? {
                    Operand::Integer(value) => Ok(Operand::Integer(-value)),
                    Operand::F64(bits) => Ok(Operand::F64(bits ^ (1 << 63))),
                    _ => self.error("a sign that cannot stand here"),
                }
            }
            Kind::Number => self.number(),
            Kind::Word => {
                let name = self.word()?;
                if self.accept(b'|') {
                    return Ok(Operand::Pair(name, self.word()?));
                }
                Ok(Operand::Name(name, self.offset()?))
            }
            _ => self.error("an operand expected"),
        }
    }
}

/// Bytes of a fundamental type, written with its dot.
fn type_bytes(name: &str) -> Option<u64> {
    match name {
        ".b8" | ".u8" | ".s8" => Some(1),
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => Some(2),
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => Some(4),
        ".b64" | ".u64" | ".s64" | ".f64" => Some(8),
        ".b128" => Some(16),
        _ => None,
    }
}
