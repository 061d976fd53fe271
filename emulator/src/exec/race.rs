//! Races: two accesses to one location, one of them a write, that nothing orders.
//!
//! Every thread has a clock that ticks when it publishes what it did: at a barrier, a fence, an arrival.
//! What a thread knows of the others' clocks is a vector; it grows where the PTX memory model makes one
//! thread's accesses happen before another's: barriers, `bar.warp.sync`, cluster barriers, mbarriers,
//! release and acquire patterns on strong accesses and fences, each within its scope. Each location
//! remembers who wrote it last, one strong write before that which nothing orders before it, and two of
//! those who read it since. An access that meets one of them,
//! whose clock the accessing thread does not know, is a race: in every order of execution, whether or not
//! this one shows a wrong result (Flanagan and Freund, FastTrack, 2009).
//!
//! Asynchronous copies are threads of their own ([`Agent`]): what they read and wrote is known to whom
//! their completion reached. Bulk copies work through another proxy: what a thread wrote, and what it read that
//! they overwrite, comes before them only when a proxy fence stands between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::{FxHashMap as HashMap, FxHashSet as HashSet};

use crate::ptx::ir::{Scope, Source};

/// Bytes of device memory that share a page of shadow.
const GLOBAL_PAGE: u64 = 512;
/// Bytes of shared memory that share a page of shadow.
const SHARED_PAGE: u64 = 256;
/// Pages of device memory are spread over so many locks.
const SHARDS: usize = 64;
/// Bytes that lie under one lock.
const SHARD_STRIDE: u64 = 4096;

/// Clocks by actor: the threads of a cluster by rank and place, then its agents.
type Clocks = Arc<Vec<u32>>;

/// What a thread knows of all clusters.
#[derive(Debug, Default, Clone)]
struct Knowledge {
    /// Of its own cluster.
    own: Clocks,
    /// As far as a proxy fence made it visible to bulk copies.
    proxied: Clocks,
    /// Of other clusters.
    others: World,
    /// What sequentially consistent fences published that come before, by scope: of its own, and of
    /// threads that it met since.
    sequenced: [World; 3],
}

/// Clocks by cluster; in what is released at a location also what the cluster's proxy fences covered.
type World = Option<Arc<HashMap<u32, Clocks>>>;

/// The key of the latter: grids have fewer than 2^31 clusters.
fn proxied_of(cluster: u32) -> u32 {
    !cluster
}

fn at(clocks: &Clocks, actor: u32) -> u32 {
    clocks.get(actor as usize).copied().unwrap_or(0)
}

/// Whether `all` knows whatever `part` knows.
fn includes(all: &[u32], part: &[u32]) -> bool {
    // So many at a time without a branch, for the compiler to compare at once.
    const TOGETHER: usize = 32;
    let (both, rest) = part.split_at(part.len().min(all.len()));
    let later = |(part, all): (&[u32], &[u32])| {
        part.iter().zip(all).fold(false, |later, (part, all)| later | (part > all))
    };
    !both.chunks(TOGETHER).zip(all.chunks(TOGETHER)).any(later)
        && rest.iter().all(|&clock| clock == 0)
}

/// Takes in what `from` knows. Where that is all there is, nothing is copied.
fn join(into: &mut Clocks, from: &Clocks) {
    if Arc::ptr_eq(into, from) || includes(into, from) {
        return;
    }
    if includes(from, into) {
        *into = from.clone();
        return;
    }
    let into = Arc::make_mut(into);
    into.resize(into.len().max(from.len()), 0);
    for (a, b) in into.iter_mut().zip(from.iter()) {
        *a = (*a).max(*b);
    }
}

/// The same of several clusters.
fn is_part(part: &HashMap<u32, Clocks>, all: &HashMap<u32, Clocks>) -> bool {
    let known = |clocks: &Clocks, of: &Clocks| Arc::ptr_eq(clocks, of) || includes(of, clocks);
    part.len() <= all.len()
        && part.iter().all(|(cluster, clocks)| all.get(cluster).is_some_and(|of| known(clocks, of)))
}

fn join_world(into: &mut World, from: &World) {
    match (&mut *into, from) {
        (_, None) => {}
        (None, Some(from)) => *into = Some(from.clone()),
        (Some(own), Some(from)) if Arc::ptr_eq(own, from) => {}
        // One map for both where one of them says it all: the next time they are the same.
        (Some(own), Some(from)) if is_part(own, from) => *own = from.clone(),
        (Some(own), Some(from)) => {
            let own = Arc::make_mut(own);
            for (cluster, clocks) in from.iter() {
                match own.get_mut(cluster) {
                    Some(known) => join(known, clocks),
                    None => {
                        own.insert(*cluster, clocks.clone());
                    }
                }
            }
        }
    }
}

