//! Calls of tasks of an event loop that others wait for: whose they are depends on who has made them.

use tracer_abi::python::TaskId;
use tracer_core::span::Confidence;

use crate::host::{lines, task};
use crate::task::{Loop, NOBODY, confidence};

#[test]
fn a_task_that_is_waited_for_calls_for_whoever_waits() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    let [one, two] = [(); 2].map(|()| shop.child_of(11));
    shop.calls("/a1", &[one, 11]);
    let three = shop.child_of(two);
    shop.calls("/a2", &[three, two, 11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 < shop server /a (runtime-task)", "/a2 < shop server /a (runtime-task)"]);
    assert_eq!(confidence(&shop.spans(), "/a2"), Some(Confidence::Likely));
}

/// A server whose connections each have a task that answers, and makes the task that calls.
#[test]
fn the_task_that_answers_may_itself_be_waited_for() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    let child = shop.child_of(1501);
    shop.calls("/a1", &[child, 1501, 11]);
    shop.answers(conn, 1501);
    shop.expect(&["/a1 < shop server /a (runtime-task)"]);
}

/// A leader waits for what all requests of a batch have started since it came.
#[test]
fn a_task_that_another_has_made_is_nobodys() {
    let mut shop = Loop::with_children();
    let (leader, other) = (shop.client(), shop.client());
    shop.arrives(leader, "/a");
    shop.arrives(other, "/b");
    let [own, others, by_nobody] = [11, 12, 0].map(|maker| shop.child_of(maker));
    let below_another = shop.child_of(others);
    shop.calls("/a1", &[own, 11]);
    shop.calls("/b1", &[others, 11]);
    shop.calls("/b2", &[below_another, others, 11]);
    shop.calls("/c1", &[by_nobody, 11]);
    shop.answers(leader, 11);
    shop.answers(other, 12);
    shop.expect(&[
        "/a1 < shop server /a (runtime-task)",
        "/b1 - task-of-another",
        "/b2 - task-of-another",
        "/c1 - task-of-another",
    ]);
}

/// A task that serves a connection waits for what it has started while it served the request before.
#[test]
fn what_a_task_has_made_before_a_request_is_not_that_ones() {
    let mut shop = Loop::proven();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    let child = shop.child_of(11);
    shop.answers(conn, 11);
    shop.arrives_for(conn, "/b", 11);
    shop.calls("/x", &[child, 11]);
    let child = shop.child_of(11);
    shop.calls("/b1", &[child, 11]);
    shop.answers(conn, 11);
    shop.expect(&["/x - task-older", "/b1 < shop server /b (runtime-task)"]);
}

