//! `cuGraph*`: graphs that capture made, and their launches.

use std::sync::{Arc, Mutex, PoisonError};

use super::launch::settle;
use super::state::{self, Objects, objects, scheduler};
use super::{Handle, Out, Result, api};
use crate::error::Error;
use crate::graph::{Allocations, Executable, Graph};
use crate::stream::Kind;

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
struct CuInstantiateParameters {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: i32,
}

/// `CU_GRAPH_NODE_TYPE_*`
fn node_type(kind: Kind) -> i32 {
    match kind {
        Kind::Kernel => 0,
        Kind::Copy => 1,
        Kind::Fill => 2,
        Kind::Host => 3,
        Kind::Empty => 5,
        Kind::Allocate => 10,
        Kind::Free => 11,
    }
}

impl Objects {
    /// The handle of a graph's node.
    pub fn node(&mut self, graph: Handle, node: usize) -> Handle {
        let known = self.nodes.iter().find(|(_, place)| **place == (graph, node));
        known.map(|(handle, _)| *handle).unwrap_or_else(|| {
            let handle = self.fresh();
            self.nodes.insert(handle, (graph, node));
            handle
        })
    }
}

/// The handle of a graph, a new one if it has none.
pub fn graph_handle(graph: &Arc<Mutex<Graph>>) -> Handle {
    let mut objects = objects();
    let known = objects.graphs.iter().find(|(_, other)| Arc::ptr_eq(other, graph));
    known.map(|(handle, _)| *handle).unwrap_or_else(|| {
        let handle = objects.fresh();
        objects.graphs.insert(handle, graph.clone());
        handle
    })
}

fn graph(handle: Handle) -> Result<Arc<Mutex<Graph>>> {
    objects().graphs.get(&handle).cloned().ok_or(Error::InvalidHandle("graph"))
}

fn read<T>(handle: Handle, with: impl FnOnce(&Graph) -> T) -> Result<T> {
    let graph = graph(handle)?;
    let graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(with(&graph))
}

fn executable(handle: Handle) -> Result<Arc<Executable>> {
    objects().executables.get(&handle).cloned().ok_or(Error::InvalidHandle("executable graph"))
}

fn instantiate(result: &Out<Handle>, handle: Handle, flags: u64) -> Result {
    // AUTO_FREE_ON_LAUNCH; UPLOAD and USE_NODE_PRIORITY are hints.
    const AUTO_FREE: u64 = 1;
    const HINTS: u64 = 2 | 8;
    const DEVICE_LAUNCH: u64 = 4;
    if flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE == 0 {
        return Err(Error::NotSupported("launching a graph from the device".into()));
    }
    if flags & !(AUTO_FREE | HINTS) != 0 {
        return Err(Error::InvalidValue(format!("graph instantiation flags {flags}")));
    }
    let allocations =
        if flags & AUTO_FREE == 0 { Allocations::Kept } else { Allocations::FreedAtLaunch };
    let made = read(handle, |graph| Executable::new(graph, allocations))?;
    let mut objects = objects();
    let handle = objects.fresh();
    objects.executables.insert(handle, Arc::new(made));
    result.set(handle)
}

/// Gives as many handles as there are or fit, and how many; without a place for them, how many.
fn list(to: *mut Handle, count: *mut usize, handles: &[Handle]) -> Result {
    if count.is_null() {
        return Err(Error::InvalidValue("no place for the number of nodes".into()));
    }
    if to.is_null() {
        return Out(count).set(handles.len());
    }
    // SAFETY: with a place for nodes, the count holds how many it has room for.
    let room = unsafe { count.read() };
    for at in 0..room {
        // SAFETY: as above. What is left over becomes null.
        unsafe { to.add(at).write(handles.get(at).copied().unwrap_or(0)) };
    }
    Out(count).set(room.min(handles.len()))
}

fn nodes(handle: Handle, of: impl Iterator<Item = usize>) -> Vec<Handle> {
    let mut objects = objects();
    of.map(|node| objects.node(handle, node)).collect()
}

fn node(handle: Handle) -> Result<(Handle, usize)> {
    objects().nodes.get(&handle).copied().ok_or(Error::InvalidHandle("graph node"))
}

api! {
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        if flags != 0 {
            return Err(Error::InvalidValue(format!("graph flags {flags}")));
        }
        graph.set(graph_handle(&Arc::default()))
    }

    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        instantiate(&executable, graph, flags)
    }

    // The form of CUDA 10 and 11: a node that failed, and a log.
    fn cuGraphInstantiate_v2(
        executable: Out<Handle>,
        graph: Handle,
        error_node: Out<Handle>,
        _log: usize,
        _log_bytes: usize,
    ) {
        error_node.set_if_wanted(0)?;
        instantiate(&executable, graph, 0)
    }

    fn cuGraphInstantiateWithParams(
        executable: Out<Handle>,
        graph: Handle,
        parameters: *mut CuInstantiateParameters,
    ) {
        if parameters.is_null() {
            return Err(Error::InvalidValue("no parameters".into()));
        }
        // SAFETY: the caller gives parameters that are read and written, checked not to be null.
        let parameters = unsafe { &mut *parameters };
        parameters.error_node = 0;
        let made = instantiate(&executable, graph, parameters.flags);
        // CUDA_GRAPH_INSTANTIATE_SUCCESS, _ERROR
        parameters.result = i32::from(made.is_err());
        made
    }

    fn cuGraphLaunch(handle: Handle, stream: Handle) {
        let executable = executable(handle)?;
        settle(executable.launch(scheduler()?, &*state::stream(stream)?))
    }

    // There is nothing to prepare.
    fn cuGraphUpload(handle: Handle, stream: Handle) {
        executable(handle)?;
        state::stream(stream)?.context().check()
    }

    fn cuGraphExecDestroy(handle: Handle) {
        let removed = objects().executables.remove(&handle);
        removed.map(|_| ()).ok_or(Error::InvalidHandle("executable graph"))
    }

    fn cuGraphDestroy(handle: Handle) {
        let mut objects = objects();
        objects.graphs.remove(&handle).ok_or(Error::InvalidHandle("graph"))?;
        objects.nodes.retain(|_, (graph, _)| *graph != handle);
        Ok(())
    }

    fn cuGraphClone(clone: Out<Handle>, original: Handle) {
        let copied = read(original, Graph::clone)?;
        clone.set(graph_handle(&Arc::new(Mutex::new(copied))))
    }

    fn cuGraphGetNodes(graph: Handle, to: *mut Handle, count: *mut usize) {
        let all = read(graph, |graph| graph.kinds().len())?;
        list(to, count, &nodes(graph, 0..all))
    }

    fn cuGraphGetRootNodes(graph: Handle, to: *mut Handle, count: *mut usize) {
        let roots: Vec<usize> = read(graph, |graph| {
            (0..graph.kinds().len()).filter(|&node| graph.before(node).is_empty()).collect()
        })?;
        list(to, count, &nodes(graph, roots.into_iter()))
    }

    fn cuGraphNodeGetType(handle: Handle, kind: Out<i32>) {
        let (graph, number) = node(handle)?;
        let found = read(graph, |graph| graph.kinds().nth(number))?;
        kind.set(node_type(found.ok_or(Error::InvalidHandle("graph node"))?))
    }

    fn cuGraphNodeGetDependencies(handle: Handle, to: *mut Handle, count: *mut usize) {
        let (graph, number) = node(handle)?;
        let before = read(graph, |graph| graph.before(number).to_vec())?;
        list(to, count, &nodes(graph, before.into_iter()))
    }
}
