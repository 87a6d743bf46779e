//! The tracer measures its own truth.
//!
//! Where the headers of traffic prove a parent, every other rule is asked about the same call, blindly, and its
//! answer is compared. A rule that names another parent is not asked again in that process: what is wrong once is
//! wrong more often. Calls whose headers prove nothing cost nothing.

use std::collections::BTreeMap;

use tracer_abi::task::ProcessKey;

use super::Correlator;
use super::exchange::Key;
use super::ladder::CALL_RULES;
use super::rules::{Moment, Verdict, header_continuity};
use crate::span::Evidence;

/// Processes counted apart, for a bound on memory; those beyond are counted under the process key of zeros.
const MAX_PROCESSES: usize = 1024;

/// How a rule did in a process, on calls whose parent headers prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    pub process: ProcessKey,
    /// The evidence that the rule finds: [`Evidence::as_str`].
    pub rule: &'static str,
    /// Calls.
    pub proven: u64,
    /// Of them: the rule names the same parent.
    pub agreed: u64,
    /// Of them: the rule names another. Since the first it is not believed in this process.
    pub contradicted: u64,
    /// Of them: it names none, by reason; `-`: it has nothing to say about such a call.
    pub abstained: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
pub(super) struct SelfCheck(BTreeMap<(ProcessKey, Evidence), Accuracy>);

impl SelfCheck {
    fn row(&mut self, process: ProcessKey, rule: Evidence) -> &mut Accuracy {
        let full = self.0.len() >= MAX_PROCESSES * CALL_RULES.len() && !self.0.contains_key(&(process, rule));
        let process = if full { ProcessKey::default() } else { process };
        self.0.entry((process, rule)).or_insert_with(|| Accuracy {
            process,
            rule: rule.as_str(),
            ..Accuracy::default()
        })
    }
}

impl Correlator {
    /// How the rules did so far.
    pub(crate) fn accuracy(&self) -> impl Iterator<Item = &Accuracy> {
        self.self_check.0.values()
    }

    /// A call's question is about to be settled: what do its headers say about the rules?
    pub(super) fn check_rules(&mut self, key: Key) {
        let Some(call) = self.tables.exchanges.get(&key) else { return };
        if call.called().is_none_or(|called| called.carrier.is_none()) {
            return;
        }
        let last = Moment { now: self.now, last: true };
        let Verdict::Parent(proven, ..) = header_continuity::judge(&self.tables, call, last) else { return };
        let process = call.process();
        for (rule, judge) in CALL_RULES {
            if rule == Evidence::HeaderContinuity {
                continue;
            }
            let verdict = judge(&self.tables, call, last);
            let row = self.self_check.row(process, rule);
            row.proven += 1;
            match verdict {
                Verdict::Parent(key, ..) if key == proven => row.agreed += 1,
                Verdict::Parent(..) | Verdict::Remote(..) => {
                    row.contradicted += 1;
                    self.stats.rules_contradicted += 1;
                    if let Some(process) = self.tables.processes.note(process)
                        && !process.demoted.contains(&rule)
                    {
                        process.demoted.push(rule);
                    }
                }
                Verdict::Abstain(Some(reason)) => *row.abstained.entry(reason.as_str()).or_default() += 1,
                Verdict::Abstain(None) | Verdict::Wait => *row.abstained.entry("-").or_default() += 1,
            }
        }
    }
}
