//! Puts the threads on which spans depend ahead of those that are traced.
//!
//! One thread reads what all traced ones write, and one writes what comes of it. Where all want a CPU, each would be
//! given the share of one of them, however much they write: beside 64 busy threads on 2 CPUs, six of seven events were
//! lost. What these threads do is proportional to what the traced ones do, so they cannot take more than that.

/// Steps of `nice`. Each is worth a quarter more of a busy CPU (`sched_prio_to_weight` of the kernel); ten, nine times as
/// much.
const STEPS: i32 = 10;

/// The most that there is.
const FIRST: i32 = -20;

/// Puts the calling thread ahead of where it is now, and those that it starts from then on.
pub(crate) fn go_ahead() {
    let ahead = rustix::process::getpriority_process(None)
        .and_then(|nice| rustix::process::setpriority_process(None, (nice - STEPS).max(FIRST)));
    if let Err(error) = ahead {
        tracing::debug!("cannot go ahead of other threads, which takes CAP_SYS_NICE: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_ahead_alone_and_no_further_than_there_is() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        std::thread::spawn(move || {
            let allowed = rustix::process::setpriority_process(None, (before - 1).max(FIRST)).is_ok();
            let start = nice();
            go_ahead();
            let wanted = if allowed { (start - STEPS).max(FIRST) } else { before };
            assert_eq!(nice(), wanted, "{before} {start}");
            for _ in 0..3 {
                go_ahead();
            }
            assert!(nice() >= FIRST);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }
}
