//! The engine on real databases: SQLite files, and a temporary PostgreSQL cluster and MariaDB server that live as long as
//! this process has tests running. Test names say what holds; most hold for every system.

#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod bad_input;
mod cluster;
mod farm;
mod faults;
mod fence;
mod keys_of_every_type;
mod late_workers;
mod mariadb;
mod mariadb_fence;
mod mariadb_schema;
mod mariadb_workers;
mod planner;
mod rotate;
mod scan;
mod schema;
mod survey;
mod trial;
mod values;
