//! Names for results: what a task reads, and what a run gives.

use crate::results::Results;
use manyhands_graph::TaskIndex;
use std::fmt;
use std::marker::PhantomData;

/// Stands for the result of a task that has not run: name it as input of further tasks, or as what
/// [`Graph::run`](crate::Graph::run) is to give.
pub struct Handle<T> {
    pub(crate) graph: u64,
    pub(crate) index: TaskIndex,
    pub(crate) result: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.index.0)
    }
}

/// A [`Handle`], or a shape of handles: an array, a [`Vec`], a tuple of up to eight, and these nested.
///
/// A task that reads such a shape gets the same shape of references. A run that gives such a shape
/// gives the same shape of values.
///
/// | handles | a task reads | a run gives |
/// |---|---|---|
/// | `Handle<T>` | `&T` | `T` |
/// | `(Handle<T>, Handle<U>)` | `(&T, &U)` | `(T, U)` |
/// | `Vec<Handle<T>>` | `Vec<&T>` | `Vec<T>` |
/// | `[Handle<T>; 2]` | `[&T; 2]` | `[T; 2]` |
pub trait Handles: Send + 'static + sealed::Sealed {
    /// What a task reads.
    type Refs<'a>;
    /// What a run gives.
    type Values;
    /// Keeps the results alive while a task reads them.
    #[doc(hidden)]
    type Held;
    #[doc(hidden)]
    fn each(&self, visit: &mut dyn FnMut(u64, TaskIndex));
    #[doc(hidden)]
    fn hold(&self, results: &Results) -> Self::Held;
    #[doc(hidden)]
    fn lend(held: &Self::Held) -> Self::Refs<'_>;
    #[doc(hidden)]
    fn take(&self, results: &Results) -> Self::Values;
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for super::Handle<T> {}
    impl<H> Sealed for Vec<H> {}
    impl<H, const N: usize> Sealed for [H; N] {}
}

impl<T: Send + Sync + 'static> Handles for Handle<T> {
    type Refs<'a> = &'a T;
    type Values = T;
    type Held = std::sync::Arc<T>;

    fn each(&self, visit: &mut dyn FnMut(u64, TaskIndex)) {
        visit(self.graph, self.index);
    }

    fn hold(&self, results: &Results) -> Self::Held {
        results.hold(self.index)
    }

    fn lend(held: &Self::Held) -> &T {
        held
    }

    fn take(&self, results: &Results) -> T {
        results.take(self.index)
    }
}

impl<H: Handles> Handles for Vec<H> {
    type Refs<'a> = Vec<H::Refs<'a>>;
    type Values = Vec<H::Values>;
    type Held = Vec<H::Held>;

    fn each(&self, visit: &mut dyn FnMut(u64, TaskIndex)) {
        for handle in self {
            handle.each(visit);
        }
    }

    fn hold(&self, results: &Results) -> Self::Held {
        self.iter().map(|handle| handle.hold(results)).collect()
    }

    fn lend(held: &Self::Held) -> Self::Refs<'_> {
        held.iter().map(H::lend).collect()
    }

    fn take(&self, results: &Results) -> Self::Values {
        self.iter().map(|handle| handle.take(results)).collect()
    }
}

impl<H: Handles, const N: usize> Handles for [H; N] {
    type Refs<'a> = [H::Refs<'a>; N];
    type Values = [H::Values; N];
    type Held = [H::Held; N];

    fn each(&self, visit: &mut dyn FnMut(u64, TaskIndex)) {
        for handle in self {
            handle.each(visit);
        }
    }

    fn hold(&self, results: &Results) -> Self::Held {
        self.each_ref().map(|handle| handle.hold(results))
    }

    fn lend(held: &Self::Held) -> Self::Refs<'_> {
        held.each_ref().map(H::lend)
    }

    fn take(&self, results: &Results) -> Self::Values {
        self.each_ref().map(|handle| handle.take(results))
    }
}

macro_rules! impl_handles_for_tuples {
    ($(($($H:ident $at:tt),*);)*) => {$(
        impl<$($H),*> sealed::Sealed for ($($H,)*) {}

        impl<$($H: Handles),*> Handles for ($($H,)*) {
            type Refs<'a> = ($($H::Refs<'a>,)*);
            type Values = ($($H::Values,)*);
            type Held = ($($H::Held,)*);

            fn each(&self, visit: &mut dyn FnMut(u64, TaskIndex)) {
                $(self.$at.each(visit);)*
            }

            fn hold(&self, results: &Results) -> Self::Held {
                ($(self.$at.hold(results),)*)
            }

            fn lend(held: &Self::Held) -> Self::Refs<'_> {
                ($($H::lend(&held.$at),)*)
            }

            fn take(&self, results: &Results) -> Self::Values {
                ($(self.$at.take(results),)*)
            }
        }
    )*};
}

impl_handles_for_tuples! {
    (A 0);
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
    (A 0, B 1, C 2, D 3, E 4);
    (A 0, B 1, C 2, D 3, E 4, F 5);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6);
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
}
