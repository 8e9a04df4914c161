//! A clock that costs next to nothing, for loops that must not go on for long.

/// The number of a tick of a few milliseconds: differs from an earlier one once time has passed.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub fn coarse_tick() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64) << 32 | now.tv_nsec as u64
}

/// The number of a tick of a few milliseconds: differs from an earlier one once time has passed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn coarse_tick() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    (START.get_or_init(Instant::now).elapsed().as_millis() / 4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes() {
        let before = coarse_tick();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert_ne!(coarse_tick(), before);
    }
}
