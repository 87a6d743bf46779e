//! Rung B: returns of the protocols' send and receive functions, for kernels without the trace points of rung A that
//! allow trampolines (x86_64 since 5.5).

use tracer_abi::config::{RECORDS_SLOT, identity_slot as slot};

use super::ladder::{Probe, TailCall};

pub(super) const DESCRIPTION: &str = "returns of the socket send and receive functions";

pub(super) const PROBES: &[Probe] = &[
    Probe::function_exit("tracer_in4_send", "inet_sendmsg"),
    // A kernel may be built without IPv6.
    Probe::function_exit("tracer_in6_send", "inet6_sendmsg").where_present(),
    Probe::function_exit("tracer_un_send", "unix_stream_sendmsg"),
    Probe::function_exit("tracer_in4_recv", "inet_recvmsg"),
    Probe::function_exit("tracer_in6_recv", "inet6_recvmsg").where_present(),
    Probe::function_exit("tracer_un_recv", "unix_stream_recvmsg"),
    // Before 6.5, sendfile and splice to a socket have an entry of their own.
    Probe::function_exit("tracer_in_page", "inet_sendpage").where_present(),
    Probe::function_exit("tracer_un_page", "unix_stream_sendpage").where_present(),
];

pub(super) const PYTHON: &[TailCall] = &[
    Probe::function_exit("tracer_py_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::PYTHON),
    Probe::function_exit("tracer_py_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::PYTHON),
    Probe::function_exit("tracer_py_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::PYTHON),
    Probe::function_exit("tracer_py_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::PYTHON),
    Probe::function_exit("tracer_py_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::PYTHON),
    Probe::function_exit("tracer_py_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::PYTHON),
];

pub(super) const GO: &[TailCall] = &[
    Probe::function_exit("tracer_go_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::GO),
    Probe::function_exit("tracer_go_in6s", "inet6_sendmsg").where_present().after("TRACER_IDIN6S", slot::GO),
    Probe::function_exit("tracer_go_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::GO),
    Probe::function_exit("tracer_go_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::GO),
    Probe::function_exit("tracer_go_in6r", "inet6_recvmsg").where_present().after("TRACER_IDIN6R", slot::GO),
    Probe::function_exit("tracer_go_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::GO),
];

pub(super) const TOKIO: &[TailCall] = &[
    Probe::function_exit("tracer_tk_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::TOKIO),
    Probe::function_exit("tracer_tk_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::TOKIO),
    Probe::function_exit("tracer_tk_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::TOKIO),
    Probe::function_exit("tracer_tk_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::TOKIO),
    Probe::function_exit("tracer_tk_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::TOKIO),
    Probe::function_exit("tracer_tk_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::TOKIO),
];

pub(super) const GREENLET: &[TailCall] = &[
    Probe::function_exit("tracer_gl_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::GREENLET),
    Probe::function_exit("tracer_gl_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::GREENLET),
    Probe::function_exit("tracer_gl_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::GREENLET),
    Probe::function_exit("tracer_gl_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::GREENLET),
    Probe::function_exit("tracer_gl_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::GREENLET),
    Probe::function_exit("tracer_gl_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::GREENLET),
];

pub(super) const JAVA: &[TailCall] = &[
    Probe::function_exit("tracer_jv_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::JAVA),
    Probe::function_exit("tracer_jv_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::JAVA),
    Probe::function_exit("tracer_jv_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::JAVA),
    Probe::function_exit("tracer_jv_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::JAVA),
    Probe::function_exit("tracer_jv_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::JAVA),
    Probe::function_exit("tracer_jv_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::JAVA),
];

pub(super) const PYTHON_WORK: &[TailCall] = &[
    Probe::function_exit("tracer_pw_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::PYTHON_WORK),
    Probe::function_exit("tracer_pw_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::PYTHON_WORK),
    Probe::function_exit("tracer_pw_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::PYTHON_WORK),
    Probe::function_exit("tracer_pw_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::PYTHON_WORK),
    Probe::function_exit("tracer_pw_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::PYTHON_WORK),
    Probe::function_exit("tracer_pw_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::PYTHON_WORK),
];

pub(super) const JAVA_WORK: &[TailCall] = &[
    Probe::function_exit("tracer_jw_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::JAVA_WORK),
    Probe::function_exit("tracer_jw_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::JAVA_WORK),
    Probe::function_exit("tracer_jw_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::JAVA_WORK),
    Probe::function_exit("tracer_jw_in4r", "inet_recvmsg").after("TRACER_IDIN4R", slot::JAVA_WORK),
    Probe::function_exit("tracer_jw_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", slot::JAVA_WORK),
    Probe::function_exit("tracer_jw_unr", "unix_stream_recvmsg").after("TRACER_IDUNR", slot::JAVA_WORK),
];

pub(super) const NGINX: &[TailCall] = &[
    Probe::function_exit("tracer_ng_in4s", "inet_sendmsg").after("TRACER_IDIN4S", slot::NGINX),
    Probe::function_exit("tracer_ng_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", slot::NGINX),
    Probe::function_exit("tracer_ng_uns", "unix_stream_sendmsg").after("TRACER_IDUNS", slot::NGINX),
];

pub(super) const TLS: &[TailCall] = &[
    Probe::function_exit("tracer_tls_in4s", "inet_sendmsg").after("TRACER_IDIN4S", RECORDS_SLOT),
    Probe::function_exit("tracer_tls_in6s", "inet6_sendmsg")
        .where_present()
        .after("TRACER_IDIN6S", RECORDS_SLOT),
    Probe::function_exit("tracer_tls_in4r", "inet_recvmsg").after("TRACER_IDIN4R", RECORDS_SLOT),
    Probe::function_exit("tracer_tls_in6r", "inet6_recvmsg")
        .where_present()
        .after("TRACER_IDIN6R", RECORDS_SLOT),
];
