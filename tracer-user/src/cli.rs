//! The command line as clap types. It parses and explains; [`crate::config`] validates.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::capture::{DEFAULT_BUDGET_PERCENT, Rung};
use crate::units;

#[derive(Debug, Parser)]
#[command(
    name = "tracer",
    version,
    about = "Zero-instrumentation distributed tracing: what unmodified programs do on their sockets, as true traces",
    after_help = "Examples:\n  \
        tracer run -- curl -s http://localhost:8080/\n  \
        tracer attach --exe nginx --port 8000\n  \
        tracer run --otlp-endpoint http://localhost:4318 -- ./server\n\n\
        Exit codes: 0, 1 runtime failure, 64 usage; `run` exits with the code of its command.",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a command; trace it and all its descendants from their first byte
    Run(RunArgs),
    /// Trace running processes, and those that match later
    Attach(AttachArgs),
    /// Make spans from a recording; needs no root and no kernel support
    Replay(ReplayArgs),
    /// Say what this kernel offers to the tracer, and what is missing
    Doctor(DoctorArgs),
}

#[derive(Debug, Args)]
#[command(
    override_usage = "tracer run [OPTIONS] -- CMD [ARGS]...",
    after_help = "Examples:\n  \
        tracer run -- python3 shop.py\n  \
        sudo tracer run --record shop.rec -- python3 shop.py\n  \
        tracer run --user www-data --otlp-endpoint http://localhost:4317 --otlp-protocol grpc -- ./server\n\n\
        Exits with CMD's exit code: 128+n if signal n killed it, 127 if it was not found, 126 if it could not be \
        executed."
)]
pub(crate) struct RunArgs {
    /// Run CMD as this user [default: the invoking user under sudo, else the current user]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// When CMD has ended, go on until its descendants have ended too
    #[arg(long)]
    pub(crate) follow: bool,

    #[command(flatten)]
    pub(crate) capture: CaptureArgs,

    #[command(flatten)]
    pub(crate) spans: SpanArgs,

    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        tracer attach --pid 4711 --duration 30s\n  \
        tracer attach --exe nginx --exe '/opt/shop/*' --port 8000\n  \
        tracer attach --all --otlp-endpoint http://localhost:4318\n\n\
        Stops on SIGINT or SIGTERM, after everything seen was written; a second signal stops at once.")]
pub(crate) struct AttachArgs {
    /// Trace this process and its descendants, running and future; may be repeated
    #[arg(long = "pid", value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: Vec<u32>,

    /// Trace processes whose executable matches, by its name or, if GLOB contains a slash, its path; may be repeated
    #[arg(long = "exe", value_name = "GLOB")]
    pub(crate) exes: Vec<String>,

    /// Trace processes that listen on this TCP port; may be repeated
    #[arg(long = "port", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ports: Vec<u16>,

    /// Trace every process but the tracer itself
    #[arg(long)]
    pub(crate) all: bool,

    /// Stop after this time, such as 30s or 5m
    #[arg(long, value_name = "D", value_parser = duration())]
    pub(crate) duration: Option<Duration>,

    #[command(flatten)]
    pub(crate) capture: CaptureArgs,

    #[command(flatten)]
    pub(crate) spans: SpanArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        tracer replay shop.rec\n  \
        tracer replay shop.rec --format otlp-json -o shop.jsonl\n  \
        tracer replay shop.rec --otlp-endpoint http://localhost:4318")]
pub(crate) struct ReplayArgs {
    /// A recording made with --record
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) spans: SpanArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        tracer doctor\n  \
        tracer doctor --format json\n  \
        sudo tracer doctor --pid 4711")]
pub(crate) struct DoctorArgs {
    /// Say also whether this process's event loop tells whose work a call is; may be repeated
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Vec<u32>,

    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub(crate) format: DoctorFormat,

    /// Say more about what the tracer does
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoctorFormat {
    Text,
    Json,
}

/// What is captured, and kept of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Capture")]
pub(crate) struct CaptureArgs {
    /// Write the raw kernel events to a new file, for `tracer replay`. It contains payload: the bytes that the traced
    /// programs sent and received
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    /// Keep what programs sent and received through TLS in the recording, too, in clear [default: its lengths only]
    #[arg(long, requires = "record")]
    pub(crate) record_secrets: bool,

    /// Stop recording at this size; tracing goes on
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size(), requires = "record")]
    pub(crate) record_max_size: u64,

    /// Payload bytes captured per message and direction, up to 64KiB; the rest is counted
    #[arg(long, value_name = "SIZE", default_value = "8KiB", value_parser = size())]
    pub(crate) head_budget: u64,

