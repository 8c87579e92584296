//! Asking for usage, and hiding what came only because of that.

use axum::body::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio_test::{assert_pending, assert_ready, task};

use crate::hiding::{Hidden, Hiding};
use crate::include_usage::{Hider, LONGEST_EVENT, ask};
use crate::support::server::BoxError;
use crate::support::{Feed, Gate, MockBody, body};

const COUNTS: &str = "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\n";

#[test]
fn stream_is_made_to_ask_for_usage() {
    let cases = [
        (r#"{"stream":true}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        (
            "{ \"stream\" : true,\r\n\"n\": 1e2 \n}\n",
            "{ \"stream\" : true,\r\n\"n\": 1e2,\"stream_options\":{\"include_usage\":true} \n}\n",
        ),
        (
            r#"{"stream_options":null,"stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options": { "include_obfuscation":false }}"#,
            r#"{"stream":true,"stream_options": {"include_usage":true, "include_obfuscation":false }}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":false,"x":[{}]},"stream":true}"#,
            r#"{"stream_options":{"include_usage":true,"x":[{}]},"stream":true}"#,
        ),
        (
            r#"{"stream_options":{"include_usage": null},"stream":true}"#,
            r#"{"stream_options":{"include_usage": true},"stream":true}"#,
        ),
        // Only the object's own members count, and of two of a name the last one.
        (
            r#"{"messages":[{"stream_options":{"include_usage":true},"stream":false}],"stream":false,"stream":true}"#,
            r#"{"messages":[{"stream_options":{"include_usage":true},"stream":false}],"stream":false,"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"p":"} \" \\","stream_options":{"\u0069nclude_usage":false}}"#,
            r#"{"stream":true,"p":"} \" \\","stream_options":{"\u0069nclude_usage":true}}"#,
        ),
    ];
    for (body, expected) in cases {
        let asking = ask(body.as_bytes()).unwrap_or_else(|| panic!("{body} is made to ask"));
        assert_eq!(String::from_utf8(asking).expect("text"), expected);
    }
}

#[test]
fn every_other_request_stays_as_it_is() {
    let bodies = [
        "",
        "not JSON",
        "{}",
        "[true]",
        "true",
        r#"{"stream":false}"#,
        r#"{"stream":null}"#,
        r#"{"stream":"true"}"#,
        r#"{"stream":true,"stream":false}"#,
        r#"{"options":{"stream":true}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        // The provider's to refuse.
        r#"{"stream":true,"stream_options":[]}"#,
        r#"{"stream":true,"stream_options":{"include_usage":"yes"}}"#,
        r#"{"stream":true"#,
        r#"{"stream":true}}"#,
    ];
    for body in bodies {
        assert_eq!(ask(body.as_bytes()), None, "{body}");
    }
}

/// What passes of `parts`.
fn passed(parts: &[&[u8]]) -> String {
    let mut hider = Hider::new();
    let mut out: Vec<u8> = parts.iter().flat_map(|part| hider.push(part)).collect();
    out.extend(hider.finish());
    let length: usize = parts.iter().map(|part| part.len()).sum();
    assert_eq!(hider.hidden(), (length - out.len()) as u64, "what is hidden is counted");
    String::from_utf8(out).expect("text")
}

