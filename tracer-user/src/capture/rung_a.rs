//! Rung A: the socket layer's own trace points (Linux 6.3 and later). Free for everything that is not a socket
//! operation.

use tracer_abi::config::identity_slot as slot;

use super::ladder::{Identity, Probe};

pub(super) const DESCRIPTION: &str = "socket length trace points";

pub(super) const PROBES: &[Probe] = &[
    Probe::trace_point("tracer_send", "sock_send_length"),
    Probe::trace_point("tracer_recv", "sock_recv_length"),
];

pub(super) const PYTHON: &[Identity] = &[
    Probe::trace_point("tracer_py_send", "sock_send_length").after("TRACER_IDSEND", slot::PYTHON),
    Probe::trace_point("tracer_py_recv", "sock_recv_length").after("TRACER_IDRECV", slot::PYTHON),
];

pub(super) const GO: &[Identity] = &[
    Probe::trace_point("tracer_go_send", "sock_send_length").after("TRACER_IDSEND", slot::GO),
    Probe::trace_point("tracer_go_recv", "sock_recv_length").after("TRACER_IDRECV", slot::GO),
];

pub(super) const TOKIO: &[Identity] = &[
    Probe::trace_point("tracer_tk_send", "sock_send_length").after("TRACER_IDSEND", slot::TOKIO),
    Probe::trace_point("tracer_tk_recv", "sock_recv_length").after("TRACER_IDRECV", slot::TOKIO),
];

pub(super) const GREENLET: &[Identity] = &[
    Probe::trace_point("tracer_gl_send", "sock_send_length").after("TRACER_IDSEND", slot::GREENLET),
    Probe::trace_point("tracer_gl_recv", "sock_recv_length").after("TRACER_IDRECV", slot::GREENLET),
];

pub(super) const TLS: &[Probe] = &[
    Probe::trace_point("tracer_tls_send", "sock_send_length"),
    Probe::trace_point("tracer_tls_recv", "sock_recv_length"),
];
