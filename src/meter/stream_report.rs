//! What was found in a stream that is over: its report and its usage, with estimates where they are asked for.

use std::sync::Arc;

use super::estimate::{Estimator, scaled_tokens, tokens_of_chars};
use super::quota::Charge;
use super::report::LlmReport;
use super::report_builder::ReportBuilder;
use super::request::RequestFacts;
use super::usage::{Usage, UsageBasis};

#[cfg(test)]
mod tests;

/// What was found in a stream that is over, in its response and in its request.
pub(crate) struct StreamReport {
    response: Option<ReportBuilder>,
    terminated: Option<bool>,
    request: Option<RequestFacts>,
    estimator: Option<Arc<dyn Estimator>>,
    _charge: Option<Charge>,
}

// === impl StreamReport ===

impl StreamReport {
    /// What a meter found in a response. `terminated` is its word on the protocol's end.
    pub(crate) fn of_response(response: ReportBuilder, terminated: Option<bool>, charge: Charge) -> Self {
        Self { response: Some(response), terminated, request: None, estimator: None, _charge: Some(charge) }
    }

    /// What was found in a request whose response no meter read.
    pub(crate) fn of_request(request: RequestFacts, estimator: Option<Arc<dyn Estimator>>) -> Self {
        Self { response: None, terminated: None, request: Some(request), estimator, _charge: None }
    }

    /// Adds what was found in the request, and an estimator for the counts that are missing.
    pub(crate) fn with_request(
        self,
        request: Option<RequestFacts>,
        estimator: Option<Arc<dyn Estimator>>,
    ) -> Self {
        Self { request, estimator, ..self }
    }

    /// Everything but the counts.
    pub(crate) fn llm(&self) -> LlmReport {
        let response = self.response.as_ref();
        let mut report =
            response.map_or_else(LlmReport::default, |response| response.to_report(self.terminated));
        if let Some(model) = self.request.as_ref().and_then(|request| request.model.clone()) {
            report.request_model = Some(model);
        }
        report
    }

    /// The counts. Those that are missing because the stream was cut or reported none are estimated, if there is an
    /// estimator. `completed` says that the stream ended by itself.
    pub(crate) fn usage(&self, completed: bool) -> Usage {
        let has_ended = completed && self.terminated.is_none();
        let response = self.response.as_ref();
        let reported = response.map_or_else(Usage::default, |response| response.to_usage(has_ended));
        match &self.estimator {
            Some(estimator) if reported.basis != UsageBasis::Reported => {
                self.estimated_usage(reported, &**estimator)
            }
            _ => reported,
        }
    }

    fn estimated_usage(&self, reported: Usage, estimator: &dyn Estimator) -> Usage {
        let input = reported.input_tokens.or_else(|| self.estimated_input(estimator));
        let output = reported.output_tokens.or_else(|| self.estimated_output(estimator));
        if (input, output) == (reported.input_tokens, reported.output_tokens) {
            return reported;
        }
        Usage {
            input_tokens: input,
            output_tokens: output,
            total_tokens: reported.total_tokens.or_else(|| Some(input?.saturating_add(output?))),
            basis: UsageBasis::Estimated,
            ..reported
        }
    }

    /// An estimate of the input tokens. `None` if the request was not read, or has no prompt.
    fn estimated_input(&self, estimator: &dyn Estimator) -> Option<u64> {
        let request = self.request.as_ref().filter(|request| request.prompt_len > 0)?;
        Some(scaled_tokens([&*request.prompt], request.prompt_len, self.model(), estimator))
    }

    /// An estimate of the output tokens. `None` if texts were skipped, or nothing was read.
    fn estimated_output(&self, estimator: &dyn Estimator) -> Option<u64> {
        let response = self.response.as_ref().filter(|response| response.wants_text())?;
        let (texts, len, hidden) = response.all_output();
        if len == 0 && hidden == 0 {
            // What was read held no output. What was not read is unknown.
            let known = response.known();
            let is_read = known.protocol.is_some() || known.time_to_first_event.is_some();
            return (is_read && response.stopped().is_none()).then_some(0);
        }
        let visible = scaled_tokens(texts, len, self.model(), estimator);
        Some(visible.saturating_add(tokens_of_chars(hidden)))
    }

    /// The model: the response's, else the request's.
    fn model(&self) -> Option<&str> {
        let known = self.response.as_ref().map(ReportBuilder::known);
        let of_response = known.and_then(|known| known.response_model.as_deref());
        let of_request = self.request.as_ref().and_then(|request| request.model.as_deref());
        of_response.or(of_request).or_else(|| known?.request_model.as_deref())
    }
}
