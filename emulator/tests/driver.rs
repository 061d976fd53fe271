//! The C surface, as cudarc calls it. The driver reads its settings once, so each test is a process
//! of its own: this program again, with the emulated driver and what the test sets.

use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::{env, fs, ptr};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
    result, sys,
};
use cudarc::nvrtc::Ptx;
use sys::CUresult::{self, *};

/// Set in a child: the test that it is.
const CHILD: &str = "CUDA_EMULATOR_TEST_CHILD";

/// A folder in which the emulated driver has the name that programs look for.
fn driver() -> PathBuf {
    let program = env::current_exe().expect("a program");
    let built = program.with_file_name("libcuda_emulator.so");
    let folder = program.with_file_name("emulated-driver");
    fs::create_dir_all(&folder).expect("a folder for tests");
    let link = folder.join("libcuda.so.1");
    if !link.exists() {
        // Another test may have been faster.
        let _ = std::os::unix::fs::symlink(&built, &link);
    }
    assert!(fs::metadata(&link).is_ok(), "no emulated driver at {}", built.display());
    folder
}

fn child(test: &str, settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().expect("a program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CUDA_")) {
        command.env_remove(name);
    }
    command.env(CHILD, test).env("LD_LIBRARY_PATH", driver()).envs(settings.iter().copied());
    command.output().expect("a child")
}

