//! Free ports on loopback that stay free: outside the range from which the kernel takes ports for outgoing connections.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

use anyhow::bail;
use rand::Rng as _;

/// Below this, ports are usual for other services.
const PORT_MIN: u16 = 15_000;

/// Linux's default for the first port of outgoing connections, when /proc does not say.
const EPHEMERAL_FIRST_DEFAULT: u16 = 32_768;

/// How many ports are tried before giving up; a machine with so many taken ports is not one for a demo.
const TRIES_MAX: u32 = 10_000;

/// Gives out ports that were free when asked, each once.
///
/// An agent that is killed must find its port free when it comes back, seconds later; a port that the kernel might
/// give to an outgoing connection meanwhile would not do, so binding port 0 does not.
#[derive(Debug, Default)]
pub struct Ports {
    given: BTreeSet<u16>,
}

impl Ports {
    /// The next free address on loopback; an error when there is none.
    pub fn free(&mut self) -> anyhow::Result<SocketAddr> {
        let last = ephemeral_first().max(PORT_MIN + 1_000) - 1;
        for _ in 0..TRIES_MAX {
            let port = rand::rng().random_range(PORT_MIN..=last);
            let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
            if !self.given.contains(&port) && TcpListener::bind(address).is_ok() {
                self.given.insert(port);
                return Ok(address);
            }
        }
        bail!("no free port on 127.0.0.1 between {PORT_MIN} and {last}; stop what uses them and try again")
    }
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
    use super::*;

    #[test]
    fn ports_are_distinct_and_can_be_bound() {
        let mut ports = Ports::default();
        let addresses: BTreeSet<SocketAddr> = (0..50).map(|_| ports.free().unwrap()).collect();
        assert_eq!(addresses.len(), 50);
    }
}
