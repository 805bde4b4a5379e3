//! A small farm in this process: real coordinators over real TLS on loopback, and agents that answer as told.

pub(crate) mod agent;
pub(crate) mod replica;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::pki::{Authority, Role};
use wire::tls::{ExpectedPeer, Tls, TlsFiles};
use wire::v1;
use wire::v1::operator_client::OperatorClient;

use agent::{Script, TestAgent};
use replica::Replica;

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// Between two rounds of asking every replica, as a client does while there is no leader.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) const FARM: &str = "demo";

/// A farm with its certificates; everything ends with it.
pub(crate) struct Farm {
    pub(crate) directory: TempDir,
    pub(crate) replicas: Vec<Replica>,
    authority: Authority,
}

impl Farm {
    /// Coordinators of this number, started.
    pub(crate) fn start(replicas: usize) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), replicas)
    }

    /// The same, with `data-1`, `data-2` … in this directory, which may be there already.
    pub(crate) fn start_in(directory: TempDir, replicas: usize) -> Self {
        let authority = Authority::create(FARM).expect("a certificate authority");
        let mut farm = Self { directory, replicas: Vec::new(), authority };
        let listeners: Vec<_> =
            (0..replicas).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        for (place, listener) in listeners.into_iter().enumerate() {
            let id = place as u64 + 1;
            let tls = farm.files(Role::Coordinator, &id.to_string());
            let data_dir = farm.directory.path().join(format!("data-{id}"));
            let mut replica = Replica::new(id, &addresses, data_dir, tls);
            replica.start(listener);
            farm.replicas.push(replica);
        }
        farm
    }

    /// Starts a new replica of this number, that waits to be added; answers its place.
    pub(crate) fn join(&mut self, id: u64) -> usize {
        self.start_another(id, Replica::joining)
    }

    /// Starts a replica of this number that knows only itself, and so founds a cluster; answers its place.
    pub(crate) fn found_apart(&mut self, id: u64) -> usize {
        self.start_another(id, Replica::apart)
    }

    fn start_another(&mut self, id: u64, make: fn(u64, SocketAddr, PathBuf, TlsFiles) -> Replica) -> usize {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let tls = self.files(Role::Coordinator, &id.to_string());
        let data_dir = self.directory.path().join(format!("data-{id}"));
        let mut replica = make(id, listener.local_addr().expect("bound"), data_dir, tls);
        replica.start(listener);
        self.replicas.push(replica);
        self.replicas.len() - 1
    }

    /// Issues a certificate and writes it where a process would find it.
    pub(crate) fn files(&self, role: Role, name: &str) -> TlsFiles {
        write_files(&self.authority, self.directory.path().join(format!("{role}-{name}")), role, name)
    }

    /// An identity in this farm.
    pub(crate) fn tls(&self, role: Role, name: &str) -> Tls {
        Tls::load(&self.files(role, name)).expect("loads")
    }

    /// A client of one replica.
    pub(crate) fn client(&self, tls: &Tls, replica: usize) -> OperatorClient<Channel> {
        client(tls, &self.replicas[replica].address())
    }

    /// Starts an agent of this name that follows the script, and enrolls it.
    pub(crate) async fn enroll(&self, tls: &Tls, name: &str, script: Script) -> TestAgent {
        let agent = TestAgent::start(self.tls(Role::Agent, name), name, script).await;
        let request = v1::EnrollNodeRequest { id: name.to_owned(), address: agent.address.clone() };
        self.call(tls, |mut client| {
            let request = request.clone();
            async move { client.enroll_node(request).await }
        })
        .await
        .expect("enrolls");
        agent
    }

    /// Calls the leader, wherever it is: follows the replicas' hints and asks all of them in turn.
    pub(crate) async fn call<T, F>(&self, tls: &Tls, call: impl Fn(OperatorClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let search = async {
            loop {
                for replica in self.replicas.iter().filter(|replica| replica.is_running()) {
                    let mut address = replica.address();
                    for _hop in 0..2 {
                        match call(client(tls, &address)).await {
                            Ok(answer) => return Ok(answer.into_inner()),
                            Err(status) => match wire::status::leader_hint(&status) {
                                Some(hint) => match hint.leader_address {
                                    Some(leader) => address = leader,
                                    None => break,
                                },
                                None if status.code() == Code::Unavailable => break,
                                None => return Err(status),
                            },
                        }
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::time::timeout(BOUND, search).await.expect("a leader answers in time")
    }

    /// The place of the replica that leads.
    pub(crate) async fn leader(&self, tls: &Tls) -> usize {
        let nobody = || v1::RemoveNodeRequest { id: "nobody".to_owned() };
        // Only the leader answers a command; this one is refused without changing anything.
        let refused = self.call(tls, |mut client| async move { client.remove_node(nobody()).await }).await;
        refused.expect_err("there is no such node");
        let leads = |farm: &v1::Farm| farm.replicas.iter().any(|replica| replica.leader && replica.answering);
        // The lead may pass to one that was asked already.
        let search = async {
            loop {
                for (place, replica) in self.replicas.iter().enumerate().filter(|(_, replica)| replica.is_running()) {
                    let farm = client(tls, &replica.address()).get_farm(v1::GetFarmRequest {}).await;
                    if farm.is_ok_and(|farm| leads(farm.get_ref())) {
                        return place;
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::time::timeout(BOUND, search).await.expect("a replica says in time that it leads")
    }
}

/// A client of an address.
pub(crate) fn client(tls: &Tls, address: &str) -> OperatorClient<Channel> {
    let expect = ExpectedPeer { role: Role::Coordinator, name: None };
    wire::rpc::operator_client(tls.channel(address, expect).expect("a valid address"))
}

/// Issues a certificate of any authority into a directory.
pub(crate) fn write_files(authority: &Authority, directory: PathBuf, role: Role, name: &str) -> TlsFiles {
    let issued = authority.issue(role, name, &["127.0.0.1".to_owned()], 1).expect("issues");
    std::fs::create_dir_all(&directory).expect("creates");
    let files = TlsFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
    };
    std::fs::write(&files.ca, authority.certificate_pem()).expect("writes");
    std::fs::write(&files.certificate, &issued.certificate_pem).expect("writes");
    std::fs::write(&files.key, issued.key_pem.as_bytes()).expect("writes");
    files
}