/// Runs a test's body in a child with some settings, which has to end well.
fn with(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if env::var(CHILD).is_ok_and(|name| name == test) {
        return body();
    }
    let output = child(test, settings);
    assert!(
        output.status.success(),
        "{settings:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

const PTX: &str = r"
.version 8.0
.target sm_75
.address_size 64
.global .align 4 .u32 counter = 7;
.visible .entry add(.param .u64 at, .param .u32 value)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [at];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r6, [%rd3];
    add.s32 %r7, %r6, %r1;
    st.global.u32 [%rd3], %r7;
    ret;
}
";

struct Gpu {
    context: Arc<CudaContext>,
    add: CudaFunction,
}

impl Gpu {
    fn new() -> Self {
        let context = CudaContext::new(0).expect("an emulated device");
        let module = context.load_module(Ptx::from_src(PTX)).expect("sound PTX");
        let add = module.load_function("add").expect("a kernel");
        Self { context, add }
    }

    /// Adds a value to each of a buffer's words.
    fn add(&self, stream: &Arc<CudaStream>, to: &mut CudaSlice<u32>, value: u32) {
        let config = LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (to.len() as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(to).arg(&value);
        // SAFETY: one thread for each word.
        unsafe { launch.launch(config) }.expect("a launch");
    }
}

fn code(result: CUresult) -> u32 {
    result as u32
}

fn failed<T: std::fmt::Debug>(result: Result<T, DriverError>) -> CUresult {
    result.expect_err("an error").0
}

#[test]
fn the_safe_layer_works_in_every_order() {
    for mode in ["in-order", "late", "shuffle:1", "shuffle:2", "shuffle:3"] {
        with("the_safe_layer_works_in_every_order", &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let gpu = Gpu::new();
            let (a, b) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
            for round in 0..20 {
                let mut data = a.clone_htod(&[round; 64]).unwrap();
                gpu.add(&a, &mut data, 1);
                // cudarc records and waits for events between its streams.
                gpu.add(&b, &mut data, 2);
                let mut copy = b.alloc_zeros::<u32>(64).unwrap();
                b.memcpy_dtod(&data, &mut copy).unwrap();
                drop(data);
                assert_eq!(a.clone_dtoh(&copy).unwrap(), [round + 3; 64]);
            }
            let event = a.record_event(None).unwrap();
            while !event.is_complete() {}
            a.join(&b).unwrap();
            gpu.context.synchronize().unwrap();
        });
    }
}

#[test]
fn copies_use_pinned_memory_when_they_run_and_other_memory_at_the_call() {
    let name = "copies_use_pinned_memory_when_they_run_and_other_memory_at_the_call";
    with(name, &[("CUDA_EMULATOR_STREAMS", "late")], || {
        let gpu = Gpu::new();
        let stream = gpu.context.new_stream().unwrap();
        let raw = stream.cu_stream();
        // SAFETY: all of this memory lives to the end; nothing else uses it.
        unsafe {
            let address = result::malloc_async(raw, 8).unwrap();
            let pinned = result::malloc_host(8, 0).unwrap().cast::<u32>();
            let words = std::slice::from_raw_parts_mut(pinned, 2);
            words.copy_from_slice(&[1, 2]);
            let mut plain = [3_u32, 4];
            result::memcpy_htod_async(address, words, raw).unwrap();
            pinned.write(10);
            let mut back = [0_u32; 2];
            result::memcpy_dtoh_async(&mut back, address, raw).unwrap();
            assert_eq!(back, [10, 2], "pinned: as it was when the copy ran");
            result::memcpy_htod_async(address, &plain, raw).unwrap();
            plain[0] = 30;
            result::memcpy_dtoh_async(words, address, raw).unwrap();
            assert_eq!(pinned.read(), 10, "into pinned memory: not yet");
            result::stream::synchronize(raw).unwrap();
            assert_eq!([pinned.read(), pinned.add(1).read()], [3, 4], "pageable: at the call");
            assert_eq!(plain[0], 30);
            result::free_async(address, raw).unwrap();
            result::free_host(pinned.cast()).unwrap();
        }
    });
}

#[test]
fn queries_are_not_ready_until_work_is_done() {
    with("queries_are_not_ready_until_work_is_done", &[("CUDA_EMULATOR_STREAMS", "late")], || {
        let gpu = Gpu::new();
        let stream = gpu.context.new_stream().unwrap();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let start = stream.record_event(Some(flags)).unwrap();
        let mut data = stream.alloc_zeros::<u32>(4).unwrap();
        gpu.add(&stream, &mut data, 1);
        let end = stream.record_event(Some(flags)).unwrap();
        // SAFETY: the handles live.
        unsafe {
            assert_eq!(sys::cuStreamQuery(stream.cu_stream()), CUDA_ERROR_NOT_READY);
            assert_eq!(sys::cuEventQuery(end.cu_event()), CUDA_ERROR_NOT_READY);
            let early = result::event::elapsed(start.cu_event(), end.cu_event());
            assert_eq!(failed(early), CUDA_ERROR_NOT_READY);
            let mut polls = 0;
            while sys::cuStreamQuery(stream.cu_stream()) == CUDA_ERROR_NOT_READY {
                polls += 1;
                assert!(polls < 100, "a polling loop ends");
            }
            assert_eq!(sys::cuEventQuery(end.cu_event()), CUDA_SUCCESS);
        }
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    });
}

#[test]
fn a_kernel_that_fails_late_fails_the_next_wait() {
    with(
        "a_kernel_that_fails_late_fails_the_next_wait",
        &[("CUDA_EMULATOR_STREAMS", "late")],
        || {
            let gpu = Gpu::new();
            let stream = gpu.context.new_stream().unwrap();
            let nowhere = 64_u64;
            let mut launch = stream.launch_builder(&gpu.add);
            launch.arg(&nowhere).arg(&1_u32);
            // SAFETY: an emulated device may be given any address.
            unsafe { launch.launch(LaunchConfig::for_num_elems(1)) }.expect("nobody knows yet");
            assert_eq!(failed(stream.synchronize()), CUDA_ERROR_ILLEGAL_ADDRESS);
            assert_eq!(
                failed(stream.alloc_zeros::<u8>(1)),
                CUDA_ERROR_ILLEGAL_ADDRESS,
                "it sticks"
            );
        },
    );
}

#[test]
fn a_captured_graph_replays() {
    for mode in ["in-order", "late", "shuffle:4"] {
        with("a_captured_graph_replays", &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let gpu = Gpu::new();
            // SAFETY: all buffers are used in the order of one stream, or joined by hand.
            unsafe { gpu.context.disable_event_tracking() };
            let (a, b) = (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
            let mut data = a.clone_htod(&[5_u32; 8]).unwrap();
            let mut other = a.clone_htod(&[50_u32; 8]).unwrap();
            a.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            let status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
            assert_eq!(a.capture_status().unwrap(), status);
            b.join(&a).unwrap();
            assert_eq!(b.capture_status().unwrap(), status);
            gpu.add(&a, &mut data, 1);
            gpu.add(&b, &mut other, 1);
            a.join(&b).unwrap();
            let (mut number, mut count, mut graph) = (0, 0, ptr::null_mut());
            let mut after = ptr::null();
            let mut active = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
            // SAFETY: the places live; the nodes belong to the driver.
            unsafe {
                let result = sys::cuStreamGetCaptureInfo_v2(
                    a.cu_stream(),
                    &mut active,
                    &mut number,
                    &mut graph,
                    &mut after,
                    &mut count,
                );
                assert_eq!((result, active, count), (CUDA_SUCCESS, status, 2));
                assert!(number > 0 && !(*after).is_null() && !graph.is_null());
            }
            gpu.add(&a, &mut data, 1);
            let graph = a.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
            let mut nodes = 0;
            // SAFETY: without a place for nodes, their number.
            let result =
                unsafe { sys::cuGraphGetNodes(graph.cu_graph(), ptr::null_mut(), &mut nodes) };
            assert_eq!((result, nodes), (CUDA_SUCCESS, 3));
            assert_eq!(a.clone_dtoh(&data).unwrap(), [5; 8], "a capture runs nothing");
            graph.upload().unwrap();
            for _ in 0..3 {
                graph.launch().unwrap();
            }
            assert_eq!(a.clone_dtoh(&data).unwrap(), [11; 8]);
            a.memcpy_htod(&[100; 8], &mut data).unwrap();
            graph.launch().unwrap();
            assert_eq!(a.clone_dtoh(&data).unwrap(), [102; 8]);
            assert_eq!(a.clone_dtoh(&other).unwrap(), [54; 8]);
        });
    }
}

#[test]
fn a_capture_refuses_what_a_graph_cannot_hold() {
    with("a_capture_refuses_what_a_graph_cannot_hold", &[], || {
        let gpu = Gpu::new();
        let stream = gpu.context.new_stream().unwrap();
        let raw = stream.cu_stream();
        let event = gpu.context.new_event(None).unwrap();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        let image = CString::new(PTX).unwrap();
        let call = |name: &str| {
            // SAFETY: handles, and places for results, live during the call.
            unsafe {
                match name {
                    "cuMemAlloc" => sys::cuMemAlloc_v2(&mut 0, 4),
                    "cuStreamSynchronize" => sys::cuStreamSynchronize(raw),
                    "cuStreamQuery" => sys::cuStreamQuery(raw),
                    "cuCtxSynchronize" => sys::cuCtxSynchronize(),
                    "cuModuleLoadData" => {
                        sys::cuModuleLoadData(&mut ptr::null_mut(), image.as_ptr().cast())
                    }
                    _ => {
                        event.record(&stream).unwrap();
                        sys::cuEventQuery(event.cu_event())
                    }
                }
            }
        };
        for (name, expected) in [
            ("cuMemAlloc", 900),
            ("cuStreamSynchronize", 900),
            ("cuStreamQuery", 900),
            ("cuCtxSynchronize", 900),
            ("cuModuleLoadData", 900),
            ("cuEventQuery", 907),
        ] {
            stream.begin_capture(mode).unwrap();
            assert_eq!(code(call(name)), expected, "{name}");
            let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0));
            assert_eq!(ended.err().map(|e| code(e.0)), Some(901), "{name}");
        }
        // What is stream-ordered is allowed.
        stream.begin_capture(mode).unwrap();
        let data = stream.alloc_zeros::<u32>(8).unwrap();
        drop(data);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        let invalid = sys::CUgraphInstantiate_flags(1 | 4);
        stream.begin_capture(mode).unwrap();
        assert_eq!(code(stream.end_capture(invalid).err().unwrap().0), 1);
    });
}

