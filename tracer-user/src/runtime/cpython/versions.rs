//! Where the versions of CPython have what is read, read off their headers. Fields are the same in all releases of a minor
//! version.

use tracer_abi::python::{Object, PythonLayout, values};
use tracer_abi::python_frame::Frame;

/// A version: where the kernel half and this module find what they read.
pub(super) struct Version {
    pub(super) minor: u8,
    /// From `_PyRuntime`: the first interpreter.
    pub(super) interpreters: u64,
    /// From an interpreter: its modules, its first thread.
    pub(super) modules: u64,
    pub(super) threads: u64,
    /// From a thread state.
    pub(super) thread_next: u64,
    pub(super) thread_id: u64,
    /// From what the tasks' library keeps of its own: the number of the youngest task. `None`: in a variable.
    pub(super) task_counter: Option<u64>,
    /// The interpreter itself says where these and some others are (`_Py_DebugOffsets`), and must agree.
    pub(super) describes_itself: bool,
    pub(super) layout: PythonLayout,
}

pub(super) const VERSIONS: &[Version] = &[
    Version {
        minor: 11,
        interpreters: 40,
        modules: 888,
        threads: 16,
        thread_next: 8,
        thread_id: 152,
        task_counter: None,
        describes_itself: false,
        layout: PythonLayout {
            thread_slot: 0,
            thread_frame: 56,
            is_indirect: 1,
            indirect_frame: 8,
            frame_previous: 48,
            frame_owner: 69,
            frame_stack_top: 64,
            frame_locals: 72,
            frame_code: 32,
            coroutine_frame: 80,
            task_awaits: 128,
            task_coroutine: 136,
            task_name: 144,
            task_logs: 164,
            task_logs_bit: 1,
            text: 48,
            values: values::BEFORE,
            reserved: 0,
        },
    },
    Version {
        minor: 12,
        interpreters: 40,
        modules: 944,
        threads: 72,
        thread_next: 8,
        thread_id: 136,
        task_counter: Some(168),
        describes_itself: false,
        layout: PythonLayout {
            thread_slot: 0,
            thread_frame: 56,
            is_indirect: 1,
            indirect_frame: 0,
            frame_previous: 8,
            frame_owner: 70,
            frame_stack_top: 64,
            frame_locals: 72,
            frame_code: 0,
            coroutine_frame: 72,
            task_awaits: 128,
            task_coroutine: 136,
            task_name: 144,
            task_logs: 164,
            task_logs_bit: 1,
            text: 40,
            values: values::MARKED,
            reserved: 0,
        },
    },
    Version {
        minor: 13,
        interpreters: 632,
        modules: 7656,
        threads: 7344,
        thread_next: 8,
        thread_id: 152,
        task_counter: Some(152),
        describes_itself: true,
        layout: PythonLayout {
            thread_slot: 0,
            thread_frame: 72,
            is_indirect: 0,
            indirect_frame: 0,
            frame_previous: 8,
            frame_owner: 70,
            frame_stack_top: 64,
            frame_locals: 72,
            frame_code: 0,
            coroutine_frame: 72,
            task_awaits: 112,
            task_coroutine: 120,
            task_name: 128,
            task_logs: 100,
            task_logs_bit: 8,
            text: 40,
            values: values::INLINE,
            reserved: 0,
        },
    },
];

const _: () = {
    let mut version = 0;
    while version < VERSIONS.len() {
        assert!(Frame::fits(&VERSIONS[version].layout));
        assert!(Object::fits(&VERSIONS[version].layout));
        version += 1;
    }
};
