//! What this run is to do: typed, validated and immutable, from flags and environment in one constructor.
//!
//! A flag that makes no sense is refused; a variable that makes no sense is named in a warning and ignored, as the
//! OpenTelemetry specification asks. Nothing here opens a file or a socket.

pub(crate) mod otel;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tracer_abi::limits::MAX_HEAD_BUDGET_BYTES;
use tracer_core::context::{Propagators, PropagatorsError};
use tracer_core::span::Confidence;
use tracer_core::{HandOffPolicy, SdkSpans};

use crate::capture::{Budget, Rung};
pub(crate) use crate::cli::DoctorFormat;
use crate::cli::{
    AttachArgs, CaptureArgs, Cli, Command as CliCommand, Format, HandOffs, MinConfidence, ReplayArgs, Rules,
    RunArgs, SdkPolicy, SpanArgs,
};
use otel::{Endpoint, OtelEnv, Otlp};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) command: Command,
    /// 0 = what a user must know, 1 = debug, 2 and more = everything.
    pub(crate) verbosity: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Run(Run),
    Attach(Attach),
    Replay(Replay),
    Doctor(Doctor),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doctor {
    pub(crate) format: DoctorFormat,
    /// Processes to be looked at.
    pub(crate) pids: Vec<u32>,
    /// Name every probe.
    pub(crate) verbose: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    /// Program and arguments; never empty.
    pub(crate) command: Vec<OsString>,
    pub(crate) user: RunAs,
    /// Wait for the command's descendants, too.
    pub(crate) follow: bool,
    pub(crate) capture: Capture,
    pub(crate) spans: Spans,
}

/// As whom `run` starts its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// As the tracer itself.
    Same,
    /// `--user`.
    Named(String),
    /// The user who called sudo.
    Invoker { uid: u32, gid: u32 },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attach {
    pub(crate) selectors: Selectors,
    pub(crate) duration: Option<Duration>,
    pub(crate) capture: Capture,
    pub(crate) spans: Spans,
}

/// Which processes to trace; at least one selector is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selectors {
    pub(crate) pids: Vec<u32>,
    pub(crate) exes: Vec<glob::Pattern>,
    pub(crate) ports: Vec<u16>,
    pub(crate) all: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replay {
    pub(crate) file: PathBuf,
    pub(crate) spans: Spans,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Capture {
    pub(crate) record: Option<Record>,
    /// At most [`MAX_HEAD_BUDGET_BYTES`].
    pub(crate) head_budget_bytes: u32,
    /// This way of capture or none.
    pub(crate) rung: Option<Rung>,
    /// In which processes it is followed which thread wakes which.
    pub(crate) handoffs: HandOffPolicy,
    /// What asking runtimes may take of a process's CPU time.
    pub(crate) identity_budget: Budget,
    /// Keep the arguments of traced processes.
    pub(crate) command_args: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    /// What went through TLS, too, in clear.
    pub(crate) secrets: bool,
    pub(crate) max_size_bytes: u64,
}

/// What becomes of events, live or replayed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spans {
    pub(crate) format: Format,
    /// `None`: standard error.
    pub(crate) output: Option<PathBuf>,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) decide_timeout: Duration,
    pub(crate) include_unsampled: bool,
    pub(crate) propagators: Propagators,
    /// Which request of a process its calls were made for is asked.
    pub(crate) rules: bool,
    pub(crate) min_confidence: Confidence,
    pub(crate) sdk_spans: SdkSpans,
    /// Say at exit how the rules did.
    pub(crate) accuracy: bool,
    pub(crate) seed: Option<[u8; 32]>,
    /// The tracer's own `OTEL_RESOURCE_ATTRIBUTES`, without what would rename the traced processes.
    pub(crate) resource_attributes: Vec<(String, String)>,
}

