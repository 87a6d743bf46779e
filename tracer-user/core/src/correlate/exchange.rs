//! One exchange on one socket, as the correlation keeps it from its first byte until its span leaves.

use std::sync::Arc;

use tracer_abi::conn::{Role, SocketCookie};
use tracer_abi::python::TaskId;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

use super::candidates::Candidate;
use super::conn::Conn;
use super::fragment::FragmentId;
use super::goroutines::{Caller, Reader};
use super::handoffs::MAX_HOPS;
use super::join::Seats;
use super::kinds::AwaitedTask;
use super::tasks::{Maker, Tasks};
use super::tokio::{Polled, Polls};
use super::waits::ServedWaits;
use super::works::InWork;
use crate::context::{RemoteContext, RequestContext};
use crate::event::{Made, Thread};
use crate::exchange::{BodyLen, ExchangeId, Incomplete, Mark, Outcome, RequestHead, ResponseHead, Trailer};
use crate::span::{BELOW_CONFIDENCE, Confidence, Evidence, SpanId};

/// An exchange of this run. Keys are in the order in which requests were understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// How many came before.
    pub(super) number: u64,
    /// Where it is in the table of exchanges.
    pub(super) slot: u32,
}

/// What is kept of a [`Mark`] of which no more is asked: thousands of exchanges may be held, and each has five.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(super) time: KernelInstant,
    pub(super) offset: u64,
    pub(super) tcp_seq: Option<u32>,
    pub(super) tid: Tid,
    pub(super) blocking: Option<bool>,
}

impl From<Mark> for Stamp {
    fn from(mark: Mark) -> Self {
        let Mark { time, offset, tcp_seq, thread, blocking, nvcsw: _, user_r14: _ } = mark;
        Self { time, offset, tcp_seq, tid: thread.tid, blocking }
    }
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(super) id: ExchangeId,
    /// HTTP/2: its number on the connection.
    pub(super) stream: Option<u32>,
    pub(super) side: Side,
    /// Without what it carried, which is in `context`.
    pub(super) request: Box<RequestHead>,
    /// What its headers say about where it comes from.
    pub(super) context: Option<Box<RequestContext>>,
    /// The request's first byte.
    pub(super) first: Mark,
    /// The last byte of the request's head: nothing is done for a request before it.
    pub(super) head_last: Stamp,
    pub(super) request_last: Option<Stamp>,
    pub(super) request_body: Option<BodyLen>,
    pub(super) response: Option<(ResponseHead, Stamp)>,
    pub(super) end: Option<End>,
    /// How the connection was opened, if that was seen.
    pub(super) conn: Option<Arc<Conn>>,
    /// Where the request began, as both ends tell it.
    pub(super) seats: Seats,
    pub(super) span_id: SpanId,
    pub(super) fragment: FragmentId,
    pub(super) question: Question,
    /// Settled without a parent: what evidence names all the same. They stay until the span has left.
    pub(super) candidates: Vec<Candidate>,
    /// Client: when the joined server received the first byte.
    pub(super) received_by_peer: Option<KernelInstant>,
    /// Calls with open questions that may turn out to be its children: it stays until they are settled.
    pub(super) pins: u32,
    /// Server: a look at it when its other end should be known is planned.
    pub(super) has_grace: bool,
    /// A look at it when the decide timeout has passed is planned.
    pub(super) has_deadline: bool,
    /// Its program reports it itself: it has no span of its own, and stands for the program's.
    pub(super) suppressed: bool,
    /// Its parent is another's span, although this tracer saw the exchange above it.
    pub(super) parent_elsewhere: bool,
    /// Its span has left; it stays for its pins.
    pub(super) left: bool,
    /// Client: it stays after its span has left, because its peer is traced and has not been seen to receive it.
    pub(super) kept: bool,
}

impl Exchange {
    pub(super) fn process(&self) -> ProcessKey {
        self.first.thread.process
    }

    /// The thread that read (server) or sent (client) the request's first byte.
    pub(super) fn thread(&self) -> Thread {
        self.first.thread
    }