fn join_worlds(into: &mut [World; 3], from: &[World; 3]) {
    for (into, from) in into.iter_mut().zip(from) {
        join_world(into, from);
    }
}

/// An actor is known up to a clock at least.
fn raise(clocks: &mut Clocks, actor: u32, clock: u32) {
    if at(clocks, actor) < clock {
        let clocks = Arc::make_mut(clocks);
        clocks.resize(clocks.len().max(actor as usize + 1), 0);
        clocks[actor as usize] = clock;
    }
}

impl Knowledge {
    /// Takes in a location's releases, which may come from any cluster.
    fn join_released(&mut self, released: &World, own_cluster: u32) {
        let Some(released) = released else { return };
        if let Some(own) = released.get(&own_cluster) {
            join(&mut self.own, own);
        }
        if let Some(proxied) = released.get(&proxied_of(own_cluster)) {
            join(&mut self.proxied, proxied);
        }
        if released.keys().any(|&key| key != own_cluster && key != proxied_of(own_cluster)) {
            let mut foreign = HashMap::clone(released);
            foreign.remove(&own_cluster);
            foreign.remove(&proxied_of(own_cluster));
            join_world(&mut self.others, &Some(Arc::new(foreign)));
        }
    }
}

/// What several threads published, to be taken in by those who wait for them.
#[derive(Debug, Default, Clone)]
pub struct Gathered {
    known: Option<Knowledge>,
    /// Vectors that are part of it already: the threads of a block mostly share one.
    merged: Vec<Clocks>,
}

/// Who accessed a location, when, and where in the code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Event {
    /// Linear index of its cluster.
    pub cluster: u32,
    /// Thread or agent in the cluster; the upper bits say how strong the access was.
    actor: u32,
    /// The actor's clock, 0 for no event.
    clock: u32,
    /// The instruction.
    pub pc: u32,
}

const STRENGTH_SHIFT: u32 = 28;

/// The clock of a thread of which no more is known than that it has begun: it has done nothing yet.
const BEGUN: u32 = 1;

impl Event {
    /// The actor's place among the threads and agents of its cluster.
    pub fn actor(self) -> u32 {
        self.actor & ((1 << STRENGTH_SHIFT) - 1)
    }

    /// 0 for weak, else the scope plus one.
    fn strength(self) -> u32 {
        self.actor >> STRENGTH_SHIFT
    }

    /// Which of two events of one actor a location has to remember: the weaker, if whoever knows one knows
    /// the other.
    fn or_weaker(self, earlier: Self) -> Self {
        let alike = |event: Self| (event.cluster, event.actor(), event.clock);
        let hidden = alike(self) == alike(earlier) && earlier.strength() < self.strength();
        if hidden { earlier } else { self }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    /// The last write, and a strong one before it that its thread did not know of: who comes later has
    /// to know both.
    writes: [Event; 2],
    /// Two readers since the write that are not ordered with each other.
    reads: [Event; 2],
}

/// The cells of a stretch of memory, as fine as its finest access so far.
#[derive(Debug, Default)]
struct Page {
    /// Bytes of a cell, as a power of two.
    log2: u32,
    cells: Vec<Cell>,
}

impl Page {
    /// The cells of an aligned access within the page.
    #[inline]
    fn cells(&mut self, offset: u64, bytes: u64, page_bytes: u64) -> &mut [Cell] {
        let wanted = bytes.trailing_zeros().min(offset.trailing_zeros()).min(4);
        if self.cells.is_empty() || wanted < self.log2 {
            self.refine(wanted, page_bytes);
        }
        &mut self.cells[(offset >> self.log2) as usize..][..(bytes >> self.log2) as usize]
    }

    /// Makes cells of so many bytes, as a power of two.
    #[cold]
    fn refine(&mut self, log2: u32, page_bytes: u64) {
        if self.cells.is_empty() {
            self.cells = vec![Cell::default(); (page_bytes >> log2) as usize];
        } else {
            let parts = 1 << (self.log2 - log2);
            self.cells =
                self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, parts)).collect();
        }
        self.log2 = log2;
    }
}

/// How an access touches a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
}

/// How an asynchronous copy uses shared memory. Bulk copies do so through another proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It reads.
    Read,
    /// It reads, through the asynchronous proxy.
    BulkRead,
    /// It writes.
    Write,
    /// It writes, through the asynchronous proxy.
    BulkWrite,
    /// It adds to what is there, atomically.
    Reduce,
}

impl Claim {
    /// Whether what is there matters.
    pub fn reads(self) -> bool {
        matches!(self, Self::Read | Self::BulkRead | Self::Reduce)
    }

    /// What it goes through.
    fn proxy(self) -> Proxy {
        match self {
            Self::BulkRead | Self::BulkWrite => Proxy::Asynchronous,
            Self::Read | Self::Write | Self::Reduce => Proxy::Generic,
        }
    }