/// Where it is not told who makes tasks, or not any more, nothing tells whose they are.
#[test]
fn a_task_whose_maker_is_not_known_is_possibly_its_waiters() {
    let mut shop = Loop::with_children();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    // Another one is where the task was that is told of, or a name is not known yet.
    let gone = shop.child_of(11);
    let child = shop.child();
    shop.host.makes(shop.main, task(11), TaskId { number: gone, ..task(child) });
    shop.calls("/a1", &[child, 11]);
    let named = shop.child();
    shop.host.makes(shop.main, task(11), TaskId { number: 0, ..task(named) });
    shop.calls("/a2", &[named, 11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 - below-confidence", "/a2 < shop server /a (runtime-task)"]);
}

/// What is lost may have told of another task at the same address: then only a number says which one it is.
#[test]
fn a_loss_may_have_hidden_another_maker() {
    let wanted = [(true, "/a1 < shop server /a (runtime-task)"), (false, "/a1 - below-confidence")];
    for ((told, wanted), interrupted) in wanted.into_iter().flat_map(|want| [(want, false), (want, true)]) {
        let mut shop = Loop::with_children();
        let conn = shop.client();
        shop.arrives_for(conn, "/a", 11);
        let child = task(shop.child());
        shop.host.makes(shop.main, task(11), TaskId { number: if told { child.number } else { 0 }, ..child });
        shop.host.tick();
        shop.loses(interrupted);
        shop.calls("/a1", &[child.number, 11]);
        shop.answers(conn, 11);
        shop.expect(&[wanted]);
    }
}

/// As when requests hand the tasks that they make to each other: that a task is younger than who waits for it is chance.
#[test]
fn tasks_of_a_kind_that_is_handed_on_name_nobody() {
    let mut shop = Loop::with_children();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    let of_a = shop.child();
    shop.arrives(two, "/b");
    shop.calls("/a1", &[of_a, 12]);
    shop.answers(two, 12);
    let of_b = shop.child();
    shop.calls("/b1", &[of_b, 11]);
    shop.answers(one, 11);
    shop.expect(&["/a1 - task-older", "/b1 - task-older"]);
}

/// As `gather` and task groups do: nobody else can have been handed what was made where it is waited for. But that itself can.
#[test]
fn a_task_that_what_waits_has_made_needs_no_others_to_prove_it() {
    let mut shop = Loop::proven();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    let [of_a, other] = [(); 2].map(|()| shop.child());
    let calls = |shop: &mut Loop, path: &str, tasks: &[u64], own: u64| {
        let conn = shop.host.connect(Some(shop.main), None);
        shop.host.works_for(tasks, &[own]);
        shop.host.asks(shop.main, conn, NOBODY, path);
        shop.ends_call(conn);
    };
    calls(&mut shop, "/a1", &[of_a, 11], of_a);
    shop.arrives(two, "/b");
    calls(&mut shop, "/b1", &[other, 12], other);
    shop.answers(one, 11);
    shop.answers(two, 12);
    shop.expect(&["/a1 - below-confidence", "/b1 - task-older"]);
}

/// Each of them makes a task, and waits for that of another: all of these are younger than all requests.
#[test]
fn tasks_of_requests_that_come_at_once_prove_nothing() {
    let mut shop = Loop::proven();
    let conns = [(); 40].map(|()| shop.client());
    conns.iter().for_each(|conn| shop.arrives(*conn, "/a"));
    let children = conns.map(|_| shop.child());
    for (n, child) in (100..).zip(children) {
        shop.calls("/a1", &[child, n]);
    }
    for (n, conn) in (100..).zip(conns) {
        shop.answers(conn, if n == 139 { 100 } else { n + 1 });
    }
    let calls = lines(&shop.spans()).into_iter().filter(|line| line.starts_with("shop client /a1"));
    assert_eq!(calls.filter(|line| line.contains("- process-unproven")).count(), 40);
}

#[test]
fn a_task_without_a_number_may_be_older() {
    let mut shop = Loop::with_children();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[0, 11]);
    shop.answers(conn, 11);
    shop.expect(&["/a1 - task-older"]);
}

/// It says that fewer tasks were made than have been seen.
#[test]
fn a_count_that_cannot_be_proves_nothing() {
    let mut shop = Loop::proven();
    shop.calls("/poll", &[9001]);
    for n in 100..140 {
        let conn = shop.client();
        shop.arrives(conn, "/a");
        let child = shop.child();
        shop.calls("/a1", &[child, n]);
        shop.answers(conn, n);
    }
    let calls = lines(&shop.spans()).into_iter().filter(|line| line.starts_with("shop client /a1"));
    assert_eq!(calls.filter(|line| line.contains("- process-unproven")).count(), 40);
}

#[test]
fn a_task_made_before_the_request_was_not_made_for_it() {
    let mut shop = Loop::proven();
    let (one, two) = (shop.client(), shop.client());
    shop.arrives(one, "/a");
    // A task of the first request's, which the second one waits for.
    let child = shop.child();
    shop.calls("/a1", &[child]);
    shop.arrives(two, "/b");
    shop.calls("/a2", &[child, 12]);
    shop.answers(one, 11);
    shop.answers(two, 12);
    shop.expect(&["/a1 - task-unrelated", "/a2 - task-older"]);
}

/// As frameworks do that send a body piece by piece: the child sends, and its maker waits for something else.
#[test]
fn a_task_whose_child_answers_works_on_the_request_until_it_makes_that() {
    for made_before in [0, MORE_THAN_REMEMBERED] {
        let mut shop = Loop::proven();
        shop.makes_others(made_before);
        let conn = shop.client();
        shop.arrives(conn, "/a");
        let own = shop.child();
        shop.calls("/a1", &[own]);
        let awaited = shop.child_of(own);
        shop.calls("/a2", &[awaited, own]);
        let answers = shop.child_of(own);
        shop.calls("/a3", &[own]);
        shop.answers(conn, answers);
        shop.expect(&[
            "/a1 < shop server /a (runtime-task)",
            "/a2 < shop server /a (runtime-task)",
            "/a3 - task-not-fresh",
        ]);
        for path in ["/a1", "/a2"] {
            assert_eq!(confidence(&shop.spans(), path), Some(Confidence::Likely));
        }
    }
}

/// A dispatcher is there before the request is, and what it does between two of them is for nobody, or for any.
#[test]
fn a_task_that_is_older_than_the_request_which_its_child_answers_is_nobodys() {
    let mut shop = Loop::proven();
    let dispatcher = shop.child();
    let conn = shop.client();
    shop.arrives(conn, "/a");
    shop.calls("/a1", &[dispatcher]);
    let answers = shop.child_of(dispatcher);
    shop.answers(conn, answers);
    shop.expect(&["/a1 - task-unrelated"]);
}

#[test]
fn a_task_whose_children_answer_several_requests_is_of_none() {
    for before in [true, false] {
        let mut shop = Loop::proven();
        let (one, two) = (shop.client(), shop.client());
        shop.arrives(one, "/a");
        let mut leads = shop.child();
        shop.arrives(two, "/b");
        if !before {
            leads = shop.child();
        }
        shop.calls("/b1", &[leads]);
        let answers = shop.child_of(leads);
        shop.answers(one, answers);
        let answers = shop.child_of(leads);
        shop.answers(two, answers);
        shop.expect(&["/b1 - several-open-requests"]);
    }
}

/// A task with a name.
const NAMED: u64 = 0;

/// Of tasks whose makers are told.
const MORE_THAN_REMEMBERED: u64 = 50_000;

impl Loop {
    /// Tasks are made that do nothing.
    fn makes_others(&mut self, count: u64) {
        for other in 0..count {
            let other = TaskId { address: 0x6000_0000_0000 + 64 * other, number: self.child() };
            self.host.makes(self.main, TaskId::default(), other);
        }
    }
}

/// Tasks with names have no numbers: at an address that was used before there is another one.
#[test]
fn a_task_with_a_name_is_another_one_where_it_was_seen_to_be_made() {
    for (told, wanted) in [(true, "/b1 < shop server /b (runtime-task)"), (false, "/b1 - task-not-fresh")] {
        let mut shop = Loop::proven();
        let named = |shop: &mut Loop| {
            if told {
                let number = shop.child();
                shop.host.makes(shop.main, TaskId::default(), TaskId { number, ..task(NAMED) });
            }
        };
        for (path, call) in [("/a", None), ("/b", Some("/b1"))] {
            let conn = shop.client();
            shop.arrives(conn, path);
            named(&mut shop);
            if let Some(call) = call {
                shop.calls(call, &[NAMED]);
            }
            shop.answers(conn, NAMED);
        }
        shop.expect(&[wanted]);
    }
}

/// Of more tasks than can be remembered, one with a name may be any that was at its address.
#[test]
fn a_task_with_a_name_that_is_forgotten_may_have_answered_before() {
    let forgotten =
        [(10, "/b1 < shop server /b (runtime-task)"), (MORE_THAN_REMEMBERED, "/b1 - task-not-fresh")];
    for (made, wanted) in forgotten {
        let mut shop = Loop::proven();
        shop.makes_others(made);
        let conn = shop.client();
        shop.arrives(conn, "/b");
        shop.calls("/b1", &[NAMED]);
        shop.answers(conn, NAMED);
        shop.expect(&[wanted]);
    }
}
