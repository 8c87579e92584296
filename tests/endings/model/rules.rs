//! The rules by which a stream ends, read anew: what the record of an exchange must say.

use http::{HeaderMap, Method};
use streaming_accumulator::{Evidence, Phase};

use super::{Answers, Hint, Scenario};
use crate::support::body::Step;
use crate::support::*;

struct Seen<'a> {
    bytes: u64,
    hint: bool,
    end: Option<End<'a>>,
    /// The content.
    letters: String,
}

#[derive(Clone, Copy)]
enum End<'a> {
    None,
    Trailers(&'a HeaderMap),
    Error,
    Panic,
}

impl Scenario {
    /// What the record must say.
    pub(crate) fn predict(&self) -> Account {
        let early = |what, evidence, by| Account { what, phase: Phase::BeforeHead, evidence, by, bytes: 0 };
        let panicked = What::Failed("panicked");
        if self.answers == Answers::PanicsInCall {
            return early(panicked, Evidence::Panic, By::Upstream);
        }
        let needed = match self.answers {
            Answers::After(pending) => pending + 1,
            _ => 1,
        };
        if self.future_polls < needed {
            return match self.unwinding {
                true => early(panicked, Evidence::Panic, By::Downstream),
                false => early(What::Cancelled, Evidence::Dropped, By::Downstream),
            };
        }
        match self.answers {
            Answers::Error => return early(What::Failed("service"), Evidence::Error, By::Upstream),
            Answers::PanicsInPoll => return early(panicked, Evidence::Panic, By::Upstream),
            _ => {}
        }
        self.predict_body()
    }

    pub(crate) fn predict_body(&self) -> Account {
        let seen = self.observe();
        let bodiless = self.method == Method::HEAD
            || (100..200).contains(&self.status)
            || [204, 304].contains(&self.status)
            || (self.method == Method::CONNECT && (200..300).contains(&self.status));
        let usable = match self.lengths[..] {
            ["0"] => Some(0),
            ["5", "5"] => Some(5),
            [one] if one.len() == 1 => one.parse().ok(),
            _ => None,
        };
        let unusable = self.size.is_none() && usable.is_none() && !self.lengths.is_empty();
        let declared = self.size.or(usable);

        let phase = if self.body_polls == 0 { Phase::BeforeBody } else { Phase::Body };
        let account = |what, evidence, by| Account {
            what,
            phase,
            evidence,
            by,
            bytes: if bodiless { 0 } else { seen.bytes },
        };
        // Which sign of an end there is, the weightiest first.
        let sign = match seen.end {
            Some(End::Trailers(_)) => Some(Evidence::Trailers),
            Some(End::None) => Some(Evidence::EndOfBody),
            _ if seen.hint => Some(Evidence::EndHint),
            _ if self.claims_end_at(0, self.steps.len()) => Some(Evidence::Empty),
            _ => None,
        };
        let complete = |evidence| account(What::Completed, evidence, By::Upstream);
        let metered = !bodiless && (200..300).contains(&self.status);
        let ended = metered && seen.letters.contains('e');
        let in_band = metered && seen.letters.contains('f');
        let mut verdict = match (seen.end, sign) {
            (Some(End::Error), _) => account(What::Failed("body"), Evidence::Error, By::Upstream),
            (Some(End::Panic), _) => account(What::Failed("panicked"), Evidence::Panic, By::Upstream),
            _ if bodiless => complete(Evidence::NoBody),
            (_, Some(sign)) if declared.is_some_and(|declared| seen.bytes < declared) => {
                account(What::Failed("short_body"), sign, By::Upstream)
            }
            (_, Some(sign)) => complete(sign),
            _ if declared.is_some_and(|declared| seen.bytes >= declared) => complete(Evidence::Length),
            _ if ended => complete(Evidence::LogicalEnd),
            _ if self.body_polls == 0 && unusable => {
                account(What::Failed("bad_length"), Evidence::Dropped, By::Downstream)
            }
            _ if self.unwinding => account(What::Failed("panicked"), Evidence::Panic, By::Downstream),
            _ => account(What::Cancelled, Evidence::Dropped, By::Downstream),
        };
        let in_trailers = match &seen.end {
            Some(End::Trailers(trailers)) => {
                trailers.get("grpc-status").map(|status| status.to_str().unwrap())
            }
            _ => None,
        };
        let refused = in_trailers.or(self.grpc).is_some_and(|status| status != "0");
        if verdict.what == What::Completed && refused {
            verdict.what = What::Failed("grpc");
        }
        if in_band && !matches!(seen.end, Some(End::Panic)) {
            (verdict.what, verdict.by) = (What::Failed("in_band"), By::Upstream);
        }
        verdict
    }

    /// What the polls of the body bring to light.
    fn observe(&self) -> Seen<'_> {
        let mut seen = Seen { bytes: 0, hint: false, end: None, letters: String::new() };
        let mut frames = 0;
        for at in 0..self.body_polls {
            let left = self.steps.len().saturating_sub(at + 1);
            seen.end = match self.steps.get(at) {
                Some(Step::Data(data)) => {
                    frames += 1;
                    seen.bytes += data.len() as u64;
                    seen.letters.push_str(str::from_utf8(data).unwrap());
                    seen.hint = self.claims_end_at(frames, left);
                    continue;
                }
                Some(Step::Trailers(trailers)) => Some(End::Trailers(trailers)),
                Some(Step::Error) => Some(End::Error),
                Some(Step::Panic) => Some(End::Panic),
                Some(_) => continue,
                None => Some(End::None),
            };
            break;
        }
        seen
    }

    /// Whether the body reports its end after `frames` frames, with `left` steps to go.
    pub(crate) fn claims_end_at(&self, frames: usize, left: usize) -> bool {
        match self.hint {
            Hint::Never => false,
            Hint::AtEnd => left == 0,
            Hint::After(claimed) => frames >= claimed,
        }
    }
}
