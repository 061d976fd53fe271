//! Plans for one device, of which the last few are remembered: a training loop asks for the same ones.

use std::sync::{Mutex, PoisonError};

use super::{
    DeviceProperties, Plan, RowsPlan, Selection, choose, choose_binary, choose_log_softmax,
};
use crate::{
    error::Error,
    problem::{BinaryProblem, LogSoftmaxProblem, Pass, Problem},
};

/// Plans for one device. May be shared between threads.
#[derive(Debug)]
pub struct Planner {
    properties: DeviceProperties,
    losses: Recent<(Selection, Problem), Plan>,
    log_softmaxes: Recent<(Selection, LogSoftmaxProblem, Pass), Option<RowsPlan>>,
    binaries: Recent<(Selection, BinaryProblem), Plan>,
}

impl Planner {
    /// Remembers nothing yet.
    pub fn new(properties: DeviceProperties) -> Self {
        let (losses, log_softmaxes, binaries) = (Recent::new(), Recent::new(), Recent::new());
        Self { properties, losses, log_softmaxes, binaries }
    }

    /// The device.
    pub fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    /// [`choose`], or what it gave before.
    ///
    /// # Errors
    /// Those of [`choose`].
    pub fn loss(&self, problem: &Problem, selection: Selection) -> Result<Plan, Error> {
        self.losses
            .get_or_make(&(selection, *problem), || choose(problem, &self.properties, selection))
    }

    /// [`choose_log_softmax`], or what it gave before.
    ///
    /// # Errors
    /// Those of [`choose_log_softmax`].
    pub fn log_softmax(
        &self,
        problem: &LogSoftmaxProblem,
        pass: Pass,
        selection: Selection,
    ) -> Result<Option<RowsPlan>, Error> {
        self.log_softmaxes.get_or_make(&(selection, *problem, pass), || {
            choose_log_softmax(problem, pass, &self.properties, selection)
        })
    }

    /// [`choose_binary`], or what it gave before.
    ///
    /// # Errors
    /// Those of [`choose_binary`].
    pub fn binary(&self, problem: &BinaryProblem, selection: Selection) -> Result<Plan, Error> {
        self.binaries.get_or_make(&(selection, *problem), || {
            choose_binary(problem, &self.properties, selection)
        })
    }
}

/// More than the losses of a training step and its evaluation; few enough to be looked through.
const REMEMBERED: usize = 8;

/// The last few answers; the oldest gives way.
#[derive(Debug)]
struct Recent<K, V> {
    entries: Mutex<Entries<K, V>>,
}

#[derive(Debug)]
struct Entries<K, V> {
    all: [Option<(K, V)>; REMEMBERED],
    /// Where the next one goes.
    next: usize,
}

impl<K: Copy + PartialEq, V: Copy> Recent<K, V> {
    fn new() -> Self {
        Self { entries: Mutex::new(Entries { all: [None; REMEMBERED], next: 0 }) }
    }

    fn get_or_make(&self, key: &K, make: impl FnOnce() -> Result<V, Error>) -> Result<V, Error> {
        // A panic elsewhere leaves whole entries.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = entries.all.iter().flatten().find(|(known, _)| known == key) {
            return Ok(*value);
        }
        let value = make()?;
        let next = entries.next;
        entries.all[next] = Some((*key, value));
        entries.next = (next + 1) % REMEMBERED;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, thread};

    use super::*;
    use crate::config::Strategy;

    #[test]
    fn the_last_few_are_not_made_again() {
        let recent = Recent::new();
        let made = Cell::new(0);
        let get = |key: usize| {
            let make = || {
                made.set(made.get() + 1);
                Ok(10 * key)
            };
            assert_eq!(recent.get_or_make(&key, make), Ok(10 * key));
            made.get()
        };
        assert_eq!((get(0), get(0)), (1, 1));
        for key in 1..REMEMBERED {
            assert_eq!(get(key), key + 1);
        }
        assert_eq!(get(0), REMEMBERED);
        // The oldest gives way, and no other.
        assert_eq!(get(REMEMBERED), REMEMBERED + 1);
        assert_eq!(get(1), REMEMBERED + 1);
        assert_eq!(get(0), REMEMBERED + 2);
    }

    #[test]
    fn errors_are_not_remembered() {
        let recent = Recent::<_, u8>::new();
        assert_eq!(recent.get_or_make(&1, || Err(Error::NoDevice)), Err(Error::NoDevice));
        assert_eq!(recent.get_or_make(&1, || Ok(2)), Ok(2));
    }

    #[test]
    fn what_is_remembered_is_what_was_chosen() {
        use crate::{
            config::BinaryConfig,
            plan::devices::H100,
            problem::{ClassWeighting, Dtype, LogSoftmaxShape, Place, Shape, TargetType, Types},
        };
        let (dtype, planner) = (Dtype::F16, Planner::new(H100.properties));
        let log_softmax =
            LogSoftmaxProblem::new(dtype, LogSoftmaxShape::contiguous(64, 1000)).unwrap();
        let types =
            Types { dtype, targets: TargetType::I64, class_weights: ClassWeighting::Absent };
        let (shape, config) = (Shape::contiguous(64, 1000), BinaryConfig::default());
        let binary = BinaryProblem::new(types, shape, config, Pass::Fused, Place::Apart).unwrap();
        for selection in [Selection::Fastest, Selection::Preferred(Strategy::Block)] {
            for pass in [Pass::Forward, Pass::Backward, Pass::Forward] {
                let chosen = choose_log_softmax(&log_softmax, pass, &H100.properties, selection);
                assert!(matches!(chosen, Ok(Some(_))));
                assert_eq!(planner.log_softmax(&log_softmax, pass, selection), chosen);
            }
            let chosen = choose_binary(&binary, &H100.properties, selection);
            assert!(chosen.is_ok());
            assert_eq!(planner.binary(&binary, selection), chosen);
        }
    }

    #[test]
    fn threads_share_what_is_remembered() {
        use crate::plan::{devices::H100, tests::problem};
        let planner = Planner::new(H100.properties);
        let (problem, pinned) = (problem(64, 1000), Selection::Pinned(Strategy::Cluster));
        let expected = choose(&problem, &H100.properties, pinned);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        assert_eq!(planner.loss(&problem, pinned), expected);
                        assert_ne!(planner.loss(&problem, Selection::Fastest), expected);
                    }
                });
            }
        });
        let entries = planner.losses.entries.lock().unwrap();
        assert_eq!(entries.all.iter().flatten().count(), 2);
    }
}
