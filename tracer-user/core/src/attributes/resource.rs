//! Process and host facts to resource attributes.

use opentelemetry_semantic_conventions::attribute as semconv;
use tracer_abi::task::ProcessKey;

use super::text::clean;
use crate::event::{HostFacts, ProcessFacts};
use crate::span::{Resource, Value};

const NAME: &str = "tracer";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Facts that the process may not state about itself, because they are known better.
const OWN: [&str; 10] = [
    semconv::SERVICE_NAME,
    semconv::PROCESS_PID,
    semconv::PROCESS_VPID,
    semconv::PROCESS_EXECUTABLE_NAME,
    semconv::PROCESS_EXECUTABLE_PATH,
    semconv::TELEMETRY_SDK_NAME,
    semconv::TELEMETRY_SDK_LANGUAGE,
    semconv::TELEMETRY_SDK_VERSION,
    semconv::TELEMETRY_DISTRO_NAME,
    semconv::TELEMETRY_DISTRO_VERSION,
];

/// The resource of a process's spans; each key once, sorted. `facts` is absent while user space has not described the
/// process.
pub(crate) fn resource(process: ProcessKey, facts: Option<&ProcessFacts>, host: &HostFacts) -> Resource {
    let mut attributes: Vec<(String, Value)> = Vec::with_capacity(20);
    let mut put = |key: &str, value: Value| attributes.push((key.to_owned(), value));
    let mut text = |key: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            put(key, Value::Str(clean(value)));
        }
    };

    // The fallback that the resource conventions give for `service.name`.
    let service = facts.map(|facts| facts.service_name.as_str()).filter(|name| !name.is_empty());
    text(semconv::SERVICE_NAME, Some(service.unwrap_or("unknown_service")));
    text(semconv::TELEMETRY_SDK_NAME, Some(NAME));
    text(semconv::TELEMETRY_SDK_LANGUAGE, Some("rust"));
    text(semconv::TELEMETRY_SDK_VERSION, Some(VERSION));
    text(semconv::TELEMETRY_DISTRO_NAME, Some(NAME));
    text(semconv::TELEMETRY_DISTRO_VERSION, Some(VERSION));
    if let Some(facts) = facts {
        text(semconv::PROCESS_EXECUTABLE_NAME, facts.executable_name.as_deref());
        text(semconv::PROCESS_EXECUTABLE_PATH, facts.executable_path.as_deref());
        // Of the same key the first stays: what a process says of its own container or host is what its owner set.
        for (key, value) in facts.resource_attributes.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
            text(&clean(key), Some(value));
        }
        text(semconv::PROCESS_OWNER, facts.owner.as_deref());
        text(semconv::CONTAINER_ID, facts.container_id.as_deref());
    }
    text(semconv::HOST_NAME, host.name.as_deref());
    text(semconv::HOST_ID, host.id.as_deref());
    text(semconv::HOST_ARCH, host.arch.as_deref());
    text(semconv::OS_TYPE, Some("linux"));
    text(semconv::OS_VERSION, host.kernel_release.as_deref());
    put(semconv::PROCESS_PID, Value::Int(i64::from(process.tgid.0)));
    if let Some(facts) = facts {
        if let Some(pid) = facts.ns_pid {
            put(semconv::PROCESS_VPID, Value::Int(i64::from(pid)));
        }
        if let Some(args) = &facts.command_args {
            put(
                semconv::PROCESS_COMMAND_ARGS,
                Value::StrArray(args.iter().map(|arg| clean(arg).into()).collect()),
            );
        }
    }
    attributes.sort_by(|(a, _), (b, _)| a.cmp(b));
    attributes.dedup_by(|(later, _), (earlier, _)| later == earlier);
    Resource { attributes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_abi::task::Tgid;

    const PROCESS: ProcessKey = ProcessKey { tgid: Tgid(42), start_boottime: 1 };

    fn value<'a>(resource: &'a Resource, key: &str) -> Option<&'a Value> {
        let mut found = resource.attributes.iter().filter(|(name, _)| name == key);
        let value = found.next().map(|(_, value)| value);
        assert!(found.next().is_none(), "{key} twice");
        value
    }

    #[test]
    fn a_process_without_facts_has_a_resource() {
        let resource = resource(PROCESS, None, &HostFacts::default());
        assert_eq!(resource.service_name(), "unknown_service");
        assert_eq!(value(&resource, "process.pid"), Some(&Value::Int(42)));
        assert_eq!(value(&resource, "telemetry.distro.name"), Some(&Value::from("tracer")));
    }

    #[test]
    fn a_process_adds_facts_but_does_not_change_its_identity() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let facts = ProcessFacts {
            service_name: "shop".into(),
            container_id: Some("abc".into()),
            ns_pid: Some(1),
            resource_attributes: vec![
                pair("service.version", "2\u{1b}[m"),
                pair("process.pid", "1"),
                pair("service.name", "evil"),
                pair("telemetry.sdk.name", "evil"),
                pair("container.id", "mine"),
                pair("host.name", "node"),
            ],
            ..ProcessFacts::default()
        };
        let host = HostFacts { name: Some("box".into()), ..HostFacts::default() };
        let resource = resource(PROCESS, Some(&facts), &host);
        assert_eq!(resource.service_name(), "shop");
        for (key, want) in [
            ("service.version", Value::from("2\\x1b[m")),
            ("process.pid", Value::Int(42)),
            ("process.vpid", Value::Int(1)),
            ("telemetry.sdk.name", Value::from("tracer")),
            ("container.id", Value::from("mine")),
            ("host.name", Value::from("node")),
        ] {
            assert_eq!(value(&resource, key), Some(&want), "{key}");
        }
    }
}