/// Launches `add` of no use with attributes, by their numbers and values.
fn launch_with(
    stream: &CudaStream,
    function: &CudaFunction,
    data: u64,
    grid: u32,
    attributes: &[(u32, [u32; 3])],
) -> u32 {
    let mut list: Vec<sys::CUlaunchAttribute> = attributes
        .iter()
        .map(|(id, value)| {
            // SAFETY: a C struct of numbers may be zero, and every id is one of the enum's.
            unsafe {
                let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
                ptr::addr_of_mut!(attribute.id).cast::<u32>().write(*id);
                ptr::addr_of_mut!(attribute.value).cast::<[u32; 3]>().write(*value);
                attribute
            }
        })
        .collect();
    // SAFETY: as above.
    let mut config: sys::CUlaunchConfig = unsafe { std::mem::zeroed() };
    (config.gridDimX, config.gridDimY, config.gridDimZ) = (grid, 1, 1);
    (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
    config.hStream = stream.cu_stream();
    config.attrs = list.as_mut_ptr();
    config.numAttrs = list.len() as u32;
    let (data, value) = (data, 1_u32);
    let mut arguments =
        [ptr::from_ref(&data).cast_mut().cast::<c_void>(), ptr::from_ref(&value).cast_mut().cast()];
    // SAFETY: all of it lives during the call.
    let result = unsafe {
        let function = function.cu_function();
        sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), ptr::null_mut())
    };
    code(result)
}

