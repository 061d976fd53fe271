use std::path::*; use anyhow::Result; use crate::train::Run;
pub fn draw(_: &Path, _: &[Run]) -> Result<Vec<PathBuf>> { Ok(vec![]) }
