//! Takes in forks and exits, for the rule that knows what a forked process works for.

use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use super::Correlator;
use super::exchange::Key;
use super::processes::{ForkedFor, Process};
use super::rules::process_fork;
use crate::event::Thread;
use crate::exchange::Mark;

impl Correlator {
    /// A thread forks a process. What the thread works on, the process is for; or what the thread's process is for.
    pub(crate) fn process_forked(&mut self, parent: Thread, child: ProcessKey, at: KernelInstant) {
        self.tables.processes.forked(parent.process, child);
        let thread = self.tables.threads.find(parent.process, parent.tid);
        let open = thread.map_or(&[][..], |thread| &thread.open);
        let serves = thread.is_some_and(|thread| thread.has_served());
        let forked_for = match (self.tables.processes.find(parent.process), open) {
            (Some(process), [request]) => {
                Some(ForkedFor { request: *request, alone: process.open_requests == 1 })
            }
            (Some(process), []) if !process.has_served => process.forked_for,
            (Some(_) | None, _) => None,
        };
        let own = (open.len() == 1).then(|| forked_for.map(|root| root.request)).flatten();
        let outside = open.is_empty() && serves;
        let beside_idle = self.tables.processes.find(parent.process).is_some_and(Process::has_idle_thread);
        if outside && let Some(process) = self.tables.processes.note(parent.process) {
            process.forks_outside = true;
        }
        if let Some(process) = self.tables.processes.note(child) {
            process.forked_by = Some(parent.process);
            process.forked_for = forked_for;
        }
        let request = own.and_then(|request| self.tables.exchanges.get_mut(&request));
        if let Some(served) = request.and_then(|request| request.served_mut()) {
            served.forked = Some(at);
            served.forked_beside_idle = beside_idle;
        }
    }

    /// A call of a process that was forked inside of a request which is open: the request stays until the call's
    /// question is settled.
    pub(super) fn forked_call_began(&mut self, key: Key, first: Mark) {
        let process = self.tables.processes.find(first.thread.process);
        let Some(root) = process.and_then(|process| process.forked_for) else { return };
        let request = self.tables.exchanges.get_mut(&root.request).filter(|request| request.end.is_none());
        let Some(request) = request else { return };
        request.pins += 1;
        if let Some(served) = request.served_mut() {
            served.forked_calls.push(key);
        }
        if let Some(called) = self.tables.exchanges.get_mut(&key).and_then(|call| call.called_mut()) {
            called.forked_for = Some(root.request);
        }
    }

    /// A request has ended: what that says about processes that were forked inside of it.
    pub(super) fn examine_forks(&mut self, request: Key, process: ProcessKey) {
        let now = self.now;
        let exchange = self.tables.exchanges.get(&request);
        if exchange.and_then(|exchange| exchange.served()).is_none_or(|served| served.forked.is_none()) {
            return;
        }
        let examined = process_fork::examine(&self.tables, request);
        let exchange = self.tables.exchanges.get_mut(&request);
        let Some(served) = exchange.and_then(|exchange| exchange.served_mut()) else { return };
        served.forks_examined = Some(examined);
        served.over = Some(now);
        let (calls, proves) = (served.forked_calls.clone(), served.forked_beside_idle);
        if let (Ok(()), Some(process)) = (examined, self.tables.processes.note(process)) {
            process.fork_proofs += u32::from(proves);
            process.forks_awaiting.extend(&calls);
        }
        for key in calls {
            self.decide(key, false);
        }
        self.decide_forks_awaiting(process);
    }

    fn decide_forks_awaiting(&mut self, process: ProcessKey) {
        let Some(process) = self.tables.processes.note(process) else { return };
        if !process_fork::is_proven(process) {
            return;
        }
        for key in std::mem::take(&mut process.forks_awaiting) {
            self.decide(key, false);
        }
    }

    /// A process has ended: calls that were made by it, or below it, may have waited for that.
    pub(super) fn forked_process_gone(&mut self, process: ProcessKey) {
        let Some(known) = self.tables.processes.find(process) else { return };
        let Some(root) = known.forked_for else { return };
        let request = self.tables.exchanges.get(&root.request);
        let Some(served) = request.and_then(|request| request.served()) else { return };
        if served.forks_examined.is_none() {
            return;
        }
        for key in served.forked_calls.clone() {
            self.decide(key, false);
        }
    }
}
