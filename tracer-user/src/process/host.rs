//! The host that the traced processes run on.

use tracer_core::event::HostFacts;

/// Where systemd, and before it D-Bus, keep the machine's id.
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// What can be learned without asking anybody over the network.
pub(crate) fn host_facts() -> HostFacts {
    let uname = rustix::system::uname();
    let text =
        |field: &std::ffi::CStr| field.to_str().ok().filter(|text| !text.is_empty()).map(str::to_owned);
    HostFacts {
        name: text(uname.nodename()),
        id: MACHINE_ID_FILES.iter().find_map(|file| machine_id(&std::fs::read_to_string(file).ok()?)),
        arch: uname.machine().to_str().ok().map(|machine| architecture(machine).to_owned()),
        kernel_release: text(uname.release()),
    }
}

/// `None` for a machine that has not been given one yet ("uninitialized").
fn machine_id(contents: &str) -> Option<String> {
    let id = contents.trim();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

/// The kernel's name of an architecture as the semantic conventions write it (`host.arch`).
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        "ppc64le" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(machine_id(&format!("{id}\n")).as_deref(), Some(id));
        assert_eq!(machine_id("uninitialized\n"), None);
        assert_eq!(machine_id(""), None);
    }

    #[test]
    fn this_host_has_a_name_and_an_architecture() {
        let facts = host_facts();
        assert!(facts.name.is_some() && facts.kernel_release.is_some());
        let want = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        assert_eq!(facts.arch.as_deref(), Some(want));
    }
}
