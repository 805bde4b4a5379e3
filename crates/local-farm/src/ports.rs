//! Free ports on loopback that stay free: outside the range from which the kernel takes ports for outgoing connections.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::ops::Range;

use anyhow::bail;
use rand::Rng as _;

/// Below this, ports are usual for other services.
const PORT_MIN: u16 = 15_000;

/// Linux's default for the first port of outgoing connections, when /proc does not say.
const EPHEMERAL_FIRST_DEFAULT: u16 = 32_768;

/// More ports than a farm has, so that one block does for it; a block's first port is its claim.
const BLOCK: u16 = 100;

/// How many blocks are tried before giving up; a machine with so many taken ports is not one for a demo.
const TRIES_MAX: u32 = 1_000;

/// Gives out ports that were free when asked, each once, and to nobody else while it lives.
///
/// An agent that is killed must find its port free when it comes back, seconds later; a port that the kernel might
/// give to an outgoing connection meanwhile would not do, so binding port 0 does not. Nor would one that another
/// farm's `Ports` finds free meanwhile, so they come in blocks: who listens on a block's first port has it.
#[derive(Debug, Default)]
pub struct Ports {
    claims: Vec<TcpListener>,
    rest: Range<u16>,
}

impl Ports {
    /// The next free address on loopback; an error when there is none.
    pub fn free(&mut self) -> anyhow::Result<SocketAddr> {
        loop {
            for port in self.rest.by_ref() {
                if TcpListener::bind(loopback(port)).is_ok() {
                    return Ok(loopback(port));
                }
            }
            self.claim()?;
        }
    }

    /// Takes another block that nobody has.
    fn claim(&mut self) -> anyhow::Result<()> {
        let blocks = (ephemeral_first().max(PORT_MIN + 10 * BLOCK) - PORT_MIN) / BLOCK;
        for _ in 0..TRIES_MAX {
            let first = PORT_MIN + BLOCK * rand::rng().random_range(0..blocks);
            if let Ok(claim) = TcpListener::bind(loopback(first)) {
                self.claims.push(claim);
                self.rest = first + 1..first + BLOCK;
                return Ok(());
            }
        }
        let last = PORT_MIN + BLOCK * blocks - 1;
        bail!("no free port on 127.0.0.1 between {PORT_MIN} and {last}; stop what uses them and try again")
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// The first port that the kernel may give to an outgoing connection.
fn ephemeral_first() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_FIRST_DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_of_two_that_live_are_distinct_and_can_be_bound() {
        let (mut one, mut other) = (Ports::default(), Ports::default());
        // None of them stays bound, as those of processes that are down; more than a block of each.
        let mut given = BTreeSet::new();
        for _ in 0..=BLOCK {
            assert!(given.insert(one.free().unwrap()));
            assert!(given.insert(other.free().unwrap()));
        }
    }
}
