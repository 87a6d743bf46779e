//! Sums the result lines of the standard test harness.
//!
//! A step that fails without a failed test (it did not compile, a test process died, it took too long) counts as one
//! failure: the sum must never look better than the run was.

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tally {
    /// Takes in one line of output, which need not be a result line.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(counts) = parse(line) {
            self.add(counts);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// `test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn parse(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let field = counts.split("; ").find_map(|field| field.strip_suffix(what))?;
        field.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_nothing_else() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test decode::tests::total ... ok",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "said: test result: ok. 9 passed; 9 failed; 9 ignored;",
            "test result: ok. x passed; 0 failed; 0 ignored",
        ] {
            tally.line(line);
        }
        assert_eq!(tally, Tally { passed: 10, failed: 2, ignored: 1 });
    }
}
