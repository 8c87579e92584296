//! Written from Amazon's documents: *ConverseStream* and its `ConverseStreamOutput` (events and exceptions), *Converse*,
//! `TokenUsage`, and Smithy's *event stream* specification (exception and error messages).

use streaming_accumulator::meter::{Incomplete, UsageBasis};

use super::frames::{event, exception, message, stream};
use super::{counts, error, json, protocol};

const PATH: &str = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream";

fn start() -> Vec<u8> {
    event("messageStart", r#"{"p":"abc","role":"assistant"}"#)
}

fn text(text: &str) -> Vec<u8> {
    event(
        "contentBlockDelta",
        &format!(r#"{{"contentBlockIndex":0,"delta":{{"text":"{text}"}},"p":"abcdef"}}"#),
    )
}

fn stop(reason: &str) -> Vec<u8> {
    event("messageStop", &format!(r#"{{"p":"ab","stopReason":"{reason}"}}"#))
}

fn metadata() -> Vec<u8> {
    event(
        "metadata",
        r#"{"metrics":{"latencyMs":432},"p":"x","usage":{"inputTokens":11,"outputTokens":236,"totalTokens":1275,"cacheReadInputTokenCount":1000,"cacheReadInputTokens":1000,"cacheWriteInputTokenCount":28,"cacheWriteInputTokens":28,"serverToolUsage":{}}}"#,
    )
}

const COUNTS: [Option<u64>; 6] = [Some(1039), Some(236), Some(1000), Some(28), None, Some(1275)];

#[test]
fn a_stream_is_read_to_its_metadata() {
    let (report, usage) =
        stream(&[start(), text("Hel"), text("lo"), stop("end_turn"), metadata()]).at(PATH).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("end_turn")));
    assert_eq!((counts(&usage), usage.basis), (COUNTS, UsageBasis::Reported));
    assert_eq!((report.terminated, report.events), (Some(true), 5));
    assert_eq!(report.model(), Some("anthropic.claude-3-haiku-20240307-v1:0"));
    assert_eq!(report.response_model, None);
}

#[test]
fn either_name_of_a_cache_count_will_do() {
    for name in ["Tokens", "TokenCount"] {
        let usage = format!(
            r#"{{"usage":{{"inputTokens":1,"outputTokens":2,"totalTokens":10,"cacheReadInput{name}":3,"cacheWriteInput{name}":4}}}}"#
        );
        let (_, usage) = stream(&[text("a"), event("metadata", &usage)]).read();
        assert_eq!(counts(&usage), [Some(8), Some(2), Some(3), Some(4), None, Some(10)]);
    }
}

#[test]
fn an_exception_midway_is_an_error() {
    for kind in ["throttlingException", "modelStreamErrorException", "internalServerException"] {
        let payload = r#"{"message":"Too many tokens","originalMessage":"x","originalStatusCode":429}"#;
        let (report, usage) = stream(&[start(), text("Hel"), exception(kind, payload)]).completed().read();
        assert_eq!(error(&report), Some((Some(kind), "Too many tokens")));
        assert_eq!((report.text.as_deref(), report.terminated), (Some("Hel"), Some(false)));
        assert_eq!((usage.basis, report.incomplete.as_ref()), (UsageBasis::Absent, None));
    }
    // Behind the counts it takes none away.
    let late = exception("internalServerException", "{}");
    let (report, usage) = stream(&[text("a"), stop("end_turn"), metadata(), late]).read();
    assert_eq!(report.error.expect("an error").code.as_deref(), Some("internalServerException"));
    assert_eq!(counts(&usage), COUNTS);
}

#[test]
fn lone_exception_takes_its_protocol_from_the_path() {
    let (report, _) = stream(&[exception("validationException", r#"{"message":"bad"}"#)]).at(PATH).read();
    assert_eq!(error(&report), Some((Some("validationException"), "bad")));
    assert_eq!((protocol(&report), report.terminated), (Some("bedrock_converse"), Some(false)));
    let (report, _) = stream(&[exception("validationException", r#"{"message":"bad"}"#)]).read();
    assert_eq!((protocol(&report), error(&report)), (None, Some((Some("validationException"), "bad"))));
}

#[test]
fn an_error_message_carries_itself_in_its_headers() {
    let failed = message(
        &[(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "It broke")],
        b"",
    );
    let (report, _) = stream(&[start(), text("a"), failed]).read();
    assert_eq!(error(&report), Some((Some("InternalError"), "It broke")));
    assert_eq!(report.text.as_deref(), Some("a"));
}

#[test]
fn broken_checksum_stops_the_reading() {
    let mut broken = text("lost");
    let place = broken.len() - 10;
    broken[place] ^= 1;
    let (report, usage) = stream(&[text("kept"), metadata(), broken, text("after")]).read();
    assert!(matches!(report.incomplete, Some(Incomplete::Corrupt(_))), "{:?}", report.incomplete);
    assert_eq!((report.text.as_deref(), error(&report)), (Some("kept"), None));
    assert_eq!(counts(&usage), COUNTS);
}

#[test]
fn cut_before_the_metadata_loses_only_counts() {
    let (report, usage) = stream(&[start(), text("Hi"), stop("max_tokens")]).read();
    assert_eq!((report.finish_reason(), report.terminated), (Some("max_tokens"), Some(false)));
    assert_eq!((usage.basis, counts(&usage)), (UsageBasis::Absent, [None; 6]));
    let (report, usage) = stream(&[start(), text("Hi"), stop("max_tokens"), metadata()]).cut_by(1).read();
    assert_eq!(
        (report.terminated, usage.basis, report.incomplete.as_ref()),
        (Some(false), UsageBasis::Absent, None)
    );
}

#[test]
fn reasoning_and_tools_are_no_text() {
    let delta =
        |delta: &str| event("contentBlockDelta", &format!(r#"{{"contentBlockIndex":0,"delta":{delta}}}"#));
    let messages = [
        delta(r#"{"reasoningContent":{"text":"thinking"}}"#),
        delta(r#"{"reasoningContent":{"signature":"EqQB"}}"#),
        event(
            "contentBlockStart",
            r#"{"contentBlockIndex":1,"start":{"toolUse":{"toolUseId":"t","name":"f"}}}"#,
        ),
        delta(r#"{"toolUse":{"input":"{\"text\":\"no\"}"}}"#),
        delta(r#"{"citation":{"title":"no","sourceContent":[{"text":"no"}]}}"#),
        event("contentBlockStop", r#"{"contentBlockIndex":1}"#),
        event("hologram", r#"{"delta":{"text":"?"}}"#),
        text("said"),
        stop("tool_use"),
    ];
    let (report, _) = stream(&messages).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("said"), Some("tool_use")));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

#[test]
fn a_whole_answer_is_read() {
    let body = r#"{"metrics":{"latencyMs":551},"output":{"message":{"content":[
        {"reasoningContent":{"reasoningText":{"text":"hm","signature":"s"}}},{"text":"Hi"},
        {"toolUse":{"toolUseId":"t","name":"f","input":{"text":"no"}}},{"text":" there"}],"role":"assistant"}},
        "stopReason":"end_turn","usage":{"inputTokens":7,"outputTokens":5,"totalTokens":12}}"#;
    for uri in ["/any/path", "/model/us.amazon.nova-lite-v1%3A0/converse"] {
        let (report, usage) = json(body).at(uri).completed().read();
        assert_eq!(
            (report.text.as_deref(), report.finish_reason()),
            (Some("Hi there"), Some("end_turn")),
            "{uri}"
        );
        assert_eq!((protocol(&report), report.terminated), (Some("bedrock_converse"), Some(true)), "{uri}");
        assert_eq!((counts(&usage)[5], usage.basis), (Some(12), UsageBasis::Reported), "{uri}");
        assert!(
            report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some(),
            "{uri}"
        );
    }
}

#[test]
fn model_is_read_from_the_path() {
    let arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20240620-v1:0";
    for uri in [
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse-stream",
        "/model/arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20240620-v1:0/converse-stream",
        "/bedrock/model/arn:aws:bedrock:us-east-1:123456789012:inference-profile%2Fus.anthropic.claude-3-5-sonnet-20240620-v1:0/converse",
    ] {
        assert_eq!(stream(&[text("a")]).at(uri).read().0.model(), Some(arn), "{uri}");
    }
}

#[test]
fn frames_are_told_without_a_content_type() {
    for content_type in [None, Some("application/octet-stream"), Some("APPLICATION/VND.AMAZON.EVENTSTREAM")] {
        let (report, usage) =
            stream(&[start(), text("Hi"), stop("end_turn"), metadata()]).typed(content_type).read();
        assert_eq!((protocol(&report), report.text.as_deref()), (Some("bedrock_converse"), Some("Hi")));
        assert_eq!(counts(&usage), COUNTS);
    }
}
