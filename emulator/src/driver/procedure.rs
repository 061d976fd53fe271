//! `cuGetProcAddress_v2`: functions by their name without version, for the version that is asked for.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Out, Text, api};
use crate::error::Error;

/// Names of which a version other than `_v2` is the one of some CUDA: the first CUDA that means it.
const VERSIONS: &[(&str, i32, &str)] = &[
    ("cuCtxCreate", 11_040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12_050, "cuCtxCreate_v4"),
    ("cuStreamGetCaptureInfo", 12_030, "cuStreamGetCaptureInfo_v3"),
    ("cuGraphInstantiate", 12_000, "cuGraphInstantiateWithFlags"),
];

/// Names whose second version came later than the rest's, which all are older than CUDA 11.
const SECOND_VERSIONS: &[(&str, i32)] = &[
    ("cuDeviceGetUuid", 11_040),
    ("cuEventElapsedTime", 12_080),
    ("cuStreamGetCaptureInfo", 11_030),
    ("cuGetProcAddress", 12_000),
    ("cuGraphNodeGetDependencies", 12_030),
    ("cuStreamGetCtx", 12_050),
    ("cuCtxGetDevice", 13_000),
    ("cuCtxSynchronize", 13_000),
];

fn functions() -> &'static HashMap<&'static str, usize> {
    static ALL: OnceLock<HashMap<&'static str, usize>> = OnceLock::new();
    ALL.get_or_init(|| {
        let areas = [
            super::context::functions(),
            super::device::functions(),
            super::errors::functions(),
            super::graph::functions(),
            super::launch::functions(),
            super::library::functions(),
            super::memory::functions(),
            super::module::functions(),
            super::occupancy::functions(),
            super::stream::functions(),
            super::unsupported::functions(),
            self::functions_of_this_file(),
        ];
        areas.into_iter().flatten().collect()
    })
}

fn functions_of_this_file() -> Vec<(&'static str, usize)> {
    surface::functions()
}

fn address(name: &str, version: i32) -> Option<usize> {
    let later = VERSIONS.iter().filter(|(base, since, _)| *base == name && version >= *since);
    let second = SECOND_VERSIONS.iter().find(|(base, _)| *base == name);
    let second = second.is_none_or(|(_, since)| version >= *since).then(|| format!("{name}_v2"));
    let names = later
        .max_by_key(|(_, since, _)| *since)
        .map(|(.., exact)| (*exact).to_string())
        .into_iter();
    names.chain(second).chain([name.to_string()]).find_map(|n| functions().get(n.as_str()).copied())
}

mod surface {
    use super::*;
    use crate::driver::Result;

    fn get(name: &Text, to: &Out<usize>, version: i32, flags: u64, status: &Out<i32>) -> Result {
        // PER_THREAD_DEFAULT_STREAM
        if flags & 2 != 0 {
            return Err(Error::NotSupported("per-thread default streams by function".into()));
        }
        let name = name.get()?;
        match address(name, version) {
            Some(address) => {
                status.set_if_wanted(0)?;
                to.set(address)
            }
            None => {
                // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
                status.set_if_wanted(1)?;
                to.set(0)?;
                Err(Error::NotFound(format!("function {name}")))
            }
        }
    }

    api! {
        fn cuGetProcAddress(name: Text, to: Out<usize>, version: i32, flags: u64) {
            get(&name, &to, version, flags, &Out::NOWHERE)
        }

        fn cuGetProcAddress_v2(
            name: Text,
            to: Out<usize>,
            version: i32,
            flags: u64,
            status: Out<i32>,
        ) {
            get(&name, &to, version, flags, &status)
        }
    }
}
