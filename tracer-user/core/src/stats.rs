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
    /// Of them: calls and requests for which a parent was looked for and none is claimed.
    spans_undecided,
    /// Of them: marked incomplete.
    spans_incomplete,
    /// Of them: their trace context says that the trace is not sampled.
    spans_unsampled,
    /// Spans not handed out, because programs report them themselves.
    spans_suppressed,
    /// Records that could not be decoded.
    records_malformed,
    /// Events that came later than the reorder window allowed, as it was then: it grows with them.
    events_late,
    /// Operations whose thread event numbers show that others of that thread were lost.
    thread_gaps,
    /// Wake-ups whose numbers show that others of that thread were lost.
    wakes_missing,
    /// Operations of threads beyond the bound of the thread table: their calls have no parent by thread.
    threads_untracked,
    /// Bytes lost between kernel and tracer.
    stream_bytes_lost,
    /// Bytes that could not be copied from a program's memory.
    stream_bytes_unreadable,
    /// Bytes that came too late to be used, or contradicted what was known.
    stream_bytes_late,
    /// Exchanges cut by a loss.
    exchanges_incomplete,
    /// Of them: ended by it, without a response.
    exchanges_lost,
    /// Requests that could not be read or paired because of a loss: no span.
    requests_passed_over,
    /// Responses that could not be paired with a request.
    responses_passed_over,
    /// Times that the place in a protocol was lost.
    places_lost,
    /// Times that it was found again.
    resyncs,
    /// Connections given up after a loss.
    connections_given_up,
    /// TLS sessions whose plaintext was seen and whose socket is not known: their spans have no addresses.
    tls_sessions_unbound,
    /// Operations of plaintext that could not be placed among the TLS records of their socket: a request that begins there
    /// is not joined to its other end.
    tls_unplaced,
    /// Messages that are not valid in their protocol.
    messages_malformed,
    /// Exchanges that a bound on their number or size ended early.
    exchanges_cut,
    /// Connections that the bound on their number ended early.
    connections_cut,
    /// Times that a request's headers of one trace context format are not valid in it, or are there more than once.
    context_headers_refused,
    /// Requests whose trace context headers disagree with each other.
    context_conflicts,
    /// Edges not claimed because two kinds of evidence disagree.
    contradictions,
    /// Links of undecided spans that were not made, because the trace of the linked span was not known in time.
    links_not_made,
    /// Times that headers showed a rule to be wrong: it is not believed in that process any more.
    rules_contradicted,
    /// Records that the kernel half reported as lost.
    kernel_losses,
}
