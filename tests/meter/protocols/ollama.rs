//! Written from Ollama's documents: `docs/api.md` (*Generate a completion*, *Generate a chat completion*), *Thinking*,
//! *Streaming* and *Errors* (an error midway is a line of its own).

use streaming_accumulator::meter::UsageBasis;

use super::{counts, error, json, lines, protocol};

fn chat(message: &str, rest: &str) -> String {
    format!(
        r#"{{"model":"llama3.2","created_at":"2023-08-04T08:52:19Z","message":{{"role":"assistant",{message}}},{rest}}}"#
    )
}

fn text(text: &str) -> String {
    chat(&format!(r#""content":"{text}""#), r#""done":false"#)
}

const END: &str = r#""done":true,"done_reason":"stop","total_duration":4883583458,"load_duration":1334875,"prompt_eval_count":26,"prompt_eval_duration":342546000,"eval_count":282,"eval_duration":4535599000"#;

#[test]
fn the_last_line_has_the_counts() {
    let end = chat(r#""content":"""#, END);
    let (report, usage) = lines(&[&text("Hel"), "", &text("lo"), &end]).read();
    assert_eq!((report.text.as_deref(), report.finish_reason()), (Some("Hello"), Some("stop")));
    assert_eq!(counts(&usage), [Some(26), Some(282), None, None, None, Some(308)]);
    assert_eq!((report.terminated, usage.basis), (Some(true), UsageBasis::Reported));
    assert_eq!((report.model(), protocol(&report)), (Some("llama3.2"), Some("ollama_chat")));
    // Without its line feed, and behind a carriage return.
    assert_eq!(lines(&[&text("Hello"), &end]).cut_by(1).read().1, usage);
    assert_eq!(lines(&[&(text("Hello") + "\r"), &end]).read().1, usage);
    let (report, usage) = lines(&[&text("Hello"), &end]).cut_by(2).read();
    assert_eq!((report.terminated, usage.basis), (Some(false), UsageBasis::Absent));
}

#[test]
fn an_error_midway_is_a_line() {
    let failed = r#"{"error":"an error was encountered while running the model"}"#;
    let (report, usage) = lines(&[&text("Hel"), failed]).completed().read();
    assert_eq!(error(&report), Some((None, "an error was encountered while running the model")));
    assert_eq!((report.text.as_deref(), report.terminated), (Some("Hel"), Some(false)));
    assert_eq!(usage.basis, UsageBasis::Absent);
    let (report, _) = lines(&[failed]).at("/api/chat").read();
    assert_eq!(protocol(&report), Some("ollama_chat"));
    assert!(report.error.is_some());
}

#[test]
fn a_cached_prompt_is_unknown_and_not_zero() {
    let end = chat(r#""content":"""#, &END.replace(r#""prompt_eval_count":26,"#, ""));
    let (_, usage) = lines(&[&text("Hi"), &end]).read();
    assert_eq!(counts(&usage), [None, Some(282), None, None, None, None]);
    assert_eq!(usage.basis, UsageBasis::Reported);
}

#[test]
fn older_servers_give_no_reason() {
    let end = chat(r#""content":"""#, &END.replace(r#""done_reason":"stop","#, ""));
    let (report, _) = lines(&[&text("Hi"), &end]).read();
    assert_eq!((report.finish_reason(), report.terminated), (None, Some(true)));
}

#[test]
fn thinking_and_calls_are_no_text() {
    let all = [
        chat(r#""content":"","thinking":"hm""#, r#""done":false"#),
        chat(
            r#""content":"","tool_calls":[{"function":{"name":"f","arguments":{"content":"no"}}}]"#,
            r#""done":false"#,
        ),
        chat(r#""content":"said","tool_calls":[]"#, r#""done":false"#),
        chat(r#""content":"!""#, END),
    ];
    let (report, _) = lines(&all.each_ref().map(String::as_str)).read();
    assert_eq!(report.text.as_deref(), Some("said!"), "the last line may hold text");
    assert!(report.time_to_first_reasoning.is_some() && report.time_to_first_tool_call.is_some());
}

#[test]
fn generate_has_its_text_at_the_top() {
    let first = r#"{"model":"llama3.2","created_at":"t","response":"Hel","thinking":"hm","done":false}"#;
    let last = format!(r#"{{"model":"llama3.2","created_at":"t","response":"lo","context":[1,2,3],{END}}}"#);
    let (report, usage) = lines(&[first, &last]).read();
    assert_eq!((report.text.as_deref(), protocol(&report)), (Some("Hello"), Some("ollama_generate")));
    assert_eq!(counts(&usage)[1], Some(282));
    assert!(report.time_to_first_reasoning.is_some());
    // Whole, pretty, and of another type.
    let (report, usage) = json(&last.replace(',', ",\n  ")).completed().read();
    assert_eq!((report.text.as_deref(), report.terminated), (Some("lo"), Some(true)));
    assert_eq!((counts(&usage)[1], usage.basis), (Some(282), UsageBasis::Reported));
}

#[test]
fn lines_are_told_by_what_is_in_them() {
    let end = chat(r#""content":"""#, END);
    for content_type in
        [None, Some("application/json"), Some("APPLICATION/X-NDJSON; charset=utf-8"), Some("text/plain")]
    {
        let (report, usage) = lines(&[&text("Hi"), &end]).typed(content_type).read();
        assert_eq!(
            (report.text.as_deref(), protocol(&report)),
            (Some("Hi"), Some("ollama_chat")),
            "{content_type:?}"
        );
        assert_eq!(counts(&usage)[1], Some(282), "{content_type:?}");
    }
}
