use std::time::Duration;

use super::*;
use crate::meter::estimate::CharsPerToken;
use crate::meter::protocol::Protocol;
use crate::meter::report::Incomplete;
use crate::meter::report_builder::TextPolicy;

/// A token a character, and a thousand more for a model that is known.
struct OneEach;

impl Estimator for OneEach {
    fn tokens(&self, model: Option<&str>, text: &str) -> u64 {
        text.chars().count() as u64 + if model.is_some() { 1000 } else { 0 }
    }
}

fn found(policy: TextPolicy, write: impl FnOnce(&mut ReportBuilder)) -> StreamReport {
    found_with(policy, None, write)
}

fn found_with(
    policy: TextPolicy,
    request: Option<RequestFacts>,
    write: impl FnOnce(&mut ReportBuilder),
) -> StreamReport {
    let mut report = ReportBuilder::new(policy);
    write(&mut report);
    let estimator: Arc<dyn Estimator> = Arc::new(OneEach);
    StreamReport::of_response(report, Some(false), Charge::new(None)).with_request(request, Some(estimator))
}

fn input(found: &StreamReport, estimator: &dyn Estimator) -> Option<u64> {
    found.estimated_input(estimator)
}

fn output(found: &StreamReport, estimator: &dyn Estimator) -> Option<u64> {
    found.estimated_output(estimator)
}

fn asked(model: Option<&str>, prompt: &str, prompt_len: u64) -> RequestFacts {
    RequestFacts { model: model.map(Into::into), stream: None, prompt: prompt.into(), prompt_len }
}

#[test]
fn output_is_what_all_choices_say() {
    let found = found(TextPolicy::Keep(100), |report| {
        report.text(0, "héllo");
        report.text(1, "you");
        report.text(0, "!");
    });
    assert_eq!(output(&found, &OneEach), Some(9));
}

#[test]
fn output_scales_up_from_kept_text() {
    let found = found(TextPolicy::Keep(6), |report| {
        report.text(0, "four");
        report.text(1, "and more, and more");
    });
    // Six of 22 characters are six tokens to one, and to the other 2 × 22/6, rounded up.
    assert_eq!(output(&found, &OneEach), Some(22));
    assert_eq!(output(&found, &CharsPerToken), Some(8));
}

#[test]
fn counted_output_is_a_token_per_four_characters() {
    let counted = found(TextPolicy::Count, |report| report.text(0, "nine char"));
    assert_eq!(output(&counted, &OneEach), Some(3));
    let none_fits = found(TextPolicy::Keep(1), |report| report.text(0, "é"));
    assert_eq!(output(&none_fits, &OneEach), Some(1));
}

#[test]
fn hidden_output_is_estimated_too() {
    let found = found(TextPolicy::Keep(100), |report| {
        report.reasoning("hm hm");
        report.tool_call("{}");
        report.hidden("no");
        report.text(0, "yes");
    });
    assert_eq!(output(&found, &OneEach), Some(3 + 3));
}

#[test]
fn no_output_is_zero_in_read_streams_only() {
    let nothing = |write: fn(&mut ReportBuilder)| output(&found(TextPolicy::Keep(100), write), &OneEach);
    assert_eq!(nothing(|report| report.event(1)), Some(0));
    assert_eq!(nothing(|report| report.protocol(Protocol::OpenAiChat)), Some(0));
    assert_eq!(nothing(|_| {}), None, "what it was could not be told");
    let unread = nothing(|report| {
        report.event(1);
        report.incomplete(Incomplete::Memory);
    });
    assert_eq!(unread, None);
}

#[test]
fn skipped_texts_are_not_estimated() {
    let skipped = found(TextPolicy::Skip, |report| {
        report.event(1);
        report.text(0, "text");
        report.reasoning("more");
    });
    assert_eq!(output(&skipped, &OneEach), None);
    assert_eq!(output(&StreamReport::of_request(asked(None, "p", 1), None), &OneEach), None);
}

#[test]
fn input_is_the_prompt() {
    let input_of = |request: Option<RequestFacts>| input(&StreamReport::of_request(request?, None), &OneEach);
    assert_eq!(input_of(Some(asked(None, "prompt", 6))), Some(6));
    assert_eq!(input_of(Some(asked(None, "one\ntwo", 6))), Some(7), "what parts the pieces counts as read");
    assert_eq!(input_of(Some(asked(None, "prom", 11))), Some(11));
    assert_eq!(input_of(Some(asked(None, "", 11))), Some(3));
    assert_eq!(input_of(Some(asked(None, "", 0))), None);
    assert_eq!(input(&found(TextPolicy::Count, |_| {}), &OneEach), None, "no request was read");
}

#[test]
fn the_model_is_the_responses_else_the_requests() {
    let body = || Some(asked(Some("body"), "p", 1));
    let path = |report: &mut ReportBuilder| report.request_model("path");
    let both = |report: &mut ReportBuilder| {
        report.request_model("path");
        report.model("response");
    };
    let policy = TextPolicy::Count;
    assert_eq!(found_with(policy, body(), both).model(), Some("response"));
    assert_eq!(found_with(policy, body(), path).model(), Some("body"));
    assert_eq!(found_with(policy, Some(asked(None, "p", 1)), path).model(), Some("path"));
    assert_eq!(found_with(policy, None, |_| {}).model(), None);

    let found = found_with(TextPolicy::Keep(9), body(), |report| report.text(0, "x"));
    assert_eq!((input(&found, &OneEach), output(&found, &OneEach)), (Some(1001), Some(1001)));
    assert_eq!(found.model(), found.llm().model());
}

#[test]
fn estimates_fill_in_what_was_not_reported() {
    let found = found_with(TextPolicy::Keep(100), Some(asked(None, "prompt", 6)), |report| {
        report.set_now(Duration::from_secs(1));
        report.text(0, "text");
        report.usage(Usage { input_tokens: Some(2), ..Usage::default() }, "{}");
    });
    let usage = found.usage(false);
    let counts = (usage.input_tokens, usage.output_tokens, usage.total_tokens);
    assert_eq!((counts, usage.basis), ((Some(2), Some(4), Some(6)), UsageBasis::Estimated));
}

#[test]
fn huge_numbers_do_not_overflow() {
    struct Huge;
    impl Estimator for Huge {
        fn tokens(&self, _model: Option<&str>, _text: &str) -> u64 {
            u64::MAX
        }
    }
    let found = found_with(TextPolicy::Keep(1), Some(asked(None, "p", u64::MAX)), |report| {
        report.text(0, "xx");
        report.text(1, "y");
        report.reasoning("z");
    });
    assert_eq!((input(&found, &Huge), output(&found, &Huge)), (Some(u64::MAX), Some(u64::MAX)));
}
