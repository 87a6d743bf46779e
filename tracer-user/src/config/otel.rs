//! The standard `OTEL_*` variables that apply to the tracer, and the OTLP settings that come of them and of flags.
//!
//! | variable (`…_TRACES_…` before the general one) | meaning | default |
//! |---|---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | base URL; the `TRACES` form is the whole URL | no export |
//! | `…_PROTOCOL` | `grpc`, `http/protobuf` | `grpc` on port 4317, else `http/protobuf` |
//! | `…_HEADERS` | `key=value,…` | none |
//! | `…_TIMEOUT` | milliseconds for one request | 10000 |
//! | `…_COMPRESSION` | `gzip`, `none` | `none` |
//! | `…_CERTIFICATE` | PEM file to verify the receiver with | the usual roots |
//! | `OTEL_PROPAGATORS` | names of header formats, in order of precedence | all that are known |
//! | `OTEL_RESOURCE_ATTRIBUTES` | `key=value,…` for every resource | none |
//! | `OTEL_BSP_SCHEDULE_DELAY`, `_EXPORT_TIMEOUT` | milliseconds | 1000, 30000 |
//! | `OTEL_BSP_MAX_QUEUE_SIZE`, `_MAX_EXPORT_BATCH_SIZE` | spans | 16384, 1024 |
//!
//! Sources: OpenTelemetry "Environment Variable Specification" and "OTLP Exporter Configuration".

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use tracer_core::context::Propagators;

use super::Warning;
use crate::cli::Protocol;
use crate::pairs;

/// Everything that sending spans needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Otlp {
    /// http/protobuf: the URL to post to. grpc: scheme, host and port.
    pub(crate) endpoint: Uri,
    pub(crate) protocol: Protocol,
    /// Names are valid and lower-case; values are secret.
    pub(crate) headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// For one request.
    pub(crate) timeout: Duration,
    pub(crate) compression: Compression,
    /// PEM file with the certificates to trust.
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) batch: BatchLimits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
}

/// The batch span processor's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// A span waits at most this long for its batch to fill.
    pub(crate) schedule_delay: Duration,
    /// For one batch with all its retries.
    pub(crate) export_timeout: Duration,
    /// Spans.
    pub(crate) max_queue: usize,
    /// Spans; at most `max_queue`.
    pub(crate) max_batch: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            // An SDK's 5 s are long for someone who looks at what just happened.
            schedule_delay: Duration::from_secs(1),
            // The specification's default.
            export_timeout: Duration::from_secs(30),
            // An SDK's 2048 are the spans of one program; here they come from all programs of a host. At 100,000 a
            // second this bridges 0.16 s of a busy receiver, in about 9 MB: 550 bytes a span.
            max_queue: 16_384,
            // At 100,000 spans a second 100 requests a second of half a megabyte, far below the 4 MiB that receivers
            // take by default. Larger ones were measured to cost no less.
            max_batch: 1024,
        }
    }
}

/// A receiver's URL and how to read it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Endpoint {
    /// Below it every signal has its path.
    Base(Uri),
    /// The URL for traces, as it is.
    Traces(Uri),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("not a URL")]
    NotAUrl,
    #[error("expected a URL that starts with http:// or https://")]
    Scheme,
    #[error("the URL has no host")]
    NoHost,
    #[error(
        "a user name or password in the URL is not used: give OTEL_EXPORTER_OTLP_HEADERS an authorization header"
    )]
    UserInfo,
}

/// What the variables say, as far as they are valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OtelEnv {
    endpoint: Option<Endpoint>,
    protocol: Option<Protocol>,
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    timeout: Option<Duration>,
    compression: Compression,
    certificate: Option<PathBuf>,
    batch: BatchLimits,
    pub(super) resource_attributes: Vec<(String, String)>,
    pub(super) propagators: Propagators,
}

/// The default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Spans that may be asked to wait in memory; more would be hundreds of megabytes.
const MAX_QUEUE: u64 = 1_000_000;

