//! A real server of the demo's own: it comes up, restarts with its data, is dumped, and leaves nothing behind.

use super::*;
use crate::seed::content::{Counts, key};
use crate::seed::seed;
use crate::tables::TABLES;

#[tokio::test]
async fn a_temporary_server_restarts_with_its_data_and_can_be_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = VaultDatabase::prepare("postgres", folder.path()).await.unwrap();
    let database = place.connect().unwrap();
    seed(&database, &keys::SecretKey::generate(), Counts::of(40)).await.unwrap();
    database.close().await;

    place.restart().await.unwrap();
    let database = place.connect().unwrap();
    let value = database.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.unwrap();
    assert!(value.flatten().is_some(), "the rows survive a restart");
    database.close().await;

    let Kept::Dump(dump) = place.keep(folder.path()).await.unwrap() else { panic!("a server's database is dumped") };
    assert!(fs::read_to_string(&dump).unwrap().contains("COPY public.connections"));
    let socket = match &place.place {
        Place::Temporary(server) => server.url("postgres", "vault"),
        _ => panic!("the demo's own server was asked for"),
    };
    place.end().await.unwrap();
    let gone = Database::open(&socket, "test", 1).unwrap();
    assert!(gone.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_err());
}

#[tokio::test]
async fn nothing_is_written_where_a_link_in_the_server_s_folder_leads() {
    let target = tempfile::NamedTempFile::new().unwrap();
    let mut server = TemporaryServer::start().await.unwrap();
    let folder = server.folder().to_owned();
    assert!(!folder.join("log").exists());
    // As the server's user could, whom the folder belongs to.
    std::os::unix::fs::symlink(target.path(), folder.join("log")).unwrap();
    server.restart().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(fs::read(target.path()).unwrap(), b"");
}

#[tokio::test]
async fn a_temporary_mariadb_restarts_with_its_data_and_can_be_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = VaultDatabase::prepare("mariadb", folder.path()).await.unwrap();
    let database = place.connect().unwrap();
    seed(&database, &keys::SecretKey::generate(), Counts::of(40)).await.unwrap();
    database.close().await;

    place.restart().await.unwrap();
    let database = place.connect().unwrap();
    let value = database.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.unwrap();
    assert!(value.flatten().is_some(), "the rows survive a restart");
    database.close().await;

    let Kept::Dump(dump) = place.keep(folder.path()).await.unwrap() else { panic!("a server's database is dumped") };
    assert!(fs::read_to_string(&dump).unwrap().contains("INSERT INTO `connections`"));
    let url = place.admin_url.clone();
    place.end().await.unwrap();
    let gone = Database::open(&url, "test", 1).unwrap();
    assert!(gone.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_err());
}

#[tokio::test]
async fn on_a_running_mariadb_a_demo_has_its_own_database_and_users_and_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = TemporaryMariadb::start().await.unwrap();
    let url = server.url(ADMINISTRATOR, "mysql");
    let mut place = VaultDatabase::prepare(&url, folder.path()).await.unwrap();
    let database = place.connect().unwrap();
    seed(&database, &keys::SecretKey::generate(), Counts::of(40)).await.unwrap();
    database.close().await;
    place.grant().await.unwrap();
    assert!(place.restart().await.unwrap_err().is::<UnusableDatabase>(), "nobody else's server is restarted");
    let agent_url = place.agent_url.clone();
    let agent = Database::open(&agent_url, "test", 1).unwrap();
    assert!(agent.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_ok());
    agent.close().await;
    place.leftovers().unwrap().remove().await.unwrap();
    let agent = Database::open(&agent_url, "test", 1).unwrap();
    assert!(agent.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_err(), "database and users are gone");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn on_a_running_server_a_demo_has_its_own_database_and_roles_and_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = TemporaryServer::start().await.unwrap();
    let url = server.url("postgres", "postgres");
    let mut place = VaultDatabase::prepare(&url, folder.path()).await.unwrap();
    let database = place.connect().unwrap();
    seed(&database, &keys::SecretKey::generate(), Counts::of(40)).await.unwrap();
    database.close().await;
    place.grant().await.unwrap();
    assert!(place.restart().await.unwrap_err().is::<UnusableDatabase>(), "nobody else's server is restarted");
    let agent_url = place.agent_url.clone();
    let agent = Database::open(&agent_url, "test", 1).unwrap();
    assert!(agent.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_ok());
    agent.close().await;
    place.leftovers().unwrap().remove().await.unwrap();
    let agent = Database::open(&agent_url, "test", 1).unwrap();
    assert!(agent.value(&TABLES[0], TABLES[0].served(), &key(0, 0)).await.is_err(), "database and roles are gone");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_had_says_what_can() {
    let folder = tempfile::tempdir().unwrap();
    for database in ["oracle", "oracle://root@db/vault"] {
        let error = VaultDatabase::prepare(database, folder.path()).await.unwrap_err();
        assert!(error.is::<UnusableDatabase>());
        assert!(error.to_string().contains("sqlite"), "{error}");
    }
}