    /// Whether it changes what is there.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::BulkWrite | Self::Reduce)
    }
}

/// What an access goes through: the asynchronous proxy comes after threads' accesses only behind a proxy fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Generic,
    Asynchronous,
}

/// Whose memory a location is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// This cluster's: events of the clusters that had it before count for nothing.
    Shared,
    /// That of all clusters.
    Device,
}

/// Two accesses that nothing orders.
#[derive(Debug, Clone, Copy)]
pub struct Conflict {
    /// The earlier access, in this order of execution.
    pub earlier: Event,
    /// What it did.
    pub touched: Touch,
    /// Whether it is ordered, and only a proxy fence is missing.
    pub proxy: bool,
}

/// Strong accesses to one location: what was released there, by scope and the threads it reaches.
#[derive(Debug, Default)]
pub struct SyncPoint {
    released: Vec<(Scope, u32, World)>,
}

/// Pages of device memory's shadow that share a lock.
#[derive(Debug, Default)]
struct Shard {
    /// Places in `pages`, by number of the page.
    places: HashMap<u64, usize>,
    pages: Vec<Page>,
}

/// The page that was touched last, and its lock. The lanes of an instruction mostly touch one or two, which are
/// then looked for and locked once.
#[derive(Debug)]
pub struct HeldPage<'s> {
    number: u64,
    place: usize,
    shard: MutexGuard<'s, Shard>,
}

/// Shadow of device memory during one launch, shared by all workers.
#[derive(Debug)]
pub struct GlobalShadow {
    shards: Vec<Mutex<Shard>>,
    /// By address.
    sync: Mutex<HashMap<u64, SyncPoint>>,
    /// The launch's kernel, to name it.
    pub kernel: String,
    /// Where its instructions come from.
    pub source: Source,
}

impl GlobalShadow {
    /// Of a launch of this kernel.
    pub fn new(kernel: &str, source: &Source) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            sync: Mutex::default(),
            kernel: kernel.into(),
            source: source.clone(),
        }
    }

    fn shard(&self, address: u64) -> MutexGuard<'_, Shard> {
        let shard = (address / SHARD_STRIDE) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of an address, to be held until another one is asked for.
    fn page<'s, 'h>(&'s self, held: &'h mut Option<HeldPage<'s>>, address: u64) -> &'h mut Page {
        let number = address / GLOBAL_PAGE;
        if held.as_ref().is_some_and(|held| held.number != number) {
            // Before the next lock: two workers never wait for each other.
            *held = None;
        }
        let held = held.get_or_insert_with(|| {
            let mut shard = self.shard(address);
            let Shard { places, pages } = &mut *shard;
            let place = *places.entry(number).or_insert_with(|| {
                pages.push(Page::default());
                pages.len() - 1
            });
            HeldPage { number, place, shard }
        });
        &mut held.shard.pages[held.place]
    }

    /// Strong accesses and what they order happen as one, under this lock.
    pub fn sync(&self) -> MutexGuard<'_, HashMap<u64, SyncPoint>> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who last touched bytes in a way that an access of this kind meets, for a launch that follows.
    fn last(&self, address: u64, bytes: u64, touch: Touch) -> Option<(Event, Touch)> {
        let mut start = address;
        while start < address + bytes {
            let end = (address + bytes).min((start / GLOBAL_PAGE + 1) * GLOBAL_PAGE);
            let Shard { places, pages } = &mut *self.shard(start);
            if let Some(&place) = places.get(&(start / GLOBAL_PAGE)) {
                let page = &mut pages[place];
                let cells = page.cells(start % GLOBAL_PAGE, end - start, GLOBAL_PAGE);
                let found = cells.iter().find_map(|cell| match touch {
                    _ if cell.writes[0].clock > 0 => Some((cell.writes[0], Touch::Write)),
                    Touch::Write if cell.reads[0].clock > 0 => Some((cell.reads[0], Touch::Read)),
                    _ => None,
                });
                if found.is_some() {
                    return found;
                }
            }
            start = end;
        }
        None
    }
}

/// An actor that is no thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Agent {
    /// The bulk copies that complete on an mbarrier, by rank and offset.
    Mbarrier(u32, u64),
    /// What a thread's `cp.async` do.
    Copies(u32),
    /// What a thread's bulk copies read.
    BulkReads(u32),
    /// What a thread's bulk copies write.
    BulkWrites(u32),
    /// A thread, as far as it initialises mbarriers: a fence of their own publishes that.
    Initialisations(u32),
    /// The launch before this one.
    Predecessor,
}

#[derive(Debug)]
struct ThreadState {
    knows: Knowledge,
    /// Its clock now.
    clock: u32,
    /// What its last fence published, by scope.
    fenced: [World; 3],
    /// What its relaxed reads met, by scope: an acquire fence will take it in.
    pending: [World; 3],
}

