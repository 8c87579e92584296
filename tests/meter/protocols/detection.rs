//! Which protocol a stream speaks, and that what cannot be told is not guessed. The first events are those of the
//! providers' documents; see the other files.

use streaming_accumulator::meter::{Incomplete, LlmReport, MeterSet, Protocol, UsageBasis};

use super::frames::{event, stream, wrapped};
use super::{Answer, error, events, json, lines, protocol};

/// The first event of each protocol that comes in events, lines or whole.
const FIRST: [(&str, &str); 12] = [
    (
        "openai_chat",
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}],"usage":null}"#,
    ),
    ("openai_chat", r#"{"choices":[{"delta":{"content":"a"}}]}"#),
    (
        "mistral_chat",
        r#"{"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}"#,
    ),
    (
        "openai_completions",
        r#"{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"text":"a","index":0}]}"#,
    ),
    ("openai_responses", r#"{"type":"response.created","response":{"id":"r","model":"m"}}"#),
    ("anthropic_messages", r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":1}}}"#),
    ("gemini_sse", r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#),
    ("cohere_v2", r#"{"type":"message-start","id":"i","delta":{}}"#),
    ("cohere_v1", r#"{"is_finished":false,"event_type":"stream-start","generation_id":"g"}"#),
    (
        "ollama_chat",
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"a"},"done":false}"#,
    ),
    ("ollama_generate", r#"{"model":"m","created_at":"t","response":"a","done":false}"#),
    ("gemini_sse", r#"{"response":{"usageMetadata":{"promptTokenCount":1}}}"#),
];

const TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("TEXT/EVENT-STREAM"),
    Some("text/event-stream;charset=UTF-8"),
    Some("text/event-stream; charset=\"utf-8\""),
    Some("application/octet-stream"),
];

/// What all reports of streams that cannot be told have in common.
fn assert_unknown(name: &str, report: &LlmReport) {
    assert_eq!(
        (protocol(report), &report.error, &report.incomplete.as_ref()),
        (None, &None, &None),
        "{name}"
    );
    assert_eq!((report.terminated, report.model(), report.finish_reason()), (None, None, None), "{name}");
    assert_eq!((report.time_to_first_text, report.choices.len()), (None, 0), "{name}");
}

#[test]
fn the_first_event_tells_whatever_the_type() {
    for (wanted, data) in FIRST {
        for content_type in TYPES {
            let (report, _) = events([data]).typed(content_type).read();
            assert_eq!(protocol(&report), Some(wanted), "{content_type:?} {data}");
            assert_eq!(error(&report), None, "{data}");
        }
        let line = wanted.replace("gemini_sse", "gemini_json_array");
        for content_type in [None, Some("application/json"), Some("application/x-ndjson")] {
            let (report, _) = lines(&[data]).typed(content_type).read();
            assert_eq!(protocol(&report), Some(&*line), "{content_type:?} {data}");
        }
    }
}

#[test]
fn bytes_before_the_first_event_are_ignored() {
    for (wanted, data) in FIRST {
        for before in
            ["\u{FEFF}", "\n\n", "\r\n\r\n\r\n", "\u{FEFF}\n\n", ": hello\n\n", "retry: 3000\n\n", "id: 1\n"]
        {
            let body = format!("{before}data: {data}\n\n");
            for content_type in [None, Some("text/event-stream")] {
                let (report, _) = Answer::new("", body.clone()).typed(content_type).read();
                assert_eq!(protocol(&report), Some(wanted), "{before:?} {content_type:?} {data}");
            }
        }
    }
    // DeepSeek sends empty lines for as long as a request waits.
    for before in ["\u{FEFF}", "\n\n", "\u{FEFF}\r\n", "  ", &"\n".repeat(5_000)] {
        for content_type in ["application/x-ndjson", "application/json"] {
            let (report, _) = Answer::new(content_type, format!("{before}{}\n", FIRST[9].1)).read();
            assert_eq!(protocol(&report), Some("ollama_chat"), "{before:?} {content_type}");
            assert_eq!(report.text.as_deref(), Some("a"), "{before:?} {content_type}");
        }
    }
}

#[test]
fn line_beginning_with_a_blank_is_no_event() {
    for before in [" ", "\t", "\n ", "     ", "\u{FEFF} ", "\u{FEFF}\u{FEFF}"] {
        let body = format!("{before}data: {}\n\n", FIRST[0].1);
        let (report, _) = Answer::new("text/event-stream", body).read();
        assert_eq!((protocol(&report), report.events), (None, 0), "{before:?}");
    }
}

#[test]
fn frames_tell_by_their_types() {
    let converse = stream(&[event("messageStart", r#"{"role":"assistant"}"#)]);
    assert_eq!(protocol(&converse.read().0), Some("bedrock_converse"));
    let invoke = stream(&[wrapped(r#"{"outputText":"a"}"#)]);
    assert_eq!(protocol(&invoke.read().0), Some("bedrock_invoke"));
    let other = stream(&[event("TranscriptEvent", r#"{"Transcript":{"usage":{"inputTokens":1}}}"#)]);
    assert_unknown("a transcript", &other.read().0);
}

#[test]
fn path_decides_between_lookalikes() {
    let paths = [
        ("/v1/chat/completions", "openai_chat"),
        ("/openai/deployments/d/chat/completions?api-version=1", "openai_chat"),
        ("/v1/completions/", "openai_completions"),
        ("/v1/responses", "openai_responses"),
        ("/v1/messages?beta=true", "anthropic_messages"),
        ("/v1beta/models/g:streamGenerateContent?alt=sse", "gemini_sse"),
        ("/v2/chat", "cohere_v2"),
        ("/v1/chat", "cohere_v1"),
        ("/api/chat", "ollama_chat"),
        ("/api/generate", "ollama_generate"),
    ];
    for (uri, wanted) in paths {
        let failed = r#"{"error":{"message":"it failed","type":"server_error"}}"#;
        for answer in [events([failed]), json(failed)] {
            let (report, usage) = answer.at(uri).read();
            assert_eq!(protocol(&report), Some(wanted), "{uri}");
            assert_eq!(error(&report), Some((Some("server_error"), "it failed")), "{uri}");
            assert_eq!(usage.basis, UsageBasis::Absent, "{uri}");
        }
        assert_eq!(protocol(&events([r#"{"type":"ping"}"#]).at(uri).read().0), Some(wanted), "{uri}");
    }
}

#[test]
fn where_path_and_events_disagree_the_events_win() {
    for (wanted, data) in FIRST {
        for uri in
            ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/api/chat", "/model/m/converse-stream"]
        {
            let (report, _) = events([data]).at(uri).read();
            assert_eq!(protocol(&report), Some(wanted), "{uri} {data}");
            // Also where something came before them.
            let (report, _) = events([r#"{"type":"ping"}"#, data]).at(uri).read();
            assert_eq!(protocol(&report), Some(wanted), "{uri} ping {data}");
        }
    }
    // Once decided, it stays.
    assert_eq!(protocol(&events([FIRST[0].1, FIRST[5].1]).read().0), Some("openai_chat"));
}

#[test]
fn what_is_no_protocols_is_unknown() {
    let bodies: [(&str, &[u8]); 22] = [
        ("html", b"<!DOCTYPE html>\n<html><body>data: 1\n\nerror: {}\n</body></html>"),
        ("text", b"dear all,\n{\"error\": {\"message\": \"quoted\"}}\nevent: none\n"),
        ("text of another start", b"Once upon a time, data: was scarce\n\n"),
        ("an error in text", b"error: it did not work\n"),
        ("binary", b"\0\x01\x02\x03\xFF\xFE\x80data: {}\n\n"),
        ("zeros", &[0; 64]),
        ("an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        ("empty", b""),
        ("blanks", b" \r\n\t\n"),
        ("a number", b"12"),
        ("a string", b"\"error\""),
        ("an object", br#"{"status":"ok","items":[{"usage":{"total_tokens":1}}]}"#),
        ("an object without an error", br#"{"ok":true,"error":false}"#),
        ("an object with an empty error", br#"{"ok":true,"error":""}"#),
        ("a form's errors", br#"{"error":"the name is taken"}"#),
        ("an array", br#"[{"a":1},{"b":[2]}]"#),
        ("an empty array", b"[]"),
        ("a chat's message", br#"{"type":"message","content":"hi"}"#),
        ("an analytics event", br#"{"event_type":"signup","text":"hi","user":1}"#),
        ("a job", br#"{"done":true,"name":"operations/1"}"#),
        ("a ticker", b"data: tick\n\ndata: tock\n\nevent: x\ndata: {\"price\":1}\n\n"),
        ("JSON text", b"event: message\ndata: \"text\"\n\ndata: [1,2]\n\ndata: 7\n\n"),
    ];
    let types =
        ["text/event-stream", "application/json", "text/plain", "application/octet-stream", "text/html"];
    for (name, body) in bodies {
        for content_type in types.iter().chain(&["application/x-ndjson"]) {
            let (report, usage) = Answer::new(content_type, body).completed().read();
            assert_unknown(&format!("{name} as {content_type}"), &report);
            assert_eq!(usage.basis, UsageBasis::Absent);
        }
    }
}

/// Its first byte could be that of an event, and there is no end of a line in it.
#[test]
fn long_lookalike_of_events_is_unknown() {
    let body = vec![b'd'; 3_000];
    let meters = MeterSet::detect().max_line(1_000);
    let (report, _) = Answer::new("application/octet-stream", body.clone()).with(meters.clone()).read();
    assert_unknown("announced as bytes", &report);
    for (content_type, uri) in [("text/event-stream", "/any/path"), ("text/plain", "/v1/messages")] {
        let answer = Answer::new(content_type, body.clone()).at(uri).with(meters.clone());
        assert!(
            matches!(answer.read().0.incomplete, Some(Incomplete::TooLong { .. })),
            "{content_type} {uri}"
        );
    }
}

/// A path ends in `/messages` elsewhere, too.
#[test]
fn path_alone_does_not_decide_a_whole_answer() {
    for uri in ["/rooms/5/messages", "/v1/survey/responses", "/v1/chat/completions"] {
        let (report, _) = json(r#"{"messages":[{"id":1,"text":"hi"}]}"#).at(uri).completed().read();
        assert_eq!((protocol(&report), error(&report)), (None, None), "{uri}");
    }
}

#[test]
fn given_protocol_is_not_detected() {
    let data = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#;
    let (report, _) = events([data]).with(MeterSet::only(Protocol::OpenAiChat)).read();
    assert_eq!((protocol(&report), report.text.as_deref()), (Some("openai_chat"), Some("")));
    let frames = stream(&[event("messageStart", "{}"), wrapped("{}")]);
    for said in [Protocol::BedrockInvoke, Protocol::BedrockConverse, Protocol::OpenAiChat] {
        let (report, _) = frames.clone().with(MeterSet::only(said.clone())).read();
        assert_eq!(report.protocol, Some(said));
    }
    // It is read where detection would not dare to.
    let bare = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    assert_eq!(protocol(&events([bare]).read().0), None);
    let (report, usage) = events([bare]).with(MeterSet::only(Protocol::OpenAiChat)).at("/v1/messages").read();
    assert_eq!((protocol(&report), usage.output_tokens), (Some("openai_chat"), Some(2)));
}