    pub(super) fn cookie(&self) -> SocketCookie {
        self.id.cookie
    }

    pub(super) fn role(&self) -> Role {
        match self.side {
            Side::Server(_) => Role::Server,
            Side::Client(_) => Role::Client,
        }
    }

    pub(super) fn served(&self) -> Option<&Served> {
        match &self.side {
            Side::Server(served) => Some(served),
            Side::Client(_) => None,
        }
    }

    pub(super) fn served_mut(&mut self) -> Option<&mut Served> {
        match &mut self.side {
            Side::Server(served) => Some(served),
            Side::Client(_) => None,
        }
    }

    pub(super) fn called(&self) -> Option<&Called> {
        match &self.side {
            Side::Client(called) => Some(called),
            Side::Server(_) => None,
        }
    }

    pub(super) fn called_mut(&mut self) -> Option<&mut Called> {
        match &mut self.side {
            Side::Client(called) => Some(called),
            Side::Server(_) => None,
        }
    }

    /// Its connection is read and written for many at a time, and which goroutine works on it is known all the same.
    pub(super) fn is_stream_taken(&self) -> bool {
        match &self.side {
            Side::Server(served) => served.reader.as_deref().is_some_and(|reader| reader.is_of_stream),
            Side::Client(called) => called.caller.as_deref().is_some_and(|caller| caller.is_of_stream),
        }
    }

    /// It has ended without a byte of an answer.
    pub(super) fn is_unanswered(&self) -> bool {
        let given_up = |end: End| matches!(end.outcome, Outcome::NoResponse | Outcome::Reset(_));
        self.response.is_none() && self.end.is_some_and(given_up)
    }

    /// A stream that ended before it was answered: by its client, for one. The goroutine that serves it may not know, and
    /// go on.
    pub(super) fn is_given_up(&self) -> bool {
        let is_cut = self.end.is_some_and(|end| end.outcome != Outcome::Complete);
        is_cut && self.served().is_some() && self.is_stream_taken()
    }

    /// What its strings hold, in bytes: what a hostile peer could make large.
    pub(super) fn text_bytes(&self) -> usize {
        let RequestHead {
            protocol: _,
            version: _,
            secure: _,
            method,
            target,
            host,
            user_agent,
            content_length: _,
            grpc: _,
            context: _,
        } = &*self.request;
        let texts = [method, target, host, user_agent];
        texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
            + self.context.as_ref().map_or(0, |context| context.text_bytes())
    }

    /// The caller's span or trace, as its headers name it.
    pub(super) fn remote(&self) -> Option<&RemoteContext> {
        self.context.as_ref().and_then(|context| context.remote())
    }

    /// Bytes were lost inside it, so that its marks may not be what they seem.
    pub(super) fn is_damaged(&self) -> bool {
        match self.end.as_ref().and_then(|end| end.incomplete) {
            Some(Incomplete::EventsLost | Incomplete::PayloadUnreadable | Incomplete::Malformed) => true,
            Some(Incomplete::StartedBeforeTracer | Incomplete::StillOpen | Incomplete::LimitReached)
            | None => false,
        }
    }
}

/// Which end of the connection this is, and what rules have noted about it.
#[derive(Debug)]
pub(crate) enum Side {
    Server(Served),
    Client(Called),
}