    /// Capture in this way or not at all [default: the best one that works; `tracer doctor` tries them all]
    #[arg(long, value_enum)]
    pub(crate) rung: Option<Rung>,

    /// Follow which thread of a process wakes which, to find the parents of calls that a thread makes for another one's
    /// request. It costs at every wake-up: in those processes that need it, in all, or in none
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = HandOffs::Auto)]
    pub(crate) handoff: HandOffs,

    /// Share of a process's CPU time that asking its runtime may take in the long run, in percent. A process that comes to
    /// more is left alone now and then, and most of its calls have no parents meanwhile. With 0 none is asked
    #[arg(long, value_name = "PERCENT", default_value_t = DEFAULT_BUDGET_PERCENT, value_parser = percent())]
    pub(crate) identity_budget: f64,

    /// Put the command-line arguments of traced processes into their resource. They may contain secrets
    #[arg(long)]
    pub(crate) command_args: bool,
}

/// What becomes of the events, live or replayed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct SpanArgs {
    /// Write spans to this file [default: standard error]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// How to write spans [default: tree, or none when an endpoint is set]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,

    /// Send spans to this OTLP receiver, such as http://localhost:4318
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,

    /// Protocol of the endpoint [default: grpc when its port is 4317, else http/protobuf]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub(crate) otlp_protocol: Option<Protocol>,

    /// How long after its end a span may wait for its parent to be known
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration())]
    pub(crate) decide_timeout: Duration,

    /// Headers that name a caller's trace, in order of precedence: a list of tracecontext, b3, b3multi, jaeger, xray,
    /// ottrace, opencensus, datadog, gcp, sw8, elastic and baggage, or none [default: all of them]
    #[arg(long, value_name = "LIST")]
    pub(crate) propagators: Option<String>,

    /// Keep the baggage of these keys, a list, as attributes of the spans. It may contain secrets [default: none]
    #[arg(long, value_name = "LIST")]
    pub(crate) baggage_keys: Option<String>,

    /// Find out which request of a process its calls were made for. If not, parents are known by joined ends and by headers
    /// that name them alone, and tracing costs less
    #[arg(long, value_enum, value_name = "WHETHER", default_value_t = Rules::On)]
    pub(crate) rules: Rules,

    /// Claim no parent that is less sure than this. What is only possible is wrong in programs whose requests wait for
    /// results that others have asked for; those that are not claimed are linked to
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = MinConfidence::Likely)]
    pub(crate) min_confidence: MinConfidence,

    /// What to do with a call that its program, which traces itself, reports as well: keep it below the program's own
    /// span, or leave it out
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SdkPolicy::Keep)]
    pub(crate) sdk_spans: SdkPolicy,

    /// At exit, say how right the ways to find parents were, per process, wherever headers prove the parent
    #[arg(long)]
    pub(crate) accuracy: bool,

    /// Write spans that their caller marked as not sampled, too
    #[arg(long)]
    pub(crate) include_unsampled: bool,

    /// Seed of the span ids, 64 hex digits: the same recording and seed give the same spans [default: random; for
    /// replay: the recording's]
    #[arg(long, value_name = "HEX", value_parser = ValueParser::new(units::seed))]
    pub(crate) seed: Option<[u8; 32]>,

    /// Say more about what the tracer does; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One block per trace, for people
    Tree,
    /// One line per span, for grep
    Line,
    /// OTLP JSON lines: one TracesData object a line
    OtlpJson,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MinConfidence {
    Certain,
    Likely,
    Possible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandOffs {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rules {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SdkPolicy {
    Keep,
    Suppress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Grpc,
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

fn duration() -> ValueParser {
    ValueParser::new(units::duration)
}

fn percent() -> ValueParser {
    ValueParser::new(units::percent)
}

fn size() -> ValueParser {
    ValueParser::new(units::size)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:") && help.contains(&format!("tracer {name}")), "{help}");
        }
    }

    #[test]
    fn everything_behind_the_command_is_the_commands() {
        for line in [
            &["tracer", "run", "--follow", "--", "ls", "-v", "--user", "x"][..],
            &["tracer", "run", "--follow", "ls", "-v", "--user", "x"],
        ] {
            let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!("not run") };
            assert_eq!(run.command, ["ls", "-v", "--user", "x"]);
            assert!(run.follow && run.user.is_none());
        }
        let Command::Run(run) =
            Cli::try_parse_from(["tracer", "run", "--", "env", "--", "x"]).unwrap().command
        else {
            panic!("not run")
        };
        assert_eq!(run.command, ["env", "--", "x"]);
    }
}
