//! Records as data: what they serialise to, and how they are read back.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::head::{RequestHead, ResponseFacts};
use super::metrics::StreamMetrics;
use super::outcome::{EndedBy, Evidence, Outcome, Phase};
use super::record::{EndedStream, StreamRecord};
#[cfg(feature = "llm")]
use super::report::LazyReport;
use super::stop_reason::StopReason;
use super::termination::Decision;
use crate::accumulator::Content;
use crate::id::StreamId;
#[cfg(feature = "llm")]
use crate::meter::{LlmReport, Usage};

/// A record that serialises together with its content: see [`StreamRecord::with_content`].
#[derive(Debug)]
pub struct RecordWithContent<'a, C>(&'a StreamRecord<C>);

/// The form that is written, with borrowed parts, and read, with owned ones.
#[derive(Serialize, Deserialize)]
struct Form<C, M, L, U> {
    id: StreamId,
    context: Option<C>,
    #[serde(flatten)]
    outcome: Outcome,
    phase: Phase,
    evidence: Evidence,
    ended_by: EndedBy,
    stop_reason: Option<StopReason>,
    method: String,
    uri: String,
    version: String,
    status: Option<u16>,
    headers: Option<Headers>,
    trailers: Option<Headers>,
    grpc_status: Option<i32>,
    declared_length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    metrics: M,
    #[serde(default)]
    usage: Option<U>,
    #[serde(default)]
    llm: Option<L>,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Headers(Vec<(String, HeaderText)>);

/// A header's value: text, or bytes where it is not one.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderText {
    Text(String),
    Bytes(Vec<u8>),
}

// === impl StreamRecord ===

impl<C> StreamRecord<C> {
    /// The record, to be serialised with its content. Without it, a record serialises to what is known of the stream and
    /// leaves the content out.
    ///
    /// Spilled content is read back for that, which blocks, and may fail: then serialising fails.
    pub fn with_content(&self) -> RecordWithContent<'_, C> {
        RecordWithContent(self)
    }

    fn serialize_as<S: Serializer>(&self, serializer: S, content: Option<Content>) -> Result<S::Ok, S::Error>
    where
        C: Serialize,
    {
        let ended = self.ended();
        let response = ended.response.as_ref();
        #[cfg(feature = "llm")]
        let (llm, usage) = (self.llm(), Some(self.usage()));
        #[cfg(not(feature = "llm"))]
        let (llm, usage) = (None::<()>, None::<()>);
        Form {
            id: ended.id,
            context: self.context(),
            outcome: ended.decision.outcome.clone(),
            phase: ended.decision.phase,
            evidence: ended.decision.evidence,
            ended_by: ended.decision.ended_by,
            stop_reason: ended.decision.stop_reason.clone(),
            method: ended.request.method.to_string(),
            uri: ended.request.uri.to_string(),
            version: format!("{:?}", ended.request.version),
            status: response.map(|response| response.status.as_u16()),
            headers: response.map(|response| Headers::of(&response.headers)),
            trailers: ended.trailers.as_ref().map(Headers::of),
            grpc_status: ended.grpc_status,
            declared_length: self.declared_length(),
            content,
            metrics: &ended.metrics,
            usage,
            llm,
            attempt: self.attempt(),
        }
        .serialize(serializer)
    }
}

impl<C: Serialize> Serialize for StreamRecord<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize_as(serializer, None)
    }
}

impl<C: Serialize> Serialize for RecordWithContent<'_, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_as(serializer, Some(self.0.content().clone()))
    }
}

impl<'de, C: Deserialize<'de>> Deserialize<'de> for StreamRecord<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::<C, StreamMetrics, LlmPart, UsagePart>::deserialize(deserializer)?;
        let attempt = form.attempt;
        let (ended, context) = form.into_ended().map_err(D::Error::custom)?;
        Ok(Self::read_back(ended, context, attempt))
    }
}

#[cfg(feature = "llm")]
type LlmPart = LlmReport;
#[cfg(feature = "llm")]
type UsagePart = Usage;
#[cfg(not(feature = "llm"))]
type LlmPart = serde::de::IgnoredAny;
#[cfg(not(feature = "llm"))]
type UsagePart = serde::de::IgnoredAny;

// === impl Form ===

