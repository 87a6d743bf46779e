//! How much tests do, and how much time they grant, where the machine is not an ordinary one.

/// `TRACER_TESTS_VOLUME`: more than 1 for long runs, less for slow machines.
pub fn volume() -> f64 {
    variable("TRACER_TESTS_VOLUME")
}

/// A number of requests, on this machine.
pub fn count(ordinary: usize) -> usize {
    ((ordinary as f64 * volume()).round() as usize).max(1)
}

/// A bound that is about the speed of the machine and not about what is right: `TRACER_TESTS_SLOWNESS` times as long as
/// on an ordinary one.
pub fn time(ordinary: std::time::Duration) -> std::time::Duration {
    ordinary.mul_f64(variable("TRACER_TESTS_SLOWNESS"))
}

fn variable(name: &str) -> f64 {
    let factor = std::env::var(name).ok().and_then(|factor| factor.parse().ok());
    factor.filter(|factor| *factor > 0.0).unwrap_or(1.0)
}
