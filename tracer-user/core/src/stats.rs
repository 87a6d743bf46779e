//! A named counter for every way to lose or pass over data.

/// Declares [`Stats`]: each counter once, with its meaning and its exported name.
macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)+) => {
        /// Counts since the engine was made.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$meta])* pub $name: u64,)+ }

        impl Stats {
            /// Name and count of every counter, in declaration order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Spans handed out.
    spans,
    /// Records that could not be decoded.
    records_malformed,
    /// Events that came later than the reorder window allows.
    events_late,
    /// Operations whose thread event numbers show that others of that thread were lost.
    thread_gaps,
    /// Bytes lost between kernel and tracer.
    stream_bytes_lost,
    /// Exchanges cut by a loss.
    exchanges_incomplete,
}