impl<C> Form<C, StreamMetrics, LlmPart, UsagePart> {
    fn into_ended(self) -> Result<(EndedStream, Option<C>), String> {
        let response = match (self.status, self.headers) {
            (Some(status), headers) => Some(ResponseFacts {
                status: StatusCode::from_u16(status).map_err(|_| format!("{status} is not a status"))?,
                headers: headers.map_or_else(|| Ok(HeaderMap::new()), Headers::into_map)?,
                bodiless: self.evidence == Evidence::NoBody,
                empty: self.evidence == Evidence::Empty,
                declared: self.declared_length,
                bad_length: None,
            }),
            (None, _) => None,
        };
        let request = RequestHead {
            method: self
                .method
                .parse::<Method>()
                .map_err(|_| format!("{:?} is not a method", self.method))?,
            uri: self.uri.parse::<Uri>().map_err(|_| "not a URI".to_owned())?,
            version: version(&self.version).ok_or_else(|| format!("{:?} is not a version", self.version))?,
        };
        let decision = Decision {
            outcome: self.outcome,
            phase: self.phase,
            evidence: self.evidence,
            ended_by: self.ended_by,
            stop_reason: self.stop_reason,
        };
        #[cfg(feature = "llm")]
        let report = self.usage.map(|usage| Box::new(LazyReport::known(usage, self.llm)));
        let bytes = self.metrics.bytes();
        let ended = EndedStream {
            id: self.id,
            request,
            response,
            decision,
            trailers: self.trailers.map(Headers::into_map).transpose()?,
            grpc_status: self.grpc_status,
            content: self.content.unwrap_or_else(|| Content::left_out(bytes > 0)),
            metrics: self.metrics,
            #[cfg(feature = "llm")]
            report,
        };
        Ok((ended, self.context))
    }
}

fn version(text: &str) -> Option<Version> {
    let versions = [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];
    versions.into_iter().find(|version| format!("{version:?}") == text)
}

// === impl Headers ===

impl Headers {
    fn of(map: &HeaderMap) -> Self {
        let value = |value: &HeaderValue| match value.to_str() {
            Ok(text) => HeaderText::Text(text.to_owned()),
            Err(_) => HeaderText::Bytes(value.as_bytes().to_owned()),
        };
        Self(map.iter().map(|(name, header)| (name.to_string(), value(header))).collect())
    }

