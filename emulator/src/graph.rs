//! Graphs: captured work, and what is launched of it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::error::Error;
use crate::stream::{ItemId, Kind, Scheduler, Stream, Work};

/// Work and its order. A node comes after all nodes that it follows.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    nodes: Vec<(Work, Vec<usize>)>,
}

impl Graph {
    /// Adds nodes whose order among each other is given; those that follow none of them follow
    /// `after`. The nodes that nothing of theirs follows.
    pub fn append(&mut self, nodes: &[(Work, Vec<usize>)], after: &[usize]) -> Vec<usize> {
        let first = self.nodes.len();
        let mut last: BTreeSet<usize> = (first..first + nodes.len()).collect();
        for (work, inner) in nodes {
            let after = match inner.as_slice() {
                [] => after.to_vec(),
                inner => inner.iter().map(|node| first + node).collect(),
            };
            after.iter().for_each(|node| {
                last.remove(node);
            });
            self.nodes.push((work.clone(), after));
        }
        last.into_iter().collect()
    }

    /// What each node does.
    pub fn kinds(&self) -> impl ExactSizeIterator<Item = Kind> {
        self.nodes.iter().map(|(work, _)| work.kind())
    }

    /// The nodes that a node follows.
    pub fn before(&self, node: usize) -> &[usize] {
        self.nodes.get(node).map_or(&[], |(_, after)| after)
    }

    /// Nodes, with all that come before them.
    pub fn with_all_before(&self, nodes: &[usize]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open = nodes.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node) {
                open.extend(self.before(node));
            }
        }
        found
    }
}

/// What a launch does with allocations of an earlier launch that were not freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocations {
    /// They are an error.
    Kept,
    /// It frees them.
    FreedAtLaunch,
}

/// A graph that can be launched.
#[derive(Debug)]
pub struct Executable {
    nodes: Vec<(Work, Vec<usize>)>,
    allocations: Allocations,
    /// The end of its last launch: launches of one executable follow each other.
    last: Mutex<Option<ItemId>>,
}

impl Executable {
    /// Of a graph as it is now.
    pub fn new(graph: &Graph, allocations: Allocations) -> Self {
        Self { nodes: graph.nodes.clone(), allocations, last: Mutex::new(None) }
    }

    /// Adds all of its work to a stream.
    pub fn launch(&self, scheduler: &Scheduler, stream: &Stream) -> Result<(), Error> {
        let made: Vec<(Work, u64)> = self
            .nodes
            .iter()
            .filter_map(|(work, _)| Some((work.clone(), work.allocation()?)))
            .collect();
        if self.allocations == Allocations::FreedAtLaunch && !made.is_empty() {
            let free = Work::new(Kind::Free, stream.context(), move || {
                for (work, address) in &made {
                    work.context().memory().free(*address);
                }
                Ok(())
            });
            scheduler.submit(stream, free)?;
        }
        scheduler.submit_nodes(stream, &self.nodes, &self.last)
    }
}
