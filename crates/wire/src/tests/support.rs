//! A farm's certificates in a temporary folder, and servers with every service that answer anything with nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::channel::ExpectedPeer;
use crate::identity::{Peer, Role};
use crate::pki::{Authority, Issued};
use crate::serve::{Listener, serve};
use crate::tls::{Tls, TlsFiles};
use crate::{access, rpc, v1};

pub(crate) const FARM: &str = "demo";
pub(crate) const SERVICES: [&str; 3] = ["keyturn.v1.Operator", "keyturn.v1.Agent", "keyturn.v1.Raft"];
const HOUR: Duration = Duration::from_secs(3600);

/// A CA and a folder for what it issues.
pub(crate) struct TestFarm {
    pub(crate) authority: Authority,
    folder: TempDir,
}

pub(crate) fn hosts() -> Vec<String> {
    vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
}

impl TestFarm {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::create(FARM).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    /// Writes an identity to files of this stem, over what was there.
    pub(crate) fn write(&self, stem: &str, issued: &Issued) -> TlsFiles {
        let file = |name: String, text: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            ca: file("ca.pem".to_owned(), self.authority.certificate_pem()),
            certificate: file(format!("{stem}.pem"), &issued.certificate_pem),
            key: file(format!("{stem}.key"), &issued.key_pem),
        }
    }

    pub(crate) fn issue(&self, role: Role, name: &str) -> Issued {
        self.authority.issue(role, name, &hosts(), 30).unwrap()
    }

    /// An identity that is valid now.
    pub(crate) fn tls(&self, role: Role, name: &str) -> Tls {
        Tls::load(&self.write(name, &self.issue(role, name))).unwrap()
    }

    /// A certificate that expired an hour ago.
    pub(crate) fn expired(&self, role: Role, name: &str) -> Issued {
        let now = SystemTime::now();
        let holder = Peer::new(role, FARM, name).unwrap();
        self.authority.issue_to(&holder, &hosts(), now - 3 * HOUR, now - HOUR).unwrap()
    }

    /// An identity as a process holds it that has run for longer than its certificate is valid.
    pub(crate) fn expired_tls(&self, role: Role, name: &str) -> Tls {
        let two_hours_ago = SystemTime::now() - 2 * HOUR;
        let since_epoch = two_hours_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Tls::load_at(&self.write(name, &self.expired(role, name)), UnixTime::since_unix_epoch(since_epoch)).unwrap()
    }

    /// A certificate of this CA that says that its holder belongs to another farm.
    pub(crate) fn of_another_farm(&self, role: Role, name: &str) -> Issued {
        let now = SystemTime::now();
        let holder = Peer::new(role, "elsewhere", name).unwrap();
        self.authority.issue_to(&holder, &hosts(), now - HOUR, now + HOUR).unwrap()
    }
}

pub(crate) fn any(role: Role) -> ExpectedPeer {
    ExpectedPeer { role, name: None }
}

pub(crate) fn named(role: Role, name: &str) -> ExpectedPeer {
    ExpectedPeer { role, name: Some(name.to_owned()) }
}

