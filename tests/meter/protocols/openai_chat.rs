//! Written from OpenAI's documents: *Chat Completions* and its streaming reference (`stream_options.include_usage`,
//! `n`, refusals, tool calls, the older `function_call`), *Completions*, and Azure's *Content streaming*.

use streaming_accumulator::meter::{TextPolicy, UsageBasis};

use super::{Answer, counts, error, events, json, protocol, reasons};

const DONE: &str = "[DONE]";

fn chunk(choices: &str, rest: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{choices}]{rest}}}"#
    )
}

fn delta(delta: &str) -> String {
    chunk(
        &format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}"#),
        r#","usage":null"#,
    )
}

fn content(text: &str) -> String {
    delta(&format!(r#"{{"content":"{text}"}}"#))
}

fn stop(reason: &str) -> String {
    chunk(&format!(r#"{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}"#), r#","usage":null"#)
}

fn usage() -> String {
    chunk(
        "",
        r#","usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
    )
}

fn read(chunks: &[String]) -> Answer {
    events(chunks)
}

#[test]
fn usage_follows_the_finish_without_choices() {
    let chunks = [delta(r#"{"role":"assistant","content":""}"#), content("Hi"), stop("stop"), usage()];
    let (report, found) = read(&chunks).then(format!("data: {DONE}\n\n")).read();
    assert_eq!(counts(&found), [Some(19), Some(10), Some(8), None, Some(4), Some(29)]);
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hi"), Some("stop")));
    assert_eq!((report.terminated, found.basis), (Some(true), UsageBasis::Reported));
    // Its nulls are not reports.
    let (report, found) = read(&chunks[..3]).read();
    assert_eq!((report.terminated, found.basis), (Some(false), UsageBasis::Absent));
    // Nor do they replace one.
    let null = chunk("", r#","usage":null"#);
    let (_, found) = read(&[content("Hi"), stop("stop"), usage(), null]).read();
    assert_eq!(counts(&found)[5], Some(29));
}

#[test]
fn choices_are_interleaved_and_usage_is_of_all() {
    let of = |index: u8, text: &str| {
        chunk(&format!(r#"{{"index":{index},"delta":{{"content":"{text}"}},"finish_reason":null}}"#), "")
    };
    let end = |index: u8, reason: &str| {
        chunk(&format!(r#"{{"index":{index},"delta":{{}},"finish_reason":"{reason}"}}"#), "")
    };
    let both = chunk(
        r#"{"index":0,"delta":{"content":"0"},"finish_reason":null},{"index":2,"delta":{"content":"2"},"finish_reason":null}"#,
        "",
    );
    let chunks =
        [of(1, "b"), of(0, "a"), of(2, "c"), of(1, "B"), both, end(2, "length"), end(0, "stop"), usage()];
    let (report, found) = read(&chunks).read();
    let texts: Vec<_> = report.choices.iter().map(|choice| choice.text.as_deref().unwrap()).collect();
    assert_eq!(texts, ["a0", "bB", "c2"]);
    assert_eq!(report.text.as_deref(), Some("a0"));
    assert_eq!(reasons(&report), ["stop", "length"], "the second has none");
    assert_eq!(report.finish_reason(), Some("stop"));
    assert_eq!(counts(&found)[1], Some(10));
}

#[test]
fn usage_in_and_behind_an_error_counts() {
    let error_chunk = chunk(
        r#"{"index":0,"delta":{"content":""},"finish_reason":"error"}"#,
        r#","error":{"code":502,"message":"Provider disconnected"},"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}"#,
    );
    let (report, found) = read(&[content("Hi"), error_chunk]).completed().read();
    assert_eq!(error(&report), Some((Some("502"), "Provider disconnected")));
    assert_eq!((report.finish_reason(), report.terminated), (Some("error"), Some(false)));
    assert_eq!((counts(&found)[5], found.basis), (Some(7), UsageBasis::Reported));

    let bare =
        r#"{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}"#;
    let (report, found) = read(&[content("Hi"), bare.into(), usage()]).completed().read();
    assert_eq!(error(&report), Some((Some("server_error"), "The server had an error")));
    assert_eq!((report.text.as_deref(), counts(&found)[5]), (Some("Hi"), Some(29)));
    // The first error stands.
    let second = r#"{"error":"another"}"#;
    let (report, found) = read(&[content("Hi"), bare.into(), second.into()]).read();
    assert_eq!(error(&report), Some((Some("server_error"), "The server had an error")));
    assert_eq!(found.basis, UsageBasis::Absent);
}

#[test]
fn an_error_that_says_nothing_is_none() {
    for nothing in ["null", "false", r#""""#, "{}", "[]", "0"] {
        let chunk = content("Hi").replace(r#""usage""#, &format!(r#""error":{nothing},"usage""#));
        let (report, _) = read(&[chunk, stop("stop")]).read();
        assert_eq!((error(&report), report.text.as_deref()), (None, Some("Hi")), "{nothing}");
    }
}

/// A request for a stream that fails is answered by plain JSON, whatever the head says.
#[test]
fn plain_error_replaces_the_stream() {
    let body = r#"{"error": {"message": "Rate limit reached", "type": "requests", "param": null, "code": "rate_limit_exceeded"}}"#;
    for content_type in ["text/event-stream", "application/json", "text/plain"] {
        for uri in ["/v1/chat/completions", "/v1/completions", "/v1/responses"] {
            let (report, usage) = json(body).typed(Some(content_type)).at(uri).completed().read();
            let found = error(&report);
            assert_eq!(
                found,
                Some((Some("rate_limit_exceeded"), "Rate limit reached")),
                "{content_type} {uri}"
            );
            assert!(protocol(&report).is_some_and(|protocol| protocol.starts_with("openai")), "{uri}");
            assert_eq!((usage.basis, report.terminated), (UsageBasis::Absent, Some(false)), "{uri}");
        }
    }
}

#[test]
fn what_is_no_content_is_no_text() {
    let call = r#"{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{\"content\":\"x\",\"usage\":{}}"}}]}"#;
    let chunks = [
        delta(r#"{"role":"assistant","content":null,"refusal":null}"#),
        delta(r#"{"refusal":"I cannot"}"#),
        delta(call),
        delta(r#"{"function_call":{"name":"g","arguments":"{\"text\":1}"}}"#),
        delta(r#"{"reasoning_content":"thinking"}"#),
        delta(r#"{"reasoning":"more","reasoning_content":null}"#),
        delta(r#"{"audio":{"id":"a","transcript":"said","data":"AAAA"}}"#),
        delta(r#"{"annotations":[{"type":"url_citation","text":"no","content":"no"}]}"#),
        content("text"),
        stop("function_call"),
    ];
    let (report, _) = read(&chunks).read();
    assert_eq!(report.text.as_deref(), Some("text"));
    assert_eq!(report.finish_reason(), Some("function_call"));
    assert!(report.time_to_first_tool_call.is_some() && report.time_to_first_reasoning.is_some());
}

#[test]
fn content_may_be_a_list_of_parts() {
    let parts = r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},{"type":"reference","reference_ids":[1]},{"type":"image_url","text":"no"},{"type":"text","text":"b"}]}"#;
    let (report, _) = read(&[delta(parts), content("c"), stop("stop")]).read();
    assert_eq!(report.text.as_deref(), Some("abc"));
    assert_eq!(report.text_chunks, Some(2), "events that held text");
    assert!(report.time_to_first_reasoning.is_some());
}

#[test]
fn a_finish_comes_twice_or_never() {
    let twice = chunk(
        r#"{"index":0,"delta":{"content":""},"finish_reason":"stop"}"#,
        r#","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
    );
    let (report, found) = read(&[content("a"), stop("stop"), twice]).read();
    assert_eq!((reasons(&report), counts(&found)[5]), (vec!["stop"], Some(3)));
    let changed = [
        content("a"),
        stop("stop"),
        stop("length"),
        chunk(r#"{"index":0,"delta":{},"finish_reason":""}"#, ""),
    ];
    assert_eq!(read(&changed).read().0.finish_reason(), Some("length"));
    let (report, _) = read(&[content("a"), DONE.into()]).read();
    assert_eq!((report.finish_reason(), report.terminated), (None, Some(true)));
}

#[test]
fn the_end_may_be_absent_doubled_or_cut() {
    let chunks = [content("a"), stop("stop"), usage()];
    assert_eq!(read(&chunks).read().0.terminated, Some(false));
    let done = "data: [DONE]\n\n";
    assert_eq!(read(&chunks).then(done).then(done).read().0.terminated, Some(true));
    for tail in ["data:[DONE]\n\n", "data: [DONE] \r\n\r\n"] {
        assert_eq!(read(&chunks).then(tail).read().0.terminated, Some(true), "{tail:?}");
    }
    // Without its blank line an event counts by its JSON, and this is none: the standard drops it.
    for tail in ["data: [DONE]", "data: [DONE]\n", "data: [DON"] {
        assert_eq!(read(&chunks).then(tail).read().0.terminated, Some(false), "{tail:?}");
    }
}

#[test]
fn empty_data_and_comments_are_passed_over() {
    let body = format!(
        ": OPENROUTER PROCESSING\n\ndata:\n\ndata: \n\nevent: keepalive\ndata:\n\ndata: {}\n\ndata\n\ndata: {}\n\n",
        content("a"),
        stop("stop")
    );
    let (report, _) = Answer::new("text/event-stream", body).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("a"), Some("stop")));
    assert_eq!((protocol(&report), error(&report)), (Some("openai_chat"), None));
}

#[test]
fn data_may_go_over_several_lines() {
    let data = content("a").replace(',', ",\ndata: ");
    let body = format!("data: {data}\r\n\r\ndata: {}\r\r", stop("stop"));
    let (report, _) = Answer::new("text/event-stream", body).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("a"), Some("stop")));
}

#[test]
fn azure_begins_without_choices_and_without_a_model() {
    let first = r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}"#;
    let filter = r#"{"id":"","object":"","created":0,"model":"","choices":[{"index":0,"finish_reason":null,"content_filter_results":{"hate":{"filtered":false}},"content_filter_offsets":{"check_offset":1,"start_offset":1,"end_offset":2}}]}"#;
    let (report, found) =
        read(&[first.into(), content("a"), filter.into(), stop("content_filter"), usage(), DONE.into()])
            .read();
    assert_eq!((report.model(), protocol(&report)), (Some("gpt-4o"), Some("openai_chat")));
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("a"), Some("content_filter")));
    assert_eq!(counts(&found)[0], Some(19));
}

#[test]
fn needles_inside_strings_fool_nobody() {
    let needles = [
        r#"\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}"#,
        r#"\\\"usage\\\":{\\\"total_tokens\\\":2} \\"#,
        r#"\"finish_reason\":\"length\", \"error\":{\"message\":\"no\"}"#,
        r#"\u0022usage\u0022:{\u0022total_tokens\u0022:2}"#,
        r#"}]}\n\ndata: [DONE]\n\n\"content\":\"x\""#,
        r#"\ud83d\ude00\u2019\ud83d"#,
    ];
    let chunks: Vec<String> = needles.iter().map(|text| content(text)).collect();
    let (report, found) = read(&chunks).read();
    assert_eq!((report.finish_reason(), error(&report), report.terminated), (None, None, Some(false)));
    assert_eq!(found.basis, UsageBasis::Absent);
    let text = report.text.expect("text");
    assert!(text.contains(r#""usage":{"prompt_tokens":1"#) && text.ends_with("😀’\u{FFFD}"), "{text}");
    let skip = streaming_accumulator::meter::MeterSet::detect().text(TextPolicy::Skip);
    let (report, found) = read(&chunks).with(skip).read();
    assert_eq!((report.finish_reason(), error(&report), found.basis), (None, None, UsageBasis::Absent));
    // With the real ones behind them.
    let more = [stop("stop"), usage()].map(|data| format!("data: {data}\n\n")).concat();
    let (report, found) = read(&chunks).then(more).read();
    assert_eq!((report.finish_reason(), counts(&found)[5]), (Some("stop"), Some(29)));
}

#[test]
fn keys_with_escapes_and_keys_twice_are_read() {
    let escaped = chunk("", r#","us\u0061ge":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#);
    assert_eq!(counts(&read(&[content("a"), stop("stop"), escaped]).read().1)[5], Some(3));
    let odd = chunk(
        "",
        r#","usage":{"prompt_tokens":"7","completion_tokens":-1,"total_tokens":3.0,"total_tokens":4,"prompt_tokens_details":[]}"#,
    );
    assert_eq!(
        counts(&read(&[content("a"), stop("stop"), odd]).read().1),
        [None, None, None, None, None, Some(4)]
    );
}

#[test]
fn usage_without_a_count_is_no_report() {
    let (_, found) = read(&[content("a"), stop("stop"), chunk("", r#","usage":{}"#), DONE.into()]).read();
    assert_eq!(found.basis, UsageBasis::Absent);
    assert_eq!(counts(&found), [None; 6]);
}

#[test]
fn zero_is_a_number() {
    let zero = chunk("", r#","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#);
    let (_, found) = read(&[stop("stop"), zero, DONE.into()]).read();
    assert_eq!(counts(&found), [Some(0), Some(0), None, None, None, Some(0)]);
    assert_eq!(found.basis, UsageBasis::Reported);
}

#[test]
fn a_whole_answer_is_read() {
    let body = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[
        {"index":0,"message":{"role":"assistant","content":"One","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"},
        {"index":1,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7},"service_tier":"default"}"#;
    let (report, found) = json(body).completed().read();
    assert_eq!((report.text.as_deref(), reasons(&report)), (Some("One"), vec!["stop", "tool_calls"]));
    assert_eq!((report.terminated, protocol(&report)), (Some(true), Some("openai_chat")));
    assert_eq!((counts(&found)[5], found.basis), (Some(7), UsageBasis::Reported));
    assert_eq!(report.model(), Some("gpt-4o-2024-08-06"));
}

// === Completions ===

fn completion(choice: &str, rest: &str) -> String {
    format!(
        r#"{{"id":"cmpl-1","object":"text_completion","created":1,"model":"gpt-3.5-turbo-instruct","choices":[{choice}]{rest}}}"#
    )
}

#[test]
fn completions_have_their_text_in_the_choice() {
    let chunks = [
        completion(r#"{"text":"Hel","index":0,"logprobs":null,"finish_reason":null}"#, r#","usage":null"#),
        completion(r#"{"text":"B","index":1,"finish_reason":null}"#, ""),
        completion(r#"{"text":"lo","index":0,"finish_reason":null}"#, ""),
        // Of the last one the index may be missing.
        completion(r#"{"text":"","finish_reason":"length"}"#, ""),
        completion("", r#","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#),
    ];
    let (report, found) = read(&chunks).then("data: [DONE]\n\n").read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("length")));
    assert_eq!((protocol(&report), report.terminated), (Some("openai_completions"), Some(true)));
    assert_eq!((counts(&found)[5], found.basis), (Some(12), UsageBasis::Reported));
    let (report, found) = read(&chunks[..3]).read();
    assert_eq!((report.terminated, found.basis), (Some(false), UsageBasis::Absent));
}

#[test]
fn whole_completions_are_over() {
    let body = completion(
        r#"{"text":"Hello","index":0,"logprobs":null,"finish_reason":"stop"},{"text":"Hi","index":1,"finish_reason":"length"}"#,
        r#","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#,
    );
    let (report, found) = json(&body).completed().read();
    assert_eq!((report.text.as_deref(), reasons(&report)), (Some("Hello"), vec!["stop", "length"]));
    assert_eq!((report.terminated, found.basis), (Some(true), UsageBasis::Reported));
}
