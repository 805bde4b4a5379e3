
use rotation::Direction;
use crate::farm::Vault;
async fn go(vault: Vault, rows: i64) {
    let secret = vault.literal(&vault.raw(&"x".repeat(200), "connections.password"));
    let series = if vault.is_sqlite() { format!("WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n < {rows}) INSERT INTO connections SELECT n, 'a', {secret}, NULL, 'then' FROM s") }
       else { format!("INSERT INTO connections SELECT n, 'a', {secret}, NULL, 'then' FROM generate_series(1, {rows}) n") };
    vault.run(&series).await;
    let t = std::time::Instant::now();
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = vault.engine().await.survey(&ring, &[], 1, &|_| {}).await.unwrap();
    println!("survey {} rows {:?}", rows, t.elapsed());
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let t = std::time::Instant::now();
    vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    println!("reencrypt {:?} {:.0}/s", t.elapsed(), rows as f64 / t.elapsed().as_secs_f64());
    let t = std::time::Instant::now();
    vault.verify_all(&survey, 1, vault.mark(3, Direction::Forward)).await.unwrap();
    println!("verify {:?}", t.elapsed());
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn s1() { go(Vault::sqlite().await, 20_000).await; go(Vault::sqlite().await, 100_000).await; }
#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn p1() { go(Vault::postgres().await, 20_000).await; go(Vault::postgres().await, 100_000).await; }
