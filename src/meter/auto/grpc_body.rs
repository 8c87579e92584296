//! The body of a gRPC response: counts messages, and reads the trailers that gRPC-Web puts into the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::meter::framing::GrpcDecoder;
use crate::meter::protocol::Protocol;
use crate::meter::report::{InBandError, Incomplete};
use crate::meter::report_builder::ReportBuilder;

pub(super) struct GrpcBody {
    decoder: GrpcDecoder,
    is_web: bool,
    /// In `grpc-web-text`: the characters of an incomplete group of four.
    text: Option<Vec<u8>>,
}

// === impl GrpcBody ===

impl GrpcBody {
    pub(super) fn new(is_web: bool, is_text: bool) -> Self {
        Self { decoder: GrpcDecoder::new(), is_web, text: is_text.then(Vec::new) }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], report: &mut ReportBuilder) {
        report.protocol(Protocol::Grpc);
        match &mut self.text {
            None => self.decoder.feed(bytes),
            Some(group) => {
                if !decode(group, bytes, &mut self.decoder) {
                    report.incomplete(Incomplete::Corrupt("grpc-web-text is no base64".into()));
                }
            }
        }
        report.messages(self.decoder.messages(), self.decoder.bytes(), self.decoder.longest());
    }

    /// Reads the status of gRPC-Web. Plain gRPC has it in HTTP's trailers.
    pub(super) fn finish(&mut self, report: &mut ReportBuilder) {
        // Also for an empty body.
        report.protocol(Protocol::Grpc);
        let trailers = String::from_utf8_lossy(self.decoder.trailers().unwrap_or_default());
        let fields = trailers.lines().filter_map(|line| line.split_once(':'));
        let find = |wanted: &str| {
            let mut fields = fields.clone();
            fields.find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then(|| value.trim()))
        };
        if let Some(status) = find("grpc-status").filter(|status| *status != "0") {
            let message = percent_decode_str(find("grpc-message").unwrap_or_default());
            report.error(InBandError {
                code: Some(status.into()),
                message: message.decode_utf8_lossy().into(),
                raw: None,
            });
        }
    }

    pub(super) fn is_terminated(&self) -> Option<bool> {
        self.is_web.then(|| self.decoder.trailers().is_some() && !self.decoder.is_cut())
    }
}

/// Decodes base64 group by group, because each message may end with its own padding. False if the bytes are not
/// base64.
fn decode(group: &mut Vec<u8>, bytes: &[u8], decoder: &mut GrpcDecoder) -> bool {
    for byte in bytes.iter().filter(|byte| !byte.is_ascii_whitespace()) {
        group.push(*byte);
        if group.len() == 4 {
            let mut three = [0; 3];
            let Ok(length) = STANDARD.decode_slice(&*group, &mut three) else {
                return false;
            };
            decoder.feed(&three[..length]);
            group.clear();
        }
    }
    true
}
