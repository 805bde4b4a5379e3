//! The load finds what is wrong: a lost write and a value that says something else.

use super::*;
use crate::seed::content::key;
use crate::tables::TABLES;
use crate::vault::testing::TestFarm;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_healthy_farm_gives_only_right_answers() {
    let counts = Counts::of(200);
    let farm = TestFarm::start(1, counts).await;
    let load = Load::start(farm.addresses[0], counts);
    assert!(load.goes_on(100, LIMIT).await);
    let outcome = load.finish().await;
    assert_eq!(outcome.counts.wrong, 0, "{:?}", outcome.problems);
    assert!(outcome.counts.ok >= 100);
    assert_eq!(outcome.counts.refused, 0);
}

#[tokio::test]
async fn an_acknowledged_write_that_is_lost_is_wrong() {
    let counts = Counts::of(200);
    let farm = TestFarm::start(1, counts).await;
    let before = farm.stored().await;
    let load = Load::start(farm.addresses[0], counts);
    assert!(load.goes_on(100, LIMIT).await);
    // Somebody puts an old backup back.
    farm.put_back(&before).await;
    let outcome = load.finish().await;
    assert!(outcome.counts.wrong > 0);
    assert!(outcome.problems.iter().any(|problem| problem.contains("something else than was written")));
}

#[tokio::test]
async fn a_value_that_does_not_open_is_wrong() {
    let counts = Counts::of(200);
    let farm = TestFarm::start(1, counts).await;
    for (number, table) in TABLES.iter().enumerate() {
        for row in 0..counts.0[number] {
            farm.database.set_value(table, table.served(), &key(number, row), b"AAAA").await.unwrap();
        }
    }
    let load = Load::start(farm.addresses[0], counts);
    let noticed = async {
        while load.counts().wrong == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, noticed).await.unwrap();
    assert!(load.finish().await.problems.iter().any(|problem| problem.contains("does not open")));
}
