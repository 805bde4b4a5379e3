//! A TCP proxy on one of the farm's machines: it delays what it carries, or carries it to another server from now on.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::network::Door;

/// Pieces under way in one direction of one connection; more than fit into half a second of this test's traffic.
const PIECES_MAX: usize = 1_000;

/// Carries connections until it is dropped.
pub(crate) struct Proxy {
    target: watch::Sender<Option<SocketAddr>>,
}

impl Proxy {
    /// Listens on that machine. Each direction takes `delay`.
    pub(crate) fn new(door: Door, listen: SocketAddr, target: SocketAddr, delay: Duration) -> Self {
        let (sender, receiver) = watch::channel(Some(target));
        let (listening, is_listening) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            door.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind(listen).await.expect("the address is free");
                listening.send(()).expect("somebody waits");
                serve(listener, receiver, delay).await;
            });
        });
        is_listening.recv().expect("it listens");
        Self { target: sender }
    }

    /// Ends all connections; new ones go there.
    pub(crate) fn turn_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.target.send_replace(None);
    }
}

async fn serve(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>, delay: Duration) {
    let mut ended = target.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                tokio::spawn(carry(client, target.clone(), delay));
            }
            _ = ended.wait_for(Option::is_none) => return,
        }
    }
}

async fn carry(client: TcpStream, mut target: watch::Receiver<Option<SocketAddr>>, delay: Duration) {
    let Some(to) = *target.borrow_and_update() else { return };
    let Ok(server) = TcpStream::connect(to).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a connected socket");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = late(from_client, to_server, delay) => {}
        () = late(from_server, to_client, delay) => {}
        _ = target.changed() => {}
    }
}

/// Carries every piece, each so much later.
async fn late(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    delay: Duration,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
