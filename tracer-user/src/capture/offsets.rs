//! Where the running kernel keeps the fields that the kernel half reads.

use tracer_abi::config::Offsets;

use super::btf::{BtfError, TypeInfo};

/// Resolves every offset, or names the first field that this kernel lacks.
pub(super) fn resolve(types: &TypeInfo) -> Result<Offsets, BtfError> {
    let at = |structure: &str, path: &str| types.field_offset(structure, path);
    // Since 5.11. Without them, only what epoll was told of sockets is not known.
    let [file_f_ep, epitem_fllink, epitem_descriptor, epitem_data] = epoll(types).unwrap_or_default();
    Ok(Offsets {
        sk_family: at("sock", "__sk_common.skc_family")?,
        sk_dport: at("sock", "__sk_common.skc_dport")?,
        sk_num: at("sock", "__sk_common.skc_num")?,
        inet_sport: at("inet_sock", "inet_sport")?,
        sk_daddr: at("sock", "__sk_common.skc_daddr")?,
        sk_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr")?,
        sk_v6_daddr: at("sock", "__sk_common.skc_v6_daddr")?,
        sk_v6_rcv_saddr: at("sock", "__sk_common.skc_v6_rcv_saddr")?,
        sk_net: at("sock", "__sk_common.skc_net.net")?,
        sk_type: at("sock", "sk_type")?,
        sk_protocol: at("sock", "sk_protocol")?,
        sk_socket: at("sock", "sk_socket")?,
        sk_shutdown: at("sock", "sk_shutdown")?,
        sk_flags: at("sock", "__sk_common.skc_flags")?,
        sk_cookie: at("sock", "__sk_common.skc_cookie")?,
        net_inum: at("net", "ns.inum")?,
        socket_sk: at("socket", "sk")?,
        socket_file: at("socket", "file")?,
        file_f_flags: at("file", "f_flags")?,
        file_private_data: at("file", "private_data")?,
        file_f_ep,
        epitem_fllink,
        epitem_descriptor,
        epitem_data,
        tcp_write_seq: at("tcp_sock", "write_seq")?,
        tcp_copied_seq: at("tcp_sock", "copied_seq")?,
        tcp_rcv_nxt: at("tcp_sock", "rcv_nxt")?,
        tcp_snd_una: at("tcp_sock", "snd_una")?,
        tcp_bytes_received: at("tcp_sock", "bytes_received")?,
        tcp_bytes_acked: at("tcp_sock", "bytes_acked")?,
        unix_addr: at("unix_sock", "addr")?,
        unix_peer: at("unix_sock", "peer")?,
        unix_address_len: at("unix_address", "len")?,
        unix_address_name: at("unix_address", "name")?,
        task_tgid: at("task_struct", "tgid")?,
        task_pid: at("task_struct", "pid")?,
        task_group_leader: at("task_struct", "group_leader")?,
        task_real_parent: at("task_struct", "real_parent")?,
        task_start_boottime: at("task_struct", "start_boottime")?,
        task_nvcsw: at("task_struct", "nvcsw")?,
        task_exit_code: at("task_struct", "exit_code")?,
        task_signal: at("task_struct", "signal")?,
        task_mm: at("task_struct", "mm")?,
        task_fsbase: at("task_struct", "thread.fsbase")?,
        task_files: at("task_struct", "files")?,
        files_fdt: at("files_struct", "fdt")?,
        fdtable_max_fds: at("fdtable", "max_fds")?,
        fdtable_fd: at("fdtable", "fd")?,
        signal_live: at("signal_struct", "live")?,
        mm_arg_start: at("mm_struct", "arg_start")?,
        mm_arg_end: at("mm_struct", "arg_end")?,
        bprm_filename: at("linux_binprm", "filename")?,
    })
}

/// How a file's watchers are found.
fn epoll(types: &TypeInfo) -> Result<[u32; 4], BtfError> {
    Ok([
        types.field_offset("file", "f_ep")?,
        types.field_offset("epitem", "fllink")?,
        types.field_offset("epitem", "ffd.fd")?,
        types.field_offset("epitem", "event.data")?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_field() {
        let types = match TypeInfo::of_running_kernel() {
            Ok(types) => types,
            Err(BtfError::Unreadable(error)) => {
                eprintln!("skipped: no type information on this machine: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let offsets = resolve(&types).unwrap();
        // These have not moved since IPv6 addresses joined the common part of sockets.
        assert_eq!((offsets.sk_family, offsets.sk_num, offsets.sk_dport), (16, 14, 12));
        assert!(offsets.tcp_write_seq > offsets.sk_type);
        // Packed on x86_64: four bytes of events, and the data.
        assert!(offsets.file_f_ep > 0 && offsets.epitem_data > offsets.epitem_fllink);
    }
}