/// The races of the cluster that a worker runs.
#[derive(Debug)]
pub struct Races<'l> {
    global: &'l GlobalShadow,
    predecessor: Option<&'l GlobalShadow>,
    cluster: u32,
    threads_per_block: u32,
    threads: Vec<ThreadState>,
    agents: HashMap<Agent, u32>,
    named: Vec<Agent>,
    /// By rank, then by page.
    shared: Vec<Vec<Page>>,
    shared_sync: HashMap<(u32, u64), SyncPoint>,
    /// The last two vectors that were joined, and what came of it.
    memo: Option<(Clocks, Clocks, Clocks)>,
    /// Clocks of accesses to the shared memory of other blocks, by rank of the owner.
    visits: Vec<HashMap<u32, Event>>,
    /// Device memory where this cluster released something.
    released_at: HashSet<u64>,
}

impl<'l> Races<'l> {
    /// For clusters of so many blocks of so many threads and shared bytes.
    pub fn new(
        global: &'l GlobalShadow,
        predecessor: Option<&'l GlobalShadow>,
        blocks: u32,
        threads_per_block: u32,
        shared_bytes: u64,
    ) -> Self {
        let pages = shared_bytes.div_ceil(SHARED_PAGE) as usize;
        let shared = || (0..pages).map(|_| Page::default()).collect();
        Self {
            global,
            predecessor,
            cluster: 0,
            threads_per_block,
            threads: Vec::new(),
            agents: HashMap::default(),
            named: Vec::new(),
            shared: (0..blocks).map(|_| shared()).collect(),
            shared_sync: HashMap::default(),
            memo: None,
            visits: (0..blocks).map(|_| HashMap::default()).collect(),
            released_at: HashSet::default(),
        }
    }

    /// A cluster begins: nobody knows anything. Shadows of shared memory stay: events of another
    /// cluster count for nothing there.
    pub fn begin(&mut self, cluster: u32) {
        self.forget_own_releases();
        self.cluster = cluster;
        let nothing = Knowledge::default();
        let count = self.shared.len() * self.threads_per_block as usize;
        self.threads.clear();
        self.threads.extend((0..count).map(|_| ThreadState {
            knows: nothing.clone(),
            clock: BEGUN + 1,
            fenced: [None, None, None],
            pending: [None, None, None],
        }));
        self.agents.clear();
        self.named.clear();
        self.shared_sync.clear();
        self.memo = None;
        self.visits.iter_mut().for_each(HashMap::clear);
    }

    /// The cluster has ended: nobody can take in any more what it released to itself alone.
    fn forget_own_releases(&mut self) {
        if self.released_at.is_empty() {
            return;
        }
        let blocks = self.shared.len() as u32;
        let mut points = self.global.sync();
        for address in self.released_at.drain() {
            let Some(point) = points.get_mut(&address) else { continue };
            point.released.retain(|(scope, domain, _)| match scope {
                Scope::Block => domain / blocks != self.cluster,
                Scope::Cluster => *domain != self.cluster,
                Scope::Device => true,
            });
        }
    }

    fn agent(&mut self, agent: Agent) -> u32 {
        let next = self.threads.len() as u32 + self.named.len() as u32;
        let named = &mut self.named;
        *self.agents.entry(agent).or_insert_with(|| {
            named.push(agent);
            next
        })
    }

    /// The agent that an actor is, if it is no thread.
    pub fn agent_of(&self, actor: u32) -> Option<Agent> {
        let place = (actor as usize).checked_sub(self.threads.len())?;
        self.named.get(place).copied()
    }

    #[inline]
    fn knows(&self, thread: u32, event: Event) -> bool {
        let knowledge = &self.threads[thread as usize].knows;
        if event.cluster == self.cluster {
            at(&knowledge.own, event.actor()) >= event.clock
        } else {
            let clocks = knowledge.others.as_ref().and_then(|world| world.get(&event.cluster));
            clocks.is_some_and(|clocks| at(clocks, event.actor()) >= event.clock)
        }
    }

    /// Whether two strong accesses reach each other.
    fn both_strong(&self, event: Event, now: Event) -> bool {
        let scope = event.strength().min(now.strength());
        let threads = self.threads_per_block;
        match scope {
            0 => false,
            1 => event.cluster == now.cluster && event.actor() / threads == now.actor() / threads,
            2 => event.cluster == now.cluster,
            _ => true,
        }
    }

