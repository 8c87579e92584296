//! Written from Amazon's documents: *InvokeModelWithResponseStream* (`PayloadPart`), and *Inference request parameters
//! and response fields* of Titan, Llama, Mistral, Cohere, Claude, Nova, DeepSeek and OpenAI's models.

use streaming_accumulator::meter::UsageBasis;

use super::frames::{exception, stream, wrapped};
use super::{Answer, counts, error, json, protocol};

const PATH: &str = "/model/some.model-v1%3A0/invoke-with-response-stream";
const WHOLE: &str = "/model/some.model-v1%3A0/invoke";

fn metrics(input: u64, output: u64) -> String {
    format!(
        r#""amazon-bedrock-invocationMetrics":{{"inputTokenCount":{input},"outputTokenCount":{output},"invocationLatency":900,"firstByteLatency":300}}"#
    )
}

fn read(events: &[&str]) -> Answer {
    stream(&events.iter().map(|event| wrapped(event)).collect::<Vec<_>>()).at(PATH)
}

/// Text, reason, and counts of input and output, of a stream that ended as it should.
fn ended(answer: &Answer) -> (String, String, [Option<u64>; 2]) {
    let (report, usage) = answer.read();
    assert_eq!((protocol(&report), report.terminated), (Some("bedrock_invoke"), Some(true)));
    assert_eq!((usage.basis, &report.error), (UsageBasis::Reported, &None));
    let reason = report.finish_reason().expect("a reason").to_owned();
    (report.text.expect("text").into(), reason, [usage.input_tokens, usage.output_tokens])
}

fn answer(text: &str, reason: &str, input: u64, output: u64) -> (String, String, [Option<u64>; 2]) {
    (text.to_owned(), reason.to_owned(), [Some(input), Some(output)])
}

#[test]
fn titan_counts_in_floats() {
    let first = r#"{"outputText":"Hel","index":0,"totalOutputTextTokenCount":null,"completionReason":null,"inputTextTokenCount":13.0}"#;
    let last = format!(
        r#"{{"outputText":"lo","index":0,"totalOutputTextTokenCount":7.0,"completionReason":"FINISH","inputTextTokenCount":null,{}}}"#,
        metrics(99, 99)
    );
    assert_eq!(ended(&read(&[first, &last])), answer("Hello", "FINISH", 13, 7));
    let (report, usage) = read(&[first]).read();
    assert_eq!(counts(&usage)[..2], [Some(13), None]);
    assert_eq!((usage.basis, report.terminated), (UsageBasis::Partial, Some(false)));
}

#[test]
fn llama_counts_in_its_events() {
    let first =
        r#"{"generation":"Hel","prompt_token_count":25,"generation_token_count":1,"stop_reason":null}"#;
    let last = format!(
        r#"{{"generation":"lo","prompt_token_count":null,"generation_token_count":2,"stop_reason":"stop",{}}}"#,
        metrics(25, 2)
    );
    assert_eq!(ended(&read(&[first, &last])), answer("Hello", "stop", 25, 2));
}

