//! How right the ways to find parents were, as a table for the end of a run: the core compares them wherever headers
//! prove a parent; this only writes it down.

use std::collections::BTreeMap;

use tracer_abi::task::ProcessKey;
use tracer_core::Accuracy;

/// Reasons named per row; the others are summed up.
const MAX_REASONS: usize = 3;

/// One message per line. `names`: what processes are called.
pub(crate) fn lines<'a>(
    rows: impl Iterator<Item = &'a Accuracy>,
    names: &BTreeMap<ProcessKey, String>,
) -> Vec<String> {
    let mut cells = Vec::new();
    for Accuracy { process, rule, proven, agreed, contradicted, abstained } in rows {
        let silent = abstained.get("-").copied().unwrap_or(0);
        // A rule for other programs than this one.
        if silent == *proven {
            continue;
        }
        let name = match names.get(process) {
            Some(name) => format!("{name} ({})", process.tgid),
            None if *process == ProcessKey::default() => "others".to_owned(),
            None => format!("process {}", process.tgid),
        };
        let mut reasons: Vec<(&str, u64)> =
            abstained.iter().map(|(reason, count)| (*reason, *count)).collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        let undecided: u64 = reasons.iter().map(|(_, count)| count).sum();
        let rest: u64 = reasons.iter().skip(MAX_REASONS).map(|(_, count)| count).sum();
        let mut why: Vec<String> =
            reasons.iter().take(MAX_REASONS).map(|(reason, count)| format!("{reason} {count}")).collect();
        if rest > 0 {
            why.push(format!("others {rest}"));
        }
        let numbers = [*proven, *agreed, *contradicted, undecided].map(|number| number.to_string());
        cells.push((name, *rule, numbers, why.join(", ")));
    }
    if cells.is_empty() {
        return vec!["accuracy: no headers proved a parent, so there was nothing to compare".to_owned()];
    }
    let width = cells.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0).max(7);
    let mut lines = vec![
        "accuracy of the other ways to find a parent, on calls whose headers prove it:".to_owned(),
        format!(
            "  {:width$}  {:15}  {:>8}  {:>8}  {:>12}  {:>9}",
            "process", "way", "proven", "agreed", "contradicted", "undecided"
        ),
    ];
    for (name, rule, [proven, agreed, contradicted, undecided], why) in cells {
        let line = format!(
            "  {name:width$}  {rule:15}  {proven:>8}  {agreed:>8}  {contradicted:>12}  {undecided:>9}  {why}"
        );
        lines.push(line.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_abi::task::Tgid;

    #[test]
    fn what_was_compared_is_a_table() {
        let process = |tgid| ProcessKey { tgid: Tgid(tgid), start_boottime: 1 };
        let names = BTreeMap::from([(process(7), "shop".to_owned())]);
        let row = |tgid, rule, proven, agreed, contradicted, abstained: &[(&'static str, u64)]| Accuracy {
            process: process(tgid),
            rule,
            proven,
            agreed,
            contradicted,
            abstained: abstained.iter().copied().collect(),
        };
        let rows = [
            row(7, "thread", 20, 10, 1, &[("a", 1), ("b", 5), ("c", 2), ("d", 1)]),
            row(7, "response-window", 20, 0, 0, &[("-", 20)]),
            row(12345, "thread", 3, 3, 0, &[]),
        ];
        assert_eq!(
            lines(rows.iter(), &names),
            [
                "accuracy of the other ways to find a parent, on calls whose headers prove it:",
                "  process        way                proven    agreed  contradicted  undecided",
                "  shop (7)       thread                 20        10             1          9  b 5, c 2, a 1, others 1",
                "  process 12345  thread                  3         3             0          0",
            ]
        );
        assert_eq!(lines(rows[1..2].iter(), &names).len(), 1);
    }
}
