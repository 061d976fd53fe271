//! The ops against the same losses composed of candle's own, through candle's autograd.

mod compare;
mod composed;
mod errors;
mod log_softmax;
mod loss;

use candle_core::{DType, Device, Result, Tensor};

/// Where the tests run: the GPU if this was built for one, and nowhere else then, so that no test of the CPU
/// passes for one of a GPU.
fn device() -> Result<Device> {
    if cfg!(feature = "cuda") { Device::new_cuda_with_stream(0) } else { Ok(Device::Cpu) }
}

/// Values from -8 to 8 of prime period, so that no two rows are alike; already rounded to the dtype.
fn logits(dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let len = dims.iter().product::<usize>();
    let values: Vec<f64> = (0..len).map(|i| (i * i * 37 % 1009) as f64 / 63.0 - 8.0).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// The same in f64 on the CPU.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.detach().contiguous()
}
