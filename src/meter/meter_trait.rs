//! What a meter does.

use super::report_builder::ReportBuilder;

/// Reads one stream and reports what it finds.
///
/// The built-in meters come from [`MeterSet::detect`](crate::meter::MeterSet::detect). A meter of your own plugs in
/// beside them with [`MeterSet::with`](crate::meter::MeterSet::with).
///
/// Meters run inside the body's poll and its drop: they must be quick, must not block, and must bound what they
/// buffer. A meter that panics is not called again, and the stream goes on without it.
///
/// ```
/// use streaming_accumulator::meter::{Meter, MeterSet, ReportBuilder, Usage};
///
/// /// One token a line; the line `end` is the protocol's end.
/// #[derive(Default)]
/// struct TokenLines {
///     line: Vec<u8>,
///     tokens: u64,
///     ended: bool,
/// }
///
/// impl Meter for TokenLines {
///     fn feed(&mut self, bytes: &[u8], report: &mut ReportBuilder) {
///         for byte in bytes {
///             match byte {
///                 b'\n' => self.finish(report),
///                 byte if self.line.len() < 100 => self.line.push(*byte),
///                 _ => {} // Longer lines are cut: nothing here grows without bound.
///             }
///         }
///     }
///
///     fn finish(&mut self, report: &mut ReportBuilder) {
///         let line = std::mem::take(&mut self.line);
///         if line.is_empty() {
///             return;
///         }
///         report.event(line.len());
///         self.ended = line == b"end";
///         if self.ended {
///             let mut usage = Usage::default();
///             usage.output_tokens = Some(self.tokens);
///             report.usage(usage, "");
///             report.usage_is_final();
///         } else {
///             self.tokens += 1;
///             report.text(0, &String::from_utf8_lossy(&line));
///         }
///     }
///
///     fn is_terminated(&self) -> Option<bool> {
///         Some(self.ended)
///     }
/// }
///
/// let meters = MeterSet::detect().with(|response| {
///     let is_ours = response.headers.get("content-type")? == "text/x-tokens";
///     is_ours.then(|| Box::new(TokenLines::default()) as Box<dyn Meter>)
/// });
/// # let _ = meters;
/// ```
pub trait Meter: Send + 'static {
    /// Reads the next bytes. They may be cut anywhere; what the meter reports must not depend on where.
    fn feed(&mut self, bytes: &[u8], report: &mut ReportBuilder);

    /// Reads what waited for more bytes: the body is over, at its end or cut off.
    fn finish(&mut self, report: &mut ReportBuilder);

    /// Whether the protocol's own end was seen; `None` if the protocol has none.
    ///
    /// A stream that is dropped after that end is completed (`Evidence::LogicalEnd`): clients close on the last
    /// event, and do not wait for the end of the body.
    fn is_terminated(&self) -> Option<bool>;

    /// The bytes that the meter buffers, for the memory budget. Default 0.
    fn buffered(&self) -> usize {
        0
    }
}