/// Notes on a request that the process serves.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// A read of its connection could not have waited, or it is not known that it could.
    pub(super) nonblocking: bool,
    /// When another thread first used its connection, as far as it was open then.
    pub(super) shared: Option<KernelInstant>,
    /// The thread that last read some of it after another had begun to, and that only reads as far as is known.
    pub(super) passed_to: Option<Tid>,
    /// Its thread answered another before it had read all of this one, which it had passed on if it is in order.
    pub(super) set_aside: bool,
    /// It may be answered by another thread than has read it.
    pub(super) adrift: bool,
    /// When its thread first read from another connection on which it does not call.
    pub(super) foreign_read: Option<KernelInstant>,
    /// Its thread held another request at the same time.
    pub(super) overlapped: bool,
    /// Its thread's numbering started anew while it was open, or it ended with events missing.
    pub(super) thread_lost: bool,
    /// Its thread has ended, with no event missing since it read the first byte.
    pub(super) thread_done: bool,
    /// Its thread had returned to a connection after it had served another.
    pub(super) on_return: bool,
    /// Requests that the same thread had open and of which it is not yet known whether they overlap.
    pub(super) rivals: Vec<Key>,
    pub(super) waits: ServedWaits,
    /// When its thread last sent a byte of the response.
    pub(super) last_sent: Option<KernelInstant>,
    /// Calls that its thread made while it was the latest open request there.
    pub(super) calls: Vec<Key>,
    /// When its thread last forked a process while it was the only open request there.
    pub(super) forked: Option<KernelInstant>,
    /// A thread that serves held no request then.
    pub(super) forked_beside_idle: bool,
    /// When a process that was forked so, or below it, last sent a byte of the response.
    pub(super) child_sent: Option<KernelInstant>,
    /// Calls of such processes.
    pub(super) forked_calls: Vec<Key>,
    /// What was found of the forks when the request had been answered, and when that was.
    pub(super) forks_examined: Option<Result<(), Undecided>>,
    pub(super) over: Option<KernelInstant>,
    /// The call that stays because it may be the other end.
    pub(super) peer_pin: Option<Key>,
    /// Several calls claimed to be the other end.
    pub(super) peer_ambiguous: bool,
    /// Calls with open questions that carry what this request alone brought.
    pub(super) carried_on: Vec<Key>,
    /// There was one.
    pub(super) hands_on: bool,
    /// What the runtime told about it.
    pub(super) work: Option<Box<ServedTask>>,
    /// Go: who read it.
    pub(super) reader: Option<Box<Reader>>,
    /// Tokio: which task read it.
    pub(super) polled: Option<Box<Polled>>,
    /// Calls with open questions at whose end its thread was woken.
    pub(super) handed_back: Vec<Key>,
    /// Calls for which a runtime has named it.
    pub(super) named_by: Vec<Key>,
}

/// Notes on a request that the process makes.
#[derive(Debug, Default)]
pub(crate) struct Called {
    /// The latest open request of the thread at the send.
    pub(super) served: Option<Key>,
    /// Others that the thread had open then, the latest of them.
    pub(super) beside: Vec<Key>,
    /// The open request inside of which its process was forked.
    pub(super) forked_for: Option<Key>,
    /// That request was the only one open in the process.
    pub(super) alone: bool,
    /// A thread that serves held no request then: it could have shown that threads help each other.
    pub(super) beside_idle: bool,
    /// Before its response began, its thread used another connection, or had another call under way.
    pub(super) interleaved: bool,
    /// What the thread rule found when that request had been answered.
    pub(super) examined: Option<Result<(), Undecided>>,
    /// The thread had lost events when it sent this, and has begun no request since.
    pub(super) after_loss: bool,
    /// nginx: it has told for which request its connection is used.
    pub(super) is_upstream: bool,
    /// nginx: the request whose bytes the thread had read last, in the same run without a wait.
    pub(super) trigger: Option<Key>,
    /// nginx: the request that was answered in a window of this call's response.
    pub(super) window: Window,
    /// nginx: this call has ended, and no request can be answered any more in a window of its response.
    pub(super) window_closed: bool,
    /// The request that stays because `window` named it.
    pub(super) window_pin: Option<Key>,
    /// The request at its other end.
    pub(super) receiver: Option<Key>,
    /// The request that stays because it alone had brought what this call carries.
    pub(super) carrier: Option<Key>,
    /// The fragment whose trace may turn out to be the one that this call carries.
    pub(super) awaited_by: Option<FragmentId>,
    /// The task that made it, the one that waits for it, and so on, as the runtime told.
    pub(super) tasks: Vec<TaskId>,
    /// How each of these came to be.
    pub(super) made: Vec<Made>,
    /// Who has made each of these, but for the last, as far as that is told.
    pub(super) makers: Vec<Maker>,
    /// The request that one of them works on.
    pub(super) answered: Answering,
    /// The request that stays because `answered` named it.
    pub(super) answer_pin: Option<Key>,
    /// Go: whose it is.
    pub(super) caller: Option<Box<Caller>>,
    /// Tokio: whose it is.
    pub(super) polls: Option<Box<Polls>>,
    /// CPython's pools: the work item that it is made in.
    pub(super) in_work: Option<Box<InWork>>,
    /// Its own key, where its task is known.
    pub(super) key: Option<Key>,
    /// Where hand-offs are followed: whom its thread woke.
    pub(super) handed: Option<Box<Handed>>,
}