/// A server on loopback. Dropping it drops the server.
pub(crate) struct TestServer {
    pub(crate) address: String,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl TestServer {
    pub(crate) async fn start(tls: &Tls) -> Self {
        Self::start_at(tls, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(tls: &Tls, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (shutdown, told) = oneshot::channel();
        let tls = tls.clone();
        let task =
            tokio::spawn(
                async move { serve(listener, &tls, routes(), &SERVICES, async move { drop(told.await) }).await },
            );
        Self { address, shutdown: Some(shutdown), task }
    }

    /// Tells it to end and waits until it has.
    pub(crate) async fn shut_down(mut self) {
        drop(self.shutdown.take());
        (&mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener on a network of pipes, and the way to call it.
pub(crate) fn pipes() -> (PipeListener, mpsc::UnboundedSender<DuplexStream>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (PipeListener(receiver), sender)
}

pub(crate) struct PipeListener(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for PipeListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, ([127, 0, 0, 1], 1).into())),
            None => std::future::pending().await,
        }
    }
}

pub(crate) fn routes() -> Routes {
    Routes::new(rpc::operator_server(Everything))
        .add_service(rpc::agent_server(Everything))
        .add_service(rpc::raft_server(Everything))
}

/// Every service. It answers what is needed to see that a call arrived, and from whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Everything;

type Answered<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream_of_one<T: Default + Send + 'static>() -> Response<Streamed<T>> {
    Response::new(Box::pin(tokio_stream::once(Ok(T::default()))))
}

/// Methods that answer with nothing, in the form that `async_trait` gives them: it does not look into macros.
macro_rules! answers {
    ($($method:ident: $request:ident -> $response:ident),+ $(,)?) => {$(
        fn $method<'life0, 'async_trait>(
            &'life0 self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Answered<v1::$response>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(std::future::ready(Ok(Response::new(v1::$response::default()))))
        }
    )+};
}

#[tonic::async_trait]
impl v1::operator_server::Operator for Everything {
    type WatchRotationStream = Streamed<v1::Rotation>;

    /// Never ends, as that of a rotation that waits for somebody.
    async fn watch_rotation(&self, _: Request<v1::WatchRotationRequest>) -> Answered<Self::WatchRotationStream> {
        let first = tokio_stream::once(Ok(v1::Rotation::default()));
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(first, tokio_stream::pending()))))
    }

    async fn get_farm(&self, request: Request<v1::GetFarmRequest>) -> Answered<v1::Farm> {
        let caller = access::peer(&request).map(ToString::to_string).unwrap_or_default();
        Ok(Response::new(v1::Farm { name: caller, ..v1::Farm::default() }))
    }

    /// Answers with as many bytes of plan as the id says.
    async fn get_rotation(&self, request: Request<v1::GetRotationRequest>) -> Answered<v1::Rotation> {
        let bytes = request.get_ref().id.parse().unwrap_or(0);
        Ok(Response::new(v1::Rotation { plan: vec![7; bytes], ..v1::Rotation::default() }))
    }

    answers! {
        enroll_node: EnrollNodeRequest -> Node,
        remove_node: RemoveNodeRequest -> RemoveNodeResponse,
        plan_rotation: PlanRotationRequest -> Rotation,
        start_rotation: StartRotationRequest -> Rotation,
        abort_rotation: AbortRotationRequest -> Rotation,
        pause_rotation: PauseRotationRequest -> Rotation,
        resume_rotation: ResumeRotationRequest -> Rotation,
        retry_rotation: RetryRotationRequest -> Rotation,
        throttle_rotation: ThrottleRotationRequest -> Rotation,
        retire_rotation: RetireRotationRequest -> Rotation,
        list_rotations: ListRotationsRequest -> ListRotationsResponse,
        list_replicas: ListReplicasRequest -> ListReplicasResponse,
        change_replicas: ChangeReplicasRequest -> ChangeReplicasResponse,
    }
}

#[tonic::async_trait]
impl v1::agent_server::Agent for Everything {
    type ExecuteStream = Streamed<v1::Report>;

    async fn execute(&self, _: Request<v1::ExecuteRequest>) -> Answered<Self::ExecuteStream> {
        Ok(stream_of_one())
    }

    answers! {
        adopt: AdoptRequest -> AdoptResponse,
        describe: DescribeRequest -> DescribeResponse,
    }
}

#[tonic::async_trait]
impl v1::raft_server::Raft for Everything {
    answers! {
        append_entries: RaftRequest -> RaftResponse,
        vote: RaftRequest -> RaftResponse,
        install_snapshot: RaftRequest -> RaftResponse,
        probe: ProbeRequest -> ProbeResponse,
    }
}