/// Longest time that a variable may set: a day.
const MAX_MILLIS: u64 = 24 * 3600 * 1000;

/// Port that receivers serve grpc on by convention.
const GRPC_PORT: u16 = 4317;

impl OtelEnv {
    /// Reads all variables; what cannot be used is named in `warnings`.
    pub(super) fn read(env: impl Fn(&str) -> Option<OsString>, warnings: &mut Vec<Warning>) -> Self {
        let mut vars = Variables { env, warnings };
        let defaults = BatchLimits::default();
        let endpoint = vars
            .parse("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", |url| {
                Endpoint::traces(url).map_err(|e| e.to_string())
            })
            .or_else(|| {
                vars.parse("OTEL_EXPORTER_OTLP_ENDPOINT", |url| {
                    Endpoint::base(url).map_err(|e| e.to_string())
                })
            });
        let max_queue = vars.parse("OTEL_BSP_MAX_QUEUE_SIZE", count).unwrap_or(defaults.max_queue);
        let max_batch = vars.parse("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", |text| {
            let batch = count(text)?;
            if batch > max_queue {
                return Err(format!("more than the queue holds, which is {max_queue}"));
            }
            Ok(batch)
        });
        let propagators = vars.propagators();
        Self {
            endpoint,
            propagators,
            protocol: vars.signal("PROTOCOL", protocol),
            headers: vars.signal("HEADERS", headers).unwrap_or_default(),
            timeout: vars.signal("TIMEOUT", millis),
            compression: vars.signal("COMPRESSION", compression).unwrap_or_default(),
            certificate: vars.signal("CERTIFICATE", |path| Ok(PathBuf::from(path))),
            batch: BatchLimits {
                schedule_delay: vars
                    .parse("OTEL_BSP_SCHEDULE_DELAY", millis)
                    .unwrap_or(defaults.schedule_delay),
                export_timeout: vars
                    .parse("OTEL_BSP_EXPORT_TIMEOUT", millis)
                    .unwrap_or(defaults.export_timeout),
                max_queue,
                max_batch: max_batch.unwrap_or(defaults.max_batch.min(max_queue)),
            },
            resource_attributes: vars
                .parse("OTEL_RESOURCE_ATTRIBUTES", |text| pairs::parse(text).map_err(|e| e.to_string()))
                .unwrap_or_default()
                .into_iter()
                // They name the tracer, not the processes it looks at.
                .filter(|(key, _)| key != "service" && !key.starts_with("service."))
                .collect(),
        }
    }

    /// Joins what flags say, which win. `None`: no endpoint is set, so nothing is sent.
    pub(super) fn otlp(self, endpoint: Option<Endpoint>, protocol: Option<Protocol>) -> Option<Otlp> {
        let endpoint = endpoint.or(self.endpoint)?;
        let protocol = protocol.or(self.protocol).unwrap_or_else(|| endpoint.usual_protocol());
        Some(Otlp {
            endpoint: endpoint.for_traces(protocol),
            protocol,
            headers: self.headers,
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            compression: self.compression,
            certificate: self.certificate,
            batch: self.batch,
        })
    }
}

impl Endpoint {
    /// # Errors
    /// Anything but an http or https URL with a host and without userinfo.
    pub(crate) fn base(url: &str) -> Result<Self, EndpointError> {
        parse_url(url).map(Self::Base)
    }

    /// # Errors
    /// As for [`Self::base`].
    pub(crate) fn traces(url: &str) -> Result<Self, EndpointError> {
        parse_url(url).map(Self::Traces)
    }

    fn uri(&self) -> &Uri {
        match self {
            Self::Base(uri) | Self::Traces(uri) => uri,
        }
    }

    fn usual_protocol(&self) -> Protocol {
        if self.uri().port_u16() == Some(GRPC_PORT) { Protocol::Grpc } else { Protocol::HttpProtobuf }
    }

