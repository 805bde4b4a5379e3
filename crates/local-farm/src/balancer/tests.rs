//! Real instances behind a real balancer, under the real load.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{COOKIE, SET_COOKIE};

use super::*;
use crate::http::{request, send};
use crate::load::Load;
use crate::seed::content::{Counts, key};
use crate::vault::testing::TestFarm;

const LIMIT: Duration = Duration::from_secs(20);

struct Balanced {
    farm: TestFarm,
    address: SocketAddr,
    shutdown: CancellationToken,
}

async fn balanced(instances: usize) -> Balanced {
    let farm = TestFarm::start(instances, Counts::of(400)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(forward(listener, farm.addresses.clone(), shutdown.clone()));
    Balanced { farm, address, shutdown }
}

impl Balanced {
    /// Asks until somebody answers, as health checks take a moment.
    async fn get(&self, path: &str, cookie: Option<&str>) -> http::Response<Bytes> {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let mut question = request(Method::GET, self.address, path, Bytes::new());
            if let Some(cookie) = cookie {
                question.headers_mut().insert(COOKIE, cookie.parse().unwrap());
            }
            let answer = send(self.address, question, LIMIT).await.unwrap();
            if answer.status() != http::StatusCode::SERVICE_UNAVAILABLE || tokio::time::Instant::now() > deadline {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Begins sessions until every instance has one: whoever drains an instance counts on the others.
    async fn all_answer(&self) {
        let mut silent: BTreeSet<usize> = (0..self.farm.addresses.len()).collect();
        let answers = async {
            while !silent.is_empty() {
                let answer = self.get("/entries/connections/-100", None).await;
                if let Some(cookie) = answer.headers().get(SET_COOKIE) {
                    silent.remove(&home(cookie.to_str().unwrap()));
                }
            }
        };
        tokio::time::timeout(LIMIT, answers).await.expect("every instance answers");
    }
}

fn home(cookie: &str) -> usize {
    cookie.split(';').next().unwrap().rsplit('=').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_session_stays_where_it_is_until_its_instance_drains() {
    let balanced = balanced(2).await;
    balanced.all_answer().await;
    let path = crate::paths::entry_path(&crate::tables::TABLES[0], &key(0, 0));
    let first = balanced.get(&path, None).await;
    let cookie = first.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..5 {
        let answer = balanced.get(&path, Some(&cookie)).await;
        assert!(!answer.headers().contains_key(SET_COOKIE), "the session moved for no reason");
        assert_eq!(answer.body(), first.body());
    }
    balanced.farm.post(home(&cookie), "/admin/drain").await;
    let moved = balanced.get(&path, Some(&cookie)).await;
    assert_eq!(moved.status(), http::StatusCode::OK);
    assert!(moved.headers().contains_key(SET_COOKIE), "the session has a new home");
    balanced.shutdown.cancel();
}

#[tokio::test]
async fn clients_notice_nothing_while_one_instance_drains_and_are_refused_while_all_are() {
    let balanced = balanced(2).await;
    balanced.all_answer().await;
    let load = Load::start(balanced.address, Counts::of(400));
    assert!(load.goes_on(30, LIMIT).await);
    balanced.farm.post(0, "/admin/drain").await;
    assert!(load.goes_on(30, LIMIT).await);
    assert_eq!(load.counts().refused, 0, "one drained instance of two refuses nobody");

    balanced.farm.post(1, "/admin/drain").await;
    let refused = async {
        while load.counts().refused < 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();

    balanced.farm.post(0, "/admin/admit").await;
    assert!(load.goes_on(30, LIMIT).await);
    let outcome = load.finish().await;
    assert_eq!(outcome.counts.wrong, 0, "{:?}", outcome.problems);
    balanced.shutdown.cancel();
}

#[tokio::test]
async fn what_controls_an_instance_is_out_of_clients_reach() {
    let balanced = balanced(1).await;
    balanced.get("/entries/connections/-100", None).await;
    for path in ["/admin/drain", "/admin/admit", "/canary", "/healthz", "/"] {
        let question = request(Method::POST, balanced.address, path, Bytes::new());
        let answer = send(balanced.address, question, LIMIT).await.unwrap();
        assert_eq!(answer.status(), http::StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(balanced.get("/entries/connections/-100", None).await.status(), http::StatusCode::OK);
    balanced.shutdown.cancel();
}