const CLUSTER: u32 = 4;

#[test]
fn launch_attributes_are_checked() {
    for device in ["sm_80", "sm_90"] {
        with("launch_attributes_are_checked", &[("CUDA_EMULATOR_DEVICE", device)], || {
            let gpu = Gpu::new();
            let stream = gpu.context.default_stream();
            let hopper = gpu.context.compute_capability().unwrap().0 == 9;
            let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH;
            assert_eq!(gpu.context.attribute(attribute).unwrap(), i32::from(hopper));
            // SAFETY: freed at the end.
            let data = unsafe { result::malloc_sync(4 * 32 * 64) }.unwrap();
            // SAFETY: all of it.
            unsafe { result::memset_d8_sync(data, 0, 4 * 32 * 64) }.unwrap();
            let launch = |grid, list: &[_]| launch_with(&stream, &gpu.add, data, grid, list);
            assert_eq!(launch(4, &[(CLUSTER, [1, 1, 1])]), 0);
            // Hints.
            assert_eq!(launch(4, &[(0, [0; 3]), (8, [0; 3]), (10, [0; 3])]), 0);
            // A cooperative launch, an event, and a number without a meaning.
            for id in [2, 7, 11, 40] {
                assert_eq!(launch(4, &[(id, [1, 1, 1])]), 801, "attribute {id}");
            }
            if !hopper {
                assert_eq!(launch(4, &[(CLUSTER, [2, 1, 1])]), 912);
                return;
            }
            assert_eq!(launch(4, &[(CLUSTER, [2, 1, 1])]), 0);
            assert_eq!(launch(5, &[(CLUSTER, [2, 1, 1])]), 912, "the grid is no multiple");
            assert_eq!(launch(4, &[(CLUSTER, [0, 1, 1])]), 912);
            assert_eq!(launch(16, &[(CLUSTER, [16, 1, 1])]), 912, "not portable");
            let allowed =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            assert_eq!(gpu.add.get_attribute(allowed).unwrap(), 0);
            gpu.add.set_attribute(allowed, 1).unwrap();
            assert_eq!(gpu.add.get_attribute(allowed).unwrap(), 1);
            assert_eq!(launch(16, &[(CLUSTER, [16, 1, 1])]), 0);
            assert_eq!(launch(32, &[(CLUSTER, [32, 1, 1])]), 912, "more than any device has");
            // SAFETY: allocated above; no work is left that uses it.
            unsafe { result::free_sync(data) }.unwrap();
        });
    }
}

#[test]
fn a_programmatic_launch_overlaps_with_the_launch_before_it_on_its_stream() {
    let name = "a_programmatic_launch_overlaps_with_the_launch_before_it_on_its_stream";
    const PROGRAMMATIC: &[(u32, [u32; 3])] = &[(6, [1, 0, 0])];
    for mode in ["in-order", "late"] {
        with(name, &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let gpu = Gpu::new();
            let (stream, other) =
                (gpu.context.new_stream().unwrap(), gpu.context.new_stream().unwrap());
            // SAFETY: the context fails at the end, and with it all memory is gone.
            let address = unsafe { result::malloc_sync(128) }.unwrap();
            let clear = || {
                // SAFETY: all of it.
                unsafe { result::memset_d8_async(address, 0, 128, stream.cu_stream()) }.unwrap();
            };
            let launch = |stream, list| launch_with(stream, &gpu.add, address, 1, list);
            clear();
            // Behind a memset there is nothing to overlap with.
            assert_eq!(launch(&stream, PROGRAMMATIC), 0);
            clear();
            assert_eq!(launch(&stream, &[]), 0);
            // Another stream's launch is not the one before.
            other.join(&stream).unwrap();
            assert_eq!(launch(&other, PROGRAMMATIC), 0);
            gpu.context.synchronize().expect("nothing overlaps");
            assert_eq!(launch(&stream, &[]), 0);
            assert_eq!(launch(&stream, PROGRAMMATIC), 0);
            // `add` does not wait for what it adds to.
            assert_eq!(failed(gpu.context.synchronize()), CUDA_ERROR_LAUNCH_FAILED);
        });
    }
}