    /// Records an access to cells by `thread` as the actor of `now`.
    fn touch(
        &self,
        cells: &mut [Cell],
        thread: u32,
        now: Event,
        touch: Touch,
        proxy: Proxy,
        memory: Memory,
    ) -> Result<(), Conflict> {
        let is_own = |event: &Event| {
            event.cluster == self.cluster && [thread, now.actor()].contains(&event.actor())
        };
        let mut rest = cells;
        while let [cell, others @ ..] = rest {
            let before = *cell;
            if memory == Memory::Shared && cell.writes[0].cluster != self.cluster {
                cell.writes = [Event::default(); 2];
            }
            if memory == Memory::Shared && cell.reads[0].cluster != self.cluster {
                cell.reads = [Event::default(); 2];
            }
            self.check(cell.writes[0], now, thread, Touch::Write, proxy)?;
            self.check(cell.writes[1], now, thread, Touch::Write, proxy)?;
            match touch {
                Touch::Write => {
                    self.check(cell.reads[0], now, thread, Touch::Read, proxy)?;
                    self.check(cell.reads[1], now, thread, Touch::Read, proxy)?;
                    let mut writes = [now.or_weaker(cell.writes[0]), Event::default()];
                    if now.strength() > 0 {
                        let unknown = |event: &Event| {
                            event.clock > 0 && !is_own(event) && !self.knows(thread, *event)
                        };
                        writes[1] = cell.writes.into_iter().find(unknown).unwrap_or_default();
                    }
                    *cell = Cell { writes, reads: [Event::default(); 2] };
                }
                Touch::Read => {
                    let first = cell.reads[0];
                    let same = first.actor() == now.actor() && first.cluster == now.cluster;
                    if first.clock == 0 || same || self.knows(thread, first) {
                        cell.reads[0] = now.or_weaker(first);
                    } else {
                        cell.reads[1] = now;
                    }
                }
            }
            // Cells of one access mostly look alike.
            let alike = others.iter().take_while(|other| **other == before).count();
            let (alike, unlike) = others.split_at_mut(alike);
            alike.fill(*cell);
            rest = unlike;
        }
        Ok(())
    }

    #[inline(always)]
    fn check(
        &self,
        event: Event,
        now: Event,
        thread: u32,
        touched: Touch,
        proxy: Proxy,
    ) -> Result<(), Conflict> {
        if event.clock == 0 {
            return Ok(());
        }
        let by_thread =
            || matches!(self.agent_of(event.actor()), None | Some(Agent::Initialisations(_)));
        if proxy == Proxy::Asynchronous && event.cluster == self.cluster && by_thread() {
            // Only what a proxy fence made visible is seen, even if the thread itself wrote it.
            let state = &self.threads[thread as usize];
            if at(&state.knows.proxied, event.actor()) < event.clock {
                let own = event.actor() == thread;
                let ordered = own || self.knows(thread, event);
                return Err(Conflict { earlier: event, touched, proxy: ordered });
            }
            return Ok(());
        }
        if event.actor() == now.actor() && event.cluster == now.cluster
            || event.actor() == thread && event.cluster == self.cluster
            || self.both_strong(event, now)
            || self.knows(thread, event)
        {
            Ok(())
        } else {
            Err(Conflict { earlier: event, touched, proxy: false })
        }
    }

    fn event(&self, thread: u32, strength: Option<Scope>, pc: u32) -> Event {
        let strength = strength.map_or(0, |scope| scope as u32 + 1);
        Event {
            cluster: self.cluster,
            actor: thread | strength << STRENGTH_SHIFT,
            clock: self.threads[thread as usize].clock,
            pc,
        }
    }

    /// A thread's access to the shared memory of the block of this rank.
    pub fn touch_shared(
        &mut self,
        (rank, offset, bytes): (u32, u64, u64),
        thread: u32,
        touch: Touch,
        strength: Option<Scope>,
        pc: u32,
    ) -> Result<(), Conflict> {
        let now = self.event(thread, strength, pc);
        if thread / self.threads_per_block != rank {
            self.visits[rank as usize].insert(thread, now);
        }
        self.touch_shared_as((rank, offset, bytes), thread, now, touch, Proxy::Generic)
    }

    fn touch_shared_as(
        &mut self,
        (rank, offset, bytes): (u32, u64, u64),
        thread: u32,
        now: Event,
        touch: Touch,
        proxy: Proxy,
    ) -> Result<(), Conflict> {
        let mut pages = std::mem::take(&mut self.shared[rank as usize]);
        let mut result = Ok(());
        let mut at = offset;
        while at < offset + bytes && result.is_ok() {
            let end = (offset + bytes).min((at / SHARED_PAGE + 1) * SHARED_PAGE);
            let page = &mut pages[(at / SHARED_PAGE) as usize];
            let cells = page.cells(at % SHARED_PAGE, end - at, SHARED_PAGE);
            result = self.touch(cells, thread, now, touch, proxy, Memory::Shared);
            at = end;
        }
        self.shared[rank as usize] = pages;
        result
    }

