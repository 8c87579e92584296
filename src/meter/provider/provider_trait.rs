//! What every provider does.

use crate::meter::report_builder::ReportBuilder;

/// Reads the events of one protocol. It is given whole events: the framing has been undone.
pub(crate) trait Provider: Send {
    /// Reads an event. `name` is what the framing says of it, if anything: the type of a server-sent event or of
    /// a message in an event stream.
    fn event(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder);

    /// Reads a value that did not come as an event: a whole answer, an element of an array, or a line.
    fn value(&mut self, data: &[u8], report: &mut ReportBuilder) {
        self.event(b"", data, report);
    }

    /// The stream is over: reads what was put off.
    fn finish(&mut self, _reading: &mut ReportBuilder) {}

    /// Whether the protocol's own end was seen; `None` where it has none.
    fn is_terminated(&self) -> Option<bool>;

    /// Bytes that it buffers.
    fn buffered(&self) -> usize {
        0
    }
}
