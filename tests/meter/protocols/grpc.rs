//! Written from the gRPC project's documents: `PROTOCOL-HTTP2.md` (length-prefixed messages) and `PROTOCOL-WEB.md`
//! (trailers in the body, `grpc-web-text`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use streaming_accumulator::meter::{Incomplete, UsageBasis};

use super::{Answer, error, protocol};

fn frame(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    [&[flags], &length[..], message].concat()
}

fn sizes(answer: &Answer) -> (u64, u64, u64) {
    let (report, usage) = answer.read();
    assert_eq!((protocol(&report), usage.basis), (Some("grpc"), UsageBasis::Absent));
    assert_eq!((report.incomplete.as_ref(), report.response_model.as_ref()), (None, None));
    (report.events, report.event_bytes, report.longest_event)
}

#[test]
fn messages_are_counted() {
    for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC+json; x=y"] {
        let unary = Answer::new(content_type, frame(0, b"hello"));
        assert_eq!(sizes(&unary), (1, 5, 5), "{content_type}");
    }
    let streaming = [frame(0, b"hello"), frame(1, b"compressed"), frame(0, b""), frame(0, b"x")].concat();
    assert_eq!(sizes(&Answer::new("application/grpc", streaming)), (4, 16, 10));
}

#[test]
fn a_cut_message_is_no_message() {
    let streaming = [frame(0, b"hello"), frame(0, b"world")].concat();
    assert_eq!(sizes(&Answer::new("application/grpc", streaming.clone()).cut_by(2)), (1, 8, 5));
    assert_eq!(sizes(&Answer::new("application/grpc", streaming).cut_by(8)).0, 1);
}

#[test]
fn an_empty_body_is_grpc_too() {
    let (report, _) = Answer::new("application/grpc", "").completed().read();
    assert_eq!((protocol(&report), report.events, error(&report)), (Some("grpc"), 0, None));
    assert_eq!((report.terminated, report.time_to_first_event), (None, None));
}

#[test]
fn grpc_web_status_is_read_from_the_body() {
    let trailers = frame(0x80, b"Grpc-Status: 8\r\ngrpc-message: quota%20is%20gone%E2%80%A6\r\n");
    let body = [frame(0, b"hello"), trailers].concat();
    for content_type in ["application/grpc-web", "application/grpc-web+proto"] {
        let (report, _) = Answer::new(content_type, body.clone()).completed().read();
        assert_eq!(error(&report), Some((Some("8"), "quota is gone…")), "{content_type}");
        assert_eq!((report.events, report.terminated), (1, Some(true)), "{content_type}");
    }
    let fine = [frame(0, b"hello"), frame(0x80, b"grpc-status:0\r\n")].concat();
    let (report, _) = Answer::new("application/grpc-web", fine.clone()).read();
    assert_eq!((error(&report), report.terminated), (None, Some(true)));
    let (report, _) = Answer::new("application/grpc-web", fine).cut_by(1).read();
    assert_eq!(report.terminated, Some(false));
    assert_eq!(Answer::new("application/grpc-web", frame(0, b"hello")).read().0.terminated, Some(false));
}

#[test]
fn grpc_web_text_is_base64() {
    let message = frame(0, b"hello");
    let trailers = frame(0x80, b"grpc-status: 5\r\ngrpc-message: none\r\n");
    let whole = STANDARD.encode([&*message, &*trailers].concat());
    // Each part may be padded by itself.
    let parts = STANDARD.encode(&message) + &STANDARD.encode(&trailers);
    let wrapped = parts.chars().map(|letter| format!("{letter}\n")).collect::<String>();
    for body in [whole, parts, wrapped] {
        for content_type in ["application/grpc-web-text", "application/grpc-web-text+proto"] {
            let (report, _) = Answer::new(content_type, body.clone()).read();
            assert_eq!(error(&report), Some((Some("5"), "none")), "{content_type}: {body}");
            assert_eq!((report.events, report.event_bytes, report.terminated), (1, 5, Some(true)));
        }
    }
    let (report, _) = Answer::new("application/grpc-web-text", STANDARD.encode(&message) + "!!!!").read();
    assert!(matches!(report.incomplete, Some(Incomplete::Corrupt(_))), "{:?}", report.incomplete);
    assert_eq!(report.events, 1);
}
