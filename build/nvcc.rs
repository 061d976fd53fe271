//! Where nvcc is. Shared by build.rs, which runs it, and xtask, which fetches one if there is none.

use std::env;
use std::path::{Path, PathBuf};

/// Where `cargo xtask toolchain` puts nvcc, relative to the crate's folder.
pub const FETCHED: &str = ".toolchain/cuda/bin/nvcc";

const FOLDER_VARIABLES: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];

const USUAL_FOLDERS: [&str; 4] =
    ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr/lib/nvidia-cuda-toolkit"];

/// An nvcc, and how it was found.
pub struct Nvcc {
    pub path: PathBuf,
    /// Read by xtask alone.
    #[allow(dead_code)]
    pub origin: Origin,
}

/// The places, in the order of the search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin {
    Variable,
    Path,
    CudaFolder,
    Fetched,
}

/// The first nvcc among `NVCC`, `PATH`, `CUDA_HOME`, `CUDA_PATH`, the usual folders, and the one that
/// xtask fetched into `crate_folder`. An error if `NVCC` names none.
pub fn find(crate_folder: &Path) -> Result<Option<Nvcc>, String> {
    if let Some(name) = env::var_os("NVCC").filter(|name| !name.is_empty()) {
        let named = PathBuf::from(&name);
        let path =
            if named.components().count() == 1 { search_path(&named) } else { existing(named) };
        return match path {
            Some(path) => Ok(Some(Nvcc { path, origin: Origin::Variable })),
            None => Err(format!(
                "NVCC={} is no file: correct it, or unset it to search PATH, CUDA_HOME, CUDA_PATH \
                 and the usual folders",
                name.display()
            )),
        };
    }
    let found = |origin| move |path| Nvcc { path, origin };
    Ok(search_path(Path::new(&program()))
        .map(found(Origin::Path))
        .or_else(|| in_cuda_folders().map(found(Origin::CudaFolder)))
        .or_else(|| existing(crate_folder.join(FETCHED)).map(found(Origin::Fetched))))
}

fn program() -> String {
    format!("nvcc{}", env::consts::EXE_SUFFIX)
}

fn search_path(program: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find_map(|folder| existing(folder.join(program)))
}

fn in_cuda_folders() -> Option<PathBuf> {
    let named = FOLDER_VARIABLES.into_iter().filter_map(env::var_os);
    named
        .map(PathBuf::from)
        .chain(USUAL_FOLDERS.map(PathBuf::from))
        .find_map(|folder| existing(folder.join("bin").join(program())))
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}
