//! What every provider does.

use crate::meter::report_builder::ReportBuilder;

/// Reads the events of one protocol, without their framing.
pub(crate) trait Provider: Send {
    /// Reads an event. `name` is its name in the framing, if it has one: the type of a server-sent event, or of a
    /// message in an event stream.
    fn event(&mut self, name: &[u8], data: &[u8], report: &mut ReportBuilder);

    /// Reads a value that did not come as an event: a whole response, an element of an array, or a line.
    fn value(&mut self, data: &[u8], report: &mut ReportBuilder) {
        self.event(b"", data, report);
    }

    /// Ends the stream: reads what was postponed.
    fn finish(&mut self, _reading: &mut ReportBuilder) {}

    /// Whether the protocol's own end was seen; `None` if the protocol has none.
    fn is_terminated(&self) -> Option<bool>;

    /// The bytes that it buffers.
    fn buffered(&self) -> usize {
        0
    }
}