#[test]
fn clusters_have_an_occupancy() {
    with("clusters_have_an_occupancy", &[], || {
        let gpu = Gpu::new();
        let allowed =
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
        // One block of 1024 threads and 100 KiB fills half a multiprocessor.
        let bytes = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        gpu.add.set_attribute(bytes, 200 << 10).unwrap();
        let active = |cluster: u32, shared: u32| {
            // SAFETY: C structs of numbers may be zero.
            let (mut config, mut attribute) = unsafe {
                (
                    std::mem::zeroed::<sys::CUlaunchConfig>(),
                    std::mem::zeroed::<sys::CUlaunchAttribute>(),
                )
            };
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attribute.value.clusterDim.x = cluster;
            attribute.value.clusterDim.y = 1;
            attribute.value.clusterDim.z = 1;
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (cluster * 4, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (1024, 1, 1);
            config.sharedMemBytes = shared;
            config.attrs = &mut attribute;
            config.numAttrs = 1;
            let (mut clusters, mut largest) = (-1, -1);
            // SAFETY: all of it lives during the calls.
            unsafe {
                let function = gpu.add.cu_function();
                let found = sys::cuOccupancyMaxActiveClusters(&mut clusters, function, &config);
                let most = sys::cuOccupancyMaxPotentialClusterSize(&mut largest, function, &config);
                assert_eq!(most, CUDA_SUCCESS);
                (code(found), clusters, largest)
            }
        };
        // Of 132 multiprocessors in partitions of 16 and 18.
        assert_eq!(active(2, 200 << 10), (0, 66, 8));
        assert_eq!(active(8, 200 << 10), (0, 16, 8));
        assert_eq!(active(4, 100 << 10), (0, 66, 8));
        assert_eq!(active(16, 200 << 10), (912, -1, 8));
        gpu.add.set_attribute(allowed, 1).unwrap();
        assert_eq!(active(16, 200 << 10), (0, 8, 16));
    });
}

#[test]
fn memory_calls_of_other_programs() {
    for mode in ["in-order", "late"] {
        with("memory_calls_of_other_programs", &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let _gpu = Gpu::new();
            let (mut base, mut pitch) = (0, 0);
            // SAFETY: places for results live during each call, host memory is as large as is said.
            unsafe {
                assert_eq!(sys::cuMemAllocPitch_v2(&mut base, &mut pitch, 12, 3, 4), CUDA_SUCCESS);
                assert_eq!(pitch, 512);
                assert_eq!(sys::cuMemsetD2D32_v2(base, pitch, 7, 3, 3), CUDA_SUCCESS);
                let source: Vec<u32> = (0..6).collect();
                let mut copy = sys::CUDA_MEMCPY2D {
                    srcXInBytes: 0,
                    srcY: 0,
                    srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                    srcHost: source.as_ptr().cast(),
                    srcDevice: 0,
                    srcArray: ptr::null_mut(),
                    srcPitch: 12,
                    dstXInBytes: 4,
                    dstY: 1,
                    dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                    dstHost: ptr::null_mut(),
                    dstDevice: base,
                    dstArray: ptr::null_mut(),
                    dstPitch: pitch,
                    WidthInBytes: 8,
                    Height: 2,
                };
                assert_eq!(sys::cuMemcpy2D_v2(&copy), CUDA_SUCCESS);
                let mut rows = [[0_u32; 3]; 3];
                for (at, row) in rows.iter_mut().enumerate() {
                    let from = base + (at * pitch) as u64;
                    let to = row.as_mut_ptr() as u64;
                    assert_eq!(sys::cuMemcpy(to, from, 12), CUDA_SUCCESS);
                }
                assert_eq!(rows, [[7, 7, 7], [7, 0, 1], [7, 3, 4]]);
                copy.Height = 3;
                copy.dstDevice = base + 2 * pitch as u64;
                assert_eq!(code(sys::cuMemcpy2D_v2(&copy)), 1, "past the end");

                let mut words = [1_u32, 2];
                let start: *mut c_void = words.as_mut_ptr().cast();
                assert_eq!(sys::cuMemHostRegister_v2(start, 8, 0), CUDA_SUCCESS);
                assert_eq!(code(sys::cuMemHostRegister_v2(start, 8, 0)), 712);
                assert_eq!(code(sys::cuMemHostGetDevicePointer_v2(&mut 0, start, 0)), 801);
                assert_eq!(sys::cuMemHostUnregister(start), CUDA_SUCCESS);
                assert_eq!(code(sys::cuMemHostUnregister(start)), 713);

                let (mut kind, mut ordinal) = (0_u32, -1_i32);
                let attributes = [
                    sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                    sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                ];
                let mut values: [*mut c_void; 2] =
                    [ptr::from_mut(&mut kind).cast(), ptr::from_mut(&mut ordinal).cast()];
                let mut ask = |address| {
                    let attributes = attributes.as_ptr().cast_mut();
                    sys::cuPointerGetAttributes(2, attributes, values.as_mut_ptr(), address)
                };
                assert_eq!(ask(base), CUDA_SUCCESS);
                assert_eq!((kind, ordinal), (2, 0));
                assert_eq!(ask(start as u64), CUDA_SUCCESS);
                assert_eq!((kind, ordinal), (0, -2), "not CUDA's memory");
                result::free_sync(base).unwrap();
                assert_eq!(code(sys::cuMemFree_v2(base)), 1, "freed twice");
            }
        });
    }
}