#[test]
fn mistral_and_cohere_leave_counting_to_amazon() {
    let last = format!(r#"{{"outputs":[{{"text":"lo","stop_reason":"length"}}],{}}}"#, metrics(5, 6));
    let mistral = read(&[r#"{"outputs":[{"text":"Hel","stop_reason":null}]}"#, &last]);
    assert_eq!(ended(&mistral), answer("Hello", "length", 5, 6));
    let last = format!(r#"{{"is_finished":true,"finish_reason":"COMPLETE",{}}}"#, metrics(5, 6));
    let cohere = read(&[
        r#"{"is_finished":false,"text":"Hel","index":0}"#,
        r#"{"is_finished":false,"text":"lo","index":0}"#,
        &last,
    ]);
    assert_eq!(ended(&cohere), answer("Hello", "COMPLETE", 5, 6));
    let last = format!(
        r#"{{"is_finished":true,"event_type":"stream-end","finish_reason":"COMPLETE","response":{{"text":"Hello"}},{}}}"#,
        metrics(5, 6)
    );
    let command_r = read(&[r#"{"is_finished":false,"event_type":"text-generation","text":"Hello"}"#, &last]);
    assert_eq!(ended(&command_r), answer("Hello", "COMPLETE", 5, 6));
}

#[test]
fn old_claude_completes() {
    for kind in ["", r#""type":"completion","#] {
        let first = format!(r#"{{{kind}"completion":" Hel","stop_reason":null,"stop":null}}"#);
        let last = format!(
            r#"{{{kind}"completion":"lo","stop_reason":"stop_sequence","stop":"\n\nHuman:",{}}}"#,
            metrics(5, 6)
        );
        assert_eq!(ended(&read(&[&first, &last])), answer(" Hello", "stop_sequence", 5, 6));
    }
}

/// DeepSeek, Mistral's newer models, Jamba and OpenAI's open ones stream choices.
#[test]
fn choices_are_read_as_openais() {
    let last = format!(r#"{{"choices":[{{"index":0,"text":"","stop_reason":"stop"}}],{}}}"#, metrics(5, 6));
    let deepseek = read(&[r#"{"choices":[{"index":0,"text":"Hello","stop_reason":null}]}"#, &last]);
    assert_eq!(ended(&deepseek), answer("Hello", "stop", 5, 6));
    let last = format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"lo"}},"stop_reason":"stop"}}],{}}}"#,
        metrics(5, 6)
    );
    let pixtral = read(&[
        r#"{"id":"i","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hel"},"stop_reason":null}]}"#,
        &last,
    ]);
    assert_eq!(ended(&pixtral), answer("Hello", "stop", 5, 6));
    let last = format!(
        r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":7,"completion_tokens":8,"total_tokens":15}},{}}}"#,
        metrics(5, 6)
    );
    let open = read(&[
        r#"{"id":"i","object":"chat.completion.chunk","model":"openai.gpt-oss-20b","choices":[{"index":0,"delta":{"reasoning":"hm"},"finish_reason":null}]}"#,
        r#"{"id":"i","object":"chat.completion.chunk","model":"openai.gpt-oss-20b","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}"#,
        &last,
    ]);
    assert_eq!(ended(&open), answer("Hello", "stop", 7, 8));
    let (report, _) = open.read();
    assert_eq!(report.model(), Some("openai.gpt-oss-20b"));
    assert!(report.time_to_first_reasoning.is_some());
}

#[test]
fn claudes_own_counts_go_before_amazons() {
    let last = format!(r#"{{"type":"message_stop",{}}}"#, metrics(130, 50));
    let events = [
        r#"{"type":"message_start","message":{"model":"claude-3-haiku","content":[],"usage":{"input_tokens":98,"cache_read_input_tokens":20,"cache_creation_input_tokens":10,"output_tokens":1}}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hello"}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":40}}"#,
        &last,
    ];
    let (report, usage) = read(&events).read();
    assert_eq!(counts(&usage), [Some(128), Some(40), Some(20), Some(10), None, Some(168)]);
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("tool_use")));
    assert_eq!((report.model(), report.terminated), (Some("claude-3-haiku"), Some(true)));
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

#[test]
fn nova_names_its_events_by_their_field() {
    let last = format!(
        r#"{{"metadata":{{"usage":{{"inputTokens":3,"outputTokens":4,"cacheReadInputTokenCount":0,"cacheWriteInputTokenCount":0}},"metrics":{{}},"trace":{{}}}},{}}}"#,
        metrics(9, 9)
    );
    let nova = read(&[
        r#"{"messageStart":{"role":"assistant"}}"#,
        r#"{"contentBlockDelta":{"delta":{"reasoningContent":{"reasoningText":{"text":"hm"}}},"contentBlockIndex":0}}"#,
        r#"{"contentBlockDelta":{"delta":{"text":"Hello"},"contentBlockIndex":0}}"#,
        r#"{"contentBlockStop":{"contentBlockIndex":0}}"#,
        r#"{"messageStop":{"stopReason":"end_turn"}}"#,
        &last,
    ]);
    assert_eq!(ended(&nova), answer("Hello", "end_turn", 3, 4));
    assert!(nova.read().0.time_to_first_reasoning.is_some());
}

#[test]
fn an_exception_midway_is_an_error() {
    let first = wrapped(r#"{"outputText":"Hel","inputTextTokenCount":13}"#);
    let failed = exception("modelTimeoutException", r#"{"message":"Timed out"}"#);
    let (report, usage) = stream(&[first, failed.clone()]).read();
    assert_eq!(error(&report), Some((Some("modelTimeoutException"), "Timed out")));
    assert_eq!((report.text.as_deref(), usage.basis), (Some("Hel"), UsageBasis::Partial));
    let (report, _) = stream(&[failed]).at(PATH).read();
    assert_eq!(protocol(&report), Some("bedrock_invoke"));
}

#[test]
fn whole_answers_have_the_models_own_form() {
    let bodies = [
        (
            r#"{"inputTextTokenCount":5,"results":[{"tokenCount":6,"outputText":"Hello","completionReason":"FINISH"}]}"#,
            "FINISH",
        ),
        (
            r#"{"generation":"Hello","prompt_token_count":5,"generation_token_count":6,"stop_reason":"stop"}"#,
            "stop",
        ),
        (
            r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-3","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":6}}"#,
            "end_turn",
        ),
        (
            r#"{"output":{"message":{"content":[{"text":"Hello"}],"role":"assistant"}},"stopReason":"end_turn","usage":{"inputTokens":5,"outputTokens":6,"totalTokens":11}}"#,
            "end_turn",
        ),
        (
            r#"{"object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}}"#,
            "stop",
        ),
    ];
    for (body, reason) in bodies {
        assert_eq!(ended(&json(body).at(WHOLE).completed()), answer("Hello", reason, 5, 6), "{body}");
    }
    // These have their counts in headers only.
    let bodies = [
        (r#"{"outputs":[{"text":"Hello","stop_reason":"stop"}]}"#, "stop"),
        (r#"{"completion":"Hello","stop_reason":"stop_sequence","stop":null}"#, "stop_sequence"),
        (
            r#"{"generations":[{"id":"g","text":"Hello","finish_reason":"COMPLETE"}],"id":"i","prompt":"p"}"#,
            "COMPLETE",
        ),
        (
            r#"{"response_id":"r","text":"Hello","generation_id":"g","finish_reason":"COMPLETE","chat_history":[]}"#,
            "COMPLETE",
        ),
    ];
    for (body, reason) in bodies {
        let (report, usage) = json(body).at(WHOLE).completed().read();
        assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some(reason)), "{body}");
        assert_eq!((report.terminated, usage.basis), (Some(true), UsageBasis::Absent), "{body}");
    }
}
