//! Rung A: the socket layer's own trace points (Linux 6.3 and later). Free for everything that is not a socket
//! operation.

use tracer_abi::config::{RECORDS_SLOT, identity_slot as slot};

use super::ladder::{Probe, TailCall};

pub(super) const DESCRIPTION: &str = "socket length trace points";

pub(super) const PROBES: &[Probe] = &[
    Probe::trace_point("tracer_send", "sock_send_length"),
    Probe::trace_point("tracer_recv", "sock_recv_length"),
];

pub(super) const PYTHON: &[TailCall] = &[
    Probe::trace_point("tracer_py_send", "sock_send_length").after("TRACER_IDSEND", slot::PYTHON),
    Probe::trace_point("tracer_py_recv", "sock_recv_length").after("TRACER_IDRECV", slot::PYTHON),
];

pub(super) const GO: &[TailCall] = &[
    Probe::trace_point("tracer_go_send", "sock_send_length").after("TRACER_IDSEND", slot::GO),
    Probe::trace_point("tracer_go_recv", "sock_recv_length").after("TRACER_IDRECV", slot::GO),
];

pub(super) const TOKIO: &[TailCall] = &[
    Probe::trace_point("tracer_tk_send", "sock_send_length").after("TRACER_IDSEND", slot::TOKIO),
    Probe::trace_point("tracer_tk_recv", "sock_recv_length").after("TRACER_IDRECV", slot::TOKIO),
];

pub(super) const GREENLET: &[TailCall] = &[
    Probe::trace_point("tracer_gl_send", "sock_send_length").after("TRACER_IDSEND", slot::GREENLET),
    Probe::trace_point("tracer_gl_recv", "sock_recv_length").after("TRACER_IDRECV", slot::GREENLET),
];

pub(super) const JAVA: &[TailCall] = &[
    Probe::trace_point("tracer_jv_send", "sock_send_length").after("TRACER_IDSEND", slot::JAVA),
    Probe::trace_point("tracer_jv_recv", "sock_recv_length").after("TRACER_IDRECV", slot::JAVA),
];

pub(super) const PYTHON_WORK: &[TailCall] = &[
    Probe::trace_point("tracer_pw_send", "sock_send_length").after("TRACER_IDSEND", slot::PYTHON_WORK),
    Probe::trace_point("tracer_pw_recv", "sock_recv_length").after("TRACER_IDRECV", slot::PYTHON_WORK),
];

pub(super) const JAVA_WORK: &[TailCall] = &[
    Probe::trace_point("tracer_jw_send", "sock_send_length").after("TRACER_IDSEND", slot::JAVA_WORK),
    Probe::trace_point("tracer_jw_recv", "sock_recv_length").after("TRACER_IDRECV", slot::JAVA_WORK),
];

pub(super) const NGINX: &[TailCall] =
    &[Probe::trace_point("tracer_ng_send", "sock_send_length").after("TRACER_IDSEND", slot::NGINX)];

pub(super) const TLS: &[TailCall] = &[
    Probe::trace_point("tracer_tls_send", "sock_send_length").after("TRACER_IDSEND", RECORDS_SLOT),
    Probe::trace_point("tracer_tls_recv", "sock_recv_length").after("TRACER_IDRECV", RECORDS_SLOT),
];