#[test]
fn two_devices_are_peers() {
    for mode in ["in-order", "late"] {
        with("two_devices_are_peers", &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let (one, two) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
            let mut can = -1;
            // SAFETY: places for results live during each call.
            unsafe {
                assert_eq!(sys::cuDeviceCanAccessPeer(&mut can, 0, 1), CUDA_SUCCESS);
                assert_eq!(can, 1);
                one.bind_to_thread().unwrap();
                assert_eq!(sys::cuCtxEnablePeerAccess(two.cu_ctx(), 0), CUDA_SUCCESS);
                assert_eq!(code(sys::cuCtxEnablePeerAccess(two.cu_ctx(), 0)), 704);
                assert_eq!(sys::cuCtxDisablePeerAccess(two.cu_ctx()), CUDA_SUCCESS);
                assert_eq!(code(sys::cuCtxDisablePeerAccess(two.cu_ctx())), 705);
                let mut text = [0; 20];
                assert_eq!(sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 20, 1), CUDA_SUCCESS);
                assert_eq!(CStr::from_ptr(text.as_ptr()).to_str(), Ok("0000:02:00.0"));
                assert_eq!(sys::cuDeviceGetByPCIBusId(&mut can, text.as_ptr()), CUDA_SUCCESS);
                assert_eq!(can, 1);
            }
            let (here, there) = (one.new_stream().unwrap(), two.new_stream().unwrap());
            let from = here.clone_htod(&[1_u32, 2, 3]).unwrap();
            let mut to = there.alloc_zeros::<u32>(3).unwrap();
            there.wait(&here.record_event(None).unwrap()).unwrap();
            there.memcpy_dtod(&from, &mut to).unwrap();
            assert_eq!(there.clone_dtoh(&to).unwrap(), [1, 2, 3]);
            // `from` may go when the other device is done with it.
            here.wait(&there.record_event(None).unwrap()).unwrap();
            one.bind_to_thread().unwrap();
        });
    }
}

