//! Proof that no record has implicit padding: each struct's size is the sum of its fields' sizes.

use core::mem::{align_of, size_of};

use crate::conn::Endpoint;
use crate::event::{
    CiphertextRecord, ConnClosedRecord, ConnRecord, DataRecord, ExecRecord, ExitRecord, ForkRecord, Header,
    IdentityRecord, ListenRecord, RECORD_STARTS, RecordStart, SealedRecord, SessionEndedRecord,
    SessionSecuredRecord, StreamRecord, SubmittedRecord, WokenForRecord, WokenRecord,
};
use crate::golang::{GoLayout, GoProcess};
use crate::greenlet::GreenletProcess;
use crate::java::{JavaProcess, JavaThreads};
use crate::java_waits::JavaWaits;
use crate::nginx::NginxProcess;
use crate::openssl::{OpenSslLayout, RANDOM_BYTES};
use crate::python::{CHAIN_TASKS, PythonLayout, PythonProcess, TaskId};
use crate::python_waits::{FUNCTIONS, PythonWaits};
use crate::python_work::MAX_FUTURES;
use crate::tokio::TokioProcess;

const HEADER: usize = 40;

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Header>() == HEADER);
    assert!(size_of::<DataRecord>() == HEADER + 4 * 8 + 6 * 4 + 2 + 6);
    assert!(size_of::<ConnRecord>() == HEADER + 2 * 8 + 2 * 20 + 3 * 4 + 2 + 2 + 112);
    assert!(size_of::<ConnClosedRecord>() == HEADER + 3 * 8);
    assert!(size_of::<ListenRecord>() == HEADER + 8 + 20 + 4);
    assert!(size_of::<ForkRecord>() == HEADER + 8 + 2 * 4);
    assert!(size_of::<ExecRecord>() == HEADER + 16 + 16);
    assert!(size_of::<ExitRecord>() == HEADER + 8);
    assert!(size_of::<TaskId>() == 16);
    assert!(size_of::<IdentityRecord>() == HEADER + 8 + CHAIN_TASKS * 16 + 4 + 4);
    assert!(size_of::<StreamRecord>() == size_of::<IdentityRecord>() + 2 * 4);
    assert!(size_of::<PythonLayout>() == 24 * 4);
    assert!(size_of::<PythonProcess>() == (16 + 8 + 2) * 8 + 24 * 4);
    assert!(size_of::<GoLayout>() == 10 * 4);
    assert!(size_of::<GoProcess>() == 5 * 8 + 10 * 4);
    assert!(size_of::<GreenletProcess>() == 5 * 8);
    assert!(size_of::<NginxProcess>() == 5 * 8);
    assert!(size_of::<JavaThreads>() == 8 + 4 * 4);
    assert!(size_of::<JavaProcess>() == 3 * 8 + size_of::<JavaThreads>() + 4 * 4);
    assert!(size_of::<JavaWaits>() == 11 * 8 + size_of::<JavaThreads>() + 20 * 4);
    assert!(size_of::<PythonWaits>() == 11 * 8 + FUNCTIONS * 16 + 24 * 4);
    assert!(size_of::<TokioProcess>() == (9 + 4 + 2 * 16 + 3) * 8);
    assert!(size_of::<WokenRecord>() == HEADER + 2 * 8 + 4 + 2 * 2);
    assert!(size_of::<WokenForRecord>() == size_of::<WokenRecord>() + (1 + MAX_FUTURES) * 8);
    assert!(size_of::<SubmittedRecord>() == HEADER + 16 + 8);
    assert!(size_of::<RecordStart>() == 8);
    assert!(size_of::<CiphertextRecord>() == HEADER + 2 * 8 + 2 * 4 + RECORD_STARTS * 8 + 8);
    assert!(size_of::<SealedRecord>() == HEADER + 2 * 8 + 4 + 2 + 2);
    assert!(size_of::<SessionEndedRecord>() == HEADER + 8);
    assert!(size_of::<SessionSecuredRecord>() == HEADER + 8 + 2 * RANDOM_BYTES + 2 * 4);
    assert!(size_of::<OpenSslLayout>() == 9 * 4);
    assert!(align_of::<DataRecord>() == 8);
};