    /// A thread's access to device memory.
    #[inline]
    pub fn touch_global(
        &self,
        held: &mut Option<HeldPage<'l>>,
        (address, bytes): (u64, u64),
        thread: u32,
        touch: Touch,
        strength: Option<Scope>,
        pc: u32,
    ) -> Result<(), Conflict> {
        let now = self.event(thread, strength, pc);
        self.touch_global_as(held, (address, bytes), thread, now, touch)
    }

    #[inline]
    fn touch_global_as(
        &self,
        held: &mut Option<HeldPage<'l>>,
        (address, bytes): (u64, u64),
        thread: u32,
        now: Event,
        touch: Touch,
    ) -> Result<(), Conflict> {
        let mut start = address;
        while start < address + bytes {
            let end = (address + bytes).min((start / GLOBAL_PAGE + 1) * GLOBAL_PAGE);
            let page = self.global.page(held, start);
            let cells = page.cells(start % GLOBAL_PAGE, end - start, GLOBAL_PAGE);
            self.touch(cells, thread, now, touch, Proxy::Generic, Memory::Device)?;
            start = end;
        }
        Ok(())
    }

    /// What the launch before this one did to bytes that a thread touches before it waited for it.
    #[inline]
    pub fn predecessor(
        &mut self,
        address: u64,
        bytes: u64,
        thread: u32,
        touch: Touch,
    ) -> Option<(&'l GlobalShadow, Event, Touch)> {
        let before = self.predecessor?;
        let agent = self.agent(Agent::Predecessor);
        if at(&self.threads[thread as usize].knows.own, agent) > 0 {
            return None;
        }
        let (event, touched) = before.last(address, bytes, touch)?;
        Some((before, event, touched))
    }

    /// Threads have waited for the launch before this one, if they may have begun before its end.
    pub fn wait_for_predecessor(&mut self, threads: impl Iterator<Item = u32>) {
        if self.predecessor.is_none() {
            return;
        }
        let agent = self.agent(Agent::Predecessor);
        // Threads that knew the same still share what they know.
        let mut last: Option<(Clocks, Clocks)> = None;
        for thread in threads {
            let own = &mut self.threads[thread as usize].knows.own;
            match &last {
                Some((before, after)) if Arc::ptr_eq(before, own) => *own = after.clone(),
                _ => {
                    let before = own.clone();
                    raise(own, agent, 1);
                    last = Some((before, own.clone()));
                }
            }
        }
    }

    fn learn(&mut self, thread: u32, actor: u32, clock: u32) {
        raise(&mut self.threads[thread as usize].knows.own, actor, clock);
    }

    /// Threads publish what they did and know.
    pub fn release(&mut self, into: &mut Gathered, threads: impl Iterator<Item = u32>) {
        for thread in threads {
            let state = &mut self.threads[thread as usize];
            match &mut into.known {
                None => {
                    into.known = Some(state.knows.clone());
                    into.merged.push(state.knows.own.clone());
                }
                Some(known) => {
                    if !into.merged.iter().any(|merged| Arc::ptr_eq(merged, &state.knows.own)) {
                        join(&mut known.own, &state.knows.own);
                        into.merged.push(state.knows.own.clone());
                    }
                    join(&mut known.proxied, &state.knows.proxied);
                    join_world(&mut known.others, &state.knows.others);
                    join_worlds(&mut known.sequenced, &state.knows.sequenced);
                }
            }
            if let Some(known) = &mut into.known {
                let own = Arc::make_mut(&mut known.own);
                own.resize(own.len().max(thread as usize + 1), 0);
                own[thread as usize] = own[thread as usize].max(state.clock);
            }
            state.clock += 1;
        }
    }

    /// What an agent did up to a clock becomes part of what is published.
    pub fn release_agent(&mut self, into: &mut Gathered, agent: Agent, clock: u32) {
        let actor = self.agent(agent);
        raise(&mut into.known.get_or_insert_default().own, actor, clock);
    }

    /// A thread arrives and publishes nothing but that it has begun, and what its fences published.
    pub fn arrive_relaxed(&mut self, into: &mut Gathered, thread: u32) {
        let initialisations = self.agents.get(&Agent::Initialisations(thread));
        let state = &self.threads[thread as usize];
        let known = into.known.get_or_insert_default();
        raise(&mut known.own, thread, BEGUN);
        if let Some(&actor) = initialisations {
            let clock = at(&state.knows.proxied, actor);
            raise(&mut known.own, actor, clock);
            raise(&mut known.proxied, actor, clock);
        }
        known.join_released(&state.fenced[Scope::Cluster as usize], self.cluster);
    }

    /// A thread has initialised an mbarrier, which was its last access there.
    pub fn initialised(
        &mut self,
        place: (u32, u64, u64),
        thread: u32,
        pc: u32,
    ) -> Result<(), Conflict> {
        let actor = self.agent(Agent::Initialisations(thread));
        let clock = self.threads[thread as usize].clock;
        self.learn(thread, actor, clock);
        let now = Event { cluster: self.cluster, actor, clock, pc };
        self.touch_shared_as(place, thread, now, Touch::Write, Proxy::Generic)
    }

