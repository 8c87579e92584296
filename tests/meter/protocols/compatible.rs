//! Servers that speak OpenAI's chat in dialects of their own. Written from the documents of Perplexity (and its
//! api-discussion #193, which shows a chunk), vLLM (`continuous_usage_stats`, error objects), Databricks, Groq, xAI,
//! OpenRouter and Vercel, DeepSeek (*Context caching*), Moonshot (*Streaming*), Mistral, llama.cpp and GPUStack.

use streaming_accumulator::meter::{MeterSet, Protocol, UsageBasis};

use super::{Answer, counts, error, events, json, protocol};

fn chunk(choice: &str, rest: &str) -> String {
    format!(
        r#"{{"id":"x-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choice}]{rest}}}"#
    )
}

fn content(text: &str, rest: &str) -> String {
    chunk(&format!(r#"{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}"#), rest)
}

fn stop(rest: &str) -> String {
    chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, rest)
}

fn usage(prompt: u64, completion: u64, rest: &str) -> String {
    let total = prompt + completion;
    format!(
        r#","usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}{rest}}}"#
    )
}

/// The counts that one final report gives.
fn reported(usage: &str) -> [Option<u64>; 6] {
    let (_, found) = events([content("a", ""), stop(&format!(r#","usage":{usage}"#))]).read();
    assert_eq!(found.basis, UsageBasis::Reported);
    counts(&found)
}

fn perplexity(so_far: &str, new: &str, reason: &str, completion: u64) -> String {
    let total = 10 + completion;
    format!(
        r#"{{"id": "ab7c", "model": "sonar", "created": 1740046265, "usage": {{"prompt_tokens": 10, "completion_tokens": {completion}, "total_tokens": {total}}}, "citations": ["https://x"], "object": "chat.completion", "choices": [{{"index": 0, "finish_reason": {reason}, "message": {{"role": "assistant", "content": "{so_far}"}}, "delta": {{"role": "assistant", "content": "{new}"}}}}]}}"#
    )
}

/// Its chunks call themselves whole answers, and hold the whole text so far.
#[test]
fn perplexity_repeats_its_text_and_counts_cumulatively() {
    let chunks = [
        perplexity("Fin", "Fin", "null", 1),
        perplexity("Finding", "ding", "null", 2),
        perplexity("Finding it", " it", r#""stop""#, 4),
    ];
    let (report, found) = events(&chunks[..2]).read();
    assert_eq!((report.text.as_deref(), report.terminated), (Some("Finding"), Some(false)));
    assert_eq!((counts(&found)[1], found.basis), (Some(2), UsageBasis::Partial));
    let (report, found) = events(&chunks).completed().read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Finding it"), Some("stop")));
    assert_eq!(counts(&found), [Some(10), Some(4), None, None, None, Some(14)]);
    assert_eq!((report.terminated, found.basis), (Some(false), UsageBasis::Reported));
}

#[test]
fn perplexitys_whole_answer_has_an_empty_delta() {
    let body = perplexity("Finding it", "", r#""stop""#, 4);
    let (report, found) = json(&body).completed().read();
    assert_eq!((report.text.as_deref(), report.terminated), (Some("Finding it"), Some(true)));
    assert_eq!((counts(&found)[5], found.basis), (Some(14), UsageBasis::Reported));
}

#[test]
fn usage_in_every_chunk_is_cumulative() {
    let chunks =
        [content("a", &usage(7, 0, "")), content("b", &usage(7, 1, "")), content("c", &usage(7, 2, ""))];
    let (_, found) = events(&chunks).read();
    assert_eq!(counts(&found), [Some(7), Some(2), None, None, None, Some(9)]);
    assert_eq!(found.basis, UsageBasis::Partial);
    let end = [stop(&usage(7, 3, "")), chunk("", &usage(7, 3, "")), "[DONE]".into()];
    let (report, found) = events(chunks.iter().chain(&end)).read();
    assert_eq!((report.text.as_deref(), counts(&found)[5]), (Some("abc"), Some(10)));
    assert_eq!(found.basis, UsageBasis::Reported);
}

#[test]
fn groq_reports_twice_and_nothing_is_doubled() {
    let groq = r#","x_groq":{"id":"req_1","usage":{"queue_time":0.1,"prompt_tokens":5,"prompt_time":0.01,"completion_tokens":6,"total_tokens":11}}"#;
    let first = content("a", r#","x_groq":{"id":"req_1"}"#);
    let (report, found) = events([&first, &stop(groq)]).read();
    assert_eq!((counts(&found)[5], found.basis), (Some(11), UsageBasis::Reported));
    assert_eq!((report.text.as_deref(), error(&report)), (Some("a"), None));
    let (_, found) = events([&first, &stop(groq), &chunk("", &usage(5, 6, ""))]).read();
    assert_eq!(counts(&found), [Some(5), Some(6), None, None, None, Some(11)]);
}

#[test]
fn groqs_error_has_a_name_of_its_own() {
    let error_event = "event: error\ndata: {\"error\":{\"message\":\"over capacity\",\"type\":\"internal_server_error\",\"code\":\"x\"}}\n\n";
    let (report, found) = events([content("a", "")]).then(error_event).completed().read();
    assert_eq!(error(&report), Some((Some("x"), "over capacity")));
    assert_eq!((report.terminated, found.basis), (Some(false), UsageBasis::Absent));
    let within = content("a", r#","x_groq":{"id":"r","error":"model overloaded"}"#);
    assert_eq!(error(&events([within]).read().0), Some((None, "model overloaded")));
}

#[test]
fn event_named_error_is_an_error() {
    let sent = |data: &str| events([content("a", "")]).then(format!("event: error\ndata: {data}\n\n"));
    assert_eq!(error(&sent("upstream timed out").read().0), Some((None, "upstream timed out")));
    let (report, _) = sent(r#"{"code":504,"message":"upstream timed out"}"#).read();
    assert_eq!(error(&report), Some((Some("504"), "upstream timed out")));
    for nothing in ["", "{}", "null"] {
        assert_eq!(error(&sent(nothing).read().0), None, "{nothing}");
    }
    // Of a stream that nothing is known of, it is somebody's word.
    let (report, _) = Answer::new("text/event-stream", "event: error\ndata: tick\n\n").read();
    assert_eq!((error(&report), protocol(&report)), (None, None));
}

#[test]
fn error_lines_are_no_events_and_still_read() {
    let line =
        "error: {\"code\":500,\"message\":\"context shift is disabled\",\"type\":\"server_error\"}\n\n";
    let (report, _) = events([content("a", "")]).then(line).read();
    assert_eq!(error(&report), Some((Some("500"), "context shift is disabled")));
    // Alone, and without its end.
    let alone = Answer::new("text/event-stream", line.trim_end()).at("/v1/chat/completions");
    assert_eq!(error(&alone.read().0), Some((Some("500"), "context shift is disabled")));
    let nested = "error: {\"error\":{\"message\":\"gone\"}}\n\n";
    assert_eq!(error(&events([content("a", "")]).then(nested).read().0), Some((None, "gone")));
}

/// vLLM's older error objects say so in `object`, and nest nothing.
#[test]
fn an_object_that_is_an_error_is_one() {
    for space in ["", " "] {
        let body = format!(
            r#"{{"object":{space}"error","message":"too long","type":"BadRequestError","param":null,"code":400}}"#
        );
        let (report, _) = events([content("a", ""), body.clone()]).read();
        assert_eq!(error(&report), Some((Some("400"), "too long")));
        let (report, _) = events([body]).at("/v1/chat/completions").read();
        assert_eq!(error(&report), Some((Some("400"), "too long")));
        assert_eq!(protocol(&report), Some("openai_chat"));
    }
}

#[test]
fn xai_counts_reasoning_apart() {
    let xai = r#"{"prompt_tokens":496,"completion_tokens":77,"total_tokens":694,"prompt_tokens_details":{"text_tokens":496,"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":121}}"#;
    assert_eq!(reported(xai), [Some(496), Some(198), Some(3), None, Some(121), Some(694)]);
}

#[test]
fn reasoning_beyond_the_completion_is_not_corrected() {
    let vercel = r#"{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,"completion_tokens_details":{"reasoning_tokens":50}}"#;
    assert_eq!(reported(vercel), [Some(10), Some(20), None, None, Some(50), Some(30)]);
    let grok_on_azure = r#"{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":161}}"#;
    assert_eq!(reported(grok_on_azure), [Some(7), Some(2), Some(161), None, None, Some(9)]);
    let no_reasoning = r#"{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"completion_tokens_details":{"reasoning_tokens":0}}"#;
    assert_eq!(reported(no_reasoning), [Some(7), Some(2), None, None, Some(0), Some(9)]);
}

#[test]
fn cached_tokens_go_by_many_names() {
    let deepseek = r#"{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"prompt_tokens_details":{"cached_tokens":64},"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#;
    assert_eq!(reported(deepseek), [Some(100), Some(5), Some(64), None, None, Some(105)]);
    let older = r#"{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}"#;
    assert_eq!(reported(older)[2], Some(64));
    let moonshot = r#"{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32,"cached_tokens":12}"#;
    assert_eq!(reported(moonshot)[2], Some(12));
    let mistral = r#"{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32,"num_cached_tokens":4}"#;
    assert_eq!(reported(mistral)[2], Some(4));
    let openrouter = r#"{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32,"cost":0.1,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":6,"audio_tokens":0}}"#;
    assert_eq!(reported(openrouter), [Some(19), Some(13), Some(0), Some(6), None, Some(32)]);
}

/// Moonshot's streaming guide has the counts inside the choice.
#[test]
fn moonshot_reports_in_the_choice() {
    let last = chunk(
        r#"{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32,"cached_tokens":12}}"#,
        "",
    );
    let (_, found) = events([content("a", ""), last.clone(), "[DONE]".into()]).read();
    assert_eq!(counts(&found), [Some(19), Some(13), Some(12), None, None, Some(32)]);
    assert_eq!(found.basis, UsageBasis::Reported);
    // What stands at the top is of all choices.
    let both = last.replace("]}", &format!("]{}}}", usage(1, 2, "")));
    assert_eq!(counts(&events([content("a", ""), both]).read().1)[5], Some(3));
}

#[test]
fn mistral_is_detected_by_ids_and_omissions() {
    let id = "0123456789abcdef0123456789abcdef";
    let first = |rest: &str| {
        let text = r#"{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null"#;
        format!(
            r#"{{"id":"{id}","object":"chat.completion.chunk","created":1,"model":"m","choices":[{text}}}]{rest}}}"#
        )
    };
    let spoken = |chunk: String| protocol(&events([chunk]).read().0).map(str::to_owned);
    assert_eq!(spoken(first("")).as_deref(), Some("mistral_chat"));
    assert_eq!(spoken(first(r#","p":"abcd""#)).as_deref(), Some("mistral_chat"));
    // SGLang's ids look the same.
    assert_eq!(spoken(first(r#","usage":null"#)).as_deref(), Some("openai_chat"));
    assert_eq!(spoken(first(r#","system_fingerprint":"fp""#)).as_deref(), Some("openai_chat"));
    assert_eq!(spoken(first("").replace(id, "chatcmpl-1")).as_deref(), Some("openai_chat"));
    assert_eq!(spoken(first("").replace(id, &id.to_uppercase())).as_deref(), Some("openai_chat"));
    let only = events([first(r#","usage":null"#)]).with(MeterSet::only(Protocol::MistralChat));
    assert_eq!(protocol(&only.read().0), Some("mistral_chat"));
}

#[test]
fn mistral_reports_beside_text_and_finish() {
    let id = "0123456789abcdef0123456789abcdef";
    let last = chunk(
        r#"{"index":0,"delta":{"content":[{"type":"text","text":"z"}]},"finish_reason":"model_length"}"#,
        &usage(4, 2, r#","prompt_audio_seconds":null,"prompt_tokens_details":{"cached_tokens":1}"#),
    );
    let chunks = [content("a", ""), last, "[DONE]".into()].map(|chunk| chunk.replace("x-1", id));
    let (report, found) = events(&chunks).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("az"), Some("model_length")));
    assert_eq!((counts(&found)[2], protocol(&report)), (Some(1), Some("mistral_chat")));
}