#[test]
fn procedures_and_libraries() {
    with("procedures_and_libraries", &[], || {
        let gpu = Gpu::new();
        gpu.context.bind_to_thread().unwrap();
        // SAFETY: places for results live during each call.
        let lookup = |name: &str, version: i32| unsafe {
            let name = CString::new(name).unwrap();
            let (mut found, mut status) =
                (ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
            let result =
                sys::cuGetProcAddress_v2(name.as_ptr(), &mut found, version, 0, &mut status);
            (code(result), found)
        };
        assert_eq!(lookup("cuMemAlloc", 12_000), lookup("cuMemAlloc_v2", 12_000));
        assert_ne!(
            lookup("cuStreamGetCaptureInfo", 11_030),
            lookup("cuStreamGetCaptureInfo", 12_030)
        );
        assert_eq!(lookup("cuNothing", 12_000), (500, ptr::null_mut()));
        // SAFETY: the library's own function of this type.
        let version: unsafe extern "C" fn(*mut i32) -> u32 =
            unsafe { std::mem::transmute(lookup("cuDriverGetVersion", 12_000).1) };
        let mut number = 0;
        // SAFETY: the place lives.
        assert_eq!((unsafe { version(&mut number) }, number), (0, 13_000));

        let image = CString::new(PTX).unwrap();
        let (mut library, mut kernel, mut function) =
            (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: places for results live during each call; there are no options.
        unsafe {
            let result = sys::cuLibraryLoadData(
                &mut library,
                image.as_ptr().cast(),
                ptr::null_mut(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                0,
            );
            assert_eq!(result, CUDA_SUCCESS);
            let name = c"add".as_ptr();
            assert_eq!(sys::cuLibraryGetKernel(&mut kernel, library, name), CUDA_SUCCESS);
            assert_eq!(sys::cuKernelGetFunction(&mut function, kernel), CUDA_SUCCESS);
            assert_eq!(sys::cuFuncLoad(function), CUDA_SUCCESS);
            let name = c"missing".as_ptr();
            assert_eq!(code(sys::cuLibraryGetKernel(&mut kernel, library, name)), 500);
            let (mut address, mut bytes) = (0, 0);
            let name = c"counter".as_ptr();
            assert_eq!(
                sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, name),
                CUDA_SUCCESS
            );
            let mut value = [0_u32];
            result::memcpy_dtoh_sync(&mut value, address).unwrap();
            assert_eq!((bytes, value[0]), (4, 7));
            assert_eq!(sys::cuLibraryUnload(library), CUDA_SUCCESS);
            assert_eq!(code(sys::cuFuncLoad(function)), 400, "gone with its library");
            assert_eq!(sys::cuProfilerStart(), CUDA_SUCCESS);
            assert_eq!(sys::cuProfilerStop(), CUDA_SUCCESS);
        }
    });
}

#[test]
fn functions_of_the_host_run_in_order_and_may_not_call_the_driver() {
    let name = "functions_of_the_host_run_in_order_and_may_not_call_the_driver";
    for mode in ["in-order", "late"] {
        with(name, &[("CUDA_EMULATOR_STREAMS", mode)], || {
            let gpu = Gpu::new();
            let stream = gpu.context.new_stream().unwrap();
            type Seen = Vec<u32>;
            unsafe extern "C" fn see(data: *mut c_void) {
                // SAFETY: the call has no arguments; the test gives the address of a list that lives.
                unsafe { (*data.cast::<Seen>()).push(code(sys::cuCtxSynchronize())) };
            }
            let mut seen = Seen::new();
            let data = ptr::from_mut(&mut seen).cast();
            for _ in 0..2 {
                // SAFETY: the list lives until the stream is done.
                let result = unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(see), data) };
                assert_eq!(result, CUDA_SUCCESS);
            }
            unsafe extern "C" fn add(_stream: sys::CUstream, status: CUresult, data: *mut c_void) {
                // SAFETY: the test gives the address of a number that lives.
                unsafe { *data.cast::<u32>() += 1 + status as u32 };
            }
            let mut calls = 0_u32;
            let data = ptr::from_mut(&mut calls).cast();
            // SAFETY: the number lives until the stream is done.
            unsafe {
                let result = sys::cuStreamAddCallback(stream.cu_stream(), Some(add), data, 0);
                assert_eq!(result, CUDA_SUCCESS);
            }
            stream.synchronize().unwrap();
            assert_eq!(seen, [800, 800]);
            assert_eq!(calls, 1);
        });
    }
}

