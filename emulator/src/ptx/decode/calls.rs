//! Calls of device functions, which are inlined: PTX's own functions do not call themselves.
//!
//! Arguments and results are variables of the calling block in parameter space. They lie in the thread's local
//! memory, and the function's parameters are other names for them.

use super::super::ast::{Function, Instruction, Operand, Variable};
use super::super::ir::*;
use super::{Decoded, Decoder, Modifiers};

/// The opcode.
pub(super) const CALLS: &str = "call";

/// Functions within functions, before they count as recursion.
const DEPTH: usize = 16;

/// A function that is being inlined.
#[derive(Debug)]
pub(super) struct Call<'a> {
    name: &'a str,
    /// Branches out of it, to what follows the call.
    returns: Vec<usize>,
}

impl<'a> Decoder<'a, '_> {
    /// Gives a variable its place in the thread's local memory.
    pub(super) fn place(&mut self, variable: &Variable<'a>) {
        let offset = self.local_bytes.next_multiple_of(variable.align);
        self.operands.define_symbol(variable.name, LOCAL_WINDOW + offset);
        self.local_bytes = offset + variable.bytes;
    }

    /// Whether an address in parameter space names an argument or a result of a call.
    pub(super) fn is_own(&self, address: Option<&Operand<'a>>) -> bool {
        let Some(Operand::Address(Some(name), _)) = address else { return false };
        let found = self.operands.symbol(name);
        found.is_some_and(|address| address.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES)
    }

    /// `ret` within an inlined function.
    pub(super) fn leave(&mut self) {
        let place = self.code.len();
        self.emit(Op::Branch { target: 0 });
        if let Some(call) = self.calls.last_mut() {
            call.returns.push(place);
        }
    }

    /// `call{.uni} {(results),} function{, (arguments)};`
    pub(super) fn call(&mut self, inst: &Instruction<'a>, m: &mut Modifiers<'a>) -> Decoded {
        m.take("uni");
        m.finish()?;
        if self.guard != (ALWAYS, 0) {
            return Err("unknown instruction `call` under a predicate".into());
        }
        let (results, name, arguments) = match inst.operands.as_slice() {
            [Operand::Name(name, 0)] => (&[][..], *name, &[][..]),
            [Operand::Name(name, 0), Operand::Vector(arguments)] => {
                (&[][..], *name, arguments.as_slice())
            }
            [Operand::Vector(results), Operand::Name(name, 0)] => {
                (results.as_slice(), *name, &[][..])
            }
            [Operand::Vector(results), Operand::Name(name, 0), Operand::Vector(arguments)] => {
                (results.as_slice(), *name, arguments.as_slice())
            }
            _ => return Err("unknown instruction: `call` with these operands".into()),
        };
        let module = self.module;
        // One without a body may be declared before its definition.
        let mut found: Vec<&Function<'a>> =
            module.functions.iter().filter(|function| function.name == name).collect();
        found.sort_by_key(|function| function.body.is_none());
        let Some(function) = found.first() else {
            return Err(format!("unknown instruction `call` of {name}, which is not declared"));
        };
        let places = self.places(function, results, arguments)?;
        match &function.body {
            None if name == "__assertfail" => {
                let offsets: Vec<u64> =
                    places.iter().map(|(_, place)| place - LOCAL_WINDOW).collect();
                let [message, file, line, within, _] = offsets.as_slice() else {
                    return Err("__assertfail with another number of arguments".into());
                };
                let arguments = [*message, *file, *line, *within];
                self.emit(Op::AssertFail(Box::new(arguments)));
                Ok(())
            }
            None => Err(format!("unknown instruction `call` of {name}, which the driver provides")),
            Some(_)
                if self.calls.len() == DEPTH || self.calls.iter().any(|call| call.name == name) =>
            {
                Err(format!("unknown instruction `call` of {name}, which calls itself"))
            }
            Some(body) => {
                self.calls.push(Call { name: function.name, returns: Vec::new() });
                let before: Vec<_> =
                    places.iter().map(|(name, _)| self.operands.symbol(name)).collect();
                for (name, place) in &places {
                    self.operands.define_symbol(name, *place);
                }
                self.block(body)?;
                // A function within itself is refused, but all functions call their results alike.
                for ((name, _), before) in places.iter().zip(before) {
                    if let Some(place) = before {
                        self.operands.define_symbol(name, place);
                    }
                }
                let end = self.code.len() as u32;
                let call = self.calls.pop();
                for place in call.into_iter().flat_map(|call| call.returns) {
                    if let Op::Branch { target } = &mut self.code[place].op {
                        *target = end;
                    }
                }
                Ok(())
            }
        }
    }

    /// The function's names for results and arguments, each with its place.
    fn places(
        &self,
        function: &Function<'a>,
        results: &[Operand<'a>],
        arguments: &[Operand<'a>],
    ) -> Decoded<Vec<(&'a str, u64)>> {
        if results.len() != function.results.len() || arguments.len() != function.parameters.len() {
            return Err(format!("a call of {} with another number of arguments", function.name));
        }
        let names = function.results.iter().chain(&function.parameters);
        names
            .zip(results.iter().chain(arguments))
            .map(|(variable, operand)| {
                let Operand::Name(name, 0) = operand else {
                    return Err(
                        "unknown instruction: `call` with an argument that is no variable".into()
                    );
                };
                let place = self.operands.symbol(name);
                let place = place.ok_or_else(|| format!("{name} is not a variable"))?;
                Ok((variable.name, place))
            })
            .collect()
    }
}
