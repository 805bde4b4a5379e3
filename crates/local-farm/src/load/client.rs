//! One client of the load: it picks one of its rows, reads or writes it, and compares with what it was promised.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HeaderValue, RETRY_AFTER, SET_COOKIE};
use http::{Method, Response, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::memory::{Memory, RowNumber};
use super::{CLIENTS, PACE, ROWS_LEFT_ALONE, Tally};
use crate::http::{HttpError, request, send};
use crate::paths::entry_path;
use crate::seed::content::{Counts, key};
use crate::tables::TABLES;

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// How long a client rests after it was refused: a person would, and the farm has better things to do.
const REST: Duration = Duration::from_millis(250);

/// For how long reading a row back is tried again when nobody answers.
const READ_BACK_LIMIT: Duration = Duration::from_secs(20);

/// Out of a hundred requests, so many write.
const WRITES_PERCENT: u32 = 30;

/// Out of a hundred reads, so many are of a row that was written before.
const READS_OF_OWN_PERCENT: u32 = 30;

/// One client.
pub(super) struct Client {
    number: u64,
    balancer: SocketAddr,
    counts: Counts,
    tally: Arc<Tally>,
    random: StdRng,
    memory: Memory,
    /// Rows that were written, to be read again.
    own: Vec<RowNumber>,
    writes: u64,
    cookie: Option<HeaderValue>,
}

/// What came of a request.
enum Answered {
    /// An answer whose content is to be looked at.
    With(Response<Bytes>),
    /// Certainly nothing was done.
    Refused,
    /// It may have been done.
    Doubtful,
}

impl Client {
    pub(super) fn new(number: u64, balancer: SocketAddr, counts: Counts, tally: Arc<Tally>) -> Self {
        Self {
            number,
            balancer,
            counts,
            tally,
            random: StdRng::seed_from_u64(number),
            memory: Memory::default(),
            own: Vec::new(),
            writes: 0,
            cookie: None,
        }
    }

    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Reads and writes until told to stop.
    pub(super) async fn work(&mut self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let Some(row) = self.pick() else {
                continue;
            };
            // A request once begun is seen through, or its outcome would not be known.
            let answered = if self.random.random_range(0..100) < WRITES_PERCENT {
                self.write(row).await
            } else {
                let row = self.again(row);
                self.read(row).await
            };
            if !answered {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }

    /// Reads every row that was written, through the balancer, and insists on an answer.
    pub(super) async fn read_back(&mut self) {
        for row in self.memory.rows() {
            // For each row: after hours there are many, and one that is refused once is not lost.
            let deadline = Instant::now() + READ_BACK_LIMIT;
            while !self.read(row).await {
                if Instant::now() >= deadline {
                    let (table, key) = (TABLES[row.0].name, key(row.0, row.1));
                    self.tally.wrong(format!("{table} {key} was written and cannot be read back: nobody answers"));
                    return;
                }
                tokio::time::sleep(REST).await;
            }
        }
    }

    /// One of this client's rows; now and then there is none, in a small table.
    fn pick(&mut self) -> Option<RowNumber> {
        let table = self.random.random_range(0..TABLES.len());
        let usable = self.counts.0[table].saturating_sub(ROWS_LEFT_ALONE);
        // Rows of this client are those whose number leaves its own number as the remainder.
        let own = (usable + CLIENTS - 1 - self.number) / CLIENTS;
        if own == 0 {
            return None;
        }
        let row = (table, self.random.random_range(0..own) * CLIENTS + self.number);
        (!self.memory.is_in_doubt(row)).then_some(row)
    }

    /// Now and then a row that was written before, instead of this one.
    fn again(&mut self, row: RowNumber) -> RowNumber {
        if self.own.is_empty() || self.random.random_range(0..100) >= READS_OF_OWN_PERCENT {
            return row;
        }
        self.own[self.random.random_range(0..self.own.len())]
    }

    /// Says whether anybody answered.
    async fn read(&mut self, row: RowNumber) -> bool {
        let Answered::With(response) = self.ask(Method::GET, row, Bytes::new()).await else {
            self.tally.refused();
            return false;
        };
        let (table, key) = (&TABLES[row.0], key(row.0, row.1));
        let plaintext = match response.status() {
            StatusCode::OK => Some(response.body().as_ref()),
            StatusCode::NO_CONTENT => None,
            status => {
                let said = String::from_utf8_lossy(response.body());
                self.tally.wrong(format!("reading {} {key} was answered {status}: {said}", table.name));
                return true;
            }
        };
        if self.memory.allows(row, table.served(), plaintext) {
            self.tally.ok();
        } else {
            self.tally.wrong(format!("{} {key} says something else than was written", table.name));
        }
        true
    }

    /// Says whether anybody answered.
    async fn write(&mut self, row: RowNumber) -> bool {
        self.writes += 1;
        let plaintext = format!("client {} wrote this as number {}", self.number, self.writes).into_bytes();
        match self.ask(Method::PUT, row, plaintext.clone().into()).await {
            Answered::With(response) if response.status() == StatusCode::OK => {
                self.memory.acknowledge(row, plaintext);
                self.own.push(row);
                self.tally.ok();
                true
            }
            Answered::With(response) => {
                let (table, key, said) =
                    (TABLES[row.0].name, key(row.0, row.1), String::from_utf8_lossy(response.body()));
                self.tally.wrong(format!("writing {table} {key} was answered {}: {said}", response.status()));
                self.memory.doubt(row, plaintext);
                true
            }
            Answered::Refused => {
                self.tally.refused();
                false
            }
            Answered::Doubtful => {
                self.tally.refused();
                self.memory.doubt(row, plaintext);
                // Whether it was written is not known, so it is not read again before the end.
                self.own.retain(|own| *own != row);
                false
            }
        }
    }

    async fn ask(&mut self, method: Method, row: RowNumber, body: Bytes) -> Answered {
        let path = entry_path(&TABLES[row.0], &key(row.0, row.1));
        let mut request = request(method, self.balancer, &path, body);
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(COOKIE, cookie.clone());
        }
        match send(self.balancer, request, ANSWER_LIMIT).await {
            Ok(response) => {
                self.keep_cookie(&response);
                match response.status() {
                    StatusCode::SERVICE_UNAVAILABLE if response.headers().contains_key(RETRY_AFTER) => {
                        Answered::Refused
                    }
                    StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Answered::Doubtful,
                    _ => Answered::With(response),
                }
            }
            Err(HttpError::Connect(..)) => Answered::Refused,
            Err(HttpError::Broken(..)) => Answered::Doubtful,
        }
    }

    fn keep_cookie(&mut self, response: &Response<Bytes>) {
        let set = response.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok());
        let pair = set.and_then(|value| value.split(';').next());
        if let Some(Ok(cookie)) = pair.map(HeaderValue::from_str) {
            self.cookie = Some(cookie);
        }
    }
}
