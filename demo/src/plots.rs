use crate::train::Run;
use anyhow::Result;
use std::path::*;
pub fn draw(_: &Path, _: &[Run]) -> Result<Vec<PathBuf>> {
    Ok(vec![])
}
