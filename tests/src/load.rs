//! Load on a workload service, and what the service says it did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

use crate::http::{Client, Response, drive};
use crate::score::Naming;

/// How to ask.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// First part of every id; ids must be unique under one tracer.
    pub prefix: &'a str,
    pub concurrency: usize,
    pub count: usize,
    pub naming: Naming,
    /// Opens a new connection now and then.
    pub reconnects: bool,
}

/// What happened: the truth for [`crate::score::Truth`].
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Requests by id, with the length of the response's body.
    pub requests: BTreeMap<String, u64>,
    /// Ids of the calls that the service made for them.
    pub calls: BTreeSet<String>,
}

impl Load<'_> {
    /// Asks `addr`; every answer must be a 200.
    pub fn run(&self, addr: SocketAddr) -> anyhow::Result<Happened> {
        let happened = Mutex::new(Happened::default());
        drive(addr, self.concurrency, self.count, |client, number| {
            if self.reconnects && number % 9 == 0 {
                client.close();
            }
            let (id, response) = self.ask(client, number)?;
            happened.lock().unwrap_or_else(PoisonError::into_inner).note(&id, &response, self.naming)
        })?;
        Ok(happened.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask(&self, client: &mut Client, number: usize) -> anyhow::Result<(String, Response)> {
        let id = format!("{}{number}", self.prefix);
        let body = number.is_multiple_of(5).then(|| vec![b'q'; [1, 700, 60_000][number % 3]]);
        let method = if body.is_some() { "POST" } else { "GET" };
        let response = client.request(method, &format!("/work/{id}?secret=s{number}"), body.as_deref())?;
        anyhow::ensure!(response.status == 200, "{id}: status {}", response.status);
        Ok((id, response))
    }
}

impl Happened {
    /// Notes one answered request.
    pub fn note(&mut self, id: &str, response: &Response, naming: Naming) -> anyhow::Result<()> {
        match naming {
            Naming::Same => self.calls.extend([id.to_owned()]),
            Naming::Numbered => {
                let text = String::from_utf8_lossy(&response.body);
                let calls: usize = text
                    .strip_prefix("calls=")
                    .and_then(|rest| rest.lines().next()?.parse().ok())
                    .with_context(|| format!("{id}: the answer does not say how many calls it took"))?;
                self.calls.extend((0..calls).map(|call| format!("{id}.{call}")));
            }
        }
        self.requests.insert(id.to_owned(), response.body.len() as u64);
        Ok(())
    }
}
