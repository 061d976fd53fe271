//! Every function of the header, called from Rust with one pointer after the other null, and with none. Small
//! enough for `cargo xtask miri`, which looks at each access on the way.

use std::ffi::{CStr, c_char};
use std::process::ExitCode;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use smoothxent::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use smoothxent_c::*;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = smoothxent::open(0)
    {
        eprintln!(
            "{error}. Without a GPU: `cargo xtask test` runs everything on an emulated driver."
        );
        return ExitCode::FAILURE;
    }
    let trials = vec![
        Trial::test("handles", handles),
        Trial::test("configs", configs),
        Trial::test("sizes", sizes),
        Trial::test("loss", loss),
        Trial::test("log_softmax", log_softmax),
        Trial::test("binary", binary),
        Trial::test("plans", plans),
        Trial::test("bad_targets", bad_targets),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

// ---------------------------------------------------------------- one problem

const ROWS: usize = 2;
const CLASSES: usize = 3;
const SHAPE: sx_shape = sx_shape {
    rows: ROWS,
    classes: CLASSES,
    logits_row_stride: 0,
    gradient_row_stride: 0,
    targets_row_stride: 0,
};
const LOG_SOFTMAX_SHAPE: sx_log_softmax_shape = sx_log_softmax_shape {
    rows: ROWS,
    classes: CLASSES,
    logits_row_stride: 0,
    output_row_stride: 0,
    upstream_row_stride: 0,
    gradient_row_stride: 0,
};
const LOGITS: [f32; ROWS * CLASSES] = [0.5, 2.0, -1.0, 0.0, 0.1, 0.2];

/// A handle, and device memory for all that a call names: parts of one allocation.
struct Scene {
    kernels: *mut sx_kernels,
    stream: Arc<CudaStream>,
    memory: CudaSlice<u8>,
    used: usize,
}

impl Scene {
    fn new() -> Result<Self, Failed> {
        let stream = smoothxent::open(0)?.new_stream()?;
        let memory = stream.alloc_zeros(1 << 20)?;
        let mut kernels = null_mut();
        // SAFETY: the message is as long as it says, here and below.
        succeed(|text, bytes| unsafe { sx_kernels_load(0, &mut kernels, text, bytes) })?;
        Ok(Self { kernels, stream, memory, used: 0 })
    }

    /// Memory of a call's own, zero, for a workspace too.
    fn part(&mut self, bytes: usize) -> sx_memory {
        let address = self.memory.device_ptr(&self.stream).0 + self.used as u64;
        self.used += bytes.next_multiple_of(256);
        assert!(self.used <= self.memory.len(), "the scene is too small");
        sx_memory { address, bytes }
    }

    fn upload<T: Copy, const N: usize>(&mut self, values: [T; N]) -> Result<sx_device_ptr, Failed> {
        let start = self.used;
        let part = self.part(size_of_val(&values));
        // SAFETY: numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), part.bytes) };
        let mut to = self.memory.slice_mut(start..start + part.bytes);
        self.stream.memcpy_htod(bytes, &mut to)?;
        Ok(part.address)
    }

    fn numbers<const N: usize>(&self, address: sx_device_ptr) -> Result<[f32; N], Failed> {
        let start = (address - self.memory.device_ptr(&self.stream).0) as usize;
        let bytes = self.stream.clone_dtoh(&self.memory.slice(start..start + 4 * N))?;
        let (numbers, []) = bytes.as_chunks::<4>() else { return Err("not whole numbers".into()) };
        Ok(std::array::from_fn(|at| f32::from_ne_bytes(numbers[at])))
    }

    /// What stands in two places.
    fn same<const N: usize>(
        &self,
        one: sx_device_ptr,
        other: sx_device_ptr,
    ) -> Result<[f32; N], Failed> {
        let (one, other) = (self.numbers(one)?, self.numbers(other)?);
        if one == other { Ok(one) } else { Err(format!("{one:?} and {other:?}").into()) }
    }

    fn stream(&self) -> sx_stream {
        self.stream.cu_stream().cast()
    }

    fn workspace(&mut self) -> Result<sx_memory, Failed> {
        let mut bytes = 0;
        // SAFETY: as above.
        succeed(|text, length| unsafe { sx_workspace_bytes(ROWS, &mut bytes, text, length) })?;
        Ok(self.part(bytes))
    }

    fn saved(&mut self) -> Result<sx_memory, Failed> {
        let mut bytes = 0;
        // SAFETY: as above.
        succeed(|text, length| unsafe { sx_saved_bytes(ROWS, &mut bytes, text, length) })?;
        Ok(self.part(bytes))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // SAFETY: it is freed once.
        unsafe { sx_kernels_free(self.kernels) };
    }
}

// ---------------------------------------------------------------- calls

/// A call's status and message.
fn call(function: impl FnOnce(*mut c_char, usize) -> sx_status) -> (sx_status, String) {
    let mut message = [b'?'; 300];
    let status = function(message.as_mut_ptr().cast(), message.len());
    let text = CStr::from_bytes_until_nul(&message).expect("a message ends with a NUL");
    (status, text.to_string_lossy().into_owned())
}

fn succeed(function: impl FnOnce(*mut c_char, usize) -> sx_status) -> Result<(), Failed> {
    match call(function) {
        (SX_OK, text) if text.is_empty() => Ok(()),
        (status, text) => Err(format!("status {status}: {text}").into()),
    }
}

fn refuse(
    expected: sx_status,
    words: &str,
    function: impl FnOnce(*mut c_char, usize) -> sx_status,
) -> Result<(), Failed> {
    match call(function) {
        (status, text) if status == expected && text.contains(words) => Ok(()),
        (status, text) => Err(format!("{words}: status {status}: {text}").into()),
    }
}

/// The pointers of a call that may not be null, by name: each is null once, and then none.
fn each_null(
    names: &[&str],
    mut function: impl FnMut(Nulled, *mut c_char, usize) -> sx_status,
) -> Result<(), Failed> {
    for (number, name) in names.iter().enumerate() {
        let says = format!("{name} is null");
        refuse(SX_NULL_POINTER, &says, |text, bytes| function(Nulled(number), text, bytes))?;
    }
    succeed(|text, bytes| function(Nulled(names.len()), text, bytes))
}

/// The number of the pointer that is null.
#[derive(Clone, Copy)]
struct Nulled(usize);

impl Nulled {
    fn read<T>(self, number: usize, value: *const T) -> *const T {
        if self.0 == number { null() } else { value }
    }

    fn write<T>(self, number: usize, value: &mut T) -> *mut T {
        if self.0 == number { null_mut() } else { value }
    }
}

type ForwardBackward<C, I, O> = unsafe extern "C" fn(
    *const sx_kernels,
    sx_stream,
    *const C,
    *const I,
    *const O,
    *const sx_gradient,
    sx_memory,
    *mut c_char,
    usize,
) -> sx_status;

/// Both passes at once, of a cross-entropy or a binary one.
fn fused_pass<C, I, O>(
    function: ForwardBackward<C, I, O>,
    scene: &Scene,
    (config, inputs): (&C, &I),
    outputs: &O,
    to: &sx_gradient,
    workspace: sx_memory,
) -> Result<(), Failed> {
    each_null(&["kernels", "config", "inputs", "outputs", "gradient"], |nulled, text, bytes| {
        let (kernels, config) = (nulled.read(0, scene.kernels), nulled.read(1, config));
        let (inputs, outputs) = (nulled.read(2, inputs), nulled.read(3, outputs));
        let (to, stream) = (nulled.read(4, to), scene.stream());
        // SAFETY: pointers are null or to what lives here, addresses of parts as long as the shape says, in all tests.
        unsafe { function(kernels, stream, config, inputs, outputs, to, workspace, text, bytes) }
    })
}

type Forward<C, I, O> = unsafe extern "C" fn(
    *const sx_kernels,
    sx_stream,
    *const C,
    *const I,
    *const O,
    sx_memory,
    *mut c_char,
    usize,
) -> sx_status;

/// The forward pass alone.
fn forward_pass<C, I, O>(
    function: Forward<C, I, O>,
    scene: &Scene,
    (config, inputs): (&C, &I),
    outputs: &O,
    workspace: sx_memory,
) -> Result<(), Failed> {
    each_null(&["kernels", "config", "inputs", "outputs"], |nulled, text, bytes| {
        let (kernels, config) = (nulled.read(0, scene.kernels), nulled.read(1, config));
        let (inputs, outputs) = (nulled.read(2, inputs), nulled.read(3, outputs));
        // SAFETY: as above.
        unsafe {
            function(kernels, scene.stream(), config, inputs, outputs, workspace, text, bytes)
        }
    })
}

/// Where a plan's text goes, and how long all of it is.
#[derive(Clone, Copy)]
struct Plan {
    text: *mut c_char,
    bytes: usize,
    needed: *mut usize,
}

/// The text is not asked for, cut, and whole; where it is cut, its length is not asked for.
fn each_plan(
    names: &[&str],
    mut function: impl FnMut(Nulled, Plan, *mut c_char, usize) -> sx_status,
) -> Result<(), Failed> {
    for bytes in [0, 9, 4000] {
        let (mut plan, mut needed) = (vec![b'?'; bytes], 0);
        let to = Plan {
            text: if bytes == 0 { null_mut() } else { plan.as_mut_ptr().cast() },
            bytes,
            needed: if bytes == 9 { null_mut() } else { &mut needed },
        };
        each_null(names, |nulled, text, length| function(nulled, to, text, length))?;
        match bytes {
            0 => assert!(needed > 9, "{needed}"),
            9 => assert_eq!(CStr::from_bytes_until_nul(&plan)?.count_bytes(), 8),
            _ => assert_eq!(CStr::from_bytes_until_nul(&plan)?.count_bytes() + 1, needed),
        }
    }
    Ok(())
}

fn loss_config() -> Result<sx_loss_config, Failed> {
    // SAFETY: all zero is such a struct.
    let mut config: sx_loss_config = unsafe { std::mem::zeroed() };
    let preset = c"pytorch".as_ptr();
    // SAFETY: a name that ends in NUL.
    succeed(|text, bytes| unsafe { sx_loss_config_init(&mut config, preset, text, bytes) })?;
    config.label_smoothing = 0.1;
    Ok(config)
}

fn binary_config() -> Result<sx_binary_config, Failed> {
    // SAFETY: all zero is such a struct.
    let mut config: sx_binary_config = unsafe { std::mem::zeroed() };
    // SAFETY: null stands for the default.
    succeed(|text, bytes| unsafe { sx_binary_config_init(&mut config, null(), text, bytes) })?;
    Ok(config)
}

// ---------------------------------------------------------------- tests

fn handles() -> Result<(), Failed> {
    let mut kernels = null_mut();
    each_null(&["kernels"], |nulled, text, bytes| {
        // SAFETY: pointers are null or to what lives here, in all tests.
        unsafe { sx_kernels_load(0, nulled.write(0, &mut kernels), text, bytes) }
    })?;
    let mut selected = null_mut();
    each_null(&["selected", "kernels", "strategy"], |nulled, text, bytes| {
        let strategy = nulled.read(2, c"warp".as_ptr());
        let to = nulled.write(0, &mut selected);
        // SAFETY: as above.
        unsafe { sx_kernels_select(nulled.read(1, kernels), SX_PINNED, strategy, to, text, bytes) }
    })?;
    let mut none = kernels;
    refuse(SX_INVALID_ARGUMENT, "\"fast\", which is none of tiny, warp", |text, bytes| {
        let strategy = c"fast".as_ptr();
        // SAFETY: as above.
        unsafe { sx_kernels_select(kernels, SX_PINNED, strategy, &mut none, text, bytes) }
    })?;
    assert!(none.is_null());
    // SAFETY: as above.
    refuse(SX_NO_DEVICE, "99", |text, bytes| unsafe {
        sx_kernels_load(99, &mut none, text, bytes)
    })?;
    // SAFETY: each is freed once; null may be freed.
    unsafe {
        sx_kernels_free(kernels);
        sx_kernels_free(selected);
        sx_kernels_free(null_mut());
        assert_eq!(CStr::from_ptr(sx_version()).to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

fn configs() -> Result<(), Failed> {
    let mut config = loss_config()?;
    let preset = c"timm".as_ptr();
    each_null(&["config"], |nulled, text, bytes| {
        // SAFETY: as above.
        unsafe { sx_loss_config_init(nulled.write(0, &mut config), preset, text, bytes) }
    })?;
    let mut config = binary_config()?;
    each_null(&["config"], |nulled, text, bytes| {
        // SAFETY: as above.
        unsafe { sx_binary_config_init(nulled.write(0, &mut config), preset, text, bytes) }
    })?;
    refuse(SX_INVALID_ARGUMENT, "preset is \"jax\"", |text, bytes| {
        // SAFETY: as above.
        unsafe { sx_binary_config_init(&mut config, c"jax".as_ptr(), text, bytes) }
    })
}

fn sizes() -> Result<(), Failed> {
    let mut size = 0;
    each_null(&["bytes"], |nulled, text, bytes| {
        // SAFETY: as above.
        unsafe { sx_workspace_bytes(ROWS, nulled.write(0, &mut size), text, bytes) }
    })?;
    each_null(&["bytes"], |nulled, text, bytes| {
        // SAFETY: as above.
        unsafe { sx_saved_bytes(ROWS, nulled.write(0, &mut size), text, bytes) }
    })?;
    refuse(SX_INVALID_ARGUMENT, &usize::MAX.to_string(), |text, bytes| {
        // SAFETY: as above.
        unsafe { sx_workspace_bytes(usize::MAX, &mut size, text, bytes) }
    })
}

fn loss() -> Result<(), Failed> {
    let mut scene = Scene::new()?;
    let config = loss_config()?;
    let inputs = sx_loss_inputs {
        dtype: SX_F32,
        target_type: SX_TARGET_I64,
        shape: SHAPE,
        logits: scene.upload(LOGITS)?,
        targets: scene.upload([1i64, 2])?,
        class_weights: scene.upload([1.0f32, 2.0, 0.5])?,
        ..sx_loss_inputs::default()
    };
    let outputs = sx_loss_outputs {
        loss: scene.part(4).address,
        row_losses: scene.part(4 * ROWS).address,
        row_lse: scene.part(4 * ROWS).address,
        row_argmax: scene.part(8 * ROWS).address,
        correct: scene.part(8).address,
        saved: scene.saved()?,
    };
    let upstream = scene.upload([2.0f32])?;
    let [fused, apart] = [(); 2].map(|()| sx_gradient {
        matrix: scene.part(4 * ROWS * CLASSES).address,
        upstream,
        upstream_per_row: 0,
    });
    let alone = sx_loss_outputs { loss: scene.part(4).address, ..outputs };
    let workspace = scene.workspace()?;
    let of = (&config, &inputs);
    fused_pass(sx_loss_forward_backward, &scene, of, &outputs, &fused, workspace)?;
    forward_pass(sx_loss_forward, &scene, of, &alone, workspace)?;
    let (stream, kernels) = (scene.stream(), scene.kernels);
    each_null(&["kernels", "config", "inputs", "gradient"], |nulled, text, bytes| {
        let (kernels, config) = (nulled.read(0, kernels), nulled.read(1, &config));
        let (inputs, to) = (nulled.read(2, &inputs), nulled.read(3, &apart));
        // SAFETY: as above.
        unsafe { sx_loss_backward(kernels, stream, config, inputs, outputs.saved, to, text, bytes) }
    })?;
    let [loss] = scene.same(outputs.loss, alone.loss)?;
    assert!(loss > 0.0, "{loss}");
    let gradient: [f32; ROWS * CLASSES] = scene.same(fused.matrix, apart.matrix)?;
    assert!(gradient[1] < 0.0, "{gradient:?}");
    Ok(())
}

/// Of a row's sum: fewer than 16 roundings to the nearest, each of a number below 1 or weighted to below it; what the
/// exponential and the logarithm of the GPU are off by counts as 4 each.
const ROUNDING: f32 = 16.0 * f32::EPSILON / 2.0;

fn log_softmax() -> Result<(), Failed> {
    let mut scene = Scene::new()?;
    let forward = sx_log_softmax {
        dtype: SX_F32,
        shape: LOG_SOFTMAX_SHAPE,
        logits: scene.upload(LOGITS)?,
        what: SX_LOG_PROBABILITIES,
        output: scene.part(4 * ROWS * CLASSES).address,
        row_lse: scene.part(4 * ROWS).address,
        saved: scene.saved()?,
    };
    let backward = sx_log_softmax_gradient {
        dtype: SX_F32,
        shape: LOG_SOFTMAX_SHAPE,
        what: SX_LOGITS,
        values: forward.logits,
        saved: forward.saved,
        upstream: scene.upload([0.25f32, 0.5, -0.25, 0.0, 0.1, 0.2])?,
        gradient: scene.part(4 * ROWS * CLASSES).address,
    };
    let (kernels, stream) = (scene.kernels, scene.stream());
    each_null(&["kernels", "call"], |nulled, text, bytes| {
        let (kernels, call) = (nulled.read(0, kernels), nulled.read(1, &forward));
        // SAFETY: as above.
        unsafe { sx_log_softmax_forward(kernels, stream, call, text, bytes) }
    })?;
    each_null(&["kernels", "call"], |nulled, text, bytes| {
        let (kernels, call) = (nulled.read(0, kernels), nulled.read(1, &backward));
        // SAFETY: as above.
        unsafe { sx_log_softmax_backward(kernels, stream, call, text, bytes) }
    })?;
    for row in scene.numbers::<{ ROWS * CLASSES }>(forward.output)?.chunks(CLASSES) {
        let sum: f32 = row.iter().map(|log_p| log_p.exp()).sum();
        assert!((sum - 1.0).abs() < ROUNDING, "{row:?}");
    }
    for row in scene.numbers::<{ ROWS * CLASSES }>(backward.gradient)?.chunks(CLASSES) {
        let sum: f32 = row.iter().sum();
        assert!(row[0] != 0.0 && sum.abs() < ROUNDING, "{row:?}");
    }
    Ok(())
}

fn binary() -> Result<(), Failed> {
    let mut scene = Scene::new()?;
    let config = binary_config()?;
    let inputs = sx_binary_inputs {
        dtype: SX_F32,
        target_type: SX_TARGET_F32,
        shape: SHAPE,
        logits: scene.upload(LOGITS)?,
        targets: scene.upload([0.0f32, 1.0, 0.5, 1.0, 0.0, 0.25])?,
        class_weights: scene.upload([1.0f32, 2.0, 0.5])?,
        positive_weights: scene.upload([1.0f32, 1.5, 1.0])?,
        ..sx_binary_inputs::default()
    };
    let outputs =
        sx_binary_outputs { loss: scene.part(4).address, row_losses: scene.part(4 * ROWS).address };
    let [fused, apart] = [(); 2].map(|()| sx_gradient {
        matrix: scene.part(4 * ROWS * CLASSES).address,
        ..sx_gradient::default()
    });
    let alone = sx_binary_outputs { loss: scene.part(4).address, ..outputs };
    let workspace = scene.workspace()?;
    let of = (&config, &inputs);
    fused_pass(sx_binary_forward_backward, &scene, of, &outputs, &fused, workspace)?;
    forward_pass(sx_binary_forward, &scene, of, &alone, workspace)?;
    let (stream, kernels) = (scene.stream(), scene.kernels);
    each_null(&["kernels", "config", "inputs", "gradient"], |nulled, text, bytes| {
        let (kernels, config) = (nulled.read(0, kernels), nulled.read(1, &config));
        let (inputs, to) = (nulled.read(2, &inputs), nulled.read(3, &apart));
        // SAFETY: as above.
        unsafe { sx_binary_backward(kernels, stream, config, inputs, to, workspace, text, bytes) }
    })?;
    let [loss] = scene.same(outputs.loss, alone.loss)?;
    assert!(loss > 0.0, "{loss}");
    let gradient: [f32; ROWS * CLASSES] = scene.same(fused.matrix, apart.matrix)?;
    assert!(gradient[0] > 0.0, "{gradient:?}");
    Ok(())
}

fn plans() -> Result<(), Failed> {
    let scene = Scene::new()?;
    let (loss, binary) = (loss_config()?, binary_config()?);
    let loss_inputs = sx_loss_inputs {
        dtype: SX_F32,
        target_type: SX_TARGET_I64,
        shape: SHAPE,
        ..sx_loss_inputs::default()
    };
    let binary_inputs = sx_binary_inputs {
        dtype: SX_F32,
        target_type: SX_TARGET_I64,
        shape: SHAPE,
        ..sx_binary_inputs::default()
    };
    each_plan(&["kernels", "config", "inputs"], |nulled, plan, text, bytes| {
        let kernels = nulled.read(0, scene.kernels);
        let (config, inputs) = (nulled.read(1, &loss), nulled.read(2, &loss_inputs));
        let (pass, Plan { text: to, bytes: fit, needed }) = (SX_FORWARD_BACKWARD, plan);
        // SAFETY: as above.
        unsafe { sx_loss_plan(kernels, config, inputs, pass, to, fit, needed, text, bytes) }
    })?;
    each_plan(&["kernels", "config", "inputs"], |nulled, plan, text, bytes| {
        let kernels = nulled.read(0, scene.kernels);
        let (config, inputs) = (nulled.read(1, &binary), nulled.read(2, &binary_inputs));
        let (pass, Plan { text: to, bytes: fit, needed }) = (SX_FORWARD, plan);
        // SAFETY: as above.
        unsafe { sx_binary_plan(kernels, config, inputs, pass, to, fit, needed, text, bytes) }
    })?;
    each_plan(&["kernels", "shape"], |nulled, plan, text, bytes| {
        let (kernels, shape) = (nulled.read(0, scene.kernels), nulled.read(1, &LOG_SOFTMAX_SHAPE));
        let (pass, Plan { text: to, bytes: fit, needed }) = (SX_BACKWARD, plan);
        // SAFETY: as above.
        unsafe { sx_log_softmax_plan(kernels, SX_F16, shape, pass, to, fit, needed, text, bytes) }
    })
}

fn bad_targets() -> Result<(), Failed> {
    let mut scene = Scene::new()?;
    let config = loss_config()?;
    let inputs = sx_loss_inputs {
        dtype: SX_F32,
        target_type: SX_TARGET_I32,
        shape: SHAPE,
        logits: scene.upload(LOGITS)?,
        targets: scene.upload([1i32, 7])?,
        ..sx_loss_inputs::default()
    };
    let outputs = sx_loss_outputs { loss: scene.part(4).address, ..sx_loss_outputs::default() };
    let (workspace, stream, kernels) = (scene.workspace()?, scene.stream(), scene.kernels);
    let mut found = sx_bad_targets::default();
    for and_say_which in [true, false] {
        succeed(|text, bytes| {
            // SAFETY: as above.
            unsafe {
                sx_loss_forward(kernels, stream, &config, &inputs, &outputs, workspace, text, bytes)
            }
        })?;
        let to: *mut sx_bad_targets = if and_say_which { &mut found } else { null_mut() };
        // SAFETY: as above.
        refuse(SX_BAD_TARGETS, "7", |text, bytes| unsafe {
            sx_take_status(kernels, stream, workspace, to, text, bytes)
        })?;
    }
    assert_eq!((found.count, found.row, found.target, found.classes), (1, 1, 7, CLASSES as u64));
    each_null(&["kernels"], |nulled, text, bytes| {
        let kernels = nulled.read(0, kernels);
        // SAFETY: as above.
        unsafe { sx_take_status(kernels, stream, workspace, &mut found, text, bytes) }
    })?;
    assert_eq!((found.count, found.row, found.target, found.classes), (0, 0, 0, 0));
    Ok(())
}