    fn for_traces(self, protocol: Protocol) -> Uri {
        match (self, protocol) {
            (Self::Base(uri), Protocol::HttpProtobuf) => with_traces_path(uri),
            (Self::Base(uri) | Self::Traces(uri), Protocol::Grpc)
            | (Self::Traces(uri), Protocol::HttpProtobuf) => uri,
        }
    }
}

fn parse_url(url: &str) -> Result<Uri, EndpointError> {
    let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(EndpointError::Scheme);
    }
    let authority = uri.authority().ok_or(EndpointError::NoHost)?;
    if authority.host().is_empty() {
        return Err(EndpointError::NoHost);
    }
    if authority.as_str().contains('@') {
        return Err(EndpointError::UserInfo);
    }
    // A port that is no number, or out of range, is kept by the parser but read by nobody.
    if authority.port().is_none() && authority.as_str().len() > authority.host().len() {
        return Err(EndpointError::NotAUrl);
    }
    Ok(uri)
}

/// The base URL with `v1/traces` behind its path. A URL that already ends so was meant as it is.
fn with_traces_path(uri: Uri) -> Uri {
    let path = uri.path().trim_end_matches('/');
    if path.ends_with("/v1/traces") {
        return uri;
    }
    let path = format!("{path}/v1/traces");
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Reads variables and notes which could not be used.
struct Variables<'a, F> {
    env: F,
    warnings: &'a mut Vec<Warning>,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<'_, F> {
    /// An empty variable counts as unset.
    fn parse<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = (self.env)(name).filter(|value| !value.is_empty())?;
        let parsed = match value.to_str() {
            Some(text) => parse(text.trim()),
            None => Err("not valid UTF-8".to_owned()),
        };
        parsed.map_err(|reason| self.warnings.push(Warning { variable: name.to_owned(), reason })).ok()
    }

    /// What is not known is named, and the rest of the list followed.
    fn propagators(&mut self) -> Propagators {
        const NAME: &str = "OTEL_PROPAGATORS";
        let (propagators, errors) =
            self.parse(NAME, |list| Ok(Propagators::parse_known(list))).unwrap_or_default();
        self.warnings.extend(
            errors.iter().map(|error| Warning { variable: NAME.to_owned(), reason: error.to_string() }),
        );
        propagators
    }

    /// The variable for traces, else the one for all signals.
    fn signal<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.parse(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), &parse)
            .or_else(|| self.parse(&format!("OTEL_EXPORTER_OTLP_{name}"), &parse))
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        other => Err(format!("`{other}` is not supported; grpc and http/protobuf are")),
    }
}

fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "none" => Ok(Compression::None),
        other => Err(format!("`{other}` is not supported; gzip and none are")),
    }
}

/// The reasons never quote the text: headers hold secrets.
fn headers(text: &str) -> Result<Vec<(http::HeaderName, http::HeaderValue)>, String> {
    let pairs = pairs::parse(text).map_err(|error| error.to_string())?;
    pairs
        .into_iter()
        .map(|(name, value)| {
            let name =
                http::HeaderName::try_from(name).map_err(|_| "a header name is not valid".to_owned())?;
            let mut value = http::HeaderValue::try_from(value)
                .map_err(|_| format!("the value of {name} is not valid"))?;
            value.set_sensitive(true);
            Ok((name, value))
        })
        .collect()
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(millis) if (1..=MAX_MILLIS).contains(&millis) => Ok(Duration::from_millis(millis)),
        _ => Err(format!("`{text}` is not a number of milliseconds between 1 and {MAX_MILLIS}")),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse::<u64>() {
        Ok(count) if (1..=MAX_QUEUE).contains(&count) => {
            usize::try_from(count).map_err(|_| "out of range".to_owned())
        }
        _ => Err(format!("`{text}` is not a number between 1 and {MAX_QUEUE}")),
    }
}
