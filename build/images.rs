//! The images that a published package carries, for machines without nvcc. Shared by build.rs, which takes
//! them, and xtask, which writes them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Relative to the crate's folder. Not in git.
pub const FOLDER: &str = "images";

/// In it: hashes of the kernels' sources and of all else in the folder, as `sha256sum --check
/// images/SHA256SUMS` reads them in the crate's folder.
const SUMS: &str = "SHA256SUMS";

/// In it: a line of what every image holds, "sm_80,sm_90,compute_90", and one of the compiler.
const CONTENTS: &str = "CONTENTS";

const SOURCES: &str = "kernels";

/// What the images are.
pub struct Contents {
    pub architectures: String,
    pub compiler: String,
}

/// Whether the images of a crate's folder can be taken.
pub enum Found {
    /// They were made from the kernels that are there.
    Current(Contents),
    /// They are other files than were written, or of other kernels.
    Stale,
    /// There are none, as in a checkout.
    Nothing,
}

pub fn find(crate_folder: &Path) -> io::Result<Found> {
    let folder = crate_folder.join(FOLDER);
    if !folder.join(SUMS).is_file() {
        return Ok(Found::Nothing);
    }
    if fs::read_to_string(folder.join(SUMS))? != sums(crate_folder)? {
        return Ok(Found::Stale);
    }
    let text = fs::read_to_string(folder.join(CONTENTS))?;
    let (architectures, compiler) = text.trim_end().split_once('\n').ok_or_else(|| {
        io::Error::other(format!("{FOLDER}/{CONTENTS} has not the two lines that it should"))
    })?;
    Ok(Found::Current(Contents { architectures: architectures.into(), compiler: compiler.into() }))
}

/// Describes the images that lie in a crate's folder, so that [`find`] takes them.
#[allow(dead_code)] // by build.rs
pub fn describe(crate_folder: &Path, contents: &Contents) -> io::Result<()> {
    let Contents { architectures, compiler } = contents;
    let folder = crate_folder.join(FOLDER);
    fs::write(folder.join(CONTENTS), format!("{architectures}\n{compiler}\n"))?;
    fs::write(folder.join(SUMS), sums(crate_folder)?)
}

fn sums(crate_folder: &Path) -> io::Result<String> {
    let mut text = String::new();
    for folder in [FOLDER, SOURCES] {
        for name in files_in(&crate_folder.join(folder))? {
            if name == Path::new(SUMS) {
                continue;
            }
            let file = Path::new(folder).join(name);
            let hash = Sha256::digest(fs::read(crate_folder.join(&file))?);
            let _ = writeln!(text, "{hash:x}  {}", file.display()); // A string takes all.
        }
    }
    Ok(text)
}

/// Their names, sorted.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(PathBuf::from(entry.file_name()));
        }
    }
    names.sort();
    Ok(names)
}