/// What a runtime told about a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServedTask {
    /// The task that waited for its very bytes when they came.
    pub(super) awaited_by: Option<TaskId>,
    /// The task that answered it.
    pub(super) answered_by: Option<TaskId>,
    /// That task had answered another request before, or it is not known that it had not.
    pub(super) again: bool,
    /// Who has made that task, and when, if both have been made since the request came.
    pub(super) answerer_made: Option<(TaskId, KernelInstant)>,
    /// All tasks before had been made when the request came; zero where that is not known.
    pub(super) next_task: u64,
}

/// Why a task is known to work on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Working {
    /// It had waited for the request's bytes.
    HadWaited,
    Answered,
    /// It has made the task that answered.
    MadeAnswerer,
}

impl ServedTask {
    /// The place of the task that works on it, among some that wait for each other; and why that is known.
    pub(super) fn place(&self, tasks: &[TaskId]) -> Option<(usize, Working)> {
        let own = [
            (self.awaited_by, Working::HadWaited),
            (self.answered_by, Working::Answered),
            (self.answerer_made.map(|(maker, _)| maker), Working::MadeAnswerer),
        ];
        own.into_iter().find_map(|(own, working)| {
            let place = tasks.iter().position(|task| Some(*task) == own)?;
            Some((place, working))
        })
    }

    /// Those that are known to work on it.
    pub(super) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        self.awaited_by.into_iter().chain(self.answered_by).chain(self.answerer_made.map(|(maker, _)| maker))
    }
}

/// The request that rules of a kind name for a call.
pub(super) type Answering = Window;

/// For whom a task was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MadeFor {
    Unseen,
    /// By one of those who wait for it.
    Waiters,
    /// By one of them, and before the request came.
    Before,
    /// By a task that does not wait for it, or by none.
    Another,
}

impl Called {
    /// The first of the tasks, so many of them.
    pub(super) fn awaited(&self, count: usize) -> impl Iterator<Item = AwaitedTask> {
        let made = self.made.iter().map(Some).chain(std::iter::repeat(None));
        self.tasks.iter().zip(made).take(count).map(|(task, made)| {
            let Made { kind, own } = made.copied().unwrap_or_default();
            AwaitedTask { kind: kind.into(), number: task.number, own }
        })
    }

    /// Of each of the first so many tasks: whether it was made for who waits for it, the last of whom is the one behind them,
    /// which has worked on a request since `since`. Something was `lost` then.
    pub(super) fn made_for(
        &self,
        count: usize,
        since: KernelInstant,
        lost: Option<KernelInstant>,
    ) -> impl Iterator<Item = MadeFor> {
        let makers = self.makers.iter().copied().chain(std::iter::repeat(Maker::Unseen));
        makers.take(count).enumerate().map(move |(place, maker)| {
            let waiters = self.tasks.get(place + 1..=count).unwrap_or_default();
            match maker.made(lost) {
                None => MadeFor::Unseen,
                Some(made) if !waiters.contains(&made.maker) => MadeFor::Another,
                Some(made) if made.at <= since => MadeFor::Before,
                Some(_) => MadeFor::Waiters,
            }
        })
    }

    /// Whether every request that was open when this call was made has ended.
    pub(super) fn is_over(&self, tasks: &Tasks) -> bool {
        self.key.is_none_or(|key| tasks.is_over(key))
    }
}