/// The command line asks for something that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("nothing to trace: give at least one of --pid, --exe, --port and --all")]
    NoSelector,
    #[error("--all already includes what --pid, --exe and --port select: give one or the others")]
    AllAndOthers,
    #[error("--exe {glob}: {reason}")]
    BadGlob { glob: String, reason: &'static str },
    #[error("--head-budget must be between 1 and {MAX_HEAD_BUDGET_BYTES} bytes")]
    HeadBudget,
    #[error("--decide-timeout must be at most {} seconds", MAX_DECIDE_TIMEOUT.as_secs())]
    DecideTimeout,
    #[error("--duration must not be zero")]
    ZeroDuration,
    #[error("--otlp-endpoint: {0}")]
    Endpoint(otel::EndpointError),
    #[error("--otlp-protocol needs an endpoint: give --otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT")]
    ProtocolWithoutEndpoint,
    #[error("--propagators: {0}")]
    Propagators(PropagatorsError),
    #[error("--baggage-keys: {0}")]
    BaggageKeys(PropagatorsError),
    #[error("--output would stay empty with --format none")]
    OutputWithoutFormat,
    #[error("SUDO_UID or SUDO_GID is not a number: say with --user as whom to run the command")]
    SudoIds,
    #[error("the command is empty")]
    EmptyCommand,
}

/// A variable that is ignored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) variable: String,
    pub(crate) reason: String,
}

/// Spans waiting for a parent are kept in memory; beyond this nothing is learned any more.
const MAX_DECIDE_TIMEOUT: Duration = Duration::from_secs(3600);

impl Config {
    /// From flags and environment. `env` answers like [`std::env::var_os`].
    ///
    /// # Errors
    /// [`UsageError`] for flags; variables only give [`Warning`]s.
    pub(crate) fn new(
        cli: Cli,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Self, Vec<Warning>), UsageError> {
        let mut warnings = Vec::new();
        let otel = |warnings: &mut Vec<Warning>| OtelEnv::read(&env, warnings);
        let (command, verbosity) = match cli.command {
            CliCommand::Run(args) => {
                let verbosity = args.spans.verbose;
                (Command::Run(run(args, otel(&mut warnings), &env)?), verbosity)
            }
            CliCommand::Attach(args) => {
                let verbosity = args.spans.verbose;
                (Command::Attach(attach(args, otel(&mut warnings))?), verbosity)
            }
            CliCommand::Replay(args) => {
                let verbosity = args.spans.verbose;
                let ReplayArgs { file, spans } = args;
                let spans = self::spans(spans, otel(&mut warnings))?;
                (Command::Replay(Replay { file, spans }), verbosity)
            }
            CliCommand::Doctor(args) => {
                let verbose = args.verbose > 0;
                (Command::Doctor(Doctor { format: args.format, pids: args.pid, verbose }), args.verbose)
            }
        };
        Ok((Self { command, verbosity }, warnings))
    }
}

fn run(args: RunArgs, otel: OtelEnv, env: impl Fn(&str) -> Option<OsString>) -> Result<Run, UsageError> {
    let RunArgs { user, follow, capture, spans, command } = args;
    if command.first().is_none_or(|program| program.is_empty()) {
        return Err(UsageError::EmptyCommand);
    }
    let user = match user {
        Some(name) => RunAs::Named(name),
        None => invoker(env)?,
    };
    Ok(Run { command, user, follow, capture: self::capture(capture)?, spans: self::spans(spans, otel)? })
}

/// sudo says who called it. Root through sudo by root stays root.
fn invoker(env: impl Fn(&str) -> Option<OsString>) -> Result<RunAs, UsageError> {
    let number = |name| env(name).map(|text| text.to_str().and_then(|text| text.parse::<u32>().ok()));
    match (number("SUDO_UID"), number("SUDO_GID")) {
        (None, None) => Ok(RunAs::Same),
        (Some(Some(uid)), Some(Some(gid))) => Ok(RunAs::Invoker { uid, gid }),
        _ => Err(UsageError::SudoIds),
    }
}

