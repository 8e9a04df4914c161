//! Maps whose calls draw random numbers: each call has a stream of its own.

use crate::engine::KindKey;
use crate::error::{BoxError, Error, Mishap};
use crate::options::Options;
use manyhands_random::{Pcg64, stream};
use std::panic::Location;

/// As [`map`](crate::map()), for a closure that draws random numbers: call `i` has the stream `i` of
/// the seed.
///
/// The stream is that of [`random::stream`](crate::random::stream), which NumPy calls
/// `PCG64(SeedSequence(seed).spawn(n)[i])`. It depends on the seed and on the number of the item
/// alone, so the results are the same on every scheduler and with any number of workers, and the
/// same as a Python program draws that gives `manyhands.map` this seed.
///
/// ```
/// use manyhands::random::BitGenerator;
///
/// // Points in a square: which share of them lies in the circle?
/// let hits = manyhands::map_seeded(1, 0..100, |_, rng| {
///     let points = (0..1000).map(|_| (rng.next_double(), rng.next_double()));
///     points.filter(|(x, y)| x * x + y * y < 1.0).count()
/// })?;
/// let pi = 4.0 * hits.iter().sum::<usize>() as f64 / 100_000.0;
/// assert!((3.1..3.2).contains(&pi));
/// # Ok::<(), manyhands::Error>(())
/// ```
///
/// Two maps with one seed draw the same numbers. A map inside of a task has the streams of the seed
/// it is given as well: give it one that the task has drawn.
///
/// # Errors
///
/// As [`map`](crate::map()).
///
/// # Panics
///
/// As [`map`](crate::map()).
#[track_caller]
pub fn map_seeded<I, F, R>(seed: u128, items: I, f: F) -> Result<Vec<R>, Error>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item, &mut Pcg64) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    Options::new().seed(seed).map_seeded(items, f)
}

impl Options {
    /// As [`map_seeded`], with these options, of which [`seed`](Options::seed) is one.
    ///
    /// ```
    /// use manyhands::{Options, random::BitGenerator};
    ///
    /// let options = Options::new().seed(1).workers(2);
    /// let drawn = options.map_seeded(0..3, |_, rng| rng.next_double())?;
    /// // [default_rng(s).random() for s in SeedSequence(1).spawn(3)]
    /// assert_eq!(drawn, [0.6990345474368357, 0.4757645185899906, 0.23316830360018304]);
    /// # Ok::<(), manyhands::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no seed, and those of [`map`](crate::map()).
    ///
    /// # Panics
    ///
    /// As [`map`](crate::map()).
    #[track_caller]
    pub fn map_seeded<I, F, R>(&self, items: I, f: F) -> Result<Vec<R>, Error>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item, &mut Pcg64) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        let place = Location::caller();
        let kind = KindKey::of::<F>(place);
        let seed = self.decided_seed()?;
        let call = move |(number, item)| Ok(f(item, &mut stream(seed, number)));
        self.map_outcomes((0_u64..).zip(items), call, kind, place)
    }

    /// As [`map_seeded`](Options::map_seeded), for a closure that may fail: the first error ends the
    /// map as [`Error::Failed`].
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the number of the item and the error, and those of
    /// [`map_seeded`](Options::map_seeded).
    ///
    /// # Panics
    ///
    /// As [`map`](crate::map()).
    #[track_caller]
    pub fn try_map_seeded<I, F, R>(&self, items: I, f: F) -> Result<Vec<R>, Error>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item, &mut Pcg64) -> Result<R, BoxError> + Send + Sync + 'static,
        R: Send + 'static,
    {
        let place = Location::caller();
        let kind = KindKey::of::<F>(place);
        let seed = self.decided_seed()?;
        let call = move |(number, item)| f(item, &mut stream(seed, number)).map_err(Mishap::Failed);
        self.map_outcomes((0_u64..).zip(items), call, kind, place)
    }

    fn decided_seed(&self) -> Result<u128, Error> {
        let seed = self.settings()?.seed;
        seed.ok_or_else(|| {
            let message = "a map with random numbers needs a seed: Options::seed(1), or MANYHANDS_SEED=1 in the \
                           environment";
            Error::Config(message.to_owned())
        })
    }
}