/// Notes on a call of a thread that serves no request.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// Who had woken the thread before it sent the call.
    pub(super) submit: Option<Submit>,
    /// Whose threads were woken at its end. These requests stay.
    pub(super) candidates: Vec<HandedTo>,
    /// Others may have been.
    pub(super) unsure: bool,
    /// It shows by itself that its thread wakes requests that it was not made for.
    pub(super) elsewhere: bool,
    /// Another thread read some of its response.
    pub(super) moved: bool,
    /// When it ended, one request was open that had been before it was sent.
    pub(super) one_cause: bool,
    /// What its wake-ups name was counted: there are no more of them.
    pub(super) counted: bool,
    /// What it says about its group was taken down.
    pub(super) spoke: bool,
    pub(super) concluded: Option<Result<Key, Undecided>>,
}

/// A thread was woken by one that had this request and no other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submit {
    pub(super) request: Option<Key>,
    /// Of the futex; zero where the thread was created.
    pub(super) address: u64,
}

/// The thread that serves a request was woken.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandedTo {
    pub(super) request: Key,
    pub(super) asleep_since: KernelInstant,
    pub(super) woken: KernelInstant,
    /// The futexes on the way there; zero where a thread was created.
    pub(super) path: [u64; MAX_HOPS],
    pub(super) hops: usize,
}

/// Whose response began in the windows of a call's response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Window {
    #[default]
    None,
    One(Key),
    Several,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(super) last: Option<Mark>,
    pub(super) time: KernelInstant,
    pub(super) outcome: Outcome,
    pub(super) response_body: Option<BodyLen>,
    pub(super) trailer: Option<Trailer>,
    pub(super) incomplete: Option<Incomplete>,
}

/// Whose child am I? Open until evidence or a deadline settles it, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Open,
    Settled(Settled),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Parent {
        span_id: SpanId,
        evidence: Evidence,
        confidence: Confidence,
        remote: bool,
    },
    /// `None`: nothing was there to be its parent.
    Root(Option<Undecided>),
}

/// Why no parent is claimed: value of `tracer.parent.undecided`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Undecided {
    /// The thread that made the call serves nothing at that moment; another part of the process might be the cause.
    NoOpenRequest,
    /// The thread had several requests open.
    SeveralOpenRequests,
    /// Reads that do not wait: an event loop, or something that cannot be told from one.
    EventLoop,
    /// Requests of this process do not stay with a thread.
    NotThreadPerRequest,
    /// The task that made the call serves no request that was open, and nobody who does is known to wait for it.
    TaskUnrelated,
    /// The task had answered another request before, and may have made the call for that.
    TaskNotFresh,
    /// The task may have been made before the request came.
    TaskOlder,
    /// A task between the request and the call was made by another task than those that wait for it.
    TaskOfAnother,
    /// Several threads used the connection of the request that might be the cause.
    RequestMovedThreads,
    /// The request that might be the cause was never answered by its thread after the call.
    RequestUnanswered,
    /// The request that might be the cause was not answered before the deadline.
    RequestStillOpen,
    /// The process has not yet shown often enough that its requests stay with their threads.
    ProcessUnproven,
    /// Events were lost that could have shown another cause.
    EventsLost,
    /// nginx: no response began in a window of this call's response.
    NoResponseWindow,
    /// nginx: the windows name several requests, or name one that is not what triggered the call.
    ResponseWindowsDisagree,
    /// The other end is traced, but its side of the exchange was not seen.
    PeerUnseen,
    /// More than one exchange could be the other end.
    PeerAmbiguous,
    /// A header names a span that other requests were already made for: an ancestor.
    HeaderPassedThrough,
    /// What the call's headers carry came in with several requests, or had left before it came.
    HeaderShared,
    /// The process has not yet shown often enough that it hands on what requests bring.
    HeaderUnproven,
    /// The process serves a protocol that is not read: a request that is not seen may be the cause.
    UnreadRequests,
    /// The request that might be the cause may be an effect of the call.
    OrderUnclear,
    /// The request that might be the cause was over before the call was.
    CauseEndedFirst,
    /// Headers have shown the rule that names a parent to be wrong in this process.
    RuleContradicted,
    /// The rules that would tell are off.
    RulesOff,
    /// What names a parent is less sure than is asked for.
    BelowConfidence,
    /// At the end of the call no thread was woken that waited for it and serves a request.
    NoHandOff,
    /// Its connection, or that of the request that might be the cause, is read and written for many at a time: by which
    /// thread says nothing.
    Multiplexed,
    /// Several were.
    SeveralHandOffs,
    /// One was, but it is not yet known what threads wait for in this process.
    HandOffUnproven,
    /// One was, but in this process threads wait for other things than the ends of their calls.
    HandOffsElsewhere,
    /// Two kinds of evidence name different parents, or different traces.
    Contradiction,
    /// The process that made the call was forked for a request, or its goroutine was started for one, and lived on after it.
    ChildOutlives,
    /// A bound of the tracer was reached first.
    LimitReached,
}

