//! `cuLibrary*`, `cuKernel*`: modules that belong to no context. Here a library is loaded into the
//! context that is current, and its kernels are that module's functions.

use std::ffi::{c_char, c_void};

use super::module::{attribute, function, get_function, load_image, unload};
use super::state::objects;
use super::{Handle, Out, Result, Text, api};
use crate::error::Error;

fn load(library: &Out<Handle>, image: *const c_void) -> Result {
    let module = load_image(image)?;
    let mut objects = objects();
    let handle = objects.fresh();
    objects.libraries.insert(handle, module);
    library.set(handle)
}

fn module(library: Handle) -> Result<Handle> {
    objects().libraries.get(&library).copied().ok_or(Error::InvalidHandle("library"))
}

api! {
    // Options steer ptxas, which does not run here, and when code is loaded.
    fn cuLibraryLoadData(
        library: Out<Handle>,
        image: *const c_void,
        _jit_options: usize,
        _jit_values: usize,
        _jit_count: u32,
        _options: usize,
        _values: usize,
        _count: u32,
    ) {
        load(&library, image)
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>,
        path: Text,
        _jit_options: usize,
        _jit_values: usize,
        _jit_count: u32,
        _options: usize,
        _values: usize,
        _count: u32,
    ) {
        let path = path.get()?;
        let mut bytes = std::fs::read(path)
            .map_err(|error| Error::NotFound(format!("file {path}: {error}")))?;
        bytes.push(0);
        load(&library, bytes.as_ptr().cast())
    }

    fn cuLibraryUnload(library: Handle) {
        let module = module(library)?;
        unload(module)?;
        objects().libraries.remove(&library);
        Ok(())
    }

    fn cuLibraryGetModule(result: Out<Handle>, library: Handle) {
        result.set(module(library)?)
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        kernel.set(get_function(module(library)?, name.get()?)?)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        let module = module(library)?;
        let objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("library"))?;
        let (start, size) = found.loaded.variable(name.get()?)?;
        address.set_if_wanted(start)?;
        bytes.set_if_wanted(size as usize)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        let module = module(library)?;
        let objects = objects();
        let found = objects.modules.get(&module).ok_or(Error::InvalidHandle("library"))?;
        count.set(found.loaded.kernel_names().count() as u32)
    }

    fn cuKernelGetFunction(result: Out<Handle>, kernel: Handle) {
        function(kernel)?;
        result.set(kernel)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        let module = function(kernel)?.module;
        let objects = objects();
        let found = objects.libraries.iter().find(|(_, other)| **other == module);
        library.set(*found.ok_or(Error::InvalidHandle("kernel of a library"))?.0)
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) {
        // The text lives as long as the function is registered.
        name.set(function(kernel)?.name.as_ptr())
    }

    fn cuKernelGetAttribute(value: Out<i32>, number: i32, kernel: Handle, _device: i32) {
        value.set(attribute(&*function(kernel)?, number)?)
    }

    fn cuKernelSetAttribute(number: i32, value: i32, kernel: Handle, _device: i32) {
        super::module::set_attribute(&*function(kernel)?, number, value)
    }

    // A hint.
    fn cuKernelSetCacheConfig(kernel: Handle, _config: i32, _device: i32) {
        function(kernel).map(|_| ())
    }
}
