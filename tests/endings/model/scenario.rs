//! How a random exchange is made up and played.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use streaming_accumulator::BoxError;
use tower::Service;

use super::{Answers, Hint, Scenario, bytes_of, pick};
use crate::support::body::Step;
use crate::support::*;

impl Scenario {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut steps = Vec::new();
        for _ in 0..rng.usize(..5) {
            steps.push(match rng.u8(..6) {
                0 => Step::Yield,
                1 => Step::Data("".into()),
                2 | 3 => Step::Data(pick(rng, &["e", "f", "xe", "xf", "ef"]).into()),
                _ => Step::Data(vec![b'x'; rng.usize(1..4)].into()),
            });
        }
        let total = steps.iter().map(bytes_of).sum::<u64>();
        match rng.u8(..8) {
            0 => steps.push(Step::Error),
            1 => steps.push(Step::Panic),
            2 => steps.push(Step::Trailers(trailers(&[("x-sum", "1")]))),
            3 => steps.push(Step::Trailers(trailers(&[("grpc-status", "0")]))),
            4 => steps.push(Step::Trailers(trailers(&[("grpc-status", "13"), ("grpc-message", "a%20b")]))),
            _ => {}
        }
        let frames = steps.len();
        Self {
            method: pick(rng, &[Method::GET, Method::GET, Method::POST, Method::HEAD, Method::CONNECT]),
            status: pick(rng, &[200, 200, 200, 201, 204, 304, 205, 101, 103, 404, 500]),
            answers: match rng.u8(..20) {
                0 => Answers::Error,
                1 => Answers::PanicsInCall,
                2 => Answers::PanicsInPoll,
                _ => Answers::After(rng.usize(..3)),
            },
            lengths: match rng.u8(..12) {
                0..=3 => vec![],
                4 => vec!["0"],
                5 => vec!["ten"],
                6 => vec!["+5"],
                7 => vec!["5", "6"],
                8 => vec!["5", "5"],
                9 => vec![pick(rng, &["3", "5", "8"])],
                10 => vec!["99999999999999999999"],
                _ => vec![pick(rng, &["1", "2", "4", "6"])],
            },
            grpc: match rng.u8(..16) {
                0 => Some("0"),
                1 => Some("7"),
                2 => Some("seven"),
                _ => None,
            },
            size: match rng.u8(..6) {
                0 | 1 => Some(total),
                2 => Some(rng.u64(..8)),
                _ => None,
            },
            hint: match rng.u8(..6) {
                0 | 1 => Hint::AtEnd,
                2 => Hint::After(rng.usize(..=frames)),
                _ => Hint::Never,
            },
            future_polls: if rng.u8(..6) == 0 { rng.usize(..3) } else { usize::MAX },
            body_polls: if rng.bool() { rng.usize(..6) } else { frames + rng.usize(..4) },
            unwinding: rng.u8(..6) == 0,
            steps,
        }
    }

    pub(crate) fn body(&self) -> MockBody {
        let body = MockBody::scripted(self.steps.iter().cloned());
        let body = match self.hint {
            Hint::Never => body,
            Hint::AtEnd => body.hint(true),
            Hint::After(frames) => body.claims_end_after(frames),
        };
        match self.size {
            Some(size) => body.claims(size),
            None => body,
        }
    }

    pub(crate) fn response(&self) -> Response<MockBody> {
        let mut response = Response::new(self.body());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        for length in &self.lengths {
            response.headers_mut().append("content-length", length.parse().unwrap());
        }
        if let Some(status) = self.grpc {
            response.headers_mut().insert("grpc-status", status.parse().unwrap());
        }
        response
    }

    /// Plays it: `path` names it in its record.
    pub(crate) fn play(&self, recorder: &Recorder, path: u64) {
        let scenario = self.clone();
        let service = tower::service_fn(move |_: Request<()>| {
            assert!(scenario.answers != Answers::PanicsInCall, "scripted panic");
            let scenario = scenario.clone();
            let mut pending = match scenario.answers {
                Answers::After(polls) => polls,
                _ => 0,
            };
            std::future::poll_fn(move |_| match scenario.answers {
                _ if pending > 0 => {
                    pending -= 1;
                    Poll::Pending
                }
                Answers::Error => Poll::Ready(Err(BoxError::from("scripted error"))),
                Answers::PanicsInPoll => panic!("scripted panic"),
                _ => Poll::Ready(Ok(scenario.response())),
            })
        });
        let request = Request::builder().method(&self.method).uri(format!("/{path}")).body(()).unwrap();
        let mut layered = recorder.around(service);
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| layered.call(request))) else { return };
        let mut future = Some(Box::pin(future));
        let mut cx = Context::from_waker(Waker::noop());

        for _ in 0..self.future_polls {
            let polled = {
                let future = future.as_mut().unwrap();
                catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)))
            };
            match polled {
                // Dropped when nothing unwinds any more, as under a layer that catches panics.
                Err(_) | Ok(Poll::Ready(Err(_))) => return,
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(Ok(response))) => {
                    drop(future.take());
                    let mut body = Box::pin(response.into_body());
                    self.play_body(body.as_mut(), &mut cx);
                    return self.let_go(body);
                }
            }
        }
        self.let_go(future);
    }

    pub(crate) fn play_body<B: Body>(&self, mut body: Pin<&mut B>, cx: &mut Context<'_>) {
        let mut over = false;
        for _ in 0..self.body_polls {
            let polled = catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(cx)));
            let Ok(polled) = polled else {
                assert!(!over, "the inner body was polled after its end: {self:?}");
                return;
            };
            assert!(!over || matches!(polled, Poll::Ready(None)), "{self:?}");
            over |= match polled {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(_) => true,
                Poll::Pending => false,
            };
        }
    }

    /// Drops it, if asked to while a panic of somebody else unwinds.
    pub(crate) fn let_go<T>(&self, held: T) {
        if self.unwinding {
            let unwound = catch_unwind(AssertUnwindSafe(move || {
                let _held = held;
                panic_any("scripted panic");
            }));
            assert!(unwound.is_err());
        }
    }
}
