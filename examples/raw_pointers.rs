//! On raw device pointers and a raw stream, as a library with an allocator of its own calls it: burn's
//! cubecl, a binding to C++, PyTorch's extensions. The loss first, its gradient later, as an autograd asks.
//!
//! `cargo run --release --example raw_pointers`

use smoothxent::cudarc::driver::{
    DriverError, result,
    sys::{CUdeviceptr, CUstream},
};
use smoothxent::problem::{Dtype, TargetType};
use smoothxent::{Kernels, LossConfig, Shape, half::f16, raw};

const ROWS: usize = 32;
const CLASSES: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The device's primary context, which is also that of the CUDA runtime and of what is built on it. It is
    // current on this thread from here on.
    let context = smoothxent::open(0)?;
    let kernels = Kernels::load(&context)?;
    // What the other library has: a stream, and memory that nobody here keeps track of.
    let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
    let memory = Memory { stream };

    let logits: Vec<f16> =
        (0..ROWS * CLASSES).map(|i| f16::from_f32((i * 7919 % 997) as f32 / 100.0 - 5.0)).collect();
    let targets: Vec<i32> = (0..ROWS).map(|row| (row * 31) as i32).collect();
    let logits = memory.holding(&logits)?;
    let targets = memory.holding(&targets)?;
    let apart = memory.zeros(ROWS * CLASSES * size_of::<f16>())?;
    let loss = memory.zeros(size_of::<f32>())?;
    let upstream = memory.holding(&[1.0f32])?;

    // A workspace is zero before its first use, once; memory for what is saved may hold anything.
    let room = raw::workspace_bytes(ROWS)?;
    let workspace = raw::Memory { address: memory.zeros(room)?, bytes: room };
    let room = raw::saved_bytes(ROWS)?;
    let saved = raw::Memory { address: memory.zeros(room)?, bytes: room };

    let config = LossConfig { label_smoothing: 0.1, ..LossConfig::pytorch() };
    let shape = Shape::contiguous(ROWS, CLASSES);
    let inputs = |logits| raw::LossInputs::new(Dtype::F16, TargetType::I32, shape, logits, targets);
    let outputs = raw::LossOutputs { loss, saved: Some(saved), ..Default::default() };
    let to = raw::Gradient { matrix: apart, upstream: raw::Upstream::Scalar(upstream) };
    // SAFETY: all addresses are of this context's memory, as long as the shape says, written by nobody else
    // and freed below, after the stream was waited for; everything is on one stream.
    unsafe {
        let of_matrix = inputs(raw::Logits::At(logits));
        raw::loss::forward(&kernels, stream, config, of_matrix, outputs, workspace)?;
        raw::loss::backward(&kernels, stream, config, of_matrix, saved, to)?;
        raw::take_status(&kernels, stream, workspace)?;
    }
    let mut loss_here = [0f32];
    memory.read(loss, &mut loss_here)?;
    println!("loss {:.4}", loss_here[0]);

    // Both at once, and the gradient in place of the logits.
    let none = raw::LossOutputs::default();
    let in_place = inputs(raw::Logits::InGradient);
    let to = raw::Gradient { matrix: logits, ..to };
    // SAFETY: as above.
    unsafe {
        raw::loss::forward_backward(&kernels, stream, config, in_place, none, to, workspace)?;
    }
    let mut gradients = [vec![0u16; ROWS * CLASSES], vec![0u16; ROWS * CLASSES]];
    memory.read(apart, &mut gradients[0])?;
    memory.read(logits, &mut gradients[1])?;
    assert!(gradients[0] == gradients[1]);
    println!("forward and backward, or both at once in place: the same {CLASSES} x {ROWS} bits");

    // What can be known without the memory is checked: an address that no f32 can have.
    let wrong = raw::LossOutputs { loss: loss + 1, ..none };
    // SAFETY: the call is refused before anything is enqueued.
    let refused = unsafe {
        raw::loss::forward_backward(&kernels, stream, config, in_place, wrong, to, workspace)
    };
    println!("refused: {}", refused.expect_err("an odd address"));

    for address in [logits, targets, apart, loss, upstream, workspace.address, saved.address] {
        // SAFETY: allocated below, freed once, and `read` has waited for the stream.
        unsafe { result::free_sync(address)? };
    }
    // SAFETY: created above, and nothing uses it any more.
    unsafe { result::stream::destroy(stream)? };
    Ok(())
}

/// Stands for the other library's allocator.
struct Memory {
    stream: CUstream,
}

impl Memory {
    fn zeros(&self, bytes: usize) -> Result<CUdeviceptr, DriverError> {
        // SAFETY: as many bytes are set as were allocated.
        unsafe {
            let address = result::malloc_sync(bytes)?;
            result::memset_d8_async(address, 0, bytes, self.stream)?;
            Ok(address)
        }
    }

    fn holding<T>(&self, values: &[T]) -> Result<CUdeviceptr, DriverError> {
        // SAFETY: as many bytes are copied as were allocated, and waited for while they are there.
        unsafe {
            let address = result::malloc_sync(size_of_val(values))?;
            result::memcpy_htod_async(address, values, self.stream)?;
            result::stream::synchronize(self.stream)?;
            Ok(address)
        }
    }

    fn read<T>(&self, address: CUdeviceptr, values: &mut [T]) -> Result<(), DriverError> {
        // SAFETY: callers name memory of so many values, plain numbers; the copy is waited for.
        unsafe {
            result::memcpy_dtoh_async(values, address, self.stream)?;
            result::stream::synchronize(self.stream)
        }
    }
}