    /// The mbarriers that a thread has initialised become visible to bulk copies, and to threads that
    /// wait for its relaxed arrival at the cluster's barrier. Nothing else does.
    pub fn fence_initialisations(&mut self, thread: u32) {
        if let Some(&actor) = self.agents.get(&Agent::Initialisations(thread)) {
            let Knowledge { own, proxied, .. } = &mut self.threads[thread as usize].knows;
            raise(proxied, actor, at(own, actor));
        }
    }

    /// A thread takes in what was published.
    pub fn acquire(&mut self, from: &Gathered, thread: u32) {
        let Some(known) = &from.known else { return };
        let state = &mut self.threads[thread as usize];
        // The lanes of a warp mostly know the same.
        match &self.memo {
            Some((a, b, joined))
                if Arc::ptr_eq(a, &state.knows.own) && Arc::ptr_eq(b, &known.own) =>
            {
                state.knows.own = joined.clone();
            }
            _ => {
                let before = state.knows.own.clone();
                join(&mut state.knows.own, &known.own);
                self.memo = Some((before, known.own.clone(), state.knows.own.clone()));
            }
        }
        join(&mut state.knows.proxied, &known.proxied);
        join_world(&mut state.knows.others, &known.others);
        join_worlds(&mut state.knows.sequenced, &known.sequenced);
    }

    /// Threads that meet: each knows afterwards what all did before.
    pub fn meet(&mut self, threads: impl Iterator<Item = u32> + Clone) {
        let mut gathered = Gathered::default();
        self.release(&mut gathered, threads.clone());
        for thread in threads {
            self.acquire(&gathered, thread);
        }
    }

    /// What a thread knows, itself included.
    fn all_of(&mut self, thread: u32) -> Knowledge {
        let state = &self.threads[thread as usize];
        let mut all = state.knows.clone();
        let own = Arc::make_mut(&mut all.own);
        own.resize(own.len().max(thread as usize + 1), 0);
        own[thread as usize] = state.clock;
        all
    }

    /// The same, as others take it in.
    fn published_by(&mut self, thread: u32) -> World {
        let all = self.all_of(thread);
        let mut world = all.others.as_deref().cloned().unwrap_or_default();
        world.insert(self.cluster, all.own);
        if !all.proxied.is_empty() {
            world.insert(proxied_of(self.cluster), all.proxied);
        }
        Some(Arc::new(world))
    }

    /// A fence of a thread: it takes in what its relaxed reads met, and what it did so far is published
    /// by its later strong writes.
    pub fn fence(&mut self, thread: u32, scope: Scope) {
        let cluster = self.cluster;
        for reach in 0..=scope as usize {
            let state = &mut self.threads[thread as usize];
            let pending = state.pending[reach].take();
            state.knows.join_released(&pending, cluster);
        }
        let all = self.published_by(thread);
        let state = &mut self.threads[thread as usize];
        for reach in 0..=scope as usize {
            state.fenced[reach] = all.clone();
        }
        state.clock += 1;
    }

    /// The same by a fence that stands in one order with all others of its kind. So it covers not only
    /// this thread's later strong writes, but also those of threads that meet it at a barrier: whoever
    /// reads one of these and fences cannot have fenced before.
    pub fn sequential_fence(&mut self, thread: u32, scope: Scope) {
        self.fence(thread, scope);
        let state = &mut self.threads[thread as usize];
        for reach in 0..=scope as usize {
            state.knows.sequenced[reach] = state.fenced[reach].clone();
        }
    }

    /// What a thread knows so far becomes visible to bulk copies.
    pub fn proxy_fence(&mut self, thread: u32) {
        let all = self.all_of(thread);
        let state = &mut self.threads[thread as usize];
        join(&mut state.knows.proxied, &all.own);
        state.clock += 1;
    }

    /// The threads that a scope reaches from a thread: the number of its block or cluster.
    fn domain(&self, thread: u32, scope: Scope) -> u32 {
        match scope {
            Scope::Block => {
                let blocks = self.shared.len() as u32;
                self.cluster.wrapping_mul(blocks) + thread / self.threads_per_block
            }
            Scope::Cluster => self.cluster,
            Scope::Device => 0,
        }
    }

