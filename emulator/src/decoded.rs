//! Images that were loaded before, decoded: a program loads the same ones for each of its contexts and handles, and
//! to decode one takes longer than most launches.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fatbin::Code;
use crate::ptx::PtxError;
use crate::ptx::ir::Kernel;
use crate::settings::Approximation;

/// A module's kernels by name.
pub type Kernels = HashMap<String, Result<Arc<Kernel>, PtxError>>;

/// What kernels are decoded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose {
    pub code: Code,
    pub approximation: Approximation,
}

struct Decoded {
    image: Box<[u8]>,
    purpose: Purpose,
    kernels: Arc<Kernels>,
}

impl Decoded {
    fn is_of(&self, image: &[u8], purpose: Purpose) -> bool {
        self.purpose == purpose && *self.image == *image
    }
}

/// More than a program has in use at a time; what came first goes first.
const KEPT: usize = 64;

static DECODED: Mutex<VecDeque<Decoded>> = Mutex::new(VecDeque::new());

fn decoded() -> MutexGuard<'static, VecDeque<Decoded>> {
    DECODED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernels of the same bytes, if they are kept.
pub fn find(image: &[u8], purpose: Purpose) -> Option<Arc<Kernels>> {
    let decoded = decoded();
    let known = decoded.iter().find(|known| known.is_of(image, purpose));
    known.map(|known| known.kernels.clone())
}

/// Keeps kernels that have no addresses in them, since those are of one context.
pub fn keep(image: &[u8], purpose: Purpose, kernels: &Arc<Kernels>) {
    let mut decoded = decoded();
    // Another thread may have been as quick.
    if decoded.iter().any(|known| known.is_of(image, purpose)) {
        return;
    }
    if decoded.len() == KEPT {
        decoded.pop_front();
    }
    decoded.push_back(Decoded { image: image.into(), purpose, kernels: kernels.clone() });
}
