//! How each fault is caused, and how what it broke is healed.

use std::net::TcpListener;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use super::{Fault, Kind};
use crate::farm::Farm;
use crate::load::ROWS_LEFT_ALONE;
use crate::narrate::say;
use crate::process::ProcessIdentity;
use crate::seed::content::key;
use crate::tables::{CONNECTIONS, TABLES};
use crate::vault::Folder;

/// What is broken now, with what heals it.
#[derive(Debug)]
pub(crate) enum Injury {
    /// A process of the farm was killed.
    Killed(String),
    /// A process was stopped by SIGSTOP.
    Stopped(ProcessIdentity),
    /// A port that an instance needs is taken, for as long as this exists.
    PortTaken(TcpListener),
    /// A row's value was corrupted.
    Corrupted {
        /// As it was.
        original: Vec<u8>,
        /// As it is now.
        corrupted: Vec<u8>,
    },
    /// Somebody is cut off.
    CutOff,
    /// It is whole again already.
    None,
}

/// The row that is corrupted: one that the load leaves alone, in a table without NULL.
const VICTIM_TABLE: usize = CONNECTIONS;

impl Fault {
    /// Breaks it.
    pub(crate) async fn act(self, farm: &mut Farm) -> anyhow::Result<Injury> {
        match self.kind {
            Kind::Leader => {
                let name = leader(farm).await?;
                say(&format!("{self}: killing {name}, which leads"));
                farm.processes.kill(&name).await?;
                Ok(Injury::Killed(name))
            }
            Kind::CoordinatorDisk => {
                let leader = farm.operator()?.leader().await?;
                let follower = farm.coordinators.iter().find(|coordinator| coordinator.id != leader);
                let follower = follower.context("nobody follows")?.clone();
                say(&format!("{self}: killing {} and deleting its data", follower.name()));
                farm.processes.kill(&follower.name()).await?;
                let data = follower.data();
                std::fs::remove_dir_all(&data).with_context(|| format!("deleting {}", data.display()))?;
                Ok(Injury::Killed(follower.name()))
            }
            Kind::Agent => {
                let name = farm.node(0)?.agent_name();
                say(&format!("{self}: killing {name}"));
                farm.processes.kill(&name).await?;
                Ok(Injury::Killed(name))
            }
            Kind::Zombie => {
                let name = farm.node(0)?.agent_name();
                say(&format!("{self}: stopping {name} with SIGSTOP"));
                stop(farm.processes.process(&name)?)
            }
            Kind::Instance => self.cripple_instance(farm),
            Kind::Row => self.corrupt_row(farm).await,
            Kind::Database => {
                say(&format!("{self}: restarting the database server"));
                farm.database.restart().await?;
                Ok(Injury::None)
            }
            Kind::PartitionLeader => {
                let name = leader(farm).await?;
                self.cut_off(farm, &name)
            }
            Kind::PartitionAgent => {
                let name = farm.node(0)?.agent_name();
                self.cut_off(farm, &name)
            }
        }
    }

    /// While it runs, it is stopped by SIGSTOP and so hears no request to end; while it does not, its port is taken.
    fn cripple_instance(self, farm: &Farm) -> anyhow::Result<Injury> {
        let node = farm.node(1)?;
        match Folder::new(node.instance_folder()).process()? {
            Some(process) => {
                say(&format!("{self}: the instance of {} hears nothing any more", node.id));
                stop(process)
            }
            None => {
                say(&format!("{self}: the instance of {} cannot start, its port is taken", node.id));
                let listener = TcpListener::bind(node.instance);
                Ok(Injury::PortTaken(listener.with_context(|| format!("taking the port {}", node.instance))?))
            }
        }
    }

    async fn corrupt_row(self, farm: &Farm) -> anyhow::Result<Injury> {
        let (table, key) = victim(farm);
        say(&format!("{self}: corrupting {} {key}", table.name));
        let connection = farm.database.connect()?;
        let original = connection.value(table, table.served(), &key).await;
        let corrupted = original.as_ref().ok().cloned().flatten().flatten().map(|mut value| {
            // The last byte belongs to the part that proves the rest unaltered.
            if let Some(last) = value.last_mut() {
                *last ^= 1;
            }
            value
        });
        let set = match &corrupted {
            Some(corrupted) => connection.set_value(table, table.served(), &key, corrupted).await,
            None => Ok(false),
        };
        connection.close().await;
        let original = original.context("reading the row to be corrupted")?.flatten();
        match (original, corrupted, set.context("corrupting a row")?) {
            (Some(original), Some(corrupted), true) => Ok(Injury::Corrupted { original, corrupted }),
            _ => bail!("the row to be corrupted is not there"),
        }
    }

    fn cut_off(self, farm: &Farm, name: &str) -> anyhow::Result<Injury> {
        say(&format!("{self}: cutting {name} off from everybody"));
        let network = farm.network.as_ref().context("the farm has no network that could be cut")?;
        network.cut_off(name, farm.processes.process(name)?.pid);
        Ok(Injury::CutOff)
    }
}

impl Injury {
    /// Makes it whole again.
    pub(crate) async fn heal(self, farm: &mut Farm) -> anyhow::Result<()> {
        match self {
            Self::Killed(name) => {
                say(&format!("starting {name} again"));
                farm.processes.start_again(&name)
            }
            Self::Stopped(process) => {
                say(&format!("continuing process {}", process.pid));
                process.signal(Signal::SIGCONT).map(drop)
            }
            Self::PortTaken(listener) => {
                say("giving the port back");
                drop(listener);
                Ok(())
            }
            Self::Corrupted { original, corrupted } => {
                say("restoring the row");
                restore_row(farm, &original, &corrupted).await
            }
            Self::CutOff => {
                say("joining everybody again");
                farm.network.as_ref().context("the farm has no network that could be joined")?.join();
                Ok(())
            }
            Self::None => Ok(()),
        }
    }
}

async fn leader(farm: &Farm) -> anyhow::Result<String> {
    let leader = farm.operator()?.leader().await?;
    Ok(farm.coordinator(leader)?.name())
}

fn stop(process: ProcessIdentity) -> anyhow::Result<Injury> {
    if process.signal(Signal::SIGSTOP)? {
        Ok(Injury::Stopped(process))
    } else {
        bail!("process {} is gone already", process.pid)
    }
}

fn victim(farm: &Farm) -> (&'static crate::tables::Table, crate::tables::RowKey) {
    let last = farm.size.counts.0[VICTIM_TABLE] - ROWS_LEFT_ALONE;
    (&TABLES[VICTIM_TABLE], key(VICTIM_TABLE, last))
}

/// Puts the bytes back, unless something else stands there by now.
async fn restore_row(farm: &Farm, original: &[u8], corrupted: &[u8]) -> anyhow::Result<()> {
    let (table, key) = victim(farm);
    let connection = farm.database.connect()?;
    let restored = async {
        if connection.value(table, table.served(), &key).await?.flatten().as_deref() == Some(corrupted) {
            connection.set_value(table, table.served(), &key, original).await?;
        }
        Ok::<_, sqlx::Error>(())
    }
    .await;
    connection.close().await;
    restored.with_context(|| format!("restoring {} {key}", table.name))
}
