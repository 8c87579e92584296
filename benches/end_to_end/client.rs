//! A client that wakes rarely, so that the server's work is all that is measured.
//!
//! A client that waits in `epoll` is woken by nearly every answer, and the server pays for the wake-up in its
//! `write`. This one sends one request on each connection and sleeps while the server works. No thread waits
//! on a socket meanwhile, so that the server's writes wake nobody.
//!
//! The length of an answer is learned from the first one, which is read in full. All later ones must have the
//! same length, begin with the same status line and end with the terminating chunk.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

use super::machine;
use super::workload::{SIZE, Workload};

const CONNECTIONS: usize = 64;
const STATUS: &[u8] = b"HTTP/1.1 200 OK\r\n";
/// The end of the last frame's chunk, and the terminating chunk.
const END: &[u8] = b"\r\n0\r\n\r\n";
const LEAST_PAUSE: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(20);

/// Keep-alive connections to one contestant.
#[derive(Debug)]
pub(crate) struct Client {
    connections: Vec<Connection>,
    /// The kernel let all sockets use reno.
    pub(crate) reno: bool,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// What to send, what to expect, and for how long to sleep meanwhile.
#[derive(Debug)]
pub(crate) struct Exchange {
    request: String,
    answer_len: usize,
    pause: Duration,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut reno = true;
        let connect = |_| {
            let stream = TcpStream::connect(address).expect("the server listens");
            reno &= machine::tune(&stream);
            stream.set_nonblocking(true).expect("sockets can do this");
            Connection { stream, buffer: Vec::new(), filled: 0 }
        };
        let connections = (0..CONNECTIONS).map(connect).collect();
        Self { connections, reno }
    }

    /// Learns from one request how long the answers of `workload` are.
    pub(crate) fn learn(&mut self, workload: &Workload) -> Exchange {
        let request = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", workload.path);
        let connection = &mut self.connections[0];
        connection.send(&request, 64 * 1024);
        let started = Instant::now();
        while !connection.buffer[..connection.filled].ends_with(END) {
            assert!(started.elapsed() < PATIENCE, "no end of an answer in {PATIENCE:?}");
            machine::sleep(LEAST_PAUSE);
            connection.read();
        }
        let answer = &connection.buffer[..connection.filled];
        assert_eq!(content_len(answer), workload.frames * SIZE, "{}", answer.escape_ascii());
        Exchange { request, answer_len: answer.len(), pause: LEAST_PAUSE }
    }

    /// Sends batches for `duration`. Returns how many requests were answered.
    pub(crate) fn drive(&mut self, exchange: &mut Exchange, duration: Duration) -> usize {
        let started = Instant::now();
        let mut requests = 0;
        while started.elapsed() < duration {
            self.batch(exchange);
            requests += self.connections.len();
        }
        requests
    }

    /// Sends one request on each connection and reads all answers.
    fn batch(&mut self, exchange: &mut Exchange) {
        for connection in &mut self.connections {
            connection.send(&exchange.request, exchange.answer_len);
        }
        let started = Instant::now();
        let mut first = 0;
        loop {
            machine::sleep(exchange.pause);
            while self.connections.get_mut(first).is_some_and(Connection::is_answered) {
                first += 1;
            }
            if first == self.connections.len() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "no answer in {PATIENCE:?}");
            exchange.pause += exchange.pause / 8;
        }
        exchange.pause = (exchange.pause - exchange.pause / 64).max(LEAST_PAUSE);
    }
}

impl Connection {
    /// Sends `request` and makes room for an answer of `answer_len` bytes.
    fn send(&mut self, request: &str, answer_len: usize) {
        self.buffer.resize(answer_len, 0);
        self.filled = 0;
        self.stream.write_all(request.as_bytes()).expect("the server reads requests");
    }

    /// Reads what has come.
    fn read(&mut self) {
        while self.filled < self.buffer.len() {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("cannot read: {error}"),
            }
        }
    }

    /// Reads what has come. Returns whether the answer is complete.
    fn is_answered(&mut self) -> bool {
        self.read();
        if self.filled < self.buffer.len() {
            return false;
        }
        let answer = &self.buffer;
        assert!(answer.starts_with(STATUS) && answer.ends_with(END), "{}", answer.escape_ascii());
        true
    }
}

/// Bytes of content in a complete answer with `transfer-encoding: chunked`.
fn content_len(answer: &[u8]) -> usize {
    let line_end = |from: &[u8], end: &[u8]| {
        from.windows(end.len()).position(|window| window == end).expect("a line that ends")
    };
    let mut rest = &answer[line_end(answer, b"\r\n\r\n") + 4..];
    let mut total = 0;
    loop {
        let end = line_end(rest, b"\r\n");
        let digits = str::from_utf8(&rest[..end]).expect("a chunk's length in digits");
        let len = usize::from_str_radix(digits, 16).expect("a chunk's length in digits");
        if len == 0 {
            return total;
        }
        total += len;
        rest = &rest[end + 2 + len + 2..];
    }
}