#[test]
fn a_null_is_cut_out_with_its_comma() {
    let cases = [
        (r#"{"id":1,"usage":null}"#, r#"{"id":1}"#),
        (r#"{"id":1,"usage":null,"x":2}"#, r#"{"id":1,"x":2}"#),
        (r#"{"usage":null,"x":2}"#, r#"{"x":2}"#),
        (r#"{"id": 1, "usage": null, "x": 2}"#, r#"{"id": 1, "x": 2}"#),
        (r#"{ "usage" : null , "x": 2 }"#, r#"{ "x": 2 }"#),
        (r#"{"usage":null}"#, "{}"),
        (
            r#"{"choices":[],"prompt_filter_results":[1],"usage":null}"#,
            r#"{"choices":[],"prompt_filter_results":[1]}"#,
        ),
    ];
    for (sent, expected) in cases {
        for field in ["data: ", "data:", "id: 7\ndata: ", ": a comment\nevent: x\ndata: "] {
            assert_eq!(passed(&[format!("{field}{sent}\n\n").as_bytes()]), format!("{field}{expected}\n\n"));
        }
    }
}

#[test]
fn what_is_not_ours_to_hide_passes() {
    let events = [
        "data: [DONE]\n\n",
        ": \"usage\":null\n\n",
        "event: \"usage\"\ndata\n\n",
        "\n",
        r#"data: {"choices":[{"delta":{"content":"\"usage\":null"}}]}"#,
        r#"data: {"choices":[{"usage":null}],"x":{"usage":null}}"#,
        // Counts beside text or beside nothing are sent unasked.
        r#"data: {"choices":[{"index":0}],"usage":{"prompt_tokens":3}}"#,
        r#"data: {"usage":{"prompt_tokens":3}}"#,
        r#"data: {"choices":[],"usage":3}"#,
        // No JSON, or JSON that is not of one line.
        r#"data: {"choices":[],"usage":null"#,
        "data: {\"choices\":[],\ndata: \"usage\":null}",
        "other: {\"choices\":[],\"usage\":null}",
    ];
    for event in events {
        let event = format!("{event}\n\n");
        assert_eq!(passed(&[event.as_bytes()]), event);
    }
    // The stream broke off in it: no reader takes it for an event.
    let begun = COUNTS.trim_end();
    assert_eq!(passed(&[begun.as_bytes()]), begun);
}

#[test]
fn overlong_event_passes_the_next_does_not() {
    let long = format!("data: {{\"x\":\"{}\",\"usage\":null}}\n\n", "y".repeat(LONGEST_EVENT));
    let stream = format!("{COUNTS}{long}{COUNTS}data: [DONE]\n\n");
    let expected = format!("{long}data: [DONE]\n\n");
    assert_eq!(passed(&[stream.as_bytes()]), expected);
    let parts: Vec<&[u8]> = stream.as_bytes().chunks(4093).collect();
    assert_eq!(passed(&parts), expected);
}

/// An event as it comes, and as it is without the option.
fn event() -> impl Strategy<Value = (String, String)> {
    let text =
        prop_oneof![Just("\"usage\":null".to_owned()), Just("choices\":[]".to_owned()), any::<String>()];
    let chunk = |text: &str, usage: &str| {
        let text = serde_json::to_string(text).expect("JSON");
        format!("data: {{\"id\":\"1\",\"choices\":[{{\"delta\":{{\"content\":{text}}}}}]{usage}}}")
    };
    let event = prop_oneof![
        4 => text.clone().prop_map(move |text| (chunk(&text, ",\"usage\":null"), chunk(&text, ""))),
        1 => text.prop_map(move |text| (chunk(&text, ",\"usage\":{}"), chunk(&text, ",\"usage\":{}"))),
        2 => Just((COUNTS.trim_end().to_owned(), String::new())),
        1 => Just(("data: {\"usage\": null, \"x\": 1}".to_owned(), "data: {\"x\": 1}".to_owned())),
        1 => Just(("data: [DONE]".to_owned(), "data: [DONE]".to_owned())),
        1 => Just((": \"usage\":null".to_owned(), ": \"usage\":null".to_owned())),
    ];
    (event, prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]).prop_map(|((sent, bare), line)| {
        let close = |event: String| if event.is_empty() { event } else { event + line + line };
        (close(sent), close(bare))
    })
}

proptest! {
    #[test]
    fn chunking_does_not_change_what_passes(
        events in prop::collection::vec(event(), 0..12),
        tail in prop_oneof![Just(""), Just("data: {\"usage\":null}"), Just("data: {")],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let (sent, bare): (String, String) = events.into_iter().unzip();
        let (sent, bare) = (sent + tail, bare + tail);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &sent.as_bytes()[cut[0]..cut[1]]).collect();
        prop_assert_eq!(passed(&parts), bare.clone());
        let bytes: Vec<&[u8]> = sent.as_bytes().chunks(1).collect();
        prop_assert_eq!(passed(&bytes), bare);
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let mut hider = Hider::new();
        let sent: usize = parts.iter().map(Vec::len).sum();
        let passed: usize = parts.iter().map(|part| hider.push(part).len()).sum();
        prop_assert!(passed + hider.held() <= sent);
        let _ = ask(&parts.concat());
    }
}

/// The body, and its count.
fn hiding(inner: MockBody) -> (Hiding<MockBody>, Hidden) {
    let hidden = Hidden::default();
    (Hiding::new(inner, hidden.clone()), hidden)
}

/// The next frame's text.
fn text(frame: Option<Result<Frame<Bytes>, BoxError>>) -> String {
    let data = frame.expect("a frame").expect("no error").into_data().expect("data");
    String::from_utf8(data.into()).expect("text")
}

#[test]
fn whole_events_go_out_at_once() {
    // The inner body says that it is over, and yields nothing more.
    let inner = body(["data: 1\n\ndata: 2\n", COUNTS, "da"]).wait(&Gate::new()).claims_end_after(3);
    let (mut body, hidden) = hiding(inner);
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: 1\n\n");
    // The counts were no event of their own: a line of the event before was open.
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), format!("data: 2\n{COUNTS}"));
    assert_pending!(task::spawn(body.frame()).poll());
    assert!(!body.is_end_stream(), "two bytes are still to come");
    assert_eq!(hidden.bytes(), 0);
    assert_eq!(body.size_hint().exact(), None);
    drop(body);
    assert_eq!(hidden.bytes(), 2, "they were taken and not passed");
}

#[test]
fn hidden_events_make_no_frames() {
    let (mut body, hidden) = hiding(body([COUNTS, "", "data: [DONE]\n\n"]).hint(true));
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: [DONE]\n\n");
    assert_eq!(hidden.bytes(), COUNTS.len() as u64);
    assert!(assert_ready!(task::spawn(body.frame()).poll()).is_none());
    assert!(body.is_end_stream());
}

#[test]
fn held_bytes_come_before_the_end() {
    let cut = || body(["data: 1"]).hint(true);

    let (mut body, _) = hiding(cut().fails());
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: 1");
    let error = assert_ready!(task::spawn(body.frame()).poll()).expect("an end").expect_err("one");
    assert_eq!(error.to_string(), "scripted error");

    let (mut body, _) = hiding(cut().trailers());
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: 1");
    assert!(!body.is_end_stream());
    let last = assert_ready!(task::spawn(body.frame()).poll()).expect("a frame").expect("no error");
    assert_eq!(last.into_trailers().expect("trailers")["x-sum"], "abc");

    let (mut body, hidden) = hiding(cut());
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: 1");
    assert!(assert_ready!(task::spawn(body.frame()).poll()).is_none());
    drop(body);
    assert_eq!(hidden.bytes(), 0);
}

#[test]
fn dropping_the_body_drops_the_inner_one() {
    let feed = Feed::default();
    feed.push("data: 1\n\n");
    feed.push("data: 2");
    let (mut body, hidden) = hiding(feed.body());
    assert_eq!(text(assert_ready!(task::spawn(body.frame()).poll())), "data: 1\n\n");
    assert!(!feed.is_abandoned());
    drop(body);
    assert!(feed.is_abandoned());
    assert_eq!(hidden.bytes(), 0, "the second event was never taken");
}
