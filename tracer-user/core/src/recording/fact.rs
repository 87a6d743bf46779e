//! Facts that user space adds to a run, as they are written: JSON, so that a new field does not break old files.

use serde::{Deserialize, Serialize};
use tracer_abi::error::KernelLoss;
use tracer_abi::task::{ProcessKey, Tgid};
use tracer_abi::time::KernelInstant;

use crate::event::{Event, ProcessDescribed, ProcessFacts};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fact {
    ProcessDescribed { time: u64, tgid: u32, start_boottime: u64, facts: ProcessFacts },
    AskingInterrupted { time: u64, tgid: u32, start_boottime: u64 },
    LossCounted { time: u64, loss: u32, count: u64 },
}

impl Fact {
    /// `None` for what the kernel reports: that is written as the record it was.
    pub(super) fn from_event(event: &Event) -> Option<Self> {
        match event {
            Event::ProcessDescribed(described) => {
                let ProcessDescribed { time, process, facts } = &**described;
                Some(Self::ProcessDescribed {
                    time: time.as_nanos(),
                    tgid: process.tgid.0,
                    start_boottime: process.start_boottime,
                    facts: facts.clone(),
                })
            }
            Event::AskingInterrupted { time, process } => Some(Self::AskingInterrupted {
                time: time.as_nanos(),
                tgid: process.tgid.0,
                start_boottime: process.start_boottime,
            }),
            Event::LossCounted { time, loss, count } => {
                Some(Self::LossCounted { time: time.as_nanos(), loss: loss.code(), count: *count })
            }
            Event::DataMoved(_)
            | Event::PlaintextMoved(_)
            | Event::CiphertextMoved(_)
            | Event::SessionEnded(_)
            | Event::SessionSecured(_)
            | Event::RecordSealed(_)
            | Event::ConnOpened(_)
            | Event::ConnClosed(_)
            | Event::ListenStarted(_)
            | Event::ProcessForked(_)
            | Event::ProcessExeced(_)
            | Event::TaskExited(_)
            | Event::TaskIdentified(_) => None,
            Event::ThreadWoken(_) | Event::WorkSubmitted(_) => None,
        }
    }

    pub(super) fn from_json(json: &[u8]) -> Result<Event, serde_json::Error> {
        Ok(match serde_json::from_slice(json)? {
            Self::ProcessDescribed { time, tgid, start_boottime, facts } => {
                Event::ProcessDescribed(Box::new(ProcessDescribed {
                    time: KernelInstant::from_nanos(time),
                    process: ProcessKey { tgid: Tgid(tgid), start_boottime },
                    facts,
                }))
            }
            Self::AskingInterrupted { time, tgid, start_boottime } => Event::AskingInterrupted {
                time: KernelInstant::from_nanos(time),
                process: ProcessKey { tgid: Tgid(tgid), start_boottime },
            },
            Self::LossCounted { time, loss, count } => Event::LossCounted {
                time: KernelInstant::from_nanos(time),
                loss: KernelLoss::try_from(loss).map_err(serde::de::Error::custom)?,
                count,
            },
        })
    }
}