impl Undecided {
    /// A later event may still remove the reason.
    pub(super) const fn may_pass(self) -> bool {
        match self {
            Self::SeveralOpenRequests | Self::RequestStillOpen | Self::RequestUnanswered => true,
            Self::NoOpenRequest
            | Self::EventLoop
            | Self::NotThreadPerRequest
            | Self::TaskUnrelated
            | Self::TaskNotFresh
            | Self::TaskOlder
            | Self::TaskOfAnother
            | Self::RequestMovedThreads
            | Self::ProcessUnproven
            | Self::EventsLost
            | Self::NoResponseWindow
            | Self::ResponseWindowsDisagree
            | Self::PeerUnseen
            | Self::PeerAmbiguous
            | Self::HeaderPassedThrough
            | Self::HeaderShared
            | Self::HeaderUnproven
            | Self::UnreadRequests
            | Self::OrderUnclear
            | Self::CauseEndedFirst
            | Self::RuleContradicted
            | Self::RulesOff
            | Self::BelowConfidence
            | Self::NoHandOff
            | Self::Multiplexed
            | Self::SeveralHandOffs
            | Self::HandOffUnproven
            | Self::HandOffsElsewhere
            | Self::Contradiction
            | Self::ChildOutlives
            | Self::LimitReached => false,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoOpenRequest => "no-open-request",
            Self::SeveralOpenRequests => "several-open-requests",
            Self::EventLoop => "event-loop",
            Self::NotThreadPerRequest => "not-thread-per-request",
            Self::TaskUnrelated => "task-unrelated",
            Self::TaskNotFresh => "task-not-fresh",
            Self::TaskOlder => "task-older",
            Self::TaskOfAnother => "task-of-another",
            Self::RequestMovedThreads => "request-moved-threads",
            Self::RequestUnanswered => "request-unanswered",
            Self::RequestStillOpen => "request-still-open",
            Self::ProcessUnproven => "process-unproven",
            Self::EventsLost => "events-lost",
            Self::NoResponseWindow => "no-response-window",
            Self::ResponseWindowsDisagree => "response-windows-disagree",
            Self::PeerUnseen => "peer-unseen",
            Self::PeerAmbiguous => "peer-ambiguous",
            Self::HeaderPassedThrough => "header-passed-through",
            Self::HeaderShared => "header-shared",
            Self::HeaderUnproven => "header-unproven",
            Self::UnreadRequests => "unread-requests",
            Self::OrderUnclear => "order-unclear",
            Self::CauseEndedFirst => "cause-ended-first",
            Self::RuleContradicted => "rule-contradicted",
            Self::RulesOff => "rules-off",
            Self::BelowConfidence => BELOW_CONFIDENCE,
            Self::NoHandOff => "no-hand-off",
            Self::Multiplexed => "multiplexed",
            Self::SeveralHandOffs => "several-hand-offs",
            Self::HandOffUnproven => "hand-off-unproven",
            Self::HandOffsElsewhere => "hand-offs-elsewhere",
            Self::Contradiction => "contradiction",
            Self::ChildOutlives => "child-outlives",
            Self::LimitReached => "limit-reached",
        }
    }
}
