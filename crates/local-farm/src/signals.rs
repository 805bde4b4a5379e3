//! The signals that ask a process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Returns when the process is asked to end: SIGTERM, SIGINT or SIGHUP.
pub(crate) async fn termination() {
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    let mut hangup = listen(SignalKind::hangup());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}

fn listen(kind: SignalKind) -> Signal {
    signal(kind).expect("these signals may be caught, and a tokio runtime with I/O is running")
}
