//! The server's process, and the client's grip on it: a pipe each way.
//!
//! The server first writes the port of each contestant. Then it answers each line that it reads with the CPU
//! time that it has used, in nanoseconds. It ends when its input does.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use streaming_accumulator::BoxError;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::Service;

use super::contestants::Contestant;
use super::machine;

/// The server waits this long for background work before it asks its CPU clock again.
const SETTLING: Duration = Duration::from_millis(5);
/// With less CPU time than this in [`SETTLING`], the server is at rest. Asking the clock takes some too.
const AT_REST: Duration = Duration::from_micros(300);

// === the server's side ===

/// Serves all contestants until the client closes the pipe.
pub(crate) fn run(core: Option<usize>) {
    if let Some(core) = core {
        machine::pin(core);
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let ports: Vec<_> = Contestant::ALL.map(|contestant| start(&runtime, contestant).to_string()).into();
    println!("{}", ports.join(" "));
    for line in io::stdin().lines() {
        line.expect("the client writes lines");
        println!("{}", settled_cpu_time().as_nanos());
    }
}

fn start(runtime: &Runtime, contestant: Contestant) -> u16 {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    // Accepted sockets inherit the options. The client tells where the kernel refuses reno.
    machine::tune(&listener);
    let port = listener.local_addr().expect("it is bound").port();
    runtime.spawn(contestant.serve(listener));
    port
}

/// Serves connections with `service` for ever.
pub(crate) async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.expect("connections can be accepted");
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // Fails when the client goes away.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// CPU time of this process, once hooks and background tasks have done what the last requests left them.
fn settled_cpu_time() -> Duration {
    let mut before = machine::cpu_time();
    loop {
        machine::sleep(SETTLING);
        let now = machine::cpu_time();
        if now - before < AT_REST {
            return now;
        }
        before = now;
    }
}

// === the client's side ===

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    pub(crate) fn start(core: Option<usize>) -> Self {
        let this = std::env::current_exe().expect("the path of this binary");
        let mut command = Command::new(this);
        command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(core) = core {
            command.arg("--core").arg(core.to_string());
        }
        let mut process = command.spawn().expect("this binary runs again");
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut server = Self { process, questions, answers, addresses: Vec::new() };
        let ports = server.answer();
        let address = |port: &str| (Ipv4Addr::LOCALHOST, port.parse().expect("a port")).into();
        server.addresses = ports.split_whitespace().map(address).collect();
        server
    }

    pub(crate) fn address(&self, contestant: Contestant) -> SocketAddr {
        self.addresses[contestant as usize]
    }

    /// CPU time that the server has used. Returns once the server is at rest.
    pub(crate) fn cpu_time(&mut self) -> Duration {
        let questions = self.questions.as_mut().expect("open until the drop");
        questions.write_all(b"\n").expect("the server runs");
        Duration::from_nanos(self.answer().trim().parse().expect("a number"))
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the server runs");
        line
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.questions.take());
        // The runtime's shutdown might wait for a task.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
