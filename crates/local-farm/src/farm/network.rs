//! A user-space network between the farm's processes, for faults that cut one of them off: a TCP proxy before every
//! coordinator and agent. What is cut off hears and says nothing until it is joined again; then what was on its way
//! arrives late, as it does in life.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The socket's inode in a line of `/proc/net/tcp`.
const INODE_FIELD: usize = 9;

/// Who is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CutOff {
    /// Its name as a server: connections to it stand still.
    name: String,
    /// Its process: connections from it stand still.
    pid: i32,
}

/// All proxies. They end when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    cut_off: watch::Sender<Option<CutOff>>,
    proxies: JoinSet<()>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { cut_off: watch::Sender::new(None), proxies: JoinSet::new() }
    }

    /// Stands before a server: who connects to `reach` gets to `listen`.
    pub(crate) async fn stand_before(
        &mut self,
        name: &str,
        reach: SocketAddr,
        listen: SocketAddr,
    ) -> anyhow::Result<()> {
        let listener = TcpListener::bind(reach).await.with_context(|| format!("listening on {reach} for {name}"))?;
        let name = name.to_owned();
        let cut_off = self.cut_off.subscribe();
        self.proxies.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, from)) => {
                            links.spawn(link(stream, from, reach, listen, name.clone(), cut_off.clone()));
                        }
                        Err(error) => tracing::warn!(%error, "the proxy did not accept a connection"),
                    },
                    Some(_) = links.join_next() => {}
                }
            }
        });
        Ok(())
    }

    /// Cuts a process off from everybody.
    pub(crate) fn cut_off(&self, name: &str, pid: i32) {
        self.cut_off.send_replace(Some(CutOff { name: name.to_owned(), pid }));
    }

    /// Joins everybody again.
    pub(crate) fn join(&self) {
        self.cut_off.send_replace(None);
    }
}

/// Carries one connection, and stands still while one of its ends is cut off.
async fn link(
    mut client: TcpStream,
    from: SocketAddr,
    reach: SocketAddr,
    listen: SocketAddr,
    name: String,
    mut cut_off: watch::Receiver<Option<CutOff>>,
) {
    let source = process_behind(from, reach);
    let carry = async {
        let mut server = TcpStream::connect(listen).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::pin!(carry);
    loop {
        let stands_still =
            cut_off.borrow_and_update().as_ref().is_some_and(|cut| cut.name == name || Some(cut.pid) == source);
        tokio::select! {
            changed = cut_off.changed() => if changed.is_err() { return },
            // How a connection ends is of interest to its two ends only.
            _ = carry.as_mut(), if !stands_still => return,
        }
    }
}

/// The process that holds the connection's other end. `None` when it is gone already, or not ours to look into.
fn process_behind(from: SocketAddr, to: SocketAddr) -> Option<i32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (from, to) = (in_proc_form(from)?, in_proc_form(to)?);
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&from.as_str()) && fields.get(2) == Some(&to.as_str()))
            .then(|| fields.get(INODE_FIELD).copied())?
    })?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link == Path::new(&socket))).then_some(pid)
    })
}

/// `127.0.0.1:8080` as `/proc/net/tcp` writes it: `0100007F:1F90`.
fn in_proc_form(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(address) => {
            Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::ports::Ports;

    const LIMIT: Duration = Duration::from_secs(10);
    /// Long enough for bytes that should not arrive to arrive.
    const STILL: Duration = Duration::from_millis(200);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, byte: u8, limit: Duration) -> bool {
        stream.write_all(&[byte]).await.unwrap();
        let mut answer = [0];
        matches!(tokio::time::timeout(limit, stream.read_exact(&mut answer)).await, Ok(Ok(_))) && answer[0] == byte
    }

    #[tokio::test]
    async fn what_is_cut_off_hears_nothing_and_then_hears_it_late() {
        let reach = Ports::default().free().unwrap();
        let mut network = Network::new();
        network.stand_before("server", reach, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(reach).await.unwrap();
        assert!(says(&mut stream, 1, LIMIT).await);

        network.cut_off("server", 0);
        assert!(!says(&mut stream, 2, STILL).await);
        network.join();
        let mut late = [0];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut late)).await.unwrap().unwrap();
        assert_eq!(late, [2]);
    }

    #[tokio::test]
    async fn a_process_that_is_cut_off_reaches_nobody() {
        let reach = Ports::default().free().unwrap();
        let mut network = Network::new();
        network.stand_before("server", reach, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(reach).await.unwrap();
        assert!(says(&mut stream, 1, LIMIT).await);
        let own = i32::try_from(std::process::id()).unwrap();

        network.cut_off("somebody else", own + 1);
        assert!(says(&mut stream, 2, LIMIT).await, "others are not cut off");
        network.cut_off("this process", own);
        assert!(!says(&mut stream, 3, STILL).await);
    }
}
