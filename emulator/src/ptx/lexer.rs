//! Cuts PTX text into tokens.

use super::PtxError;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Identifier, register, opcode with its modifiers, or directive: `%rd1`, `ld.global.u32`,
    /// `.loc`.
    Word,
    /// Number without a sign: `12`, `0x1F`, `0f3F800000`, `1.5`.
    Number,
    /// Text between double quotes, without them.
    String,
    /// One character of punctuation.
    Punct(u8),
    /// After the last token.
    End,
}

/// A token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its characters.
    pub text: &'a str,
    /// Byte offset of its first character.
    pub start: usize,
}

impl Token<'_> {
    /// Byte offset after its last character.
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Line of a byte offset, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&b| b == b'\n').count()
}

/// All tokens of `text`, with one [`Kind::End`] after the last.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let bytes = text.as_bytes();
    let mut found = Vec::with_capacity(text.len() / 4);
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = text[at..].find('\n').map_or(bytes.len(), |n| at + n);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = text[at..].find("*/").map_or(bytes.len(), |n| at + n + 2);
                continue;
            }
            b'"' => {
                let Some(length) = text[at + 1..].find('"') else {
                    return Err(error(text, at, "a string without its end"));
                };
                found.push(Token {
                    kind: Kind::String,
                    text: &text[at + 1..at + 1 + length],
                    start: at + 1,
                });
                at += length + 2;
                continue;
            }
            b'0'..=b'9' => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                    at += 1;
                }
                Kind::Number
            }
            byte if in_word(byte) => {
                // `.reg.b16` is two directives, `add.f32` is one opcode.
                let is_directive = byte == b'.';
                at += 1;
                while at < bytes.len() && in_word(bytes[at]) && !(is_directive && bytes[at] == b'.')
                {
                    at += 1;
                }
                Kind::Word
            }
            byte @ (b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':'
            | b'|' | b'!' | b'@' | b'+' | b'-' | b'=' | b'*') => {
                at += 1;
                Kind::Punct(byte)
            }
            _ => return Err(error(text, at, "a character that PTX does not use")),
        };
        found.push(Token { kind, text: &text[start..at], start });
    }
    found.push(Token { kind: Kind::End, text: "", start: bytes.len() });
    Ok(found)
}

fn error(text: &str, at: usize, message: &str) -> PtxError {
    PtxError {
        message: message.into(),
        text: text[at..].chars().take(20).collect(),
        line: line_of(text, at),
        source_line: "".into(),
    }
}