    /// A strong access of a thread to a synchronising location: first as a reader of what was released
    /// there, then as a writer.
    pub fn synchronise(&mut self, point: &mut SyncPoint, thread: u32, access: Strong) {
        const SCOPES: [Scope; 3] = [Scope::Block, Scope::Cluster, Scope::Device];
        let scopes = &SCOPES[..=access.scope as usize];
        if access.reads {
            for &scope in scopes {
                let domain = self.domain(thread, scope);
                let found = point.released.iter().find(|(s, d, _)| *s == scope && *d == domain);
                let Some((_, _, released)) = found else { continue };
                let state = &mut self.threads[thread as usize];
                if access.acquire {
                    state.knows.join_released(released, self.cluster);
                } else {
                    join_world(&mut state.pending[scope as usize], released);
                }
            }
        }
        if access.writes {
            // A plain store ends what others released there; a read-modify-write goes on with it.
            if !access.reads {
                point.released.clear();
            }
            let all = if access.release { self.published_by(thread) } else { None };
            for &scope in scopes {
                let state = &self.threads[thread as usize];
                let mut world = all.clone();
                if world.is_none() {
                    world = state.fenced[scope as usize].clone();
                    join_world(&mut world, &state.knows.sequenced[scope as usize]);
                }
                if world.is_none() {
                    continue;
                }
                let domain = self.domain(thread, scope);
                let entry = point.released.iter_mut().find(|(s, d, _)| *s == scope && *d == domain);
                match entry {
                    Some((_, _, released)) => join_world(released, &world),
                    None => point.released.push((scope, domain, world)),
                }
            }
            if access.release {
                self.threads[thread as usize].clock += 1;
            }
        }
    }

    /// As [`Self::synchronise`], on shared memory.
    pub fn synchronise_shared(&mut self, place: (u32, u64), thread: u32, access: Strong) {
        let mut point = self.shared_sync.remove(&place).unwrap_or_default();
        self.synchronise(&mut point, thread, access);
        self.shared_sync.insert(place, point);
    }

    /// As [`Self::synchronise`], on device memory, whose points are locked by the caller.
    pub fn synchronise_global(
        &mut self,
        points: &mut HashMap<u64, SyncPoint>,
        address: u64,
        thread: u32,
        access: Strong,
    ) {
        let point = points.entry(address).or_default();
        self.synchronise(point, thread, access);
        if access.writes && !point.released.is_empty() {
            self.released_at.insert(address);
        }
    }

    /// Device memory's shadow.
    pub fn global(&self) -> &'l GlobalShadow {
        self.global
    }

    /// An asynchronous copy that a thread starts uses shared memory.
    pub fn copy_shared(
        &mut self,
        place: (u32, u64, u64),
        thread: u32,
        by: (Agent, u32),
        claim: Claim,
        pc: u32,
    ) -> Result<(), Conflict> {
        let mut now = self.agent_event(by, pc);
        if claim == Claim::Reduce {
            now.actor |= (Scope::Cluster as u32 + 1) << STRENGTH_SHIFT;
        }
        let touch = if claim.writes() { Touch::Write } else { Touch::Read };
        self.touch_shared_as(place, thread, now, touch, claim.proxy())
    }

    /// An asynchronous copy that a thread starts reads or writes device memory.
    pub fn copy_global(
        &mut self,
        address: u64,
        bytes: u64,
        thread: u32,
        by: (Agent, u32),
        touch: Touch,
        pc: u32,
    ) -> Result<(), Conflict> {
        let now = self.agent_event(by, pc);
        self.touch_global_as(&mut None, (address, bytes), thread, now, touch)
    }

    fn agent_event(&mut self, (agent, clock): (Agent, u32), pc: u32) -> Event {
        Event { cluster: self.cluster, actor: self.agent(agent), clock, pc }
    }

    /// A thread has waited for what an agent did up to a clock.
    pub fn wait_for_agent(&mut self, thread: u32, agent: Agent, clock: u32) {
        let actor = self.agent(agent);
        self.learn(thread, actor, clock);
    }

    /// A visit of a peer to a block's shared memory that the block's threads do not know of when the
    /// block ends.
    pub fn unknown_visit(&mut self, rank: u32) -> Option<Event> {
        let first = rank * self.threads_per_block;
        let visits = std::mem::take(&mut self.visits[rank as usize]);
        visits
            .into_values()
            .find(|event| !(first..first + self.threads_per_block).any(|t| self.knows(t, *event)))
    }

    /// Whether a thread knows that a block of its cluster has begun.
    pub fn knows_block(&self, thread: u32, rank: u32) -> bool {
        let own = &self.threads[thread as usize].knows.own;
        let first = rank * self.threads_per_block;
        thread / self.threads_per_block == rank
            || (first..first + self.threads_per_block).any(|other| at(own, other) > 0)
    }
}

/// A strong access.
#[derive(Debug, Clone, Copy)]
pub struct Strong {
    /// How far it reaches.
    pub scope: Scope,
    /// Whether it reads the location.
    pub reads: bool,
    /// Whether it writes the location.
    pub writes: bool,
    /// Whether what it reads is ordered before what follows.
    pub acquire: bool,
    /// Whether what came before is ordered before who reads it.
    pub release: bool,
}
