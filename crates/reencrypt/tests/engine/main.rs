//! The engine on real databases: SQLite files, and a temporary PostgreSQL cluster, MariaDB and MySQL server that live as long as
//! this process has tests running. Test names say what holds; most hold for every system.

#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

mod altered_in_a_chunk;
mod altered_under_way;
mod attached;
mod bad_input;
mod bad_values;
mod bench;
mod character_sets;
mod cluster;
mod doctor;
mod documented;
mod failover;
mod farm;
mod faults;
mod fence;
mod in_place_faults;
mod kept_ledger;
mod keys_of_every_type;
mod large_values;
mod late_workers;
mod lost_rights;
mod makes;
mod mariadb;
mod mariadb_faults;
mod mariadb_fence;
mod mariadb_schema;
mod mariadb_workers;
mod memory;
mod mysql;
mod pace;
mod planner;
mod proxy;
mod recovery;
mod rest;
mod restore;
mod restore_mariadb;
mod rotate;
mod scan;
mod schema;
mod sessions;
mod shadow;
mod shadow_crashes;
mod shadow_faults;
mod shadow_mariadb;
mod shadow_mariadb_swap;
mod shadow_schemas;
mod small_disk;
mod sqlite_faults;
mod survey;
mod tablespace;
mod trial;
mod upgrade;
mod values;
mod wild_schemas;