    fn into_map(self) -> Result<HeaderMap, String> {
        let mut map = HeaderMap::new();
        for (name, value) in self.0 {
            let bytes = match value {
                HeaderText::Text(text) => text.into_bytes(),
                HeaderText::Bytes(bytes) => bytes,
            };
            let header =
                HeaderName::try_from(&name).map_err(|_| format!("{name:?} is not a header's name"))?;
            let value =
                HeaderValue::from_bytes(&bytes).map_err(|_| format!("the value of {name:?} is not one"))?;
            map.append(header, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::stream::error::StreamError;

    fn text() -> impl Strategy<Value = Box<str>> {
        ".{0,20}".prop_map(String::into_boxed_str)
    }

    fn error() -> impl Strategy<Value = StreamError> {
        let limit = (any::<u32>(), 0..1_000_000_000_u32).prop_map(|(s, n)| Duration::new(s.into(), n));
        prop_oneof![
            any::<u64>().prop_map(|limit| StreamError::ContentTooLarge { limit }),
            any::<(u64, u64)>().prop_map(|(lag, limit)| StreamError::Backpressure { lag, limit }),
            limit.clone().prop_map(|limit| StreamError::FirstChunkTimeout { limit }),
            limit.clone().prop_map(|limit| StreamError::IdleTimeout { limit }),
            limit.clone().prop_map(|limit| StreamError::Timeout { limit }),
            limit.prop_map(|limit| StreamError::StalledReader { limit }),
            text().prop_map(|text| StreamError::Stopped { reason: String::from(text).into() }),
            text().prop_map(StreamError::Service),
            text().prop_map(StreamError::Body),
            text().prop_map(StreamError::Panicked),
            any::<(u64, u64)>()
                .prop_map(|(declared, produced)| StreamError::ShortBody { declared, produced }),
            text().prop_map(StreamError::BadLength),
            (any::<i32>(), proptest::option::of(text()))
                .prop_map(|(status, message)| StreamError::Grpc { status, message }),
            (proptest::option::of(text()), text())
                .prop_map(|(code, message)| StreamError::InBand { code, message }),
        ]
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Completed),
            Just(Outcome::Cancelled),
            Just(Outcome::Interrupted),
            error().prop_map(Outcome::Failed),
        ]
    }

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let value = proptest::collection::vec(prop_oneof![32..=126_u8, 128..=255_u8], 0..12);
        proptest::collection::vec(("[a-z]{1,8}", value), 0..4).prop_map(|headers| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name = HeaderName::try_from(name).unwrap();
                map.append(name, HeaderValue::from_bytes(&value).unwrap());
            }
            map
        })
    }

    fn metrics() -> impl Strategy<Value = StreamMetrics> {
        any::<[u32; 8]>().prop_map(|numbers| {
            let [bytes, withheld, chunks, others, elapsed, first, last, gap] = numbers.map(u64::from);
            let time = Duration::from_nanos;
            let metrics = json!({
                "started_at": UNIX_EPOCH + Duration::new(bytes, 5),
                "bytes": bytes, "bytes_produced": bytes + withheld,
                "chunks": chunks + 2, "frames": chunks + 2 + others,
                "elapsed": time(elapsed + 1), "time_to_first_chunk": time(first + 1),
                "time_to_last_chunk": time(last + 1), "longest_gap": time(gap),
            });
            serde_json::from_value(metrics).unwrap()
        })
    }

    fn record() -> impl Strategy<Value = StreamRecord<String>> {
        let response = (100..=599_u16, headers(), proptest::option::of(any::<u64>()));
        let heads = (
            proptest::option::of(response),
            proptest::option::of(headers()),
            "/[a-z]{0,5}(\\?key=[a-z]{1,5})?",
        );
        (heads, outcome(), metrics(), proptest::option::of(any::<i32>()), 1..9_u32, ".{0,8}").prop_map(
            |((response, trailers, uri), outcome, metrics, grpc_status, attempt, context)| {
                let response = response.map(|(status, headers, declared)| ResponseFacts {
                    status: StatusCode::from_u16(status).unwrap(),
                    headers,
                    bodiless: false,
                    empty: false,
                    declared,
                    bad_length: None,
                });
                let request =
                    RequestHead { method: Method::POST, uri: uri.parse().unwrap(), version: Version::HTTP_2 };
                let decision = Decision {
                    outcome,
                    phase: Phase::Body,
                    evidence: Evidence::EndOfBody,
                    ended_by: EndedBy::Upstream,
                    stop_reason: Some(StopReason::Shutdown),
                };
                let ended = EndedStream {
                    id: StreamId::at(SystemTime::now()),
                    request,
                    response,
                    decision,
                    trailers,
                    grpc_status,
                    content: Content::left_out(true),
                    metrics,
                    #[cfg(feature = "llm")]
                    report: None,
                };
                StreamRecord::read_back(ended, Some(context), attempt)
            },
        )
    }

    proptest! {
        #[test]
        fn records_read_back_as_they_were(record in record()) {
            let written = serde_json::to_value(&record).unwrap();
            let read: StreamRecord<String> = serde_json::from_str(&written.to_string()).unwrap();
            prop_assert_eq!(&serde_json::to_value(&read).unwrap(), &written);
            let (before, after) = (record.ended(), read.ended());
            prop_assert_eq!((before.id, &before.decision), (after.id, &after.decision));
            prop_assert_eq!(&before.request, &after.request);
            prop_assert_eq!(record.headers(), read.headers());
            prop_assert_eq!(record.trailers(), read.trailers());
            prop_assert_eq!((record.status(), record.declared_length()), (read.status(), read.declared_length()));
            prop_assert_eq!((record.context(), record.attempt()), (read.context(), read.attempt()));
            prop_assert_eq!(record.metrics().elapsed(), read.metrics().elapsed());
        }
    }

    #[test]
    fn what_is_not_a_record_is_refused_by_name() {
        let refused = |change: fn(&mut serde_json::Value)| {
            let metrics = json!({
                "started_at": UNIX_EPOCH, "bytes": 0, "bytes_produced": 0, "chunks": 0, "frames": 0,
                "elapsed": Duration::ZERO, "time_to_first_chunk": null, "time_to_last_chunk": null,
                "longest_gap": null,
            });
            let mut record = json!({
                "id": "01890a5d-ac96-774b-bcce-b302099a8057", "context": null, "outcome": "completed",
                "phase": "body", "evidence": "end_of_body", "ended_by": "upstream", "stop_reason": null,
                "method": "GET", "uri": "/", "version": "HTTP/1.1", "status": 200, "headers": [],
                "trailers": null, "grpc_status": null, "declared_length": null, "metrics": metrics,
                "usage": null, "llm": null, "attempt": 1,
            });
            change(&mut record);
            serde_json::from_value::<StreamRecord<()>>(record).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(refused(|_| ()), Ok(()));
        let word = |record: &mut serde_json::Value| record["phase"] = "late".into();
        assert!(refused(word).unwrap_err().contains("\"late\" is not a word for a phase"));
        let status = |record: &mut serde_json::Value| record["status"] = 7.into();
        assert!(refused(status).unwrap_err().contains("7 is not a status"));
        let version = |record: &mut serde_json::Value| record["version"] = "HTTP/9".into();
        assert!(refused(version).unwrap_err().contains("HTTP/9"));
    }
}
