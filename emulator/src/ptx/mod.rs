//! PTX text to instructions that can be executed.
//!
//! `lexer` cuts the text into tokens, `parser` gives it the shape of `ast`, `decode` checks every
//! instruction and resolves its operands into `ir`, the only form the interpreter knows.

pub mod ast;
pub mod decode;
pub mod ir;
pub mod lexer;
mod operands;
pub mod parser;

use std::sync::Arc;

/// Why PTX cannot be executed. The text names the instruction or token, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (PTX line {line}): `{text}`{source_line}")]
pub struct PtxError {
    /// What is wrong.
    pub message: String,
    /// The offending PTX, on one line.
    pub text: String,
    /// Line in the PTX, from 1.
    pub line: usize,
    /// ` at file.cu:12` where the PTX says so, else empty.
    pub source_line: Arc<str>,
}