#[test]
fn every_attribute_of_every_model_has_a_value() {
    for device in ["sm_75", "sm_80", "sm_90"] {
        with(
            "every_attribute_of_every_model_has_a_value",
            &[("CUDA_EMULATOR_DEVICE", device)],
            || {
                let _gpu = Gpu::new();
                for number in 1..=135_u32 {
                    let mut value = -1;
                    // SAFETY: a number of cuda.h's enum, of the same representation; it has no gaps.
                    let attribute =
                        unsafe { std::mem::transmute::<u32, sys::CUdevice_attribute>(number) };
                    // SAFETY: the place lives.
                    let result = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, 0) };
                    assert_eq!((result, value >= 0), (CUDA_SUCCESS, true), "attribute {number}");
                }
            },
        );
    }
}

#[test]
fn injected_failures_are_counted_by_kind() {
    let name = "injected_failures_are_counted_by_kind";
    let list = "alloc:2,memset:1, load:2,event:3,copy:2,launch:1";
    with(name, &[("CUDA_EMULATOR_FAIL", list)], || {
        let gpu = Gpu::new();
        gpu.context.bind_to_thread().unwrap();
        let stream = gpu.context.default_stream();
        let again = gpu.context.load_module(Ptx::from_src(PTX));
        assert_eq!(failed(again.map(|_| ())), CUDA_ERROR_OUT_OF_MEMORY);
        gpu.context.load_module(Ptx::from_src(PTX)).unwrap();
        // SAFETY: all of it lives; memory is freed at the end.
        unsafe {
            let raw = stream.cu_stream();
            let address = result::malloc_async(raw, 128).unwrap();
            assert_eq!(failed(result::malloc_async(raw, 128)), CUDA_ERROR_OUT_OF_MEMORY);
            let memset = || result::memset_d8_async(address, 0, 128, raw);
            assert_eq!(failed(memset()), CUDA_ERROR_LAUNCH_FAILED);
            memset().unwrap();
            let copy = || result::memcpy_htod_async(address, &[1_u8], raw);
            copy().unwrap();
            assert_eq!(failed(copy()), CUDA_ERROR_LAUNCH_FAILED);
            assert_eq!(launch_with(&stream, &gpu.add, address, 1, &[]), 719);
            assert_eq!(launch_with(&stream, &gpu.add, address, 1, &[]), 0);
            let event = gpu.context.new_event(None).unwrap();
            event.record(&stream).unwrap();
            assert_eq!(failed(event.record(&stream)), CUDA_ERROR_LAUNCH_FAILED);
            event.record(&stream).unwrap();
            result::free_async(address, raw).unwrap();
        }
        stream.synchronize().expect("an injected failure is no fault");
    });
}

#[test]
fn leaks_are_listed_and_fail_the_process() {
    let name = "leaks_are_listed_and_fail_the_process";
    let settings = [("CUDA_EMULATOR_LEAKS", "1"), ("CUDA_EMULATOR_STREAMS", "late")];
    if env::var(CHILD).is_ok() {
        let gpu = Gpu::new();
        let stream = gpu.context.new_stream().unwrap();
        let data = stream.alloc_zeros::<u32>(25).unwrap();
        if env::var("LEAVE").is_ok_and(|text| text == "1") {
            std::mem::forget(data);
            std::mem::forget(stream);
            std::mem::forget(gpu.context.new_event(None).unwrap());
            std::mem::forget(gpu);
        }
        return;
    }
    let clean = child(name, &settings);
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    let leaky = child(name, &[&settings[..], &[("LEAVE", "1")]].concat());
    let text = String::from_utf8_lossy(&leaky.stderr);
    assert_eq!(leaky.status.code(), Some(87), "{text}");
    for line in ["100 bytes at", "streams: 1", "events: ", "modules: 1", "context of device 0"] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert!(text.lines().count() <= 25, "one screen: {text}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (variable, value) in [
        ("CUDA_EMULATOR_STREAMS", "sometimes"),
        ("CUDA_EMULATOR_LEAKS", "yes"),
        ("CUDA_EMULATOR_FAIL", "alloc:1,nothing:2"),
    ] {
        with("settings_that_make_no_sense_are_refused", &[(variable, value)], || {
            assert_eq!(failed(CudaContext::new(0).map(|_| ())), CUDA_ERROR_NOT_INITIALIZED);
        });
    }
}

/// The emulated driver that a test uses is the one that was built with it.
#[test]
fn the_driver_is_the_one_that_was_built() {
    let folder = driver();
    let target = fs::read_link(folder.join("libcuda.so.1")).unwrap();
    assert!(Path::new(&target).is_file());
}