fn attach(args: AttachArgs, otel: OtelEnv) -> Result<Attach, UsageError> {
    let AttachArgs { pids, exes, ports, all, duration, capture, spans } = args;
    let others = !pids.is_empty() || !exes.is_empty() || !ports.is_empty();
    match (all, others) {
        (false, false) => return Err(UsageError::NoSelector),
        (true, true) => return Err(UsageError::AllAndOthers),
        (true, false) | (false, true) => {}
    }
    if duration.is_some_and(|duration| duration.is_zero()) {
        return Err(UsageError::ZeroDuration);
    }
    let exes = exes
        .into_iter()
        .map(|text| {
            glob::Pattern::new(&text).map_err(|error| UsageError::BadGlob { glob: text, reason: error.msg })
        })
        .collect::<Result<_, _>>()?;
    let selectors = Selectors { pids, exes, ports, all };
    Ok(Attach { selectors, duration, capture: self::capture(capture)?, spans: self::spans(spans, otel)? })
}

fn capture(args: CaptureArgs) -> Result<Capture, UsageError> {
    let CaptureArgs {
        record,
        record_secrets,
        record_max_size,
        head_budget,
        rung,
        handoff,
        identity_budget,
        command_args,
    } = args;
    let handoffs = match handoff {
        HandOffs::Auto => HandOffPolicy::Auto,
        HandOffs::On => HandOffPolicy::On,
        HandOffs::Off => HandOffPolicy::Off,
    };
    let head_budget_bytes = u32::try_from(head_budget)
        .ok()
        .filter(|bytes| (1..=MAX_HEAD_BUDGET_BYTES).contains(bytes))
        .ok_or(UsageError::HeadBudget)?;
    let record = record.map(|path| Record { path, secrets: record_secrets, max_size_bytes: record_max_size });
    let identity_budget = Budget::of_percent(identity_budget);
    Ok(Capture { record, head_budget_bytes, rung, handoffs, identity_budget, command_args })
}

fn spans(args: SpanArgs, otel: OtelEnv) -> Result<Spans, UsageError> {
    let SpanArgs {
        output,
        format,
        otlp_endpoint,
        otlp_protocol,
        decide_timeout,
        include_unsampled,
        propagators,
        baggage_keys,
        rules,
        min_confidence,
        sdk_spans,
        accuracy,
        seed,
        verbose: _,
    } = args;
    let min_confidence = match min_confidence {
        MinConfidence::Certain => Confidence::Certain,
        MinConfidence::Likely => Confidence::Likely,
        MinConfidence::Possible => Confidence::Possible,
    };
    let sdk_spans = match sdk_spans {
        SdkPolicy::Keep => SdkSpans::Keep,
        SdkPolicy::Suppress => SdkSpans::Suppress,
    };
    if decide_timeout > MAX_DECIDE_TIMEOUT {
        return Err(UsageError::DecideTimeout);
    }
    let propagators = match propagators {
        Some(list) => Propagators::parse(&list).map_err(UsageError::Propagators)?,
        None => otel.propagators.clone(),
    };
    let propagators = match baggage_keys {
        Some(keys) => propagators.with_baggage_keys(&keys).map_err(UsageError::BaggageKeys)?,
        None => propagators,
    };
    let endpoint = match otlp_endpoint {
        Some(url) => Some(Endpoint::base(&url).map_err(UsageError::Endpoint)?),
        None => None,
    };
    let resource_attributes = otel.resource_attributes.clone();
    let otlp = otel.otlp(endpoint, otlp_protocol);
    if otlp.is_none() && otlp_protocol.is_some() {
        return Err(UsageError::ProtocolWithoutEndpoint);
    }
    // A file was named to be written: an endpoint beside it does not leave it empty.
    let default = if otlp.is_some() && output.is_none() { Format::None } else { Format::Tree };
    let format = format.unwrap_or(default);
    if format == Format::None && output.is_some() {
        return Err(UsageError::OutputWithoutFormat);
    }
    Ok(Spans {
        format,
        output,
        otlp,
        decide_timeout,
        include_unsampled,
        propagators,
        rules: rules == Rules::On,
        min_confidence,
        sdk_spans,
        accuracy,
        seed,
        resource_attributes,
    })
}

#[cfg(test)]
mod tests;
